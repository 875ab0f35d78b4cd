//! Volumes for claims of this node: made by volume drivers when the scheduler has chosen the node for the first
//! consumer, deleted with their PersistentVolume. What external-provisioner does, with its events.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_client::events::reference;
use gantry_client::informer::Change;
use gantry_client::{Informer, Informers, ObjectKey, WorkQueue};
use gantry_plugin_host::VolumeDriver;
use gantry_plugin_host::capability::KeyValue;
use gantry_plugin_host::contract::volume::{AccessMode, CreateRequest, Source, Volume, VolumeMode};
use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::api_message;
use crate::context::Context;
use crate::resources::amount;

const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// How many claims and volumes are worked on at a time.
const WORKERS: usize = 4;

/// A thing to look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Claim(ObjectKey),
    Volume(String),
}

/// Whether a claim waits for a volume that this node shall make. Pure.
fn is_ours(claim: &PersistentVolumeClaim, node: &str) -> Option<String> {
    let annotations = claim.metadata.annotations.as_ref()?;
    let bound = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).is_some_and(|name| !name.is_empty());
    let here = annotations.get(SELECTED_NODE).map(String::as_str) == Some(node);
    if bound || !here || claim.metadata.deletion_timestamp.is_some() {
        return None;
    }
    annotations.get(PROVISIONER).cloned()
}

/// Whether a claim waits for a volume that no node has been chosen for. Pure.
///
/// With immediate binding any node with the driver may make it. The one that names itself first does: the write of the
/// annotation carries the claim's version, so that only one succeeds (external-provisioner's `node-deployment` mode).
fn is_free(claim: &PersistentVolumeClaim) -> bool {
    let spec = claim.spec.as_ref();
    let bound = spec.and_then(|spec| spec.volume_name.as_deref()).is_some_and(|name| !name.is_empty());
    let annotations = claim.metadata.annotations.as_ref();
    let has = |key: &str| annotations.is_some_and(|map| map.contains_key(key));
    !bound && has(PROVISIONER) && !has(SELECTED_NODE) && claim.metadata.deletion_timestamp.is_none()
}

/// Whether a volume was made on this node and is no longer wanted. Pure.
fn is_released_here(volume: &PersistentVolume, node: &str) -> bool {
    let spec = volume.spec.clone().unwrap_or_default();
    let released = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Released");
    let delete = spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    let provisioned = volume.metadata.annotations.as_ref().is_some_and(|map| map.contains_key(PROVISIONED_BY));
    released && delete && provisioned && spec.csi.is_some() && lies_on(&spec, node)
}

/// Whether a volume's affinity names this node; one without affinity is any node's, so the first by name that has
/// the driver can't be known here: it is ours only when it says so.
fn lies_on(spec: &PersistentVolumeSpec, node: &str) -> bool {
    let required = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    required.is_some_and(|selector| {
        selector.node_selector_terms.iter().flat_map(|term| term.match_expressions.iter().flatten()).any(|rule| {
            rule.key == HOSTNAME && rule.values.as_deref().unwrap_or_default().iter().any(|value| value == node)
        })
    })
}

/// The bytes that a claim asks for beyond what it has; none when it has enough. Pure.
fn lacks(claim: &PersistentVolumeClaim) -> Option<u64> {
    let storage = |list: Option<&BTreeMap<String, Quantity>>| list.and_then(|list| list.get("storage")).map(amount);
    let spec = claim.spec.as_ref()?;
    let status = claim.status.as_ref().filter(|status| status.phase.as_deref() == Some("Bound"))?;
    let wanted = storage(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()))?;
    let has = storage(status.capacity.as_ref())?;
    if wanted > has { u64::try_from(wanted.value()).ok() } else { None }
}

fn quantity(bytes: u64) -> Quantity {
    let format = gantry_api::quantity::Format::BinarySi;
    let amount = gantry_api::quantity::Quantity::with_format(i64::try_from(bytes).unwrap_or(i64::MAX), format);
    Quantity(amount.to_string())
}

