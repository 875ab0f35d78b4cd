//! Writing a pod's status: one task a pod, one patch a change, the newest status only. What others own of it stays.

use std::sync::Arc;
use std::time::Duration;

use gantry_client::{Client, Informer};
use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::pod;
use crate::static_pods;

/// The first wait after a write that failed.
const RETRY_MIN: Duration = Duration::from_millis(200);
/// The longest wait.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Fields that the agent writes; it owns each as a whole, `conditions` aside.
const FIELDS: [&str; 15] = [
    "allocatedResources",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "hostIP",
    "hostIPs",
    "initContainerStatuses",
    "message",
    "observedGeneration",
    "phase",
    "podIP",
    "podIPs",
    "qosClass",
    "reason",
    "resources",
    "startTime",
];
/// Lists that a strategic patch would merge.
const MERGED: [&str; 2] = ["hostIPs", "podIPs"];
/// Conditions that the agent writes.
const CONDITIONS: [&str; 6] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled", "PodResizePending"];

/// Whether the agent owns a condition.
pub fn is_own_condition(type_: &str) -> bool {
    CONDITIONS.contains(&type_)
}

/// The strategic merge patch from one status to another; none when nothing differs. Pure.
pub fn status_patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let as_map = |status: &PodStatus| match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    };
    let (old, new) = (as_map(old), as_map(new));
    let mut patch = Map::new();
    for field in FIELDS {
        let (before, after) = (old.get(field), new.get(field));
        if before == after {
            continue;
        }
        let value = match after {
            Some(Value::Array(list)) if MERGED.contains(&field) => {
                let mut whole = vec![json!({"$patch": "replace"})];
                whole.extend(list.iter().cloned());
                Value::Array(whole)
            }
            // A map is merged: what is gone from it must be said.
            Some(Value::Object(map)) => {
                let mut map = map.clone();
                for gone in before.and_then(Value::as_object).into_iter().flat_map(Map::keys) {
                    map.entry(gone.clone()).or_insert(Value::Null);
                }
                for (key, value) in &mut map {
                    let inner = before.and_then(|before| before.get(key)).and_then(Value::as_object);
                    if let (Value::Object(value), Some(inner)) = (value, inner) {
                        for gone in inner.keys() {
                            value.entry(gone.clone()).or_insert(Value::Null);
                        }
                    }
                }
                Value::Object(map)
            }
            Some(value) => value.clone(),
            None => Value::Null,
        };
        patch.insert(field.to_owned(), value);
    }
    let list = |map: &Map<String, Value>| map.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let (before, after) = (list(&old), list(&new));
    let named = |condition: &Value| condition["type"].as_str().map(str::to_owned).unwrap_or_default();
    let mut changed = Vec::new();
    for condition in after.iter().filter(|condition| CONDITIONS.contains(&named(condition).as_str())) {
        if before.contains(condition) {
            continue;
        }
        let known = before.iter().find(|known| known["type"] == condition["type"]);
        let mut whole = condition.clone();
        if let Value::Object(whole) = &mut whole {
            whole.entry("lastProbeTime").or_insert(Value::Null);
            for field in ["message", "reason"] {
                if known.is_some_and(|known| !known[field].is_null()) {
                    whole.entry(field).or_insert(Value::Null);
                }
            }
        }
        changed.push(whole);
    }
    for condition in before.iter().filter(|condition| CONDITIONS.contains(&named(condition).as_str())) {
        if !after.iter().any(|kept| kept["type"] == condition["type"]) {
            changed.push(json!({"$patch": "delete", "type": condition["type"]}));
        }
    }
    if !changed.is_empty() {
        let order: Vec<Value> = after.iter().map(|condition| json!({"type": condition["type"]})).collect();
        patch.insert("$setElementOrder/conditions".to_owned(), Value::Array(order));
        patch.insert("conditions".to_owned(), Value::Array(changed));
    }
    (!patch.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": patch}))
}

/// Writes the status of one pod.
pub struct StatusWriter {
    wanted: watch::Sender<Option<Arc<PodStatus>>>,
    written: watch::Receiver<Written>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Clone, Debug, PartialEq)]
enum Written {
    Nothing,
    Status(Arc<PodStatus>),
    /// The object is gone, or is another pod of the same name.
    Gone,
}

impl StatusWriter {
    /// Starts to write for a pod; for a static one, to its mirror, which is made when it is missing.
    pub fn start(client: Client, pod: &Pod, node: Arc<Informer<Node>>) -> Self {
        let wanted = watch::Sender::new(None);
        let (done, written) = watch::channel(Written::Nothing);
        let task = Task {
            api: Api::namespaced(client, pod::namespace(pod)),
            name: pod::name(pod).to_owned(),
            uid: pod::uid(pod).to_owned(),
            known: pod.status.clone().unwrap_or_default(),
            mirror_of: static_pods::is_static(pod).then(|| pod.clone()),
            has_mirror: false,
            node,
        };
        let task = tokio::spawn(task.follow(wanted.subscribe(), done));
        Self { wanted, written, _task: AbortOnDropHandle::new(task) }
    }

    /// Sets the status to write.
    pub fn set(&self, status: PodStatus) {
        self.wanted.send_replace(Some(Arc::new(status)));
    }

