//! Why a server can't start or go on.

use std::net::SocketAddr;
use std::path::PathBuf;

use gantry_api::error::ApiError;
use gantry_store::StoreError;

use crate::auth::AuthError;

/// An error of the API server itself (not of a request).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder of a server can't be made.
    #[error("cannot make the folder {}: {source}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The store can't be opened.
    #[error(transparent)]
    Store(StoreError),
    /// Keys or certificates can't be read or made.
    #[error(transparent)]
    Pki(#[from] gantry_pki::Error),
    /// The address can't be listened at.
    #[error("cannot listen at {}", listen_text(*.address, .holder.as_deref(), .reason))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Who has it, if it is in use and that could be found out.
        holder: Option<String>,
        /// The system's error.
        reason: std::io::Error,
    },
    /// The store can't be read.
    #[error("cannot load the objects from the store")]
    Load(#[source] StoreError),
    /// An authenticator can't be set up.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// Keys or certificates make no sense.
    #[error("the {what} of the API server cannot be used: {reason}")]
    Tls {
        /// Which.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The objects of the start can't be written.
    #[error("cannot write the objects that must exist")]
    Bootstrap(#[source] ApiError),
}

fn listen_text(address: SocketAddr, holder: Option<&str>, error: &std::io::Error) -> String {
    match holder {
        Some(holder) => format!("{address}: the port is in use by {holder}"),
        None => format!("{address}: {error}"),
    }
}
