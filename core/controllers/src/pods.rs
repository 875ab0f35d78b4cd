//! Questions about a pod's state, as upstream's `pkg/api/v1/pod` and `controller_utils.go` answer them.

use std::cmp::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

/// A condition of a pod.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// The pod's phase, empty before the API server set one.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether it has succeeded or failed for good.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether it counts as one of its controller's replicas.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Whether it is on its way out but not gone: counted in `terminatingReplicas` (KEP-3973).
pub fn is_terminating(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_some()
}

/// Whether its condition Ready is true.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Since when it has been ready.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// Whether it has been ready for at least `min_ready_seconds`.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    if !is_ready(pod) {
        return false;
    }
    min_ready_seconds <= 0
        || ready_since(pod).is_some_and(|since| elapsed(since, now) >= Duration::from_secs(min_ready_seconds as u64))
}

/// How long ago a time was; zero for the future.
pub fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

/// The node it is bound to, empty before.
pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// How often its containers were restarted, the largest.
fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or_default()
}

fn phase_rank(pod: &Pod) -> u8 {
    match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|map| map.get("controller.kubernetes.io/pod-deletion-cost"))
        .and_then(|cost| cost.parse().ok())
        .unwrap_or_default()
}

/// Which of two pods a controller gives up first (`Less`: the first one). `doubled` says how many pods of the same
/// controller share the pod's node. Source: `ActivePodsWithRanks`.
pub fn compare_for_deletion(a: (&Pod, usize), b: (&Pod, usize), now: Timestamp) -> Ordering {
    let (pod_a, doubled_a) = a;
    let (pod_b, doubled_b) = b;
    let assigned = |pod: &Pod| !node_name(pod).is_empty();
    assigned(pod_a)
        .cmp(&assigned(pod_b))
        .then(phase_rank(pod_a).cmp(&phase_rank(pod_b)))
        .then(is_ready(pod_a).cmp(&is_ready(pod_b)))
        .then(deletion_cost(pod_a).cmp(&deletion_cost(pod_b)))
        .then(doubled_b.cmp(&doubled_a))
        .then_with(|| {
            // The longer ready, the longer kept; times count in powers of two, so that near ones tie.
            match (ready_since(pod_a), ready_since(pod_b)) {
                (Some(a), Some(b)) if is_ready(pod_a) && is_ready(pod_b) => log_age(a, now).cmp(&log_age(b, now)),
                _ => Ordering::Equal,
            }
        })
        .then(restarts(pod_b).cmp(&restarts(pod_a)))
        .then_with(|| {
            let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            match (created(pod_a), created(pod_b)) {
                (Some(a), Some(b)) => log_age(a, now).cmp(&log_age(b, now)),
                (a, b) => a.is_some().cmp(&b.is_some()),
            }
        })
        .then_with(|| pod_a.metadata.uid.cmp(&pod_b.metadata.uid))
}

fn log_age(since: Timestamp, now: Timestamp) -> u32 {
    u64::BITS - (elapsed(since, now).as_nanos() as u64).leading_zeros()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).expect("a pod")
    }

    #[test]
    fn pods_are_given_up_in_upstreams_order() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().expect("a time");
        let ready = |since: &str| json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
        let order = [
            pod(json!({"metadata": {"name": "unassigned"}, "status": {"phase": "Pending"}})),
            pod(
                json!({"metadata": {"name": "pending"}, "spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Pending"}}),
            ),
            pod(
                json!({"metadata": {"name": "unready"}, "spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Running"}}),
            ),
            pod(
                json!({"metadata": {"name": "cheap", "annotations": {"controller.kubernetes.io/pod-deletion-cost": "-1"}},
                "spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Running", "conditions": ready("2026-01-01T00:00:00Z")}}),
            ),
            pod(json!({"metadata": {"name": "young"}, "spec": {"nodeName": "n", "containers": []},
                "status": {"phase": "Running", "conditions": ready("2026-01-01T00:59:00Z")}})),
            pod(json!({"metadata": {"name": "old"}, "spec": {"nodeName": "n", "containers": []},
                "status": {"phase": "Running", "conditions": ready("2026-01-01T00:00:00Z")}})),
        ];
        for pair in order.windows(2) {
            assert_eq!(
                compare_for_deletion((&pair[0], 1), (&pair[1], 1), now),
                Ordering::Less,
                "{:?} before {:?}",
                pair[0].metadata.name,
                pair[1].metadata.name
            );
        }
        let old = order.last().expect("some");
        assert_eq!(compare_for_deletion((old, 2), (old, 1), now), Ordering::Less, "crowded nodes first");
    }

    #[test]
    fn availability_counts_from_readiness() {
        let now: Timestamp = "2026-01-01T00:00:10Z".parse().expect("a time");
        let pod = pod(json!({"status": {"conditions":
            [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}));
        for (seconds, expected) in [(0, true), (10, true), (11, false)] {
            assert_eq!(is_available(&pod, seconds, now), expected, "{seconds}");
        }
    }
}
