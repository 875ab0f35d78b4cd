//! The pod network as the node agent sees it.

use std::net::IpAddr;
use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::NetworkError;

/// A port of the node that leads into a pod (`hostPort`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// The node's address to listen at; none: all of them.
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// A sandbox's place in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Path of its network namespace, for setns(2) and an OCI configuration.
    pub netns_path: PathBuf,
    /// Its addresses: one of each family the node has a range of.
    pub ips: Vec<IpAddr>,
}

/// Gives sandboxes a network namespace with an address. What it gave survives the process: another one on the same
/// state folder knows it.
#[async_trait]
pub trait PodNetwork: Send + Sync {
    /// Makes a namespace, an address and the links for a sandbox; again for the same one: what it has.
    async fn attach(&self, sandbox_id: &str, host_ports: &[HostPort]) -> Result<Attachment, NetworkError>;
    /// What a sandbox has.
    async fn get(&self, sandbox_id: &str) -> Result<Option<Attachment>, NetworkError>;
    /// Takes it all back; nothing there is no failure.
    async fn detach(&self, sandbox_id: &str) -> Result<(), NetworkError>;
    /// The sandboxes that have something.
    async fn list(&self) -> Result<Vec<String>, NetworkError>;
}