/// What to ask a driver for. Pure.
fn request(claim: &PersistentVolumeClaim, class: &StorageClass, node: &str, source: Option<Source>) -> CreateRequest {
    let spec = claim.spec.clone().unwrap_or_default();
    let bytes = |list: Option<&BTreeMap<String, Quantity>>| {
        let quantity = list.and_then(|list| list.get("storage"));
        quantity.and_then(|quantity| u64::try_from(amount(quantity).value()).ok()).unwrap_or_default()
    };
    let resources = spec.resources.unwrap_or_default();
    let modes = spec.access_modes.unwrap_or_default();
    CreateRequest {
        name: format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default()),
        required_bytes: bytes(resources.requests.as_ref()),
        limit_bytes: bytes(resources.limits.as_ref()),
        access_modes: modes
            .iter()
            .filter_map(|mode| match mode.as_str() {
                "ReadWriteOnce" => Some(AccessMode::ReadWriteOnce),
                "ReadOnlyMany" => Some(AccessMode::ReadOnlyMany),
                "ReadWriteMany" => Some(AccessMode::ReadWriteMany),
                "ReadWriteOncePod" => Some(AccessMode::ReadWriteOncePod),
                _ => None,
            })
            .collect(),
        mode: if spec.volume_mode.as_deref() == Some("Block") { VolumeMode::Block } else { VolumeMode::Filesystem },
        parameters: class
            .parameters
            .iter()
            .flatten()
            .map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() })
            .collect(),
        source,
        claim_namespace: claim.metadata.namespace.clone().unwrap_or_default(),
        claim_name: claim.metadata.name.clone().unwrap_or_default(),
        node: node.to_owned(),
    }
}

/// The object for a volume that was made. Pure.
fn persistent_volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    driver: &str,
    made: &Volume,
) -> PersistentVolume {
    let spec = claim.spec.clone().unwrap_or_default();
    let affinity = (!made.nodes.is_empty()).then(|| VolumeNodeAffinity {
        required: Some(NodeSelector {
            node_selector_terms: vec![NodeSelectorTerm {
                match_expressions: Some(vec![NodeSelectorRequirement {
                    key: HOSTNAME.to_owned(),
                    operator: "In".to_owned(),
                    values: Some(made.nodes.clone()),
                }]),
                match_fields: None,
            }],
        }),
    });
    let context: BTreeMap<String, String> =
        made.context.iter().map(|pair| (pair.key.clone(), pair.value.clone())).collect();
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())),
            annotations: Some(BTreeMap::from([(PROVISIONED_BY.to_owned(), driver.to_owned())])),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: Some(BTreeMap::from([("storage".to_owned(), quantity(made.capacity_bytes))])),
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                name: claim.metadata.name.clone(),
                namespace: claim.metadata.namespace.clone(),
                uid: claim.metadata.uid.clone(),
                resource_version: claim.metadata.resource_version.clone(),
                field_path: None,
            }),
            csi: Some(CSIPersistentVolumeSource {
                driver: driver.to_owned(),
                volume_handle: made.id.clone(),
                volume_attributes: (!context.is_empty()).then_some(context),
                ..CSIPersistentVolumeSource::default()
            }),
            mount_options: class.mount_options.clone(),
            node_affinity: affinity,
            persistent_volume_reclaim_policy: class.reclaim_policy.clone().or(Some("Delete".to_owned())),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: spec.volume_mode.or(Some("Filesystem".to_owned())),
            ..PersistentVolumeSpec::default()
        }),
        ..PersistentVolume::default()
    }
}

struct Provisioner {
    context: Arc<Context>,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    volumes: Arc<Informer<PersistentVolume>>,
    classes: Arc<Informer<StorageClass>>,
    queue: WorkQueue<Work>,
}

