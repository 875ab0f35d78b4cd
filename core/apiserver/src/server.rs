//! The server: everything put together, served on a socket or in process.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use gantry_api::error::ApiError;
use gantry_api::object::Object;
use gantry_api::resources::{Resource, ResourceTable};
use gantry_pki::{Pki, ServiceAccountKeys};
use gantry_store::Store;
use http::{Request, Response};
use http_body_util::BodyExt;
use rustls::{ClientConfig, ServerConfig};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::admission::{Admission, ObjectReader};
use crate::auth::reviews::Reviewer;
use crate::auth::{Authenticator, AuthenticatorConfig, Authorization, StaticTokens, TokenIssuer, UserInfo};
use crate::bootstrap;
use crate::cache::entry::Entry;
use crate::cache::event::Change;
use crate::cache::feed::Feed;
use crate::cache::{Caches, ChangeSink};
use crate::compaction;
use crate::config::Config;
use crate::error::Error;
use crate::http::body::{Body, BodyError};
use crate::http::connection;
use crate::http::dispatch::{Caller, handle};
use crate::http::metrics::Metrics;
use crate::registry::services::Allocator;
use crate::registry::system::SystemWriter;
use crate::registry::{Call, Registry};
use crate::tls;

/// How often watchers that ask for it are told how far they have come.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// The parts of a running server.
pub struct Inner {
    pub(crate) config: Config,
    pub(crate) table: &'static ResourceTable,
    pub(crate) registry: Registry,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) reviewer: Reviewer,
    pub(crate) authorization: Arc<Authorization>,
    pub(crate) metrics: Metrics,
    /// Whether the objects that must exist have been written.
    pub(crate) ready: AtomicBool,
    /// Ends watches and background work.
    pub(crate) shutdown: CancellationToken,
    pub(crate) agent_tls: Arc<ClientConfig>,
    server_tls: Arc<ServerConfig>,
    keys: Arc<ServiceAccountKeys>,
    tokens: TokenIssuer,
}

/// An API server. Copies are the same server.
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Inner>,
}

/// Keeps the authorizers up to date.
struct Observed(Arc<Authorization>);

impl Observed {
    fn observe(&self, resource: &Resource, entry: &Entry, now: bool) {
        let object = if now { entry.decode().ok() } else { None };
        self.0.observe(&resource.group, &resource.plural, entry.namespace(), entry.name(), object.as_ref());
    }
}

impl ChangeSink for Observed {
    fn changed(&self, resource: &Resource, change: &Change) {
        if Authorization::watches(&resource.group, &resource.plural)
            && let Some(entry) = change.now.as_ref().or(change.before.as_ref())
        {
            self.observe(resource, entry, change.now.is_some());
        }
    }

    fn replaced(&self, resource: &Resource, entries: &[Arc<Entry>]) {
        if Authorization::watches(&resource.group, &resource.plural) {
            for entry in entries {
                self.observe(resource, entry, true);
            }
        }
    }
}

impl ApiServer {
    /// Loads the objects from the store and writes those that must exist. The server is ready when this returns.
    pub async fn start(config: Config, store: Arc<dyn Store>, pki: Arc<Pki>) -> Result<Self, Error> {
        let table = ResourceTable::builtin();
        let caches = Arc::new(Caches::new(table));
        let authorization = Arc::new(Authorization::new());
        caches.add_sink(Arc::new(Observed(authorization.clone())));
        let (feed, stream) = Feed::load(caches.clone(), store.clone()).await.map_err(Error::Load)?;
        let shutdown = CancellationToken::new();
        tokio::spawn(feed.clone().run(stream, shutdown.clone()));

        let keys = ServiceAccountKeys::from_private_pem(pki.service_account_keys.private_pem())
            .map_err(|error| Error::Tls { what: "service account key", reason: error.to_string() })?;
        let keys = Arc::new(keys);
        let issuer = config.service_account_issuer.clone();
        let audiences = vec![issuer.clone()];
        let static_tokens = match &config.token_auth_file {
            Some(path) => StaticTokens::read(path)?,
            None => StaticTokens::default(),
        };
        let authentication = AuthenticatorConfig {
            client_ca_pem: Some(pki.ca.certificate_pem().to_owned()),
            static_tokens,
            service_account_keys: keys.clone(),
            issuers: vec![issuer.clone()],
            audiences: audiences.clone(),
            anonymous: config.anonymous,
        };
        let reader: Arc<dyn ObjectReader> = caches.clone();
        let authenticator = Arc::new(Authenticator::new(authentication, reader)?);
        let inner = Arc::new(Inner {
            table,
            registry: Registry {
                table,
                caches,
                store,
                feed,
                admission: Arc::new(Admission::new(authorization.clone())),
                services: Allocator::new(config.service_cidr),
                shared_store: config.shared_store,
            },
            reviewer: Reviewer::new(authenticator.clone(), authorization.clone()),
            authenticator,
            authorization,
            metrics: Metrics::default(),
            ready: AtomicBool::new(false),
            shutdown,
            agent_tls: tls::agent_client(&pki)?,
            server_tls: tls::server(&pki)?,
            tokens: TokenIssuer::new(keys.clone(), issuer, audiences),
            keys,
            config,
        });
        let server = Self { inner };
        server.write_bootstrap_objects(&pki).await.map_err(Error::Bootstrap)?;
        server.inner.registry.reconcile_services().await.map_err(Error::Bootstrap)?;
        server.inner.ready.store(true, Ordering::Release);
        tokio::spawn(bookmarks(server.inner.clone()));
        tokio::spawn(compaction::run(server.inner.registry.store.clone(), server.inner.shutdown.clone()));
        Ok(server)
    }

