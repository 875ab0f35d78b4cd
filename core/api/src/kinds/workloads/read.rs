//! Reading single fields of a workload: what is absent reads as Go's zero value.

use serde_json::{Map, Value};

use crate::quantity::Quantity;

/// A text, empty when absent.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// A text that Go holds by pointer.
pub(super) fn optional_text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value[field].as_str()
}

/// A whole number, 0 when absent.
pub(super) fn number(value: &Value, field: &str) -> i64 {
    value[field].as_i64().unwrap_or_default()
}

/// A whole number that Go holds by pointer.
pub(super) fn optional_number(value: &Value, field: &str) -> Option<i64> {
    value[field].as_i64()
}

/// A truth, false when absent.
pub(super) fn flag(value: &Value, field: &str) -> bool {
    value[field].as_bool().unwrap_or_default()
}

/// A truth that Go holds by pointer.
pub(super) fn optional_flag(value: &Value, field: &str) -> Option<bool> {
    value[field].as_bool()
}

/// A list, empty when absent.
pub(super) fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A list of texts.
pub(super) fn texts<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    items(value, field).iter().map(|item| item.as_str().unwrap_or_default())
}

/// The entries of a map, none when absent.
pub(super) fn entries<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    value[field].as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

/// A map, if there is one.
pub(super) fn map<'a>(value: &'a Value, field: &str) -> Option<&'a Map<String, Value>> {
    value[field].as_object()
}

/// Whether a pointer is set.
pub(super) fn is_set(value: &Value, field: &str) -> bool {
    !value[field].is_null()
}

/// A quantity; what can't be read counts as zero, as decoding has refused it already.
pub(super) fn quantity(value: &Value) -> Quantity {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(Quantity::ZERO)
}

/// Go's `%v` of a quantity.
pub(super) fn quantity_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The list of a field to change, if there is one.
pub(super) fn items_mut<'a>(value: &'a mut Value, field: &str) -> &'a mut [Value] {
    value.get_mut(field).and_then(Value::as_array_mut).map(Vec::as_mut_slice).unwrap_or_default()
}

/// Removes a field.
pub(super) fn remove(value: &mut Value, field: &str) {
    if let Some(map) = value.as_object_mut() {
        map.remove(field);
    }
}

/// Sets a field of a map; nothing else has fields.
pub(super) fn set(value: &mut Value, field: &str, new: impl Into<Value>) {
    if let Some(map) = value.as_object_mut() {
        map.insert(field.to_owned(), new.into());
    }
}

/// Makes a field what it is in another object: there or not.
pub(super) fn replace(to: &mut Value, from: &Value, field: &str) {
    match &from[field] {
        Value::Null => remove(to, field),
        value => set(to, field, value.clone()),
    }
}
