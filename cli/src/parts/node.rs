//! Agent, runtime, images, network, proxy and DNS of a machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use gantry_client::{Client, EventRecorder, Informer, Informers};
use gantry_network::{
    BridgeConfig, BridgeNetwork, ClusterDns, DeferredNetwork, DnsConfig, PodNetwork, ProxyConfig, ServiceProxy,
};
use gantry_node::config::{AgentConfig, AgentParts};
use gantry_node::container_io::ContainerIo;
use gantry_node::images::{ImageStore, ImageStoreOptions};
use gantry_node::mechanism::{Mechanism, MechanismOptions};
use gantry_node::{AgentView, NodeAgent};
use gantry_pki::Pki;
use gantry_plugin_host::PluginHost;
use gantry_plugin_host::contract::runtime::HostFacts;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::access::Access;
use super::settings::Settings;

/// The runtime and the volume driver in the box.
const RUNTIMES: &[&str] = &["oci"];
const VOLUME_DRIVERS: &[&str] = &["local-path"];

/// The cgroup of all pods: one of our own, so that a kubelet on the same machine keeps its own.
const CGROUP_ROOT: &str = "gantry";

/// The folders of a node.
#[derive(Clone, Debug)]
pub struct Folders {
    /// Everything.
    pub data: PathBuf,
}

impl Folders {
    fn agent(&self) -> PathBuf {
        self.data.join("agent")
    }

    /// Unpacked images.
    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }

    fn network(&self) -> PathBuf {
        self.data.join("network")
    }
}

/// A running node.
pub struct NodeParts {
    name: String,
    node: Arc<Informer<Node>>,
    view: Arc<dyn AgentView>,
    mechanism: Mechanism,
    agent: JoinHandle<()>,
    agent_stop: CancellationToken,
    folders: Folders,
}

/// The address of the default route's link: where the other machines find this one.
pub fn own_address() -> Result<IpAddr> {
    // Nothing is sent: connecting a datagram socket only chooses a source.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    socket
        .connect("192.0.2.1:9")
        .context("find this machine's address: it has no default route; set node-ip in the configuration")?;
    Ok(socket.local_addr().context("read this machine's address")?.ip())
}

/// Starts the agent of this machine.
pub async fn start_agent(
    access: &Access,
    settings: &Settings,
    plugins: &Arc<PluginHost>,
    folders: Folders,
    network: DeferredNetwork,
) -> Result<NodeParts> {
    let name = settings.node_name()?;
    let address = settings.node_ip.map_or_else(own_address, Ok)?;
    let images_folder = folders.images();
    let image_options = ImageStoreOptions {
        mirrors: settings.registry_mirrors.clone(),
        plain_http: settings.plain_http_registries.clone(),
    };
    let images = ImageStore::open(&images_folder, image_options)
        .with_context(|| format!("open the images in {}", images_folder.display()))?;
    let mechanism =
        Mechanism::open(folders.containers(), MechanismOptions::new(&images_folder)).await.map_err(|error| {
            anyhow::anyhow!("open the containers in {}: {}", folders.containers().display(), error.message)
        })?;
    let facts: HostFacts = mechanism.host_facts();
    let mut runtimes = BTreeMap::new();
    for runtime in RUNTIMES {
        let made = plugins.runtime(runtime, "", facts.clone(), Arc::new(mechanism.clone())).await;
        runtimes.insert((*runtime).to_owned(), made.with_context(|| format!("start runtime {runtime}"))?);
    }
    let mut volume_drivers = BTreeMap::new();
    for driver in VOLUME_DRIVERS {
        let made = plugins.volume_driver(driver, "", &name, Arc::new(mechanism.clone())).await;
        volume_drivers.insert((*driver).to_owned(), made.with_context(|| format!("start volume driver {driver}"))?);
    }
    let client = access.node(&name);
    let mut config = AgentConfig::new(&name, folders.agent());
    config.addresses = vec![address];
    config.cgroup_root = CGROUP_ROOT.to_owned();
    config.port = settings.agent_port;
    config.cluster_dns = vec![settings.dns_address()];
    config.cluster_domain = settings.cluster_domain.clone();
    config.labels = settings.node_labels.clone();
    config.max_pods = settings.max_pods;
    config.eviction.node_fs_available_percent = settings.min_free_disk_percent;
    let parts = AgentParts {
        client: client.clone(),
        storage_client: access.service_account("volume-provisioner"),
        images: Arc::new(images.clone()),
        io: Arc::new(mechanism.clone()),
        rootfs: Some(Arc::new(mechanism.clone())),
        network: Arc::new(network),
        runtimes,
        volume_drivers,
        recorder: EventRecorder::new(client.clone(), "kubelet", &name),
    };
    let agent = NodeAgent::new(config, parts).context("start the node agent")?;
    let view = agent.view();
    let node = Informers::new(client).with_fields(format!("metadata.name={name}"));
    let agent_stop = CancellationToken::new();
    let agent = tokio::spawn(agent.run(agent_stop.clone()));
    Ok(NodeParts { name, node, view, mechanism, agent, agent_stop, folders })
}

impl NodeParts {
    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until the node has its pod ranges.
    pub async fn pod_ranges(&self) -> Vec<IpNet> {
        let ranges = |node: &Node| -> Vec<IpNet> {
            let spec = node.spec.as_ref();
            spec.iter()
                .flat_map(|spec| spec.pod_cidrs.iter().flatten())
                .filter_map(|range| range.parse().ok())
                .collect()
        };
        self.wait_for(|node| Some(ranges(node)).filter(|ranges| !ranges.is_empty())).await
    }

