//! Definitions as OpenAPI's component schemas.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Descriptions;
use crate::resources::ResourceTable;
use crate::schema::{Definition, DefinitionId, Field, Presence, Scalar, Schema, Shape};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The schemas of a group and version, with all that they refer to.
pub(super) fn components(table: &ResourceTable, group: &str, version: &str, descriptions: &Descriptions) -> Value {
    let schema = Schema::builtin();
    let mut wanted: Vec<DefinitionId> = Vec::new();
    for name in ["DeleteOptions", "Patch", "Status", "Time", "MicroTime", "ListMeta", "WatchEvent"] {
        wanted.extend(schema.by_name(&format!("{META}.{name}")));
    }
    wanted.extend(schema.by_name("io.k8s.apimachinery.pkg.api.resource.Quantity"));
    wanted.extend(schema.by_name("io.k8s.apimachinery.pkg.util.intstr.IntOrString"));
    for resource in table.of_version(group, version) {
        wanted.extend(schema.of(resource));
        wanted.extend(schema.by_name(&format!("{}List", resource.definition)));
        for sub in &resource.subresources {
            let (group, version) =
                if sub.version.is_empty() { (group, version) } else { (sub.group.as_str(), sub.version.as_str()) };
            wanted.extend(schema.by_kind(group, version, &sub.kind));
        }
    }
    let mut seen = BTreeSet::new();
    while let Some(id) = wanted.pop() {
        if seen.insert(id) {
            let definition = schema.definition(id);
            definition.fields.iter().for_each(|field| refer(&field.shape, &mut wanted));
        }
    }
    let component = |id| {
        let definition = schema.definition(id);
        (definition.name.to_owned(), component(schema, definition, descriptions))
    };
    Value::Object(seen.into_iter().map(component).collect())
}

fn refer(shape: &Shape, wanted: &mut Vec<DefinitionId>) {
    match shape {
        Shape::Scalar(_) => {}
        Shape::Struct(id) => wanted.push(*id),
        Shape::List(inner) | Shape::Map(inner) => refer(inner, wanted),
    }
}

fn component(schema: &Schema, definition: &Definition, descriptions: &Descriptions) -> Value {
    let mut map = Map::new();
    if let Some(text) = descriptions.of(definition.name, "") {
        map.insert("description".to_owned(), json!(text));
    }
    match definition.scalar {
        Some(Scalar::Quantity) => put(&mut map, json!({"oneOf": [{"type": "string"}, {"type": "number"}]})),
        Some(Scalar::IntOrString) => {
            put(&mut map, json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"}))
        }
        Some(Scalar::Time | Scalar::MicroTime) => put(&mut map, json!({"type": "string", "format": "date-time"})),
        Some(Scalar::Any) => {}
        Some(scalar) => put(&mut map, inline(scalar)),
        None => put(&mut map, json!({"type": "object"})),
    }
    if definition.scalar.is_none() && !definition.fields.is_empty() {
        let property = |field: &Field| (field.name.to_owned(), property(schema, definition, field, descriptions));
        map.insert("properties".to_owned(), Value::Object(definition.fields.iter().map(property).collect()));
        let required: Vec<&str> =
            definition.fields.iter().filter(|field| field.required).map(|field| field.name).collect();
        if !required.is_empty() {
            map.insert("required".to_owned(), json!(required));
        }
    }
    if definition.atomic {
        map.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
    }
    if !definition.kinds.is_empty() {
        let kind =
            |(group, version, kind): &(&str, &str, &str)| json!({"group": group, "version": version, "kind": kind});
        map.insert("x-kubernetes-group-version-kind".to_owned(), definition.kinds.iter().map(kind).collect());
    }
    Value::Object(map)
}

fn put(map: &mut Map<String, Value>, more: Value) {
    if let Value::Object(more) = more {
        map.extend(more);
    }
}

fn property(schema: &Schema, definition: &Definition, field: &Field, descriptions: &Descriptions) -> Value {
    let mut map = Map::new();
    put(&mut map, type_of(schema, &field.shape));
    // What Go holds by value is there even when it wasn't given.
    if !field.pointer {
        match &field.shape {
            Shape::Struct(_) => put(&mut map, json!({"default": {}})),
            Shape::Scalar(Scalar::String) if field.presence == Presence::Always => {
                put(&mut map, json!({"default": ""}))
            }
            Shape::Scalar(Scalar::Int32 | Scalar::Int64) if field.presence == Presence::Always => {
                put(&mut map, json!({"default": 0}))
            }
            Shape::Scalar(Scalar::Bool) if field.presence == Presence::Always => {
                put(&mut map, json!({"default": false}))
            }
            _ => {}
        }
    }
    if let Some(text) = descriptions.of(definition.name, field.name) {
        map.insert("description".to_owned(), json!(text));
    }
    let strategy: Vec<&str> = [(field.patch_merge, "merge"), (field.retain_keys, "retainKeys")]
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, word)| *word)
        .collect();
    let facts = [
        ("x-kubernetes-list-type", field.list_type.map(Value::from)),
        ("x-kubernetes-list-map-keys", (!field.list_map_keys.is_empty()).then(|| json!(field.list_map_keys))),
        ("x-kubernetes-map-type", field.map_atomic.then(|| json!("atomic"))),
        ("x-kubernetes-patch-strategy", (!strategy.is_empty()).then(|| json!(strategy.join(",")))),
        ("x-kubernetes-patch-merge-key", field.merge_key.map(Value::from)),
    ];
    map.extend(facts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    Value::Object(map)
}

fn type_of(schema: &Schema, shape: &Shape) -> Value {
    match shape {
        Shape::Scalar(scalar) => match scalar_definition(*scalar) {
            Some(name) => reference(name),
            None => inline(*scalar),
        },
        Shape::Struct(id) => reference(schema.definition(*id).name),
        Shape::List(inner) => json!({"type": "array", "items": element(schema, inner)}),
        Shape::Map(inner) => json!({"type": "object", "additionalProperties": element(schema, inner)}),
    }
}

fn element(schema: &Schema, shape: &Shape) -> Value {
    let mut value = type_of(schema, shape);
    match shape {
        Shape::Struct(_) => value["default"] = json!({}),
        Shape::Scalar(Scalar::String) => value["default"] = json!(""),
        _ => {}
    }
    value
}

/// References stand in `allOf`: beside a bare one, OpenAPI 3.0 allows no description.
fn reference(name: &str) -> Value {
    json!({"allOf": [{"$ref": format!("#/components/schemas/{name}")}]})
}

fn scalar_definition(scalar: Scalar) -> Option<&'static str> {
    match scalar {
        Scalar::Quantity => Some("io.k8s.apimachinery.pkg.api.resource.Quantity"),
        Scalar::Time => Some("io.k8s.apimachinery.pkg.apis.meta.v1.Time"),
        Scalar::MicroTime => Some("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime"),
        Scalar::IntOrString => Some("io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
        _ => None,
    }
}

fn inline(scalar: Scalar) -> Value {
    match scalar {
        Scalar::Bytes => json!({"type": "string", "format": "byte"}),
        Scalar::Bool => json!({"type": "boolean"}),
        Scalar::Int32 => json!({"type": "integer", "format": "int32"}),
        Scalar::Int64 => json!({"type": "integer", "format": "int64"}),
        Scalar::Double => json!({"type": "number", "format": "double"}),
        Scalar::Any => json!({"type": "object"}),
        _ => json!({"type": "string"}),
    }
}
