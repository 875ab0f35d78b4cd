//! The volumes of a pod: brought to its folder before containers start, kept up to date, and taken back at its end.
//!
//! The layout is upstream's: `pods/UID/volumes/kubernetes.io~KIND/NAME`.

pub mod atomic_writer;
mod claim;
mod host_path;
mod image;
pub mod mounts;
mod ownership;
pub mod payload;
pub mod subpath;
pub mod token;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, ServiceAccountTokenProjection, Volume};

use crate::context::Context;
use crate::pod;
use crate::references::Held;
use crate::resources;

/// A volume where the pod's containers can bind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedVolume {
    /// On the node.
    pub path: PathBuf,
    /// No container may write to it.
    pub read_only: bool,
    /// A block device rather than a folder.
    pub block: bool,
    /// Its files are given to the pod's `fsGroup`.
    owned_by_group: bool,
}

impl MountedVolume {
    fn at(path: PathBuf) -> Self {
        Self { path, read_only: false, block: false, owned_by_group: false }
    }
}

/// Volumes by name.
pub type Mounted = BTreeMap<String, MountedVolume>;

/// Why a volume is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeError {
    /// It can't be set up.
    SetUp(String),
    /// What it is isn't known (a claim that is missing or not bound).
    Processing(String),
    /// It lies on another node.
    NodeAffinity(String),
}

impl VolumeError {
    /// The event's message.
    pub fn message(&self, volume: &str) -> String {
        match self {
            Self::SetUp(why) => format!("MountVolume.SetUp failed for volume {volume:?} : {why}"),
            Self::NodeAffinity(why) => {
                format!("MountVolume.NodeAffinity check failed for volume {volume:?} : {why}")
            }
            Self::Processing(why) => format!(
                "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], failed to \
                 process volumes=[{volume}]: {why}"
            ),
        }
    }
}

fn kind_dir(context: &Context, pod: &Pod, kind: &str, name: &str) -> PathBuf {
    context.pod_dir(pod::uid(pod)).join("volumes").join(format!("kubernetes.io~{kind}")).join(name)
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let spec = pod::spec(pod);
    spec.security_context.as_ref().and_then(|context| context.fs_group).and_then(|group| u32::try_from(group).ok())
}

/// Brings all volumes to the pod, side by side.
///
/// # Errors
/// Each volume that failed, by name.
pub async fn mount_all(context: &Context, pod: &Pod, held: &Held) -> Result<Mounted, Vec<(String, VolumeError)>> {
    let spec = pod::spec(pod);
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let work = volumes.iter().map(|volume| async move {
        let mounted = mount(context, pod, volume, held).await;
        (volume.name.clone(), mounted)
    });
    let mut mounted = Mounted::new();
    let mut failed = Vec::new();
    for (name, result) in join_all(work).await {
        match result {
            Ok(volume) => {
                mounted.insert(name, volume);
            }
            Err(error) => failed.push((name, error)),
        }
    }
    if failed.is_empty() { Ok(mounted) } else { Err(failed) }
}

async fn mount(context: &Context, pod: &Pod, volume: &Volume, held: &Held) -> Result<MountedVolume, VolumeError> {
    let set_up = VolumeError::SetUp;
    if let Some(kind) = files_kind(volume) {
        let path = kind_dir(context, pod, kind, &volume.name);
        fs::create_dir_all(&path).map_err(|error| set_up(format!("make {}: {error}", path.display())))?;
        write_files(context, pod, volume, held).await.map_err(set_up)?;
        return Ok(MountedVolume { read_only: true, ..MountedVolume::at(path) });
    }
    let mounted = if let Some(source) = &volume.empty_dir {
        let path = kind_dir(context, pod, "empty-dir", &volume.name);
        empty_dir(context, pod, source, &path).map_err(set_up)?;
        MountedVolume { owned_by_group: true, ..MountedVolume::at(path) }
    } else if let Some(source) = &volume.host_path {
        let path = PathBuf::from(&source.path);
        host_path::prepare(&path, source.type_.as_deref().unwrap_or_default()).map_err(set_up)?;
        MountedVolume::at(path)
    } else if let Some(source) = &volume.image {
        image::mount(context, pod, &volume.name, source, held).await?
    } else if let Some(source) = &volume.persistent_volume_claim {
        claim::mount(context, pod, &source.claim_name, false, source.read_only == Some(true)).await?
    } else if volume.ephemeral.is_some() {
        let name = format!("{}-{}", pod::name(pod), volume.name);
        claim::mount(context, pod, &name, true, false).await?
    } else {
        return Err(set_up("no volume plugin matched".to_owned()));
    };
    if let Some(group) = fs_group(pod).filter(|_| mounted.owned_by_group) {
        let path = mounted.path.clone();
        let spec = pod::spec(pod);
        let policy = spec.security_context.as_ref().and_then(|context| context.fs_group_change_policy.as_deref());
        let lazily = policy == Some("OnRootMismatch");
        let read_only = mounted.read_only;
        let given = tokio::task::spawn_blocking(move || ownership::give(&path, group, read_only, lazily)).await;
        given
            .map_err(|error| set_up(error.to_string()))?
            .map_err(|error| set_up(format!("applyFSGroup failed for vol {}: {error}", volume.name)))?;
    }
    Ok(mounted)
}

