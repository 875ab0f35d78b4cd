//! Sums over what pods ask for, quality of service, and the numbers that cgroups take. Pure.

use std::collections::BTreeMap;

use gantry_api::quantity::Quantity as Amount;
use gantry_plugin_host::contract::runtime::Resources;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod;

/// Resource name to quantity.
pub type ResourceList = BTreeMap<String, Quantity>;

/// The kernel's least share of the processor.
const CPU_SHARES_MIN: u64 = 2;
/// The kernel's greatest share.
const CPU_SHARES_MAX: u64 = 262_144;
/// Period of the processor's quota, in microseconds; upstream's default.
const CPU_PERIOD_MICROSECONDS: u64 = 100_000;
/// The least quota the kernel takes, in microseconds.
const CPU_QUOTA_MIN_MICROSECONDS: i64 = 1000;

/// A quantity as a number to calculate with; what can't be read counts as nothing (the API server let none in).
pub fn amount(quantity: &Quantity) -> Amount {
    quantity.0.parse().unwrap_or_else(|_| Amount::from_i64(0))
}

/// An amount of a resource, if it is named.
pub fn amount_of(list: Option<&ResourceList>, resource: &str) -> Option<Amount> {
    list.and_then(|list| list.get(resource)).map(amount)
}

fn requests(resources: Option<&ResourceRequirements>) -> Option<&ResourceList> {
    resources.and_then(|resources| resources.requests.as_ref())
}

fn limits(resources: Option<&ResourceRequirements>) -> Option<&ResourceList> {
    resources.and_then(|resources| resources.limits.as_ref())
}

fn add(sum: &mut BTreeMap<String, Amount>, list: Option<&ResourceList>) {
    for (name, quantity) in list.into_iter().flatten() {
        let value = amount(quantity);
        match sum.get_mut(name) {
            Some(known) => *known = known.plus(&value),
            None => {
                sum.insert(name.clone(), value);
            }
        }
    }
}

fn raise(sum: &mut BTreeMap<String, Amount>, other: &BTreeMap<String, Amount>) {
    for (name, value) in other {
        let known = sum.entry(name.clone()).or_insert_with(|| Amount::from_i64(0));
        if value > known {
            *known = *value;
        }
    }
}

/// What a pod holds at most at one time: its containers and sidecars together, or an init container with the sidecars
/// started before it (KEP-753); pod-level values count where given (KEP-2837); overhead comes on top.
fn pod_total(
    pod: &Pod,
    of: impl Fn(Option<&ResourceRequirements>) -> Option<&ResourceList>,
) -> BTreeMap<String, Amount> {
    let mut total = BTreeMap::new();
    for container in pod::containers(pod) {
        add(&mut total, of(container.resources.as_ref()));
    }
    let mut sidecars = BTreeMap::new();
    let mut init_peak = BTreeMap::new();
    for container in pod::init_containers(pod) {
        if pod::is_sidecar(container) {
            add(&mut total, of(container.resources.as_ref()));
            add(&mut sidecars, of(container.resources.as_ref()));
            raise(&mut init_peak, &sidecars);
        } else {
            let mut now = sidecars.clone();
            add(&mut now, of(container.resources.as_ref()));
            raise(&mut init_peak, &now);
        }
    }
    raise(&mut total, &init_peak);
    let spec = pod::spec(pod);
    for (name, quantity) in of(spec.resources.as_ref()).into_iter().flatten() {
        total.insert(name.clone(), amount(quantity));
    }
    total
}

/// What a pod asks for, overhead included.
pub fn pod_requests(pod: &Pod) -> BTreeMap<String, Amount> {
    let mut total = pod_total(pod, requests);
    add(&mut total, pod::spec(pod).overhead.as_ref());
    total
}

