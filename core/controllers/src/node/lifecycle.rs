//! Watches leases and writes conditions, taints and pods' readiness. Silence is measured on our own clock, from when a
//! lease was last seen to change, so that the clocks of nodes don't matter.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_client::events::reference;
use gantry_client::{Change, Client, EventRecorder, Informer, Informers, ObjectKey, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::health::{self, Readiness, readiness};
use crate::error::{ControllerError, found};
use crate::pods::{is_ready, node_name};
use crate::runner::{self, Reconciled};

/// How long a node may be silent; upstream's `node-monitor-grace-period`.
const GRACE_PERIOD: Duration = Duration::from_secs(50);
/// Between two nodes that are given up; upstream's `node-eviction-rate` of 0.1 a second.
const EVICTION_INTERVAL: Duration = Duration::from_secs(10);
/// The namespace of nodes' leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
const BY_NODE: &str = "node";

struct Controller {
    client: Client,
    recorder: EventRecorder,
    nodes: Arc<Informer<Node>>,
    pods: Arc<Informer<Pod>>,
    /// When each node was last heard of.
    heard: Mutex<HashMap<String, Instant>>,
    last_eviction: Mutex<Option<Instant>>,
}

/// Runs the controller until `stop`.
pub async fn run(client: Client, informers: Informers, stop: CancellationToken) {
    let (nodes, pods) = (informers.get::<Node>(), informers.get::<Pod>());
    let leases = informers.with_fields::<Lease>(format!("metadata.namespace={LEASE_NAMESPACE}"));
    pods.add_index(BY_NODE, |pod| vec![node_name(pod).to_owned()]);
    if !runner::synced(&[&nodes, &pods, &leases], &stop).await {
        return;
    }
    let controller = Arc::new(Controller {
        recorder: EventRecorder::new(client.clone(), "node-controller", ""),
        client,
        nodes: nodes.clone(),
        pods,
        heard: Mutex::default(),
        last_eviction: Mutex::default(),
    });
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    let (keys, watched) = (queue.clone(), controller.clone());
    leases.on_change(move |change| {
        if let Change::Applied { new, .. } = change {
            let name = new.metadata.name.clone().unwrap_or_default();
            let was_silent = watched.hear(&name);
            if was_silent {
                keys.add(ObjectKey::new("", name));
            }
        }
    });
    let (keys, watched) = (queue.clone(), controller.clone());
    nodes.on_change(move |change| watched.node_changed(change, &keys));
    runner::run("node-lifecycle-controller", queue, 4, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key.name).await }
    })
    .await;
}

impl Controller {
    /// Notes a sign of life; whether the node had been silent for too long.
    fn hear(&self, name: &str) -> bool {
        let last = self.heard.lock().insert(name.to_owned(), Instant::now());
        last.is_none_or(|last| last.elapsed() >= GRACE_PERIOD)
    }

    fn node_changed(&self, change: &Change<Node>, queue: &WorkQueue<ObjectKey>) {
        let name = change.object().metadata.name.clone().unwrap_or_default();
        match change {
            Change::Applied { old: None, new } => {
                self.hear(&name);
                let message = format!("Node {name} event: Registered Node {name} in Controller");
                self.recorder.normal(&about(new), "RegisteredNode", message);
            }
            Change::Applied { old: Some(old), new } => {
                // Its own writes are signs of life as well: they renew the heartbeats.
                let beat =
                    |node: &Node| health::condition(node, "Ready").and_then(|ready| ready.last_heartbeat_time.clone());
                if beat(old) != beat(new) {
                    self.hear(&name);
                }
            }
            Change::Deleted(node) => {
                self.heard.lock().remove(&name);
                let message = format!("Node {name} event: Removing Node {name} from Controller");
                self.recorder.normal(&about(node), "RemovingNode", message);
            }
        }
        queue.add(ObjectKey::new("", name));
    }

    async fn reconcile(&self, name: &str) -> Reconciled {
        let Some(node) = self.nodes.get("", name) else { return Ok(None) };
        let heard = *self.heard.lock().entry(name.to_owned()).or_insert_with(Instant::now);
        let silence = heard.elapsed();
        let now = Timestamp::now();
        let api: Api<Node> = Api::all(self.client.clone());
        let mut node = (*node).clone();
        if silence >= GRACE_PERIOD
            && let Some(conditions) = health::silenced(&node, now)
        {
            let patch = json!({"status": {"conditions": conditions}});
            let patched = api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            match found(patched).map_err(ControllerError::api("update the conditions of node", name))? {
                Some(changed) => node = changed,
                None => return Ok(None),
            }
        }
        let evict = readiness(&node) != Readiness::Ready && self.may_evict(&node);
        if let Some(taints) = health::taints(&node, evict, now) {
            let patch = json!({
                "metadata": {"resourceVersion": node.metadata.resource_version},
                "spec": {"taints": taints},
            });
            let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
            found(patched).map_err(ControllerError::api("update the taints of node", name))?;
        }
        if readiness(&node) != Readiness::Ready {
            self.mark_pods_unready(&node, now).await?;
        }
        let untainted = readiness(&node) != Readiness::Ready && !evict;
        Ok(Some(if silence < GRACE_PERIOD {
            GRACE_PERIOD - silence + Duration::from_millis(10)
        } else if untainted {
            EVICTION_INTERVAL
        } else {
            GRACE_PERIOD
        }))
    }

    /// Whether a node may get its `NoExecute` taint now: not when all nodes are in trouble (then it is us who can't see
    /// them), and one at a time.
    fn may_evict(&self, node: &Node) -> bool {
        let tainted = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| {
            taint.effect == "NoExecute" && [health::NOT_READY, health::UNREACHABLE].contains(&taint.key.as_str())
        });
        if tainted {
            return true;
        }
        // A node that comes up isn't given up: it has just been made.
        if self.nodes.list().iter().all(|node| readiness(node) != Readiness::Ready) {
            return false;
        }
        let mut last = self.last_eviction.lock();
        if last.is_some_and(|last| last.elapsed() < EVICTION_INTERVAL) {
            return false;
        }
        *last = Some(Instant::now());
        true
    }

    async fn mark_pods_unready(&self, node: &Node, now: Timestamp) -> Result<(), ControllerError> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        for pod in self.pods.by_index(BY_NODE, name).iter().filter(|pod| is_ready(pod)) {
            let key = ObjectKey::of(&**pod);
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
            let time = gantry_api::timestamp::format(now);
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [
                {"type": "Ready", "status": "False", "lastTransitionTime": time}]}});
            let patched = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            found(patched).map_err(ControllerError::api("mark as not ready pod", &key))?;
            self.recorder.warning(&reference(&**pod), "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }
}

/// Events about nodes carry the name as uid, as upstream's do: `kubectl describe node` looks for it.
fn about(node: &Node) -> k8s_openapi::api::core::v1::ObjectReference {
    let mut about = reference(node);
    about.uid = node.metadata.uid.clone();
    about
}
