//! What is wrong with a `LabelSelector` object, field by field (upstream's `ValidateLabelSelector`).

use serde_json::Value;

use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::metadata::validate_labels;
use crate::names;
use crate::object::{items_at, map_at, str_at};

/// What is wrong with a label selector. `allow_invalid_values` leaves the values of expressions alone, for objects that
/// were stored before values were checked. Null is fine.
pub fn validate_label_selector(selector: &Value, path: &FieldPath, allow_invalid_values: bool) -> FieldErrors {
    let mut errors = validate_labels(map_at(selector, "matchLabels"), &path.child("matchLabels"));
    for (index, expression) in items_at(selector, "matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(index);
        let operator = str_at(expression, "operator");
        let values = items_at(expression, "values");
        match operator {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                &path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
                &path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => {
                let detail = "not a valid selector operator";
                errors.push(FieldError::invalid(&path.child("operator"), operator, detail));
            }
        }
        let key = str_at(expression, "key");
        let invalid_key = |problem| FieldError::invalid(&path.child("key"), key, problem);
        errors.extend(names::qualified_name(key).into_iter().map(invalid_key));
        for (index, value) in values.iter().enumerate().filter(|_| !allow_invalid_values) {
            let value = value.as_str().unwrap_or_default();
            let invalid_value = |problem| FieldError::invalid(&path.child("values").index(index), value, problem);
            errors.extend(names::label_value(value).into_iter().map(invalid_value));
        }
    }
    errors
}

/// Whether a selector has a value that isn't one of a label.
pub fn has_invalid_values(selector: &Value) -> bool {
    items_at(selector, "matchExpressions")
        .iter()
        .flat_map(|expression| items_at(expression, "values"))
        .any(|value| !names::label_value(value.as_str().unwrap_or_default()).is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_are_checked() {
        let selector = json!({"matchLabels": {"a": "-"}, "matchExpressions": [
            {"key": "k", "operator": "In"},
            {"key": "", "operator": "Exists", "values": ["v"]},
            {"key": "k", "operator": "Like", "values": ["_"]},
        ]});
        let fields = |allow| {
            let errors = validate_label_selector(&selector, &FieldPath::new("s"), allow);
            errors.into_iter().map(|error| error.field.to_string()).collect::<Vec<_>>()
        };
        let strict = fields(false);
        assert_eq!(
            strict,
            [
                "s.matchLabels",
                "s.matchExpressions[0].values",
                "s.matchExpressions[1].values",
                "s.matchExpressions[1].key",
                "s.matchExpressions[1].key",
                "s.matchExpressions[2].operator",
                "s.matchExpressions[2].values[0]",
            ]
        );
        assert_eq!(fields(true), strict[..6]);
        assert!(has_invalid_values(&selector));
    }
}
