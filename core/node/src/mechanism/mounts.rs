//! Mounts in the node's mount namespace.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use async_trait::async_trait;
use gantry_plugin_host::capability::{CapabilityResult, MountOptions, Mounts};
use gantry_plugin_host::{CapabilityError, ErrorCode};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{Mechanism, blocking};

/// How many mounts may lie on one another at a target.
const STACKED_MAX: usize = 64;

/// What the names of mount(8) mean: a flag to set or to clear, or how events propagate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flags {
    set: MsFlags,
    recursive: bool,
    propagation: Option<MsFlags>,
}

fn flags(options: &MountOptions) -> Result<Flags, String> {
    let mut found = Flags { set: MsFlags::empty(), recursive: false, propagation: None };
    if options.read_only {
        found.set |= MsFlags::MS_RDONLY;
    }
    for name in &options.flags {
        let flag = match name.as_str() {
            "ro" => MsFlags::MS_RDONLY,
            "nosuid" => MsFlags::MS_NOSUID,
            "nodev" => MsFlags::MS_NODEV,
            "noexec" => MsFlags::MS_NOEXEC,
            "noatime" => MsFlags::MS_NOATIME,
            "nodiratime" => MsFlags::MS_NODIRATIME,
            "relatime" => MsFlags::MS_RELATIME,
            "strictatime" => MsFlags::MS_STRICTATIME,
            "lazytime" => MsFlags::MS_LAZYTIME,
            "sync" => MsFlags::MS_SYNCHRONOUS,
            "dirsync" => MsFlags::MS_DIRSYNC,
            "rw" | "suid" | "dev" | "exec" | "atime" | "async" | "defaults" | "bind" => MsFlags::empty(),
            "rbind" => {
                found.recursive = true;
                MsFlags::empty()
            }
            "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" | "unbindable" | "runbindable" => {
                let (kind, deep) = match name.strip_prefix('r') {
                    Some(kind) => (kind, MsFlags::MS_REC),
                    None => (name.as_str(), MsFlags::empty()),
                };
                let kind = match kind {
                    "private" => MsFlags::MS_PRIVATE,
                    "slave" => MsFlags::MS_SLAVE,
                    "shared" => MsFlags::MS_SHARED,
                    _ => MsFlags::MS_UNBINDABLE,
                };
                found.propagation = Some(kind | deep);
                MsFlags::empty()
            }
            other => return Err(format!("there is no mount flag {other:?}")),
        };
        found.set |= flag;
    }
    Ok(found)
}

/// Whether something is mounted exactly there.
pub fn is_mount_point(target: &Path) -> io::Result<bool> {
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else { return Ok(true) };
    let parent = match File::open(parent) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(false);
        }
        other => other?,
    };
    // The kernel refuses to cross into what is mounted.
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_XDEV);
    match openat2(&parent, name, how) {
        Ok(_) | Err(nix::errno::Errno::ENOENT) => Ok(false),
        Err(nix::errno::Errno::EXDEV) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Unmounts all that is mounted at a target.
pub fn unmount_all(target: &Path) -> io::Result<()> {
    for _ in 0..STACKED_MAX {
        match umount2(target, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there any more.
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("more than {STACKED_MAX} mounts")))
}

fn make_target(target: &Path, folder: bool) -> io::Result<()> {
    if target.exists() {
        return Ok(());
    }
    if folder {
        return std::fs::create_dir_all(target);
    }
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    OpenOptions::new().create(true).append(true).open(target).map(drop)
}

fn bind(source: &Path, target: &Path, flags: Flags) -> io::Result<()> {
    make_target(target, std::fs::metadata(source)?.is_dir())?;
    let deep = if flags.recursive { MsFlags::MS_REC } else { MsFlags::empty() };
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | deep, None::<&str>)?;
    let finish = || -> io::Result<()> {
        if !flags.set.is_empty() {
            // What the source has must be said again, or a locked flag refuses the change.
            let kept = nix::sys::statvfs::statvfs(target)?.flags();
            let kept = MsFlags::from_bits_truncate(kept.bits() as nix::libc::c_ulong)
                & (MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC);
            let all = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | kept | flags.set;
            mount(None::<&str>, target, None::<&str>, all, None::<&str>)?;
        }
        if let Some(propagation) = flags.propagation {
            mount(None::<&str>, target, None::<&str>, propagation, None::<&str>)?;
        }
        Ok(())
    };
    finish().inspect_err(|_| {
        // Not left there with fewer restrictions than were asked for.
        let _ = umount2(target, MntFlags::MNT_DETACH);
    })
}

fn mount_new(source: &str, target: &Path, file_system: &str, flags: Flags, data: &str) -> io::Result<()> {
    make_target(target, true)?;
    mount(Some(source), target, Some(file_system), flags.set, Some(data))?;
    if let Some(propagation) = flags.propagation {
        mount(None::<&str>, target, None::<&str>, propagation, None::<&str>)?;
    }
    Ok(())
}

fn parse(target: &str, options: &MountOptions) -> CapabilityResult<Flags> {
    flags(options).map_err(|reason| CapabilityError::new(ErrorCode::Invalid, format!("mounting {target}: {reason}")))
}

#[async_trait]
impl Mounts for Mechanism {
    async fn bind(&self, source: &str, target: &str, options: &MountOptions) -> CapabilityResult<()> {
        let flags = parse(target, options)?;
        let (source, target) = (source.to_owned(), target.to_owned());
        blocking(move || {
            bind(Path::new(&source), Path::new(&target), flags)
                .map_err(|e| CapabilityError::io(format!("binding {source} to {target}"), &e))
        })
        .await
    }

    async fn mount(
        &self,
        source: &str,
        target: &str,
        file_system: &str,
        options: &MountOptions,
    ) -> CapabilityResult<()> {
        let flags = parse(target, options)?;
        let (source, target, file_system) = (source.to_owned(), target.to_owned(), file_system.to_owned());
        let data = options.data.join(",");
        blocking(move || {
            mount_new(&source, Path::new(&target), &file_system, flags, &data)
                .map_err(|e| CapabilityError::io(format!("mounting {file_system} at {target}"), &e))
        })
        .await
    }

    async fn unmount(&self, target: &str) -> CapabilityResult<()> {
        let target = target.to_owned();
        blocking(move || {
            unmount_all(Path::new(&target)).map_err(|e| CapabilityError::io(format!("unmounting {target}"), &e))
        })
        .await
    }

    async fn is_mounted(&self, target: &str) -> CapabilityResult<bool> {
        let path = Path::new(OsStr::new(target)).to_owned();
        let target = target.to_owned();
        blocking(move || {
            is_mount_point(&path).map_err(|e| CapabilityError::io(format!("looking for a mount at {target}"), &e))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(names: &[&str], read_only: bool) -> Result<Flags, String> {
        let flags_given = names.iter().map(|n| (*n).to_owned()).collect();
        flags(&MountOptions { read_only, flags: flags_given, data: Vec::new() })
    }

    #[test]
    fn names_of_flags() {
        let all = parsed(&["nosuid", "nodev", "rbind", "rslave"], true).unwrap();
        assert_eq!(all.set, MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV);
        assert_eq!(all.propagation, Some(MsFlags::MS_SLAVE | MsFlags::MS_REC));
        assert!(all.recursive);
        assert_eq!(parsed(&["rw", "defaults"], false).unwrap().set, MsFlags::empty());
        assert_eq!(parsed(&["quick"], false), Err("there is no mount flag \"quick\"".to_owned()));
    }
}
