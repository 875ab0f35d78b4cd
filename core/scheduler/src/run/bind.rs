//! Binding a pod: its volumes first (`VolumeBinding`'s `PreBind`), then `pods/binding`.

use std::time::Duration;

use futures::future::try_join_all;
use gantry_client::Client;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use serde::de::IgnoredAny;
use serde_json::json;

use crate::cluster::storage::{ClaimKey, SELECTED_NODE, is_bound};
use crate::engine::Placement;

/// The annotation of volumes that a controller (or we) bound.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// Binds a pod to its node; the error is for the pod's event.
pub async fn bind(client: &Client, placement: &Placement, volume_timeout: Duration) -> Result<(), String> {
    if !placement.volumes.is_empty() {
        super::status::nominate(client, &placement.pod, &placement.node).await;
        let bound = tokio::time::timeout(volume_timeout, bind_volumes(client, placement)).await;
        let bound = bound.unwrap_or_else(|_| Err("binding volumes: context deadline exceeded".to_owned()));
        bound.map_err(|error| format!("running PreBind plugin \"VolumeBinding\": {error}"))?;
    }
    let meta = &placement.pod.metadata;
    let name = meta.name.as_deref().unwrap_or_default();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            uid: meta.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(placement.node.clone()),
            ..ObjectReference::default()
        },
    };
    let failed = |error: &dyn std::fmt::Display| format!("running Bind plugin \"DefaultBinder\": {error}");
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let bound = pods.create_subresource::<_, IgnoredAny>("binding", name, &PostParams::default(), &binding).await;
    bound.map(drop).map_err(|error| failed(&explain(&error)))
}

/// The API server's words, or what else went wrong.
pub(super) fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

async fn bind_volumes(client: &Client, placement: &Placement) -> Result<(), String> {
    for (volume, claim) in &placement.volumes.bind {
        promise(client, volume, claim).await?;
    }
    for (namespace, name) in &placement.volumes.provision {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
        let patch = json!({"metadata": {"annotations": {SELECTED_NODE: placement.node}}});
        let patched = claims.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.map_err(|error| format!("select node for claim {namespace}/{name}: {}", explain(&error)))?;
    }
    let waits = placement.claims.iter().map(|claim| wait_until_bound(client, claim, placement));
    try_join_all(waits).await.map(drop)
}

/// Writes into a volume which claim it is for; the volume controller does the rest.
async fn promise(client: &Client, volume: &str, claim: &ClaimKey) -> Result<(), String> {
    let (namespace, name) = claim;
    let failed = |error: &kube::Error| format!("bind volume {volume} to claim {namespace}/{name}: {}", explain(error));
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let claim = claims.get(name).await.map_err(|error| failed(&error))?;
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let mut object = volumes.get(volume).await.map_err(|error| failed(&error))?;
    let spec = object.spec.get_or_insert_default();
    if let Some(known) = &spec.claim_ref {
        let ours = known.namespace.as_ref() == Some(namespace) && known.name.as_ref() == Some(name);
        let same = known.uid.as_deref().is_none_or(|uid| uid.is_empty() || claim.metadata.uid.as_deref() == Some(uid));
        if !(ours && same) {
            return Err(format!("volume {volume} has been bound to another claim than {namespace}/{name}"));
        }
    } else {
        object.metadata.annotations.get_or_insert_default().insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    spec.claim_ref = Some(ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        name: Some(name.clone()),
        namespace: Some(namespace.clone()),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        field_path: None,
    });
    // The resource version in it makes another's word, if there was one in between, win.
    volumes.replace(volume, &PostParams::default(), &object).await.map(drop).map_err(|error| failed(&error))
}

async fn wait_until_bound(client: &Client, claim: &ClaimKey, placement: &Placement) -> Result<(), String> {
    let (namespace, name) = claim;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let provisioned = placement.volumes.provision.contains(claim);
    let node = placement.node.clone();
    let settled = move |claim: Option<&PersistentVolumeClaim>| match claim {
        None => true,
        Some(claim) => {
            is_bound(claim) || claim.metadata.deletion_timestamp.is_some() || (provisioned && !selects(claim, &node))
        }
    };
    let seen = await_condition(claims, name, settled).await;
    let seen = seen.map_err(|error| format!("wait for claim {namespace}/{name}: {error}"))?;
    match seen {
        Some(claim) if is_bound(&claim) => Ok(()),
        Some(claim) if claim.metadata.deletion_timestamp.is_none() => {
            Err(format!("provisioning failed for PVC {name:?}"))
        }
        _ => Err(format!("persistentvolumeclaim {name:?} is being deleted")),
    }
}

/// Whether a claim's volume is still to be made for this node: a provisioner that can't takes the annotation away.
fn selects(claim: &PersistentVolumeClaim, node: &str) -> bool {
    let annotations = claim.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(SELECTED_NODE)).is_some_and(|selected| selected == node)
}