/// Makes and deletes volumes until it is told to stop. Without drivers there is nothing to do.
pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    let informers = Informers::new(context.parts.storage_client.clone());
    if context.parts.volume_drivers.is_empty() {
        return;
    }
    let provisioner = Arc::new(Provisioner {
        claims: informers.get(),
        volumes: informers.get(),
        classes: informers.get(),
        queue: WorkQueue::new(),
        context,
    });
    tokio::join!(provisioner.claims.synced(), provisioner.volumes.synced(), provisioner.classes.synced());
    let node = provisioner.context.config.node_name.clone();
    let queue = provisioner.queue.clone();
    provisioner.claims.on_change(move |change| {
        if let Change::Applied { new, .. } = change
            && (is_ours(new, &node).is_some() || is_free(new) || lacks(new).is_some())
        {
            queue.add(Work::Claim(ObjectKey::of(&**new)));
        }
    });
    // A claim may come before its class.
    let (queue, claims) = (provisioner.queue.clone(), provisioner.claims.clone());
    provisioner.classes.on_change(move |_| {
        for claim in claims.list().iter().filter(|claim| is_free(claim)) {
            queue.add(Work::Claim(ObjectKey::of(&**claim)));
        }
    });
    let node = provisioner.context.config.node_name.clone();
    let queue = provisioner.queue.clone();
    provisioner.volumes.on_change(move |change| {
        if let Change::Applied { new, .. } = change
            && is_released_here(new, &node)
        {
            queue.add(Work::Volume(new.metadata.name.clone().unwrap_or_default()));
        }
    });
    let workers = (0..WORKERS).map(|_| provisioner.clone().work());
    tokio::select! {
        () = stop.cancelled() => {}
        _ = futures::future::join_all(workers) => {}
    }
}

impl Provisioner {
    async fn work(self: Arc<Self>) {
        while let Some(work) = self.queue.get().await {
            let done = match &work {
                Work::Claim(key) => self.provision(key).await,
                Work::Volume(name) => self.delete(name).await,
            };
            match done {
                Ok(()) => self.queue.forget(&work),
                Err(why) => {
                    tracing::warn!(?work, why, "volume not provisioned or deleted, will try again");
                    self.queue.add_rate_limited(work.clone());
                }
            }
            self.queue.done(&work);
        }
    }

    fn driver(&self, name: &str) -> Option<Arc<dyn VolumeDriver>> {
        self.context.parts.volume_drivers.get(name).cloned()
    }

