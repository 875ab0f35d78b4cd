//! Routes to the pods of the cluster's other nodes.
//!
//! - `plan`: which pods are behind which node
//! - `kernel`: routes and the tunnel

mod kernel;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use gantry_client::{Informer, Informers};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use tokio_util::sync::CancellationToken;

use self::kernel::KernelRoutes;
use crate::error::NetworkError;

/// How long to wait after a failure before it is tried again.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// What the routes depend on.
#[derive(Clone, Debug)]
pub struct RoutesConfig {
    /// The node's name.
    pub node_name: String,
    /// The node's own pod ranges.
    pub pod_cidrs: Vec<IpNet>,
    /// The name of the tunnel's link, for nodes behind a router.
    pub tunnel: String,
    /// Whether the routes go when this ends, rather than wait for the next process.
    pub remove_at_end: bool,
}

impl RoutesConfig {
    /// Routes with a tunnel named `gantry-tunnel`, which go when their keeper ends.
    pub fn new(node_name: impl Into<String>, pod_cidrs: Vec<IpNet>) -> Self {
        Self { node_name: node_name.into(), pod_cidrs, tunnel: "gantry-tunnel".to_owned(), remove_at_end: true }
    }
}

/// Keeps a node's routes to the pods of all others.
pub struct PodRoutes {
    config: RoutesConfig,
    nodes: Arc<Informer<Node>>,
}

impl PodRoutes {
    /// Routes that follow these informers' nodes; nothing is set yet.
    pub fn new(informers: &Informers, config: RoutesConfig) -> Self {
        Self { config, nodes: informers.get() }
    }

    /// Keeps the routes right until it is cancelled, then removes them if it is to.
    pub async fn run(&self, cancel: CancellationToken) -> Result<(), NetworkError> {
        let mut routes = KernelRoutes::open(&self.config.tunnel, &self.config.pod_cidrs).await?;
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.follow(&mut routes) => {}
        }
        if self.config.remove_at_end { routes.remove().await } else { Ok(()) }
    }

    async fn follow(&self, routes: &mut KernelRoutes) {
        self.nodes.synced().await;
        let mut changes = self.nodes.subscribe();
        let mut applied = None;
        loop {
            while changes.try_next().is_some() {}
            let nodes = self.nodes.list();
            let peers = plan::peers(nodes.iter().map(|node| &**node), &self.config.node_name);
            // Most changes of nodes are their heartbeats.
            if applied.as_ref() != Some(&peers) {
                match routes.apply(&peers).await {
                    Ok(()) => applied = Some(peers),
                    Err(error) => tracing::error!(%error, "routes to pods of other nodes not set; trying again"),
                }
            }
            tokio::select! {
                _ = changes.next() => {}
                () = tokio::time::sleep(RETRY_WAIT), if applied.is_none() => {}
            }
        }
    }
}
