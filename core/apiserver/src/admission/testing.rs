//! Objects for the tests of this crate's admission and authentication.

use std::sync::Arc;

use gantry_api::object::{Object, str_at};

use super::ObjectReader;

/// A fixed set of objects, by group and resource.
#[derive(Clone)]
pub struct Objects(Vec<(&'static str, &'static str, Arc<Object>)>);

impl Objects {
    /// These objects.
    pub fn new(objects: Vec<(&'static str, &'static str, Object)>) -> Self {
        Self(objects.into_iter().map(|(group, resource, object)| (group, resource, Arc::new(object))).collect())
    }

    /// The same without one.
    pub fn without(&self, resource: &str, name: &str) -> Self {
        Self(
            self.0
                .iter()
                .filter(|(_, of, object)| *of != resource || str_at(object, "metadata.name") != name)
                .cloned()
                .collect(),
        )
    }
}

impl ObjectReader for Objects {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.list(group, resource, namespace).into_iter().find(|object| str_at(object, "metadata.name") == name)
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Object>> {
        let here = |object: &Object| namespace.is_empty() || str_at(object, "metadata.namespace") == namespace;
        self.0
            .iter()
            .filter(|(g, r, object)| *g == group && *r == resource && here(object))
            .map(|(.., object)| object.clone())
            .collect()
    }
}
