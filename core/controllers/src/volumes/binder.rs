//! What to do about a claim or a volume. Pure. Source: `pkg/controller/volume/persistentvolume/pv_controller.go`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus,
};
use k8s_openapi::api::storage::v1::StorageClass;

use super::matching::{capacity, claim_class, find, is_claimed_by, requested};

/// Annotation of a claim whose binding is complete.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Annotation of what the controller, and not a user, has bound.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Annotation of a claim for which a provisioner is asked.
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The same, as older provisioners know it.
pub const STORAGE_PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// Annotation with the node that the scheduler chose for the first consumer.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Annotation of a volume that a provisioner made.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// A provisioner that makes nothing: volumes come from elsewhere.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// An event to record on the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whether it is a warning.
    pub warning: bool,
    /// Its reason.
    pub reason: &'static str,
    /// Its text.
    pub message: String,
}

fn told(reason: &'static str, message: impl Into<String>) -> Option<Told> {
    Some(Told { warning: false, reason, message: message.into() })
}

fn warned(reason: &'static str, message: impl Into<String>) -> Option<Told> {
    Some(Told { warning: true, reason, message: message.into() })
}

/// What to do about a claim.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimStep {
    /// Bind it to this volume, or go on binding it.
    Bind(Arc<PersistentVolume>),
    /// It waits; tell why.
    Pending(Option<Told>),
    /// It waits for a provisioner, which is to be asked by annotation.
    Provision {
        /// The provisioner.
        provisioner: String,
        /// Word of it.
        told: Option<Told>,
    },
    /// Its volume is gone or somebody else's.
    Lost(Option<Told>),
}

fn annotation<'a>(claim: &'a PersistentVolumeClaim, key: &str) -> Option<&'a str> {
    claim.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether a pod has to choose a node first.
fn waits_for_consumer(class: Option<&StorageClass>) -> bool {
    class.and_then(|class| class.volume_binding_mode.as_deref()) == Some("WaitForFirstConsumer")
}

/// Decides about a claim. `class` is the class it names, if there is one of that name; `consumer` a pod that uses it and
/// hasn't got a node yet.
pub fn claim_step(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    class: Option<&StorageClass>,
    consumer: Option<&str>,
) -> ClaimStep {
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    let named = volumes.iter().find(|volume| volume.metadata.name.as_deref() == Some(name));
    let reference = |volume: &PersistentVolume| volume.spec.as_ref().and_then(|spec| spec.claim_ref.clone());
    if annotation(claim, BIND_COMPLETED).is_some() {
        return match named {
            None => ClaimStep::Lost(warned(
                "ClaimLost",
                "Bound claim has lost its PersistentVolume. Data on this volume is lost!",
            )),
            Some(volume) if reference(volume).is_none() || is_claimed_by(volume, claim) => {
                ClaimStep::Bind(volume.clone())
            }
            Some(_) => ClaimStep::Lost(warned(
                "ClaimMisbound",
                "Two claims are bound to the same volume, this one is bound incorrectly",
            )),
        };
    }
    if !name.is_empty() {
        return match named {
            None => ClaimStep::Pending(warned("FailedBinding", format!("volume \"{name}\" not found"))),
            Some(volume) if reference(volume).is_none() => match misfit(claim, volume) {
                None => ClaimStep::Bind(volume.clone()),
                Some(why) => ClaimStep::Pending(warned("VolumeMismatch", why)),
            },
            Some(volume) if is_claimed_by(volume, claim) => ClaimStep::Bind(volume.clone()),
            Some(_) => ClaimStep::Pending(warned(
                "FailedBinding",
                format!("volume \"{name}\" already bound to a different claim."),
            )),
        };
    }
    let delayed = waits_for_consumer(class) && annotation(claim, SELECTED_NODE).is_none();
    let fitting = if delayed {
        // Only a volume that somebody reserved for it: the rest is the scheduler's choice.
        volumes.iter().find(|volume| is_claimed_by(volume, claim) && capacity(volume) >= requested(claim)).cloned()
    } else {
        find(claim, volumes)
    };
    if let Some(volume) = fitting {
        return ClaimStep::Bind(volume);
    }
    if delayed {
        return ClaimStep::Pending(match consumer {
            None => told("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
            Some(pod) => told("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
        });
    }
    let class_name = claim_class(claim).unwrap_or_default();
    if class_name.is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        return ClaimStep::Pending(told("FailedBinding", message));
    }
    match class {
        None => {
            let message = format!("storageclass.storage.k8s.io \"{class_name}\" not found");
            ClaimStep::Pending(warned("ProvisioningFailed", message))
        }
        Some(class) if class.provisioner == NO_PROVISIONER => ClaimStep::Pending(None),
        Some(class) => ClaimStep::Provision {
            provisioner: class.provisioner.clone(),
            told: told(
                "ExternalProvisioning",
                format!(
                    "Waiting for a volume to be created either by the external provisioner '{}' or manually by the \
                     system administrator. If volume creation is delayed, please verify that the provisioner is \
                     running and correctly registered.",
                    class.provisioner
                ),
            ),
        },
    }
}

/// Why a volume that a user named can't be bound.
fn misfit(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    if capacity(volume) < requested(claim) {
        return Some(format!("Cannot bind to requested volume \"{name}\": requested PV is too small"));
    }
    if super::matching::volume_class(volume) != claim_class(claim).unwrap_or_default() {
        return Some(format!("Cannot bind to requested volume \"{name}\": storageClassName does not match"));
    }
    let mode = |mode: Option<&String>| mode.map(String::as_str).unwrap_or("Filesystem").to_owned();
    let (volume_spec, claim_spec) = (volume.spec.as_ref()?, claim.spec.as_ref()?);
    if mode(volume_spec.volume_mode.as_ref()) != mode(claim_spec.volume_mode.as_ref()) {
        return Some(format!("Cannot bind to requested volume \"{name}\": incompatible volumeMode"));
    }
    let modes = volume_spec.access_modes.as_deref().unwrap_or_default();
    let fits = claim_spec.access_modes.iter().flatten().all(|wanted| modes.contains(wanted));
    (!fits).then(|| format!("Cannot bind to requested volume \"{name}\": incompatible accessMode"))
}

/// The volume bound to the claim; none when it is already.
pub fn bound_volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let reference = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        field_path: None,
    };
    let old = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if old.is_some_and(|old| old.uid.is_some() && old.uid == reference.uid) {
        return None;
    }
    let mut bound = volume.clone();
    if old.is_none() {
        let annotations = bound.metadata.annotations.get_or_insert_default();
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    bound.spec.get_or_insert_default().claim_ref = Some(reference);
    Some(bound)
}

