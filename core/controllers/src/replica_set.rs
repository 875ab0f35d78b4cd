//! Replica sets: as many pods as asked for (upstream's `pkg/controller/replicaset`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use gantry_client::events::reference;
use gantry_client::informer::Change;
use gantry_client::{Client, EventRecorder, Informer, Informers, ObjectKey, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use tokio_util::sync::CancellationToken;

use crate::error::{ControllerError, status as status_of};
use crate::expectations::Expectations;
use crate::ownership::{self, Claim, controller_of, controller_reference, selects};
use crate::pods::{
    compare_for_deletion, elapsed, is_active, is_available, is_ready, is_terminating, node_name, ready_since,
};
use crate::runner::{self, Reconciled};

/// How many pods one pass makes or deletes at most; upstream's `BurstReplicas`.
const BURST_PODS: usize = 500;
/// How many replica sets are worked on at once; upstream's `concurrent-replicaset-syncs`.
const WORKERS: usize = 5;
/// Index of pods by the uid of their controller.
pub(crate) const BY_CONTROLLER: &str = "controller-uid";
/// Index of pods that nobody controls, by namespace.
pub(crate) const ORPHANS: &str = "orphans";

/// Indexes pods by who controls them.
pub(crate) fn index_by_controller<K: gantry_client::informer::Watched>(informer: &Informer<K>) {
    informer.add_index(BY_CONTROLLER, |object| {
        controller_of(object.meta()).map(|owner| owner.uid.clone()).into_iter().collect()
    });
    informer.add_index(ORPHANS, |object| match controller_of(object.meta()) {
        Some(_) => Vec::new(),
        None => object.meta().namespace.clone().into_iter().collect(),
    });
}

/// What a pass does.
#[derive(Debug, PartialEq)]
pub struct Plan {
    /// How many pods to make.
    pub create: usize,
    /// Pods to delete, in order.
    pub delete: Vec<Arc<Pod>>,
}

/// Compares what there is with what is asked for. `doubled` counts for each node the active pods of all replica sets of
/// the same owner, so that crowded nodes are thinned first.
pub fn plan(replicas: i32, active: &[Arc<Pod>], doubled: &HashMap<String, usize>, now: Timestamp) -> Plan {
    let wanted = replicas.max(0) as usize;
    if active.len() <= wanted {
        return Plan { create: (wanted - active.len()).min(BURST_PODS), delete: Vec::new() };
    }
    let surplus = (active.len() - wanted).min(BURST_PODS);
    let mut candidates = active.to_vec();
    let rank = |pod: &Pod| doubled.get(node_name(pod)).copied().unwrap_or_default();
    candidates.sort_by(|a, b| compare_for_deletion((a, rank(a)), (b, rank(b)), now));
    candidates.truncate(surplus);
    Plan { create: 0, delete: candidates }
}

/// A failure of a pass, as the status tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub reason: &'static str,
    /// What went wrong.
    pub message: String,
}

/// The status of a replica set with these pods (those it controls, terminal ones left out).
pub fn status(set: &ReplicaSet, pods: &[Arc<Pod>], failure: Option<&Failure>, now: Timestamp) -> ReplicaSetStatus {
    let spec = set.spec.clone().unwrap_or_default();
    let template_labels = spec.template.as_ref().and_then(|template| template.metadata.as_ref()?.labels.clone());
    let active: Vec<&Arc<Pod>> = pods.iter().filter(|pod| is_active(pod)).collect();
    let fully_labeled = |pod: &Pod| {
        let labels = pod.metadata.labels.as_ref();
        template_labels.iter().flatten().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
    };
    let min_ready_seconds = spec.min_ready_seconds.unwrap_or_default();
    let count = |test: &dyn Fn(&Pod) -> bool| active.iter().filter(|pod| test(pod)).count() as i32;
    let old = set.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.unwrap_or_default();
    let failing = conditions.iter().position(|condition| condition.type_ == "ReplicaFailure");
    match (failure, failing) {
        (Some(failure), None) => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".to_owned(),
            status: "True".to_owned(),
            reason: Some(failure.reason.to_owned()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(Time(now)),
        }),
        (None, Some(index)) => {
            conditions.remove(index);
        }
        _ => {}
    }
    let some = |count: i32| (count > 0).then_some(count);
    ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: some(count(&fully_labeled)),
        ready_replicas: some(count(&is_ready)),
        available_replicas: some(count(&|pod| is_available(pod, min_ready_seconds, now))),
        terminating_replicas: Some(pods.iter().filter(|pod| is_terminating(pod)).count() as i32),
        observed_generation: set.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}

