//! Mounting and unmounting, and what is mounted.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

fn failed(doing: &str, path: &Path, error: nix::errno::Errno) -> io::Error {
    io::Error::new(io::Error::from(error).kind(), format!("{doing} {}: {}", path.display(), error.desc()))
}

/// Mounts a tmpfs.
pub fn tmpfs(target: &Path, options: &str) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options))
        .map_err(|error| failed("mount a tmpfs at", target, error))
}

/// Binds a folder or file.
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|error| failed("bind-mount at", target, error))
}

/// Where something is mounted at a path or below it, the deepest first.
pub fn mounted_below(root: &Path) -> io::Result<Vec<PathBuf>> {
    let info = fs::read("/proc/self/mountinfo")?;
    let mut found: Vec<PathBuf> = info
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescape)
        .filter(|path| path.starts_with(root))
        .collect();
    found.sort_by_key(|path| std::cmp::Reverse(path.as_os_str().len()));
    Ok(found)
}

/// Whether something is mounted at a path.
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    Ok(mounted_below(path)?.iter().any(|mounted| mounted == path))
}

/// The kernel writes blanks and the like as octal numbers.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\' && tail.len() >= 3)
            .then(|| std::str::from_utf8(&tail[..3]).ok().and_then(|digits| u8::from_str_radix(digits, 8).ok()))
            .flatten();
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// Unmounts all that is mounted at a path or below it.
pub fn unmount_below(root: &Path) -> io::Result<()> {
    for path in mounted_below(root)? {
        match umount2(&path, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            // A process that still looks into it must not keep the pod from its end.
            Err(nix::errno::Errno::EBUSY) => umount2(&path, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)
                .map_err(|error| failed("unmount", &path, error))?,
            Err(error) => return Err(failed("unmount", &path, error)),
        }
    }
    Ok(())
}

/// Removes a folder with all that is in it once nothing is mounted there: what is mounted is never removed from.
pub fn unmount_and_remove(root: &Path) -> io::Result<()> {
    unmount_below(root)?;
    if let Some(left) = mounted_below(root)?.first() {
        return Err(io::Error::other(format!("{} is still mounted", left.display())));
    }
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("remove {}: {error}", root.display()))),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_numbers_are_read() {
        assert_eq!(unescape(b"/a\\040b\\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape(b"/a\\9"), Path::new("/a\\9"));
    }

    #[test]
    fn mounts_are_found_and_undone_before_a_folder_is_removed() {
        let root = tempfile::tempdir().expect("a folder");
        let (outer, kept) = (root.path().join("pod"), root.path().join("kept"));
        let (memory, bound) = (outer.join("a memory"), outer.join("bound"));
        for folder in [&memory, &bound, &kept] {
            fs::create_dir_all(folder).expect("a folder");
        }
        fs::write(kept.join("file"), "x").expect("a file");
        tmpfs(&memory, "size=64k").expect("a tmpfs: these tests need root");
        bind(&kept, &bound).expect("a bind mount");
        assert!(is_mounted(&memory).expect("mount table"));
        unmount_and_remove(&outer).expect("removed");
        assert!(!outer.exists());
        assert!(kept.join("file").exists(), "what was mounted is untouched");
    }
}
