//! What seldom changes about a node.

use k8s_openapi::api::core::v1::Node;
use rustc_hash::FxHashMap;

use super::Row;
use crate::interner::{Atom, Interner};
use crate::shape::node_terms::NodeLabels;
use crate::shape::tolerations::{Effect, Taint};

/// The label of a node's host name.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// The label of a node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// The label of a node's region.
pub const REGION: &str = "topology.kubernetes.io/region";

/// A node without its amounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: Atom,
    /// Labels, by key.
    pub labels: Vec<(Atom, Atom)>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// Images by name, with their size in bytes.
    pub images: FxHashMap<Atom, i64>,
    /// The value of the host name label; the node's name when it has none.
    pub host: Atom,
}

/// What about a node may help pods that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// Which.
    pub row: Row,
    /// It is new.
    pub added: bool,
    /// It offers more of something.
    pub grown: bool,
    /// Its labels changed.
    pub labels: bool,
    /// Its taints changed.
    pub taints: bool,
    /// It may be used again.
    pub schedulable: bool,
}

impl NodeChange {
    pub(super) fn between(before: Option<&NodeFacts>, after: &NodeFacts) -> Self {
        match before {
            None => Self { added: true, ..Self::default() },
            Some(before) => Self {
                labels: before.labels != after.labels,
                taints: before.taints != after.taints,
                schedulable: before.unschedulable && !after.unschedulable,
                ..Self::default()
            },
        }
    }

    /// Whether it can help any pod.
    pub fn helps(&self) -> bool {
        self.added || self.grown || self.labels || self.taints || self.schedulable
    }
}

impl NodeFacts {
    /// Of an API object.
    pub fn of(node: &Node, atoms: &mut Interner) -> Self {
        let name = atoms.intern(node.metadata.name.as_deref().unwrap_or_default());
        let mut labels: Vec<(Atom, Atom)> = node
            .metadata
            .labels
            .iter()
            .flatten()
            .map(|(key, value)| (atoms.intern(key), atoms.intern(value)))
            .collect();
        labels.sort_unstable();
        let spec = node.spec.as_ref();
        let taints = spec.and_then(|spec| spec.taints.as_ref()).into_iter().flatten().filter_map(|taint| {
            Some(Taint {
                key: atoms.intern(&taint.key),
                value: atoms.intern(taint.value.as_deref().unwrap_or_default()),
                effect: Effect::parse(&taint.effect)?,
            })
        });
        let taints = taints.collect();
        let images = node.status.as_ref().and_then(|status| status.images.as_ref()).into_iter().flatten();
        let images = images.flat_map(|image| {
            let size = image.size_bytes.unwrap_or(0);
            image.names.iter().flatten().map(move |name| (name, size))
        });
        let images = images.map(|(name, size)| (atoms.intern(name), size)).collect();
        let host_key = atoms.intern(HOSTNAME);
        let labelled = NodeLabels { name, labels: &labels };
        let host = labelled.get(host_key).unwrap_or(name);
        let unschedulable = spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
        Self { name, labels, taints, unschedulable, images, host }
    }

    /// Its labels and name, to be selected by.
    pub fn selectable(&self) -> NodeLabels<'_> {
        NodeLabels { name: self.name, labels: &self.labels }
    }

    /// A label's value.
    pub fn label(&self, key: Atom) -> Option<Atom> {
        self.selectable().get(key)
    }

    pub(super) fn differs(&self, other: &Self) -> bool {
        self != other
    }
}