/// The kind of a volume whose files the agent writes; none of others.
fn files_kind(volume: &Volume) -> Option<&'static str> {
    if volume.config_map.is_some() {
        Some("configmap")
    } else if volume.secret.is_some() {
        Some("secret")
    } else if volume.projected.is_some() {
        Some("projected")
    } else if volume.downward_api.is_some() {
        Some("downward-api")
    } else {
        None
    }
}

fn token_projections(volume: &Volume) -> impl Iterator<Item = &ServiceAccountTokenProjection> {
    let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    sources.filter_map(|source| source.service_account_token.as_ref())
}

fn files(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    held: &Held,
    now: Timestamp,
) -> Option<Result<atomic_writer::Payload, String>> {
    let namespace = pod::namespace(pod);
    let config_map = |name: &str| held.config_map(namespace, name);
    let secret = |name: &str| held.secret(namespace, name);
    let token = |projection: &ServiceAccountTokenProjection| {
        context.tokens.known(pod, projection, now).ok_or_else(|| "failed to fetch token: it expired".to_owned())
    };
    let sources =
        payload::Sources { config_map: &config_map, secret: &secret, token: &token, allocatable: &context.allocatable };
    payload::payload(pod, volume, &sources)
}

/// Writes a volume's files; tells whether any changed.
async fn write_files(context: &Context, pod: &Pod, volume: &Volume, held: &Held) -> Result<bool, String> {
    for projection in token_projections(volume) {
        context.tokens.fetch(pod, projection).await?;
    }
    let Some(kind) = files_kind(volume) else { return Ok(false) };
    let now = Timestamp::now();
    let Some(files) = files(context, pod, volume, held, now) else { return Ok(false) };
    let files = files?;
    let target = kind_dir(context, pod, kind, &volume.name);
    let group = fs_group(pod);
    let written = tokio::task::spawn_blocking(move || {
        let written = atomic_writer::write(&target, &files, group, now);
        written.map_err(|error| format!("write files below {}: {error}", target.display()))
    });
    written.await.map_err(|error| error.to_string())?
}

/// Brings the files of a running pod's volumes up to date. What can't be read keeps its last files.
pub async fn refresh(context: &Context, pod: &Pod, held: &Held) -> Vec<(String, String)> {
    let spec = pod::spec(pod);
    let mut failed = Vec::new();
    for volume in spec.volumes.iter().flatten().filter(|volume| files_kind(volume).is_some()) {
        if let Err(error) = write_files(context, pod, volume, held).await {
            failed.push((volume.name.clone(), error));
        }
    }
    failed
}

fn empty_dir(context: &Context, pod: &Pod, source: &EmptyDirVolumeSource, path: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("emptyDir {}: {error}", path.display());
    let fresh = !path.exists();
    fs::create_dir_all(path).map_err(failed)?;
    match source.medium.as_deref().unwrap_or_default() {
        "" => {}
        "Memory" => {
            if !mounts::is_mounted(path).map_err(failed)? {
                let size = memory_size(pod, source, context.machine.memory_bytes);
                mounts::tmpfs(path, &format!("size={size}")).map_err(failed)?;
            }
        }
        other => return Err(format!("emptyDir medium {other:?} is not supported on this node")),
    }
    if fresh {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(failed)?;
    }
    Ok(())
}

/// Bytes of an emptyDir in memory: the least of what it, its pod and the node may have (KEP-1967).
fn memory_size(pod: &Pod, source: &EmptyDirVolumeSource, node_bytes: u64) -> u64 {
    let bytes = |value: i64| u64::try_from(value).ok().filter(|bytes| *bytes > 0);
    let own = source.size_limit.as_ref().and_then(|limit| bytes(resources::amount(limit).value()));
    let pods = resources::pod_limit(pod, "memory").and_then(|limit| bytes(limit.value()));
    own.into_iter().chain(pods).fold(node_bytes, u64::min)
}

/// Takes all volumes of a pod back and removes what they left in its folder.
///
/// # Errors
/// What is still there, and why.
pub async fn unmount_all(context: &Context, uid: &str) -> Result<(), String> {
    let folder = context.pod_dir(uid);
    context.tokens.forget(uid);
    let subpaths = folder.join("volume-subpaths");
    blocking(move || mounts::unmount_and_remove(&subpaths)).await?;
    claim::unpublish_all(context, &folder).await?;
    image::unmount_all(context, uid).await?;
    let volumes = folder.join("volumes");
    blocking(move || mounts::unmount_and_remove(&volumes)).await
}

async fn blocking(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<(), String> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn memory_for_a_volume_is_the_least_of_all_limits() {
        let pod = |limit: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "resources": {"limits": limit}}]}}))
                .expect("a pod")
        };
        let source = |limit: Option<&str>| -> EmptyDirVolumeSource {
            serde_json::from_value(json!({"medium": "Memory", "sizeLimit": limit})).expect("a source")
        };
        let mi = 1 << 20;
        assert_eq!(memory_size(&pod(json!({})), &source(None), 64 * mi), 64 * mi);
        assert_eq!(memory_size(&pod(json!({})), &source(Some("16Mi")), 64 * mi), 16 * mi);
        assert_eq!(memory_size(&pod(json!({"memory": "8Mi"})), &source(Some("16Mi")), 64 * mi), 8 * mi);
    }

    #[test]
    fn errors_read_as_upstreams() {
        let error = VolumeError::SetUp("configmap \"none\" not found".to_owned());
        assert_eq!(error.message("v"), "MountVolume.SetUp failed for volume \"v\" : configmap \"none\" not found");
    }
}
