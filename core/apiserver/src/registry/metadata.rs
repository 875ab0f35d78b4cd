//! What all kinds share: names, the fields the system sets, and the checks of metadata
//! (upstream's `rest.FillObjectMetaSystemFields`, `rest.BeforeUpdate`, `ValidateObjectMeta*`).

use gantry_api::error::ApiError;
use gantry_api::metadata::generate_name;
use gantry_api::object::{Object, map_mut, str_at};
use gantry_api::resources::Resource;
use jiff::Timestamp;
use rand::Rng;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Call, timestamp};

/// Makes the object's namespace that of the URL; refuses another one.
pub fn match_namespace(object: &mut Object, resource: &Resource, namespace: &str) -> Result<(), ApiError> {
    if !resource.namespaced {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("namespace");
        }
        return Ok(());
    }
    let given = str_at(object, "metadata.namespace");
    if !given.is_empty() && given != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    map_mut(object, "metadata").insert("namespace".to_owned(), json!(namespace));
    Ok(())
}

/// Refuses an update whose object has another name than the URL.
pub fn match_name(object: &Object, call: &Call<'_>) -> Result<(), ApiError> {
    match str_at(object, "metadata.name") {
        "" => Err(ApiError::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            call.name
        ))),
        name if name != call.name => Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.name
        ))),
        _ => Ok(()),
    }
}

/// Sets what the system sets on a new object.
pub fn fill_for_create(object: &mut Object, now: Timestamp) {
    let metadata = map_mut(object, "metadata");
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        metadata.remove(field);
    }
    metadata.insert("creationTimestamp".to_owned(), json!(timestamp(now)));
    metadata.insert("uid".to_owned(), json!(Uuid::new_v4().to_string()));
    let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default();
    let base = metadata.get("generateName").and_then(Value::as_str).unwrap_or_default();
    if name.is_empty() && !base.is_empty() {
        let mut rng = rand::rng();
        let name = generate_name(base, |below| rng.random_range(0..below));
        metadata.insert("name".to_owned(), json!(name));
    }
    tidy(object);
}

/// Puts back what an update can't change.
pub fn fill_for_update(object: &mut Object, old: &Object) {
    let metadata = map_mut(object, "metadata");
    metadata.remove("selfLink");
    for field in ["creationTimestamp", "uid", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        // What the client leaves out stays; what it changes is refused later, but for what only the server sets.
        let server_only = field != "uid" && field != "creationTimestamp";
        match old["metadata"].get(field) {
            Some(value) if server_only || metadata.get(field).is_none_or(Value::is_null) => {
                metadata.insert(field.to_owned(), value.clone());
            }
            None if server_only => {
                metadata.remove(field);
            }
            _ => {}
        }
    }
    tidy(object);
}

/// Drops empty parts of the metadata, as Go's encoder does.
pub fn tidy(object: &mut Object) {
    let metadata = map_mut(object, "metadata");
    metadata.retain(|_, value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    });
}

/// The uid of an object.
pub fn uid(object: &Object) -> &str {
    str_at(object, "metadata.uid")
}

/// The finalizers of an object.
pub fn finalizers(object: &Object) -> Vec<String> {
    gantry_api::object::items_at(object, "metadata.finalizers")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// Sets the finalizers, leaving no empty list.
pub fn set_finalizers(object: &mut Object, finalizers: &[String]) {
    let metadata = map_mut(object, "metadata");
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), json!(finalizers));
    }
}

/// Whether the object is being deleted.
pub fn is_terminating(object: &Object) -> bool {
    !str_at(object, "metadata.deletionTimestamp").is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_keeps_what_the_server_set() {
        let old = json!({"metadata": {"name": "a", "uid": "u", "creationTimestamp": "t", "generation": 3, "deletionTimestamp": "d"}});
        let mut object = json!({"metadata": {"name": "a", "generation": 9, "labels": {}, "uid": ""}});
        fill_for_update(&mut object, &json!({"metadata": {"uid": "u", "generation": 3}}));
        assert_eq!(object["metadata"]["generation"], 3);
        let mut object = json!({"metadata": {"name": "a"}});
        fill_for_update(&mut object, &old);
        assert_eq!(object, old);
    }
}
