//! What the node agent is told about its node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use gantry_client::{Client, EventRecorder};
use gantry_network::PodNetwork;
use gantry_plugin_host::capability::Rootfs;
use gantry_plugin_host::{Runtime, VolumeDriver};
use k8s_openapi::api::core::v1::Taint;

use crate::container_io::ContainerIo;
use crate::images::Images;

/// The runtime of pods that name no RuntimeClass.
pub const DEFAULT_RUNTIME: &str = "oci";

/// When the node is short of something (upstream's `evictionHard`, with its defaults).
#[derive(Clone, Debug, PartialEq)]
pub struct EvictionThresholds {
    /// Memory that must stay available.
    pub memory_available_bytes: u64,
    /// Share of the file system with volumes and logs that must stay free, in percent.
    pub node_fs_available_percent: u64,
    /// Share of its inodes.
    pub node_fs_inodes_free_percent: u64,
    /// Process ids that must stay free, in percent of the kernel's maximum.
    pub pid_available_percent: u64,
}

impl Default for EvictionThresholds {
    fn default() -> Self {
        Self {
            memory_available_bytes: 100 << 20,
            node_fs_available_percent: 10,
            node_fs_inodes_free_percent: 5,
            pid_available_percent: 0,
        }
    }
}

/// The node agent's configuration.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Name of the Node object.
    pub node_name: String,
    /// Host name to show; usually the same.
    pub hostname: String,
    /// Addresses of the node; the first of each family is its own in `hostIPs`.
    pub addresses: Vec<IpAddr>,
    /// Port of the agent's HTTP server.
    pub port: u16,
    /// Folder of volumes and other state of pods.
    pub root_dir: PathBuf,
    /// Folder of the pods' logs; upstream's is `/var/log/pods`.
    pub log_dir: PathBuf,
    /// Folder of links to the containers' logs by pod, namespace and container, which log collectors look for; upstream's
    /// is `/var/log/containers`.
    pub container_log_dir: Option<PathBuf>,
    /// Folder with manifests of static pods.
    pub static_pod_dir: Option<PathBuf>,
    /// Addresses of the cluster's DNS service.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain (`cluster.local`).
    pub cluster_domain: String,
    /// The node's resolver configuration.
    pub resolv_conf: PathBuf,
    /// How many pods may run here.
    pub max_pods: u32,
    /// How many processes a pod may have; none: no limit.
    pub pod_pids_limit: Option<i64>,
    /// What of the node's resources is not for pods: resource name to quantity.
    pub reserved: BTreeMap<String, String>,
    /// When the node is short of something.
    pub eviction: EvictionThresholds,
    /// Labels that the Node gets besides the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Taints that the Node gets when it is first registered.
    pub taints: Vec<Taint>,
    /// `spec.providerID`.
    pub provider_id: Option<String>,
    /// Whether the agent makes cgroups for pods (upstream's `cgroupsPerQOS`).
    pub manage_cgroups: bool,
    /// The cgroup below which pods' cgroups are made, relative to the root of the hierarchy.
    pub cgroup_root: String,
    /// Whether pods that say nothing get the runtime's seccomp profile (upstream's `seccompDefault`, off by default).
    pub seccomp_default: bool,
    /// What `nodeInfo.containerRuntimeVersion` says.
    pub runtime_version: String,
    /// Sysctls beyond the safe ones that pods may set; a trailing `*` matches any rest.
    pub allowed_unsafe_sysctls: Vec<String>,
}

impl AgentConfig {
    /// Upstream's defaults for a node whose state is in `root_dir`.
    pub fn new(node_name: impl Into<String>, root_dir: impl Into<PathBuf>) -> Self {
        let node_name = node_name.into();
        let root_dir = root_dir.into();
        Self {
            hostname: node_name.clone(),
            node_name,
            addresses: Vec::new(),
            port: 10250,
            log_dir: root_dir.join("logs"),
            root_dir,
            container_log_dir: None,
            static_pod_dir: None,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            max_pods: 110,
            pod_pids_limit: None,
            reserved: BTreeMap::new(),
            eviction: EvictionThresholds::default(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            provider_id: None,
            manage_cgroups: true,
            cgroup_root: String::new(),
            seccomp_default: false,
            runtime_version: format!("gantry://{}", env!("CARGO_PKG_VERSION")),
            allowed_unsafe_sysctls: Vec::new(),
        }
    }
}

/// What the agent works with.
#[derive(Clone)]
pub struct AgentParts {
    /// The cluster.
    pub client: Client,
    /// The cluster as the provisioner of volumes sees it: a node itself may neither list claims nor make volumes.
    pub storage_client: Client,
    /// The node's images.
    pub images: Arc<dyn Images>,
    /// Exits and streams of containers.
    pub io: Arc<dyn ContainerIo>,
    /// Root filesystems of images, for volumes of the kind `image`; none: such volumes fail.
    pub rootfs: Option<Arc<dyn Rootfs>>,
    /// The pod network.
    pub network: Arc<dyn PodNetwork>,
    /// Runtimes by the handler that a RuntimeClass names; [`DEFAULT_RUNTIME`] is for pods without one.
    pub runtimes: BTreeMap<String, Arc<dyn Runtime>>,
    /// Volume drivers by name.
    pub volume_drivers: BTreeMap<String, Arc<dyn VolumeDriver>>,
    /// Where events go; its component is `kubelet`, as clients look for that name.
    pub recorder: EventRecorder,
}
