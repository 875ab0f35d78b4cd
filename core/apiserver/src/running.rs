//! A server with all it needs, out of one folder: PKI, embedded store, socket. What `gantry apiserver` is, and what
//! whoever runs a cluster in one process starts first.
//!
//! ```text
//! DATA/pki/              keys and certificates
//! DATA/store/            the embedded store
//! DATA/admin.kubeconfig  how its administrator reaches it
//! ```

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use gantry_pki::{Kubeconfig, Pki, PkiOptions};
use gantry_store::{EmbeddedOptions, EmbeddedStore, Store};
use ipnet::IpNet;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::auth::UserInfo;
use crate::config::Config;
use crate::error::Error;
use crate::listen::{advertised, listen};
use crate::server::{ApiServer, InProcess};

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Where everything lies.
    pub data_dir: PathBuf,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where others reach it; `None` takes the address it listens at, or that of the default route.
    pub advertise_address: Option<IpAddr>,
    /// The network that services get their addresses from.
    pub service_cidr: IpNet,
    /// A token file in kube-apiserver's format.
    pub token_auth_file: Option<PathBuf>,
    /// The name of this host's node, for the certificates of its agent.
    pub node_name: String,
    /// The domain of services.
    pub cluster_domain: String,
    /// More names that the server's certificate is to hold.
    pub extra_names: Vec<String>,
    /// More addresses that it is to hold.
    pub extra_addresses: Vec<IpAddr>,
    /// Whether this is a whole cluster, so that what an installer adds is made, too.
    pub cluster: bool,
}

impl RunOptions {
    /// The defaults for a folder and an address.
    pub fn new(data_dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen,
            advertise_address: None,
            service_cidr: IpNet::new_assert(IpAddr::from([10, 96, 0, 0]), 16),
            token_auth_file: None,
            node_name: "localhost".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            extra_names: Vec::new(),
            extra_addresses: Vec::new(),
            cluster: false,
        }
    }
}

/// A server that serves.
pub struct Running {
    server: ApiServer,
    address: SocketAddr,
    pki: Arc<Pki>,
    store: Arc<EmbeddedStore>,
    kubeconfig: PathBuf,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), Error>>,
}

impl Running {
    /// Starts a server. It is ready when this returns.
    pub async fn start(options: RunOptions) -> Result<Self, Error> {
        let data_dir = &options.data_dir;
        std::fs::create_dir_all(data_dir).map_err(|source| Error::Folder { path: data_dir.clone(), source })?;
        // The lock on the store comes first: nothing of a running server's folder is touched.
        let store =
            Arc::new(EmbeddedStore::open(&data_dir.join("store"), EmbeddedOptions::default()).map_err(Error::Store)?);
        let listener = listen(options.listen).await?;
        let address =
            listener.local_addr().map_err(|reason| Error::Listen { address: options.listen, holder: None, reason })?;
        let advertise_address = options.advertise_address.unwrap_or_else(|| advertised(address.ip()));
        let config = Config {
            token_auth_file: options.token_auth_file.clone(),
            cluster: options.cluster,
            ..Config::new(advertise_address, address.port(), options.service_cidr)
        };
        let pki = Arc::new(open_pki(&options, &config)?);
        let kubeconfig = data_dir.join("admin.kubeconfig");
        admin_kubeconfig(&pki, address).write(&kubeconfig)?;
        let server = ApiServer::start(config, store.clone(), pki.clone()).await?;
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn({
            let (server, shutdown) = (server.clone(), shutdown.clone());
            async move { server.serve(listener, shutdown).await }
        });
        Ok(Self { server, address, pki, store, kubeconfig, shutdown, serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its keys and certificates.
    pub fn pki(&self) -> &Arc<Pki> {
        &self.pki
    }

    /// Its store, for snapshots.
    pub fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// The file that an administrator's clients read.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A service whose requests are this user's, for `gantry_client::in_process`.
    pub fn in_process(&self, user: UserInfo) -> InProcess {
        self.server.in_process(user)
    }

    /// Begins to stop: watches end, running requests may finish.
    pub fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Stops, and waits until the last request and the store are done: another server may start in its folder.
    pub async fn stop(self) -> Result<(), Error> {
        self.shutdown.cancel();
        let served = self.serving.await.unwrap_or(Ok(()));
        self.server.stop();
        let store = self.store;
        // Its last commit may take a moment.
        let _ = tokio::task::spawn_blocking(move || store.close()).await;
        served
    }
}

fn open_pki(options: &RunOptions, config: &Config) -> Result<Pki, Error> {
    let mut extra_addresses = options.extra_addresses.clone();
    if !options.listen.ip().is_unspecified() {
        extra_addresses.push(options.listen.ip());
    }
    let profile = PkiOptions {
        node_name: options.node_name.clone(),
        advertise_address: config.advertise_address,
        service_address: config.service_address(),
        cluster_domain: options.cluster_domain.clone(),
        extra_names: options.extra_names.clone(),
        extra_addresses,
    };
    Ok(Pki::open(&options.data_dir.join("pki"), &profile, SystemTime::now())?)
}

/// A kubeconfig that works on this host.
fn admin_kubeconfig(pki: &Pki, address: SocketAddr) -> Kubeconfig {
    let host = if address.ip().is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { address.ip() };
    let server = format!("https://{}", SocketAddr::new(host, address.port()));
    pki.kubeconfig(&server, "gantry", "admin", &pki.super_admin)
}
