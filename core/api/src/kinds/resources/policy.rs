//! Disruption budgets.

use serde_json::Value;

use super::super::{Kind, keep_status};
use super::checks::{first_generation, keep, known_only, label_selector, next_generation, not_negative, path};
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::names;
use crate::object::{Object, i64_at, items_at, map_mut, str_at};

pub(super) struct PodDisruptionBudget;

impl Kind for PodDisruptionBudget {
    fn prepare_for_create(&self, object: &mut Object) {
        map_mut(object, "").remove("status");
        first_generation(object);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_status(object, old);
        next_generation(object, old, &["spec"]);
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        keep(object, old, &["spec"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let at = path("spec");
        let spec = &object["spec"];
        let mut errors = FieldErrors::new();
        if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
            let detail = "minAvailable and maxUnavailable cannot be both set";
            errors.push(FieldError::invalid(&at, spec.clone(), detail).shown_as(shown(spec)));
        }
        for field in ["minAvailable", "maxUnavailable"] {
            errors.extend(count_or_percent(&spec[field], &at.child(field)));
        }
        errors.extend(label_selector(&spec["selector"], &at.child("selector")));
        if let Some(policy) = spec["unhealthyPodEvictionPolicy"].as_str() {
            let known = ["AlwaysAllow", "IfHealthyBudget"];
            errors.extend(known_only(&at.child("unhealthyPodEvictionPolicy"), policy, &known));
        }
        errors
    }

    fn validate_status_update(&self, object: &Object, _old: &Object) -> FieldErrors {
        let at = path("status");
        let mut errors = conditions(items_at(object, "status.conditions"), &at.child("conditions"));
        for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            let count = i64_at(&object["status"], field).unwrap_or_default();
            errors.extend(not_negative(&at.child(field), count));
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// A number of pods, or a share of them in percent.
fn count_or_percent(value: &Value, path: &FieldPath) -> FieldErrors {
    match value {
        Value::Null => FieldErrors::new(),
        Value::String(text) => {
            let problems = names::percent(text);
            if !problems.is_empty() {
                return super::checks::invalid(path, text, problems);
            }
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(i64::MAX);
            if percent > 100 {
                return vec![FieldError::invalid(path, text.as_str(), "must not be greater than 100%")];
            }
            FieldErrors::new()
        }
        number => not_negative(path, number.as_i64().unwrap_or_default()),
    }
}

/// The spec as upstream prints its own struct.
fn shown(spec: &Value) -> String {
    let text = |field: &str| if spec[field].is_null() { "null".to_owned() } else { spec[field].to_string() };
    format!(
        "{{\"MinAvailable\":{},\"Selector\":{},\"MaxUnavailable\":{},\"UnhealthyPodEvictionPolicy\":{}}}",
        text("minAvailable"),
        text("selector"),
        text("maxUnavailable"),
        text("unhealthyPodEvictionPolicy")
    )
}

/// Conditions as all newer kinds have them (upstream's `ValidateConditions`).
pub(super) fn conditions(conditions: &[Value], path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    for (index, condition) in conditions.iter().enumerate() {
        let at = path.index(index);
        let [kind, status, reason] = ["type", "status", "reason"].map(|field| str_at(condition, field));
        if conditions[..index].iter().any(|other| str_at(other, "type") == kind) {
            errors.push(FieldError::duplicate(&at.child("type"), kind));
        }
        errors.extend(super::checks::invalid(&at.child("type"), kind, names::qualified_name(kind)));
        errors.extend(known_only(&at.child("status"), status, &["False", "True", "Unknown"]));
        let generation = i64_at(condition, "observedGeneration").unwrap_or_default();
        errors.extend(not_negative(&at.child("observedGeneration"), generation));
        if condition["lastTransitionTime"].is_null() {
            errors.push(FieldError::required(&at.child("lastTransitionTime"), "must be set"));
        }
        errors.extend(condition_reason(reason, &at.child("reason")));
        if str_at(condition, "message").len() > 32 * 1024 {
            errors.push(FieldError::too_long(&at.child("message"), 32 * 1024));
        }
    }
    errors
}

fn condition_reason(reason: &str, path: &FieldPath) -> FieldErrors {
    const FORM: &str = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?";
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let fits = match reason.as_bytes() {
        [] => return vec![FieldError::required(path, "must be set")],
        [first] => first.is_ascii_alphabetic(),
        [first, middle @ .., last] => {
            first.is_ascii_alphabetic()
                && is_word(*last)
                && middle.iter().all(|byte| is_word(*byte) || matches!(byte, b',' | b':'))
        }
    };
    let mut errors = FieldErrors::new();
    if !fits {
        let text = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
        let detail =
            names::form_error(text, FORM, &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"]);
        errors.push(FieldError::invalid(path, reason, detail));
    }
    if reason.len() > 1024 {
        errors.push(FieldError::too_long(path, 1024));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(errors: FieldErrors, expect: &[&str]) {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, expect);
    }

    #[test]
    fn budgets_have_one_limit() {
        check(
            PodDisruptionBudget.validate_create(&json!({"spec": {"minAvailable": 1, "maxUnavailable": "150%", "selector": {"matchLabels": {"a": "b"}}}})),
            &[
                "spec: Invalid value: {\"MinAvailable\":1,\"Selector\":{\"matchLabels\":{\"a\":\"b\"}},\"MaxUnavailable\":\"150%\",\"UnhealthyPodEvictionPolicy\":null}: minAvailable and maxUnavailable cannot be both set",
                "spec.maxUnavailable: Invalid value: \"150%\": must not be greater than 100%",
            ],
        );
        check(
            PodDisruptionBudget
                .validate_create(&json!({"spec": {"minAvailable": -1, "unhealthyPodEvictionPolicy": "X"}})),
            &[
                "spec.minAvailable: Invalid value: -1: must be greater than or equal to 0",
                "spec.unhealthyPodEvictionPolicy: Unsupported value: \"X\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
            ],
        );
    }

    #[test]
    fn conditions_are_complete() {
        check(
            conditions(&[json!({"type": "A", "status": "Maybe", "reason": "1"})], &path("c")),
            &[
                "c[0].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\"",
                "c[0].lastTransitionTime: Required value: must be set",
                "c[0].reason: Invalid value: \"1\": a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')",
            ],
        );
    }
}
