//! What can go wrong with keys and certificates.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error("can't read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file or folder can't be written.
    #[error("can't write {path}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate or key can't be made or signed.
    #[error("can't make {what}")]
    Make {
        /// Which one.
        what: String,
        /// Why.
        source: rcgen::Error,
    },
    /// A certificate, key or kubeconfig makes no sense.
    #[error("{what} is not valid: {reason}")]
    Invalid {
        /// Which one.
        what: String,
        /// Why.
        reason: String,
    },
}

impl Error {
    /// Something that was read makes no sense.
    pub fn invalid(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Invalid { what: what.into(), reason: reason.to_string() }
    }
}
