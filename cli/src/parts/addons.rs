//! Objects that a new cluster gets: the class of the volume driver in the box, the runtime class of the runtime, and
//! what
//! the cluster's DNS and the provisioner of volumes may do. Applied at every start; what an administrator changed since stays.

use anyhow::{Context, Result};
use gantry_client::Client;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

fn objects() -> Vec<(Value, Option<&'static str>)> {
    let storage_class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "local-path", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "local-path", "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer"});
    let runtime_class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
        "metadata": {"name": "oci"}, "handler": "oci"});
    let dns_role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
    "metadata": {"name": "gantry:cluster-dns"},
    "rules": [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces", "nodes"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
    ]});
    let dns_binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "gantry:cluster-dns"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "gantry:cluster-dns"},
        "subjects": [{"kind": "ServiceAccount", "name": "cluster-dns", "namespace": "kube-system"}]});
    let registration_role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
    "metadata": {"name": "gantry:cluster-dns", "namespace": "kube-system"},
    "rules": [
        {"apiGroups": [""], "resources": ["services", "services/finalizers"], "verbs": ["get", "create", "update", "patch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"],
            "verbs": ["get", "list", "create", "update", "patch", "delete"]},
    ]});
    let registration_binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "gantry:cluster-dns", "namespace": "kube-system"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "gantry:cluster-dns"},
        "subjects": [{"kind": "ServiceAccount", "name": "cluster-dns", "namespace": "kube-system"}]});
    let provisioner_role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
    "metadata": {"name": "gantry:volume-provisioner"},
    "rules": [
        {"apiGroups": [""], "resources": ["persistentvolumes"],
            "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"]},
        {"apiGroups": [""], "resources": ["persistentvolumes/status"], "verbs": ["update", "patch"]},
        {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["get", "list", "watch", "update", "patch"]},
        {"apiGroups": [""], "resources": ["persistentvolumeclaims/status"], "verbs": ["update", "patch"]},
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": ["get", "list", "watch"]},
    ]});
    let provisioner_binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "gantry:volume-provisioner"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "gantry:volume-provisioner"},
        "subjects": [{"kind": "ServiceAccount", "name": "volume-provisioner", "namespace": "kube-system"}]});
    vec![
        (provisioner_role, None),
        (provisioner_binding, None),
        (storage_class, None),
        (runtime_class, None),
        (dns_role, None),
        (dns_binding, None),
        (registration_role, Some("kube-system")),
        (registration_binding, Some("kube-system")),
    ]
}

/// Makes what is missing.
pub async fn apply(administrator: &Client) -> Result<()> {
    for (object, namespace) in objects() {
        let object: DynamicObject = serde_json::from_value(object).context("an object of our own")?;
        let types = object.types.clone().unwrap_or_default();
        let name = object.metadata.name.clone().unwrap_or_default();
        let kind = GroupVersionKind::try_from(&types).context("the kind of an object of our own")?;
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(administrator.clone(), namespace, &resource),
            None => Api::all_with(administrator.clone(), &resource),
        };
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error).with_context(|| format!("make {} {name}", types.kind)),
        }
    }
    Ok(())
}
