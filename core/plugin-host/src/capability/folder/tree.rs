//! Whole trees. Depth is bounded, links are never followed, other file systems never entered.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, readlinkat},
    sys::{
        stat::{FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, fstatat, futimens, mkdirat, mknodat, utimensat},
        time::TimeSpec,
    },
    unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, symlinkat, unlinkat},
};

use super::beneath;
use crate::bindings::runtime::gantry::host::folder::TreeSize;

/// Deepest tree: each level holds a descriptor open.
const DEPTH_MAX: usize = 256;

fn too_deep() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "more than 256 levels deep")
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT)
}

fn open_folder(parent: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    beneath::open_entry(parent, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
}

/// Removes a file, or a folder with all that is in it.
pub(super) fn remove(parent: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
    remove_below(parent, name, 0)
}

fn remove_below(parent: BorrowedFd<'_>, name: &Path, depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(too_deep());
    }
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) => return Ok(()),
        // Linux says EISDIR for a folder, POSIX EPERM.
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(error) => return Err(error.into()),
    }
    let folder = open_folder(parent, name)?;
    for entry in beneath::names(&folder)? {
        match remove_below(folder.as_fd(), Path::new(&entry), depth + 1) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome?,
        }
    }
    Ok(unlinkat(parent, name, UnlinkatFlags::RemoveDir)?)
}

/// Copies a tree with owners, modes, times and links. The copy must not exist.
pub(super) fn copy(from: BorrowedFd<'_>, from_name: &Path, to: BorrowedFd<'_>, to_name: &Path) -> io::Result<()> {
    copy_below(from, from_name, to, to_name, 0)
}

fn copy_below(
    from: BorrowedFd<'_>,
    from_name: &Path,
    to: BorrowedFd<'_>,
    to_name: &Path,
    depth: usize,
) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(too_deep());
    }
    let stat = fstatat(from, from_name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    match kind(&stat) {
        SFlag::S_IFDIR => {
            let source = open_folder(from, from_name)?;
            mkdirat(to, to_name, Mode::from_bits_truncate(0o700))?;
            let target = open_folder(to, to_name)?;
            for entry in beneath::names(&source)? {
                let entry = Path::new(&entry);
                copy_below(source.as_fd(), entry, target.as_fd(), entry, depth + 1)?;
            }
            take_over(&target, &stat)
        }
        SFlag::S_IFREG => {
            let source = beneath::open_entry(from, from_name, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
            // It may have been replaced since.
            let stat = fstat(&source)?;
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mut target = File::from(beneath::open(to, to_name, flags, Mode::from_bits_truncate(0o600))?);
            io::copy(&mut File::from(source), &mut target)?;
            target.sync_all()?;
            take_over(&target, &stat)
        }
        SFlag::S_IFLNK => {
            symlinkat(readlinkat(from, from_name)?.as_os_str(), to, to_name)?;
            own(to, to_name, &stat)
        }
        // Pipes, sockets and devices.
        other => {
            mknodat(to, to_name, other, Mode::from_bits_truncate(stat.st_mode & 0o7777), stat.st_rdev)?;
            own(to, to_name, &stat)
        }
    }
}

fn times(stat: &FileStat) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(stat.st_atime, stat.st_atime_nsec), TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec))
}

fn take_over(target: impl AsFd, stat: &FileStat) -> io::Result<()> {
    fchown(&target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    // After the owner: chown drops the set-user-id bits.
    fchmod(&target, Mode::from_bits_truncate(stat.st_mode & 0o7777))?;
    let (accessed, modified) = times(stat);
    Ok(futimens(&target, &accessed, &modified)?)
}

fn own(parent: BorrowedFd<'_>, name: &Path, stat: &FileStat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let (accessed, modified) = times(stat);
    Ok(utimensat(parent, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink)?)
}

/// What a tree occupies; a file with several names counts once.
pub(super) fn size(root: BorrowedFd<'_>, path: &Path) -> io::Result<TreeSize> {
    let mut total = TreeSize { bytes: 0, inodes: 0 };
    let mut seen = HashSet::new();
    let stat = fstatat(root, path, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    count(&stat, &mut seen, &mut total);
    if kind(&stat) == SFlag::S_IFDIR {
        // The first step is the caller's path: it may cross what RESOLVE_BENEATH allows.
        size_below(&beneath::folder(root, path)?, &mut seen, &mut total, 0)?;
    }
    Ok(total)
}

fn size_below(folder: &OwnedFd, seen: &mut HashSet<(u64, u64)>, total: &mut TreeSize, depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(too_deep());
    }
    for name in beneath::names(folder)? {
        let name = Path::new(&name);
        let stat = match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => continue,
            stat => stat?,
        };
        if kind(&stat) != SFlag::S_IFDIR {
            count(&stat, seen, total);
            continue;
        }
        match open_folder(folder.as_fd(), name) {
            Ok(below) => {
                count(&stat, seen, total);
                size_below(&below, seen, total, depth + 1)?;
            }
            // Gone meanwhile, or another file system is mounted there.
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::EXDEV) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn count(stat: &FileStat, seen: &mut HashSet<(u64, u64)>, total: &mut TreeSize) {
    if stat.st_nlink > 1 && kind(stat) != SFlag::S_IFDIR && !seen.insert((stat.st_dev, stat.st_ino)) {
        return;
    }
    total.bytes = total.bytes.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512));
    total.inodes += 1;
}
