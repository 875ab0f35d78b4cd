//! Admission: what is added to a request's object, and what is refused, between authorization and the registry.
//!
//! [`Admission::admit`] runs before the object is validated and may change it, [`Admission::validate`] after that and
//! may not. Both walk upstream's default plugins in upstream's order, a file each.

#[cfg(test)]
pub mod testing;

use std::sync::Arc;

use gantry_api::error::ApiError;
use gantry_api::object::Object;
use gantry_api::resources::Resource;

use crate::auth::{Authorization, UserInfo};

/// Live objects, as the watch cache has them.
pub trait ObjectReader: Send + Sync {
    /// An object by group, plural name of the resource, namespace (empty for cluster scope) and name.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>>;

    /// All objects of a resource in a namespace, or everywhere when it is empty, in the order of their keys.
    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Object>>;
}

/// What a request does to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// POST.
    Create,
    /// PUT and PATCH.
    Update,
    /// DELETE.
    Delete,
    /// exec, attach, port-forward, proxy.
    Connect,
}

impl Operation {
    /// Upstream's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A warning for the client.
pub type Warning = String;

/// A request as admission sees it.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionRequest<'a> {
    /// What it does.
    pub operation: Operation,
    /// To what.
    pub resource: &'a Resource,
    /// To what part of it; empty for the object itself.
    pub subresource: &'a str,
    /// Where; empty for cluster scope.
    pub namespace: &'a str,
    /// The name in the URL; empty for a create.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a UserInfo,
    /// Whether nothing will be written.
    pub dry_run: bool,
}

/// The chain of plugins.
pub struct Admission {
    authorization: Arc<Authorization>,
}

impl Admission {
    /// Upstream's default chain.
    pub fn new(authorization: Arc<Authorization>) -> Self {
        Self { authorization }
    }

    /// The changing half. For a delete, `object` is `null` and `old` what will go; for a create there is no `old`.
    pub async fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Object,
        old: Option<&Object>,
        reader: &dyn ObjectReader,
    ) -> Result<Vec<Warning>, ApiError> {
        let _ = (&self.authorization, request, object, old, reader);
        Ok(Vec::new())
    }

    /// The checking half, after the object has been validated.
    pub async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: &Object,
        old: Option<&Object>,
        reader: &dyn ObjectReader,
    ) -> Result<Vec<Warning>, ApiError> {
        let _ = (request, object, old, reader);
        Ok(Vec::new())
    }
}
