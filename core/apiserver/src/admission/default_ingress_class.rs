//! `DefaultIngressClass`: the class of ingresses that name none.

use gantry_api::object::{Object, at, map_mut};
use serde_json::json;

use super::default_storage_class::newest_default;
use super::{AdmissionRequest, ObjectReader, Operation};

const GROUP: &str = "networking.k8s.io";

pub(super) fn admit(request: &AdmissionRequest<'_>, ingress: &mut Object, reader: &dyn ObjectReader) {
    if request.operation != Operation::Create || !request.is_for_object(GROUP, "ingresses") {
        return;
    }
    let old_way = &at(ingress, "metadata.annotations")["kubernetes.io/ingress.class"];
    if !old_way.is_null() || !at(ingress, "spec.ingressClassName").is_null() {
        return;
    }
    if let Some(name) =
        newest_default(reader, GROUP, "ingressclasses", &["ingressclass.kubernetes.io/is-default-class"])
    {
        map_mut(ingress, "spec").insert("ingressClassName".to_owned(), json!(name));
    }
}
