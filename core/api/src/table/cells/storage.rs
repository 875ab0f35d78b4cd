//! Volumes, their claims and classes, and devices.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, count, flag, joined, name, or, text, text_or};
use crate::object::{Object, at, items_at, str_at};

/// The name of a class, which says when it is the default.
pub(super) fn class_name(object: &Object, is_default: bool) -> Value {
    text(format!("{}{}", str_at(object, "metadata.name"), if is_default { " (default)" } else { "" }))
}

/// The access modes in short, in upstream's order.
fn access_modes(object: &Object, path: &str) -> String {
    let modes = items_at(object, path);
    let known =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let short: Vec<&str> =
        known.iter().filter(|(mode, _)| modes.iter().any(|m| m == mode)).map(|(_, short)| *short).collect();
    short.join(",")
}

/// The class that a volume or claim names, the old annotation first.
fn class(object: &Object) -> Value {
    match object["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str() {
        Some(class) => text(class),
        None => text(str_at(object, "spec.storageClassName")),
    }
}

fn phase(object: &Object) -> Value {
    if object["metadata"]["deletionTimestamp"].is_null() {
        text(str_at(object, "status.phase"))
    } else {
        json!("Terminating")
    }
}

pub(super) fn volume(object: &Object, now: Timestamp) -> Vec<Value> {
    let claim = match &object["spec"]["claimRef"] {
        Value::Null => String::new(),
        claim => format!("{}/{}", str_at(claim, "namespace"), str_at(claim, "name")),
    };
    vec![
        name(object),
        text_or(object, "spec.capacity.storage", "0"),
        text(access_modes(object, "spec.accessModes")),
        text(str_at(object, "spec.persistentVolumeReclaimPolicy")),
        phase(object),
        text(claim),
        class(object),
        text(at(object, "spec.volumeAttributesClassName").as_str().unwrap_or("<unset>")),
        text(str_at(object, "status.reason")),
        age(object, now),
        text_or(object, "spec.volumeMode", "<unset>"),
    ]
}

pub(super) fn claim(object: &Object, now: Timestamp) -> Vec<Value> {
    let volume = str_at(object, "spec.volumeName");
    let (capacity, modes) = match volume {
        "" => (String::new(), String::new()),
        _ => {
            (or(str_at(object, "status.capacity.storage"), "0").to_owned(), access_modes(object, "status.accessModes"))
        }
    };
    vec![
        name(object),
        phase(object),
        text(volume),
        text(capacity),
        text(modes),
        class(object),
        text(at(object, "spec.volumeAttributesClassName").as_str().unwrap_or("<unset>")),
        age(object, now),
        text_or(object, "spec.volumeMode", "<unset>"),
    ]
}

pub(super) fn storage_class(object: &Object, now: Timestamp) -> Vec<Value> {
    let annotations = &object["metadata"]["annotations"];
    let is_default =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
            .iter()
            .any(|name| annotations[name] == "true");
    vec![
        class_name(object, is_default),
        text(str_at(object, "provisioner")),
        text_or(object, "reclaimPolicy", "Delete"),
        text_or(object, "volumeBindingMode", "Immediate"),
        flag(object, "allowVolumeExpansion", false),
        age(object, now),
    ]
}

pub(super) fn attributes_class(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(str_at(object, "driverName")), age(object, now)]
}

pub(super) fn attachment(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text(str_at(object, "spec.attacher")),
        text(str_at(object, "spec.source.persistentVolumeName")),
        text(str_at(object, "spec.nodeName")),
        flag(object, "status.attached", false),
        age(object, now),
    ]
}

pub(super) fn csi_node(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), count(object, "spec.drivers"), age(object, now)]
}

pub(super) fn csi_driver(object: &Object, now: Timestamp) -> Vec<Value> {
    let tokens = match &object["spec"]["tokenRequests"] {
        Value::Null => "<unset>".to_owned(),
        tokens => {
            let audiences = tokens.as_array().into_iter().flatten().map(|token| str_at(token, "audience"));
            audiences.collect::<Vec<_>>().join(",")
        }
    };
    vec![
        name(object),
        flag(object, "spec.attachRequired", true),
        flag(object, "spec.podInfoOnMount", false),
        flag(object, "spec.storageCapacity", false),
        text(tokens),
        flag(object, "spec.requiresRepublish", false),
        text(or(&joined(object, "spec.volumeLifecycleModes"), "<none>")),
        age(object, now),
    ]
}

pub(super) fn resource_claim(object: &Object, now: Timestamp) -> Vec<Value> {
    let is_deleted = !object["metadata"]["deletionTimestamp"].is_null();
    let is_allocated = !object["status"]["allocation"].is_null();
    let states = [
        (is_deleted, "deleted"),
        (!is_allocated && !is_deleted, "pending"),
        (is_allocated, "allocated"),
        (is_allocated && !items_at(object, "status.reservedFor").is_empty(), "reserved"),
    ];
    let states: Vec<&str> = states.iter().filter(|(holds, _)| *holds).map(|(_, state)| *state).collect();
    vec![name(object), text(states.join(",")), age(object, now)]
}

pub(super) fn resource_slice(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text(str_at(object, "spec.nodeName")),
        text(str_at(object, "spec.driver")),
        text(str_at(object, "spec.pool.name")),
        age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_claims_show_what_they_got() {
        let mut object = json!({
            "metadata": {"name": "c", "annotations": {"volume.beta.kubernetes.io/storage-class": "old"}},
            "spec": {"storageClassName": "new"},
            "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"]},
        });
        assert_eq!(claim(&object, Timestamp::UNIX_EPOCH)[1..6], ["Bound", "", "", "", "old"].map(Value::from));
        object["spec"]["volumeName"] = json!("v");
        object["metadata"]["deletionTimestamp"] = json!("x");
        let expect = ["Terminating", "v", "1Gi", "RWO,RWX", "old", "<unset>"].map(Value::from);
        assert_eq!(claim(&object, Timestamp::UNIX_EPOCH)[1..7], expect);
    }

    #[test]
    fn the_default_class_says_so() {
        let object = json!({"metadata": {"name": "c", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "p"});
        let expect = [json!("c (default)"), json!("p"), json!("Delete"), json!("Immediate"), json!(false)];
        assert_eq!(storage_class(&object, Timestamp::UNIX_EPOCH)[..5], expect);
    }

    #[test]
    fn claims_of_devices_have_a_state() {
        let cases = [
            (json!({}), "pending"),
            (json!({"status": {"allocation": {}}}), "allocated"),
            (json!({"status": {"allocation": {}, "reservedFor": [{}]}}), "allocated,reserved"),
            (json!({"metadata": {"deletionTimestamp": "x"}}), "deleted"),
        ];
        for (object, expect) in cases {
            assert_eq!(resource_claim(&object, Timestamp::UNIX_EPOCH)[1], expect);
        }
    }
}
