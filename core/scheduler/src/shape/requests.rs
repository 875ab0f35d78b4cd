//! What a pod asks for, as the scheduler counts it (KEP-753 for sidecars, KEP-2837 for pod-level resources, KEP-1287
//! for resizes).

use std::collections::BTreeMap;

use gantry_api::quantity::Quantity as Number;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use smallvec::SmallVec;

use crate::resources::{ResourceId, ResourceNames};

/// What a container without a CPU request counts as in scores, in thousandths of a core.
const DEFAULT_MILLI_CPU: i64 = 100;
/// What a container without a memory request counts as in scores, in bytes.
const DEFAULT_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// What a pod asks for of each resource: CPU in thousandths of a core, all else in bytes or pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Requests {
    /// By resource, in order, without zeros and without `pods`.
    pub amounts: SmallVec<[(ResourceId, i64); 3]>,
    /// CPU as scores count it: containers without a request count a little.
    pub scored_milli_cpu: i64,
    /// Memory as scores count it, in bytes.
    pub scored_memory_bytes: i64,
}

impl Requests {
    /// How much of a resource.
    pub fn get(&self, resource: ResourceId) -> i64 {
        self.amounts.iter().find(|(id, _)| *id == resource).map_or(0, |(_, amount)| *amount)
    }

    /// Of a pod. A bound pod that is being resized counts with the larger of what it has and what it wants.
    pub fn of(pod: &Pod, names: &mut ResourceNames) -> Self {
        let Some(spec) = &pod.spec else { return Self::default() };
        let plain = sum(pod, spec, names, false);
        let scored = sum(pod, spec, names, true);
        let scored_of = |resource| scored.get(&resource).copied().unwrap_or(0);
        Self {
            scored_milli_cpu: scored_of(ResourceId::CPU),
            scored_memory_bytes: scored_of(ResourceId::MEMORY),
            amounts: plain.into_iter().filter(|(_, amount)| *amount != 0).collect(),
        }
    }
}

type Amounts = BTreeMap<ResourceId, i64>;

/// A quantity in the unit of its column; a text that is none counts as nothing (the API server admits none).
pub(crate) fn amount(resource: ResourceId, quantity: &Quantity) -> i64 {
    let Ok(number) = quantity.0.parse::<Number>() else { return 0 };
    if resource == ResourceId::CPU { number.milli_value() } else { number.value() }
}

fn read(map: Option<&BTreeMap<String, Quantity>>, names: &mut ResourceNames) -> Amounts {
    map.into_iter()
        .flatten()
        .map(|(name, quantity)| {
            let resource = names.id(name);
            (resource, amount(resource, quantity))
        })
        .collect()
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (resource, amount) in more {
        let slot = sum.entry(*resource).or_default();
        *slot = slot.saturating_add(*amount);
    }
}

fn raise(sum: &mut Amounts, other: &Amounts) {
    for (resource, amount) in other {
        let slot = sum.entry(*resource).or_default();
        *slot = (*slot).max(*amount);
    }
}

fn sum(pod: &Pod, spec: &PodSpec, names: &mut ResourceNames, scored: bool) -> Amounts {
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &of_container(pod, container, false, names, scored));
    }
    let mut sidecars = Amounts::new();
    let mut init_peak = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let mut own = of_container(pod, container, true, names, scored);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            own = sidecars.clone();
        } else {
            add(&mut own, &sidecars);
        }
        raise(&mut init_peak, &own);
    }
    raise(&mut total, &init_peak);
    if let Some(requests) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        for (name, quantity) in requests {
            if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
                let resource = names.id(name);
                total.insert(resource, amount(resource, quantity));
            }
        }
    }
    add(&mut total, &read(spec.overhead.as_ref(), names));
    total
}

