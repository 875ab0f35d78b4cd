//! Volumes of claims: from the claim to its PersistentVolume to where it is on the node.

use std::fs;
use std::path::{Path, PathBuf};

use gantry_plugin_host::capability::KeyValue;
use gantry_plugin_host::contract::volume::{PublishRequest, VolumeMode};
use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Api;
use serde::{Deserialize, Serialize};

use super::{MountedVolume, VolumeError, host_path};
use crate::api_message;
use crate::context::Context;
use crate::pod;

/// What must be known to take a published volume back, after a restart of the agent, too.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Published {
    driver_name: String,
    volume_handle: String,
    target: PathBuf,
}

/// The file with [`Published`], as upstream names it.
const DATA_FILE: &str = "vol_data.json";

fn processing(namespace: &str, claim: &str, what: impl std::fmt::Display) -> VolumeError {
    VolumeError::Processing(format!("error processing PVC {namespace}/{claim}: {what}"))
}

/// Finds a claim's volume and brings it to the pod.
pub async fn mount(
    context: &Context,
    pod: &Pod,
    claim_name: &str,
    owned: bool,
    read_only: bool,
) -> Result<MountedVolume, VolumeError> {
    let namespace = pod::namespace(pod);
    let client = &context.parts.client;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let claim = claims.get(claim_name).await.map_err(|error| {
        let message = api_message(&error);
        processing(namespace, claim_name, format_args!("failed to fetch PVC from API server: {message}"))
    })?;
    if claim.metadata.deletion_timestamp.is_some() && pod::phase(pod) == "Pending" {
        return Err(processing(namespace, claim_name, "PVC is being deleted"));
    }
    if owned {
        let owner = claim
            .metadata
            .owner_references
            .iter()
            .flatten()
            .any(|owner| owner.controller == Some(true) && Some(&owner.uid) == pod.metadata.uid.as_ref());
        if !owner {
            let what = format!(
                "PVC {namespace}/{claim_name} was not created for pod {namespace}/{} (pod is not owner)",
                pod::name(pod)
            );
            return Err(processing(namespace, claim_name, what));
        }
    }
    let spec = claim.spec.clone().unwrap_or_default();
    let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let name = match spec.volume_name.as_deref() {
        Some(name) if bound && !name.is_empty() => name,
        _ => return Err(processing(namespace, claim_name, "PVC is not bound")),
    };
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let volume = volumes.get(name).await.map_err(|error| {
        let message = api_message(&error);
        processing(namespace, claim_name, format_args!("failed to fetch PV {name:?} from API server: {message}"))
    })?;
    let spec = volume.spec.clone().unwrap_or_default();
    let claimed = spec.claim_ref.as_ref().and_then(|claim| claim.uid.clone());
    if claimed.is_some() && claimed != claim.metadata.uid {
        return Err(processing(namespace, claim_name, format_args!("PV {name} is bound to another claim")));
    }
    check_affinity(context, &volume)?;
    let block = spec.volume_mode.as_deref() == Some("Block");
    if let Some(csi) = &spec.csi {
        let options = spec.mount_options.clone().unwrap_or_default();
        return publish(context, pod, name, csi, options, block, read_only).await;
    }
    if let Some(source) = &spec.host_path {
        let path = PathBuf::from(&source.path);
        host_path::prepare(&path, source.type_.as_deref().unwrap_or_default()).map_err(VolumeError::SetUp)?;
        return Ok(MountedVolume { read_only, owned_by_group: false, ..MountedVolume::at(path) });
    }
    if let Some(source) = &spec.local {
        let path = PathBuf::from(&source.path);
        if !path.exists() {
            return Err(VolumeError::SetUp(format!("path {:?} does not exist", source.path)));
        }
        return Ok(MountedVolume { read_only, block, owned_by_group: !read_only && !block, ..MountedVolume::at(path) });
    }
    Err(VolumeError::SetUp(format!("no volume plugin matched for persistent volume {name}")))
}

