//! Pods leave nodes whose `NoExecute` taints they don't tolerate (upstream's `pkg/controller/tainteviction`).

use std::sync::Arc;
use std::time::Duration;

use gantry_client::events::reference;
use gantry_client::{Change, Client, EventRecorder, Informer, Informers, ObjectKey, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::error::{ControllerError, found};
use crate::pods::{elapsed, node_name};
use crate::runner::{self, Reconciled};

const BY_NODE: &str = "node";

/// When a pod has to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// It may stay.
    Never,
    /// It has to.
    Now,
    /// It may stay that long.
    After(Duration),
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let effect = text(&toleration.effect);
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    let key = text(&toleration.key);
    if !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "" | "Equal" => text(&toleration.value) == text(&taint.value) && !key.is_empty(),
        "Exists" => true,
        operator => compares(operator, &text(&taint.value), &text(&toleration.value)),
    }
}

/// `Lt` and `Gt` (KEP-5471): the taint's number against the toleration's.
fn compares(operator: &str, taint: &str, toleration: &str) -> bool {
    let (Ok(taint), Ok(toleration)) = (taint.parse::<i64>(), toleration.parse::<i64>()) else { return false };
    match operator {
        "Lt" => taint < toleration,
        "Gt" => taint > toleration,
        _ => false,
    }
}

/// Decides how long a pod may stay on a node with these taints.
pub fn leave(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Leave {
    let mut shortest: Option<Duration> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let mut used = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if used.peek().is_none() {
            return Leave::Now;
        }
        // The shortest of the tolerations counts; one without a limit sets none.
        let limit = used.filter_map(|toleration| toleration.toleration_seconds).min();
        if let Some(seconds) = limit {
            let since = taint.time_added.as_ref().map(|time| elapsed(time.0, now)).unwrap_or_default();
            let left = Duration::from_secs(seconds.max(0) as u64).saturating_sub(since);
            shortest = Some(shortest.map_or(left, |shortest| shortest.min(left)));
        }
    }
    match shortest {
        None => Leave::Never,
        Some(Duration::ZERO) => Leave::Now,
        Some(left) => Leave::After(left),
    }
}

/// Runs the controller until `stop`.
pub async fn run(client: Client, informers: Informers, stop: CancellationToken) {
    let (nodes, pods) = (informers.get::<Node>(), informers.get::<Pod>());
    pods.add_index(BY_NODE, |pod| vec![node_name(pod).to_owned()]);
    if !runner::synced(&[&nodes, &pods], &stop).await {
        return;
    }
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    let (keys, all) = (queue.clone(), nodes.clone());
    pods.on_change(move |change| {
        if let Change::Applied { new, .. } = change
            && all.get("", node_name(new)).is_some_and(|node| !evicting(&node).is_empty())
        {
            keys.add(ObjectKey::of(&**new));
        }
    });
    let (keys, all) = (queue.clone(), pods.clone());
    nodes.on_change(move |change| {
        let Change::Applied { old, new } = change else { return };
        let before = old.as_ref().map(|old| evicting(old)).unwrap_or_default();
        if before != evicting(new) {
            let name = new.metadata.name.as_deref().unwrap_or_default();
            all.by_index(BY_NODE, name).iter().for_each(|pod| keys.add(ObjectKey::of(&**pod)));
        }
    });
    let recorder = EventRecorder::new(client.clone(), "taint-eviction-controller", "");
    runner::run("taint-eviction-controller", queue, 4, stop, move |key| {
        let (client, recorder, nodes, pods) = (client.clone(), recorder.clone(), nodes.clone(), pods.clone());
        async move { reconcile(&client, &recorder, &nodes, &pods, &key).await }
    })
    .await;
}

fn evicting(node: &Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

async fn reconcile(
    client: &Client,
    recorder: &EventRecorder,
    nodes: &Arc<Informer<Node>>,
    pods: &Arc<Informer<Pod>>,
    key: &ObjectKey,
) -> Reconciled {
    let Some(pod) = pods.get_key(key).filter(|pod| pod.metadata.deletion_timestamp.is_none()) else { return Ok(None) };
    let Some(node) = nodes.get("", node_name(&pod)) else { return Ok(None) };
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone()).unwrap_or_default();
    let now = Timestamp::now();
    match leave(&evicting(&node), &tolerations, now) {
        Leave::Never => Ok(None),
        Leave::After(left) => Ok(Some(left)),
        Leave::Now => {
            recorder.normal(&reference(&*pod), "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
            let api: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
            let time = gantry_api::timestamp::format(now);
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
                "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": time,
                "observedGeneration": pod.metadata.generation}]}});
            let patched = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            found(patched).map_err(ControllerError::api("mark for deletion pod", key))?;
            let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            found(api.delete(&key.name, &params).await).map_err(ControllerError::api("evict pod", key))?;
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn who_has_to_leave() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("a time");
        let taint = json!([{"key": "t", "value": "1", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"},
            {"key": "other", "effect": "NoSchedule"}]);
        let cases: [(Value, Leave); 8] = [
            (json!([]), Leave::Now),
            (json!([{"operator": "Exists"}]), Leave::Never),
            (json!([{"key": "t", "operator": "Equal", "value": "1", "effect": "NoExecute"}]), Leave::Never),
            (json!([{"key": "t", "value": "2"}]), Leave::Now),
            (json!([{"key": "t", "operator": "Exists", "effect": "NoSchedule"}]), Leave::Now),
            (
                json!([{"key": "t", "operator": "Exists", "tolerationSeconds": 90}]),
                Leave::After(Duration::from_secs(30)),
            ),
            (json!([{"key": "t", "operator": "Exists", "tolerationSeconds": 60}]), Leave::Now),
            (
                json!([{"key": "t", "operator": "Exists", "tolerationSeconds": 90}, {"operator": "Exists"}]),
                Leave::After(Duration::from_secs(30)),
            ),
        ];
        let taints: Vec<Taint> = serde_json::from_value(taint).expect("taints");
        for (tolerations, expected) in cases {
            let parsed: Vec<Toleration> = serde_json::from_value(tolerations.clone()).expect("tolerations");
            assert_eq!(leave(&taints, &parsed, now), expected, "{tolerations}");
        }
    }
}
