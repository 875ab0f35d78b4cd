//! Giving a volume to a pod's group (`fsGroup`), as upstream does: owner group, set-group-id on folders, and for the
//! group what the owner may.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

/// Gives a tree to a group. With `only_on_mismatch` a root that fits already is taken for a tree that fits.
pub fn give(root: &Path, group: u32, read_only: bool, only_on_mismatch: bool) -> io::Result<()> {
    if only_on_mismatch && fits(root, group, read_only)? {
        return Ok(());
    }
    walk(root, group, read_only)
}

fn fits(root: &Path, group: u32, read_only: bool) -> io::Result<bool> {
    let meta = fs::symlink_metadata(root)?;
    let wanted = wanted_bits(true, read_only);
    Ok(meta.gid() == group && meta.mode() & wanted == wanted)
}

fn wanted_bits(folder: bool, read_only: bool) -> u32 {
    let access = if read_only { 0o440 } else { 0o660 };
    if folder { access | 0o110 | 0o2000 } else { access }
}

fn walk(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    lchown(path, None, Some(group))?;
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    let bits = meta.mode() & 0o7777 | wanted_bits(meta.is_dir(), read_only);
    fs::set_permissions(path, fs::Permissions::from_mode(bits))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            walk(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_given_and_left_alone_when_it_fits() {
        let root = tempfile::tempdir().expect("a folder");
        let file = root.path().join("d/f");
        fs::create_dir(root.path().join("d")).expect("a folder");
        fs::write(&file, "x").expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
        give(root.path(), 1234, false, false).expect("given: these tests need root");
        let meta = fs::metadata(&file).expect("a file");
        assert_eq!((meta.gid(), meta.mode() & 0o7777), (1234, 0o660));
        assert_eq!(fs::metadata(root.path().join("d")).expect("a folder").mode() & 0o2070, 0o2070);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
        give(root.path(), 1234, false, true).expect("nothing to do");
        assert_eq!(fs::metadata(&file).expect("a file").mode() & 0o777, 0o600);
    }
}
