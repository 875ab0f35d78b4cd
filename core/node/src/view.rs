//! The agent as its HTTP server sees it: which pods there are, and where their containers, logs and runtimes are.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use gantry_plugin_host::contract::runtime::ContainerState;
use gantry_plugin_host::{PluginError, Runtime};
use k8s_openapi::api::core::v1::Pod;

/// A container of a pod.
#[derive(Clone)]
pub struct ContainerLocation {
    /// The pod's uid.
    pub pod_uid: String,
    /// The sandbox it is in.
    pub sandbox_id: String,
    /// Its id, for [`ContainerIo`](crate::container_io::ContainerIo) and the runtime.
    pub container_id: String,
    /// What runs it.
    pub runtime: Arc<dyn Runtime>,
    /// What it does.
    pub state: ContainerState,
    /// How often the container had been started before.
    pub attempt: u32,
    /// Its log file, in CRI's format; older parts of it are beside it.
    pub log_path: Option<PathBuf>,
}

/// Why the view has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// No such pod on this node.
    #[error("pod {name:?} in namespace {namespace:?} not found on this node")]
    PodNotFound {
        /// Namespace asked for.
        namespace: String,
        /// Name asked for.
        name: String,
    },
    /// The pod has no such container.
    #[error("container {container:?} in pod {pod:?} is not available")]
    ContainerNotFound {
        /// The pod.
        pod: String,
        /// The container asked for.
        container: String,
    },
    /// The pod has it, but it has not been created, or the instance asked for is gone.
    #[error("{what} container {container:?} in pod {pod:?} not found")]
    NotStarted {
        /// `current terminated`, `previous terminated` and the like.
        what: &'static str,
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// The runtime does not say how to run a command in it.
    #[error("run a command in container {container:?} of pod {pod:?}: {source}")]
    Runtime {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
        /// Its word.
        #[source]
        source: Box<PluginError>,
    },
}

/// Where a pod's volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeLocation {
    /// The volume's name in the pod.
    pub name: String,
    /// Its folder on the node.
    pub path: PathBuf,
    /// Name of the claim, in the pod's namespace.
    pub claim: Option<String>,
}

/// What the agent's server may ask. Reads are of what the agent knows and wait for nothing.
#[async_trait]
pub trait AgentView: Send + Sync {
    /// The node's name.
    fn node_name(&self) -> &str;
    /// The node's pods, with the status that the agent last found (`/pods`).
    fn pods(&self) -> Vec<Arc<Pod>>;
    /// A pod by namespace and name.
    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>>;
    /// The newest instance of a container, or with `previous` the one before it.
    fn container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        previous: bool,
    ) -> Result<ContainerLocation, ViewError>;
    /// The path of a network namespace to reach a pod's ports in; none when it is the node's own.
    fn network_namespace(&self, namespace: &str, pod: &str) -> Result<Option<PathBuf>, ViewError>;
    /// The text of an OCI `process` object that runs a command in a container, and the container's id.
    async fn exec_process(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        command: &[String],
        tty: bool,
    ) -> Result<(String, String), ViewError>;
    /// The volumes of a pod that are mounted.
    fn volumes(&self, namespace: &str, pod: &str) -> Vec<VolumeLocation>;
    /// A pod's cgroup, relative to the root of the hierarchy.
    fn pod_cgroup(&self, namespace: &str, pod: &str) -> Option<String>;
    /// The folder that logs are below, for `/logs/`.
    fn log_dir(&self) -> PathBuf;
}
