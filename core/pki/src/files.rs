//! Reading and atomic writing of files that hold secrets.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::error::Error;

/// The mode of private keys and kubeconfigs.
pub const SECRET: u32 = 0o600;
/// The mode of certificates and public keys.
pub const PUBLIC: u32 = 0o644;

/// The text of a file, `None` when there is no such file.
pub fn read_if_exists(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

/// Makes a folder that only its owner enters, with its parents.
pub fn make_folder(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// Writes a file as a whole or not at all: a reader sees the old text or the new one, and no one ever sees a secret
/// with a wider mode than `mode`.
pub fn write_atomically(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|error| {
        // The half-written file is of no use; the error that matters is the first one.
        let _ = fs::remove_file(&new);
        failed(error)
    })
}
