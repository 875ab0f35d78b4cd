//! Admission: what is added to a request's object, and what is refused, between authorization and the registry.
//!
//! [`Admission::admit`] runs before the object is validated and may change it, [`Admission::validate`] after that and
//! may not. Both walk upstream's default plugins in upstream's order, a file each:
//!
//! - `namespace_lifecycle`: nothing new in a namespace that is missing or going; some namespaces stay for ever
//! - `service_account`: every pod has an account, and its token as a volume
//! - `node_restriction`: a node changes only itself and its pods
//! - `taint_nodes`: a new node takes no pods before it is ready
//! - `priority`: from a pod's class to its number
//! - `default_toleration_seconds`: how long pods stay on a node that is lost
//! - `default_storage_class`, `default_ingress_class`: the class of what names none
//! - `storage_protection`: volumes and claims in use don't go
//! - `claim_resize`: which claims may grow
//! - `runtime_class`: what a runtime costs and where it runs
//! - `certificates`: who approves and signs which requests
//! - `pod_topology_labels`: zone and region of a pod's node

#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

mod certificates;
mod claim_resize;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod namespace_lifecycle;
mod node_restriction;
mod pod_topology_labels;
mod priority;
mod runtime_class;
mod service_account;
mod storage_protection;
mod taint_nodes;

use std::fmt;
use std::sync::Arc;

use gantry_api::error::ApiError;
use gantry_api::object::{Object, str_at};
use gantry_api::resources::Resource;

use crate::auth::rbac::escalation;
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

impl AdmissionRequest<'_> {
    /// Whether it is for a resource of a group.
    fn is_for(&self, group: &str, plural: &str) -> bool {
        self.resource.group == group && self.resource.plural == plural
    }

    /// Whether it is for objects of a resource of a group, not for a part of them.
    fn is_for_object(&self, group: &str, plural: &str) -> bool {
        self.subresource.is_empty() && self.is_for(group, plural)
    }

    /// A plugin's refusal. A new object has no name in the URL: its own is told, or what its name will start with.
    fn forbidden(&self, object: &Object, cause: impl fmt::Display) -> ApiError {
        let candidates =
            [self.name, str_at(object, "metadata.name"), str_at(object, "metadata.generateName"), "Unknown!"];
        let name = candidates.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
        ApiError::forbidden(self.resource, name, cause)
    }
}

/// The chain of plugins.
pub struct Admission {
    authorization: Arc<Authorization>,
}

impl Admission {
    /// Upstream's default chain, with `NodeRestriction`, which the node authorizer counts on.
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
        namespace_lifecycle::admit(request, object, reader)?;
        service_account::admit(request, object, reader).await?;
        node_restriction::admit(request, object, old, reader)?;
        taint_nodes::admit(request, object);
        priority::admit(request, object, old, reader)?;
        default_toleration_seconds::admit(request, object);
        default_storage_class::admit(request, object, reader);
        storage_protection::admit(request, object);
        runtime_class::admit(request, object, reader)?;
        default_ingress_class::admit(request, object, reader);
        pod_topology_labels::admit(request, object, reader);
        escalation::check(&self.authorization, request, object, old)?;
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
        service_account::validate(request, object, reader)?;
        priority::validate(request, object, reader)?;
        claim_resize::validate(request, object, old, reader)?;
        runtime_class::validate(request, object, reader)?;
        certificates::validate(self.authorization.as_ref(), request, object, old)?;
        Ok(Vec::new())
    }
}
