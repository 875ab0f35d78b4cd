//! `PersistentVolumeClaimResize`: only bound claims of a class that allows it may grow.

use gantry_api::error::ApiError;
use gantry_api::object::{Object, at, bool_at, str_at};
use gantry_api::quantity::Quantity;

use super::{AdmissionRequest, ObjectReader, Operation};

pub(super) fn validate(
    request: &AdmissionRequest<'_>,
    claim: &Object,
    old: Option<&Object>,
    reader: &dyn ObjectReader,
) -> Result<(), ApiError> {
    let Some(old) = old else { return Ok(()) };
    if request.operation != Operation::Update || !request.is_for_object("", "persistentvolumeclaims") {
        return Ok(());
    }
    let size = |claim: &Object| str_at(claim, "spec.resources.requests.storage").parse::<Quantity>().ok();
    let (Some(new_size), Some(old_size)) = (size(claim), size(old)) else { return Ok(()) };
    if new_size <= old_size {
        return Ok(());
    }
    if str_at(old, "status.phase") != "Bound" {
        return Err(request.forbidden(claim, "Only bound persistent volume claims can be expanded"));
    }
    let (name, old_name) = (class(claim), class(old));
    let grows = !name.is_empty()
        && name == old_name
        && reader
            .get("storage.k8s.io", "storageclasses", "", name)
            .is_some_and(|class| bool_at(&class, "allowVolumeExpansion"));
    if grows {
        return Ok(());
    }
    let cause = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    Err(request.forbidden(claim, cause))
}

fn class(claim: &Object) -> &str {
    let old_way = at(claim, "metadata.annotations")["volume.beta.kubernetes.io/storage-class"].as_str();
    old_way.unwrap_or_else(|| str_at(claim, "spec.storageClassName"))
}
