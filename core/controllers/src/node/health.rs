//! What a node's conditions and its silence mean. Pure. Source: `nodelifecycle/node_lifecycle_controller.go`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Taint of nodes that say they aren't ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of nodes that say nothing.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// The conditions that a node keeps posting, with the taint that each stands for when true.
const CONDITIONS: &[(&str, Option<&str>)] = &[
    ("Ready", None),
    ("MemoryPressure", Some("node.kubernetes.io/memory-pressure")),
    ("DiskPressure", Some("node.kubernetes.io/disk-pressure")),
    ("PIDPressure", Some("node.kubernetes.io/pid-pressure")),
    ("NetworkUnavailable", Some("node.kubernetes.io/network-unavailable")),
];

/// Whether a node is ready, isn't, or doesn't say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It says so.
    Ready,
    /// It says that it isn't.
    NotReady,
    /// It is silent, or was never heard of.
    Unknown,
}

/// A condition of a node.
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// What the node's conditions say.
pub fn readiness(node: &Node) -> Readiness {
    match condition(node, "Ready").map(|ready| ready.status.as_str()) {
        Some("True") => Readiness::Ready,
        Some("False") => Readiness::NotReady,
        _ => Readiness::Unknown,
    }
}

/// The conditions of a node that has been silent for too long; none when they say so already.
pub fn silenced(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut changed = false;
    for (kind, _) in CONDITIONS.iter().filter(|(kind, _)| *kind != "NetworkUnavailable") {
        match conditions.iter_mut().find(|condition| condition.type_ == *kind) {
            None => {
                changed = true;
                conditions.push(NodeCondition {
                    type_: (*kind).to_owned(),
                    status: "Unknown".to_owned(),
                    reason: Some("NodeStatusNeverUpdated".to_owned()),
                    message: Some("Kubelet never posted node status.".to_owned()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(Time(now)),
                });
            }
            Some(condition) if condition.status != "Unknown" => {
                changed = true;
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(Time(now));
            }
            Some(_) => {}
        }
    }
    changed.then_some(conditions)
}

/// Whether a taint is one that this controller manages.
fn is_managed(taint: &Taint) -> bool {
    let by_condition = CONDITIONS.iter().any(|(_, key)| *key == Some(taint.key.as_str()));
    match taint.effect.as_str() {
        "NoSchedule" => by_condition || [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&taint.key.as_str()),
        "NoExecute" => [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()),
        _ => false,
    }
}

/// The taints that a node shall have; none when it has them. `evict` says whether it may get a new `NoExecute` taint now;
/// one that it has may change its key or go at any time.
pub fn taints(node: &Node, evict: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let there = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let trouble = match readiness(node) {
        Readiness::Ready => None,
        Readiness::NotReady => Some(NOT_READY),
        Readiness::Unknown => Some(UNREACHABLE),
    };
    if let Some(key) = trouble {
        wanted.push((key, "NoSchedule"));
        let had = there.iter().any(|taint| taint.effect == "NoExecute" && is_managed(taint));
        if evict || had {
            wanted.push((key, "NoExecute"));
        }
    }
    for (kind, key) in CONDITIONS {
        if let Some(key) = key
            && condition(node, kind).is_some_and(|condition| condition.status == "True")
        {
            wanted.push((key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default() {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> = there.iter().filter(|taint| !is_managed(taint) || is_wanted(taint)).cloned().collect();
    for (key, effect) in &wanted {
        if !taints.iter().any(|taint| taint.key == *key && taint.effect == *effect) {
            taints.push(Taint {
                key: (*key).to_owned(),
                value: None,
                effect: (*effect).to_owned(),
                time_added: Some(Time(now)),
            });
        }
    }
    (taints != there).then_some(taints)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(ready: &str, spec: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": spec,
            "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
        .expect("a node")
    }

    #[test]
    fn taints_follow_conditions() {
        let now = Timestamp::UNIX_EPOCH;
        let unready = json!({"taints": [{"key": NOT_READY, "effect": "NoSchedule"}]});
        let evicting = json!({"taints": [{"key": NOT_READY, "effect": "NoSchedule"}, {"key": NOT_READY, "effect": "NoExecute"},
            {"key": "mine", "effect": "NoExecute"}]});
        let cases = [
            ("True", json!({}), true, None),
            ("True", unready.clone(), true, Some(vec![])),
            ("False", unready.clone(), false, None),
            ("False", unready, true, Some(vec!["not-ready:NoSchedule", "not-ready:NoExecute"])),
            (
                "Unknown",
                evicting.clone(),
                false,
                Some(vec!["mine:NoExecute", "unreachable:NoSchedule", "unreachable:NoExecute"]),
            ),
            ("True", evicting, false, Some(vec!["mine:NoExecute"])),
            ("True", json!({"unschedulable": true}), true, Some(vec!["unschedulable:NoSchedule"])),
        ];
        for (ready, spec, evict, expected) in cases {
            let taints = taints(&node(ready, spec.clone()), evict, now);
            let shown = taints.map(|taints| {
                let show =
                    |taint: Taint| format!("{}:{}", taint.key.rsplit('/').next().unwrap_or_default(), taint.effect);
                taints.into_iter().map(show).collect::<Vec<_>>()
            });
            assert_eq!(shown, expected.map(|taints| taints.into_iter().map(str::to_owned).collect()), "{ready} {spec}");
        }
    }

    #[test]
    fn silence_makes_conditions_unknown_once() {
        let now = Timestamp::UNIX_EPOCH;
        let mut node = node("True", json!({}));
        let conditions = silenced(&node, now).expect("a change");
        let told: Vec<_> =
            conditions.iter().map(|it| format!("{} {}", it.type_, it.reason.clone().unwrap_or_default())).collect();
        assert_eq!(
            told,
            [
                "Ready NodeStatusUnknown",
                "MemoryPressure NodeStatusNeverUpdated",
                "DiskPressure NodeStatusNeverUpdated",
                "PIDPressure NodeStatusNeverUpdated"
            ]
        );
        node.status.as_mut().expect("a status").conditions = Some(conditions);
        assert_eq!(silenced(&node, now), None);
    }
}
