//! Upstream's default roles and bindings, from `data/rbac-defaults.json`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use gantry_api::object::Object;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Desired, Policy};
use crate::auth::rbac::Rule;

const GROUP: &str = "rbac.authorization.k8s.io";

/// A row of the file: what tells the object from the others.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    kind: String,
    name: String,
    namespace: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// The rules of a role.
    rules: Option<Value>,
    /// The labels by which a role gathers the rules of others.
    aggregate: Option<Vec<String>>,
    /// The role of a binding, `Kind/name`.
    role: Option<String>,
    /// The subjects of a binding, `Kind/name` or `ServiceAccount/namespace/name`.
    #[serde(default)]
    subjects: Vec<String>,
}

static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../data/rbac-defaults.json"))
        .expect("data/rbac-defaults.json is checked by a test")
});

/// All of them.
pub fn defaults() -> Vec<Desired> {
    ROWS.iter().map(|row| Desired::new(row.object(), Policy::Rbac)).collect()
}

/// The rules that all nodes have: those of the cluster role `system:node`, which is bound to nobody.
pub fn node_rules() -> Vec<Rule> {
    let row = ROWS.iter().find(|row| row.kind == "ClusterRole" && row.name == "system:node");
    row.and_then(|row| row.rules.as_ref())
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(Rule::from_value)
        .collect()
}

impl Row {
    fn object(&self) -> Object {
        let mut labels = self.labels.clone();
        labels.insert("kubernetes.io/bootstrapping".to_owned(), "rbac-defaults".to_owned());
        let mut metadata = Map::new();
        metadata.insert("name".to_owned(), json!(self.name));
        metadata.insert("labels".to_owned(), json!(labels));
        metadata.insert("annotations".to_owned(), json!({"rbac.authorization.kubernetes.io/autoupdate": "true"}));
        if let Some(namespace) = &self.namespace {
            metadata.insert("namespace".to_owned(), json!(namespace));
        }
        let mut object = json!({"apiVersion": format!("{GROUP}/v1"), "kind": self.kind, "metadata": metadata});
        match &self.role {
            None => object["rules"] = self.rules.clone().unwrap_or_default(),
            Some(role) => {
                let (kind, name) = role.split_once('/').unwrap_or_default();
                object["roleRef"] = json!({"apiGroup": GROUP, "kind": kind, "name": name});
                if !self.subjects.is_empty() {
                    object["subjects"] = self.subjects.iter().map(|subject| subject_of(subject)).collect();
                }
            }
        }
        if let Some(labels) = &self.aggregate {
            let selectors: Vec<Value> = labels.iter().map(|label| json!({"matchLabels": {label: "true"}})).collect();
            object["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
        }
        object
    }
}

/// A subject from `User/name`, `Group/name` or `ServiceAccount/namespace/name`.
pub(super) fn subject_of(text: &str) -> Value {
    match text.split_once('/').unwrap_or_default() {
        ("ServiceAccount", account) => {
            let (namespace, name) = account.split_once('/').unwrap_or_default();
            json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
        }
        (kind, name) => json!({"apiGroup": GROUP, "kind": kind, "name": name}),
    }
}
