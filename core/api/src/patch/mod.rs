//! Patches: JSON patch (RFC 6902), merge patch (RFC 7396) and upstream's strategic merge patch, each followed by the
//! checks that a body gets. Refusals are upstream's (`apiserver/pkg/endpoints/handlers/patch.go`).

mod json;
mod merge;
mod strategic;

use serde_json::Value;

use crate::decode::{Decoded, FieldValidation, decode_patched, duplicate_fields, syntax_error};
use crate::error::{ApiError, Details, Reason};
use crate::object::Object;
use crate::resources::Resource;

pub use json::{COPY_BYTES_MAX, OPERATIONS_MAX, json_patch};
pub use merge::{merge, merge_patch};
pub use strategic::strategic_merge;

/// What a `Content-Type` says of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7396.
    Merge,
    /// Upstream's, which knows the keys of lists.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchType {
    /// The type that a `Content-Type` names.
    pub fn from_content_type(header: &str) -> Option<Self> {
        match header.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// Applies a patch to the current object (in the version of `resource`) and reads the outcome like a body: pruned,
/// normalised, with warnings. The caller sets defaults. [`PatchType::Apply`] isn't served here.
pub fn apply(
    patch_type: PatchType,
    resource: &Resource,
    current: &Object,
    body: &[u8],
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let look_twice = validation != FieldValidation::Ignore;
    match patch_type {
        PatchType::Json => {
            let strict = if look_twice { json::strict_errors(body)? } else { Vec::new() };
            let patched = json_patch(current, body)?;
            let shown = patched.clone();
            decode_patched(patched, resource, validation, strict, || shown.to_string())
        }
        PatchType::Merge => {
            let strict = if look_twice { duplicates(body)? } else { Vec::new() };
            let patched = merge_patch(current, body)?;
            let shown = patched.clone();
            decode_patched(patched, resource, validation, strict, || shown.to_string())
        }
        PatchType::Strategic => {
            let strict = if look_twice { duplicates(body)? } else { Vec::new() };
            let patched = strategic_merge(resource, current, body)?;
            let shown = || serde_json::from_slice(body).map(|patch: Value| go_print(&patch)).unwrap_or_default();
            decode_patched(patched, resource, validation, strict, shown)
        }
        PatchType::Apply => Err(ApiError::unsupported_patch_type()),
    }
}

fn duplicates(body: &[u8]) -> Result<Vec<String>, ApiError> {
    duplicate_fields(body).map_err(|problem| ApiError::bad_request(format!("error decoding patch: {problem}")))
}

/// Reads the body of a merge patch, which must be an object.
fn read_map(body: &[u8]) -> Result<Value, String> {
    let value: Value =
        serde_json::from_slice(body).map_err(|error| syntax_error(body).unwrap_or_else(|| error.to_string()))?;
    let word = match &value {
        Value::Object(_) => return Ok(value),
        Value::Null => return Ok(Value::Object(serde_json::Map::new())),
        Value::Array(_) => "array",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
    };
    Err(format!("json: cannot unmarshal {word} into Go value of type map[string]interface {{}}"))
}

/// 422 without a cause, for a patch that can't be applied: upstream keeps its reason to itself.
fn not_applicable() -> ApiError {
    let message = "the server rejected our request due to an error in our request".to_owned();
    ApiError { code: 422, reason: Reason::Invalid, message, details: Some(Box::<Details>::default()) }
}

/// Go's `%v` of decoded JSON: `map[a:1 b:[x y]]`.
fn go_print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_print).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", go_print(value))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resources::ResourceTable;

    #[test]
    fn outcomes_are_read_like_bodies() {
        let config_maps = ResourceTable::builtin().get("", "v1", "configmaps").expect("a resource");
        let current = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "1"}});
        let patched = |kind, body: &str, validation| apply(kind, config_maps, &current, body.as_bytes(), validation);
        let outcome =
            patched(PatchType::Merge, r#"{"data":{"b":"2"},"bogus":1}"#, FieldValidation::Warn).expect("a patch");
        assert_eq!(outcome.warnings, ["unknown field \"bogus\""]);
        assert_eq!(outcome.object["data"], json!({"a": "1", "b": "2"}));
        let refused = patched(PatchType::Strategic, r#"{"bogus":1}"#, FieldValidation::Strict).expect_err("strict");
        assert_eq!(
            refused.message,
            " \"\" is invalid: patch: Invalid value: \"map[bogus:1]\": strict decoding error: unknown field \"bogus\""
        );
        let refused =
            patched(PatchType::Merge, r#"{"data":{"b":5}}"#, FieldValidation::Warn).expect_err("a wrong type");
        assert_eq!((refused.code, refused.reason), (422, Reason::Invalid));
        let refused = patched(PatchType::Merge, "[]", FieldValidation::Warn).expect_err("no object");
        assert_eq!(
            refused.message,
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
        );
        let outcome =
            patched(PatchType::Merge, r#"{"data":{"b":"1","b":"2"}}"#, FieldValidation::Warn).expect("a patch");
        assert_eq!(outcome.warnings, ["duplicate field \"data.b\""]);
    }
}