    /// Waits until the last status is written, or the object is gone.
    pub async fn flush(&mut self) {
        let Some(wanted) = self.wanted.borrow().clone() else { return };
        // The task lives as long as we do; its end would be the object's.
        let _ = self
            .written
            .wait_for(|written| match written {
                Written::Nothing => false,
                Written::Status(status) => *status == wanted,
                Written::Gone => true,
            })
            .await;
    }
}

struct Task {
    api: Api<Pod>,
    name: String,
    uid: String,
    known: PodStatus,
    mirror_of: Option<Pod>,
    has_mirror: bool,
    node: Arc<Informer<Node>>,
}

impl Task {
    async fn follow(mut self, mut wanted: watch::Receiver<Option<Arc<PodStatus>>>, done: watch::Sender<Written>) {
        let mut wait = RETRY_MIN;
        while wanted.changed().await.is_ok() {
            loop {
                let Some(status) = wanted.borrow_and_update().clone() else { break };
                match self.write(&status).await {
                    Ok(()) => {
                        wait = RETRY_MIN;
                        done.send_replace(Written::Status(status));
                        break;
                    }
                    Err(kube::Error::Api(answer))
                        if (answer.code == 404 || answer.code == 409) && self.mirror_of.is_none() =>
                    {
                        tracing::debug!(pod = self.name, reason = answer.reason, "status not written: the pod is gone");
                        done.send_replace(Written::Gone);
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(pod = self.name, %error, "status not written, will try again");
                        self.has_mirror = false;
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(RETRY_MAX);
                    }
                }
            }
        }
    }

    async fn write(&mut self, status: &Arc<PodStatus>) -> Result<(), kube::Error> {
        if let Some(pod) = self.mirror_of.clone()
            && !self.has_mirror
        {
            self.make_mirror(&pod).await?;
        }
        let Some(patch) = status_patch(&self.uid, &self.known, status) else { return Ok(()) };
        let pod = self.api.patch_status(&self.name, &PatchParams::default(), &Patch::Strategic(&patch)).await?;
        self.known = pod.status.unwrap_or_default();
        keep_ours(&mut self.known, status);
        Ok(())
    }

    async fn make_mirror(&mut self, pod: &Pod) -> Result<(), kube::Error> {
        let shown = match self.api.get_opt(&self.name).await? {
            Some(shown) if static_pods::shows(&shown, pod) && !pod::is_deleted(&shown) => shown,
            other => {
                if other.is_some() {
                    // An earlier version's, or one that somebody deleted: the pod itself goes on.
                    self.api.delete(&self.name, &DeleteParams::default().grace_period(0)).await?;
                }
                let node = pod::spec(pod).node_name.clone().unwrap_or_default();
                // It is the node's: the node must be registered first.
                let mut changes = self.node.subscribe();
                let uid = loop {
                    match self.node.get("", &node).and_then(|node| node.metadata.uid.clone()) {
                        Some(uid) => break uid,
                        None => drop(changes.next().await),
                    }
                };
                let mirror = static_pods::mirror(pod, &node, &uid);
                self.api.create(&PostParams::default(), &mirror).await?
            }
        };
        self.uid = pod::uid(&shown).to_owned();
        self.known = shown.status.unwrap_or_default();
        self.has_mirror = true;
        Ok(())
    }
}

/// The server's form of our values (times without fractions, quantities in short) is not a difference.
fn keep_ours(known: &mut PodStatus, ours: &PodStatus) {
    let foreign: Vec<_> = known
        .conditions
        .iter()
        .flatten()
        .filter(|condition| !CONDITIONS.contains(&condition.type_.as_str()))
        .cloned()
        .collect();
    let nominated = known.nominated_node_name.clone();
    *known = ours.clone();
    known.nominated_node_name = nominated;
    let conditions = known.conditions.get_or_insert_default();
    conditions.retain(|condition| CONDITIONS.contains(&condition.type_.as_str()));
    conditions.extend(foreign);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).expect("a status")
    }

    #[test]
    fn a_patch_says_what_differs_and_leaves_the_conditions_of_others() {
        let old = status(json!({
            "phase": "Pending", "reason": "X",
            "podIPs": [{"ip": "10.0.0.1"}],
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "gate", "status": "False"}],
            "resources": {"requests": {"cpu": "1", "memory": "1"}},
        }));
        let new = status(json!({
            "phase": "Running",
            "podIPs": [{"ip": "10.0.0.2"}],
            "conditions": [
                {"type": "Ready", "status": "True"},
                {"type": "PodScheduled", "status": "True"},
                {"type": "gate", "status": "False"},
            ],
            "resources": {"requests": {"cpu": "2"}},
        }));
        insta::assert_snapshot!(status_patch("u", &old, &new).expect("a patch").to_string(), @r#"{"metadata":{"uid":"u"},"status":{"$setElementOrder/conditions":[{"type":"Ready"},{"type":"PodScheduled"},{"type":"gate"}],"conditions":[{"lastProbeTime":null,"status":"True","type":"Ready"}],"phase":"Running","podIPs":[{"$patch":"replace"},{"ip":"10.0.0.2"}],"reason":null,"resources":{"requests":{"cpu":"2","memory":null}}}}"#);
        assert_eq!(status_patch("u", &new, &new), None);
    }
}
