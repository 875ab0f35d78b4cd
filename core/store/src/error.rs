//! What can go wrong in a store, whichever engine it is.
//!
//! One commit serves many waiting transactions, so that its failure is told to many: errors are
//! cheap to clone, sources are shared.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// An error of the state store.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The revision asked for has been compacted away. For a watch it ends the stream: list again,
    /// then watch from the revision of that list.
    #[error("revision {requested} of the store has been compacted: the oldest that is left is {compact_revision}")]
    Compacted {
        /// What was asked for (0 when the engine can't tell).
        requested: i64,
        /// The oldest revision that can be read (0 when the engine can't tell).
        compact_revision: i64,
    },
    /// The revision asked for doesn't exist yet.
    #[error("revision {requested} of the store is in the future: the current one is {current}")]
    FutureRevision {
        /// What was asked for (0 when the engine can't tell).
        requested: i64,
        /// The store's revision (0 when the engine can't tell).
        current: i64,
    },
    /// The request contradicts itself: an empty key, a key written twice in one transaction.
    #[error("request to the store refused: {0}")]
    InvalidRequest(String),
    /// A key, value or transaction over its limit.
    #[error("{what} of {size_bytes} bytes is over the store's limit of {limit_bytes} bytes")]
    TooLarge {
        /// The thing that is too large.
        what: &'static str,
        /// Its size.
        size_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The watcher didn't read fast enough and its buffer is full. The stream ends: watch again from
    /// the revision after the last one seen.
    #[error("watch of {range} fell behind: {buffered} batches were waiting to be read")]
    WatchLagged {
        /// The keys that are watched.
        range: String,
        /// The length of the full buffer.
        buffered: usize,
    },
    /// Another process (or another store in this one) has the folder.
    #[error("store folder {} is in use by {}", dir.display(), holder_text(*.holder_pid))]
    Locked {
        /// The folder.
        dir: PathBuf,
        /// The process id of the holder, if it could be read.
        holder_pid: Option<u32>,
    },
    /// The disk (or a quota on it) is full. Nothing was changed; writes work again when there is space.
    #[error("no space left for the store in {} to {operation}: {source}", path.display())]
    NoSpace {
        /// What was being done.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The system refused an operation on a file.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The file isn't what this engine wrote.
    #[error("store file {} is corrupt: {detail}; restore it from a snapshot", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A snapshot isn't whole or isn't one.
    #[error("snapshot is not usable: {0}")]
    BadSnapshot(String),
    /// The store was closed while the request waited, or before.
    #[error("store is closed")]
    Closed,
    /// The store can't be reached, or gave no answer in time. Whether a write happened is unknown.
    #[error("cannot {operation} in etcd at {endpoints}: {detail}")]
    Unavailable {
        /// What was being done.
        operation: &'static str,
        /// The endpoints that were tried.
        endpoints: String,
        /// The client's error.
        detail: String,
    },
    /// The store answered with an error that has no variant of its own here.
    #[error("etcd refused to {operation}: {detail}")]
    Etcd {
        /// What was being done.
        operation: &'static str,
        /// The server's answer.
        detail: String,
    },
}

fn holder_text(pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

impl StoreError {
    /// An I/O error in its variant: [`StoreError::NoSpace`] for a full disk, [`StoreError::Io`] otherwise.
    pub fn from_io(operation: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        let full = matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        let source = Arc::new(source);
        if full { StoreError::NoSpace { operation, path, source } } else { StoreError::Io { operation, path, source } }
    }

    /// Whether the revision asked for has been compacted away.
    pub fn is_compacted(&self) -> bool {
        matches!(self, StoreError::Compacted { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let locked = StoreError::Locked { dir: "/d".into(), holder_pid: Some(7) };
        assert_eq!(locked.to_string(), "store folder /d is in use by process 7");
        let full = StoreError::from_io("commit", "/d/f", io::Error::from(io::ErrorKind::StorageFull));
        assert!(matches!(full, StoreError::NoSpace { .. }), "{full:?}");
        let refused = StoreError::from_io("open", "/d/f", io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(refused.to_string(), "cannot open /d/f: permission denied");
    }
}