    async fn write_bootstrap_objects(&self, pki: &Pki) -> Result<(), ApiError> {
        let config = &self.inner.config;
        let ca_pem = pki.ca.certificate_pem().to_owned();
        let options = bootstrap::Options {
            service_cidrs: vec![config.service_cidr.to_string()],
            service_address: config.service_address(),
            advertise_address: config.advertise_address,
            port: config.port,
            client_ca_pem: Some(ca_pem.clone()),
            front_proxy_ca_pem: Some(pki.front_proxy_ca.certificate_pem().to_owned()),
            cluster: config.cluster.then(|| bootstrap::ClusterOptions {
                server: format!("https://{}", self.inner.public_address()),
                ca_pem,
            }),
        };
        let registry = &self.inner.registry;
        bootstrap::run(&options, &*registry.caches, &SystemWriter::new(registry)).await
    }

    /// Serves connections with TLS, HTTP/2 and HTTP/1.1, until shutdown; running requests may finish.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), Error> {
        let stop = shutdown.clone();
        let ending = self.inner.shutdown.clone();
        // Watches end first, so that connections can drain.
        let watcher = tokio::spawn(async move {
            stop.cancelled().await;
            ending.cancel();
        });
        connection::serve(self.inner.clone(), listener, self.inner.server_tls.clone(), shutdown).await;
        watcher.abort();
        Ok(())
    }

    /// A service whose requests are this user's: no socket, no TLS, the same authorization and admission.
    pub fn in_process(&self, user: UserInfo) -> InProcess {
        InProcess { inner: self.inner.clone(), user: Arc::new(user) }
    }

    /// Stops background work and ends watches, for servers that serve no socket.
    pub fn stop(&self) {
        self.inner.shutdown.cancel();
    }
}

/// Requests of one user, answered in process.
#[derive(Clone)]
pub struct InProcess {
    inner: Arc<Inner>,
    user: Arc<UserInfo>,
}

impl<B> Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let caller = Caller::InProcess(self.user.clone());
        let inner = self.inner.clone();
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move { Ok(handle(&inner, request, caller).await) })
    }
}

/// One timer for all watchers.
async fn bookmarks(server: Arc<Inner>) {
    loop {
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            () = tokio::time::sleep(BOOKMARK_INTERVAL) => {}
        }
        let applied = server.registry.caches.applied.revision();
        for stored in server.registry.caches.iter() {
            stored.cache.bookmark(applied);
        }
    }
}

impl Inner {
    /// Where the server says that it can be reached.
    pub(crate) fn public_address(&self) -> String {
        std::net::SocketAddr::new(self.config.advertise_address, self.config.port).to_string()
    }

    /// The public keys of service account tokens.
    pub(crate) fn jwks(&self) -> Value {
        self.keys.jwks()
    }

    /// Where those are, in OpenID Connect's form.
    pub(crate) fn openid_configuration(&self) -> Value {
        let address = format!("https://{}/openid/v1/jwks", self.public_address());
        self.keys.openid_configuration(&self.config.service_account_issuer, &address)
    }

    /// The answer to a token request for a call's service account.
    pub(crate) fn token_request(&self, call: &Call<'_>, request: Object) -> Result<Object, ApiError> {
        let (answer, _) = self.tokens.create(call.namespace, call.name, request, &*self.registry.caches)?;
        Ok(answer)
    }
}