/// When the next of the pods becomes available by itself.
pub fn next_available(pods: &[Arc<Pod>], min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    if min_ready_seconds <= 0 {
        return None;
    }
    let needed = Duration::from_secs(min_ready_seconds as u64);
    let waits = pods.iter().filter(|pod| is_active(pod)).filter_map(|pod| ready_since(pod));
    waits.filter_map(|since| needed.checked_sub(elapsed(since, now))).filter(|wait| !wait.is_zero()).min()
}

/// A pod made from a template. Source: `GetPodFromTemplate`.
pub fn pod_from_template(owner_name: &str, owner: OwnerReference, template: &PodTemplateSpec) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{owner_name}-")),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

struct Controller {
    client: Client,
    recorder: EventRecorder,
    sets: Arc<Informer<ReplicaSet>>,
    pods: Arc<Informer<Pod>>,
    expectations: Expectations,
}

/// Runs the controller until `stop`.
pub async fn run(client: Client, informers: Informers, stop: CancellationToken) {
    let (sets, pods) = (informers.get::<ReplicaSet>(), informers.get::<Pod>());
    index_by_controller(&pods);
    index_by_controller(&sets);
    if !runner::synced(&[&sets, &pods], &stop).await {
        return;
    }
    let recorder = EventRecorder::new(client.clone(), "replicaset-controller", "");
    let controller = Arc::new(Controller {
        client,
        recorder,
        sets: sets.clone(),
        pods: pods.clone(),
        expectations: Expectations::default(),
    });
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    let (watched, keys) = (controller.clone(), queue.clone());
    pods.on_change(move |change| watched.pod_changed(change, &keys));
    let (watched, keys) = (controller.clone(), queue.clone());
    sets.on_change(move |change| {
        let key = ObjectKey::of(&**change.object());
        if let Change::Deleted(_) = change {
            watched.expectations.forget(&key);
        }
        keys.add(key);
    });
    let keys = queue.clone();
    runner::run("replicaset", queue, WORKERS, stop, move |key| {
        let (controller, keys) = (controller.clone(), keys.clone());
        async move { controller.reconcile(&key, &keys).await }
    })
    .await;
}

impl Controller {
    fn pod_changed(&self, change: &Change<Pod>, queue: &WorkQueue<ObjectKey>) {
        let pod = change.object();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let owner_key = |owner: &OwnerReference| {
            (owner.kind == "ReplicaSet").then(|| ObjectKey::new(namespace.clone(), owner.name.clone()))
        };
        let old_owner = match change {
            Change::Applied { old: Some(old), .. } => controller_of(&old.metadata).and_then(owner_key),
            _ => None,
        };
        let owner = controller_of(&pod.metadata).and_then(owner_key);
        if let Some(old_owner) = old_owner.filter(|old| Some(old) != owner.as_ref()) {
            queue.add(old_owner);
        }
        let Some(owner) = owner else {
            if controller_of(&pod.metadata).is_none() && !matches!(change, Change::Deleted(_)) {
                for set in self.sets.list_namespace(&namespace) {
                    let selector = set.spec.as_ref().map(|spec| &spec.selector);
                    if selector.is_some_and(|selector| selects(selector, pod.metadata.labels.as_ref())) {
                        queue.add(ObjectKey::of(&*set));
                    }
                }
            }
            return;
        };
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        match change {
            Change::Deleted(_) => self.expectations.deleted(&owner, uid),
            Change::Applied { old, new } => {
                if old.is_none() {
                    self.expectations.created(&owner);
                }
                if new.metadata.deletion_timestamp.is_some() {
                    self.expectations.deleted(&owner, uid);
                }
            }
        }
        queue.add(owner);
    }

