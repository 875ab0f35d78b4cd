//! Root filesystems: overlays of an image's layers with a writable one.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use async_trait::async_trait;
use gantry_plugin_host::capability::{CapabilityResult, Rootfs, RootfsOptions, RootfsUsage};
use gantry_plugin_host::{CapabilityError, ErrorCode};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags};
use nix::sys::stat::{Mode, mkdirat};

use super::{Mechanism, blocking, check_id, make_private, mounts};
use crate::images::snapshots;

/// mount(2) reads one page of options.
const MOUNT_OPTIONS_LIMIT_BYTES: usize = 4096;
/// Longest /etc/passwd that is searched for a home folder.
const PASSWD_LIMIT_BYTES: u64 = 1024 * 1024;

/// Opens a path as a process would whose root that folder is.
pub fn open_in(root: &Path, path: &Path, flags: OFlag) -> std::io::Result<OwnedFd> {
    let root = File::open(root)?;
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
    loop {
        match openat2(&root, path, how) {
            // A name changed under it.
            Err(nix::errno::Errno::EAGAIN) => continue,
            other => return Ok(other?),
        }
    }
}

/// Makes a folder and those above it inside of a root filesystem; what goes wrong shows when it is used.
pub fn make_folder(root: &Path, path: &Path) {
    if open_in(root, path, OFlag::O_PATH | OFlag::O_DIRECTORY).is_ok() {
        return;
    }
    let mut so_far = PathBuf::from("/");
    for part in path.components().filter(|c| matches!(c, Component::Normal(_))) {
        let Ok(parent) = open_in(root, &so_far, OFlag::O_PATH | OFlag::O_DIRECTORY) else { return };
        let _ = mkdirat(&parent, part.as_os_str(), Mode::from_bits_truncate(0o755));
        so_far.push(part);
    }
}

/// A user's home folder by the /etc/passwd of a root filesystem.
pub fn home_of(root: &Path, uid: u32) -> Option<String> {
    let file = open_in(root, Path::new("/etc/passwd"), OFlag::O_RDONLY | OFlag::O_NONBLOCK).ok()?;
    let mut text = Vec::new();
    File::from(file).take(PASSWD_LIMIT_BYTES).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let fields = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let home = fields.filter(|f| f.len() >= 6).find(|f| f[2].parse() == Ok(uid))?[5].to_owned();
    (!home.is_empty()).then_some(home)
}

struct Folders {
    whole: PathBuf,
    upper: PathBuf,
    work: PathBuf,
    merged: PathBuf,
}

impl Folders {
    fn of(whole: PathBuf) -> Self {
        Self { upper: whole.join("upper"), work: whole.join("work"), merged: whole.join("merged"), whole }
    }
}

fn prepare(folders: &Folders, images: &Path, id: &str, snapshot_key: &str) -> CapabilityResult<String> {
    let fail = |what: &str, error: &std::io::Error| {
        CapabilityError::io(format!("preparing the root filesystem of {id}: {what}"), error)
    };
    let path = folders.merged.to_string_lossy().into_owned();
    if folders.merged.exists() && mounts::is_mount_point(&folders.merged).map_err(|e| fail("looking for it", &e))? {
        return Ok(path);
    }
    // The lease first: from here on nobody removes the layers.
    snapshots::lease(images, id, snapshot_key).map_err(|e| fail("holding the image's layers", &e))?;
    let layers = snapshots::layers(images, snapshot_key).map_err(|e| {
        let _ = snapshots::release(images, id);
        match e.kind() {
            std::io::ErrorKind::NotFound => CapabilityError::new(
                ErrorCode::NotFound,
                format!("preparing the root filesystem of {id}: image {snapshot_key} is not on this node"),
            ),
            _ => fail("finding the image's layers", &e),
        }
    })?;
    make_private(&folders.whole).map_err(|e| fail("making its folder", &e))?;
    // A mount of before the host was restarted left its state here.
    match std::fs::remove_dir_all(&folders.work) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(fail("clearing its work folder", &error));
        }
        _ => {}
    }
    for folder in [&folders.upper, &folders.work, &folders.merged] {
        std::fs::create_dir_all(folder).map_err(|e| fail("making its folders", &e))?;
    }
    mount_overlay(folders, images, &layers).map_err(|e| fail("mounting the overlay", &e))?;
    Ok(path)
}

