//! Emptying namespaces that are being deleted (upstream's `namespaced_resources_deleter.go`, with KEP-5080's order: pods
//! first).

use std::collections::BTreeMap;
use std::time::Duration;

use gantry_client::{Client, Informers, ObjectKey, WorkQueue};
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::error::{ControllerError, found, status};
use crate::runner::{self, Reconciled};

/// The first and the longest wait before what is left is counted again.
const RECHECK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How many namespaces are emptied at once.
const WORKERS: usize = 10;
/// How many objects are counted at most, to tell of them.
const COUNT_MAX: usize = 500;

/// Whether things can be made in it.
pub fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
}

/// A resource with objects in namespaces that can be listed and deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamespacedResource {
    /// `/api/v1` or `/apis/GROUP/VERSION`.
    pub prefix: String,
    pub group: String,
    pub plural: String,
    pub verbs: Vec<String>,
}

/// What is left of one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Remaining {
    /// `configmaps.`, `deployments.apps`
    by_resource: BTreeMap<String, usize>,
    by_finalizer: BTreeMap<String, usize>,
    failures: Vec<String>,
    discovery_failures: Vec<String>,
}

/// Runs the controller until `stop`.
pub async fn run(client: Client, informers: Informers, stop: CancellationToken) {
    let namespaces = informers.get::<Namespace>();
    if !runner::synced(&[&namespaces], &stop).await {
        return;
    }
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    let keys = queue.clone();
    namespaces.on_change(move |change| {
        if let gantry_client::Change::Applied { new, .. } = change
            && !is_active(new)
        {
            keys.add(ObjectKey::of(&**new));
        }
    });
    runner::run("namespace", queue, WORKERS, stop, move |key| {
        let (client, namespaces) = (client.clone(), namespaces.clone());
        async move {
            match namespaces.get_key(&key).filter(|namespace| !is_active(namespace)) {
                Some(namespace) => empty(&client, &namespace).await,
                None => Ok(None),
            }
        }
    })
    .await;
}

async fn empty(client: &Client, namespace: &Namespace) -> Reconciled {
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == "kubernetes") {
        return Ok(None);
    }
    let mut remaining = Remaining::default();
    let resources = discover(client, &mut remaining.discovery_failures).await;
    let (pods, others): (Vec<_>, Vec<_>) =
        resources.into_iter().partition(|resource| resource.group.is_empty() && resource.plural == "pods");
    delete_all(client, name, &pods, &mut remaining).await;
    // Pods may need their secrets, config maps and accounts until they have ended.
    let pods_left = !remaining.by_resource.is_empty();
    if !pods_left {
        delete_all(client, name, &others, &mut remaining).await;
    }
    let now = Timestamp::now();
    let old = namespace.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let wanted = conditions(&old, &remaining, now);
    let api: Api<Namespace> = Api::all(client.clone());
    if wanted != old {
        let mut changed = namespace.clone();
        changed.status.get_or_insert_default().conditions = Some(wanted);
        let patched = api.replace_status(name, &PostParams::default(), &changed).await;
        if found(patched).map_err(ControllerError::api("update the status of namespace", name))?.is_none() {
            return Ok(None);
        }
    }
    let done = remaining == Remaining::default();
    if !done {
        let since = namespace.metadata.deletion_timestamp.as_ref().map(|time| crate::pods::elapsed(time.0, now));
        // As patient as it has been waiting already.
        return Ok(Some((since.unwrap_or_default() / 4).clamp(RECHECK.0, RECHECK.1)));
    }
    let left: Vec<&String> = finalizers.iter().filter(|finalizer| *finalizer != "kubernetes").collect();
    let body = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "uid": namespace.metadata.uid}, "spec": {"finalizers": left}});
    match request(client, "PUT", &format!("/api/v1/namespaces/{name}/finalize"), Some(&body)).await {
        Ok(_) => Ok(None),
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) => Err(ControllerError::api("finalize namespace", name)(error)),
    }
}

