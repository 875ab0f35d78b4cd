//! Claims of persistent volumes.

use serde_json::{Value, json};

use super::super::{Kind, keep_status};
use super::checks::{
    annotation, entries, immutable, invalid, keep, known_only, label_selector, path, quantity, same, texts_at,
};
use super::volumes::access_modes;
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::names;
use crate::object::{Object, is_empty, map_mut, str_at};

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) struct PersistentVolumeClaim;

impl Kind for PersistentVolumeClaim {
    fn prepare_for_create(&self, object: &mut Object) {
        map_mut(object, "").insert("status".to_owned(), json!({"phase": "Pending"}));
        let spec = map_mut(object, "spec");
        let source = spec.get("dataSource").cloned().unwrap_or_default();
        if spec.get("dataSourceRef").is_none_or(Value::is_null) && !is_claim_or_snapshot(&source) {
            // Other sources were ignored before they had a field of their own, and still are.
            spec.remove("dataSource");
        }
        match_data_sources(object);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_status(object, old);
        let spec = map_mut(object, "spec");
        let source = spec.get("dataSource").cloned().unwrap_or_default();
        if old["spec"]["dataSource"].is_null()
            && spec.get("dataSourceRef").is_none_or(Value::is_null)
            && !is_claim_or_snapshot(&source)
        {
            spec.remove("dataSource");
        }
        match_data_sources(object);
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        keep(object, old, &["spec"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        claim_spec(&object["spec"], &path("spec"))
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = claim_spec(&object["spec"], &path("spec"));
        errors.extend(change(object, old));
        errors
    }

    fn validate_status_update(&self, object: &Object, _old: &Object) -> FieldErrors {
        let mut errors = FieldErrors::new();
        if texts_at(object, "spec.accessModes").is_empty() {
            errors.push(FieldError::required(&path("Spec.accessModes"), ""));
        }
        for field in ["capacity", "allocatedResources"] {
            for (name, amount) in entries(object, &format!("status.{field}")) {
                let number = quantity(amount);
                if number.sign() < 0 {
                    let at = path("status").child(field).key(name);
                    errors.push(FieldError::invalid(&at, number.value(), "must be a valid resource quantity"));
                }
            }
        }
        errors
    }

    fn warnings(&self, object: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut warnings = Vec::new();
        if annotation(object, CLASS_ANNOTATION).is_some() {
            warnings.push(format!(
                "metadata.annotations[{CLASS_ANNOTATION}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
            ));
        }
        for field in ["requests", "limits"] {
            let amount = &object["spec"]["resources"][field]["storage"];
            if quantity(amount).milli_value() % 1000 != 0 {
                warnings.push(format!(
                    "spec.resources.{field}[storage]: fractional byte value {amount} is invalid, must be an integer"
                ));
            }
        }
        warnings
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        vec![("name", str_at(object, "metadata.name").to_owned())]
    }
}

fn is_claim_or_snapshot(source: &Value) -> bool {
    matches!(
        (str_at(source, "apiGroup"), str_at(source, "kind")),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    )
}

/// `dataSource` and `dataSourceRef` say the same where both can (upstream's `NormalizeDataSources`).
fn match_data_sources(object: &mut Object) {
    let spec = map_mut(object, "spec");
    let get = |field: &str| spec.get(field).filter(|value| !value.is_null()).cloned();
    match (get("dataSource"), get("dataSourceRef")) {
        (Some(source), None) => {
            spec.insert("dataSourceRef".to_owned(), source);
        }
        (None, Some(mut reference)) if str_at(&reference, "namespace").is_empty() => {
            map_mut(&mut reference, "").remove("namespace");
            spec.insert("dataSource".to_owned(), reference);
        }
        _ => {}
    }
}

fn claim_spec(spec: &Value, at: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let modes = texts_at(spec, "accessModes");
    if modes.is_empty() {
        errors.push(FieldError::required(&at.child("accessModes"), "at least 1 access mode is required"));
    }
    errors.extend(label_selector(&spec["selector"], &at.child("selector")));
    errors.extend(access_modes(&modes, &at.child("accessModes")));
    let storage = &spec["resources"]["requests"]["storage"];
    let storage_at = at.child("resources").key("storage");
    if storage.is_null() {
        errors.push(FieldError::required(&storage_at, ""));
    } else if quantity(storage).sign() <= 0 {
        errors.push(FieldError::invalid(&storage_at, storage.clone(), "must be greater than zero"));
    }
    let class = str_at(spec, "storageClassName");
    if !class.is_empty() {
        errors.extend(invalid(&at.child("storageClassName"), class, names::dns1123_subdomain(class)));
    }
    if let Some(mode) = spec["volumeMode"].as_str() {
        errors.extend(known_only(&at.child("volumeMode"), mode, &["Block", "Filesystem"]));
    }
    errors.extend(data_sources(spec, at));
    let class = str_at(spec, "volumeAttributesClassName");
    if !class.is_empty() {
        errors.extend(invalid(&at.child("volumeAttributesClassName"), class, names::dns1123_subdomain(class)));
    }
    errors
}

fn data_sources(spec: &Value, at: &FieldPath) -> FieldErrors {
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    let mut errors = FieldErrors::new();
    for (field, source) in [("dataSource", source), ("dataSourceRef", reference)] {
        if source.is_null() {
            continue;
        }
        let at = at.child(field);
        let (group, kind) = (str_at(source, "apiGroup"), str_at(source, "kind"));
        for field in ["name", "kind"] {
            errors.extend(super::checks::present(&at.child(field), str_at(source, field)));
        }
        if group.is_empty() && kind != "PersistentVolumeClaim" {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.push(FieldError::invalid(&at, kind, detail));
        }
        if !group.is_empty() {
            errors.extend(invalid(&at.child("apiGroup"), group, names::dns1123_subdomain(group)));
        }
        let namespace = str_at(source, "namespace");
        if !namespace.is_empty() {
            errors.extend(invalid(&at.child("namespace"), namespace, names::dns1123_label(namespace)));
        }
    }
    if !source.is_null() && !reference.is_null() {
        // Upstream shows the path of the field, an empty struct, instead of its value.
        let refuse = |detail: &str| FieldError::invalid(at, json!({}), detail);
        if !str_at(reference, "namespace").is_empty() {
            errors.push(refuse("may not be specified when dataSourceRef.namespace is specified"));
        } else if ["apiGroup", "kind", "name"].iter().any(|field| !same(&source[field], &reference[field])) {
            errors.push(refuse("must match dataSourceRef"));
        }
    }
    errors
}

/// Gives a field of one spec the value that it has in another.
fn equalize(spec: &mut Value, other: &Value, field: &str) {
    let map = map_mut(spec, "");
    match other.get(field) {
        Some(value) => map.insert(field.to_owned(), value.clone()),
        None => map.remove(field),
    };
}

fn change(object: &Object, old: &Object) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let (new_class, old_class) = (annotation(object, CLASS_ANNOTATION), annotation(old, CLASS_ANNOTATION));
    // Both specs, made alike where they may differ.
    let (mut new, mut before) = (object["spec"].clone(), old["spec"].clone());
    if str_at(old, "spec.volumeName").is_empty() {
        // Binding sets it, once.
        equalize(&mut before, &new, "volumeName");
    }
    let has_no_class = old["spec"]["storageClassName"].is_null();
    let moved = old_class.is_some()
        && new_class.is_none()
        && has_no_class
        && object["spec"]["storageClassName"].as_str() == old_class;
    if !moved && new_class != old_class {
        let at = path("metadata.annotations").key(CLASS_ANNOTATION);
        errors.push(FieldError::invalid(&at, new_class.unwrap_or_default(), "field is immutable"));
    }
    // A class may be given to a claim that had none at all.
    if moved || old_class.is_none() && has_no_class {
        equalize(&mut new, &before, "storageClassName");
    }
    if str_at(object, "status.phase") == "Bound" {
        equalize(&mut new, &before, "volumeAttributesClassName");
        if !new["resources"]["requests"].is_null() {
            equalize(&mut new["resources"]["requests"], &before["resources"]["requests"], "storage");
        }
    }
    if !same(&new, &before) {
        let detail =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        let difference = super::difference::of_claims(&before, &new);
        errors.push(FieldError::forbidden(&path("spec"), format!("{detail}\n{difference}")));
    }
    let size = |claim: &Object| quantity(&claim["spec"]["resources"]["requests"]["storage"]);
    if size(object) < size(old) && size(object) <= quantity(&old["status"]["capacity"]["storage"]) {
        let detail = "field can not be less than status.capacity";
        errors.push(FieldError::forbidden(&path("spec.resources.requests.storage"), detail));
    }
    errors.extend(immutable(&path("volumeMode"), &object["spec"]["volumeMode"], &old["spec"]["volumeMode"]));
    let class = &object["spec"]["volumeAttributesClassName"];
    if !same(class, &old["spec"]["volumeAttributesClassName"])
        && !old["status"]["currentVolumeAttributesClassName"].is_null()
        && is_empty(class)
    {
        let what = if class.is_null() { "nil" } else { "empty string" };
        let detail = format!("update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil");
        errors.push(FieldError::forbidden(&path("spec.volumeAttributesClassName"), detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(errors: FieldErrors) -> Vec<String> {
        errors.iter().map(|error| error.to_string().lines().next().unwrap_or_default().to_owned()).collect()
    }

    fn claim(phase: &str) -> Object {
        json!({
            "metadata": {"name": "c"},
            "spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "storageClassName": "s", "resources": {"requests": {"storage": "2Gi"}}},
            "status": {"phase": phase},
        })
    }

    #[test]
    fn a_claims_spec_stays() {
        let old = claim("Pending");
        let mut new = old.clone();
        new["spec"]["volumeName"] = json!("v");
        assert_eq!(texts(change(&new, &old)), Vec::<String>::new());
        new["spec"]["resources"]["requests"]["storage"] = json!("3Gi");
        assert_eq!(
            texts(change(&new, &old)),
            [
                "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
            ]
        );
        let mut old = claim("Bound");
        old["status"]["capacity"] = json!({"storage": "2Gi"});
        let mut new = old.clone();
        new["spec"]["resources"]["requests"]["storage"] = json!("3Gi");
        assert_eq!(texts(change(&new, &old)), Vec::<String>::new());
        new["spec"]["resources"]["requests"]["storage"] = json!("1Gi");
        assert_eq!(
            texts(change(&new, &old)),
            ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
        );
    }

    #[test]
    fn data_sources_say_the_same() {
        let mut object = claim("Pending");
        object["spec"]["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": "other"});
        PersistentVolumeClaim.prepare_for_create(&mut object);
        assert_eq!(object["spec"]["dataSourceRef"], json!({"kind": "PersistentVolumeClaim", "name": "other"}));
        object["spec"]["dataSource"]["name"] = json!("x");
        assert_eq!(
            texts(claim_spec(&object["spec"], &path("spec"))),
            ["spec: Invalid value: {}: must match dataSourceRef"]
        );
        let mut object = claim("Pending");
        object["spec"]["dataSource"] = json!({"apiGroup": "g", "kind": "K", "name": "other"});
        PersistentVolumeClaim.prepare_for_create(&mut object);
        assert_eq!(object["spec"].get("dataSource"), None);
    }
}
