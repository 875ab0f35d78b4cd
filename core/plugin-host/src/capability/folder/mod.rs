//! `interface folder`: granted folders.
//!
//! - `beneath`: opening things in a folder and nowhere else
//! - `tree`: removing, copying and measuring whole trees

pub(crate) mod beneath;
mod tree;

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use nix::{
    fcntl::{AtFlags, OFlag, renameat},
    sys::stat::{Mode, SFlag, fchmod, fstatat},
    unistd::{UnlinkatFlags, unlinkat},
};

use super::{CapabilityError, CapabilityResult, ErrorCode};
use crate::bindings::runtime::gantry::host::folder::{Entry, Kind, Space, TreeSize};

/// Largest file that is read or written as a whole.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most entries of a listed folder.
const ENTRIES_MAX: usize = 65_536;
/// Longest path.
const PATH_BYTES_MAX: usize = 4096;

/// The granted folders of a plugin, by name.
#[derive(Debug, Default)]
pub(crate) struct Folders(BTreeMap<String, PathBuf>);

/// Where a path leads: the folder's root on the host, and the path in it (`.` for the folder itself).
struct Place<'a> {
    root: &'a Path,
    inside: PathBuf,
    shown: String,
}

impl Place<'_> {
    fn error(&self, doing: &str, error: &io::Error) -> CapabilityError {
        if error.raw_os_error() == Some(libc::EXDEV) || error.raw_os_error() == Some(libc::ELOOP) {
            return CapabilityError::new(ErrorCode::Denied, format!("{doing} {}: leads out of the folder", self.shown));
        }
        CapabilityError::io(format_args!("{doing} {}", self.shown), error)
    }

    fn open_root(&self) -> io::Result<OwnedFd> {
        beneath::root(self.root)
    }

    /// The folder that holds the last part, and that part; an error for the granted folder itself.
    fn parent(&self, make: bool) -> io::Result<(OwnedFd, &std::ffi::OsStr)> {
        let (Some(name), Some(parent)) = (self.inside.file_name(), self.inside.parent()) else {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the granted folder itself"));
        };
        let root = self.open_root()?;
        let parent = if make { beneath::make_all(&root, parent)? } else { beneath::folder(&root, parent)? };
        Ok((parent, name))
    }
}

