//! The finalizers that keep claims while pods use them, and volumes while claims do (upstream's `pvcprotection` and
//! `pvprotection`).

use std::sync::Arc;

use gantry_client::{Change, Client, Informers, ObjectKey, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use tokio_util::sync::CancellationToken;

use super::controller::{BY_CLAIM, claims_of};
use crate::error::{ControllerError, found};
use crate::pods::{is_terminal, node_name};
use crate::runner;

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

/// The finalizers that an object shall have; none when it has them.
fn finalizers(meta: &ObjectMeta, finalizer: &str, used: bool) -> Option<Vec<String>> {
    let there = meta.finalizers.clone().unwrap_or_default();
    let has = there.iter().any(|name| name == finalizer);
    match (meta.deletion_timestamp.is_some(), has) {
        (false, false) => Some(there.into_iter().chain([finalizer.to_owned()]).collect()),
        (true, true) if !used => Some(there.into_iter().filter(|name| name != finalizer).collect()),
        _ => None,
    }
}

/// Protects claims until `stop`.
pub async fn run_claims(client: Client, informers: Informers, stop: CancellationToken) {
    let (claims, pods) = (informers.get::<PersistentVolumeClaim>(), informers.get::<Pod>());
    pods.add_index(BY_CLAIM, claims_of);
    if !runner::synced(&[&claims, &pods], &stop).await {
        return;
    }
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    runner::enqueue_all(&claims, &queue);
    let keys = queue.clone();
    pods.on_change(move |change| {
        let gone = matches!(change, Change::Deleted(_)) || is_terminal(change.object());
        if gone {
            for claim in claims_of(change.object()) {
                if let Some((namespace, name)) = claim.split_once('/') {
                    keys.add(ObjectKey::new(namespace, name));
                }
            }
        }
    });
    runner::run("persistentvolumeclaim-protection", queue, 1, stop, move |key: ObjectKey| {
        let (client, claims, pods) = (client.clone(), claims.clone(), pods.clone());
        async move {
            let Some(claim) = claims.get_key(&key) else { return Ok(None) };
            let used = pods.by_index(BY_CLAIM, &key.to_string()).iter().any(uses);
            if let Some(wanted) = finalizers(&claim.metadata, CLAIM_FINALIZER, used) {
                let api: Api<PersistentVolumeClaim> = Api::namespaced(client, &key.namespace);
                let mut changed = (*claim).clone();
                changed.metadata.finalizers = Some(wanted);
                let patched = api.replace(&key.name, &PostParams::default(), &changed).await;
                found(patched).map_err(ControllerError::api("update the finalizers of claim", &key))?;
            }
            Ok(None)
        }
    })
    .await;
}

/// A pod uses its claims from when it has a node until it has ended.
fn uses(pod: &Arc<Pod>) -> bool {
    !node_name(pod).is_empty() && !is_terminal(pod)
}

/// Protects volumes until `stop`.
pub async fn run_volumes(client: Client, informers: Informers, stop: CancellationToken) {
    let volumes = informers.get::<PersistentVolume>();
    if !runner::synced(&[&volumes], &stop).await {
        return;
    }
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    runner::enqueue_all(&volumes, &queue);
    runner::run("persistentvolume-protection", queue, 1, stop, move |key: ObjectKey| {
        let (client, volumes) = (client.clone(), volumes.clone());
        async move {
            let Some(volume) = volumes.get_key(&key) else { return Ok(None) };
            let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
            if let Some(wanted) = finalizers(&volume.metadata, VOLUME_FINALIZER, bound) {
                let api: Api<PersistentVolume> = Api::all(client);
                let mut changed = (*volume).clone();
                changed.metadata.finalizers = Some(wanted);
                let patched = api.replace(&key.name, &PostParams::default(), &changed).await;
                found(patched).map_err(ControllerError::api("update the finalizers of volume", &key))?;
            }
            Ok(None)
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finalizers_stay_while_used() {
        let meta = |deleting: bool, finalizers: &[&str]| -> ObjectMeta {
            let mut value = json!({"finalizers": finalizers});
            if deleting {
                value["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            serde_json::from_value(value).expect("metadata")
        };
        let cases = [
            (meta(false, &[]), false, Some(vec!["f"])),
            (meta(false, &["f"]), false, None),
            (meta(true, &["f"]), true, None),
            (meta(true, &["f", "g"]), false, Some(vec!["g"])),
            (meta(true, &["g"]), false, None),
        ];
        for (meta, used, expected) in cases {
            let expected = expected.map(|list| list.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(finalizers(&meta, "f", used), expected, "{meta:?} {used}");
        }
    }
}
