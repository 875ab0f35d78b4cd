//! What a list or watch selects: a scope, labels, fields. Answered from the index, not from the object.

use std::ops::Bound;

use gantry_api::selectors::{FieldSelector, LabelSelector};

use super::entry::Entry;

/// Which keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All.
    All,
    /// Those of a namespace.
    Namespace(String),
    /// One key.
    Key(String),
}

impl Scope {
    /// The range of keys.
    pub fn bounds(&self) -> (Bound<String>, Bound<String>) {
        match self {
            Self::All => (Bound::Unbounded, Bound::Unbounded),
            // '0' follows '/'.
            Self::Namespace(namespace) => {
                (Bound::Included(format!("{namespace}/")), Bound::Excluded(format!("{namespace}0")))
            }
            Self::Key(key) => (Bound::Included(key.clone()), Bound::Included(key.clone())),
        }
    }

    fn contains(&self, entry: &Entry) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(namespace) => entry.namespace() == namespace,
            Self::Key(key) => *entry.key == **key,
        }
    }
}

/// What a change must have in common with a group of watchers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GroupKey {
    /// Nothing.
    All,
    /// The namespace.
    Namespace(String),
    /// The key.
    Key(String),
    /// The node that a pod is bound to: every node agent watches its own.
    Node(String),
}

/// The field that node agents select their pods by.
const NODE_FIELD: &str = "spec.nodeName";

impl GroupKey {
    /// Adds the keys of the groups that an entry may concern, each once.
    pub fn of_entry(entry: &Entry, keys: &mut Vec<Self>) {
        let mut add = |key: Self| {
            if !keys.contains(&key) {
                keys.push(key);
            }
        };
        add(Self::All);
        add(Self::Key(entry.key.to_string()));
        if !entry.namespace().is_empty() {
            add(Self::Namespace(entry.namespace().to_owned()));
        }
        if let Some(node) = entry.index.field(NODE_FIELD) {
            add(Self::Node(node.to_owned()));
        }
    }
}

/// A scope with selectors.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Which keys.
    pub scope: Scope,
    /// Which labels.
    pub labels: LabelSelector,
    /// Which fields.
    pub fields: FieldSelector,
}

impl Selection {
    /// Everything within a scope.
    pub fn all(scope: Scope) -> Self {
        Self { scope, labels: LabelSelector::everything(), fields: FieldSelector::everything() }
    }

    /// Whether selectors narrow the scope.
    pub fn is_filtered(&self) -> bool {
        !self.labels.is_everything() || !self.fields.is_everything()
    }

    /// Whether an entry is selected.
    pub fn matches(&self, entry: &Entry) -> bool {
        self.scope.contains(entry)
            && (self.labels.is_everything() || self.labels.matches(|key| entry.index.label(key)))
            && (self.fields.is_everything()
                || self.fields.matches(|field| match field {
                    "metadata.name" => Some(entry.name()),
                    "metadata.namespace" => Some(entry.namespace()),
                    field => entry.index.field(field),
                }))
    }

    /// The group of watchers it belongs to.
    pub fn group_key(&self) -> GroupKey {
        if let Some(node) = self.fields.exact(NODE_FIELD) {
            return GroupKey::Node(node.to_owned());
        }
        match &self.scope {
            Scope::All => GroupKey::All,
            Scope::Namespace(namespace) => GroupKey::Namespace(namespace.clone()),
            Scope::Key(key) => GroupKey::Key(key.clone()),
        }
    }

    /// What tells it from other selections of its group.
    pub fn id(&self) -> String {
        format!("{:?}\n{}\n{}", self.scope, self.labels, self.fields)
    }
}
