//! Which volume fits a claim. Pure. Source: `pkg/volume/util` `FindMatchingVolume`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::ownership::selects;

/// A quantity in whole units, rounded up; what can't be read counts as 0.
pub fn bytes(quantity: Option<&Quantity>) -> i64 {
    quantity
        .and_then(|quantity| quantity.0.parse::<gantry_api::quantity::Quantity>().ok())
        .map(|quantity| quantity.value())
        .unwrap_or_default()
}

/// What a claim asks for, in bytes.
pub fn requested(claim: &PersistentVolumeClaim) -> i64 {
    let spec = claim.spec.as_ref();
    bytes(spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage")))
}

/// What a volume holds, in bytes.
pub fn capacity(volume: &PersistentVolume) -> i64 {
    bytes(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage")))
}

/// The class of a claim; none when it has said nothing, empty when it wants none.
pub fn claim_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotation =
        claim.metadata.annotations.as_ref().and_then(|map| map.get("volume.beta.kubernetes.io/storage-class"));
    annotation.or_else(|| claim.spec.as_ref()?.storage_class_name.as_ref()).map(String::as_str)
}

/// The class of a volume, empty for none.
pub fn volume_class(volume: &PersistentVolume) -> &str {
    let annotation =
        volume.metadata.annotations.as_ref().and_then(|map| map.get("volume.beta.kubernetes.io/storage-class"));
    annotation.or_else(|| volume.spec.as_ref()?.storage_class_name.as_ref()).map(String::as_str).unwrap_or_default()
}

/// Whether a volume is reserved for this claim, by name and, if it is given, by uid.
pub fn is_claimed_by(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && reference.uid.as_ref().is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_ref())
}

fn mode(mode: Option<&String>) -> &str {
    mode.map(String::as_str).unwrap_or("Filesystem")
}

/// Whether a volume is what a claim describes, its size aside.
fn suits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(volume_spec), Some(claim_spec)) = (volume.spec.as_ref(), claim.spec.as_ref()) else { return false };
    let modes = volume_spec.access_modes.as_deref().unwrap_or_default();
    let has_modes = claim_spec.access_modes.iter().flatten().all(|wanted| modes.contains(wanted));
    let selected =
        claim_spec.selector.as_ref().is_none_or(|selector| selects(selector, volume.metadata.labels.as_ref()));
    let attributes = |name: Option<&String>| name.map(String::as_str).unwrap_or_default().to_owned();
    has_modes
        && selected
        && mode(volume_spec.volume_mode.as_ref()) == mode(claim_spec.volume_mode.as_ref())
        && volume_class(volume) == claim_class(claim).unwrap_or_default()
        && attributes(volume_spec.volume_attributes_class_name.as_ref())
            == attributes(claim_spec.volume_attributes_class_name.as_ref())
        && volume.metadata.deletion_timestamp.is_none()
}

/// The volume for a claim: one that is reserved for it, or else the smallest that is large enough and free.
pub fn find(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>]) -> Option<Arc<PersistentVolume>> {
    let wanted = requested(claim);
    let reserved = volumes.iter().find(|volume| is_claimed_by(volume, claim) && capacity(volume) >= wanted);
    if let Some(reserved) = reserved {
        return Some(reserved.clone());
    }
    volumes
        .iter()
        .filter(|volume| volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none()))
        .filter(|volume| capacity(volume) >= wanted && suits(volume, claim))
        .filter(|volume| {
            let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
            matches!(phase, None | Some("Available" | "Pending"))
        })
        .min_by_key(|volume| (capacity(volume), volume.metadata.name.clone()))
        .cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(name: &str, size: &str, extra: Value) -> Arc<PersistentVolume> {
        let mut value = json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"], "storageClassName": "c"}, "status": {"phase": "Available"}});
        for (key, field) in extra.as_object().into_iter().flatten() {
            value["spec"][key] = field.clone();
        }
        Arc::new(serde_json::from_value(value).expect("a volume"))
    }

    #[test]
    fn the_smallest_that_fits() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"name": "claim", "namespace": "ns", "uid": "u"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "c", "resources": {"requests": {"storage": "1Gi"}}}}))
        .expect("a claim");
        let taken = json!({"claimRef": {"name": "other", "namespace": "ns"}});
        let reserved = json!({"claimRef": {"name": "claim", "namespace": "ns"}});
        let cases = [
            (
                vec![
                    volume("large", "5Gi", json!({})),
                    volume("fits", "1Gi", json!({})),
                    volume("small", "1Mi", json!({})),
                ],
                Some("fits"),
            ),
            (vec![volume("taken", "1Gi", taken), volume("large", "5Gi", json!({}))], Some("large")),
            (vec![volume("fits", "1Gi", json!({})), volume("reserved", "9Gi", reserved)], Some("reserved")),
            (vec![volume("class", "1Gi", json!({"storageClassName": "d"}))], None),
            (vec![volume("mode", "1Gi", json!({"volumeMode": "Block"}))], None),
            (vec![volume("access", "1Gi", json!({"accessModes": ["ReadOnlyMany"]}))], None),
        ];
        for (volumes, expected) in cases {
            let found = find(&claim, &volumes);
            assert_eq!(found.as_ref().and_then(|volume| volume.metadata.name.as_deref()), expected);
        }
    }
}