fn of_container(pod: &Pod, container: &Container, init: bool, names: &mut ResourceNames, scored: bool) -> Amounts {
    let spec = container.resources.as_ref();
    let mut wanted = read(spec.and_then(|resources| resources.requests.as_ref()), names);
    let statuses = pod.status.as_ref().and_then(|status| {
        if init { status.init_container_statuses.as_ref() } else { status.container_statuses.as_ref() }
    });
    let status = statuses.into_iter().flatten().find(|status| status.name == container.name);
    if let Some(status) = status {
        // Of a resource that isn't requested any more the old amount counts until the node has let it go.
        raise(&mut wanted, &read(status.allocated_resources.as_ref(), names));
        let actual = status.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        raise(&mut wanted, &read(actual, names));
    }
    if scored {
        wanted.entry(ResourceId::CPU).or_insert(DEFAULT_MILLI_CPU);
        wanted.entry(ResourceId::MEMORY).or_insert(DEFAULT_MEMORY_BYTES);
    }
    wanted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: serde_json::Value, status: serde_json::Value, expect: &[(&str, i64)], scored: (i64, i64)) {
        let pod: Pod = serde_json::from_value(json!({"spec": spec, "status": status})).expect("a pod");
        let mut names = ResourceNames::default();
        let requests = Requests::of(&pod, &mut names);
        let seen: Vec<(&str, i64)> = requests.amounts.iter().map(|(id, amount)| (names.name(*id), *amount)).collect();
        assert_eq!(seen, expect, "{spec}");
        let mib = |bytes: i64| bytes / (1024 * 1024);
        assert_eq!((requests.scored_milli_cpu, mib(requests.scored_memory_bytes)), scored, "{spec}");
    }

    fn container(name: &str, cpu: &str) -> serde_json::Value {
        json!({"name": name, "resources": {"requests": {"cpu": cpu}}})
    }

    fn sidecar(name: &str, cpu: &str) -> serde_json::Value {
        json!({"name": name, "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn containers_are_summed_and_init_containers_taken_at_their_peak() {
        let none = || json!({});
        check(json!({"containers": [{"name": "a"}]}), none(), &[], (100, 200));
        check(
            json!({"containers": [container("a", "1"), container("b", "500m")]}),
            none(),
            &[("cpu", 1500)],
            (1500, 400),
        );
        let init = json!({"containers": [container("a", "1")], "initContainers": [container("i", "3")]});
        check(init, none(), &[("cpu", 3000)], (3000, 200));
        // A sidecar runs beside the containers and beside later init containers, not beside earlier ones.
        let later = [sidecar("s", "1"), container("i", "3")];
        check(
            json!({"containers": [container("a", "1")], "initContainers": later}),
            none(),
            &[("cpu", 4000)],
            (4000, 400),
        );
        let earlier = [container("i", "3"), sidecar("s", "1")];
        check(
            json!({"containers": [container("a", "1")], "initContainers": earlier}),
            none(),
            &[("cpu", 3000)],
            (3000, 400),
        );
        let overhead = json!({"containers": [container("a", "1")], "overhead": {"cpu": "250m", "memory": "1Mi"}});
        check(overhead, none(), &[("cpu", 1250), ("memory", 1024 * 1024)], (1250, 201));
    }

    #[test]
    fn pod_level_requests_replace_the_sum() {
        let spec = json!({
            "containers": [container("a", "1")],
            "resources": {"requests": {"cpu": "3", "hugepages-2Mi": "4Mi", "example.com/gpu": "9"}},
        });
        check(spec, json!({}), &[("cpu", 3000), ("hugepages-2Mi", 4 * 1024 * 1024)], (3000, 200));
    }

    #[test]
    fn a_resize_counts_with_the_larger_amount() {
        let status = json!({"containerStatuses": [
            {"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
             "allocatedResources": {"cpu": "2"}, "resources": {"requests": {"cpu": "2"}}},
        ]});
        check(json!({"containers": [container("a", "1")]}), status.clone(), &[("cpu", 2000)], (2000, 200));
        check(json!({"containers": [container("a", "3")]}), status, &[("cpu", 3000)], (3000, 200));
    }
}
