//! Pod network, service proxy and cluster DNS.
//!
//! - [`pod_network`]: the pod network as the node agent sees it
//! - [`bridge`]: a pod network of a bridge and veth links
//! - [`error`]: what can go wrong
//! - `nftables`: scripts for the `nft` command
#![forbid(unsafe_code)]

pub mod bridge;
pub mod error;
#[cfg(test)]
mod lab;
mod nftables;
pub mod pod_network;

pub use bridge::{BridgeConfig, BridgeNetwork};
pub use error::NetworkError;
pub use pod_network::{Attachment, HostPort, PodNetwork};
