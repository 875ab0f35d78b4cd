//! Reading and writing fields of an API object without panics: what is absent reads as `null`.

use serde_json::{Map, Value};

/// An API object as decoded JSON. Keys are sorted; unknown fields have been pruned by the schema.
pub type Object = Value;

/// The value at a dotted path of fixed field names (`metadata.name`), `null` when any part is absent.
pub fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |value, part| &value[part])
}

/// The string at a dotted path, empty when absent or not a string.
pub fn str_at<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

/// The integer at a dotted path.
pub fn i64_at(value: &Value, path: &str) -> Option<i64> {
    at(value, path).as_i64()
}

/// The boolean at a dotted path, `false` when absent.
pub fn bool_at(value: &Value, path: &str) -> bool {
    at(value, path).as_bool().unwrap_or_default()
}

/// The items of the list at a dotted path, empty when absent.
pub fn items_at<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The map at a dotted path, if there is one.
pub fn map_at<'a>(value: &'a Value, path: &str) -> Option<&'a Map<String, Value>> {
    at(value, path).as_object()
}

/// Whether a field counts as unset in the way of Go's `omitempty`: absent, null, "", 0, false, [] or {}.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(m) => m.is_empty(),
    }
}

/// The map at a dotted path, made (with its parents) when absent. A value of another type is replaced.
pub fn map_mut<'a>(value: &'a mut Value, path: &str) -> &'a mut Map<String, Value> {
    let mut current = value;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        if !current.is_object() {
            *current = Value::Object(Map::new());
        }
        current = match current {
            Value::Object(map) => map.entry(part).or_insert_with(|| Value::Object(Map::new())),
            other => other,
        };
    }
    if !current.is_object() {
        *current = Value::Object(Map::new());
    }
    match current {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

/// Sets a field of a map unless it is there already (null counts as absent).
pub fn set_default(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    let slot = map.entry(field).or_insert(Value::Null);
    if slot.is_null() {
        *slot = value.into();
    }
}
