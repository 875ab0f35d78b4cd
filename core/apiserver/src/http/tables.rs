//! Objects as tables (`as=Table`): columns and cells come from [`gantry_api::table`].

use gantry_api::object::Object;
use gantry_api::resources::Resource;
use gantry_api::table::{columns, row};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::negotiate::IncludeObject;
use super::resources::partial_metadata;

/// A table of one object, as a get or a watch event shows it; its version is the object's.
pub fn one(resource: &Resource, object: Object, include: IncludeObject) -> Value {
    let version = object["metadata"]["resourceVersion"].clone();
    let metadata = if version.is_null() { json!({}) } else { json!({"resourceVersion": version}) };
    table(resource, metadata, vec![object], include)
}

/// Upstream makes a row's metadata from its internal form of the object, where this annotation is a field.
fn hide(resource: &Resource, partial: &mut Value) {
    const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
    if resource.kind != "DaemonSet" {
        return;
    }
    let Some(metadata) = partial.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else { return };
    annotations.remove(TEMPLATE_GENERATION);
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
}

/// A table of a list's objects.
pub fn table(resource: &Resource, metadata: Value, objects: Vec<Object>, include: IncludeObject) -> Value {
    let now = Timestamp::now();
    let rows: Vec<Value> = objects
        .into_iter()
        .map(|object| {
            let printed = row(resource, &object, now);
            let mut row = json!(printed);
            row["object"] = match include {
                IncludeObject::None => Value::Null,
                IncludeObject::Metadata => {
                    let mut partial = partial_metadata(&object);
                    hide(resource, &mut partial);
                    partial
                }
                IncludeObject::Object => object,
            };
            row
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns(resource),
        "rows": rows,
    })
}
