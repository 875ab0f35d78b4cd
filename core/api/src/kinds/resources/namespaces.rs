//! Namespaces.

use serde_json::{Value, json};

use super::super::{Kind, NameRule, keep_status};
use super::checks::{invalid, keep, path};
use crate::field::{FieldError, FieldErrors};
use crate::names;
use crate::object::{Object, map_mut, str_at};

/// The label with the namespace's own name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// What the namespace controller removes when all else is gone.
const FINALIZER: &str = "kubernetes";

pub(super) struct Namespace;

fn label_with_name(object: &mut Object) {
    let name = str_at(object, "metadata.name").to_owned();
    if !name.is_empty() {
        map_mut(object, "metadata.labels").insert(NAME_LABEL.to_owned(), json!(name));
    }
}

impl Kind for Namespace {
    fn default(&self, object: &mut Object) {
        label_with_name(object);
    }

    fn prepare_for_create(&self, object: &mut Object) {
        label_with_name(object);
        map_mut(object, "").insert("status".to_owned(), json!({"phase": "Active"}));
        let finalizers = map_mut(object, "spec").entry("finalizers").or_insert_with(|| json!([]));
        match finalizers {
            Value::Array(finalizers) if finalizers.iter().any(|finalizer| finalizer == FINALIZER) => {}
            Value::Array(finalizers) => finalizers.push(json!(FINALIZER)),
            other => *other = json!([FINALIZER]),
        }
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        let spec = map_mut(object, "spec");
        match old["spec"].get("finalizers") {
            Some(finalizers) => spec.insert("finalizers".to_owned(), finalizers.clone()),
            None => spec.remove("finalizers"),
        };
        keep_status(object, old);
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        keep(object, old, &["spec"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let at = path("spec.finalizers");
        let mut errors = FieldErrors::new();
        for name in super::checks::texts_at(object, "spec.finalizers") {
            errors.extend(invalid(&at, name, names::qualified_name(name)));
            if !name.contains('/') && !matches!(name, FINALIZER | "orphan" | "foregroundDeletion") {
                let detail = "name is neither a standard finalizer name nor is it fully qualified";
                errors.push(FieldError::invalid(&at, name, detail));
            }
        }
        errors
    }

    fn validate_status_update(&self, object: &Object, _old: &Object) -> FieldErrors {
        let phase = str_at(object, "status.phase");
        let (expect, state) = match object["metadata"]["deletionTimestamp"].is_null() {
            true => ("Active", "empty"),
            false => ("Terminating", "not empty"),
        };
        if phase == expect {
            return FieldErrors::new();
        }
        let detail = format!("may only be '{expect}' if `deletionTimestamp` is {state}");
        vec![FieldError::invalid(&path("status.Phase"), phase, detail)]
    }

    fn name_rule(&self) -> NameRule {
        NameRule::DnsLabel
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        vec![
            ("name", str_at(object, "metadata.name").to_owned()),
            ("status.phase", str_at(object, "status.phase").to_owned()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_namespace_is_active_and_held() {
        let mut object = json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["example.org/x"]}});
        Namespace.prepare_for_create(&mut object);
        assert_eq!(
            object,
            json!({"metadata": {"name": "n", "labels": {NAME_LABEL: "n"}}, "spec": {"finalizers": ["example.org/x", "kubernetes"]}, "status": {"phase": "Active"}})
        );
        assert_eq!(Namespace.validate_create(&object), []);
    }

    #[test]
    fn the_phase_follows_the_deletion() {
        let errors = Namespace.validate_status_update(&json!({"status": {"phase": "Terminating"}}), &json!({}));
        assert_eq!(
            errors[0].to_string(),
            "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
        );
    }
}
