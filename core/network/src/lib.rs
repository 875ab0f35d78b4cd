//! Pod network, service proxy and cluster DNS.
//!
//! - [`pod_network`]: the pod network as the node agent sees it
//! - [`bridge`]: a pod network of a bridge and veth links
//! - [`deferred`]: a pod network that comes later
//! - [`routes`]: routes to the pods of other nodes
//! - [`proxy`]: services as nftables rules
//! - [`dns`]: the cluster's DNS
//! - [`error`]: what can go wrong
//! - `conntrack`: forgetting UDP flows
//! - `nftables`: scripts for the `nft` command
//! - `service_slices`: which service an EndpointSlice belongs to
#![forbid(unsafe_code)]

pub mod bridge;
mod conntrack;
pub mod deferred;
pub mod dns;
pub mod error;
#[cfg(test)]
mod lab;
mod nftables;
pub mod pod_network;
pub mod proxy;
pub mod routes;
mod service_slices;
#[cfg(test)]
mod whole_node_tests;

pub use bridge::{BridgeConfig, BridgeNetwork};
pub use deferred::DeferredNetwork;
pub use dns::{ClusterDns, DnsConfig};
pub use error::NetworkError;
pub use pod_network::{Attachment, HostPort, PodNetwork};
pub use proxy::{ProxyConfig, ServiceProxy};
pub use routes::{PodRoutes, RoutesConfig};
