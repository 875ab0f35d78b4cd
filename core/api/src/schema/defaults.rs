//! Sets the overlay's defaults by walking an object along its definition.

use serde_json::{Map, Value};

use super::Schema;
use super::shape::{DefinitionId, Shape};
use crate::object::is_empty;

/// Fills the defaults into an object of this definition.
pub(super) fn fill(schema: &Schema, id: DefinitionId, value: &mut Value) {
    if let Value::Object(map) = value {
        fill_map(schema, id, map);
    }
}

fn fill_map(schema: &Schema, id: DefinitionId, map: &mut Map<String, Value>) {
    let definition = schema.definition(id);
    if !definition.defaults_below {
        return;
    }
    for (index, default) in &definition.defaults {
        let field = &definition.fields[usize::from(*index)];
        let absent = match map.get(field.name) {
            None => true,
            Some(value) if field.pointer => value.is_null(),
            Some(value) => is_empty(value),
        };
        if absent {
            map.insert(field.name.to_owned(), default.clone());
        }
    }
    for (name, value) in map.iter_mut() {
        if let Some(field) = definition.field(name) {
            fill_shape(schema, &field.shape, value);
        }
    }
}

fn fill_shape(schema: &Schema, shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Struct(id), Value::Object(map)) => fill_map(schema, *id, map),
        (Shape::List(inner), Value::Array(items)) if !matches!(**inner, Shape::Scalar(_)) => {
            items.iter_mut().for_each(|item| fill_shape(schema, inner, item));
        }
        (Shape::Map(inner), Value::Object(map)) if !matches!(**inner, Shape::Scalar(_)) => {
            map.values_mut().for_each(|item| fill_shape(schema, inner, item));
        }
        _ => {}
    }
}
