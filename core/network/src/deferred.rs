//! A pod network that comes later: a node's agent starts before the node has its pod range.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::error::NetworkError;
use crate::pod_network::{Attachment, HostPort, PodNetwork};

/// How long a sandbox waits for the network: longer than a range takes to come, shorter than a kubelet's own limit.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Waits for the network, then is it.
#[derive(Clone)]
pub struct DeferredNetwork {
    network: watch::Sender<Option<Arc<dyn PodNetwork>>>,
}

impl Default for DeferredNetwork {
    fn default() -> Self {
        Self { network: watch::Sender::new(None) }
    }
}

impl DeferredNetwork {
    /// The network is there.
    pub fn set(&self, network: Arc<dyn PodNetwork>) {
        self.network.send_replace(Some(network));
    }

    async fn wait(&self) -> Result<Arc<dyn PodNetwork>, NetworkError> {
        let mut changes = self.network.subscribe();
        let there = tokio::time::timeout(WAIT_MAX, changes.wait_for(Option::is_some)).await;
        there.ok().and_then(Result::ok).and_then(|network| network.clone()).ok_or(NetworkError::NotReady)
    }
}

#[async_trait]
impl PodNetwork for DeferredNetwork {
    async fn attach(&self, sandbox_id: &str, host_ports: &[HostPort]) -> Result<Attachment, NetworkError> {
        self.wait().await?.attach(sandbox_id, host_ports).await
    }

    async fn get(&self, sandbox_id: &str) -> Result<Option<Attachment>, NetworkError> {
        self.wait().await?.get(sandbox_id).await
    }

    async fn detach(&self, sandbox_id: &str) -> Result<(), NetworkError> {
        self.wait().await?.detach(sandbox_id).await
    }

    async fn list(&self) -> Result<Vec<String>, NetworkError> {
        self.wait().await?.list().await
    }
}
