//! `PodTopologyLabels`: zone and region of the node as labels of the pods that are bound to it. On a binding they stand
//! on the binding; the registry hands them on to the pod.

use gantry_api::object::{Object, at, map_mut, str_at};

use super::{AdmissionRequest, ObjectReader, Operation};

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

pub(super) fn admit(request: &AdmissionRequest<'_>, object: &mut Object, reader: &dyn ObjectReader) {
    if request.operation != Operation::Create || !request.is_for("", "pods") {
        return;
    }
    let node = match request.subresource {
        "" => str_at(object, "spec.nodeName"),
        "binding" if matches!(str_at(object, "target.kind"), "" | "Node") => str_at(object, "target.name"),
        _ => return,
    };
    let Some(node) = Some(node).filter(|node| !node.is_empty()).and_then(|node| reader.get("", "nodes", "", node))
    else {
        return;
    };
    for label in LABELS {
        let value = &at(&node, "metadata.labels")[label];
        if !value.is_null() {
            map_mut(object, "metadata.labels").insert(label.to_owned(), value.clone());
        }
    }
}
