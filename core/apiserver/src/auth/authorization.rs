//! All authorizers in their order: the group that may do everything, nodes, roles.

use gantry_api::object::Object;
use parking_lot::RwLock;

use super::attributes::{Attributes, Authorizer, Decision};
use super::node::NodeAuthorizer;
use super::rbac::{Rbac, Resolved};
use super::user::{MASTERS, UserInfo};

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// The authorizers of a server, kept up to date with the objects they depend on.
pub struct Authorization {
    rbac: RwLock<Rbac>,
    nodes: RwLock<NodeAuthorizer>,
}

impl Default for Authorization {
    fn default() -> Self {
        Self::new()
    }
}

impl Authorization {
    /// Authorizers that know of no object yet.
    pub fn new() -> Self {
        Self { rbac: RwLock::default(), nodes: RwLock::new(NodeAuthorizer::new(crate::bootstrap::node_rules())) }
    }

    /// Whether [`Authorization::observe`] wants to hear of a resource's objects.
    pub fn watches(group: &str, resource: &str) -> bool {
        match group {
            RBAC_GROUP => true,
            "" => matches!(resource, "pods" | "persistentvolumes"),
            "storage.k8s.io" => resource == "volumeattachments",
            "resource.k8s.io" => resource == "resourceslices",
            _ => false,
        }
    }

    /// Takes note of an object's new state, or of its end (`None`). The registry calls it for every change, in order,
    /// before the write is acknowledged, and for all objects on start.
    pub fn observe(&self, group: &str, resource: &str, namespace: &str, name: &str, object: Option<&Object>) {
        if !Self::watches(group, resource) {
            return;
        }
        if group == RBAC_GROUP {
            self.rbac.write().observe(resource, namespace, name, object);
        } else {
            self.nodes.write().observe(resource, namespace, name, object);
        }
    }

    /// All rules that apply to a user in a namespace (or, when it is empty, at cluster scope).
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Resolved {
        self.rbac.read().rules_for(user, namespace)
    }

    /// The rules of a role that a binding in a namespace refers to.
    pub fn role_rules(&self, kind: &str, name: &str, namespace: &str) -> Result<Vec<super::rbac::Rule>, String> {
        self.rbac.read().role_rules(kind, name, namespace)
    }
}

impl Authorizer for Authorization {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.is_in(MASTERS) {
            return Decision::allow("");
        }
        let mut reasons = Vec::new();
        match self.nodes.read().authorize(attributes) {
            Decision::NoOpinion { reason } => reasons.push(reason),
            decision => return decision,
        }
        match self.rbac.read().authorize(attributes) {
            Decision::NoOpinion { reason } => reasons.push(reason),
            decision => return decision,
        }
        reasons.retain(|reason| !reason.is_empty());
        Decision::no_opinion(reasons.join("\n"))
    }
}
