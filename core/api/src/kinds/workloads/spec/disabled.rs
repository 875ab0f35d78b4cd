//! Fields of features that 1.36 leaves off (upstream's `DropDisabledPodFields`): they vanish, unless the object had them
//! before.

use serde_json::Value;

use super::super::read::{is_set, items, items_mut, remove};
use super::{all_containers, visit_containers_mut};

/// Sources of projected volumes that are off.
const SOURCES: [&str; 2] = ["clusterTrustBundle", "podCertificate"];

/// Drops them from a spec.
pub(in super::super) fn drop(spec: &mut Value, old: &Value) {
    if !all_containers(old).any(|(_, container)| is_set(&container["lifecycle"], "stopSignal")) {
        visit_containers_mut(spec, &mut |container| {
            let Some(lifecycle) = container.get_mut("lifecycle").filter(|lifecycle| is_set(lifecycle, "stopSignal"))
            else {
                return;
            };
            remove(lifecycle, "stopSignal");
            if lifecycle.as_object().is_some_and(serde_json::Map::is_empty) {
                remove(container, "lifecycle");
            }
        });
    }
    if !is_set(old, "schedulingGroup") {
        remove(spec, "schedulingGroup");
    }
    for source in SOURCES {
        if !sources(old).any(|projected| is_set(projected, source)) {
            for volume in items_mut(spec, "volumes") {
                let Some(projected) = volume.get_mut("projected") else { continue };
                items_mut(projected, "sources").iter_mut().for_each(|projected| remove(projected, source));
            }
        }
    }
}

fn sources(spec: &Value) -> impl Iterator<Item = &Value> {
    items(spec, "volumes").iter().flat_map(|volume| items(&volume["projected"], "sources"))
}
