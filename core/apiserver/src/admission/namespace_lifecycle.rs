//! `NamespaceLifecycle`: nothing new in a namespace that is missing or going; some namespaces stay for ever.

use gantry_api::error::ApiError;
use gantry_api::object::{Object, str_at};

use super::{AdmissionRequest, ObjectReader, Operation};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) fn admit(
    request: &AdmissionRequest<'_>,
    object: &Object,
    reader: &dyn ObjectReader,
) -> Result<(), ApiError> {
    if request.is_for("", "namespaces") {
        if request.operation == Operation::Delete && IMMORTAL.contains(&request.name) {
            return Err(ApiError::forbidden(request.resource, request.name, "this namespace may not be deleted"));
        }
        return Ok(());
    }
    let namespace = request.namespace;
    let access_review = request.is_for("authorization.k8s.io", "localsubjectaccessreviews");
    if namespace.is_empty() || access_review || matches!(request.operation, Operation::Delete | Operation::Connect) {
        // An answer about the namespace would tell someone who may not see it that it is there.
        return Ok(());
    }
    let Some(live) = reader.get("", "namespaces", "", namespace) else {
        return Err(ApiError::not_found(("", "namespaces"), namespace));
    };
    if request.operation != Operation::Create || str_at(&live, "status.phase") != "Terminating" {
        return Ok(());
    }
    let cause = format!("unable to create new content in namespace {namespace} because it is being terminated");
    Err(request.forbidden(object, cause).with_cause(
        "NamespaceTerminating",
        format!("namespace {namespace} is being terminated"),
        "metadata.namespace",
    ))
}
