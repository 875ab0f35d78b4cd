//! What a client left out of a pod's spec and that depends on what it wrote (upstream's `SetDefaults_*` of core/v1).
//! Everything unconditional is in `data/overlay/workloads.toml`.

use serde_json::{Value, json};

use super::super::read::{flag, is_set, items_mut, number, optional_number, set, text};
use super::image::pull_policy;
use super::volumes::source_fields;
use super::{resources, visit_containers_mut};
use crate::object;
use crate::quantity::Quantity;

/// Init containers as annotations, before they had a field; upstream drops them.
const INIT_CONTAINER_ANNOTATIONS: [&str; 4] = [
    "pod.beta.kubernetes.io/init-containers",
    "pod.alpha.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-container-statuses",
    "pod.alpha.kubernetes.io/init-container-statuses",
];

/// A template's defaults.
pub(in super::super) fn of_template(template: &mut Value) {
    old_annotations(template);
    if let Some(spec) = template.get_mut("spec").filter(|spec| spec.is_object()) {
        of_spec(spec);
    }
}

/// A pod's defaults: those of its spec, and those that only pods have.
pub(in super::super) fn of_pod(pod: &mut Value) {
    old_annotations(pod);
    let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    of_spec(spec);
    for field in ["containers", "initContainers"] {
        for container in items_mut(spec, field) {
            requests_from_limits(container);
        }
    }
    pod_resources(spec);
    if !is_set(spec, "enableServiceLinks") {
        set(spec, "enableServiceLinks", true);
    }
    if flag(spec, "hostNetwork") {
        for field in ["containers", "initContainers"] {
            for container in items_mut(spec, field) {
                for port in items_mut(container, "ports") {
                    if number(port, "hostPort") == 0 && number(port, "containerPort") != 0 {
                        set(port, "hostPort", port["containerPort"].clone());
                    }
                }
            }
        }
    }
    if optional_number(spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        set(spec, "terminationGracePeriodSeconds", 1);
    }
    if let Some(status) = pod.get_mut("status") {
        addresses(status);
    }
}

/// `podIP` and `podIPs` say the same.
pub(in super::super) fn addresses(status: &mut Value) {
    let (single, first) = (text(status, "podIP").to_owned(), text(&status["podIPs"][0], "ip").to_owned());
    if !single.is_empty() && single != first {
        set(status, "podIPs", json!([{"ip": single}]));
    } else if single.is_empty() && !first.is_empty() {
        set(status, "podIP", first);
    }
}

fn old_annotations(object: &mut Value) {
    let annotations = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    let Some(annotations) = annotations else { return };
    for annotation in INIT_CONTAINER_ANNOTATIONS {
        annotations.remove(annotation);
    }
}

fn of_spec(spec: &mut Value) {
    for volume in items_mut(spec, "volumes") {
        if volume.is_object() && source_fields().all(|field| !is_set(volume, field)) {
            set(volume, "emptyDir", json!({}));
        }
        if volume["image"].is_object() && text(&volume["image"], "pullPolicy").is_empty() {
            let policy = pull_policy(&volume["image"], "reference");
            set(&mut volume["image"], "pullPolicy", policy);
        }
    }
    visit_containers_mut(spec, &mut |container| {
        if !container.is_object() {
            return;
        }
        if text(container, "imagePullPolicy").is_empty() {
            let policy = pull_policy(container, "image");
            set(container, "imagePullPolicy", policy);
        }
        if let Some(resources) = container.get_mut("resources") {
            round(resources, "limits");
            round(resources, "requests");
        }
    });
    if let Some(resources) = spec.get_mut("resources") {
        round(resources, "limits");
        round(resources, "requests");
    }
    round(spec, "overhead");
    let name = match text(spec, "serviceAccountName") {
        "" => text(spec, "serviceAccount"),
        name => name,
    };
    if !name.is_empty() {
        let name = name.to_owned();
        set(spec, "serviceAccount", name.clone());
        set(spec, "serviceAccountName", name);
    }
}

/// Amounts finer than a thousandth are rounded up.
fn round(value: &mut Value, list: &str) {
    for amount in value.get_mut(list).and_then(Value::as_object_mut).into_iter().flatten().map(|(_, amount)| amount) {
        let Some(quantity) = amount.as_str().and_then(|text| text.parse::<Quantity>().ok()) else { continue };
        let rounded = Quantity::from_millis(quantity.milli_value());
        if rounded > quantity {
            *amount = rounded.to_string().into();
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(resources) = container.get_mut("resources") else { return };
    let Some(limits) = resources["limits"].as_object().filter(|limits| !limits.is_empty()).cloned() else { return };
    let requests = object::map_mut(resources, "requests");
    for (name, amount) in limits {
        requests.entry(name).or_insert(amount);
    }
}

/// The pod's own resources (KEP-2837): requests it didn't name are those of its containers, or its limits.
fn pod_resources(spec: &mut Value) {
    if !spec["resources"].is_object() {
        return;
    }
    let limits = resources::aggregate(spec, "limits");
    let requests = resources::aggregate(spec, "requests");
    let own = &mut spec["resources"];
    let named = |own: &Value, list: &str| own[list].as_object().is_some_and(|list| !list.is_empty());
    let huge = |name: &str| resources::is_huge_pages(name);
    let missing: Vec<_> = limits
        .iter()
        .filter(|(name, amount)| huge(name) && amount.sign() > 0 && own["limits"].get(name.as_str()).is_none())
        .collect();
    if !missing.is_empty() {
        let list = object::map_mut(own, "limits");
        for (name, amount) in missing {
            list.insert(name.clone(), amount.to_string().into());
        }
    }
    if !named(own, "limits") {
        return;
    }
    let own_limits = own["limits"].as_object().cloned().unwrap_or_default();
    let list = object::map_mut(own, "requests");
    for (name, amount) in &requests {
        if resources::is_pod_level(name) && !huge(name) && !list.contains_key(name) {
            list.insert(name.clone(), amount.to_string().into());
        }
    }
    for (name, amount) in own_limits {
        if resources::is_pod_level(&name) {
            list.entry(name).or_insert(amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_rounded_up_to_a_thousandth() {
        let mut resources = json!({"limits": {"cpu": "100u", "memory": "1Gi"}});
        round(&mut resources, "limits");
        assert_eq!(resources, json!({"limits": {"cpu": "1m", "memory": "1Gi"}}));
    }
}
