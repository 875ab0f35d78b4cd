//! Images: what pod workers need of them, and the store that gives it.
//!
//! - `store`: [`ImageStore`], the images on disk
//! - `registry`: fetching over the distribution protocol
//! - `archive`: importing files
//! - `manifest`, `reference`: documents and names, pure
//! - `unpack`: a layer as overlayfs wants it
//! - [`snapshots`]: which unpacked layers a root filesystem stands on
//!
//! Invariant: what the index names is whole on disk.

mod archive;
mod manifest;
mod reference;
mod registry;
pub mod snapshots;
mod store;
mod unpack;

use async_trait::async_trait;

pub use gantry_plugin_host::contract::runtime::Image as ImageConfig;

pub use self::store::{ImageStore, ImageStoreOptions, Progress, Step};

/// What to show a registry; from an image pull secret.
#[derive(Clone)]
pub struct RegistryCredentials {
    /// Host with port, and perhaps the beginning of a path, as in a `.dockerconfigjson`.
    pub registry: String,
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

/// An image of this node, unpacked.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Digest of its configuration (`sha256:…`).
    pub id: String,
    /// Names with a tag, fully qualified.
    pub tags: Vec<String>,
    /// Names with a digest, fully qualified.
    pub digests: Vec<String>,
    /// Bytes of its layers, unpacked.
    pub size_bytes: u64,
    /// What it says about how to run it; `reference` is the name that was asked for.
    pub config: ImageConfig,
}

/// Why there is no image.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ImageError {
    /// The name isn't one (`InvalidImageName`).
    #[error("couldn't parse image name {reference:?}: {reason}")]
    InvalidName {
        /// As given.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry has no such image, or refuses to say so (`ErrImagePull`).
    #[error("failed to pull and unpack image {reference:?}: {reason}")]
    Refused {
        /// The image.
        reference: String,
        /// The registry's words.
        reason: String,
    },
    /// The registry can't be reached or breaks off (`ErrImagePull`, worth another try).
    #[error("failed to pull and unpack image {reference:?}: {reason}")]
    Unreachable {
        /// The image.
        reference: String,
        /// Why.
        reason: String,
    },
    /// The image can't be stored or isn't sound.
    #[error("failed to store image {reference:?}: {reason}")]
    Store {
        /// The image.
        reference: String,
        /// Why.
        reason: String,
    },
}

/// The images of a node.
#[async_trait]
pub trait Images: Send + Sync {
    /// An image by any of its names or its id; none when it isn't here.
    async fn get(&self, reference: &str) -> Result<Option<Image>, ImageError>;
    /// Pulls an image, with each of the credentials that fit its registry, then without. Pulls of the same image share
    /// the work.
    async fn pull(&self, reference: &str, credentials: &[RegistryCredentials]) -> Result<Image, ImageError>;
    /// All images.
    async fn list(&self) -> Result<Vec<Image>, ImageError>;
    /// Forgets a name, and the image with its last name.
    async fn remove(&self, reference: &str) -> Result<(), ImageError>;
}