/// A pod's limit of a resource; none when a container has no limit and the pod has none itself.
pub fn pod_limit(pod: &Pod, resource: &str) -> Option<Amount> {
    let spec = pod::spec(pod);
    let own = amount_of(limits(spec.resources.as_ref()), resource);
    let all_limited = pod::containers(pod)
        .iter()
        .chain(pod::init_containers(pod))
        .all(|container| amount_of(limits(container.resources.as_ref()), resource).is_some_and(|a| !a.is_zero()));
    if own.is_none() && !all_limited {
        return None;
    }
    let total = pod_total(pod, limits).remove(resource)?;
    Some(match amount_of(spec.overhead.as_ref(), resource) {
        Some(overhead) => total.plus(&overhead),
        None => total,
    })
}

/// `status.qosClass`, as upstream computes it.
pub fn qos_class(pod: &Pod) -> &'static str {
    let spec = pod::spec(pod);
    let pod_level = spec.resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some());
    let all: Vec<Option<&ResourceRequirements>> = match pod_level {
        Some(resources) => vec![Some(resources)],
        None => {
            let init = pod::init_containers(pod).iter();
            init.chain(pod::containers(pod)).map(|container| container.resources.as_ref()).collect()
        }
    };
    let counted = ["cpu", "memory"];
    let given = |list: Option<&ResourceList>, name: &str| amount_of(list, name).filter(|value| !value.is_zero());
    let mut any = false;
    let mut guaranteed = true;
    for resources in all {
        for name in counted {
            let (request, limit) = (given(requests(resources), name), given(limits(resources), name));
            any |= request.is_some() || limit.is_some();
            // Defaulting makes a missing request the limit.
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// The kernel's share for an amount of processor time (1024 a core).
pub fn cpu_shares(milli: i64) -> u64 {
    let shares = u64::try_from(milli).unwrap_or_default().saturating_mul(1024) / 1000;
    shares.clamp(CPU_SHARES_MIN, CPU_SHARES_MAX)
}

/// The quota of a period for a limit of processor time; none without one.
pub fn cpu_quota(milli: i64) -> Option<i64> {
    if milli <= 0 {
        return None;
    }
    Some((milli.saturating_mul(CPU_PERIOD_MICROSECONDS as i64) / 1000).max(CPU_QUOTA_MIN_MICROSECONDS))
}

fn no_resources() -> Resources {
    Resources {
        cpu_shares: None,
        cpu_quota_microseconds: None,
        cpu_period_microseconds: None,
        cpuset_cpus: None,
        cpuset_mems: None,
        memory_limit_bytes: None,
        memory_swap_limit_bytes: None,
        pids_limit: None,
        hugepage_limits: Vec::new(),
        unified: Vec::new(),
    }
}

/// The limits of a pod's cgroup.
pub fn pod_cgroup_resources(pod: &Pod, pids_limit: Option<i64>) -> Resources {
    let requested = pod_requests(pod);
    let cpu = requested.get("cpu").map_or(0, Amount::milli_value);
    let quota = pod_limit(pod, "cpu").and_then(|limit| cpu_quota(limit.milli_value()));
    Resources {
        cpu_shares: Some(if qos_class(pod) == "BestEffort" { CPU_SHARES_MIN } else { cpu_shares(cpu) }),
        cpu_quota_microseconds: quota,
        cpu_period_microseconds: quota.map(|_| CPU_PERIOD_MICROSECONDS),
        memory_limit_bytes: pod_limit(pod, "memory").map(|limit| limit.value()),
        pids_limit,
        ..no_resources()
    }
}

/// The limits of a container.
pub fn container_resources(pod: &Pod, container: &Container) -> Resources {
    let resources = container.resources.as_ref();
    let request = amount_of(requests(resources), "cpu").map(|a| a.milli_value());
    let limit = amount_of(limits(resources), "cpu").map(|a| a.milli_value()).filter(|milli| *milli > 0);
    // Without a limit of its own a container is held by the pod's (KEP-2837).
    let memory = amount_of(limits(resources), "memory")
        .or_else(|| amount_of(limits(pod::spec(pod).resources.as_ref()), "memory"))
        .map(|a| a.value())
        .filter(|bytes| *bytes > 0);
    let quota = limit.and_then(cpu_quota);
    let mut hugepages: Vec<(String, u64)> = Vec::new();
    for (name, quantity) in limits(resources).into_iter().flatten() {
        if let Some(size) = name.strip_prefix("hugepages-") {
            let page = match size {
                "2Mi" => "2MB".to_owned(),
                "1Gi" => "1GB".to_owned(),
                other => other.trim_end_matches('i').to_owned() + "B",
            };
            hugepages.push((page, u64::try_from(amount(quantity).value()).unwrap_or_default()));
        }
    }
    Resources {
        cpu_shares: Some(cpu_shares(request.or(limit).unwrap_or_default())),
        cpu_quota_microseconds: quota,
        cpu_period_microseconds: quota.map(|_| CPU_PERIOD_MICROSECONDS),
        memory_limit_bytes: memory,
        // No swap: the limit of both together is that of memory.
        memory_swap_limit_bytes: memory,
        hugepage_limits: hugepages,
        ..no_resources()
    }
}

/// A container's `oom_score_adj`: upstream's by quality of service and share of the node's memory.
pub fn oom_score_adj(pod: &Pod, container: &Container, node_memory_bytes: u64) -> i32 {
    let priority = pod::spec(pod).priority.unwrap_or_default();
    // Node-critical pods are killed last.
    if priority >= 2_000_001_000 {
        return -997;
    }
    match qos_class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let request = amount_of(requests(container.resources.as_ref()), "memory").map_or(0, |a| a.value());
            let share = 1000 * i128::from(request) / i128::from(node_memory_bytes.max(1));
            let adjust = i32::try_from(1000 - share).unwrap_or(3);
            // Between guaranteed and best effort, whatever the request.
            if adjust < 3 {
                3
            } else if adjust == 1000 {
                999
            } else {
                adjust
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod")
    }

    fn resources(requests: serde_json::Value, limits: serde_json::Value) -> serde_json::Value {
        json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
    }

    #[test]
    fn quality_of_service() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        let cases = [
            (resources(json!({}), json!({})), "BestEffort"),
            (resources(full.clone(), full.clone()), "Guaranteed"),
            (resources(json!({}), full.clone()), "Guaranteed"),
            (resources(json!({"cpu": "1"}), json!({})), "Burstable"),
            (
                resources(json!({"cpu": "1", "memory": "1Gi"}), json!({"cpu": "1000m", "memory": "1024Mi"})),
                "Guaranteed",
            ),
            (resources(json!({"cpu": "0"}), json!({})), "BestEffort"),
            (resources(json!({"memory": "20Mi"}), json!({"memory": "20Mi"})), "Burstable"),
        ];
        for (container, class) in cases {
            assert_eq!(qos_class(&pod(json!({"containers": [container]}))), class, "{container}");
        }
        let level = json!({"resources": {"limits": full}, "containers": [{"name": "c"}]});
        assert_eq!(qos_class(&pod(level)), "Guaranteed");
    }

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_always() {
        let p = pod(json!({
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "i", "resources": {"requests": {"cpu": "2"}}},
            ],
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}],
            "overhead": {"cpu": "10m"},
        }));
        assert_eq!(pod_requests(&p)["cpu"].to_string(), "2110m");
    }

    #[test]
    fn processor_time_as_the_kernel_counts() {
        for (milli, shares) in [(0, 2), (1, 2), (100, 102), (1000, 1024), (500_000, 262_144)] {
            assert_eq!(cpu_shares(milli), shares);
        }
        for (milli, quota) in [(0, None), (5, Some(1000)), (100, Some(10_000)), (1500, Some(150_000))] {
            assert_eq!(cpu_quota(milli), quota);
        }
    }

    #[test]
    fn who_is_killed_first() {
        let burst = |memory: &str| pod(json!({"containers": [resources(json!({"memory": memory}), json!({}))]}));
        let gib = 1 << 30;
        let cases = [
            (pod(json!({"containers": [{"name": "c"}]})), 1000),
            (burst("1Gi"), 750),
            (burst("1"), 999),
            (burst("4Gi"), 3),
        ];
        for (pod, score) in cases {
            assert_eq!(oom_score_adj(&pod, &pod::containers(&pod)[0], 4 * gib), score);
        }
    }
}
