//! hostPath volumes: the checks that a type asks for.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

/// Makes what may be made and checks the rest.
///
/// # Errors
/// Upstream's message.
pub fn prepare(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    let failed = |error: io::Error| format!("hostPath {shown}: {error}");
    match (kind, fs::metadata(path)) {
        (_, Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        // Runtimes make a source that is missing.
        ("", Err(_)) => fs::create_dir_all(path).map_err(failed),
        ("", Ok(_)) => Ok(()),
        ("DirectoryOrCreate", Err(_)) => make_folder(path).map_err(failed),
        ("FileOrCreate", Err(_)) => fs::write(path, "")
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o644)))
            .map_err(failed),
        (kind, found) => {
            let kind_of = |check: fn(&fs::FileType) -> bool| found.as_ref().is_ok_and(|meta| check(&meta.file_type()));
            let (fits, noun) = match kind {
                "Directory" | "DirectoryOrCreate" => (kind_of(fs::FileType::is_dir), "a directory"),
                "File" | "FileOrCreate" => (kind_of(fs::FileType::is_file), "a file"),
                "Socket" => (kind_of(FileTypeExt::is_socket), "a socket file"),
                "CharDevice" => (kind_of(FileTypeExt::is_char_device), "a character device"),
                "BlockDevice" => (kind_of(FileTypeExt::is_block_device), "a block device"),
                other => return Err(format!("{other} is an invalid volume type")),
            };
            if fits { Ok(()) } else { Err(format!("hostPath type check failed: {shown} is not {noun}")) }
        }
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_made() {
        let root = tempfile::tempdir().expect("a folder");
        let (file, folder) = (root.path().join("f"), root.path().join("d"));
        assert!(prepare(&file, "File").is_err());
        assert_eq!(prepare(&file, "FileOrCreate"), Ok(()));
        assert_eq!(prepare(&file, "File"), Ok(()));
        assert_eq!(
            prepare(&file, "Directory"),
            Err(format!("hostPath type check failed: {} is not a directory", file.display()))
        );
        assert_eq!(prepare(&folder, "DirectoryOrCreate"), Ok(()));
        assert_eq!(prepare(&folder, "Directory"), Ok(()));
        assert!(prepare(&folder, "Socket").is_err());
        assert_eq!(prepare(&root.path().join("x/y"), ""), Ok(()));
        assert_eq!(prepare(Path::new("/dev/null"), "CharDevice"), Ok(()));
    }
}
