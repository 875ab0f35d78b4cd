//! Who depends on whom: the little of every object that collecting needs to know.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Finalizer of an owner that goes after its dependents.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an owner that leaves its dependents behind.
pub const ORPHAN: &str = "orphan";

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Index of its resource.
    pub resource: usize,
    /// Empty for cluster-scoped ones.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// The two finalizers that matter here, if it has them.
    pub foreground: bool,
    /// See [`ORPHAN`].
    pub orphan: bool,
}

impl Node {
    /// What is kept of an object's metadata.
    pub fn of(resource: usize, meta: &ObjectMeta) -> Self {
        let has = |name: &str| meta.finalizers.iter().flatten().any(|finalizer| finalizer == name);
        Self {
            resource,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }
    }

    /// Whether it waits for its dependents to go first.
    pub fn waits_for_dependents(&self) -> bool {
        self.deleting && self.foreground
    }
}

/// All objects by uid. Those that own nothing and are owned by nobody are kept, too: they may be named as owners.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: HashMap<String, Arc<Node>>,
    dependents: HashMap<String, HashSet<String>>,
}

impl Graph {
    /// An object appeared or changed; what it was before.
    pub fn put(&mut self, uid: &str, node: Node) -> Option<Arc<Node>> {
        let node = Arc::new(node);
        let old = self.nodes.insert(uid.to_owned(), node.clone());
        if let Some(old) = &old {
            self.unlink(uid, &old.owners);
        }
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.to_owned());
        }
        old
    }

    /// An object is gone.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<Node>> {
        let old = self.nodes.remove(uid)?;
        self.unlink(uid, &old.owners);
        Some(old)
    }

    fn unlink(&mut self, uid: &str, owners: &[OwnerReference]) {
        for owner in owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    /// An object.
    pub fn get(&self, uid: &str) -> Option<&Arc<Node>> {
        self.nodes.get(uid)
    }

    /// The uids of what names an object as its owner.
    pub fn dependents(&self, uid: &str) -> Vec<String> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// The uids of all objects of a resource.
    pub fn of_resource(&self, resource: usize) -> HashSet<String> {
        self.nodes.iter().filter(|(_, node)| node.resource == resource).map(|(uid, _)| uid.clone()).collect()
    }
}
