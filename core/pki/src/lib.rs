//! Keys, certificates, tokens and kubeconfigs of a cluster.
//!
//! - [`error`]: what can go wrong, naming the file or the object
//! - [`files`]: reading and atomic writing of files that hold secrets
//! - [`authority`]: certificate authorities, and the certificates they sign
//! - [`inspect`]: what a certificate on disk says
//! - [`layout`]: the files of a cluster's PKI under kubeadm's names, made on first start and renewed when due
//! - [`keys`]: the keys of service account tokens, their ids and their JWKS document
//! - [`token`]: service account tokens: claims, signing, verification
//! - [`kubeconfig`]: building, reading and merging kubeconfig files
#![forbid(unsafe_code)]

pub mod authority;
pub mod error;
pub mod files;
pub mod inspect;
pub mod keys;
pub mod kubeconfig;
pub mod layout;
pub mod token;

pub use authority::{Authority, ClientProfile, Identity, ServerProfile};
pub use error::Error;
pub use keys::{ServiceAccountKeys, VerifyingKey};
pub use kubeconfig::Kubeconfig;
pub use layout::{Pki, PkiOptions};
pub use token::{Claims, TokenError};