/// The claim bound to the volume; none when it is already.
pub fn bound_claim(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<PersistentVolumeClaim> {
    let mut bound = claim.clone();
    let annotations = bound.metadata.annotations.get_or_insert_default();
    let spec = bound.spec.get_or_insert_default();
    if spec.volume_name != volume.metadata.name {
        if spec.volume_name.as_ref().is_none_or(String::is_empty) {
            annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
        }
        spec.volume_name = volume.metadata.name.clone();
    }
    annotations.entry(BIND_COMPLETED.to_owned()).or_insert_with(|| "yes".to_owned());
    (bound.spec != claim.spec || bound.metadata.annotations != claim.metadata.annotations).then_some(bound)
}

/// The status of a bound claim; none when it has it already.
pub fn bound_status(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<PersistentVolumeClaimStatus> {
    let old = claim.status.clone().unwrap_or_default();
    let mut status = old.clone();
    status.phase = Some("Bound".to_owned());
    status.access_modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.clone());
    // Later sizes are the resizer's.
    if old.phase.as_deref() != Some("Bound") || old.capacity.is_none() {
        status.capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.clone());
    }
    if status.current_volume_attributes_class_name.is_none() {
        status.current_volume_attributes_class_name =
            volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    }
    (status != old).then_some(status)
}

/// What to do about a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeStep {
    /// This is its phase.
    Phase(&'static str),
    /// Its claim is gone and it was to go with it, but nobody knows how.
    Undeletable(String),
    /// Its claim took another volume: it is free again.
    Free,
    /// Its claim hasn't come that far: look at the claim.
    AskClaim,
}

