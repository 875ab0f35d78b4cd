//! Cluster roles with an `aggregationRule` are the sum of those it selects (upstream's `clusterroleaggregation`).

use std::sync::Arc;

use gantry_client::{Client, Informers, ObjectKey, WorkQueue};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::error::{ControllerError, found};
use crate::ownership::selects;
use crate::runner;

/// Runs the controller until `stop`.
pub async fn run(client: Client, informers: Informers, stop: CancellationToken) {
    let roles = informers.get::<ClusterRole>();
    if !runner::synced(&[&roles], &stop).await {
        return;
    }
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    let (keys, all) = (queue.clone(), roles.clone());
    roles.on_change(move |change| {
        keys.add(ObjectKey::of(&**change.object()));
        let aggregated = all.list().into_iter().filter(|role| role.aggregation_rule.is_some());
        aggregated.for_each(|role| keys.add(ObjectKey::of(&*role)));
    });
    runner::run("clusterrole-aggregation-controller", queue, 1, stop, move |key| {
        let (client, roles) = (client.clone(), roles.clone());
        async move {
            let Some(role) = roles.get_key(&key).filter(|role| role.aggregation_rule.is_some()) else {
                return Ok(None);
            };
            let rules = aggregate(&role, &roles.list());
            if role.rules.as_deref().unwrap_or_default() == rules {
                return Ok(None);
            }
            let api: Api<ClusterRole> = Api::all(client.clone());
            let patch = json!({"metadata": {"resourceVersion": role.metadata.resource_version}, "rules": rules});
            let patched = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
            found(patched).map_err(ControllerError::api("update cluster role", &key))?;
            Ok(None)
        }
    })
    .await;
}

/// The rules of the selected roles, in order of their names, each once.
fn aggregate(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Vec<PolicyRule> {
    let selectors = role.aggregation_rule.as_ref().and_then(|rule| rule.cluster_role_selectors.as_deref());
    let selectors = selectors.unwrap_or_default();
    let mut selected: Vec<&Arc<ClusterRole>> = all
        .iter()
        .filter(|other| other.metadata.name != role.metadata.name)
        .filter(|other| selectors.iter().any(|selector| selects(selector, other.metadata.labels.as_ref())))
        .collect();
    selected.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in selected.iter().flat_map(|role| role.rules.iter().flatten()) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_come_once_and_in_order() {
        let role = |name: &str, label: &str, verbs: &[&str]| -> Arc<ClusterRole> {
            let rules: Vec<_> = verbs.iter().map(|verb| json!({"verbs": [verb]})).collect();
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name, "labels": {"to": label}}, "rules": rules}))
                    .expect("a role"),
            )
        };
        let sum: ClusterRole = serde_json::from_value(json!({"metadata": {"name": "sum"},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "sum"}}]}}))
        .expect("a role");
        let all = [role("b", "sum", &["list", "get"]), role("a", "sum", &["get"]), role("c", "other", &["delete"])];
        let verbs: Vec<_> = aggregate(&sum, &all).into_iter().flat_map(|rule| rule.verbs).collect();
        assert_eq!(verbs, ["get", "list"]);
    }
}