/// A volume that lies on other nodes can't be had here.
fn check_affinity(context: &Context, volume: &PersistentVolume) -> Result<(), VolumeError> {
    let required = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()).and_then(|a| a.required.as_ref());
    let (Some(required), Some(node)) = (required, context.node.get("", &context.config.node_name)) else {
        return Ok(());
    };
    if crate::admission::matches_terms(required, &node) {
        Ok(())
    } else {
        Err(VolumeError::NodeAffinity("no matching NodeSelectorTerms".to_owned()))
    }
}

async fn publish(
    context: &Context,
    pod: &Pod,
    name: &str,
    csi: &CSIPersistentVolumeSource,
    mount_options: Vec<String>,
    block: bool,
    read_only: bool,
) -> Result<MountedVolume, VolumeError> {
    let driver = context.parts.volume_drivers.get(&csi.driver).ok_or_else(|| {
        VolumeError::SetUp(format!("driver name {} not found in the list of registered CSI drivers", csi.driver))
    })?;
    let failed = |error: String| VolumeError::SetUp(error);
    let folder = context.pod_dir(pod::uid(pod)).join("volumes/kubernetes.io~csi").join(name);
    fs::create_dir_all(&folder).map_err(|error| failed(format!("make {}: {error}", folder.display())))?;
    let target = folder.join(if block { "device" } else { "mount" });
    let record =
        Published { driver_name: csi.driver.clone(), volume_handle: csi.volume_handle.clone(), target: target.clone() };
    let text = serde_json::to_vec(&record).map_err(|error| failed(error.to_string()))?;
    fs::write(folder.join(DATA_FILE), text).map_err(|error| failed(format!("write {DATA_FILE}: {error}")))?;
    let features = driver.features().await.map_err(|error| failed(error.to_string()))?;
    let spec = pod::spec(pod);
    let group = spec.security_context.as_ref().and_then(|context| context.fs_group);
    let group = group.and_then(|group| u32::try_from(group).ok());
    let read_only = read_only || csi.read_only == Some(true);
    let request = PublishRequest {
        volume_id: csi.volume_handle.clone(),
        target_path: target.to_string_lossy().into_owned(),
        read_only,
        mode: if block { VolumeMode::Block } else { VolumeMode::Filesystem },
        mount_options,
        context: csi
            .volume_attributes
            .iter()
            .flatten()
            .map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() })
            .collect(),
        pod_namespace: pod::namespace(pod).to_owned(),
        pod_name: pod::name(pod).to_owned(),
        pod_uid: pod::uid(pod).to_owned(),
        group: group.filter(|_| features.group),
    };
    driver
        .publish(&request)
        .await
        .map_err(|error| failed(format!("rpc error: code = {:?} desc = {error}", error.code())))?;
    Ok(MountedVolume {
        read_only,
        block,
        owned_by_group: !features.group && !read_only && !block,
        ..MountedVolume::at(target)
    })
}

/// Takes back what drivers published into a pod's folder.
///
/// # Errors
/// The first driver's word.
pub async fn unpublish_all(context: &Context, pod_dir: &Path) -> Result<(), String> {
    let Ok(entries) = fs::read_dir(pod_dir.join("volumes/kubernetes.io~csi")) else { return Ok(()) };
    for entry in entries.flatten() {
        let file = entry.path().join(DATA_FILE);
        let Ok(text) = fs::read(&file) else { continue };
        let record: Published =
            serde_json::from_slice(&text).map_err(|error| format!("read {}: {error}", file.display()))?;
        let driver = context.parts.volume_drivers.get(&record.driver_name).ok_or_else(|| {
            format!("driver name {} not found in the list of registered CSI drivers", record.driver_name)
        })?;
        let target = record.target.to_string_lossy();
        driver
            .unpublish(&record.volume_handle, &target)
            .await
            .map_err(|error| format!("UnmountVolume.TearDown failed for volume {:?}: {error}", record.volume_handle))?;
        fs::remove_file(&file).map_err(|error| format!("remove {}: {error}", file.display()))?;
    }
    Ok(())
}