impl Folders {
    /// These folders; those that are missing are made.
    pub fn new(folders: BTreeMap<String, PathBuf>) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        for path in folders.values() {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
        }
        Ok(Self(folders))
    }

    pub fn roots(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.values()
    }

    fn place(&self, folder: &str, path: &str) -> CapabilityResult<Place<'_>> {
        let shown = format!("{folder}:{path}");
        let Some(root) = self.0.get(folder) else {
            return Err(CapabilityError::new(ErrorCode::Denied, format!("folder {folder:?} is not granted")));
        };
        let denied = |why: &str| Err(CapabilityError::new(ErrorCode::Denied, format!("path {shown}: {why}")));
        if path.starts_with('/') {
            return denied("absolute");
        }
        if path.len() > PATH_BYTES_MAX || path.contains('\0') {
            return denied("too long or with a NUL in it");
        }
        let mut inside = PathBuf::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => return denied("`..` in it"),
                part => inside.push(part),
            }
        }
        if inside.as_os_str().is_empty() {
            inside.push(".");
        }
        Ok(Place { root, inside, shown })
    }

    pub fn path(&self, folder: &str, path: &str) -> CapabilityResult<String> {
        let place = self.place(folder, path)?;
        let whole = if place.inside == Path::new(".") { place.root.to_owned() } else { place.root.join(&place.inside) };
        whole.into_os_string().into_string().map_err(|_| {
            CapabilityError::new(ErrorCode::Invalid, format!("path {}: the granted folder's is no UTF-8", place.shown))
        })
    }

    pub fn read(&self, folder: &str, path: &str) -> CapabilityResult<Vec<u8>> {
        let place = self.place(folder, path)?;
        let read = || {
            let root = place.open_root()?;
            let file = beneath::regular_file(&root, &place.inside)?;
            let mut content = Vec::new();
            file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content)?;
            if content.len() as u64 > FILE_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB"));
            }
            Ok(content)
        };
        read().map_err(|error| place.error("read", &error))
    }

    pub fn write(&self, folder: &str, path: &str, content: &[u8]) -> CapabilityResult<()> {
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        let place = self.place(folder, path)?;
        let write = || {
            if content.len() as u64 > FILE_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB"));
            }
            let (parent, name) = place.parent(true)?;
            let beside = format!(".new-{}-{}", std::process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed));
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mut file = std::fs::File::from(beneath::open(
                &parent,
                Path::new(&beside),
                flags,
                Mode::from_bits_truncate(0o600),
            )?);
            let written = file
                .write_all(content)
                .and_then(|()| file.sync_all())
                .and_then(|()| Ok(renameat(&parent, beside.as_str(), &parent, name)?));
            if written.is_err() {
                // The error that is told is the first one.
                let _ = unlinkat(&parent, beside.as_str(), UnlinkatFlags::NoRemoveDir);
            }
            written
        };
        write().map_err(|error| place.error("write", &error))
    }

    pub fn list(&self, folder: &str, path: &str) -> CapabilityResult<Vec<Entry>> {
        let place = self.place(folder, path)?;
        let list = || {
            let root = place.open_root()?;
            let folder = beneath::folder(&root, &place.inside)?;
            let mut entries = Vec::new();
            for name in beneath::names(&folder)? {
                if entries.len() == ENTRIES_MAX {
                    return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "more than 65,536 entries"));
                }
                let Ok(stat) = fstatat(&folder, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
                // A name that is no UTF-8 can't be named by the plugin either.
                let Ok(name) = name.into_string() else { continue };
                let kind = match SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT) {
                    SFlag::S_IFREG => Kind::File,
                    SFlag::S_IFDIR => Kind::Folder,
                    _ => Kind::Other,
                };
                entries.push(Entry { name, kind });
            }
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(entries)
        };
        list().map_err(|error| place.error("list", &error))
    }

    pub fn make(&self, folder: &str, path: &str, mode: u32) -> CapabilityResult<()> {
        let place = self.place(folder, path)?;
        let make = || {
            let root = place.open_root()?;
            let made = beneath::make_all(&root, &place.inside)?;
            Ok(fchmod(&made, Mode::from_bits_truncate(mode & 0o7777))?)
        };
        make().map_err(|error: io::Error| place.error("make folder", &error))
    }

    pub fn remove(&self, folder: &str, path: &str) -> CapabilityResult<()> {
        let place = self.place(folder, path)?;
        let remove = || {
            let (parent, name) = place.parent(false)?;
            tree::remove(parent.as_fd(), Path::new(name))
        };
        match remove() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome.map_err(|error| {
                if error.raw_os_error() == Some(libc::EXDEV) {
                    let message = format!("remove {}: a file system is mounted in it", place.shown);
                    return CapabilityError::new(ErrorCode::Busy, message);
                }
                place.error("remove", &error)
            }),
        }
    }

    pub fn rename(&self, folder: &str, from: &str, to: &str) -> CapabilityResult<()> {
        let (from, to) = (self.place(folder, from)?, self.place(folder, to)?);
        let rename = || {
            let (old_parent, old_name) = from.parent(false)?;
            let (new_parent, new_name) = to.parent(true)?;
            Ok(renameat(&old_parent, old_name, &new_parent, new_name)?)
        };
        rename().map_err(|error: io::Error| from.error("rename", &error))
    }

    pub fn exists(&self, folder: &str, path: &str) -> CapabilityResult<bool> {
        let place = self.place(folder, path)?;
        let root = place.open_root().map_err(|error| place.error("look for", &error))?;
        match beneath::open(&root, &place.inside, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(place.error("look for", &error)),
        }
    }

    pub fn copy(&self, folder: &str, from: &str, to: &str) -> CapabilityResult<()> {
        let (from, to) = (self.place(folder, from)?, self.place(folder, to)?);
        let copy = || {
            if to.inside.starts_with(&from.inside) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "into itself"));
            }
            let (old_parent, old_name) = from.parent(false)?;
            let (new_parent, new_name) = to.parent(true)?;
            tree::copy(old_parent.as_fd(), Path::new(old_name), new_parent.as_fd(), Path::new(new_name))
        };
        copy().map_err(|error| from.error("copy", &error))
    }

    pub fn usage(&self, folder: &str) -> CapabilityResult<Space> {
        let place = self.place(folder, "")?;
        let usage = || {
            let root = place.open_root()?;
            let stat = nix::sys::statvfs::fstatvfs(&root)?;
            let block = stat.fragment_size();
            Ok(Space {
                total_bytes: stat.blocks().saturating_mul(block),
                available_bytes: stat.blocks_available().saturating_mul(block),
                total_inodes: stat.files(),
                available_inodes: stat.files_available(),
            })
        };
        usage().map_err(|error: io::Error| place.error("measure", &error))
    }

    pub fn size(&self, folder: &str, path: &str) -> CapabilityResult<TreeSize> {
        let place = self.place(folder, path)?;
        let size = || {
            let root = place.open_root()?;
            tree::size(root.as_fd(), &place.inside)
        };
        size().map_err(|error| place.error("measure", &error))
    }
}

#[cfg(test)]
mod tests;
