//! Files of a volume that change all at once: they lie in a folder with a time in its name, `..data` links to it, and
//! each visible name links through `..data` (upstream's atomic writer, whose layout programs know).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// A file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The bytes.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// The user it belongs to; none: root.
    pub user: Option<u32>,
}

/// Relative path to file.
pub type Payload = BTreeMap<String, File>;

/// A path that stays in the volume and can't be mistaken for one of ours.
pub fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("invalid path: must not be empty".to_owned());
    }
    if path.len() > 4096 {
        return Err("invalid path: must be less than or equal to 4096 characters".to_owned());
    }
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if path.starts_with('/') {
        return Err(format!("invalid path: must be relative path: {path}"));
    }
    if !plain || path.split('/').any(|part| part == "..") {
        return Err(format!("invalid path: must not contain '..': {path}"));
    }
    if path.starts_with("..") {
        return Err(format!("invalid path: must not start with '..': {path}"));
    }
    Ok(())
}

/// Makes a volume's files those of the payload; tells whether anything was written.
///
/// `group` is the pod's `fsGroup`: files and folders become its own and readable for it.
pub fn write(target: &Path, payload: &Payload, group: Option<u32>, now: Timestamp) -> io::Result<bool> {
    let data = target.join(DATA);
    let current = fs::read_link(&data).ok().map(|link| target.join(link));
    if let Some(current) = &current
        && is_same(current, payload, group)
    {
        link_names(target, payload)?;
        return Ok(false);
    }
    let stamp = now.strftime("..%Y_%m_%d_%H_%M_%S");
    let fresh = target.join(format!("{stamp}.{:010}", rand::random::<u32>()));
    fs::create_dir(&fresh)?;
    let filled = fill(&fresh, payload, group);
    if let Err(error) = filled {
        let _ = fs::remove_dir_all(&fresh);
        return Err(error);
    }
    let new_data = target.join(NEW_DATA);
    match fs::remove_file(&new_data) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let name = fresh.file_name().ok_or_else(|| io::Error::other("a folder without a name"))?;
    symlink(name, &new_data)?;
    fs::rename(&new_data, &data)?;
    link_names(target, payload)?;
    if let Some(old) = current {
        fs::remove_dir_all(&old)?;
    }
    Ok(true)
}

fn fill(fresh: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    fs::set_permissions(fresh, fs::Permissions::from_mode(if group.is_some() { 0o2775 } else { 0o755 }))?;
    if let Some(group) = group {
        chown(fresh, None, Some(group))?;
    }
    for (path, file) in payload {
        let at = fresh.join(path);
        let mut folder = fresh.to_owned();
        for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
            folder.push(part);
            if !folder.exists() {
                fs::create_dir(&folder)?;
                if let Some(group) = group {
                    chown(&folder, None, Some(group))?;
                    fs::set_permissions(&folder, fs::Permissions::from_mode(0o2775))?;
                } else {
                    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
                }
            }
        }
        fs::write(&at, &file.data)?;
        if file.user.is_some() || group.is_some() {
            chown(&at, file.user, group)?;
        }
        fs::set_permissions(&at, fs::Permissions::from_mode(effective_mode(file, group)))?;
    }
    Ok(())
}

/// A group that owns a volume can read its files.
fn effective_mode(file: &File, group: Option<u32>) -> u32 {
    if group.is_some() { file.mode | 0o440 } else { file.mode }
}

fn is_same(current: &Path, payload: &Payload, group: Option<u32>) -> bool {
    let mut found = Vec::new();
    if walk(current, Path::new(""), &mut found).is_err() || found.len() != payload.len() {
        return false;
    }
    found.iter().all(|path| {
        let Some(file) = path.to_str().and_then(|path| payload.get(path)) else { return false };
        let at = current.join(path);
        let same_mode =
            fs::metadata(&at).is_ok_and(|meta| meta.permissions().mode() & 0o7777 == effective_mode(file, group));
        same_mode && fs::read(&at).is_ok_and(|data| data == file.data)
    })
}

fn walk(root: &Path, below: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            walk(root, &path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// Makes the visible names those of the payload.
fn link_names(target: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let link = target.join(name);
        let to = Path::new(DATA).join(name);
        if fs::read_link(&link).is_ok_and(|known| known == to) {
            continue;
        }
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(to, link)?;
    }
    for entry in fs::read_dir(target)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with("..") && !wanted.contains(name) && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(path, data)| ((*path).to_owned(), File { data: data.as_bytes().to_vec(), mode: 0o644, user: None }))
            .collect()
    }

    #[test]
    fn files_appear_change_and_vanish_together() {
        let root = tempfile::tempdir().expect("a folder");
        let at = root.path();
        let now = Timestamp::UNIX_EPOCH;
        let read = |name: &str| fs::read_to_string(at.join(name)).ok();
        assert!(write(at, &payload(&[("a", "1"), ("d/b", "2")]), None, now).expect("written"));
        assert_eq!((read("a"), read("d/b")), (Some("1".into()), Some("2".into())));
        let before = fs::read_link(at.join(DATA)).expect("a link");
        assert!(!write(at, &payload(&[("a", "1"), ("d/b", "2")]), None, now).expect("the same"));
        assert_eq!(fs::read_link(at.join(DATA)).expect("a link"), before);
        assert!(write(at, &payload(&[("a", "3"), ("c", "4")]), None, now).expect("written"));
        assert_eq!((read("a"), read("d/b"), read("c")), (Some("3".into()), None, Some("4".into())));
        assert!(!at.join(before).exists(), "the old folder is gone");
        assert!(write(at, &Payload::new(), None, now).expect("emptied"));
        let left: Vec<_> = fs::read_dir(at).expect("a folder").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left.iter().filter(|name| !name.to_string_lossy().starts_with("..")).count(), 0);
    }

    #[test]
    fn a_group_owns_what_it_shall_read() {
        use std::os::unix::fs::MetadataExt;
        let root = tempfile::tempdir().expect("a folder");
        let secret = Payload::from([("t".to_owned(), File { data: b"x".to_vec(), mode: 0o600, user: Some(1000) })]);
        write(root.path(), &secret, Some(2000), Timestamp::UNIX_EPOCH).expect("written: these tests need root");
        let meta = fs::metadata(root.path().join("t")).expect("a file");
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (1000, 2000, 0o640));
    }

    #[test]
    fn paths_stay_inside() {
        for good in ["a", "a/b", "a..b", ".hidden"] {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
        for bad in ["", "/a", "../a", "a/../b", "..a", "a/.."] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }
}
