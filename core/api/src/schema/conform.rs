//! Fits an object to its definition in one walk: prunes what is unknown, drops what Go leaves out, adds what it always
//! writes, and brings quantities and times into their canonical form.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::Schema;
use super::shape::{Definition, DefinitionId, Field, Presence, Scalar, Shape};
use crate::object::is_empty;
use crate::{quantity, timestamp};

/// What didn't fit. The words for it come from [`crate::decode`], which looks again, in the document's order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Oddities {
    /// Fields without a definition were removed.
    pub unknown_fields: bool,
    /// A value isn't of its field's type, and was left as it is.
    pub wrong_types: bool,
}

/// Fits an object to a definition.
pub fn conform(schema: &Schema, id: DefinitionId, value: &mut Value) -> Oddities {
    let mut walk = Walk { schema, oddities: Oddities::default() };
    walk.shape(&Shape::Struct(id), value);
    walk.oddities
}

struct Walk<'a> {
    schema: &'a Schema,
    oddities: Oddities,
}

impl Walk<'_> {
    fn shape(&mut self, shape: &Shape, value: &mut Value) {
        match (shape, value) {
            // In a list or map, null decodes to the zero value.
            (shape, value) if value.is_null() => *value = self.zero(shape),
            (Shape::Struct(id), Value::Object(map)) => self.fields(self.schema.definition(*id), map),
            (Shape::List(inner), Value::Array(items)) => items.iter_mut().for_each(|item| self.shape(inner, item)),
            (Shape::Map(inner), Value::Object(map)) => map.values_mut().for_each(|item| self.shape(inner, item)),
            (Shape::Scalar(scalar), value) => match canonical(*scalar, value) {
                Ok(None) => {}
                Ok(Some(better)) => *value = better,
                Err(_) => self.oddities.wrong_types = true,
            },
            _ => self.oddities.wrong_types = true,
        }
    }

    fn fields(&mut self, definition: &Definition, map: &mut Map<String, Value>) {
        map.retain(|name, value| {
            let Some(field) = definition.field(name) else {
                self.oddities.unknown_fields = true;
                return false;
            };
            self.field(field, value)
        });
        for &index in &definition.fills {
            let field = &definition.fields[usize::from(index)];
            if !map.contains_key(field.name) {
                map.insert(field.name.to_owned(), self.absent(field));
            }
        }
    }

    /// Fits a field's value; false when the field isn't served.
    fn field(&mut self, field: &Field, value: &mut Value) -> bool {
        if value.is_null() {
            return false;
        }
        self.shape(&field.shape, value);
        if field.presence == Presence::Always && !field.pointer && is_collection(&field.shape) && is_empty(value) {
            // Upstream's storage doesn't tell an empty list or map from none.
            *value = Value::Null;
        }
        field.presence != Presence::Value || !is_empty(value)
    }

    /// What is served for a field that was left out.
    fn absent(&self, field: &Field) -> Value {
        match (&field.shape, field.pointer) {
            (_, true) | (Shape::List(_) | Shape::Map(_), _) => Value::Null,
            (shape, false) => self.zero(shape),
        }
    }

    fn zero(&self, shape: &Shape) -> Value {
        match shape {
            Shape::Struct(id) => {
                let definition = self.schema.definition(*id);
                let fields = definition.fills.iter().map(|&index| &definition.fields[usize::from(index)]);
                Value::Object(fields.map(|field| (field.name.to_owned(), self.absent(field))).collect())
            }
            Shape::List(_) | Shape::Map(_) => Value::Null,
            Shape::Scalar(scalar) => match scalar {
                Scalar::String => json!(""),
                Scalar::Bool => json!(false),
                Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::IntOrString => json!(0),
                Scalar::Quantity => json!("0"),
                Scalar::Bytes | Scalar::Time | Scalar::MicroTime | Scalar::Any => Value::Null,
            },
        }
    }
}

fn is_collection(shape: &Shape) -> bool {
    matches!(shape, Shape::List(_) | Shape::Map(_))
}

/// Why a value doesn't fit a scalar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// Another JSON type, or a number out of range: Go's `UnmarshalTypeError`.
    Type,
    /// The right JSON type with content that its own parser refuses; its message.
    Content(String),
}

