//! Parts of volumes (`subPath`), bound by file descriptor so that nothing a container does to the volume can lead the
//! mount elsewhere.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, mkdirat};

use super::mounts;

/// Binds a part of a volume at `target`, making folders that are missing in it.
///
/// # Errors
/// When the path leaves the volume or the system refuses.
pub fn bind(volume: &Path, sub_path: &str, target: &Path) -> Result<(), String> {
    let relative = Path::new(sub_path);
    if relative.is_absolute() || relative.components().any(|part| matches!(part, Component::ParentDir)) {
        return Err(format!("subPath {sub_path:?} must stay in the volume"));
    }
    let failed = |error: io::Error| format!("failed to prepare subPath {sub_path:?} of the volume: {error}");
    let fd = open_part(volume, relative).map_err(failed)?;
    let is_folder = fs::metadata(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(failed)?.is_dir();
    if mounts::is_mounted(target).map_err(failed)? {
        return Ok(());
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    if is_folder {
        fs::create_dir_all(target).map_err(failed)?;
    } else {
        fs::OpenOptions::new().create(true).append(true).open(target).map_err(failed)?;
    }
    mounts::bind(Path::new(&format!("/proc/self/fd/{}", fd.as_raw_fd())), target).map_err(failed)
}

fn open_part(volume: &Path, relative: &Path) -> io::Result<OwnedFd> {
    let mut fd = open(volume, OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY, Mode::empty())?;
    match open_below(&fd, relative) {
        Err(nix::errno::Errno::ENOENT) => {}
        whole => return Ok(whole?),
    }
    let mode = fs::metadata(volume)?.permissions().mode() & 0o777;
    for part in relative.components() {
        let Component::Normal(name) = part else { continue };
        fd = match open_below(&fd, Path::new(name)) {
            Err(nix::errno::Errno::ENOENT) => {
                match mkdirat(fd.as_fd(), Path::new(name), Mode::from_bits_truncate(mode)) {
                    Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                let made = open_below(&fd, Path::new(name))?;
                // mkdir(2) heeds the umask.
                fs::set_permissions(format!("/proc/self/fd/{}", made.as_raw_fd()), fs::Permissions::from_mode(mode))?;
                made
            }
            other => other?,
        };
    }
    Ok(fd)
}

/// Opens a path; symbolic links are followed only if they stay below the folder.
fn open_below(fd: &OwnedFd, name: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(fd, name, how)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn parts_are_bound_and_links_do_not_lead_out() {
        let root = tempfile::tempdir().expect("a folder");
        let volume = root.path().join("volume");
        let target = root.path().join("targets");
        fs::create_dir_all(volume.join("real")).expect("a folder");
        fs::write(volume.join("real/file"), "x").expect("a file");
        symlink("real", volume.join("inside")).expect("a link");
        symlink("/etc", volume.join("outside")).expect("a link");
        symlink("../..", volume.join("up")).expect("a link");
        for (index, good) in ["real", "real/file", "inside", "new/folder"].into_iter().enumerate() {
            let at = target.join(index.to_string());
            assert_eq!(bind(&volume, good, &at), Ok(()), "{good}: these tests need root");
            assert!(at.exists());
        }
        assert!(target.join("2/file").exists());
        assert!(volume.join("new/folder").is_dir());
        for bad in ["../x", "/etc", "outside/passwd", "outside", "up/x"] {
            assert!(bind(&volume, bad, &target.join("bad")).is_err(), "{bad}");
        }
        mounts::unmount_and_remove(&target).expect("removed");
        assert!(volume.join("real/file").exists());
    }
}
