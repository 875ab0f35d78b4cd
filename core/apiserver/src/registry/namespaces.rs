//! Namespaces: their own finalizers in `spec`, and the `finalize` subresource that takes them off.

use gantry_api::error::ApiError;
use gantry_api::object::{Object, items_at, map_mut};
use gantry_api::resources::Resource;
use serde_json::{Value, json};

use super::update::{Door, Written};
use super::{Call, Registry, metadata};

/// Whether a resource is the namespaces.
pub fn is_namespace(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "namespaces"
}

/// `spec.finalizers`.
pub fn finalizers(object: &Object) -> Vec<&str> {
    items_at(object, "spec.finalizers").iter().filter_map(Value::as_str).collect()
}

impl Registry {
    /// PUT on `/finalize`: sets `spec.finalizers`, and removes a terminating namespace that nothing holds any more.
    pub async fn finalize(&self, call: &Call<'_>, object: Object) -> Result<Written, ApiError> {
        metadata::match_name(&object, call)?;
        let finalizers = object.pointer("/spec/finalizers").cloned();
        let version = object.pointer("/metadata/resourceVersion").cloned();
        self.update(call, Door::Special, &|old| {
            let mut next = super::update::without_version(old.clone());
            if let Some(version) = &version {
                map_mut(&mut next, "metadata").insert("resourceVersion".to_owned(), version.clone());
            }
            let spec = map_mut(&mut next, "spec");
            match &finalizers {
                Some(Value::Array(list)) if !list.is_empty() => spec.insert("finalizers".to_owned(), json!(list)),
                _ => spec.remove("finalizers"),
            };
            Ok(next)
        })
        .await
    }
}
