//! Informers, queue and writes of the persistent volume binder.

use std::sync::Arc;

use gantry_client::events::reference;
use gantry_client::{Client, EventRecorder, Informer, Informers, ObjectKey, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::PostParams;
use kube::{Api, Resource};
use tokio_util::sync::CancellationToken;

use super::binder::{
    BOUND_BY_CONTROLLER, ClaimStep, STORAGE_PROVISIONER, STORAGE_PROVISIONER_BETA, Told, VolumeStep, bound_claim,
    bound_status, bound_volume, claim_step, volume_step,
};
use super::matching::{claim_class, is_claimed_by};
use crate::error::{ControllerError, found};
use crate::pods::{is_terminal, node_name};
use crate::runner::{self, Reconciled};

/// Index of pods by the claims they use, as `NAMESPACE/NAME`.
pub(super) const BY_CLAIM: &str = "claim";

/// The claims that a pod uses, those of its generic ephemeral volumes included.
pub(super) fn claims_of(pod: &Pod) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(format!("{namespace}/{}", claim.claim_name)),
            (None, Some(_)) => Some(format!("{namespace}/{name}-{}", volume.name)),
            (None, None) => None,
        })
        .collect()
}

/// What is worked on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Claim(ObjectKey),
    Volume(String),
}

struct Controller {
    client: Client,
    recorder: EventRecorder,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    volumes: Arc<Informer<PersistentVolume>>,
    classes: Arc<Informer<StorageClass>>,
    pods: Arc<Informer<Pod>>,
    queue: WorkQueue<Work>,
}