/// All namespaced resources with the verbs list and delete, in the preferred version of each group.
async fn discover(client: &Client, failures: &mut Vec<String>) -> Vec<NamespacedResource> {
    let mut versions = vec![("/api/v1".to_owned(), String::new())];
    match request(client, "GET", "/apis", None).await {
        Ok(groups) => {
            for group in groups["groups"].as_array().into_iter().flatten() {
                let version = group["preferredVersion"]["groupVersion"].as_str().unwrap_or_default();
                versions.push((format!("/apis/{version}"), group["name"].as_str().unwrap_or_default().to_owned()));
            }
        }
        Err(error) => failures.push(format!("/apis: {error}")),
    }
    let mut resources = Vec::new();
    for (prefix, group) in versions {
        match request(client, "GET", &prefix, None).await {
            Ok(list) => resources.extend(namespaced(&prefix, &group, &list)),
            Err(error) => failures.push(format!("{prefix}: {error}")),
        }
    }
    resources
}

/// The resources of an `APIResourceList` that hold objects in namespaces.
pub(crate) fn namespaced(prefix: &str, group: &str, list: &Value) -> Vec<NamespacedResource> {
    let resources = list["resources"].as_array().into_iter().flatten();
    resources
        .filter(|resource| resource["namespaced"] == true)
        .filter_map(|resource| {
            let plural = resource["name"].as_str().filter(|name| !name.contains('/'))?;
            let verbs: Vec<String> =
                resource["verbs"].as_array()?.iter().filter_map(|verb| verb.as_str().map(str::to_owned)).collect();
            let has = |wanted: &str| verbs.iter().any(|verb| verb == wanted);
            (has("list") && has("delete")).then(|| NamespacedResource {
                prefix: prefix.to_owned(),
                group: group.to_owned(),
                plural: plural.to_owned(),
                verbs,
            })
        })
        .collect()
}

async fn delete_all(client: &Client, namespace: &str, resources: &[NamespacedResource], remaining: &mut Remaining) {
    for resource in resources {
        let path = format!("{}/namespaces/{namespace}/{}", resource.prefix, resource.plural);
        if let Err(error) = delete_resource(client, &path, resource, remaining).await
            && !matches!(status(&error), Some(404 | 405))
        {
            remaining.failures.push(format!("{}.{}: {error}", resource.plural, resource.group));
        }
    }
}

