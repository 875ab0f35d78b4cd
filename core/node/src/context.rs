//! What all parts of the agent share.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use gantry_client::Informer;
use gantry_plugin_host::Runtime;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use tokio::time::Instant;

use crate::cgroups::PodCgroups;
use crate::config::{AgentConfig, AgentParts, DEFAULT_RUNTIME};
use crate::machine::Machine;
use crate::pod;
use crate::references::References;
use crate::resources::ResourceList;
use crate::volumes::token::Tokens;

/// What all parts of the agent share.
pub struct Context {
    /// What the agent was told.
    pub config: AgentConfig,
    /// What it works with.
    pub parts: AgentParts,
    /// The pods' cgroups.
    pub cgroups: PodCgroups,
    /// ConfigMaps and Secrets of the node's pods.
    pub references: References,
    /// Service account tokens of the node's pods.
    pub tokens: Tokens,
    /// The node itself.
    pub node: Arc<Informer<Node>>,
    /// All services, for environment variables.
    pub services: Arc<Informer<Service>>,
    /// Which runtime a pod asks for.
    pub runtime_classes: Arc<Informer<RuntimeClass>>,
    /// Facts of the machine.
    pub machine: Machine,
    /// What the node has for pods.
    pub allocatable: ResourceList,
    /// When the agent started.
    pub started: Instant,
}

impl Context {
    /// The node's addresses as pods see them: one of each family, the first family first.
    pub fn host_ips(&self) -> Vec<IpAddr> {
        let all = &self.config.addresses;
        let first = all.first().copied();
        let other = first.and_then(|first| all.iter().find(|ip| ip.is_ipv4() != first.is_ipv4()).copied());
        first.into_iter().chain(other).collect()
    }

    /// The folder of a pod's files.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.root_dir.join("pods").join(uid)
    }

    /// The folder of a pod's logs.
    pub fn pod_log_dir(&self, pod: &Pod) -> PathBuf {
        let name = format!("{}_{}_{}", pod::namespace(pod), pod::name(pod), pod::uid(pod));
        self.config.log_dir.join(name)
    }

    /// The runtime of a pod.
    ///
    /// # Errors
    /// Upstream's message when the RuntimeClass is missing or names a runtime that the node does not have.
    pub fn runtime(&self, pod: &Pod) -> Result<Arc<dyn Runtime>, String> {
        let spec = pod::spec(pod);
        let handler = match spec.runtime_class_name.as_deref().filter(|name| !name.is_empty()) {
            None => DEFAULT_RUNTIME.to_owned(),
            Some(name) => match self.runtime_classes.get("", name) {
                Some(class) => class.handler.clone(),
                None => return Err(format!("RuntimeClass.node.k8s.io {name:?} not found")),
            },
        };
        match self.parts.runtimes.get(&handler) {
            Some(runtime) => Ok(runtime.clone()),
            None => Err(format!("no runtime for {handler:?} is configured")),
        }
    }

    /// What an event about the node refers to.
    pub fn node_reference(&self) -> ObjectReference {
        ObjectReference {
            kind: Some("Node".to_owned()),
            api_version: Some("v1".to_owned()),
            name: Some(self.config.node_name.clone()),
            // Upstream's kubelet names itself by the node's name here.
            uid: Some(self.config.node_name.clone()),
            ..ObjectReference::default()
        }
    }
}
