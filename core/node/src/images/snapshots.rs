//! Unpacked layers on disk, and who uses them.
//!
//! `layers/NAME/` is one unpacked layer, named by the beginning of its diff id; `snapshots/KEY` lists the layers of an
//! image, the lowest first; `leases/ID` names the snapshot that a root filesystem stands on.

use std::io;
use std::path::{Path, PathBuf};

/// Digits of a diff id that name its folder: short, so that many fit into the options of one mount.
const NAME_DIGITS: usize = 24;

/// Folder of the unpacked layers.
pub fn layers_folder(images: &Path) -> PathBuf {
    images.join("layers")
}

/// Name of a layer's folder; none for what is no digest.
pub fn layer_name(diff_id: &str) -> Option<&str> {
    let digits = diff_id.strip_prefix("sha256:")?;
    (digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit())).then(|| &digits[..NAME_DIGITS])
}

fn snapshot_file(images: &Path, key: &str) -> io::Result<PathBuf> {
    let digits = key.strip_prefix("sha256:").filter(|d| d.len() == 64 && d.bytes().all(|b| b.is_ascii_hexdigit()));
    match digits {
        Some(digits) => Ok(images.join("snapshots").join(digits)),
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{key:?} is no snapshot key"))),
    }
}

/// Diff ids of a snapshot, the lowest first.
pub fn diff_ids(images: &Path, key: &str) -> io::Result<Vec<String>> {
    let text = std::fs::read_to_string(snapshot_file(images, key)?)?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Folders of a snapshot's layers as overlayfs wants them: the topmost first.
pub fn layers(images: &Path, key: &str) -> io::Result<Vec<PathBuf>> {
    let base = layers_folder(images);
    let mut folders = Vec::new();
    for diff_id in diff_ids(images, key)?.iter().rev() {
        let name = layer_name(diff_id)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{diff_id:?} is no diff id")))?;
        let folder = base.join(name);
        // overlayfs takes a layer once only.
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    Ok(folders)
}

/// Writes down the layers of a snapshot.
pub fn record(images: &Path, key: &str, diff_ids: &[String]) -> io::Result<()> {
    let file = snapshot_file(images, key)?;
    let temporary = file.with_extension("new");
    std::fs::create_dir_all(images.join("snapshots"))?;
    std::fs::write(&temporary, diff_ids.join("\n"))?;
    std::fs::rename(&temporary, &file)
}

/// Forgets a snapshot.
pub fn forget(images: &Path, key: &str) -> io::Result<()> {
    remove_if_there(&snapshot_file(images, key)?)
}

/// Keeps the layers of a snapshot from being removed while that root filesystem exists.
pub fn lease(images: &Path, id: &str, key: &str) -> io::Result<()> {
    let folder = images.join("leases");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join(id), diff_ids(images, key)?.join("\n"))
}

/// Ends a lease.
pub fn release(images: &Path, id: &str) -> io::Result<()> {
    remove_if_there(&images.join("leases").join(id))
}

/// Diff ids that root filesystems stand on.
pub fn leased(images: &Path) -> io::Result<Vec<String>> {
    let mut all = Vec::new();
    match std::fs::read_dir(images.join("leases")) {
        Ok(entries) => {
            for entry in entries {
                all.extend(std::fs::read_to_string(entry?.path())?.lines().map(str::to_owned));
            }
            Ok(all)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(all),
        Err(error) => Err(error),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