async fn delete_resource(
    client: &Client,
    path: &str,
    resource: &NamespacedResource,
    remaining: &mut Remaining,
) -> Result<(), kube::Error> {
    if count(client, path).await?.is_empty() {
        return Ok(());
    }
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    if resource.verbs.iter().any(|verb| verb == "deletecollection") {
        request(client, "DELETE", path, Some(&options)).await?;
    } else {
        for item in count(client, path).await? {
            let name = item["metadata"]["name"].as_str().unwrap_or_default();
            if let Err(error) = request(client, "DELETE", &format!("{path}/{name}"), Some(&options)).await
                && status(&error) != Some(404)
            {
                return Err(error);
            }
        }
    }
    let left = count(client, path).await?;
    if left.is_empty() {
        return Ok(());
    }
    remaining.by_resource.insert(format!("{}.{}", resource.plural, resource.group), left.len());
    for finalizer in left.iter().flat_map(|item| item["metadata"]["finalizers"].as_array().into_iter().flatten()) {
        *remaining.by_finalizer.entry(finalizer.as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    Ok(())
}

/// What there is of a resource: metadata only, and no more than is worth counting.
async fn count(client: &Client, path: &str) -> Result<Vec<Value>, kube::Error> {
    let request = Request::get(format!("{path}?limit={COUNT_MAX}"))
        .header("accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json")
        .body(Vec::new())
        .map_err(kube::Error::HttpError)?;
    let list: Value = client.request(request).await?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

async fn request(client: &Client, method: &str, path: &str, body: Option<&Value>) -> Result<Value, kube::Error> {
    let bytes = match body {
        Some(body) => serde_json::to_vec(body).map_err(kube::Error::SerdeError)?,
        None => Vec::new(),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("accept", "application/json")
        .header("content-type", "application/json")
        .body(bytes)
        .map_err(kube::Error::HttpError)?;
    client.request(request).await
}

/// The five conditions that tell how far it is. Source: `namespace_conditions.go`.
fn conditions(old: &[NamespaceCondition], remaining: &Remaining, now: Timestamp) -> Vec<NamespaceCondition> {
    let list = |map: &BTreeMap<String, usize>, words: &str| {
        map.iter()
            .map(|(name, count)| format!("{name} {words} {count} resource instances"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let failing = |failures: &[String], reason: &'static str, prefix: &str, fine: (&'static str, &str)| {
        if failures.is_empty() {
            ("False", fine.0, fine.1.to_owned())
        } else {
            ("True", reason, format!("{prefix}{}", failures.join(", ")))
        }
    };
    let discovery = failing(
        &remaining.discovery_failures,
        "DiscoveryFailed",
        "Discovery failed for some groups, ",
        ("ResourcesDiscovered", "All resources successfully discovered"),
    );
    let parsing = ("False", "ParsedGroupVersions", "All legacy kube types successfully parsed".to_owned());
    let content = failing(
        &remaining.failures,
        "ContentDeletionFailed",
        "Failed to delete all resource types, ",
        ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
    );
    let left = if remaining.by_resource.is_empty() {
        ("False", "ContentRemoved", "All content successfully removed".to_owned())
    } else {
        let message = format!("Some resources are remaining: {}", list(&remaining.by_resource, "has"));
        ("True", "SomeResourcesRemain", message)
    };
    let finalizers = if remaining.by_finalizer.is_empty() {
        ("False", "ContentHasNoFinalizers", "All content-preserving finalizers finished".to_owned())
    } else {
        let message =
            format!("Some content in the namespace has finalizers remaining: {}", list(&remaining.by_finalizer, "in"));
        ("True", "SomeFinalizersRemain", message)
    };
    let wanted = [
        ("NamespaceDeletionDiscoveryFailure", discovery),
        ("NamespaceDeletionGroupVersionParsingFailure", parsing),
        ("NamespaceDeletionContentFailure", content),
        ("NamespaceContentRemaining", left),
        ("NamespaceFinalizersRemaining", finalizers),
    ];
    let condition = |(kind, (value, reason, message)): (&str, (&str, &str, String))| {
        let before = old.iter().find(|condition| condition.type_ == kind && condition.status == value);
        NamespaceCondition {
            type_: kind.to_owned(),
            status: value.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: before.map_or(Some(Time(now)), |before| before.last_transition_time.clone()),
        }
    };
    wanted.into_iter().map(condition).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_tell_what_is_left() {
        let remaining = Remaining {
            by_resource: BTreeMap::from([("configmaps.".to_owned(), 1), ("pods.".to_owned(), 2)]),
            by_finalizer: BTreeMap::from([("a.example.org/f".to_owned(), 1)]),
            ..Remaining::default()
        };
        let now = Timestamp::UNIX_EPOCH;
        let told: Vec<String> = conditions(&[], &remaining, now)
            .iter()
            .map(|condition| {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                format!(
                    "{}={} {}: {}",
                    condition.type_,
                    condition.status,
                    text(&condition.reason),
                    text(&condition.message)
                )
            })
            .collect();
        insta::assert_snapshot!(told.join("\n"), @r"
        NamespaceDeletionDiscoveryFailure=False ResourcesDiscovered: All resources successfully discovered
        NamespaceDeletionGroupVersionParsingFailure=False ParsedGroupVersions: All legacy kube types successfully parsed
        NamespaceDeletionContentFailure=False ContentDeleted: All content successfully deleted, may be waiting on finalization
        NamespaceContentRemaining=True SomeResourcesRemain: Some resources are remaining: configmaps. has 1 resource instances, pods. has 2 resource instances
        NamespaceFinalizersRemaining=True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: a.example.org/f in 1 resource instances
        ");
    }

    #[test]
    fn only_namespaced_resources_that_can_go() {
        let list = json!({"resources": [
            {"name": "pods", "namespaced": true, "verbs": ["list", "delete", "deletecollection"]},
            {"name": "pods/status", "namespaced": true, "verbs": ["get"]},
            {"name": "bindings", "namespaced": true, "verbs": ["create"]},
            {"name": "nodes", "namespaced": false, "verbs": ["list", "delete"]},
        ]});
        let found: Vec<String> = namespaced("/api/v1", "", &list).into_iter().map(|resource| resource.plural).collect();
        assert_eq!(found, ["pods"]);
    }
}