    /// Waits until the node says that it is ready.
    pub async fn ready(&self) {
        let ready = |node: &Node| {
            let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
            let ready = conditions.into_iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True");
            ready.then_some(())
        };
        self.wait_for(ready).await;
    }

    async fn wait_for<T>(&self, test: impl Fn(&Node) -> Option<T>) -> T {
        let mut changes = self.node.subscribe();
        loop {
            if let Some(found) = self.node.get("", &self.name).and_then(|node| test(&node)) {
                return found;
            }
            changes.next().await;
        }
    }

    /// Stops the agent; containers go on.
    pub async fn stop_agent(&mut self) {
        self.agent_stop.cancel();
        // Its work ends with it, whatever it was at.
        let _ = (&mut self.agent).await;
    }

    /// Ends all containers and takes away what they were given: processes, mounts, cgroups.
    pub async fn remove_everything(&self) -> Result<()> {
        self.mechanism
            .remove_all()
            .await
            .map_err(|error| anyhow::anyhow!("remove the containers of this node: {}", error.message))?;
        gantry_node::remove_leftovers(&self.folders.data, &self.folders.agent(), CGROUP_ROOT)
            .context("remove what the agent's pods left")
    }
}

/// Starts the agent's server, which the API server hands logs, exec and attach on to. Only the API server is let in:
/// users' certificates come from the same authority, and whoever gets here may run anything in any pod.
pub async fn start_agent_server(
    parts: &NodeParts,
    settings: &Settings,
    pki: &Pki,
    tasks: &mut JoinSet<()>,
    stop: CancellationToken,
) -> Result<()> {
    let tls = agent_tls(pki).context("the certificates of the node agent")?;
    let address = SocketAddr::from(([0, 0, 0, 0], settings.agent_port));
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("listen at {address} for the node agent"))?;
    let io: Arc<dyn ContainerIo> = Arc::new(parts.mechanism.clone());
    tasks.spawn(gantry_node::server::serve(listener, Arc::new(tls), parts.view.clone(), io, stop));
    Ok(())
}

fn agent_tls(pki: &Pki) -> Result<ServerConfig> {
    let chain =
        CertificateDer::pem_slice_iter(pki.kubelet.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(pki.kubelet.key_pem.as_bytes())?;
    let mut authorities = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(pki.ca.certificate_pem().as_bytes()) {
        authorities.add(authority?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider.clone()).build()?;
    let client = CertificateDer::pem_slice_iter(pki.apiserver_kubelet_client.certificate_pem.as_bytes());
    let client = client.into_iter().next().context("the API server's certificate for node agents is empty")??;
    let verifier = Arc::new(OnlyApiServer { verifier, client });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Opens the pod network of a node that has its ranges.
pub async fn open_network(
    settings: &Settings,
    folders: &Folders,
    ranges: Vec<IpNet>,
    deferred: &DeferredNetwork,
) -> Result<Arc<BridgeNetwork>> {
    let mut config = BridgeConfig::new(folders.network(), ranges, settings.cluster_cidrs.clone());
    config.bridge = settings.bridge.clone();
    let network = Arc::new(BridgeNetwork::open(config).await.context("open the pod network")?);
    let shared: Arc<dyn PodNetwork> = network.clone();
    deferred.set(shared);
    Ok(network)
}

/// Starts the service proxy. It removes its rules when it is stopped.
pub async fn start_proxy(
    client: Client,
    settings: &Settings,
    node_name: &str,
    tasks: &mut JoinSet<()>,
    stop: CancellationToken,
) -> Result<()> {
    let address = settings.node_ip.map_or_else(own_address, Ok)?;
    let config =
        ProxyConfig::new(node_name, vec![address], settings.cluster_cidrs.clone(), vec![settings.service_cidr]);
    let proxy = ServiceProxy::new(&Informers::new(client), config);
    let mut synced = proxy.synced();
    tasks.spawn(async move {
        if let Err(error) = proxy.run(stop).await {
            tracing::error!(%error, "the service proxy has ended");
        }
    });
    // One that can't work says so in the log, and goes on trying.
    let _ = tokio::time::timeout(Duration::from_secs(10), synced.wait_for(|synced| *synced)).await;
    Ok(())
}

/// Starts the cluster's DNS on this node.
pub fn start_dns(
    client: Client,
    settings: &Settings,
    node_name: &str,
    network: &BridgeNetwork,
    tasks: &mut JoinSet<()>,
    stop: CancellationToken,
) {
    let mut config = DnsConfig::new(node_name, settings.dns_address(), network.gateways());
    config.domain = settings.cluster_domain.clone();
    let dns = ClusterDns::new(&Informers::new(client), config);
    tasks.spawn(async move {
        if let Err(error) = dns.run(stop).await {
            tracing::error!(%error, "the cluster's DNS has ended");
        }
    });
}

/// The folder of everything, absolute.
pub fn data_folder(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("find {}", path.display()))
}

/// Lets one client in, by its certificate.
#[derive(Debug)]
struct OnlyApiServer {
    verifier: Arc<dyn ClientCertVerifier>,
    client: CertificateDer<'static>,
}

impl ClientCertVerifier for OnlyApiServer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if end_entity.as_ref() != self.client.as_ref() {
            return Err(rustls::Error::General("the node agent serves only the API server".to_owned()));
        }
        self.verifier.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
