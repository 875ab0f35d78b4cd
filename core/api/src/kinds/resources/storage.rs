//! Classes and attachments of volumes, and what CSI drivers say of themselves.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::{Kind, keep_status};
use super::checks::{
    csi_driver_name, entries, immutable, invalid, keep, known_only, label_selector, not_negative, path, present,
    quantity, same, texts_at,
};
use super::volumes::volume_spec;
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::names;
use crate::object::{Object, i64_at, is_empty, items_at, map_mut, str_at};

const PARAMETERS_MAX: usize = 512;
const PARAMETERS_BYTES_MAX: usize = 256 * 1024;
const ATTACHMENT_METADATA_BYTES_MAX: usize = 256 * 1024;
const ERROR_MESSAGE_BYTES_MAX: usize = 1024;
const NODE_ID_BYTES_MAX: usize = 192;

fn provisioner(name: &str, path: &FieldPath) -> FieldErrors {
    if name.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let name = name.to_lowercase();
    invalid(path, &name, names::qualified_name(&name))
}

fn parameters(object: &Object, may_be_empty: bool) -> FieldErrors {
    let at = path("parameters");
    let count = entries(object, "parameters").count();
    if count > PARAMETERS_MAX {
        return vec![FieldError::too_long(&at, PARAMETERS_MAX)];
    }
    let mut errors = FieldErrors::new();
    let mut bytes = 0;
    for (key, value) in entries(object, "parameters") {
        if key.is_empty() {
            errors.push(FieldError::invalid(&at, "", "field can not be empty."));
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > PARAMETERS_BYTES_MAX {
        errors.push(FieldError::too_long(&at, PARAMETERS_BYTES_MAX));
    }
    if !may_be_empty && count == 0 {
        errors.push(FieldError::required(&at, "must contain at least one key/value pair"));
    }
    errors
}

pub(super) struct StorageClass;

impl Kind for StorageClass {
    fn validate_create(&self, object: &Object) -> FieldErrors {
        let mut errors = provisioner(str_at(object, "provisioner"), &path("provisioner"));
        errors.extend(parameters(object, true));
        let policy = str_at(object, "reclaimPolicy");
        if !policy.is_empty() {
            errors.extend(known_only(&path("reclaimPolicy"), policy, &["Delete", "Retain"]));
        }
        let at = path("volumeBindingMode");
        match object["volumeBindingMode"].as_str() {
            None => errors.push(FieldError::required(&at, "")),
            Some(mode) => errors.extend(known_only(&at, mode, &["Immediate", "WaitForFirstConsumer"])),
        }
        errors.extend(topologies(items_at(object, "allowedTopologies")));
        errors
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = self.validate_create(object);
        for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            errors.extend(immutable(&path(field), &object[field], &old[field]));
        }
        errors
    }
}

fn topologies(terms: &[Value]) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let values_of = |requirement: &Value| -> HashSet<String> {
        texts_at(requirement, "values").into_iter().map(str::to_owned).collect()
    };
    let mut seen = Vec::new();
    for (index, term) in terms.iter().enumerate() {
        let at = path("allowedTopologies").index(index).child("matchLabelExpressions");
        let mut keys: Vec<(String, HashSet<String>)> = Vec::new();
        for (index, requirement) in items_at(term, "matchLabelExpressions").iter().enumerate() {
            let at = at.index(index);
            let (key, values) = (str_at(requirement, "key"), texts_at(requirement, "values"));
            if values.is_empty() {
                errors.push(FieldError::required(&at.child("values"), ""));
            }
            for (index, value) in values.iter().enumerate() {
                if values[..index].contains(value) {
                    errors.push(FieldError::duplicate(&at.child("values").index(index), *value));
                }
            }
            errors.extend(invalid(&at.child("key"), key, names::qualified_name(key)));
            if keys.iter().any(|(known, _)| known == key) {
                errors.push(FieldError::duplicate(&at.child("key"), key));
            } else {
                keys.push((key.to_owned(), values_of(requirement)));
            }
        }
        keys.sort_by(|(a, _), (b, _)| a.cmp(b));
        if seen.contains(&keys) {
            errors.push(FieldError::duplicate(&at, ""));
        }
        seen.push(keys);
    }
    errors
}

pub(super) struct VolumeAttributesClass;

impl Kind for VolumeAttributesClass {
    fn validate_create(&self, object: &Object) -> FieldErrors {
        let mut errors = provisioner(str_at(object, "driverName"), &path("driverName"));
        errors.extend(parameters(object, false));
        errors
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = FieldErrors::new();
        for field in ["driverName", "parameters"] {
            if !same(&object[field], &old[field]) {
                errors.push(FieldError::forbidden(&path(field), format!("updates to {field} are forbidden.")));
            }
        }
        errors.extend(self.validate_create(object));
        errors
    }
}

pub(super) struct VolumeAttachment;

