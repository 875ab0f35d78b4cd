//! Paths to fields, and what validation says of them, in the words of upstream's
//! `k8s.io/apimachinery/pkg/util/validation/field`.

use std::fmt;

use serde_json::{Value, json};

use crate::error::quoted;

/// A path such as `spec.containers[0].env[1].name` or `metadata.labels[app]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldPath(String);

impl FieldPath {
    /// A path of one or more dotted field names.
    pub fn new(path: impl Into<String>) -> Self {
        Self(path.into())
    }

    /// The path of a field below this one.
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// The path of a list's item.
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// The path of a map's entry.
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Upstream prints `<nil>` for the empty path.
        if self.0.is_empty() { out.write_str("<nil>") } else { out.write_str(&self.0) }
    }
}

/// Upstream's `ErrorType`; [`FieldErrorKind::reason`] is what a status cause carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// It refers to something that is not there.
    NotFound,
    /// It must be set.
    Required,
    /// It stands twice.
    Duplicate,
    /// It can't have this value.
    Invalid,
    /// Its value is outside a closed set.
    NotSupported,
    /// It must not be set or changed here.
    Forbidden,
    /// Its text is over a limit.
    TooLong,
    /// It has too many items.
    TooMany,
    /// The server failed to check it.
    Internal,
    /// It is of another type.
    TypeInvalid,
}

impl FieldErrorKind {
    /// The `reason` of the cause in a `Status`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
            Self::TypeInvalid => "Invalid value",
        }
    }
}

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// Where.
    pub field: FieldPath,
    /// The offending value; not printed for required, forbidden, too long and internal errors.
    pub bad_value: Value,
    /// In words; may be empty.
    pub detail: String,
    /// The value as text, where upstream prints it in a form of its own; empty where it doesn't print it at all.
    shown: Option<String>,
}

/// All that is wrong with an object, in upstream's order.
pub type FieldErrors = Vec<FieldError>;

impl FieldError {
    fn of(kind: FieldErrorKind, field: &FieldPath, bad_value: Value, detail: impl Into<String>) -> Self {
        Self { kind, field: field.clone(), bad_value, detail: detail.into(), shown: None }
    }

    /// A field that must be set is not.
    pub fn required(field: &FieldPath, detail: impl Into<String>) -> Self {
        Self::of(FieldErrorKind::Required, field, json!(""), detail)
    }

    /// A value that can't be.
    pub fn invalid(field: &FieldPath, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::of(FieldErrorKind::Invalid, field, value.into(), detail)
    }

    /// A value that can't be, printed as this text: for values that upstream prints with Go's field names.
    pub fn invalid_shown(field: &FieldPath, shown: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { shown: Some(shown.into()), ..Self::invalid(field, Value::Null, detail) }
    }

    /// A value that can't be and isn't printed (upstream's `OmitValueType`).
    pub fn invalid_omitted(field: &FieldPath, detail: impl Into<String>) -> Self {
        Self::invalid_shown(field, "", detail)
    }

    /// A value outside a closed set, printed as this text.
    pub fn not_supported_shown(field: &FieldPath, shown: impl Into<String>, supported: &[&str]) -> Self {
        Self { shown: Some(shown.into()), ..Self::not_supported_in_order(field, Value::Null, supported) }
    }

    /// The same error with other words to it.
    #[must_use]
    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    /// A value that stands twice where it may stand once.
    pub fn duplicate(field: &FieldPath, value: impl Into<Value>) -> Self {
        Self::of(FieldErrorKind::Duplicate, field, value.into(), "")
    }

    /// A value that must refer to something that isn't there.
    pub fn not_found(field: &FieldPath, value: impl Into<Value>) -> Self {
        Self::of(FieldErrorKind::NotFound, field, value.into(), "")
    }

    /// A value outside a closed set. The supported ones are printed sorted, as upstream does.
    pub fn not_supported(field: &FieldPath, value: impl Into<Value>, supported: &[&str]) -> Self {
        let mut sorted = supported.to_vec();
        sorted.sort_unstable();
        let detail = if sorted.is_empty() {
            String::new()
        } else {
            let quoted: Vec<String> = sorted.iter().map(|value| quoted(value)).collect();
            format!("supported values: {}", quoted.join(", "))
        };
        Self::of(FieldErrorKind::NotSupported, field, value.into(), detail)
    }

    /// The same, the supported values printed in this order: for the few lists that upstream doesn't sort.
    pub fn not_supported_in_order(field: &FieldPath, value: impl Into<Value>, supported: &[&str]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|value| quoted(value)).collect();
        Self::of(FieldErrorKind::NotSupported, field, value.into(), format!("supported values: {}", quoted.join(", ")))
    }

    /// A field that must not be set, or not be changed, here.
    pub fn forbidden(field: &FieldPath, detail: impl Into<String>) -> Self {
        Self::of(FieldErrorKind::Forbidden, field, json!(""), detail)
    }

    /// A string, map or body over its limit in bytes.
    pub fn too_long(field: &FieldPath, max_bytes: usize) -> Self {
        Self::of(
            FieldErrorKind::TooLong,
            field,
            json!(""),
            format!("may not be more than {max_bytes} {}", if max_bytes == 1 { "byte" } else { "bytes" }),
        )
    }

    /// A list over its limit.
    pub fn too_many(field: &FieldPath, actual: usize, max: usize) -> Self {
        Self::of(
            FieldErrorKind::TooMany,
            field,
            json!(actual),
            format!("must have at most {max} {}", if max == 1 { "item" } else { "items" }),
        )
    }

    /// The same error, its value printed as this text.
    #[must_use]
    pub fn shown_as(self, shown: impl Into<String>) -> Self {
        Self { shown: Some(shown.into()), ..self }
    }

    /// The text of the cause: everything but the field.
    pub fn body(&self) -> String {
        use FieldErrorKind::{Forbidden, Internal, Required, TooLong};
        let mut text = self.kind.text().to_owned();
        if !matches!(self.kind, Required | Forbidden | TooLong | Internal) {
            let shown = self.shown.clone().unwrap_or_else(|| go_value(&self.bad_value));
            if !shown.is_empty() {
                text.push_str(": ");
                text.push_str(&shown);
            }
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.field, self.body())
    }
}

/// A value as upstream's messages print it: strings quoted, numbers and booleans bare, the rest as JSON.
fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(text) => quoted(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_upstream_writes_them() {
        let path = FieldPath::new("spec").child("ports").index(0);
        let cases = [
            (FieldError::required(&path.child("port"), ""), "spec.ports[0].port: Required value"),
            (
                FieldError::invalid(&path, 0, "must be between 1 and 65535, inclusive"),
                "spec.ports[0]: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (FieldError::duplicate(&path.child("name"), "a"), "spec.ports[0].name: Duplicate value: \"a\""),
            (
                FieldError::not_supported(&path, "X", &["UDP", "TCP"]),
                "spec.ports[0]: Unsupported value: \"X\": supported values: \"TCP\", \"UDP\"",
            ),
            (FieldError::forbidden(&FieldPath::default().key("a"), "no"), "[a]: Forbidden: no"),
        ];
        for (error, expect) in cases {
            assert_eq!(error.to_string(), expect);
        }
    }
}
