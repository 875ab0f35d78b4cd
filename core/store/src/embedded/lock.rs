//! One process has a folder: an advisory lock on a file that names its holder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;

use crate::error::StoreError;

/// The file that is locked.
const FILE: &str = "lock";

/// A folder's lock; dropping it gives it up.
pub struct FolderLock {
    file: File,
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing the file wouldn't do: a process that is just being forked elsewhere may still share it.
        let _ = self.file.unlock();
    }
}

impl FolderLock {
    /// Takes the lock, or says who has it.
    pub fn acquire(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let failed = |operation| {
            let path = path.clone();
            move |error| StoreError::from_io(operation, path, error)
        };
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder_pid = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
                return Err(StoreError::Locked { dir: dir.to_owned(), holder_pid });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
        }
        // The name is for people; a disk without room for it can still be read.
        if let Err(error) = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())) {
            tracing::warn!(path = %path.display(), %error, "cannot name the holder of the lock");
        }
        Ok(Self { file })
    }
}

/// Makes a renamed file durable.
pub fn sync_folder(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| StoreError::from_io("sync the folder", dir, error))
}
