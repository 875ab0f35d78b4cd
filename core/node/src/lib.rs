//! The node agent: pods on one machine.
//!
//! - [`images`]: pulling, unpacking and keeping images
//! - [`mechanism`]: containers, root filesystems, namespaces and mounts of this host
//! - [`container_io`]: the standard streams and exits of containers
//! - [`config`]: what the agent is told and works with
//! - [`leftovers`]: what pods leave on a machine, taken away
//! - [`agent`]: [`NodeAgent`], which starts it all
//! - [`server`]: the HTTPS server, with the API of the kubelet
//! - [`view`]: the agent as its HTTP server sees it
//! - [`context`]: what all parts of the agent share
//! - [`registry`]: the node's pods and who works on them
//!
//! What decides is pure:
//! - [`pod`]: reading pods
//! - [`observed`]: what runs of a pod
//! - [`actions`]: what to do for a pod, from what it asks for and what runs
//! - [`status`]: a pod's status, from what runs
//! - [`admission`]: whether the node takes a pod
//! - [`resources`]: sums, quality of service and the numbers that cgroups take
//! - [`backoff`]: waiting before another try
//! - [`env`]: a container's environment
//! - [`dns`]: host names, `/etc/hosts`, `/etc/resolv.conf`
//! - [`sandbox_config`], [`container_config`]: what a runtime is asked for
//!
//! What acts:
//! - [`pod_worker`]: one task a pod
//! - [`status_writer`]: writing a pod's status
//! - [`probes`], [`hooks`], [`exec`]: asking and telling containers
//! - [`image_pull`]: a container's image before it starts
//! - [`volumes`]: bringing volumes to pods
//! - [`static_pods`]: pods that a folder names, and their mirrors
//! - [`references`]: the ConfigMaps and Secrets of the node's pods
//! - [`cgroups`]: the cgroups of pods
//! - [`user_namespaces`]: ranges of user ids for pods
//! - [`termination_message`]: what a container left to say
//! - [`node_status`], [`lease`], [`machine`]: the Node object, its lease, and the facts they tell
//! - [`eviction`]: ending pods when the node is short of something
//! - [`provisioner`]: volumes for claims

pub mod actions;
pub mod admission;
pub mod agent;
pub mod backoff;
pub mod cgroups;
pub mod config;
pub mod container_config;
pub mod container_io;
pub mod context;
pub mod dns;
pub mod env;
pub mod eviction;
pub mod exec;
#[cfg(test)]
mod fakes;
pub mod hooks;
pub mod image_pull;
pub mod images;
pub mod lease;
pub mod leftovers;
pub mod machine;
pub mod mechanism;
pub mod node_status;
pub mod observed;
pub mod pod;
pub mod pod_worker;
pub mod probes;
pub mod provisioner;
pub mod references;
pub mod registry;
pub mod resources;
pub mod sandbox_config;
pub mod server;
pub mod static_pods;
pub mod status;
pub mod status_writer;
pub mod termination_message;
pub mod user_namespaces;
pub mod view;
pub mod volumes;

pub use agent::{AgentError, NodeAgent};
pub use config::{AgentConfig, AgentParts, EvictionThresholds};
pub use leftovers::remove_leftovers;
pub use view::AgentView;

/// What the API server said, or how it could not be asked.
fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
