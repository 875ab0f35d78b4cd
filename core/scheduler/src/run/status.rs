//! What the scheduler writes into pods: why they wait, for which node, and that they must go for another.

use gantry_client::events::{EventType, reference};
use gantry_client::{Client, EventRecorder};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::bind::explain;
use crate::engine::{Refusal, Why};

fn pods_of(client: &Client, pod: &Pod) -> Api<Pod> {
    Api::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default())
}

/// A condition as it is to be written, or none when the pod has it already.
fn condition(pod: &Pod, kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> Option<Value> {
    let generation = pod.metadata.generation;
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let known: Option<&PodCondition> = conditions.into_iter().flatten().find(|known| known.type_ == kind);
    let same_status = known.is_some_and(|known| known.status == status);
    let same = known.is_some_and(|known| {
        known.reason.as_deref() == Some(reason)
            && known.message.as_deref() == Some(message)
            && known.observed_generation == generation
    });
    if same_status && same {
        return None;
    }
    let mut condition = json!({
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastProbeTime": null,
    });
    if let Some(generation) = generation {
        condition["observedGeneration"] = json!(generation);
    }
    if !same_status {
        condition["lastTransitionTime"] = json!(Time(now));
    }
    Some(condition)
}

async fn patch(client: &Client, pod: &Pod, status: Value) -> Result<(), kube::Error> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.metadata.uid}, "status": status}));
    pods_of(client, pod).patch_status(name, &PatchParams::default(), &patch).await.map(drop)
}

/// Trouble of a write that the next try mends.
fn note(pod: &Pod, what: &str, result: Result<(), kube::Error>) {
    match result {
        Ok(()) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => {
            let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
            tracing::warn!(?namespace, ?name, what, error = explain(&error), "pod status not written");
        }
    }
}

fn nominated(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref()).unwrap_or_default()
}

/// Says for which node a pod waits, while its volumes are made.
pub async fn nominate(client: &Client, pod: &Pod, node: &str) {
    if nominated(pod) != node {
        note(pod, "nomination", patch(client, pod, json!({"nominatedNodeName": node})).await);
    }
}

/// Says why a pod waits, and tells its victims to go.
pub async fn refuse(client: &Client, recorder: &EventRecorder, refusal: &Refusal) {
    let pod = &*refusal.pod;
    let reason = match refusal.why {
        Why::Unschedulable => "Unschedulable",
        Why::SchedulerError => "SchedulerError",
    };
    let mut status = serde_json::Map::new();
    if let Some(condition) = condition(pod, "PodScheduled", "False", reason, &refusal.message, Timestamp::now()) {
        status.insert("conditions".to_owned(), json!([condition]));
    }
    if let Some(node) = refusal.nominate.as_deref().filter(|node| *node != nominated(pod)) {
        let node = if node.is_empty() { Value::Null } else { json!(node) };
        status.insert("nominatedNodeName".to_owned(), node);
    }
    if !status.is_empty() {
        note(pod, "condition", patch(client, pod, Value::Object(status)).await);
    }
    for outdone in &refusal.outdone {
        note(outdone, "nomination", patch(client, outdone, json!({"nominatedNodeName": null})).await);
    }
    let node = refusal.nominate.as_deref().unwrap_or_default();
    for victim in &refusal.victims {
        evict(client, recorder, victim, pod, node).await;
    }
}

async fn evict(client: &Client, recorder: &EventRecorder, victim: &Pod, preemptor: &Pod, node: &str) {
    let scheduler = preemptor.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or_default();
    let message = format!("{scheduler}: preempting to accommodate a higher priority pod");
    let now = Timestamp::now();
    if let Some(condition) = condition(victim, "DisruptionTarget", "True", "PreemptionByScheduler", &message, now) {
        note(victim, "disruption", patch(client, victim, json!({"conditions": [condition]})).await);
    }
    let name = victim.metadata.name.as_deref().unwrap_or_default();
    let parameters = DeleteParams {
        preconditions: Some(kube::api::Preconditions { uid: victim.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    let deleted = pods_of(client, victim).delete(name, &parameters).await.map(drop);
    if deleted.is_ok() {
        let uid = preemptor.metadata.uid.as_deref().unwrap_or_default();
        let note = format!("Preempted by pod {uid} on node {node}");
        recorder.event(&reference(victim), EventType::Normal, "Preempted", "Preempting", note);
    }
    note(victim, "eviction", deleted);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_written_when_it_differs() {
        let now = Timestamp::UNIX_EPOCH;
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "generation": 2}})).expect("a pod");
        let first = condition(&pod, "PodScheduled", "False", "Unschedulable", "m", now).expect("it is new");
        assert_eq!(
            first,
            json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "m",
                "lastProbeTime": null, "lastTransitionTime": "1970-01-01T00:00:00Z", "observedGeneration": 2})
        );
        let status = json!({"conditions": [first]});
        pod.status = Some(serde_json::from_value(status).expect("a status"));
        assert_eq!(condition(&pod, "PodScheduled", "False", "Unschedulable", "m", now), None);
        let other = condition(&pod, "PodScheduled", "False", "Unschedulable", "n", now).expect("another message");
        assert!(other.get("lastTransitionTime").is_none(), "the status is the same as before");
    }
}
