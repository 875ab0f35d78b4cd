//! What a server needs to know to start.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

/// The configuration of an API server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where others reach it.
    pub advertise_address: IpAddr,
    /// The port it listens at, for discovery and the service `kubernetes`.
    pub port: u16,
    /// The network that services get their addresses from.
    pub service_cidr: IpNet,
    /// A token file in kube-apiserver's format.
    pub token_auth_file: Option<PathBuf>,
    /// Whether requests without credentials are let in as `system:anonymous`.
    pub anonymous: bool,
    /// The issuer of service account tokens, which is also their default audience.
    pub service_account_issuer: String,
    /// Whether others write the store, too: several API servers over one etcd.
    pub shared_store: bool,
    /// Whether this is a whole cluster, so that what an installer adds (the config map `cluster-info`) is made, too.
    pub cluster: bool,
}

impl Config {
    /// The defaults for a server that is reached at an address and port.
    pub fn new(advertise_address: IpAddr, port: u16, service_cidr: IpNet) -> Self {
        Self {
            advertise_address,
            port,
            service_cidr,
            token_auth_file: None,
            anonymous: true,
            service_account_issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            shared_store: false,
            cluster: false,
        }
    }

    /// The first address of the service network: that of the service `kubernetes`.
    pub fn service_address(&self) -> IpAddr {
        self.service_cidr.hosts().next().unwrap_or_else(|| self.service_cidr.network())
    }
}
