use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

struct Fixture {
    _kept: tempfile::TempDir,
    root: PathBuf,
    outside: PathBuf,
    folders: Folders,
}

fn fixture() -> Fixture {
    let kept = tempfile::tempdir().unwrap();
    let (root, outside) = (kept.path().join("granted"), kept.path().join("outside"));
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    let folders = Folders::new(BTreeMap::from([("state".to_owned(), root.clone())])).unwrap();
    Fixture { _kept: kept, root, outside, folders }
}

fn code<T: std::fmt::Debug>(outcome: CapabilityResult<T>) -> ErrorCode {
    outcome.unwrap_err().code
}

#[test]
fn files_are_written_read_listed_renamed_and_removed() {
    let it = fixture();
    it.folders.write("state", "a/b/one", b"1").unwrap();
    it.folders.write("state", "a/b/one", b"2").unwrap();
    it.folders.make("state", "a/c", 0o2770).unwrap();
    assert_eq!(it.folders.read("state", "a/b/one").unwrap(), b"2");
    assert_eq!(it.root.join("a/c").metadata().unwrap().permissions().mode() & 0o7777, 0o2770);
    let listed = it.folders.list("state", "a").unwrap();
    assert_eq!(
        listed.iter().map(|entry| (entry.name.as_str(), entry.kind)).collect::<Vec<_>>(),
        [("b", Kind::Folder), ("c", Kind::Folder)]
    );
    it.folders.rename("state", "a/b", "d/e").unwrap();
    assert!(it.folders.exists("state", "d/e/one").unwrap());
    assert!(!it.folders.exists("state", "a/b").unwrap());
    it.folders.remove("state", "d").unwrap();
    it.folders.remove("state", "d").unwrap();
    assert_eq!(code(it.folders.read("state", "d/e/one")), ErrorCode::NotFound);
    assert_eq!(it.folders.path("state", "x/./y").unwrap(), it.root.join("x/y").to_str().unwrap());
    assert_eq!(std::fs::read_dir(it.root.join("a")).unwrap().count(), 1);
}

#[test]
fn nothing_outside_can_be_reached() {
    let it = fixture();
    symlink(&it.outside, it.root.join("absolute")).unwrap();
    symlink("../outside", it.root.join("relative")).unwrap();
    symlink("../outside/secret", it.root.join("file")).unwrap();
    for path in
        ["../outside/secret", "a/../../outside/secret", "/etc/passwd", "absolute/secret", "relative/secret", "file"]
    {
        assert_eq!(code(it.folders.read("state", path)), ErrorCode::Denied, "{path}");
    }
    for path in ["absolute/new", "relative/new", "../new", "/new"] {
        assert_eq!(code(it.folders.write("state", path, b"x")), ErrorCode::Denied, "{path}");
        assert_eq!(code(it.folders.make("state", path, 0o755)), ErrorCode::Denied, "{path}");
    }
    // Replacing a link replaces the link itself.
    it.folders.write("state", "file", b"mine").unwrap();
    for link in ["absolute", "relative"] {
        it.folders.remove("state", link).unwrap();
    }
    assert_eq!(std::fs::read_to_string(it.outside.join("secret")).unwrap(), "secret");
    assert_eq!(std::fs::read_dir(&it.outside).unwrap().count(), 1);
    assert_eq!(code(it.folders.read("other", "x")), ErrorCode::Denied);
    assert_eq!(code(it.folders.remove("state", "")), ErrorCode::Denied);
}

#[test]
fn links_inside_are_followed() {
    let it = fixture();
    it.folders.write("state", "real/file", b"x").unwrap();
    symlink("real", it.root.join("alias")).unwrap();
    assert_eq!(it.folders.read("state", "alias/file").unwrap(), b"x");
}

#[test]
fn what_is_not_a_file_is_not_read() {
    let it = fixture();
    nix::unistd::mkfifo(&it.root.join("pipe"), Mode::S_IRWXU).unwrap();
    assert_eq!(code(it.folders.read("state", "pipe")), ErrorCode::Invalid);
    assert_eq!(code(it.folders.read("state", ".")), ErrorCode::Invalid);
    std::fs::write(it.root.join("large"), vec![0; FILE_BYTES_MAX as usize + 1]).unwrap();
    assert_eq!(code(it.folders.read("state", "large")), ErrorCode::Exhausted);
}

#[test]
fn trees_are_copied_as_they_are_and_measured() {
    let it = fixture();
    it.folders.write("state", "tree/sub/file", &[1; 5000]).unwrap();
    std::fs::hard_link(it.root.join("tree/sub/file"), it.root.join("tree/again")).unwrap();
    symlink("sub/file", it.root.join("tree/link")).unwrap();
    std::fs::set_permissions(it.root.join("tree/sub"), std::fs::Permissions::from_mode(0o2750)).unwrap();
    std::fs::set_permissions(it.root.join("tree/sub/file"), std::fs::Permissions::from_mode(0o4711)).unwrap();

    it.folders.copy("state", "tree", "copy").unwrap();
    let (from, to) = (it.root.join("tree"), it.root.join("copy"));
    for path in ["", "sub", "sub/file", "again"] {
        let (from, to) = (from.join(path).metadata().unwrap(), to.join(path).metadata().unwrap());
        assert_eq!((from.mode(), from.uid(), from.mtime_nsec()), (to.mode(), to.uid(), to.mtime_nsec()), "{path}");
    }
    assert_eq!(std::fs::read_link(to.join("link")).unwrap(), Path::new("sub/file"));
    assert_eq!(code(it.folders.copy("state", "tree", "copy")), ErrorCode::AlreadyExists);
    assert_eq!(code(it.folders.copy("state", "tree", "tree/inside")), ErrorCode::Invalid);

    let size = it.folders.size("state", "tree").unwrap();
    // tree, sub, the file under two names, the link.
    assert_eq!(size.inodes, 4);
    assert!(size.bytes >= 5000);
    let space = it.folders.usage("state").unwrap();
    assert!(space.total_bytes >= space.available_bytes && space.available_bytes > 0);
}