/// Mounts from a thread that stands in the layers' folder: their names are short then, and many fit.
fn mount_overlay(folders: &Folders, images: &Path, layers: &[PathBuf]) -> std::io::Result<()> {
    let base = snapshots::layers_folder(images);
    let mut lower = Vec::new();
    for layer in layers {
        if !lower.is_empty() {
            lower.push(b':');
        }
        lower.extend_from_slice(layer.strip_prefix(&base).unwrap_or(layer).as_os_str().as_bytes());
    }
    if lower.is_empty() {
        // An image of no layers at all.
        let empty = folders.whole.join("empty");
        std::fs::create_dir_all(&empty)?;
        lower.extend_from_slice(empty.as_os_str().as_bytes());
    }
    let mut options = b"lowerdir=".to_vec();
    options.extend_from_slice(&lower);
    for (name, folder) in [(",upperdir=", &folders.upper), (",workdir=", &folders.work)] {
        options.extend_from_slice(name.as_bytes());
        options.extend_from_slice(folder.as_os_str().as_bytes());
    }
    if options.len() + ",volatile".len() >= MOUNT_OPTIONS_LIMIT_BYTES {
        let text = format!("{} layers are too many for one overlay", layers.len());
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, text));
    }
    let merged = folders.merged.clone();
    let mounting = std::thread::Builder::new().name("overlay".into()).spawn(move || -> std::io::Result<()> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
        if base.exists() {
            nix::unistd::chdir(&base)?;
        }
        // A container's writable layer doesn't outlive a crash of the host, so nothing need be synced when it goes.
        let volatile = [options.as_slice(), b",volatile"].concat();
        let mount = |options: &[u8]| {
            nix::mount::mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options))
        };
        match mount(&volatile) {
            Err(nix::errno::Errno::EINVAL) => Ok(mount(&options)?),
            other => Ok(other?),
        }
    })?;
    mounting.join().unwrap_or_else(|_| Err(std::io::Error::other("the mounting thread panicked")))
}

fn remove(folders: &Folders, images: &Path, id: &str) -> CapabilityResult<()> {
    let fail = |error: &std::io::Error| CapabilityError::io(format!("removing the root filesystem of {id}"), error);
    match nix::mount::umount2(&folders.merged, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(error) => return Err(fail(&error.into())),
    }
    match std::fs::remove_dir_all(&folders.whole) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail(&error)),
    }
    snapshots::release(images, id).map_err(|e| fail(&e))
}

fn usage(folder: &Path) -> std::io::Result<RootfsUsage> {
    let mut usage = RootfsUsage { used_bytes: 0, used_inodes: 0 };
    let mut linked = HashSet::new();
    let mut open = vec![folder.to_owned()];
    let own = std::fs::symlink_metadata(folder)?;
    usage.used_bytes += own.blocks() * 512;
    usage.used_inodes += 1;
    while let Some(folder) = open.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            // The container removes its own files while they are counted.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.nlink() > 1 && !metadata.is_dir() && !linked.insert(metadata.ino()) {
                continue;
            }
            usage.used_bytes += metadata.blocks() * 512;
            usage.used_inodes += 1;
            if metadata.is_dir() {
                open.push(entry.path());
            }
        }
    }
    Ok(usage)
}

impl Mechanism {
    fn rootfs(&self, id: &str) -> Folders {
        Folders::of(self.inner.path("rootfs", id))
    }
}

#[async_trait]
impl Rootfs for Mechanism {
    /// A read-only one has a writable layer, too: mount points that the image lacks are made in it.
    async fn prepare(&self, id: &str, snapshot_key: &str, _options: &RootfsOptions) -> CapabilityResult<String> {
        check_id("root filesystem", id)?;
        let _gate = self.inner.gates.enter(format!("rootfs {id}")).await;
        let (folders, images) = (self.rootfs(id), self.inner.options.images.clone());
        let (id, snapshot_key) = (id.to_owned(), snapshot_key.to_owned());
        blocking(move || prepare(&folders, &images, &id, &snapshot_key)).await
    }

    async fn remove(&self, id: &str) -> CapabilityResult<()> {
        check_id("root filesystem", id)?;
        let _gate = self.inner.gates.enter(format!("rootfs {id}")).await;
        let (folders, images, id) = (self.rootfs(id), self.inner.options.images.clone(), id.to_owned());
        blocking(move || remove(&folders, &images, &id)).await
    }

    async fn read_file(&self, id: &str, path: &str, limit_bytes: u32) -> CapabilityResult<Vec<u8>> {
        check_id("root filesystem", id)?;
        let folders = self.rootfs(id);
        let (id, path) = (id.to_owned(), PathBuf::from(path));
        blocking(move || {
            let fail = |error: &std::io::Error| {
                CapabilityError::io(format!("reading {} of the root filesystem of {id}", path.display()), error)
            };
            // Not to wait for the other end of a pipe.
            let file = open_in(&folders.merged, &path, OFlag::O_RDONLY | OFlag::O_NONBLOCK).map_err(|e| fail(&e))?;
            let file = File::from(file);
            if !file.metadata().map_err(|e| fail(&e))?.is_file() {
                let text = format!("reading {} of the root filesystem of {id}: not a file", path.display());
                return Err(CapabilityError::new(ErrorCode::Invalid, text));
            }
            let mut content = Vec::new();
            file.take(u64::from(limit_bytes) + 1).read_to_end(&mut content).map_err(|e| fail(&e))?;
            if content.len() > limit_bytes as usize {
                let text =
                    format!("{} of the root filesystem of {id} is larger than {limit_bytes} bytes", path.display());
                return Err(CapabilityError::new(ErrorCode::Exhausted, text));
            }
            Ok(content)
        })
        .await
    }

    async fn usage(&self, id: &str) -> CapabilityResult<RootfsUsage> {
        check_id("root filesystem", id)?;
        let (folders, id) = (self.rootfs(id), id.to_owned());
        blocking(move || {
            usage(&folders.upper).map_err(|e| CapabilityError::io(format!("usage of the root filesystem of {id}"), &e))
        })
        .await
    }
}
