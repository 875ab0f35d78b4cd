//! `TaintNodesByCondition`: a new node takes no pods before it is ready.

use gantry_api::object::{Object, items_at, map_mut};
use serde_json::json;

use super::{AdmissionRequest, Operation};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) fn admit(request: &AdmissionRequest<'_>, node: &mut Object) {
    if request.operation != Operation::Create || !request.is_for_object("", "nodes") {
        return;
    }
    let mut taints = items_at(node, "spec.taints").to_vec();
    if !taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule") {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        map_mut(node, "spec").insert("taints".to_owned(), json!(taints));
    }
}
