//! What holds for `metadata` of every kind: names, labels, annotations, owners, finalizers, as upstream's
//! `apimachinery/pkg/api/validation` checks them; and the making of names from `generateName`.

use serde_json::{Map, Value};

use crate::error::quoted;
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::kinds::NameRule;
use crate::names::{self, Problems};
use crate::object::{Object, i64_at, items_at, map_at, str_at};
use crate::resources::split_api_version;

/// All annotations of an object together, keys included, in bytes.
pub const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;
/// The finalizer that orphans dependents.
pub const FINALIZER_ORPHAN: &str = "orphan";
/// The finalizer that deletes dependents first.
pub const FINALIZER_FOREGROUND: &str = "foregroundDeletion";
/// Letters and digits of generated names: no vowels and no look-alikes, so that no words come out (upstream's `rand`).
const NAME_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const NAME_RANDOM_LENGTH: usize = 5;

impl NameRule {
    /// What is wrong with a name, or with the start of one that will be generated.
    pub fn check(self, name: &str, prefix: bool) -> Problems {
        let masked = if prefix { names::masked_prefix(name) } else { name.to_owned() };
        match self {
            Self::DnsSubdomain => names::dns1123_subdomain(&masked),
            Self::DnsLabel => names::dns1123_label(&masked),
            Self::Dns1035Label => names::dns1035_label(&masked),
            Self::PathSegment if prefix => names::path_segment_prefix(name),
            Self::PathSegment => names::path_segment(name),
        }
    }
}

/// A name made of `generateName` and five random characters; `random` gives numbers below its argument.
pub fn generate_name(base: &str, mut random: impl FnMut(usize) -> usize) -> String {
    let room = names::LABEL_BYTES_MAX - NAME_RANDOM_LENGTH;
    let cut = (0..=base.len().min(room)).rev().find(|&end| base.is_char_boundary(end)).unwrap_or_default();
    let mut name = base[..cut].to_owned();
    for _ in 0..NAME_RANDOM_LENGTH {
        name.push(char::from(NAME_ALPHABET[random(NAME_ALPHABET.len()) % NAME_ALPHABET.len()]));
    }
    name
}

/// What is wrong with a new object's metadata (upstream's `ValidateObjectMeta`).
pub fn validate(object: &Object, namespaced: bool, rule: NameRule) -> FieldErrors {
    let path = FieldPath::new("metadata");
    let mut errors = validate_name(object, rule, &path);
    errors.extend(validate_at(&object["metadata"], namespaced, &path));
    errors
}

fn validate_name(object: &Object, rule: NameRule, path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let (name, base) = (str_at(object, "metadata.name"), str_at(object, "metadata.generateName"));
    if !base.is_empty() {
        let problems = rule.check(base, true).into_iter();
        errors.extend(problems.map(|problem| FieldError::invalid(&path.child("generateName"), base, problem)));
    }
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), "name or generateName is required"));
    } else {
        errors.extend(
            rule.check(name, false).into_iter().map(|problem| FieldError::invalid(&path.child("name"), name, problem)),
        );
    }
    errors
}

/// The part of the check that doesn't concern the name.
fn validate_at(metadata: &Value, namespaced: bool, path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let namespace = str_at(metadata, "namespace");
    let at = path.child("namespace");
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.push(FieldError::required(&at, "")),
        (true, false) => {
            errors.extend(
                names::dns1123_label(namespace).into_iter().map(|problem| FieldError::invalid(&at, namespace, problem)),
            );
        }
        (false, false) => errors.push(FieldError::forbidden(&at, "not allowed on this type")),
        (false, true) => {}
    }
    let generation = i64_at(metadata, "generation").unwrap_or_default();
    if generation < 0 {
        errors.push(FieldError::invalid(&path.child("generation"), generation, "must be greater than or equal to 0"));
    }
    errors.extend(validate_labels(map_at(metadata, "labels"), &path.child("labels")));
    errors.extend(validate_annotations(map_at(metadata, "annotations"), &path.child("annotations")));
    errors.extend(validate_owner_references(items_at(metadata, "ownerReferences"), &path.child("ownerReferences")));
    errors.extend(validate_finalizers(items_at(metadata, "finalizers"), &path.child("finalizers")));
    errors.extend(validate_managed_fields(items_at(metadata, "managedFields"), &path.child("managedFields")));
    errors
}

