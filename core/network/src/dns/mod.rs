//! The cluster's DNS, answered by every node for its own pods.
//!
//! - `question`: what a name asks for
//! - `zone`: answers about names of the cluster
//! - `forward`, `resolv_conf`: other names
//! - `handler`: requests and replies
//! - `registration`: the service `kube-dns`

mod forward;
mod handler;
mod question;
mod registration;
mod resolv_conf;
#[cfg(test)]
mod tests;
mod zone;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gantry_client::{Client, Informer, Informers, ObjectKey};
use hickory_server::Server;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use self::forward::{Forwarder, Resolvers};
use self::handler::Handler;
use self::registration::Registration;
use self::zone::{View, Zone};
use crate::error::NetworkError;
use crate::service_slices::{BY_SERVICE, slices_by_service};

const PORT_DNS: u16 = 53;
/// An idle TCP connection is closed after this.
const TCP_IDLE_MAX: Duration = Duration::from_secs(10);
/// How many answers may wait for a slow TCP client.
const TCP_ANSWERS_MAX: usize = 16;
/// How long to wait before registering is tried again: at first, and at most.
const REGISTER_WAIT_FIRST: Duration = Duration::from_millis(200);
const REGISTER_WAIT_MAX: Duration = Duration::from_secs(10);
/// The cluster may be gone already when the node withdraws.
const WITHDRAW_TIME_MAX: Duration = Duration::from_secs(2);
/// Services by cluster IP, slices by endpoint address.
const BY_IP: &str = "ip";

/// What the DNS server needs to know.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// The node's name.
    pub node_name: String,
    /// The cluster's domain: `cluster.local` unless the operator chose another.
    pub domain: String,
    /// The service's address: the tenth of the service range.
    pub cluster_ip: IpAddr,
    /// Where this node answers: the bridge's addresses.
    pub listen: Vec<IpAddr>,
    /// The port there; 53 for pods.
    pub port: u16,
    /// Who is asked about other names; empty: the node's own resolvers.
    pub resolvers: Vec<SocketAddr>,
    /// The file that names the node's resolvers.
    pub resolv_conf: PathBuf,
}

impl DnsConfig {
    /// A server for `cluster.local` at port 53, with the resolvers of `/etc/resolv.conf`.
    pub fn new(node_name: impl Into<String>, cluster_ip: IpAddr, listen: Vec<IpAddr>) -> Self {
        Self {
            node_name: node_name.into(),
            domain: "cluster.local".to_owned(),
            cluster_ip,
            listen,
            port: PORT_DNS,
            resolvers: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
        }
    }
}

/// The cluster's DNS on a node.
pub struct ClusterDns {
    config: DnsConfig,
    client: Client,
    objects: Arc<Objects>,
}

struct Objects {
    namespaces: Arc<Informer<Namespace>>,
    services: Arc<Informer<Service>>,
    slices: Arc<Informer<EndpointSlice>>,
}

fn service_ips(service: &Service) -> Vec<String> {
    let Some(spec) = &service.spec else { return Vec::new() };
    zone::cluster_ips(spec).filter(|ip| !ip.is_empty() && *ip != "None").cloned().collect()
}

fn slice_ips(slice: &EndpointSlice) -> Vec<String> {
    slice.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect()
}

impl View for Objects {
    fn namespace_exists(&self, name: &str) -> bool {
        self.namespaces.get("", name).is_some()
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(namespace, name)
    }

    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index(BY_SERVICE, &format!("{namespace}/{service}"))
    }

    fn services_by_ip(&self, ip: &str) -> Vec<Arc<Service>> {
        self.services.by_index(BY_IP, ip)
    }

    fn slices_by_ip(&self, ip: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index(BY_IP, ip)
    }
}

impl ClusterDns {
    /// A server that watches through these informers; it does nothing yet.
    pub fn new(informers: &Informers, config: DnsConfig) -> Self {
        let objects = Objects { namespaces: informers.get(), services: informers.get(), slices: informers.get() };
        objects.services.add_index(BY_IP, service_ips);
        objects.slices.add_index(BY_SERVICE, slices_by_service);
        objects.slices.add_index(BY_IP, slice_ips);
        Self { config, client: informers.client().clone(), objects: Arc::new(objects) }
    }

    /// Answers until it is cancelled, and keeps the service `kube-dns` and this node's endpoint in the cluster.
    pub async fn run(&self, cancel: CancellationToken) -> Result<(), NetworkError> {
        let config = &self.config;
        let zone = Zone::new(&config.domain, vec![config.cluster_ip]).ok_or_else(|| NetworkError::Setting {
            setting: format!("cluster domain {:?}", config.domain),
            reason: "is no domain name",
        })?;
        let resolvers = if config.resolvers.is_empty() {
            let own = config.listen.iter().copied().chain([config.cluster_ip]).collect();
            Resolvers::File { path: config.resolv_conf.clone(), own }
        } else {
            Resolvers::Fixed(config.resolvers.clone())
        };
        let handler = Handler { zone, view: self.objects.clone(), forwarder: Forwarder::new(resolvers) };
        let mut server = Server::new(handler);
        for ip in &config.listen {
            let address = SocketAddr::new(*ip, config.port);
            let udp = UdpSocket::bind(address).await.map_err(NetworkError::system("listen by UDP at", address))?;
            let tcp = TcpListener::bind(address).await.map_err(NetworkError::system("listen by TCP at", address))?;
            server.register_socket(udp);
            server.register_listener(tcp, TCP_IDLE_MAX, TCP_ANSWERS_MAX);
        }
        let registration = Registration {
            node: config.node_name.clone(),
            cluster_ip: config.cluster_ip,
            listen: config.listen.clone(),
        };
        let served = tokio::select! {
            () = cancel.cancelled() => Ok(()),
            () = self.stay_registered(&registration) => Ok(()),
            ended = server.block_until_done() => ended,
        };
        if let Ok(Err(error)) = tokio::time::timeout(WITHDRAW_TIME_MAX, registration.withdraw(&self.client)).await {
            tracing::debug!(%error, "endpoint of the cluster DNS not withdrawn");
        }
        let stopped = server.shutdown_gracefully().await;
        served.and(stopped).map_err(|error| NetworkError::System {
            operation: "serve",
            object: "the cluster DNS".to_owned(),
            source: std::io::Error::other(error),
        })
    }

    /// Registers once everything is known, and again whenever the node's slice or the service changes or goes.
    async fn stay_registered(&self, registration: &Registration) {
        let objects = &self.objects;
        tokio::join!(objects.namespaces.synced(), objects.services.synced(), objects.slices.synced());
        let mut slices = objects.slices.subscribe();
        let mut services = objects.services.subscribe();
        let slice_name = registration.slice_name();
        loop {
            let mut wait = REGISTER_WAIT_FIRST;
            while let Err(error) = registration.register(&self.client).await {
                tracing::warn!(%error, "cluster DNS not registered; trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(REGISTER_WAIT_MAX);
            }
            let mut touched = false;
            while !touched {
                let (changed, ours) = tokio::select! {
                    change = slices.next() => (ObjectKey::of(&**change.object()), slice_name.as_str()),
                    change = services.next() => (ObjectKey::of(&**change.object()), registration::SERVICE),
                };
                touched = changed.namespace == registration::NAMESPACE && changed.name == ours;
            }
        }
    }
}
