//! Volumes that are an image's content (KEP-4639): its root filesystem, mounted to be read.

use std::fs;
use std::path::{Path, PathBuf};

use gantry_plugin_host::capability::RootfsOptions;
use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod};

use super::{MountedVolume, VolumeError};
use crate::context::Context;
use crate::image_pull;
use crate::pod;
use crate::references::Held;

/// What is added to a file's name for the volume's root filesystem.
fn rootfs_id(uid: &str, volume: &str) -> String {
    format!("volume-{uid}-{volume}")
}

fn folder(context: &Context, uid: &str) -> PathBuf {
    context.pod_dir(uid).join("volumes/kubernetes.io~image")
}

/// Brings an image's content to the pod.
pub async fn mount(
    context: &Context,
    pod: &Pod,
    volume: &str,
    source: &ImageVolumeSource,
    held: &Held,
) -> Result<MountedVolume, VolumeError> {
    let failed = VolumeError::SetUp;
    let rootfs = context.parts.rootfs.as_ref();
    let rootfs = rootfs.ok_or_else(|| failed("image volumes are not supported on this node".to_owned()))?;
    let asked = Container {
        image: source.reference.clone(),
        image_pull_policy: source.pull_policy.clone(),
        ..Container::default()
    };
    let image = image_pull::for_volume(context, pod, &asked, held).await.map_err(failed)?;
    // The mark by which the volume is found again when it is taken back.
    let mark = folder(context, pod::uid(pod)).join(volume);
    fs::create_dir_all(&mark).map_err(|error| failed(format!("make {}: {error}", mark.display())))?;
    let id = rootfs_id(pod::uid(pod), volume);
    let path = rootfs.prepare(&id, &image.config.snapshot_key, &RootfsOptions { read_only: true }).await;
    let path =
        path.map_err(|error| failed(format!("failed to mount image {:?}: {}", image.config.reference, error.message)))?;
    Ok(MountedVolume { read_only: true, ..MountedVolume::at(PathBuf::from(path)) })
}

/// Takes back the image volumes of a pod.
///
/// # Errors
/// The first that is still there, and why.
pub async fn unmount_all(context: &Context, uid: &str) -> Result<(), String> {
    let Some(rootfs) = &context.parts.rootfs else { return Ok(()) };
    let Ok(entries) = fs::read_dir(folder(context, uid)) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let id = rootfs_id(uid, &Path::new(&name).to_string_lossy());
        rootfs.remove(&id).await.map_err(|error| error.message)?;
    }
    Ok(())
}