/// What is wrong with a set of labels (upstream's `ValidateLabels`).
pub fn validate_labels(labels: Option<&Map<String, Value>>, path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    for (key, value) in labels.into_iter().flatten() {
        errors.extend(
            names::qualified_name(key).into_iter().map(|problem| FieldError::invalid(path, key.as_str(), problem)),
        );
        let value = value.as_str().unwrap_or_default();
        errors.extend(names::label_value(value).into_iter().map(|problem| FieldError::invalid(path, value, problem)));
    }
    errors
}

/// What is wrong with a set of annotations (upstream's `ValidateAnnotations`).
pub fn validate_annotations(annotations: Option<&Map<String, Value>>, path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let mut bytes = 0;
    for (key, value) in annotations.into_iter().flatten() {
        let problems = names::qualified_name(&key.to_lowercase()).into_iter();
        errors.extend(problems.map(|problem| FieldError::invalid(path, key.as_str(), problem)));
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.push(FieldError::too_long(path, ANNOTATIONS_BYTES_MAX));
    }
    errors
}

fn validate_owner_references(owners: &[Value], path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let mut controller: Option<String> = None;
    for owner in owners {
        let (api_version, kind, name) = (str_at(owner, "apiVersion"), str_at(owner, "kind"), str_at(owner, "name"));
        if split_api_version(api_version).1.is_empty() {
            errors.push(FieldError::invalid(&path.child("apiVersion"), api_version, "version must not be empty"));
        }
        for field in ["kind", "name", "uid"] {
            if str_at(owner, field).is_empty() {
                errors.push(FieldError::invalid(&path.child(field), "", "must not be empty"));
            }
        }
        if api_version == "v1" && kind == "Event" {
            errors.push(FieldError::invalid(path, owner.clone(), "/v1, Kind=Event is disallowed from being an owner"));
        }
        if owner["controller"] == Value::Bool(true) {
            let this = format!("{kind}/{name}");
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    errors.push(FieldError::invalid(path, owners.to_vec(), detail));
                }
            }
        }
    }
    errors
}

/// What is wrong with a list of finalizers (upstream's `ValidateFinalizers`).
pub fn validate_finalizers(finalizers: &[Value], path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    for name in finalizers.iter().filter_map(Value::as_str) {
        errors.extend(names::qualified_name(name).into_iter().map(|problem| FieldError::invalid(path, name, problem)));
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has(FINALIZER_ORPHAN) && has(FINALIZER_FOREGROUND) {
        let detail = format!("finalizer {FINALIZER_ORPHAN} and {FINALIZER_FOREGROUND} cannot be both set");
        errors.push(FieldError::invalid(path, finalizers.to_vec(), detail));
    }
    errors
}

fn validate_managed_fields(entries: &[Value], path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    for (index, entry) in entries.iter().enumerate() {
        let at = path.index(index);
        let operation = str_at(entry, "operation");
        if !matches!(operation, "Apply" | "Update") {
            errors.push(FieldError::invalid(&at.child("operation"), operation, "must be `Apply` or `Update`"));
        }
        let kind = str_at(entry, "fieldsType");
        if !matches!(kind, "" | "FieldsV1") {
            errors.push(FieldError::invalid(&at.child("fieldsType"), kind, "must be `FieldsV1`"));
        }
        errors.extend(validate_field_manager(str_at(entry, "manager"), &at.child("manager")));
        if str_at(entry, "subresource").len() > 256 {
            errors.push(FieldError::too_long(&at.child("subresource"), 256));
        }
    }
    errors
}

/// What is wrong with a field manager's name.
pub fn validate_field_manager(manager: &str, path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    if manager.len() > 128 {
        errors.push(FieldError::too_long(path, 128));
    }
    for (position, c) in manager.char_indices().filter(|(_, c)| c.is_control()) {
        let detail = format!("invalid character U+{:04X} (at position {position})", c as u32);
        errors.push(FieldError::invalid(path, manager, detail));
    }
    errors
}

/// What is wrong with a change of metadata (upstream's `ValidateObjectMetaUpdate`).
pub fn validate_update(object: &Object, old: &Object) -> FieldErrors {
    let path = FieldPath::new("metadata");
    let (new, old) = (&object["metadata"], &old["metadata"]);
    let mut errors = FieldErrors::new();
    if !old["deletionTimestamp"].is_null() {
        let known = items_at(old, "finalizers");
        let mut added: Vec<&str> =
            items_at(new, "finalizers").iter().filter(|name| !known.contains(name)).filter_map(Value::as_str).collect();
        added.sort_unstable();
        added.dedup();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|name| quoted(name)).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            errors.push(FieldError::forbidden(&path.child("finalizers"), detail));
        }
    }
    if str_at(new, "resourceVersion").is_empty() {
        errors.push(FieldError::invalid(&path.child("resourceVersion"), "", "must be specified for an update"));
    }
    let generation = i64_at(new, "generation").unwrap_or_default();
    if generation < i64_at(old, "generation").unwrap_or_default() {
        errors.push(FieldError::invalid(&path.child("generation"), generation, "must not be decremented"));
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if new[field] != old[field] {
            errors.push(FieldError::invalid(&path.child(field), shown(field, &new[field]), "field is immutable"));
        }
    }
    errors.extend(validate_labels(map_at(new, "labels"), &path.child("labels")));
    errors.extend(validate_annotations(map_at(new, "annotations"), &path.child("annotations")));
    errors.extend(validate_owner_references(items_at(new, "ownerReferences"), &path.child("ownerReferences")));
    errors.extend(validate_managed_fields(items_at(new, "managedFields"), &path.child("managedFields")));
    errors
}

