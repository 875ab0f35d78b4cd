//! Connections to a pod's ports: `/portForward/{namespace}/{pod}`.
//!
//! - [`connect`]: a connection from within the pod's network namespace
//! - [`streams`]: over SPDY/3.1, also inside a WebSocket (KEP-4006)
//! - [`channels`]: over a WebSocket with channels

mod channels;
mod connect;
mod streams;

use http::Response;
use http::request::Parts;
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::CancellationToken;

use super::request::{Body, Query, Refusal};
use super::upgrade;
use crate::view::AgentView;
use connect::PodPorts;

/// What is spoken on SPDY connections.
const STREAM_PROTOCOLS: &[&str] = &["portforward.k8s.io"];
/// SPDY/3.1 inside a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Answers a request to forward ports, which then goes on in a task.
pub async fn answer(
    view: &dyn AgentView,
    stop: CancellationToken,
    (namespace, pod): (&str, &str),
    parts: &mut Parts,
) -> Result<Response<Body>, Refusal> {
    let ports = PodPorts { pod: pod.to_owned(), namespace_path: view.network_namespace(namespace, pod)? };
    let protocol = upgrade::Protocol::of(&parts.headers)
        .ok_or_else(|| Refusal::bad_request("unable to upgrade: missing upgrade headers in request"))?;
    let asked = channels::ports_of(&Query::parse(parts.uri.query()));
    let upgraded = parts
        .extensions
        .remove::<OnUpgrade>()
        .ok_or_else(|| Refusal::bad_request("unable to upgrade: the connection can't change its protocol"))?;
    match protocol {
        upgrade::Protocol::Spdy => {
            let (response, _) = upgrade::spdy(&parts.headers, STREAM_PROTOCOLS)?;
            upgrade::then(upgraded, move |connection| async move {
                tokio::select! {
                    () = streams::run(connection, ports) => {}
                    () = stop.cancelled() => {}
                }
            });
            Ok(response)
        }
        upgrade::Protocol::WebSocket => {
            let spoken: Vec<&'static str> =
                std::iter::once(TUNNEL).chain(channels::PROTOCOLS.iter().copied()).collect();
            let (response, protocol) = upgrade::web_socket(&parts.headers, &spoken)?;
            let tunnel = protocol == Some(TUNNEL);
            let asked = if tunnel { Vec::new() } else { asked.map_err(Refusal::bad_request)? };
            upgrade::then(upgraded, move |connection| async move {
                let socket = upgrade::socket(connection).await;
                let run = async {
                    if tunnel {
                        streams::run_tunnelled(socket, ports).await;
                    } else {
                        channels::run(socket, asked, ports).await;
                    }
                };
                tokio::select! {
                    () = run => {}
                    () = stop.cancelled() => {}
                }
            });
            Ok(response)
        }
    }
}