    async fn reconcile(&self, key: &ObjectKey, queue: &WorkQueue<ObjectKey>) -> Reconciled {
        let Some(set) = self.sets.get_key(key) else {
            self.expectations.forget(key);
            return Ok(None);
        };
        // Seen before the pods are counted: what arrives later comes with another key.
        let settled = self.expectations.satisfied(key, Instant::now());
        let pods = self.claim(&set).await?;
        let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| is_active(pod)).cloned().collect();
        let now = Timestamp::now();
        let failure = if settled && set.metadata.deletion_timestamp.is_none() {
            self.manage(key, &set, &active, now).await
        } else {
            None
        };
        let wanted = status(&set, &pods, failure.as_ref().map(|(failure, _)| failure), now);
        if set.status.as_ref() != Some(&wanted) {
            self.write_status(key, &set, wanted).await?;
        }
        if let Some((_, error)) = failure {
            return Err(error);
        }
        let min_ready_seconds = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or_default();
        if let Some(wait) = next_available(&active, min_ready_seconds, now) {
            queue.add_after(key.clone(), wait);
        }
        Ok(None)
    }

    /// The pods of a set, terminal ones left out; strays that match are adopted, ours that don't are let go.
    async fn claim(&self, set: &ReplicaSet) -> Result<Vec<Arc<Pod>>, ControllerError> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let Some(selector) = set.spec.as_ref().map(|spec| &spec.selector) else { return Ok(Vec::new()) };
        let candidates =
            self.pods.by_index(BY_CONTROLLER, uid).into_iter().chain(self.pods.by_index(ORPHANS, namespace));
        let deleting = set.metadata.deletion_timestamp.is_some();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut ours = Vec::new();
        for pod in candidates.filter(|pod| !crate::pods::is_terminal(pod)) {
            let matches = selects(selector, pod.metadata.labels.as_ref());
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let pod_uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let patch = match ownership::claim(&pod.metadata, uid, deleting, matches) {
                Claim::Ours => {
                    ours.push(pod);
                    continue;
                }
                Claim::Foreign => continue,
                Claim::Adopt => ownership::adopt_patch(pod_uid, &controller_reference(set)),
                Claim::Release => ownership::release_patch(pod_uid, uid),
            };
            match api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(changed) if selects(selector, changed.metadata.labels.as_ref()) => ours.push(Arc::new(changed)),
                Ok(_) => {}
                // Gone or replaced in between.
                Err(error) if matches!(status_of(&error), Some(404 | 422)) => {}
                Err(error) => return Err(ControllerError::api("claim pod", name)(error)),
            }
        }
        Ok(ours)
    }

    /// Makes or deletes pods; what went wrong, for the status and for the retry.
    async fn manage(
        &self,
        key: &ObjectKey,
        set: &ReplicaSet,
        active: &[Arc<Pod>],
        now: Timestamp,
    ) -> Option<(Failure, ControllerError)> {
        let spec = set.spec.as_ref()?;
        let plan = plan(spec.replicas.unwrap_or(1), active, &self.doubled(set), now);
        if plan.create > 0 {
            return self.create(key, set, spec.template.as_ref()?, plan.create).await;
        }
        if plan.delete.is_empty() {
            return None;
        }
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
        self.expectations.expect(key, 0, plan.delete.iter().map(|pod| uid(pod)), Instant::now());
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let deletions = plan.delete.iter().map(|pod| {
            let api = api.clone();
            async move {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                match api.delete(name, &params).await {
                    Ok(_) => {
                        self.recorder.normal(&reference(set), "SuccessfulDelete", format!("Deleted pod: {name}"));
                        None
                    }
                    Err(error) => {
                        self.expectations.deleted(key, &uid(pod));
                        if status_of(&error) == Some(404) {
                            return None;
                        }
                        self.recorder.warning(&reference(set), "FailedDelete", format!("Error deleting: {error}"));
                        Some((name.to_owned(), error))
                    }
                }
            }
        });
        let (name, error) = join_all(deletions).await.into_iter().flatten().next()?;
        let failure = Failure { reason: "FailedDelete", message: message_of(&error) };
        Some((failure, ControllerError::api("delete pod", name)(error)))
    }

    /// Makes pods in batches that double, so that a set whose pods are refused costs one request, not hundreds.
    async fn create(
        &self,
        key: &ObjectKey,
        set: &ReplicaSet,
        template: &PodTemplateSpec,
        count: usize,
    ) -> Option<(Failure, ControllerError)> {
        self.expectations.expect(key, count, [], Instant::now());
        let pod = pod_from_template(&key.name, controller_reference(set), template);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PostParams::default();
        let (mut made, mut batch) = (0, 1);
        while made < count {
            let size = batch.min(count - made);
            let results = join_all((0..size).map(|_| api.create(&params, &pod))).await;
            made += size;
            batch *= 2;
            let mut failed = None;
            for result in results {
                match result {
                    Ok(pod) => {
                        let name = pod.metadata.name.unwrap_or_default();
                        self.recorder.normal(&reference(set), "SuccessfulCreate", format!("Created pod: {name}"));
                    }
                    Err(error) => {
                        self.expectations.created(key);
                        failed = Some(error);
                    }
                }
            }
            if let Some(error) = failed {
                // Those that weren't tried won't be seen either.
                (made..count).for_each(|_| self.expectations.created(key));
                if is_namespace_terminating(&error) {
                    return None;
                }
                let message = message_of(&error);
                self.recorder.warning(&reference(set), "FailedCreate", format!("Error creating: {message}"));
                let failure = Failure { reason: "FailedCreate", message };
                return Some((failure, ControllerError::api("create a pod for replica set", key)(error)));
            }
        }
        None
    }

    /// For each node, how many active pods the sets of this set's owner have there.
    fn doubled(&self, set: &ReplicaSet) -> HashMap<String, usize> {
        let siblings = match controller_of(&set.metadata) {
            Some(owner) => self.sets.by_index(BY_CONTROLLER, &owner.uid),
            None => vec![Arc::new(set.clone())],
        };
        let mut counts: HashMap<String, usize> = HashMap::new();
        for sibling in siblings {
            let uid = sibling.metadata.uid.as_deref().unwrap_or_default();
            for pod in self.pods.by_index(BY_CONTROLLER, uid).iter().filter(|pod| is_active(pod)) {
                *counts.entry(node_name(pod).to_owned()).or_default() += 1;
            }
        }
        counts
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        set: &ReplicaSet,
        status: ReplicaSetStatus,
    ) -> Result<(), ControllerError> {
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
        let changed = ReplicaSet { status: Some(status), ..set.clone() };
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Ok(_) => Ok(()),
            Err(error) if status_of(&error) == Some(404) => Ok(()),
            Err(error) => Err(ControllerError::api("update the status of replica set", key)(error)),
        }
    }
}

