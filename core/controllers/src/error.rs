//! What can go wrong in a reconcile.

use std::fmt::Display;

/// A failed reconcile; it is tried again with back-off.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The API server refused a request or couldn't be reached.
    #[error("{operation} {object}: {source}")]
    Api {
        /// What was being done.
        operation: &'static str,
        /// To what.
        object: String,
        /// The API server's word.
        #[source]
        source: Box<kube::Error>,
    },
    /// Something has to come first; said as people will read it.
    #[error("{0}")]
    NotYet(String),
}

impl ControllerError {
    /// Wraps a client's error: `.map_err(ControllerError::api("create pod", &key))`.
    pub fn api(operation: &'static str, object: impl Display) -> impl FnOnce(kube::Error) -> Self {
        let object = object.to_string();
        move |source| Self::Api { operation, object, source: Box::new(source) }
    }

    /// The HTTP status of the API server's answer, if it gave one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => status(source),
            Self::NotYet(_) => None,
        }
    }

    /// Whether somebody else changed the object in between: usual, and cured by another try.
    pub fn is_conflict(&self) -> bool {
        self.status() == Some(409)
    }
}

/// The HTTP status of an error answer.
pub fn status(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Turns "not found" into `None`.
pub fn found<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}