/// The canonical form of a scalar where it differs from the value.
pub(crate) fn canonical(scalar: Scalar, value: &Value) -> Result<Option<Value>, Misfit> {
    let changed = |text: Cow<'_, str>| match text {
        Cow::Borrowed(_) => None,
        Cow::Owned(text) => Some(Value::String(text)),
    };
    let check = |fits: bool| if fits { Ok(None) } else { Err(Misfit::Type) };
    match (scalar, value) {
        (Scalar::Any, _) => Ok(None),
        (Scalar::String, value) => check(value.is_string()),
        (Scalar::Bool, value) => check(value.is_boolean()),
        (Scalar::Int32, value) => check(is_int32(value)),
        (Scalar::Int64, value) => check(value.is_i64()),
        (Scalar::Double, value) => check(value.is_number()),
        (Scalar::IntOrString, value) => check(value.is_string() || is_int32(value)),
        (Scalar::Bytes, Value::String(text)) => match STANDARD.decode(text) {
            Ok(_) => Ok(None),
            Err(_) => base64_as_go(text).map(Some),
        },
        (Scalar::Quantity, Value::String(text)) => {
            quantity::canonical(text.trim()).map(changed).map_err(|error| Misfit::Content(error.to_string()))
        }
        (Scalar::Quantity, Value::Number(number)) => {
            let text = number.to_string();
            let text = quantity::canonical(&text).map_err(|error| Misfit::Content(error.to_string()))?;
            Ok(Some(Value::String(text.into_owned())))
        }
        (Scalar::Quantity, other) => {
            quantity::canonical(&other.to_string()).map(|_| None).map_err(|error| Misfit::Content(error.to_string()))
        }
        (Scalar::Time, Value::String(text)) => timestamp::canonical(text).map(changed).map_err(Misfit::Content),
        (Scalar::MicroTime, Value::String(text)) => {
            timestamp::canonical_micro(text).map(changed).map_err(Misfit::Content)
        }
        (Scalar::Bytes | Scalar::Time | Scalar::MicroTime, _) => Err(Misfit::Type),
    }
}

fn is_int32(value: &Value) -> bool {
    value.as_i64().is_some_and(|number| i32::try_from(number).is_ok())
}

/// Go's decoder skips line breaks, and says where else it stopped.
fn base64_as_go(text: &str) -> Result<Value, Misfit> {
    let joined: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match STANDARD.decode(&joined) {
        Ok(bytes) => Ok(Value::String(STANDARD.encode(bytes))),
        Err(error) => {
            let offset = match error {
                base64::DecodeError::InvalidByte(offset, _) | base64::DecodeError::InvalidLastSymbol(offset, _) => {
                    offset
                }
                base64::DecodeError::InvalidLength(length) => length - length % 4,
                base64::DecodeError::InvalidPadding => joined.len(),
            };
            Err(Misfit::Content(format!("illegal base64 data at input byte {offset}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: (&str, &str, &str), mut value: Value, expect: Value, oddities: (bool, bool)) {
        let schema = Schema::builtin();
        let id = schema.by_kind(kind.0, kind.1, kind.2).expect("a kind");
        let found = conform(schema, id, &mut value);
        assert_eq!(value, expect);
        assert_eq!((found.unknown_fields, found.wrong_types), oddities);
    }

    #[test]
    fn an_object_takes_the_form_in_which_it_is_served() {
        let deployment = ("apps", "v1", "Deployment");
        check(
            deployment,
            json!({}),
            json!({
                "metadata": {},
                "spec": {"selector": null, "strategy": {}, "template": {"metadata": {}, "spec": {"containers": null}}},
                "status": {},
            }),
            (false, false),
        );
        check(
            deployment,
            json!({"spec": {"replicas": 0, "paused": false, "minReadySeconds": null, "selector": {"matchLabels": {}}}, "bogus": 1}),
            json!({
                "metadata": {},
                "spec": {"replicas": 0, "selector": {}, "strategy": {}, "template": {"metadata": {}, "spec": {"containers": null}}},
                "status": {},
            }),
            (true, false),
        );
        check(
            ("", "v1", "ConfigMap"),
            json!({"data": {"a": null}, "metadata": {"creationTimestamp": null, "labels": {}}}),
            json!({"data": {"a": ""}, "metadata": {}}),
            (false, false),
        );
        check(
            ("", "v1", "ConfigMap"),
            json!({"data": {"a": 1}}),
            json!({"data": {"a": 1}, "metadata": {}}),
            (false, true),
        );
        check(
            ("", "v1", "LimitRange"),
            json!({"spec": {"limits": [{"type": "Pod", "max": {"cpu": "1000m", "memory": 1024}}]}}),
            json!({
                "metadata": {}, "spec": {"limits": [{"type": "Pod", "max": {"cpu": "1", "memory": "1024"}}]},
            }),
            (false, false),
        );
        check(
            ("", "v1", "Event"),
            json!({"eventTime": "2026-01-01T01:00:00.000000+01:00"}),
            json!({
                "eventTime": "2026-01-01T00:00:00.000000Z", "firstTimestamp": null, "lastTimestamp": null, "involvedObject": {}, "metadata": {},
                "reportingComponent": "", "reportingInstance": "", "source": {},
            }),
            (false, false),
        );
    }
}