/// Runs the controller until `stop`.
pub async fn run(client: Client, informers: Informers, stop: CancellationToken) {
    let controller = Arc::new(Controller {
        recorder: EventRecorder::new(client.clone(), "persistentvolume-controller", ""),
        client,
        claims: informers.get(),
        volumes: informers.get(),
        classes: informers.get(),
        pods: informers.get(),
        queue: WorkQueue::new(),
    });
    controller.pods.add_index(BY_CLAIM, claims_of);
    let all = (&controller.claims, &controller.volumes, &controller.classes, &controller.pods);
    if !runner::synced(&[all.0, all.1, all.2, all.3], &stop).await {
        return;
    }
    let queue = controller.queue.clone();
    let (keys, watched) = (queue.clone(), controller.clone());
    controller.claims.on_change(move |change| {
        let claim = change.object();
        keys.add(Work::Claim(ObjectKey::of(&**claim)));
        for volume in watched.volumes.list().iter().filter(|volume| is_claimed_by(volume, claim)) {
            keys.add(Work::Volume(volume.metadata.name.clone().unwrap_or_default()));
        }
    });
    let (keys, watched) = (queue.clone(), controller.clone());
    controller.volumes.on_change(move |change| {
        let volume = change.object();
        keys.add(Work::Volume(volume.metadata.name.clone().unwrap_or_default()));
        watched.ask_claims(volume);
    });
    let (keys, watched) = (queue.clone(), controller.clone());
    controller.classes.on_change(move |change| {
        let name = change.object().metadata.name.as_deref();
        for claim in watched.claims.list().iter().filter(|claim| claim_class(claim) == name && !is_bound(claim)) {
            keys.add(Work::Claim(ObjectKey::of(&**claim)));
        }
    });
    // One worker: what one claim takes the next mustn't.
    runner::run("persistentvolume-binder", queue, 1, stop, move |work| {
        let controller = controller.clone();
        async move {
            match work {
                Work::Claim(key) => controller.reconcile_claim(&key).await,
                Work::Volume(name) => controller.reconcile_volume(&name).await,
            }
        }
    })
    .await;
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

impl Controller {
    /// A volume changed: its claim wants to know, and if it has none, every claim that waits for one.
    fn ask_claims(&self, volume: &PersistentVolume) {
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        match reference {
            Some(reference) => {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                self.queue.add(Work::Claim(ObjectKey::new(text(&reference.namespace), text(&reference.name))));
            }
            None => {
                for claim in self.claims.list().iter().filter(|claim| !is_bound(claim)) {
                    self.queue.add(Work::Claim(ObjectKey::of(&**claim)));
                }
            }
        }
    }

    fn tell<K: Resource<DynamicType = ()>>(&self, object: &K, told: Option<Told>) {
        if let Some(told) = told {
            let about = reference(object);
            if told.warning {
                self.recorder.warning(&about, told.reason, told.message);
            } else {
                self.recorder.normal(&about, told.reason, told.message);
            }
        }
    }

    async fn reconcile_claim(&self, key: &ObjectKey) -> Reconciled {
        let Some(claim) = self.claims.get_key(key) else { return Ok(None) };
        let class = claim_class(&claim).and_then(|name| self.classes.get("", name));
        let consumers = self.pods.by_index(BY_CLAIM, &key.to_string());
        let consumer = consumers.iter().find(|pod| node_name(pod).is_empty() && !is_terminal(pod));
        let consumer = consumer.and_then(|pod| pod.metadata.name.as_deref());
        match claim_step(&claim, &self.volumes.list(), class.as_deref(), consumer) {
            ClaimStep::Bind(volume) => self.bind(key, &claim, &volume).await?,
            ClaimStep::Pending(told) => {
                self.tell(&*claim, told);
                self.set_phase(key, &claim, "Pending").await?;
            }
            ClaimStep::Lost(told) => {
                if claim.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Lost") {
                    self.tell(&*claim, told);
                }
                self.set_phase(key, &claim, "Lost").await?;
            }
            ClaimStep::Provision { provisioner, told } => {
                let claim = self.ask_provisioner(key, &claim, &provisioner).await?;
                self.tell(&claim, told);
                self.set_phase(key, &claim, "Pending").await?;
            }
        }
        Ok(None)
    }

    fn claim_api(&self, key: &ObjectKey) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    async fn ask_provisioner(
        &self,
        key: &ObjectKey,
        claim: &PersistentVolumeClaim,
        provisioner: &str,
    ) -> Result<PersistentVolumeClaim, ControllerError> {
        let asked = claim.metadata.annotations.as_ref().and_then(|map| map.get(STORAGE_PROVISIONER));
        if asked.map(String::as_str) == Some(provisioner) {
            return Ok(claim.clone());
        }
        let mut asking = claim.clone();
        let annotations = asking.metadata.annotations.get_or_insert_default();
        annotations.insert(STORAGE_PROVISIONER.to_owned(), provisioner.to_owned());
        annotations.insert(STORAGE_PROVISIONER_BETA.to_owned(), provisioner.to_owned());
        let patched = self.claim_api(key).replace(&key.name, &PostParams::default(), &asking).await;
        patched.map_err(ControllerError::api("ask a provisioner for claim", key))
    }

    async fn set_phase(
        &self,
        key: &ObjectKey,
        claim: &PersistentVolumeClaim,
        phase: &str,
    ) -> Result<(), ControllerError> {
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase) {
            return Ok(());
        }
        let mut changed = claim.clone();
        changed.status.get_or_insert_default().phase = Some(phase.to_owned());
        let patched = self.claim_api(key).replace_status(&key.name, &PostParams::default(), &changed).await;
        found(patched).map(drop).map_err(ControllerError::api("update the phase of claim", key))
    }

    /// The volume first: whoever has written its `claimRef` has it.
    async fn bind(
        &self,
        key: &ObjectKey,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<(), ControllerError> {
        let params = PostParams::default();
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let mut volume = volume.clone();
        if let Some(bound) = bound_volume(&volume, claim) {
            let replaced = volumes.replace(name, &params, &bound).await;
            volume = replaced.map_err(ControllerError::api("bind volume", name))?;
        }
        self.set_volume_phase(&volume, "Bound", None).await?;
        let mut claim = claim.clone();
        if let Some(bound) = bound_claim(&claim, &volume) {
            let replaced = self.claim_api(key).replace(&key.name, &params, &bound).await;
            claim = replaced.map_err(ControllerError::api("bind claim", key))?;
        }
        if let Some(status) = bound_status(&claim, &volume) {
            let status: PersistentVolumeClaimStatus = status;
            let changed = PersistentVolumeClaim { status: Some(status), ..claim };
            let replaced = self.claim_api(key).replace_status(&key.name, &params, &changed).await;
            replaced.map_err(ControllerError::api("update the status of claim", key))?;
        }
        Ok(())
    }

    async fn set_volume_phase(
        &self,
        volume: &PersistentVolume,
        phase: &str,
        message: Option<&str>,
    ) -> Result<(), ControllerError> {
        let status = volume.status.as_ref();
        let there = (status.and_then(|it| it.phase.as_deref()), status.and_then(|it| it.message.as_deref()));
        if there == (Some(phase), message) {
            return Ok(());
        }
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let mut changed = volume.clone();
        let status = changed.status.get_or_insert_default();
        status.phase = Some(phase.to_owned());
        status.message = message.map(str::to_owned);
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let patched = api.replace_status(name, &PostParams::default(), &changed).await;
        found(patched).map(drop).map_err(ControllerError::api("update the phase of volume", name))
    }

    async fn reconcile_volume(&self, name: &str) -> Reconciled {
        let Some(volume) = self.volumes.get("", name) else { return Ok(None) };
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let key = reference.map(|reference| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            ObjectKey::new(text(&reference.namespace), text(&reference.name))
        });
        let mut claim = key.as_ref().and_then(|key| self.claims.get_key(key)).map(|claim| (*claim).clone());
        if let Some(key) = key.as_ref().filter(|_| claim.is_none()) {
            // Before data is given up, the API server is asked: the view may be behind.
            let read = self.claim_api(key).get_opt(&key.name).await;
            claim = read.map_err(ControllerError::api("read claim", key))?;
        }
        match volume_step(&volume, claim.as_ref()) {
            VolumeStep::Phase(phase) => {
                self.set_volume_phase(&volume, phase, None).await?;
            }
            VolumeStep::Undeletable(message) => {
                let failed = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Failed");
                if !failed {
                    self.tell(
                        &*volume,
                        Some(Told { warning: true, reason: "VolumeFailedDelete", message: message.clone() }),
                    );
                }
                self.set_volume_phase(&volume, "Failed", Some(&message)).await?;
            }
            VolumeStep::AskClaim => key.into_iter().for_each(|key| self.queue.add(Work::Claim(key))),
            VolumeStep::Free => {
                let mut freed = (*volume).clone();
                freed.spec.get_or_insert_default().claim_ref = None;
                freed.metadata.annotations.get_or_insert_default().remove(BOUND_BY_CONTROLLER);
                let api: Api<PersistentVolume> = Api::all(self.client.clone());
                let replaced = api.replace(name, &PostParams::default(), &freed).await;
                let freed = replaced.map_err(ControllerError::api("free volume", name))?;
                self.set_volume_phase(&freed, "Available", None).await?;
            }
        }
        Ok(None)
    }
}