/// What the API server said, without what the client adds.
pub(crate) fn message_of(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Whether the namespace is going: nothing can be made there, and nobody needs to be told.
pub(crate) fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pods(count: usize) -> Vec<Arc<Pod>> {
        let pod = |index: usize| {
            let value = json!({"metadata": {"name": format!("p{index}"), "uid": format!("u{index}"), "labels": {"a": "1"}},
                "spec": {"nodeName": "n", "containers": []},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            Arc::new(serde_json::from_value(value).expect("a pod"))
        };
        (0..count).map(pod).collect()
    }

    #[test]
    fn plans() {
        let now = Timestamp::UNIX_EPOCH;
        for (replicas, there, create, delete) in
            [(3, 0, 3, 0), (3, 3, 0, 0), (1, 3, 0, 2), (0, 2, 0, 2), (900, 1, 500, 0)]
        {
            let plan = plan(replicas, &pods(there), &HashMap::new(), now);
            assert_eq!((plan.create, plan.delete.len()), (create, delete), "{replicas} of {there}");
        }
    }

    #[test]
    fn the_status_counts_pods() {
        let now: Timestamp = "2026-01-01T00:00:05Z".parse().expect("a time");
        let set: ReplicaSet = serde_json::from_value(json!({
            "metadata": {"generation": 2},
            "spec": {"minReadySeconds": 10, "selector": {}, "template": {"metadata": {"labels": {"a": "1"}}}}
        }))
        .expect("a replica set");
        let mut pods = pods(3);
        let leaving = Pod {
            metadata: ObjectMeta { deletion_timestamp: Some(Time(now)), ..pods[0].metadata.clone() },
            ..(*pods[0]).clone()
        };
        pods[0] = Arc::new(leaving);
        let failure = Failure { reason: "FailedCreate", message: "no".to_owned() };
        let status = status(&set, &pods, Some(&failure), now);
        insta::assert_json_snapshot!(status, @r#"
        {
          "conditions": [
            {
              "lastTransitionTime": "2026-01-01T00:00:05Z",
              "message": "no",
              "reason": "FailedCreate",
              "status": "True",
              "type": "ReplicaFailure"
            }
          ],
          "fullyLabeledReplicas": 2,
          "observedGeneration": 2,
          "readyReplicas": 2,
          "replicas": 2,
          "terminatingReplicas": 1
        }
        "#);
        assert_eq!(next_available(&pods, 10, now), Some(Duration::from_secs(5)));
    }
}
