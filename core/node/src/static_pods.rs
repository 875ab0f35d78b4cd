//! Static pods: pods that a folder of the node names, and that run without an API server. In the API a mirror pod shows
//! each of them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;

use crate::pod;

/// Annotation: where a pod comes from (`file`, `api`).
const SOURCE: &str = "kubernetes.io/config.source";
/// Annotation: the hash of a static pod.
const HASH: &str = "kubernetes.io/config.hash";
/// Annotation: the hash of the static pod that a mirror pod shows.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// A manifest that is larger isn't one.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// Where the kernel tells of no changes, the folder is read again after this long; upstream's `fileCheckFrequency`.
const RESCAN: Duration = Duration::from_secs(20);

/// Whether a pod comes from the folder.
pub fn is_static(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|map| map.get(SOURCE).is_some_and(|source| source == "file"))
        && !is_mirror(pod)
}

/// Whether an object only shows a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|map| map.contains_key(MIRROR))
}

/// The mirror pod that shows a static pod.
pub fn mirror(pod: &Pod, node: &str, node_uid: &str) -> Pod {
    let mut out = pod.clone();
    let hash = hash(pod).to_owned();
    out.metadata.annotations.get_or_insert_default().insert(MIRROR.to_owned(), hash);
    out.metadata.uid = None;
    out.metadata.resource_version = None;
    out.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_owned(),
        uid: node_uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    out.status = None;
    out
}

fn hash(pod: &Pod) -> &str {
    pod.metadata.annotations.as_ref().and_then(|map| map.get(HASH)).map(String::as_str).unwrap_or_default()
}

/// Whether a mirror pod shows that static pod, and not an earlier version of it.
pub fn shows(mirror: &Pod, pod: &Pod) -> bool {
    let shown = mirror.metadata.annotations.as_ref().and_then(|map| map.get(MIRROR));
    shown.map(String::as_str) == Some(hash(pod))
}

/// A manifest as the pod that runs. Pure.
///
/// # Errors
/// What is wrong with the manifest.
pub fn parse(manifest: &str, node: &str) -> Result<Pod, String> {
    let mut pod: Pod = serde_yaml_ng::from_str(manifest).map_err(|error| error.to_string())?;
    let name = pod.metadata.name.clone().filter(|name| !name.is_empty()).ok_or("the pod has no name")?;
    let spec = pod.spec.as_mut().ok_or("the pod has no spec")?;
    if spec.containers.is_empty() {
        return Err("the pod has no containers".to_owned());
    }
    spec.node_name = Some(node.to_owned());
    // Nothing drives it away but the end of its manifest.
    spec.tolerations.get_or_insert_default().push(Toleration {
        effect: Some("NoExecute".to_owned()),
        operator: Some("Exists".to_owned()),
        ..Toleration::default()
    });
    let digest = hex::encode(Sha256::new().chain_update(manifest).chain_update([0]).chain_update(node).finalize());
    let uid = &digest[..32];
    let meta = &mut pod.metadata;
    meta.name = Some(format!("{name}-{node}"));
    meta.namespace.get_or_insert_with(|| "default".to_owned());
    meta.uid = Some(uid.to_owned());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(SOURCE.to_owned(), "file".to_owned());
    annotations.insert(HASH.to_owned(), uid.to_owned());
    pod.status = None;
    Ok(pod)
}

/// The pods of a folder's manifests, by uid. A file that can't be read as one is left out, with a word in the log.
fn read(folder: &Path, node: &str) -> BTreeMap<String, Pod> {
    let mut found = BTreeMap::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries.flatten() {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let known = path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json");
        let small = fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= MANIFEST_BYTES_MAX);
        if hidden || !known || !small {
            continue;
        }
        let parsed = fs::read_to_string(&path).map_err(|error| error.to_string()).and_then(|text| parse(&text, node));
        match parsed {
            Ok(pod) => {
                found.insert(pod::uid(&pod).to_owned(), pod);
            }
            Err(why) => tracing::warn!(path = %path.display(), why, "a static pod's manifest can't be used"),
        }
    }
    found
}

/// A stream that something can be read from whenever the folder changes.
fn watch(folder: &Path) -> io::Result<Receiver> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let what = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE;
    inotify.add_watch(folder, what)?;
    // Not a pipe, but a file descriptor that is read from and polled in the same way.
    Receiver::from_owned_fd_unchecked(OwnedFd::from(inotify))
}

/// Sends the folder's pods, at first and whenever they change, until nobody listens.
pub async fn follow(folder: PathBuf, node: String, out: mpsc::Sender<BTreeMap<String, Pod>>) {
    if let Err(error) = fs::create_dir_all(&folder) {
        tracing::warn!(path = %folder.display(), %error, "the folder of static pods can't be made");
    }
    let mut watched = watch(&folder)
        .inspect_err(|error| {
            let path = folder.display();
            tracing::warn!(%path, %error, "the folder of static pods can't be watched; it is read now and then");
        })
        .ok();
    let mut events = [0; 4096];
    let mut last = None;
    loop {
        let now = read(&folder, &node);
        if last.as_ref() != Some(&now) {
            if out.send(now.clone()).await.is_err() {
                return;
            }
            last = Some(now);
        }
        // What changed is not asked: the folder is read as a whole.
        let told = match &mut watched {
            Some(watched) => watched.read(&mut events).await,
            None => {
                tokio::time::sleep(RESCAN).await;
                continue;
            }
        };
        if let Err(error) = told {
            tracing::warn!(%error, "the folder of static pods is read now and then");
            watched = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: kube-system}\nspec:\n  containers:\n  - {name: c, image: a:1}\n";

    #[test]
    fn a_manifest_becomes_a_pod_with_a_mirror() {
        let pod = parse(MANIFEST, "n1").expect("a pod");
        assert_eq!((pod::name(&pod), pod::namespace(&pod)), ("web-n1", "kube-system"));
        assert!(is_static(&pod) && !is_mirror(&pod));
        let shown = mirror(&pod, "n1", "u");
        assert!(is_mirror(&shown) && !is_static(&shown) && shows(&shown, &pod));
        let changed = parse(&MANIFEST.replace("a:1", "a:2"), "n1").expect("a pod");
        assert!(!shows(&shown, &changed) && pod::uid(&pod) != pod::uid(&changed));
        assert_eq!(parse("metadata: {}\nspec: {containers: []}", "n1"), Err("the pod has no name".to_owned()));
    }

    #[tokio::test]
    async fn a_folder_is_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (send, mut receive) = mpsc::channel(1);
        let task = tokio::spawn(follow(folder.path().to_owned(), "n1".to_owned(), send));
        assert_eq!(receive.recv().await.map(|pods| pods.len()), Some(0));
        fs::write(folder.path().join("web.yaml"), MANIFEST).expect("a file");
        assert_eq!(receive.recv().await.map(|pods| pods.len()), Some(1));
        fs::remove_file(folder.path().join("web.yaml")).expect("removed");
        assert_eq!(receive.recv().await.map(|pods| pods.len()), Some(0));
        task.abort();
    }
}
