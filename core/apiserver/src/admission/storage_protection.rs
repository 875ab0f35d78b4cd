//! `StorageObjectInUseProtection`: a finalizer keeps volumes, claims and their attribute classes while they are in use.

use gantry_api::object::{Object, items_at, map_mut};
use serde_json::json;

use super::{AdmissionRequest, Operation};

pub(super) fn admit(request: &AdmissionRequest<'_>, object: &mut Object) {
    if request.operation != Operation::Create || !request.subresource.is_empty() {
        return;
    }
    let finalizer = match (request.resource.group.as_str(), request.resource.plural.as_str()) {
        ("", "persistentvolumes") => "kubernetes.io/pv-protection",
        ("", "persistentvolumeclaims") => "kubernetes.io/pvc-protection",
        ("storage.k8s.io", "volumeattributesclasses") => "kubernetes.io/vac-protection",
        _ => return,
    };
    let mut finalizers = items_at(object, "metadata.finalizers").to_vec();
    if !finalizers.iter().any(|item| item == finalizer) {
        finalizers.push(json!(finalizer));
        map_mut(object, "metadata").insert("finalizers".to_owned(), json!(finalizers));
    }
}