/// What is wrong with a change, told as often as upstream tells it: most kinds' own validation repeats the checks that the
/// registry has made, and a client sees each cause twice.
pub fn validate_change(object: &Object, old: &Object, namespaced: bool, rule: NameRule) -> FieldErrors {
    let mut errors = validate(object, namespaced, NameRule::PathSegment);
    let changes = validate_update(object, old);
    errors.extend(changes.iter().cloned());
    errors.extend(changes);
    errors.extend(validate(object, namespaced, rule));
    errors
}

/// An absent text prints as an empty one, anything else as null.
fn shown(field: &str, value: &Value) -> Value {
    if value.is_null() && matches!(field, "name" | "namespace" | "uid") { Value::from("") } else { value.clone() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(errors: FieldErrors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn new_metadata_is_checked() {
        let cases: &[(Value, bool, &[&str])] = &[
            (json!({"name": "a", "namespace": "n"}), true, &[]),
            (json!({}), false, &["metadata.name: Required value: name or generateName is required"]),
            (json!({"name": "a"}), true, &["metadata.namespace: Required value"]),
            (
                json!({"name": "a", "namespace": "n"}),
                false,
                &["metadata.namespace: Forbidden: not allowed on this type"],
            ),
            (
                json!({"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "l1"}]}),
                false,
                &["metadata.ownerReferences.uid: Invalid value: \"\": must not be empty"],
            ),
            (
                json!({"name": "a", "finalizers": ["orphan", "foregroundDeletion"]}),
                false,
                &[
                    "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set",
                ],
            ),
        ];
        for (metadata, namespaced, expect) in cases {
            assert_eq!(texts(validate(&json!({"metadata": metadata}), *namespaced, NameRule::DnsSubdomain)), *expect);
        }
    }

    #[test]
    fn changes_of_metadata_are_checked() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "resourceVersion": "1", "generation": 2, "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["example.org/x"]}});
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!(["example.org/x", "example.org/y"]);
        new["metadata"]["generation"] = json!(1);
        new["metadata"]["uid"] = json!("2");
        assert_eq!(
            texts(validate_update(&new, &old)),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"example.org/y\"}",
                "metadata.generation: Invalid value: 1: must not be decremented",
                "metadata.uid: Invalid value: \"2\": field is immutable",
            ]
        );
    }

    #[test]
    fn generated_names_fit_a_label() {
        let mut next = 0;
        let mut random = |below: usize| {
            next += 1;
            next % below
        };
        assert_eq!(generate_name("gen-", &mut random), "gen-cdfgh");
        assert_eq!(generate_name(&"x".repeat(80), &mut random).len(), 63);
    }
}