/// Decides about a volume. `claim` is the claim it names, if there is one of that name.
pub fn volume_step(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> VolumeStep {
    let Some(spec) = volume.spec.as_ref() else { return VolumeStep::Phase("Available") };
    let Some(reference) = spec.claim_ref.as_ref() else { return VolumeStep::Phase("Available") };
    let Some(uid) = reference.uid.as_deref().filter(|uid| !uid.is_empty()) else {
        return VolumeStep::Phase("Available");
    };
    let claim = claim.filter(|claim| claim.metadata.uid.as_deref() == Some(uid));
    let Some(claim) = claim else {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let deletes = spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
        let provisioned = volume.metadata.annotations.as_ref().is_some_and(|map| map.contains_key(PROVISIONED_BY));
        return if deletes && !provisioned && spec.csi.is_none() {
            VolumeStep::Undeletable(format!(
                "error getting deleter volume plugin for volume \"{name}\": no deletable volume plugin matched"
            ))
        } else {
            VolumeStep::Phase("Released")
        };
    };
    match claim.spec.as_ref().and_then(|spec| spec.volume_name.as_ref()) {
        None => VolumeStep::AskClaim,
        Some(name) if name.is_empty() => VolumeStep::AskClaim,
        Some(name) if Some(name) == volume.metadata.name.as_ref() => VolumeStep::Phase("Bound"),
        Some(_) => {
            let ours = volume.metadata.annotations.as_ref().is_some_and(|map| map.contains_key(BOUND_BY_CONTROLLER));
            if ours { VolumeStep::Free } else { VolumeStep::Phase("Released") }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(spec: Value, annotations: Value) -> PersistentVolumeClaim {
        let mut value = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u", "annotations": annotations},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
        for (key, field) in spec.as_object().into_iter().flatten() {
            value["spec"][key] = field.clone();
        }
        serde_json::from_value(value).expect("a claim")
    }

    fn volume(spec: Value) -> Arc<PersistentVolume> {
        let mut value = json!({"metadata": {"name": "v"}, "status": {"phase": "Available"},
            "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "storageClassName": "now"}});
        for (key, field) in spec.as_object().into_iter().flatten() {
            value["spec"][key] = field.clone();
        }
        Arc::new(serde_json::from_value(value).expect("a volume"))
    }

    fn reason(step: &ClaimStep) -> String {
        let show = |kind: &str, told: &Option<Told>| {
            format!("{kind} {}", told.as_ref().map(|told| told.reason).unwrap_or_default()).trim().to_owned()
        };
        match step {
            ClaimStep::Bind(volume) => format!("bind {}", volume.metadata.name.clone().unwrap_or_default()),
            ClaimStep::Pending(told) => show("pending", told),
            ClaimStep::Provision { told, .. } => show("provision", told),
            ClaimStep::Lost(told) => show("lost", told),
        }
    }

    #[test]
    fn claims_take_upstreams_steps() {
        let class = |mode: &str| -> StorageClass {
            serde_json::from_value(json!({"metadata": {"name": "now"}, "provisioner": "p", "volumeBindingMode": mode}))
                .expect("a class")
        };
        let (now, wait) = (class("Immediate"), class("WaitForFirstConsumer"));
        let of_class = json!({"storageClassName": "now"});
        let other = json!({"claimRef": {"name": "other", "namespace": "ns", "uid": "o"}});
        type Case<'a> = (Value, Value, Vec<Arc<PersistentVolume>>, Option<&'a StorageClass>, &'a str);
        let cases: [Case<'_>; 11] = [
            (json!({}), json!({}), vec![], None, "pending FailedBinding"),
            (of_class.clone(), json!({}), vec![volume(json!({}))], Some(&now), "bind v"),
            (of_class.clone(), json!({}), vec![], Some(&now), "provision ExternalProvisioning"),
            (of_class.clone(), json!({}), vec![], None, "pending ProvisioningFailed"),
            (of_class.clone(), json!({}), vec![volume(json!({}))], Some(&wait), "pending WaitForFirstConsumer"),
            (of_class.clone(), json!({SELECTED_NODE: "n"}), vec![], Some(&wait), "provision ExternalProvisioning"),
            (json!({"volumeName": "v"}), json!({}), vec![], None, "pending FailedBinding"),
            (json!({"volumeName": "v"}), json!({}), vec![volume(other.clone())], None, "pending FailedBinding"),
            (json!({"volumeName": "v"}), json!({}), vec![volume(json!({}))], None, "pending VolumeMismatch"),
            (json!({"volumeName": "v"}), json!({BIND_COMPLETED: "yes"}), vec![], None, "lost ClaimLost"),
            (
                json!({"volumeName": "v"}),
                json!({BIND_COMPLETED: "yes"}),
                vec![volume(other)],
                None,
                "lost ClaimMisbound",
            ),
        ];
        for (spec, annotations, volumes, class, expected) in cases {
            let step = claim_step(&claim(spec.clone(), annotations.clone()), &volumes, class, None);
            assert_eq!(reason(&step), expected, "{spec} {annotations}");
        }
    }

    #[test]
    fn binding_is_done_once() {
        let claim = claim(json!({}), json!({}));
        let volume = volume(json!({}));
        let bound = bound_volume(&volume, &claim).expect("a change");
        assert_eq!(bound.metadata.annotations.as_ref().expect("annotations")[BOUND_BY_CONTROLLER], "yes");
        assert_eq!(bound_volume(&bound, &claim), None);
        let bound_to = bound_claim(&claim, &bound).expect("a change");
        assert_eq!(bound_claim(&bound_to, &bound), None);
        let status = bound_status(&bound_to, &bound).expect("a change");
        let done = PersistentVolumeClaim { status: Some(status), ..bound_to.clone() };
        assert_eq!(bound_status(&done, &bound), None);
        assert_eq!(volume_step(&bound, Some(&done)), VolumeStep::Phase("Bound"));
        assert_eq!(volume_step(&bound, None), VolumeStep::Phase("Released"));
    }
}
