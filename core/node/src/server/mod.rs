//! The agent's HTTPS server: the kubelet's API, which the API server hands requests on to.
//!
//! - [`request`]: parts of requests and answers that all endpoints share
//! - [`route`]: which endpoint a path means
//! - [`upgrade`]: connections that change their protocol
//! - [`logs`]: answers to `/containerLogs/…`
//! - [`remote`]: answers to `/exec/…` and `/attach/…`
//! - [`port_forward`]: answers to `/portForward/…`
//! - [`stats`]: answers to `/stats/summary` and `/metrics/resource`
//! - [`spdy`]: streams over SPDY/3.1
//!
//! Who may connect is the TLS configuration's matter: it asks for client certificates.

mod logs;
mod port_forward;
mod remote;
mod request;
mod route;
mod spdy;
mod stats;
mod upgrade;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::container_io::ContainerIo;
use crate::view::AgentView;
use request::{Body, Query, Refusal};
use route::Route;

/// How long a TLS handshake may take, and the head of a request.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Connections at a time.
const CONNECTIONS_MAX: usize = 1024;
/// How long to wait after the system had no room for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

struct Server {
    tls: TlsAcceptor,
    view: Arc<dyn AgentView>,
    io: Arc<dyn ContainerIo>,
    stop: CancellationToken,
}

/// Serves until `stop`, which also ends what is being served. `tls` has to ask for client certificates.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    view: Arc<dyn AgentView>,
    io: Arc<dyn ContainerIo>,
    stop: CancellationToken,
) {
    let server = Arc::new(Server { tls: TlsAcceptor::from(tls), view, io, stop: stop.clone() });
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = async {
            let Ok(permit) = room.clone().acquire_owned().await else { return std::future::pending().await };
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let server = server.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    let stop = server.stop.clone();
                    tokio::select! {
                        () = stop.cancelled() => {}
                        result = connection(server, stream) => {
                            if let Err(error) = result {
                                tracing::debug!(%peer, %error, "a connection to the agent ended");
                            }
                        }
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the agent's server can't accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(server: Arc<Server>, stream: TcpStream) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_MAX, server.tls.accept(stream)).await??;
    let service = service_fn(move |request| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(server.answer(request).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_MAX);
    builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await
}

impl Server {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (mut parts, _) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let result = match route::of(&path) {
            Some(route) if !allows(route, &parts.method) => Err(Refusal {
                status: StatusCode::METHOD_NOT_ALLOWED,
                reason: "MethodNotAllowed",
                message: format!("{} is not supported on {path}", parts.method),
            }),
            Some(route) => self.endpoint(route, &mut parts).await,
            None => Err(Refusal::not_found(format!("the agent has no {path}"))),
        };
        result.unwrap_or_else(|refusal| refusal.response())
    }

    async fn endpoint(&self, route: Route<'_>, parts: &mut http::request::Parts) -> Result<Response<Body>, Refusal> {
        let (view, io, stop) = (&self.view, self.io.clone(), self.stop.clone());
        match route {
            Route::Healthz => Ok(request::with_type(StatusCode::OK, "text/plain; charset=utf-8", "ok")),
            Route::Pods => pods(view.pods(), false),
            Route::RunningPods => pods(view.pods(), true),
            Route::Summary => Ok(stats::summary(&**view).await),
            Route::ResourceMetrics => Ok(stats::resource_metrics(&**view).await),
            Route::Logs(of) => logs::answer(view.clone(), io, stop, of, &Query::parse(parts.uri.query())).await,
            Route::Exec(of) => remote::answer(remote::Kind::Exec, &**view, io, stop, of, parts).await,
            Route::Attach(of) => remote::answer(remote::Kind::Attach, &**view, io, stop, of, parts).await,
            Route::PortForward(of) => port_forward::answer(&**view, stop, of, parts).await,
        }
    }
}

fn allows(route: Route<'_>, method: &Method) -> bool {
    match route {
        Route::Exec(_) | Route::Attach(_) | Route::PortForward(_) => *method == Method::GET || *method == Method::POST,
        _ => *method == Method::GET || *method == Method::HEAD,
    }
}

/// A PodList of the node's pods, or of those that run.
fn pods(pods: Vec<Arc<k8s_openapi::api::core::v1::Pod>>, running: bool) -> Result<Response<Body>, Refusal> {
    let phase = |pod: &k8s_openapi::api::core::v1::Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
    let items: Vec<_> =
        pods.iter().filter(|pod| !running || phase(pod).as_deref() == Some("Running")).map(|pod| &**pod).collect();
    let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    Ok(request::with_type(StatusCode::OK, "application/json", list.to_string()))
}
