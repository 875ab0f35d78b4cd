//! Pod network, service proxy and cluster DNS.
//!
//! - [`pod_network`]: the pod network as the node agent sees it
//! - [`error`]: [`NetworkError`]

pub mod error;
pub mod pod_network;

pub use error::NetworkError;
pub use pod_network::{Attachment, HostPort, PodNetwork};
