//! Informers, queue and writes of the deployment controller.

use std::sync::Arc;

use gantry_client::events::reference;
use gantry_client::informer::Change;
use gantry_client::{Client, EventRecorder, Informer, Informers, ObjectKey, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use tokio_util::sync::CancellationToken;

use super::plan::{Action, Pass, plan};
use super::revision::{REVISION, same_template};
use super::rollout::set_replicas;
use super::status::{has_deadline, set_condition};
use crate::error::{ControllerError, found, status as status_of};
use crate::ownership::{self, Claim, controller_of, controller_reference, selects};
use crate::pods::is_terminal;
use crate::replica_set::{BY_CONTROLLER, ORPHANS, index_by_controller, is_namespace_terminating, message_of};
use crate::runner::{self, Reconciled};

/// How many deployments are worked on at once; upstream's `concurrent-deployment-syncs`.
const WORKERS: usize = 5;

struct Controller {
    client: Client,
    recorder: EventRecorder,
    deployments: Arc<Informer<Deployment>>,
    sets: Arc<Informer<ReplicaSet>>,
    pods: Arc<Informer<Pod>>,
}

/// Runs the controller until `stop`.
pub async fn run(client: Client, informers: Informers, stop: CancellationToken) {
    let (deployments, sets, pods) =
        (informers.get::<Deployment>(), informers.get::<ReplicaSet>(), informers.get::<Pod>());
    index_by_controller(&sets);
    index_by_controller(&pods);
    if !runner::synced(&[&deployments, &sets, &pods], &stop).await {
        return;
    }
    let recorder = EventRecorder::new(client.clone(), "deployment-controller", "");
    let controller = Arc::new(Controller {
        client,
        recorder,
        deployments: deployments.clone(),
        sets: sets.clone(),
        pods: pods.clone(),
    });
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    runner::enqueue_all(&deployments, &queue);
    let (watched, keys) = (controller.clone(), queue.clone());
    sets.on_change(move |change| watched.set_changed(change, &keys));
    let (watched, keys) = (controller.clone(), queue.clone());
    pods.on_change(move |change| watched.pod_changed(change, &keys));
    runner::run("deployment", queue, WORKERS, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
    .await;
}

fn owner_key(meta: &ObjectMeta) -> Option<ObjectKey> {
    let owner = controller_of(meta).filter(|owner| owner.kind == "Deployment")?;
    Some(ObjectKey::new(meta.namespace.clone().unwrap_or_default(), owner.name.clone()))
}

impl Controller {
    fn set_changed(&self, change: &Change<ReplicaSet>, queue: &WorkQueue<ObjectKey>) {
        let set = change.object();
        if let Change::Applied { old: Some(old), .. } = change {
            owner_key(&old.metadata).into_iter().for_each(|key| queue.add(key));
        }
        if controller_of(&set.metadata).is_some() {
            owner_key(&set.metadata).into_iter().for_each(|key| queue.add(key));
            return;
        }
        for deployment in self.deployments.list_namespace(set.metadata.namespace.as_deref().unwrap_or_default()) {
            let selector = deployment.spec.as_ref().map(|spec| &spec.selector);
            if selector.is_some_and(|selector| selects(selector, set.metadata.labels.as_ref())) {
                queue.add(ObjectKey::of(&*deployment));
            }
        }
    }

    /// With `Recreate` the new set waits for the last of the old pods.
    fn pod_changed(&self, change: &Change<Pod>, queue: &WorkQueue<ObjectKey>) {
        let gone = match change {
            Change::Deleted(pod) => Some(pod),
            Change::Applied { new, .. } => Some(new).filter(|pod| is_terminal(pod)),
        };
        let Some(owner) = gone.and_then(|pod| controller_of(&pod.metadata)).filter(|owner| owner.kind == "ReplicaSet")
        else {
            return;
        };
        let namespace = change.object().metadata.namespace.as_deref().unwrap_or_default();
        let Some(key) = self.sets.get(namespace, &owner.name).and_then(|set| owner_key(&set.metadata)) else { return };
        if self.deployments.get_key(&key).is_some_and(|deployment| !super::rollout::is_rolling(&deployment)) {
            queue.add(key);
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Reconciled {
        let Some(deployment) = self.deployments.get_key(key) else { return Ok(None) };
        let spec = deployment.spec.clone().unwrap_or_default();
        if spec.selector.match_labels.is_none() && spec.selector.match_expressions.is_none() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.warning(&reference(&*deployment), "SelectingAll", message);
            return Ok(None);
        }
        let sets = self.claim(&deployment).await?;
        let all_sets = sets.clone();
        let old_pods_running = |new: Option<&ReplicaSet>| {
            let current = new.and_then(|new| new.metadata.uid.as_deref());
            all_sets.iter().filter(|set| set.metadata.uid.as_deref() != current).any(|set| {
                let uid = set.metadata.uid.as_deref().unwrap_or_default();
                self.pods.by_index(BY_CONTROLLER, uid).iter().any(|pod| !is_terminal(pod))
            })
        };
        let now = Timestamp::now();
        let plan = plan(Pass { deployment: &deployment, sets, old_pods_running: &old_pods_running, now });
        let mut current = (*deployment).clone();
        for action in plan.actions {
            if !self.apply(key, &mut current, action, now).await? {
                return Ok(None);
            }
        }
        if deployment.status.as_ref() != Some(&plan.status) {
            self.write_status(key, &current, plan.status).await?;
        }
        Ok(plan.again)
    }

    /// The sets of a deployment; strays that match are adopted, ours that don't are let go.
    async fn claim(&self, deployment: &Deployment) -> Result<Vec<ReplicaSet>, ControllerError> {
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let Some(selector) = deployment.spec.as_ref().map(|spec| &spec.selector) else { return Ok(Vec::new()) };
        let deleting = deployment.metadata.deletion_timestamp.is_some();
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), namespace);
        let mut ours = Vec::new();
        let candidates =
            self.sets.by_index(BY_CONTROLLER, uid).into_iter().chain(self.sets.by_index(ORPHANS, namespace));
        for set in candidates {
            let matches = selects(selector, set.metadata.labels.as_ref());
            let name = set.metadata.name.as_deref().unwrap_or_default();
            let set_uid = set.metadata.uid.as_deref().unwrap_or_default();
            let patch = match ownership::claim(&set.metadata, uid, deleting, matches) {
                Claim::Ours => {
                    ours.push((*set).clone());
                    continue;
                }
                Claim::Foreign => continue,
                Claim::Adopt => ownership::adopt_patch(set_uid, &controller_reference(deployment)),
                Claim::Release => ownership::release_patch(set_uid, uid),
            };
            match api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(changed) if selects(selector, changed.metadata.labels.as_ref()) => ours.push(changed),
                Ok(_) => {}
                Err(error) if matches!(status_of(&error), Some(404 | 422)) => {}
                Err(error) => return Err(ControllerError::api("claim replica set", name)(error)),
            }
        }
        Ok(ours)
    }

    /// Carries out one action; whether the pass goes on.
    async fn apply(
        &self,
        key: &ObjectKey,
        deployment: &mut Deployment,
        action: Action,
        now: Timestamp,
    ) -> Result<bool, ControllerError> {
        let sets: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
        let name_of = |set: &ReplicaSet| set.metadata.name.clone().unwrap_or_default();
        match action {
            Action::Create(set) => return self.create(key, deployment, &sets, &set, now).await,
            Action::Scale { set, from } => {
                let (name, to) = (name_of(&set), set_replicas(&set));
                let scaled = sets.replace(&name, &PostParams::default(), &set).await;
                scaled.map_err(ControllerError::api("scale replica set", &name))?;
                self.tell_scaled(deployment, &name, from, to);
            }
            Action::Update(set) => {
                let name = name_of(&set);
                let updated = sets.replace(&name, &PostParams::default(), &set).await;
                updated.map_err(ControllerError::api("update replica set", &name))?;
            }
            Action::Delete(set) => {
                let preconditions = Preconditions { uid: set.metadata.uid.clone(), resource_version: None };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                let deleted = sets.delete(&name_of(&set), &params).await;
                found(deleted).map_err(ControllerError::api("delete replica set", name_of(&set)))?;
            }
            Action::SetRevision(revision) => {
                let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
                let mut noted = deployment.clone();
                noted.metadata.annotations.get_or_insert_default().insert(REVISION.to_owned(), revision);
                let patched = api.replace(&key.name, &PostParams::default(), &noted).await;
                *deployment = patched.map_err(ControllerError::api("note the revision of deployment", key))?;
            }
        }
        Ok(true)
    }

    fn tell_scaled(&self, deployment: &Deployment, name: &str, from: i32, to: i32) {
        let direction = if to > from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
        self.recorder.normal(&reference(deployment), "ScalingReplicaSet", message);
    }

    async fn create(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        sets: &Api<ReplicaSet>,
        set: &ReplicaSet,
        now: Timestamp,
    ) -> Result<bool, ControllerError> {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let error = match sets.create(&PostParams::default(), set).await {
            Ok(_) => {
                if set_replicas(set) > 0 {
                    self.tell_scaled(deployment, name, 0, set_replicas(set));
                }
                return Ok(true);
            }
            Err(error) => error,
        };
        let mut status = deployment.status.clone().unwrap_or_default();
        if status_of(&error) == Some(409) {
            let there = sets.get(name).await.map_err(ControllerError::api("read replica set", name))?;
            let ours = controller_of(&there.metadata)
                .is_some_and(|owner| Some(&owner.uid) == deployment.metadata.uid.as_ref());
            if ours && same_template(deployment, &there) {
                // Our own, not seen yet: the informer will bring it.
                return Ok(true);
            }
            status.collision_count = Some(status.collision_count.unwrap_or_default() + 1);
            self.write_status(key, deployment, status).await?;
            return Err(ControllerError::NotYet(format!("the name {name} is taken; another one is tried")));
        }
        if is_namespace_terminating(&error) {
            return Ok(false);
        }
        let message = format!("Failed to create new replica set \"{name}\": {}", message_of(&error));
        self.recorder.warning(&reference(deployment), "ReplicaSetCreateError", message.clone());
        if has_deadline(deployment) {
            set_condition(&mut status, "Progressing", "False", "ReplicaSetCreateError", message, now);
            self.write_status(key, deployment, status).await?;
        }
        Err(ControllerError::api("create replica set", name)(error))
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        status: DeploymentStatus,
    ) -> Result<(), ControllerError> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
        let changed = Deployment { status: Some(status), ..deployment.clone() };
        let written = api.replace_status(&key.name, &PostParams::default(), &changed).await;
        found(written).map(drop).map_err(ControllerError::api("update the status of deployment", key))
    }
}
