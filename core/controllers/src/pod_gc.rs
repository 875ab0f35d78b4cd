//! Pods that nobody will clean up otherwise: those of nodes that are gone, those deleted before they were scheduled, and
//! the oldest of too many that have ended (upstream's `pkg/controller/podgc`).

use std::sync::Arc;
use std::time::Duration;

use gantry_client::{Change, Client, Informer, Informers, ObjectKey, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::error::{ControllerError, found};
use crate::pods::{is_terminal, node_name};
use crate::runner::{self, Reconciled};

/// How long a node may be missing before its pods are given up; upstream's `quarantineTime`.
const QUARANTINE: Duration = Duration::from_secs(40);
/// How many pods that have ended may stay; upstream's `terminated-pod-gc-threshold`.
const TERMINATED_PODS_MAX: usize = 12_500;
/// Index of pods by node.
const BY_NODE: &str = "node";

/// Why a pod is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    NodeGone,
    NeverScheduled,
    TooManyEnded,
}

struct Controller {
    client: Client,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
}

/// Runs the controller until `stop`.
pub async fn run(client: Client, informers: Informers, stop: CancellationToken) {
    let (pods, nodes) = (informers.get::<Pod>(), informers.get::<Node>());
    pods.add_index(BY_NODE, |pod| vec![node_name(pod).to_owned()]);
    if !runner::synced(&[&pods, &nodes], &stop).await {
        return;
    }
    let controller = Arc::new(Controller { client, pods: pods.clone(), nodes: nodes.clone() });
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    let (keys, watched) = (queue.clone(), controller.clone());
    pods.on_change(move |change| {
        let Change::Applied { new, .. } = change else { return };
        let key = ObjectKey::of(&**new);
        if new.metadata.deletion_timestamp.is_some() && node_name(new).is_empty() || is_terminal(new) {
            keys.add(key);
        } else if !node_name(new).is_empty() && watched.nodes.get("", node_name(new)).is_none() {
            keys.add_after(key, QUARANTINE);
        }
    });
    let (keys, watched) = (queue.clone(), controller.clone());
    nodes.on_change(move |change| {
        if let Change::Deleted(node) = change {
            for pod in watched.pods.by_index(BY_NODE, node.metadata.name.as_deref().unwrap_or_default()) {
                keys.add_after(ObjectKey::of(&*pod), QUARANTINE);
            }
        }
    });
    runner::run("pod-garbage-collector", queue, 2, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
    .await;
}

/// Whether a pod is to go, and why.
fn judge(pod: &Pod, node_exists: bool, ended_pods: usize) -> Option<Reason> {
    if node_name(pod).is_empty() {
        return pod.metadata.deletion_timestamp.is_some().then_some(Reason::NeverScheduled);
    }
    if !node_exists {
        return Some(Reason::NodeGone);
    }
    (is_terminal(pod) && ended_pods > TERMINATED_PODS_MAX).then_some(Reason::TooManyEnded)
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Reconciled {
        let Some(mut pod) = self.pods.get_key(key) else { return Ok(None) };
        let mut ended = 0;
        if is_terminal(&pod) {
            let all: Vec<Arc<Pod>> = self.pods.list().into_iter().filter(|pod| is_terminal(pod)).collect();
            ended = all.len();
            if ended > TERMINATED_PODS_MAX {
                // The oldest goes, whichever it was that ended now.
                let oldest = all.into_iter().min_by_key(|pod| {
                    (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), pod.metadata.name.clone())
                });
                pod = oldest.unwrap_or(pod);
            }
        }
        let node_exists = match node_name(&pod) {
            "" => false,
            name if self.nodes.get("", name).is_some() => true,
            // The view may be behind.
            name => {
                let api: Api<Node> = Api::all(self.client.clone());
                api.get_opt(name).await.map_err(ControllerError::api("read node", name))?.is_some()
            }
        };
        match judge(&pod, node_exists, ended) {
            None => Ok(None),
            Some(reason) => self.remove(&pod, reason).await,
        }
    }

    async fn remove(&self, pod: &Pod, reason: Reason) -> Reconciled {
        let key = ObjectKey::of(pod);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        if !is_terminal(pod) {
            let mut status = json!({"phase": "Failed"});
            if reason == Reason::NodeGone {
                let now = gantry_api::timestamp::format(Timestamp::now());
                status["conditions"] = json!([{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                    "message": "PodGC: node no longer exists", "lastTransitionTime": now,
                    "observedGeneration": pod.metadata.generation}]);
            }
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
            let patched = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            found(patched).map_err(ControllerError::api("mark as failed pod", &key))?;
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        let deleted = api.delete(&key.name, &params).await;
        found(deleted).map_err(ControllerError::api("delete pod", &key))?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judgements() {
        let pod = |node: &str, phase: &str, deleting: bool| -> Pod {
            let mut value =
                json!({"metadata": {}, "spec": {"nodeName": node, "containers": []}, "status": {"phase": phase}});
            if deleting {
                value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            serde_json::from_value(value).expect("a pod")
        };
        let cases = [
            (pod("", "Pending", false), false, 0, None),
            (pod("", "Pending", true), false, 0, Some(Reason::NeverScheduled)),
            (pod("n", "Running", false), true, 0, None),
            (pod("n", "Running", true), true, 0, None),
            (pod("n", "Running", false), false, 0, Some(Reason::NodeGone)),
            (pod("n", "Succeeded", false), true, TERMINATED_PODS_MAX, None),
            (pod("n", "Succeeded", false), true, TERMINATED_PODS_MAX + 1, Some(Reason::TooManyEnded)),
        ];
        for (pod, node_exists, ended, expected) in cases {
            assert_eq!(judge(&pod, node_exists, ended), expected, "{pod:?}");
        }
    }
}
