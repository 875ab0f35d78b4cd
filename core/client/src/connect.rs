//! Making a client: in process, or over HTTPS from a kubeconfig.

use std::path::Path;

use http::{Request, Response};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tower::{BoxError, Service};

use crate::Client;

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig could not be read or doesn't say how to reach a cluster.
    #[error("read kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What was wrong with it.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// The client could not be built from it (a bad certificate or key, say).
    #[error("build a client from kubeconfig {path}")]
    Build {
        /// The file.
        path: String,
        /// What was wrong with it.
        #[source]
        source: Box<kube::Error>,
    },
}

/// A client whose requests are answered by a service of this process: no socket, no TLS. The service decides whom
/// the requests come from.
pub fn in_process<S, B>(service: S) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Client::new(service, "default")
}

/// A client for the cluster that a kubeconfig's current context names.
pub async fn from_kubeconfig(path: &Path) -> Result<Client, ConnectError> {
    let name = path.display().to_string();
    let kubeconfig =
        Kubeconfig::read_from(path).map_err(|source| ConnectError::Kubeconfig { path: name.clone(), source })?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|source| ConnectError::Kubeconfig { path: name.clone(), source })?;
    // Watches are long-lived; the watcher bounds them itself.
    config.read_timeout = None;
    Client::try_from(config).map_err(|source| ConnectError::Build { path: name, source: Box::new(source) })
}
