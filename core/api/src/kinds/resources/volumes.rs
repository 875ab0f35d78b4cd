//! Persistent volumes.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::{Kind, keep_status};
use super::checks::{
    annotation, csi_driver_name, entries, immutable, invalid, invalid_number, keep, known_only, node_selector, path,
    present, quantity, required, same, texts_at,
};
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::names;
use crate::object::{Object, bool_at, i64_at, is_empty, items_at, map_mut, str_at};
use crate::timestamp;

/// How a volume may be used.
pub(super) const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";
/// The kinds of volumes in upstream's order, with the name that upstream's messages give them.
const SOURCES: [(&str, &str); 21] = [
    ("hostPath", "hostPath"),
    ("gcePersistentDisk", "gcePersistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("glusterfs", "glusterfs"),
    ("flocker", "flocker"),
    ("nfs", "nfs"),
    ("rbd", "rbd"),
    ("quobyte", "quobyte"),
    ("cephfs", "cephFS"),
    ("iscsi", "iscsi"),
    ("cinder", "cinder"),
    ("fc", "fc"),
    ("flexVolume", "flexVolume"),
    ("azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk"),
    ("scaleIO", "scaleIO"),
    ("local", "local"),
    ("storageos", "storageos"),
];

pub(super) struct PersistentVolume;

impl Kind for PersistentVolume {
    fn prepare_for_create(&self, object: &mut Object) {
        let created = object["metadata"]["creationTimestamp"].clone();
        let mut status = json!({"phase": "Pending"});
        if !created.is_null() {
            status["lastPhaseTransitionTime"] = created;
        }
        map_mut(object, "").insert("status".to_owned(), status);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_status(object, old);
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        keep(object, old, &["spec"]);
        let time = "lastPhaseTransitionTime";
        if str_at(object, "status.phase") == str_at(old, "status.phase")
            && object["status"][time].is_null()
            && !old["status"][time].is_null()
        {
            map_mut(object, "status").insert(time.to_owned(), old["status"][time].clone());
        }
    }

    fn stamp(&self, object: &mut Object, old: Option<&Object>, now: Timestamp) {
        let Some(old) = old else { return };
        let time = "lastPhaseTransitionTime";
        let (given, before) = (&object["status"][time], &old["status"][time]);
        if str_at(object, "status.phase") != str_at(old, "status.phase") && (given.is_null() || given == before) {
            map_mut(object, "status").insert(time.to_owned(), json!(timestamp::format(now)));
        }
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let name = str_at(object, "metadata.name");
        let mut errors = volume_spec(&object["spec"], name, false, &path("spec"));
        errors.extend(mount_options(object));
        errors
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = self.validate_create(object);
        errors.extend(volume_spec(&object["spec"], str_at(object, "metadata.name"), false, &path("spec")));
        errors.extend(change(object, old));
        errors
    }

    fn warnings(&self, object: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut warnings = Vec::new();
        let deprecated = [
            (
                "volume.beta.kubernetes.io/storage-class",
                "deprecated since v1.8; use \"storageClassName\" attribute instead",
            ),
            (MOUNT_OPTIONS, "deprecated since v1.31; use \"mountOptions\" attribute instead"),
        ];
        for (name, text) in deprecated {
            if annotation(object, name).is_some() {
                warnings.push(format!("metadata.annotations[{name}]: {text}"));
            }
        }
        if str_at(object, "spec.persistentVolumeReclaimPolicy") == "Recycle" {
            let text = "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.";
            warnings.push(format!("spec.persistentVolumeReclaimPolicy: {text}"));
        }
        let gone = [
            ("cephfs", "cephfs", "1.28", "1.31"),
            ("photonPersistentDisk", "photonPersistentDisk", "1.11", "1.16"),
            ("scaleIO", "scaleIO", "1.16", "1.22"),
            ("storageos", "storageOS", "1.22", "1.25"),
            ("glusterfs", "glusterfs", "1.25", "1.26"),
            ("rbd", "rbd", "1.28", "1.31"),
        ];
        for (field, shown, deprecated, gone) in gone {
            if !object["spec"][field].is_null() {
                warnings.push(format!("spec.{shown}: deprecated in v{deprecated}, non-functional in v{gone}+"));
            }
        }
        warnings
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        vec![("name", str_at(object, "metadata.name").to_owned())]
    }
}

/// What is wrong with a set of access modes.
pub(super) fn access_modes(modes: &[&str], path: &FieldPath) -> FieldErrors {
    let mut errors: FieldErrors = modes.iter().flat_map(|mode| known_only(path, mode, &ACCESS_MODES)).collect();
    let is_single = |mode: &&&str| **mode == "ReadWriteOncePod";
    let others = modes.iter().filter(|mode| !is_single(mode)).any(|mode| ACCESS_MODES.contains(mode));
    if modes.iter().any(|mode| is_single(&mode)) && others {
        errors.push(FieldError::forbidden(path, "may not use ReadWriteOncePod with other access modes"));
    }
    errors
}

/// A volume's spec; inline in a `VolumeAttachment` only a CSI volume may stand.
pub(super) fn volume_spec(spec: &Value, name: &str, inline: bool, at: &FieldPath) -> FieldErrors {
    const INLINE: &str = "may not be specified in the context of inline volumes";
    let mut errors = FieldErrors::new();
    if inline {
        for field in ["claimRef", "capacity"] {
            if !is_empty(&spec[field]) {
                errors.push(FieldError::forbidden(&at.child(field), INLINE));
            }
        }
        if spec["csi"].is_null() {
            let detail = "has to be specified in the context of inline volumes";
            errors.push(FieldError::required(&at.child("csi"), detail));
        }
    }
    let modes = texts_at(spec, "accessModes");
    if modes.is_empty() {
        errors.push(FieldError::required(&at.child("accessModes"), ""));
    }
    errors.extend(access_modes(&modes, &at.child("accessModes")));
    if !inline {
        errors.extend(capacity(spec, &at.child("capacity")));
    }
    let policy = str_at(spec, "persistentVolumeReclaimPolicy");
    if !policy.is_empty() {
        let at = at.child("persistentVolumeReclaimPolicy");
        if !inline {
            errors.extend(known_only(&at, policy, &["Delete", "Recycle", "Retain"]));
        } else if policy != "Retain" {
            errors.push(FieldError::forbidden(&at, "may only be Retain in the context of inline volumes"));
        }
    }
    let affinity = &spec["nodeAffinity"];
    if !affinity.is_null() {
        let at = at.child("nodeAffinity");
        if inline {
            errors.push(FieldError::forbidden(&at, INLINE));
        } else if affinity["required"].is_null() {
            errors.push(FieldError::required(&at.child("required"), "must specify required node constraints"));
        } else {
            errors.extend(node_selector(&affinity["required"], &at.child("required")));
        }
    }
    errors.extend(sources(spec, name, at));
    if str_at(spec, "hostPath.path").trim_end_matches('/').is_empty()
        && !spec["hostPath"].is_null()
        && policy == "Recycle"
    {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(FieldError::forbidden(&at.child("persistentVolumeReclaimPolicy"), detail));
    }
    let class = str_at(spec, "storageClassName");
    if !class.is_empty() {
        let at = at.child("storageClassName");
        if inline {
            errors.push(FieldError::forbidden(&at, INLINE));
        } else {
            errors.extend(invalid(&at, class, names::dns1123_subdomain(class)));
        }
    }
    if let Some(mode) = spec["volumeMode"].as_str() {
        let at = at.child("volumeMode");
        if !inline {
            errors.extend(known_only(&at, mode, &["Block", "Filesystem"]));
        } else if mode != "Filesystem" {
            let detail = "may not specify volumeMode other than Filesystem in the context of inline volumes";
            errors.push(FieldError::forbidden(&at, detail));
        }
    }
    if let Some(class) = spec["volumeAttributesClassName"].as_str() {
        let class_at = at.child("volumeAttributesClassName");
        if class.is_empty() {
            errors.push(FieldError::required(&class_at, "an empty string is disallowed"));
        } else {
            errors.extend(invalid(&class_at, class, names::dns1123_subdomain(class)));
        }
        if spec["csi"].is_null() {
            let detail = "has to be specified when using volumeAttributesClassName";
            errors.push(FieldError::required(&at.child("csi"), detail));
        }
    }
    errors
}

fn capacity(spec: &Value, at: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let amounts = &spec["capacity"];
    if is_empty(amounts) {
        errors.push(FieldError::required(at, ""));
    }
    let count = amounts.as_object().map_or(0, serde_json::Map::len);
    if amounts["storage"].is_null() || count > 1 {
        let shown = if count == 0 { Value::Null } else { amounts.clone() };
        errors.push(FieldError::not_supported(at, shown, &["storage"]));
    }
    for (name, amount) in entries(spec, "capacity") {
        let at = at.key(name);
        let number = quantity(amount);
        if number.sign() < 0 {
            errors.push(FieldError::invalid(&at, number.value(), "must be a valid resource quantity"));
        }
        if number.sign() <= 0 {
            errors.push(FieldError::invalid(&at, amount.clone(), "must be greater than zero"));
        }
    }
    errors
}

/// A volume has one source.
fn sources(spec: &Value, name: &str, at: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let mut count = 0;
    for (field, shown) in SOURCES.into_iter().chain([("csi", "csi")]) {
        let source = &spec[field];
        if source.is_null() {
            continue;
        }
        if count > 0 && field != "flexVolume" {
            errors.push(FieldError::forbidden(&at.child(shown), "may not specify more than 1 volume type"));
            continue;
        }
        count += 1;
        errors.extend(volume_source(field, source, name, at));
        if field == "local" && spec["nodeAffinity"].is_null() {
            let detail = "Local volume requires node affinity";
            errors.push(FieldError::required(&at.child("nodeAffinity"), detail));
        }
    }
    if count == 0 {
        errors.push(FieldError::required(at, "must specify a volume type"));
    }
    errors
}

fn volume_source(field: &str, source: &Value, name: &str, at: &FieldPath) -> FieldErrors {
    let path_of = |field: &str| at.child(field);
    let needs = |at: &FieldPath, fields: &[&str]| -> FieldErrors {
        fields.iter().flat_map(|field| present(&at.child(field), str_at(source, field))).collect()
    };
    let at = path_of(field);
    match field {
        "hostPath" => {
            let path = str_at(source, "path");
            if path.is_empty() {
                return vec![FieldError::required(&at.child("path"), "")];
            }
            let mut errors = no_way_up(path, &at.child("path"));
            let kind = str_at(source, "type");
            let known =
                ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
            errors.extend(known_only(&at.child("type"), kind, &known));
            errors
        }
        "local" => match str_at(source, "path") {
            "" => vec![FieldError::required(&at.child("path"), "")],
            path => no_way_up(path, &at.child("path")),
        },
        "nfs" => {
            let mut errors = needs(&at, &["server", "path"]);
            let path = str_at(source, "path");
            if !path.starts_with('/') {
                errors.push(FieldError::invalid(&at.child("path"), path, "must be an absolute path"));
            }
            errors
        }
        "csi" => csi(source, &at),
        "iscsi" => iscsi(source, name, &at),
        "gcePersistentDisk" => {
            // Upstream calls it so.
            let at = path_of("persistentDisk");
            let mut errors = needs(&at, &["pdName"]);
            errors.extend(partition(source, &at));
            errors
        }
        "awsElasticBlockStore" => {
            let mut errors = needs(&at, &["volumeID"]);
            errors.extend(partition(source, &at));
            errors
        }
        "glusterfs" => needs(&at, &["endpoints", "path"]),
        "rbd" => {
            let mut errors = FieldErrors::new();
            if items_at(source, "monitors").is_empty() {
                errors.push(FieldError::required(&at.child("monitors"), ""));
            }
            errors.extend(needs(&at, &["image"]));
            errors
        }
        "quobyte" => needs(&at, &["registry", "volume"]),
        "cephfs" if items_at(source, "monitors").is_empty() => vec![FieldError::required(&at.child("monitors"), "")],
        "cinder" => {
            let mut errors = needs(&at, &["volumeID"]);
            if !source["secretRef"].is_null() {
                for field in ["name", "namespace"] {
                    errors.extend(present(&at.child("secretRef").child(field), str_at(&source["secretRef"], field)));
                }
            }
            errors
        }
        "flexVolume" => needs(&at, &["driver"]),
        "azureFile" => {
            let mut errors = needs(&at, &["secretName", "shareName"]);
            if source["secretNamespace"].as_str() == Some("") {
                errors.push(FieldError::required(&at.child("secretNamespace"), ""));
            }
            errors
        }
        "vsphereVolume" => needs(&at, &["volumePath"]),
        "photonPersistentDisk" => needs(&at, &["pdID"]),
        "portworxVolume" => needs(&at, &["volumeID"]),
        "azureDisk" => needs(&at, &["diskName", "diskURI"]),
        "scaleIO" => needs(&at, &["gateway", "system", "volumeName"]),
        "storageos" => needs(&at, &["volumeName"]),
        _ => FieldErrors::new(),
    }
}

fn partition(source: &Value, at: &FieldPath) -> FieldErrors {
    let partition = i64_at(source, "partition").unwrap_or_default();
    invalid_number(&at.child("partition"), partition, names::in_range(partition, 0, 255))
}

/// A path that stays where it is.
fn no_way_up(path: &str, at: &FieldPath) -> FieldErrors {
    if path.split('/').any(|part| part == "..") {
        return vec![FieldError::invalid(at, path, "must not contain '..'")];
    }
    FieldErrors::new()
}

fn csi(source: &Value, at: &FieldPath) -> FieldErrors {
    let mut errors = csi_driver_name(str_at(source, "driver"), &at.child("driver"));
    errors.extend(present(&at.child("volumeHandle"), str_at(source, "volumeHandle")));
    let references =
        ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"];
    for field in references {
        let reference = &source[field];
        if !reference.is_null() {
            let at = at.child(field);
            errors.extend(required(&at.child("name"), str_at(reference, "name"), names::dns1123_subdomain));
            errors.extend(required(&at.child("namespace"), str_at(reference, "namespace"), names::dns1123_label));
        }
    }
    errors
}

fn iscsi(source: &Value, name: &str, at: &FieldPath) -> FieldErrors {
    let is_named = |name: &str| ["iqn", "eui", "naa"].iter().any(|start| name.starts_with(start));
    let portal = str_at(source, "targetPortal");
    let mut errors = present(&at.child("targetPortal"), portal);
    let initiator = source["initiatorName"].as_str();
    if initiator.is_some() && name.len() + 1 + portal.len() > 64 {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        errors.push(FieldError::invalid(&at.child("targetportal"), portal, detail));
    }
    let iqn = str_at(source, "iqn");
    if iqn.is_empty() {
        errors.push(FieldError::required(&at.child("iqn"), ""));
    } else if !is_named(iqn) {
        errors.push(FieldError::invalid(&at.child("iqn"), iqn, "must be valid format"));
    }
    let lun = i64_at(source, "lun").unwrap_or_default();
    errors.extend(invalid_number(&at.child("lun"), lun, names::in_range(lun, 0, 255)));
    let secret = &source["secretRef"];
    let authenticates = bool_at(source, "chapAuthDiscovery") || bool_at(source, "chapAuthSession");
    if authenticates && secret.is_null() {
        errors.push(FieldError::required(&at.child("secretRef"), ""));
    }
    if !secret.is_null() {
        errors.extend(present(&at.child("secretRef.name"), str_at(secret, "name")));
    }
    if let Some(initiator) = initiator
        && !is_named(initiator)
    {
        errors.push(FieldError::invalid(&at.child("initiatorname"), initiator, "must be valid format"));
    }
    errors
}

/// Mount options by annotation are for kinds of volumes that are mounted over a network.
fn mount_options(object: &Object) -> FieldErrors {
    let takes_options = [
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "glusterfs",
        "nfs",
        "rbd",
        "quobyte",
        "iscsi",
        "cinder",
        "cephfs",
        "azureFile",
        "vsphereVolume",
        "azureDisk",
        "photonPersistentDisk",
    ];
    if annotation(object, MOUNT_OPTIONS).is_none() || takes_options.iter().any(|field| !object["spec"][field].is_null())
    {
        return FieldErrors::new();
    }
    let at = path("metadata.annotations").child(MOUNT_OPTIONS);
    vec![FieldError::forbidden(&at, "may not specify mount options for this volume type")]
}

fn change(object: &Object, old: &Object) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let (new, before) = (&object["spec"], &old["spec"]);
    let changed = SOURCES.into_iter().any(|(field, _)| !same(&new[field], &before[field])) || {
        // A secret for growing a volume may be added later.
        let mut csi = new["csi"].clone();
        if before["csi"]["controllerExpandSecretRef"].is_null()
            && let Some(map) = csi.as_object_mut()
        {
            map.remove("controllerExpandSecretRef");
        }
        !same(&csi, &before["csi"])
    };
    if changed {
        let detail = "spec.persistentvolumesource is immutable after creation";
        errors.push(FieldError::forbidden(&path("spec.persistentvolumesource"), detail));
    }
    errors.extend(immutable(&path("volumeMode"), &new["volumeMode"], &before["volumeMode"]));
    if !before["nodeAffinity"].is_null() && !same(&new["nodeAffinity"], &before["nodeAffinity"]) {
        let detail = super::checks::IMMUTABLE;
        let shown = new["nodeAffinity"].clone();
        errors.push(FieldError::invalid(&path("nodeAffinity"), shown, detail));
    }
    let class = "volumeAttributesClassName";
    if !before[class].is_null() && new[class].is_null() {
        let detail = "update from non-nil value to nil is forbidden";
        errors.push(FieldError::forbidden(&path("spec").child(class), detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(errors: FieldErrors, expect: &[&str]) {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, expect);
    }

    fn volume(source: Value) -> Value {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}});
        if let (Value::Object(spec), Value::Object(source)) = (&mut spec, source) {
            spec.extend(source);
        }
        json!({"metadata": {"name": "v"}, "spec": spec})
    }

    #[test]
    fn sources_are_checked() {
        check(
            PersistentVolume.validate_create(&volume(json!({"local": {"path": "/a/../b"}}))),
            &[
                "spec.local.path: Invalid value: \"/a/../b\": must not contain '..'",
                "spec.nodeAffinity: Required value: Local volume requires node affinity",
            ],
        );
        check(
            PersistentVolume
                .validate_create(&volume(json!({"csi": {"driver": "", "nodePublishSecretRef": {"name": "s"}}}))),
            &[
                "spec.csi.driver: Required value",
                "spec.csi.volumeHandle: Required value",
                "spec.csi.nodePublishSecretRef.namespace: Required value",
            ],
        );
        check(
            PersistentVolume.validate_create(&volume(
                json!({"nfs": {"server": "s", "path": "x"}, "accessModes": ["ReadWriteOncePod", "ReadWriteOnce"]}),
            )),
            &[
                "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
                "spec.nfs.path: Invalid value: \"x\": must be an absolute path",
            ],
        );
    }

    #[test]
    fn a_new_volume_is_pending_since_its_creation() {
        let mut object = volume(json!({"hostPath": {"path": "/x", "type": ""}}));
        object["metadata"]["creationTimestamp"] = json!("t");
        PersistentVolume.prepare_for_create(&mut object);
        assert_eq!(object["status"], json!({"phase": "Pending", "lastPhaseTransitionTime": "t"}));
        check(PersistentVolume.validate_create(&object), &[]);
    }

    #[test]
    fn a_change_of_phase_is_noted() {
        let old = json!({"status": {"phase": "Pending", "lastPhaseTransitionTime": "t"}});
        let mut new = json!({"status": {"phase": "Bound", "lastPhaseTransitionTime": "t"}});
        PersistentVolume.stamp(&mut new, Some(&old), Timestamp::UNIX_EPOCH);
        assert_eq!(new["status"]["lastPhaseTransitionTime"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn the_source_stays() {
        let old = volume(json!({"csi": {"driver": "d", "volumeHandle": "h"}}));
        let mut new = old.clone();
        new["spec"]["csi"]["controllerExpandSecretRef"] = json!({"name": "s", "namespace": "n"});
        check(change(&new, &old), &[]);
        new["spec"]["csi"]["volumeHandle"] = json!("i");
        check(
            change(&new, &old),
            &["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"],
        );
    }
}
