//! `DefaultStorageClass`: the class of claims that name none.

use gantry_api::object::{Object, at, map_mut, str_at};
use serde_json::json;

use super::{AdmissionRequest, ObjectReader, Operation};

pub(super) fn admit(request: &AdmissionRequest<'_>, claim: &mut Object, reader: &dyn ObjectReader) {
    if request.operation != Operation::Create || !request.is_for_object("", "persistentvolumeclaims") {
        return;
    }
    let old_way = &at(claim, "metadata.annotations")["volume.beta.kubernetes.io/storage-class"];
    if !old_way.is_null() || !at(claim, "spec.storageClassName").is_null() {
        return;
    }
    let marks = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    if let Some(name) = newest_default(reader, "storage.k8s.io", "storageclasses", &marks) {
        map_mut(claim, "spec").insert("storageClassName".to_owned(), json!(name));
    }
}

/// The class that an annotation marks as default; among several the newest, then the first by name.
pub(super) fn newest_default(reader: &dyn ObjectReader, group: &str, plural: &str, marks: &[&str]) -> Option<String> {
    let classes = reader.list(group, plural, "");
    let marked =
        classes.iter().filter(|class| marks.iter().any(|mark| at(class, "metadata.annotations")[*mark] == "true"));
    let order = |class: &&std::sync::Arc<Object>| {
        let created = str_at(class, "metadata.creationTimestamp").to_owned();
        (std::cmp::Reverse(created), str_at(class, "metadata.name").to_owned())
    };
    marked.min_by_key(order).map(|class| str_at(class, "metadata.name").to_owned())
}