impl Kind for VolumeAttachment {
    fn prepare_for_create(&self, object: &mut Object) {
        map_mut(object, "").insert("status".to_owned(), json!({"attached": false}));
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_status(object, old);
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        keep(object, old, &["spec"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let at = path("spec");
        let spec = &object["spec"];
        let mut errors = csi_driver_name(str_at(spec, "attacher"), &at.child("attacher"));
        errors.extend(attachment_source(&spec["source"], &at.child("source")));
        let node = str_at(spec, "nodeName");
        errors.extend(invalid(&at.child("nodeName"), node, names::dns1123_subdomain(node)));
        errors.extend(attachment_status(&object["status"]));
        if let Some(name) = spec["source"]["persistentVolumeName"].as_str() {
            let at = path("spec.source.persistentVolumeName");
            errors.extend(invalid(&at, name, names::dns1123_subdomain(name)));
        }
        errors
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = self.validate_create(object);
        errors.extend(immutable(&path("spec"), &object["spec"], &old["spec"]));
        errors
    }

    fn validate_status_update(&self, object: &Object, old: &Object) -> FieldErrors {
        self.validate_update(object, old)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn attachment_source(source: &Value, path: &FieldPath) -> FieldErrors {
    let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let (inline, name) = (&source["inlineVolumeSpec"], source["persistentVolumeName"].as_str());
    match (inline.is_null(), name) {
        (true, None) => vec![FieldError::required(path, detail)],
        (false, Some(_)) => vec![FieldError::forbidden(path, detail)],
        (true, Some("")) => {
            let detail = "must specify non empty persistentVolumeName";
            vec![FieldError::required(&path.child("persistentVolumeName"), detail)]
        }
        (true, Some(_)) => FieldErrors::new(),
        (false, None) => volume_spec(inline, "", true, &path.child("inlineVolumeSpec")),
    }
}

fn attachment_status(status: &Value) -> FieldErrors {
    let at = path("status");
    let mut errors = FieldErrors::new();
    let bytes: usize =
        entries(status, "attachmentMetadata").map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if bytes > ATTACHMENT_METADATA_BYTES_MAX {
        errors.push(FieldError::too_long(&at.child("attachmentMetadata"), ATTACHMENT_METADATA_BYTES_MAX));
    }
    for field in ["attachError", "detachError"] {
        let error = &status[field];
        if str_at(error, "message").len() > ERROR_MESSAGE_BYTES_MAX {
            // Upstream tells the other limit.
            errors.push(FieldError::too_long(&at.child(field).child("message"), ATTACHMENT_METADATA_BYTES_MAX));
        }
        if let Some(code) = i64_at(error, "errorCode").filter(|code| *code < 0) {
            let detail = names::range_error(0, i64::from(i32::MAX));
            errors.push(FieldError::invalid(&at.child(field).child("errorCode"), code, detail));
        }
    }
    errors
}

pub(super) struct CsiDriver;

impl Kind for CsiDriver {
    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        if !same(&object["spec"], &old["spec"]) {
            let generation = i64_at(old, "metadata.generation").unwrap_or_default() + 1;
            map_mut(object, "metadata").insert("generation".to_owned(), json!(generation));
        }
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        driver_spec(&object["spec"], &path("spec"))
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = self.validate_create(object);
        let (new, before) = (&object["spec"], &old["spec"]);
        let fields = [("attachedRequired", "attachRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")];
        for (shown, field) in fields {
            errors.extend(immutable(&path("spec").child(shown), &new[field], &before[field]));
        }
        errors
    }

    fn warnings(&self, object: &Object, _old: Option<&Object>) -> Vec<String> {
        let has_tokens = !items_at(object, "spec.tokenRequests").is_empty();
        if has_tokens && object["spec"]["serviceAccountTokenInSecrets"].is_null() {
            return vec![TOKEN_WARNING.to_owned()];
        }
        Vec::new()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

const TOKEN_WARNING: &str = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";

fn driver_spec(spec: &Value, at: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let needed = [
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
    ];
    for (field, shown) in needed {
        if spec[field].is_null() {
            errors.push(FieldError::required(&at.child(shown), ""));
        }
    }
    if let Some(policy) = spec["fsGroupPolicy"].as_str() {
        errors.extend(known_only(&at.child("fsGroupPolicy"), policy, &["File", "None", "ReadWriteOnceWithFSType"]));
    }
    let mut audiences = HashSet::new();
    for (index, request) in items_at(spec, "tokenRequests").iter().enumerate() {
        let at = at.child("tokenRequests").index(index);
        if !audiences.insert(str_at(request, "audience")) {
            errors.push(FieldError::duplicate(&at.child("audience"), str_at(request, "audience")));
            continue;
        }
        let Some(seconds) = i64_at(request, "expirationSeconds") else { continue };
        let at = at.child("expirationSeconds");
        if seconds < 600 {
            errors.push(FieldError::invalid(&at, seconds, "may not specify a duration less than 10 minutes"));
        }
        if seconds > 1 << 32 {
            errors.push(FieldError::invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds"));
        }
    }
    let modes = ["Persistent", "Ephemeral"];
    for mode in texts_at(spec, "volumeLifecycleModes") {
        if !modes.contains(&mode) {
            errors.push(FieldError::not_supported_in_order(&at.child("volumeLifecycleModes"), mode, &modes));
        }
    }
    if let Some(seconds) = i64_at(spec, "nodeAllocatableUpdatePeriodSeconds").filter(|seconds| *seconds < 10) {
        let at = at.child("nodeAllocatableUpdatePeriodSeconds");
        errors.push(FieldError::invalid(&at, seconds, "must be greater than or equal to 10 seconds"));
    }
    let in_secrets = &spec["serviceAccountTokenInSecrets"];
    if !in_secrets.is_null() && items_at(spec, "tokenRequests").is_empty() {
        let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.push(FieldError::invalid(&at.child("serviceAccountTokenInSecrets"), in_secrets.clone(), detail));
    }
    errors
}

pub(super) struct CsiNode;

impl Kind for CsiNode {
    fn validate_create(&self, object: &Object) -> FieldErrors {
        let mut seen = HashSet::new();
        let drivers = items_at(object, "spec.drivers").iter().enumerate();
        drivers.flat_map(|(index, driver)| node_driver(driver, &mut seen, &path("spec.drivers").index(index))).collect()
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = self.validate_create(object);
        let without_count = |driver: &Value| {
            let mut driver = driver.clone();
            map_mut(&mut driver, "").remove("allocatable");
            driver
        };
        for before in items_at(old, "spec.drivers") {
            for now in items_at(object, "spec.drivers").iter().filter(|now| now["name"] == before["name"]) {
                errors.extend(immutable(&path("spec.drivers"), &without_count(now), &without_count(before)));
            }
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn node_driver<'a>(driver: &'a Value, seen: &mut HashSet<&'a str>, path: &FieldPath) -> FieldErrors {
    let name = str_at(driver, "name");
    let mut errors = csi_driver_name(name, &path.child("name"));
    let id = str_at(driver, "nodeID");
    errors.extend(present(&path.child("nodeID"), id));
    if id.len() > NODE_ID_BYTES_MAX {
        let detail = format!("must be {NODE_ID_BYTES_MAX} characters or less");
        errors.push(FieldError::invalid(&path.child("nodeID"), id, detail));
    }
    if let Some(count) = i64_at(driver, "allocatable.count") {
        errors.extend(not_negative(&path.child("allocatable.count"), count));
    }
    if !seen.insert(name) {
        errors.push(FieldError::duplicate(&path.child("name"), name));
    }
    let keys = texts_at(driver, "topologyKeys");
    for (index, key) in keys.iter().enumerate() {
        if key.is_empty() {
            errors.push(FieldError::required(path, ""));
        }
        if keys[..index].contains(key) {
            errors.push(FieldError::duplicate(path, *key));
        }
        errors.extend(invalid(path, key, names::qualified_name(key)));
    }
    errors
}

pub(super) struct CsiStorageCapacity;

impl Kind for CsiStorageCapacity {
    fn validate_create(&self, object: &Object) -> FieldErrors {
        let mut errors = label_selector(&object["nodeTopology"], &path("nodeTopology"));
        let class = str_at(object, "storageClassName");
        errors.extend(invalid(&path("storageClassName"), class, names::dns1123_subdomain(class)));
        if !is_empty(&object["capacity"]) && quantity(&object["capacity"]).sign() < 0 {
            let detail = super::checks::NOT_NEGATIVE;
            errors.push(FieldError::invalid(&path("capacity"), object["capacity"].clone(), detail));
        }
        errors
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = self.validate_create(object);
        for field in ["nodeTopology", "storageClassName"] {
            errors.extend(immutable(&path(field), &object[field], &old[field]));
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(errors: FieldErrors, expect: &[&str]) {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, expect);
    }

    #[test]
    fn a_class_stays_what_it_is() {
        let old = json!({"provisioner": "a", "parameters": {"k": "v"}, "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"});
        let mut new = old.clone();
        new["parameters"]["k"] = json!("w");
        new["volumeBindingMode"] = json!("Later");
        check(
            StorageClass.validate_update(&new, &old),
            &[
                "volumeBindingMode: Unsupported value: \"Later\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
                "parameters: Invalid value: {\"k\":\"w\"}: field is immutable",
                "volumeBindingMode: Invalid value: \"Later\": field is immutable",
            ],
        );
    }

    #[test]
    fn topologies_differ() {
        let term = json!({"matchLabelExpressions": [{"key": "zone", "values": ["a"]}]});
        check(
            topologies(&[term.clone(), term]),
            &["allowedTopologies[1].matchLabelExpressions: Duplicate value: \"\""],
        );
    }

    #[test]
    fn drivers_of_a_node_stand_once() {
        let driver = json!({"name": "d", "nodeID": "n", "topologyKeys": ["a", "a"]});
        check(
            CsiNode.validate_create(&json!({"spec": {"drivers": [driver, driver]}})),
            &[
                "spec.drivers[0]: Duplicate value: \"a\"",
                "spec.drivers[1].name: Duplicate value: \"d\"",
                "spec.drivers[1]: Duplicate value: \"a\"",
            ],
        );
    }
}