    async fn provision(&self, key: &ObjectKey) -> Result<(), String> {
        let node = &self.context.config.node_name;
        let Some(claim) = self.claims.get_key(key) else { return Ok(()) };
        if is_free(&claim) {
            return self.take(&claim).await;
        }
        if let Some(bytes) = lacks(&claim) {
            return self.expand(&claim, bytes).await;
        }
        let Some(name) = is_ours(&claim, node) else { return Ok(()) };
        let Some(driver) = self.driver(&name) else { return Ok(()) };
        let about = reference(&*claim);
        let recorder = &self.context.parts.recorder;
        let class_name = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()).unwrap_or_default();
        let Some(class) = self.classes.get("", &class_name) else {
            let why = format!("failed to get storageclass: storageclass.storage.k8s.io {class_name:?} not found");
            recorder.warning(&about, "ProvisioningFailed", &why);
            return Err(why);
        };
        let volume_name = format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default());
        if self.volumes.get("", &volume_name).is_some() {
            return Ok(());
        }
        let shown = format!("External provisioner is provisioning volume for claim {:?}", key.to_string());
        recorder.normal(&about, "Provisioning", shown);
        let failed = |why: String| {
            let note = format!("failed to provision volume with StorageClass {class_name:?}: {why}");
            recorder.warning(&about, "ProvisioningFailed", note);
            why
        };
        let source = self.source(&claim).await.map_err(&failed)?;
        let request = request(&claim, &class, node, source);
        let made = driver
            .create(&request)
            .await
            .map_err(|error| failed(format!("rpc error: code = {:?} desc = {error}", error.code())))?;
        let volume = persistent_volume(&claim, &class, &name, &made);
        let api: Api<PersistentVolume> = Api::all(self.context.parts.storage_client.clone());
        match api.create(&PostParams::default(), &volume).await {
            Ok(_) => {}
            Err(kube::Error::Api(answer)) if answer.code == 409 => {}
            Err(error) => return Err(failed(api_message(&error))),
        }
        recorder.normal(&about, "ProvisioningSucceeded", format!("Successfully provisioned volume {volume_name}"));
        Ok(())
    }

    /// Enlarges a claim's volume, as external-resizer does.
    async fn expand(&self, claim: &PersistentVolumeClaim, bytes: u64) -> Result<(), String> {
        let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
        let volume = self.volumes.get("", name).ok_or_else(|| format!("volume {name:?} is not known yet"))?;
        let spec = volume.spec.clone().unwrap_or_default();
        let (Some(csi), true) = (&spec.csi, lies_on(&spec, &self.context.config.node_name)) else { return Ok(()) };
        let Some(driver) = self.driver(&csi.driver) else { return Ok(()) };
        if !driver.features().await.map_err(|error| error.to_string())?.expand {
            return Ok(());
        }
        let about = reference(claim);
        let recorder = &self.context.parts.recorder;
        recorder.normal(&about, "Resizing", format!("External resizer is resizing volume {name}"));
        let failed = |why: String| {
            let note = format!("resize volume {name:?} by resizer {:?} failed: {why}", csi.driver);
            recorder.warning(&about, "VolumeResizeFailed", note);
            why
        };
        let now_has = driver
            .expand(&csi.volume_handle, bytes)
            .await
            .map_err(|error| failed(format!("rpc error: code = {:?} desc = {error}", error.code())))?;
        let client = &self.context.parts.storage_client;
        let capacity = json!({"storage": quantity(now_has)});
        let volumes: Api<PersistentVolume> = Api::all(client.clone());
        let patch = Patch::Merge(json!({"spec": {"capacity": capacity}}));
        volumes.patch(name, &PatchParams::default(), &patch).await.map_err(|error| failed(api_message(&error)))?;
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
        let patch = Patch::Merge(json!({"status": {"capacity": capacity}}));
        let claim_name = claim.metadata.name.as_deref().unwrap_or_default();
        claims
            .patch_status(claim_name, &PatchParams::default(), &patch)
            .await
            .map_err(|error| failed(api_message(&error)))?;
        recorder.normal(&about, "VolumeResizeSuccessful", "Resize volume succeeded");
        Ok(())
    }

    /// Names this node for a claim with immediate binding.
    async fn take(&self, claim: &PersistentVolumeClaim) -> Result<(), String> {
        let provisioner = claim.metadata.annotations.as_ref().and_then(|map| map.get(PROVISIONER));
        let class_name = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default();
        let class = self.classes.get("", class_name);
        let waits =
            class.as_ref().and_then(|class| class.volume_binding_mode.as_deref()) == Some("WaitForFirstConsumer");
        if class.is_none() || waits || provisioner.is_none_or(|name| self.driver(name).is_none()) {
            return Ok(());
        }
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.parts.storage_client.clone(), namespace);
        let patch = json!({"metadata": {
            "resourceVersion": claim.metadata.resource_version,
            "annotations": {SELECTED_NODE: self.context.config.node_name},
        }});
        match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            // Another node was first, or the claim has changed and is told of again.
            Err(kube::Error::Api(answer)) if answer.code == 409 || answer.code == 404 => Ok(()),
            Err(error) => Err(api_message(&error)),
        }
    }

    /// The volume or snapshot that a claim's content comes from.
    async fn source(&self, claim: &PersistentVolumeClaim) -> Result<Option<Source>, String> {
        let spec = claim.spec.clone().unwrap_or_default();
        let Some(from) = spec.data_source else { return Ok(None) };
        if from.kind != "PersistentVolumeClaim" {
            return Err(format!("the data source kind {} is not supported", from.kind));
        }
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let other = self.claims.get(namespace, &from.name);
        let volume = other.as_ref().and_then(|other| other.spec.as_ref()?.volume_name.clone()).unwrap_or_default();
        let handle =
            self.volumes.get("", &volume).and_then(|v| v.spec.as_ref()?.csi.as_ref().map(|c| c.volume_handle.clone()));
        match handle {
            Some(handle) => Ok(Some(Source::Volume(handle))),
            None => Err(format!("claim in dataSource not bound or invalid: {namespace}/{}", from.name)),
        }
    }

    async fn delete(&self, name: &str) -> Result<(), String> {
        let Some(volume) = self.volumes.get("", name) else { return Ok(()) };
        if !is_released_here(&volume, &self.context.config.node_name) {
            return Ok(());
        }
        let Some(csi) = volume.spec.as_ref().and_then(|spec| spec.csi.clone()) else { return Ok(()) };
        let Some(driver) = self.driver(&csi.driver) else { return Ok(()) };
        if let Err(error) = driver.delete(&csi.volume_handle).await {
            let why = format!("rpc error: code = {:?} desc = {error}", error.code());
            self.context.parts.recorder.warning(&reference(&*volume), "VolumeFailedDelete", &why);
            return Err(why);
        }
        let api: Api<PersistentVolume> = Api::all(self.context.parts.storage_client.clone());
        match api.delete(name, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(answer)) if answer.code == 404 => return Ok(()),
            Err(error) => return Err(api_message(&error)),
        }
        self.drop_protection(&api, &volume).await
    }

    /// A finalizer of ours, left by nobody else, would keep the object for ever.
    async fn drop_protection(&self, api: &Api<PersistentVolume>, volume: &PersistentVolume) -> Result<(), String> {
        let ours = "external-provisioner.volume.kubernetes.io/finalizer";
        let Some(finalizers) = &volume.meta().finalizers else { return Ok(()) };
        if !finalizers.iter().any(|name| name == ours) {
            return Ok(());
        }
        let left: Vec<&String> = finalizers.iter().filter(|name| *name != ours).collect();
        let patch = json!({"metadata": {"finalizers": left}});
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
            Err(error) => Err(api_message(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(annotations: serde_json::Value, volume: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "n", "uid": "u", "annotations": annotations},
            "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": volume, "storageClassName": "s",
                "resources": {"requests": {"storage": "1Gi"}}},
        }))
        .expect("a claim")
    }

    #[test]
    fn only_claims_that_chose_this_node_are_ours() {
        let ours = json!({PROVISIONER: "local-path", SELECTED_NODE: "n1"});
        assert_eq!(is_ours(&claim(ours.clone(), ""), "n1").as_deref(), Some("local-path"));
        assert_eq!(is_ours(&claim(ours.clone(), ""), "n2"), None);
        assert_eq!(is_ours(&claim(ours, "pv"), "n1"), None);
        let free = claim(json!({PROVISIONER: "local-path"}), "");
        assert_eq!((is_ours(&free, "n1"), is_free(&free)), (None, true));
        assert!(!is_free(&claim(json!({}), "")) && !is_free(&claim(json!({PROVISIONER: "local-path"}), "pv")));
    }

    #[test]
    fn a_made_volume_becomes_an_object_that_is_deleted_here() {
        let class: StorageClass =
            serde_json::from_value(json!({"metadata": {"name": "s"}, "provisioner": "local-path"})).expect("a class");
        let made = Volume {
            id: "v1".into(),
            capacity_bytes: 1 << 30,
            context: vec![KeyValue { key: "path".into(), value: "/x".into() }],
            nodes: vec!["n1".into()],
        };
        let claim = claim(json!({}), "");
        assert_eq!(request(&claim, &class, "n1", None).required_bytes, 1 << 30);
        let mut volume = persistent_volume(&claim, &class, "local-path", &made);
        insta::assert_snapshot!(serde_json::to_string(&volume).expect("text"), @r#"{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"annotations":{"pv.kubernetes.io/provisioned-by":"local-path"},"name":"pvc-u"},"spec":{"accessModes":["ReadWriteOnce"],"capacity":{"storage":"1Gi"},"claimRef":{"apiVersion":"v1","kind":"PersistentVolumeClaim","name":"c","namespace":"n","uid":"u"},"csi":{"driver":"local-path","volumeAttributes":{"path":"/x"},"volumeHandle":"v1"},"nodeAffinity":{"required":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"kubernetes.io/hostname","operator":"In","values":["n1"]}]}]}},"persistentVolumeReclaimPolicy":"Delete","storageClassName":"s","volumeMode":"Filesystem"}}"#);
        assert!(!is_released_here(&volume, "n1"));
        volume.status.get_or_insert_default().phase = Some("Released".into());
        assert!(is_released_here(&volume, "n1"));
        assert!(!is_released_here(&volume, "n2"));
    }
}
