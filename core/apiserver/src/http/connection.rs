//! Connections: TLS, HTTP/2 and HTTP/1.1, upgrades, and an end that lets running requests finish.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::{Body, full};
use super::dispatch::{Caller, handle};
use super::listing;
use crate::server::Inner;

/// How long a client may take for its TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of a request.
const HEAD_MAX: Duration = Duration::from_secs(32);
/// How long running requests may go on when the server stops.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Streams of one HTTP/2 connection, as upstream.
const STREAMS_MAX: u32 = 250;
/// Answers longer than this are compressed for clients that take it.
const GZIP_BYTES_MIN: u64 = 128 << 10;

/// Serves connections until shutdown, then lets running requests finish.
pub async fn serve(server: Arc<Inner>, listener: TcpListener, tls: Arc<ServerConfig>, shutdown: CancellationToken) {
    let acceptor = TlsAcceptor::from(tls);
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, say: wait for some to be closed rather than spin.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (server, acceptor, shutdown) = (server.clone(), acceptor.clone(), shutdown.clone());
        connections.spawn(async move {
            if let Err(error) = connection(server, acceptor, stream, shutdown).await {
                tracing::debug!(error = %error, "connection ended");
            }
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(DRAIN_MAX, connections.wait()).await.is_err() {
        tracing::warn!("some requests were still running when the server stopped");
    }
}

type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

async fn connection(
    server: Arc<Inner>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    shutdown: CancellationToken,
) -> Result<(), ConnectionError> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await??;
    let certificates =
        stream.get_ref().1.peer_certificates().map(|chain| {
            Arc::new(chain.iter().map(|certificate| certificate.clone().into_owned()).collect::<Vec<_>>())
        });
    let caller = Caller::Peer(certificates);
    let service = service_fn(move |request: Request<Incoming>| {
        let (server, caller) = (server.clone(), caller.clone());
        async move {
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            Ok::<_, std::convert::Infallible>(handle(&server, request, caller).await)
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(30));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// Whether a client takes gzip.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            parts.next() == Some("gzip") && parts.all(|param| param != "q=0")
        })
}

/// Compresses an answer whose whole content is known, when it is worth it.
pub fn compress_if_large(response: &mut Response<Body>, gzip: bool) {
    if !gzip || response.body().size_hint().exact().is_none_or(|length| length < GZIP_BYTES_MIN) {
        return;
    }
    let content = std::mem::replace(response.body_mut(), full(bytes::Bytes::new()));
    // The content is in memory: its future is ready at once.
    let collected = futures::FutureExt::now_or_never(content.collect());
    if let Some(Ok(content)) = collected {
        *response.body_mut() = full(listing::gzip(&content.to_bytes()));
        response.headers_mut().remove(CONTENT_LENGTH);
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
}
