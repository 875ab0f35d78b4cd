//! The pod that `logs`, `exec` and others mean when they are given a workload, and the container when none is named.

use serde_json::Value;

use crate::cluster::mapper::Mapper;
use crate::cluster::{Cluster, with_query};
use crate::error::{CliError, CliResult};

/// Which container is meant when none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The pods of a label selector.
pub async fn of_selector(cluster: &Cluster, selector: &str) -> CliResult<Vec<Value>> {
    let path = format!("/api/v1/namespaces/{}/pods", cluster.namespace);
    let list = cluster.get(&with_query(&path, [("labelSelector", Some(selector.to_owned()))])).await?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// The pod of `POD`, `pod/POD`, or `TYPE/NAME`: one of the workload's, ready ones first.
pub async fn of_target(cluster: &Cluster, target: &str) -> CliResult<Value> {
    let pods = format!("/api/v1/namespaces/{}/pods", cluster.namespace);
    let (kind, name) = match target.split_once('/') {
        None => return cluster.get(&format!("{pods}/{target}")).await,
        Some(("pod" | "pods" | "po", name)) => return cluster.get(&format!("{pods}/{name}")).await,
        Some(typed) => typed,
    };
    let mapper = Mapper::discover(cluster).await?;
    let resource = mapper.resolve(kind)?;
    let object = cluster.get(&resource.path(Some(&cluster.namespace), Some(name))).await?;
    let selector = selector_of(&object).ok_or_else(|| {
        CliError::usage(format!("cannot attach to *{}: selector not found for {kind}/{name}", resource.kind))
    })?;
    let mut found = of_selector(cluster, &selector).await?;
    found.sort_by_key(rank);
    found.into_iter().next().ok_or_else(|| CliError::usage("timed out waiting for the condition"))
}

/// Pods that run and are ready come first.
fn rank(pod: &Value) -> (bool, bool) {
    let ready = pod["status"]["conditions"]
        .as_array()
        .is_some_and(|all| all.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True"));
    (pod["status"]["phase"] != "Running", !ready)
}

/// The label selector of a workload or service, as a query.
pub fn selector_of(object: &Value) -> Option<String> {
    let selector = &object["spec"]["selector"];
    let labels = match selector["matchLabels"].as_object() {
        Some(labels) => Some(labels),
        None if selector["matchExpressions"].is_array() => None,
        None => selector.as_object(),
    };
    let mut terms: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let values: Vec<&str> =
            expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        terms.push(match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("Exists") => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    (!terms.is_empty()).then(|| terms.join(","))
}

/// All containers of a pod: init containers, the usual ones, ephemeral ones.
pub fn containers(pod: &Value) -> Vec<String> {
    ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|list| pod["spec"][list].as_array().into_iter().flatten())
        .filter_map(|container| container["name"].as_str().map(str::to_owned))
        .collect()
}

/// The named container, or the one that the pod's annotation names, or the first; which was taken is said when there
/// are several.
pub fn default_container(pod: &Value, named: Option<&str>) -> CliResult<String> {
    let all = containers(pod);
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if let Some(named) = named {
        if all.iter().any(|name| name == named) {
            return Ok(named.to_owned());
        }
        return Err(CliError::usage(format!("container {named} is not valid for pod {pod_name}")));
    }
    let annotated = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str().unwrap_or_default();
    if all.iter().any(|name| name == annotated) {
        return Ok(annotated.to_owned());
    }
    let first = pod["spec"]["containers"][0]["name"].as_str().unwrap_or_default().to_owned();
    if all.len() > 1 {
        eprintln!("Defaulted container \"{first}\" out of: {}", shown(pod).join(", "));
    }
    Ok(first)
}

/// The containers as that message lists them.
fn shown(pod: &Value) -> Vec<String> {
    let names = |list: &str| -> Vec<String> {
        let items = pod["spec"][list].as_array().into_iter().flatten();
        items.filter_map(|container| container["name"].as_str().map(str::to_owned)).collect()
    };
    let mut all = names("containers");
    all.extend(names("initContainers").into_iter().map(|name| format!("{name} (init)")));
    all.extend(names("ephemeralContainers").into_iter().map(|name| format!("{name} (ephem)")));
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors() {
        let cases = [
            (json!({"app": "web"}), Some("app=web")),
            (json!({"matchLabels": {"a": "1", "b": "2"}}), Some("a=1,b=2")),
            (
                json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["x", "y"]},
                    {"key": "d", "operator": "DoesNotExist"}]}),
                Some("a=1,k in (x,y),!d"),
            ),
            (json!(null), None),
        ];
        for (selector, expected) in cases {
            assert_eq!(selector_of(&json!({"spec": {"selector": selector}})).as_deref(), expected);
        }
    }

    #[test]
    fn containers_by_default() {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(default_container(&pod, None).expect("first"), "a");
        assert_eq!(default_container(&pod, Some("b")).expect("named"), "b");
        let error = default_container(&pod, Some("x")).expect_err("not there");
        assert_eq!(error.to_string(), "error: container x is not valid for pod p");
        pod["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "b"});
        assert_eq!(default_container(&pod, None).expect("annotated"), "b");
    }
}
