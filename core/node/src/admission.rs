//! Whether this node takes a pod that was bound to it: what the scheduler promised may not hold any more, and some pods
//! were never scheduled. Pure; reasons and messages are upstream's.

use std::collections::BTreeMap;

use gantry_api::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod};

use crate::pod;
use crate::resources::{ResourceList, amount, pod_requests};

/// Sysctls that pods may set everywhere: they are namespaced and harm nobody else.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Why a pod is turned away: `status.reason` and the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// `OutOfcpu`, `NodeAffinity` …
    pub reason: String,
    /// For people.
    pub message: String,
}

fn rejected(reason: impl Into<String>, message: impl Into<String>) -> Rejection {
    Rejection { reason: reason.into(), message: message.into() }
}

/// Decides about a pod, given the pods that are here already.
pub fn admit<'a>(
    pod: &Pod,
    node: &Node,
    allocatable: &ResourceList,
    others: impl Iterator<Item = &'a Pod> + Clone,
    allowed_sysctls: &[String],
) -> Result<(), Rejection> {
    let spec = pod::spec(pod);
    for sysctl in spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten()) {
        let allowed = SAFE_SYSCTLS.contains(&sysctl.name.as_str())
            || allowed_sysctls.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => sysctl.name.starts_with(prefix),
                None => *pattern == sysctl.name,
            });
        if !allowed {
            return Err(rejected("SysctlForbidden", format!("forbidden sysctl: {:?} not allowlisted", sysctl.name)));
        }
    }
    let mut used: BTreeMap<String, Amount> = BTreeMap::new();
    for other in others.clone() {
        for (name, value) in pod_requests(other) {
            let sum = used.entry(name).or_insert_with(|| Amount::from_i64(0));
            *sum = sum.plus(&value);
        }
    }
    let pods = i64::try_from(others.clone().count()).unwrap_or(i64::MAX);
    if let Some(max) = allocatable.get("pods").map(|max| amount(max).value())
        && pods + 1 > max
    {
        return Err(out_of("pods", 1, pods, max));
    }
    for (name, wanted) in pod_requests(pod) {
        if wanted.is_zero() || name == "ephemeral-storage" && !allocatable.contains_key(&name) {
            continue;
        }
        let zero = Amount::from_i64(0);
        let used = used.get(&name).unwrap_or(&zero);
        let capacity = allocatable.get(&name).map_or_else(|| zero, amount);
        if used.plus(&wanted) > capacity {
            let number = |amount: &Amount| if name == "cpu" { amount.milli_value() } else { amount.value() };
            return Err(out_of(&name, number(&wanted), number(used), number(&capacity)));
        }
    }
    if !matches_node(pod, node) {
        let why = "node(s) didn't match Pod's node affinity/selector";
        return Err(rejected("NodeAffinity", format!("Predicate NodeAffinity failed: {why}")));
    }
    let taken: Vec<_> = others.flat_map(host_ports).collect();
    if host_ports(pod).iter().any(|port| taken.iter().any(|other| port.conflicts(other))) {
        let why = "node(s) didn't have free ports for the requested pod ports";
        return Err(rejected("NodePorts", format!("Predicate NodePorts failed: {why}")));
    }
    Ok(())
}

fn out_of(resource: &str, requested: i64, used: i64, capacity: i64) -> Rejection {
    let message = format!(
        "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
    );
    rejected(format!("OutOf{resource}"), message)
}

struct Port {
    ip: String,
    protocol: String,
    number: i32,
}

impl Port {
    fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
        self.number == other.number
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

fn host_ports(pod: &Pod) -> Vec<Port> {
    let sidecars = pod::init_containers(pod).iter().filter(|container| pod::is_sidecar(container));
    let all = pod::containers(pod).iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    all.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let or = |text: &Option<String>, default: &str| {
            text.clone().filter(|text| !text.is_empty()).unwrap_or_else(|| default.to_owned())
        };
        Some(Port { ip: or(&port.host_ip, "0.0.0.0"), protocol: or(&port.protocol, "TCP"), number })
    })
    .collect()
}

/// Whether a pod's node selector and required node affinity hold on a node.
pub fn matches_node(pod: &Pod, node: &Node) -> bool {
    let spec = pod::spec(pod);
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    if spec.node_selector.iter().flatten().any(|(key, value)| label(key) != Some(value)) {
        return false;
    }
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|selector| matches_terms(selector, node))
}

/// Whether any of a selector's terms holds on a node.
pub fn matches_terms(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| matches_term(term, node))
}

fn matches_term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    // An empty term matches nothing.
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let labels = node.metadata.labels.as_ref();
    expressions.iter().all(|rule| holds(rule, labels.and_then(|labels| labels.get(&rule.key)).map(String::as_str)))
        && fields.iter().all(|rule| {
            let value = (rule.key == "metadata.name").then_some(node.metadata.name.as_deref()).flatten();
            holds(rule, value)
        })
}

fn holds(rule: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = rule.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|value| values.iter().any(|known| known == value));
    let numbers = || {
        let left: i64 = value?.parse().ok()?;
        let right: i64 = values.first()?.parse().ok()?;
        Some((left, right))
    };
    match rule.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(left, right)| left > right),
        "Lt" => numbers().is_some_and(|(left, right)| left < right),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod")
    }

    #[test]
    fn what_the_node_cannot_hold_is_turned_away() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"zone": "a", "n": "5"}}}))
            .expect("a node");
        let allocatable: ResourceList =
            serde_json::from_value(json!({"cpu": "2", "memory": "1Gi", "pods": "2"})).expect("a list");
        let cpu =
            |amount: &str| pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]}));
        let port = |ip: &str| {
            pod(json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80, "hostIP": ip}]}]}))
        };
        let affinity = |operator: &str, value: &str| {
            pod(
                json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "n", "operator": operator, "values": [value]}]}]}}}}),
            )
        };
        let sysctl = |name: &str| pod(json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}}));
        let cases = [
            (cpu("1"), vec![cpu("1")], "ok"),
            (
                cpu("1500m"),
                vec![cpu("1")],
                "OutOfcpu: Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000",
            ),
            (
                cpu("0"),
                vec![cpu("0"), cpu("0")],
                "OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2",
            ),
            (pod(json!({"nodeSelector": {"zone": "a"}})), vec![], "ok"),
            (
                pod(json!({"nodeSelector": {"zone": "b"}})),
                vec![],
                "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
            ),
            (affinity("Gt", "4"), vec![], "ok"),
            (
                affinity("In", "4"),
                vec![],
                "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
            ),
            (port(""), vec![], "ok"),
            (port("10.0.0.1"), vec![port("10.0.0.2")], "ok"),
            (
                port("10.0.0.1"),
                vec![port("")],
                "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
            ),
            (sysctl("net.ipv4.tcp_syncookies"), vec![], "ok"),
            (sysctl("kernel.msgmax"), vec![], "SysctlForbidden: forbidden sysctl: \"kernel.msgmax\" not allowlisted"),
            (sysctl("net.core.somaxconn"), vec![], "ok"),
        ];
        for (pod, others, expect) in cases {
            let found = admit(&pod, &node, &allocatable, others.iter(), &["net.core.*".to_owned()]);
            let found = found.map_or_else(|r| format!("{}: {}", r.reason, r.message), |()| "ok".to_owned());
            assert_eq!(found, expect);
        }
    }
}
