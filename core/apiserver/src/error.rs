//! Why a server can't start or go on.

use gantry_api::error::ApiError;
use gantry_store::StoreError;

use crate::auth::AuthError;

/// An error of the API server itself (not of a request).
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
