//! Commands and attached containers over one connection: `/exec/…` and `/attach/…`.
//!
//! - [`client`]: the client's side, whatever protocol it speaks
//! - [`session`]: copying between a client and a process
//! - [`outcome`]: how a command ended, as the client is told
//! - [`channels`]: the WebSocket protocols (`v5.channel.k8s.io` and older)
//! - [`streams`]: the SPDY protocols (`v4.channel.k8s.io` and older)

mod channels;
mod client;
mod outcome;
mod session;
mod streams;

use std::sync::Arc;

use http::Response;
use http::request::Parts;
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::CancellationToken;

use super::request::{Body, Query, Refusal};
use super::upgrade;
use crate::container_io::{ContainerIo, Streams};
use crate::view::AgentView;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A new process.
    Exec,
    /// The container's own process.
    Attach,
}

/// The streams of a query. The error is a message for the client.
fn streams_of(query: &Query) -> Result<Streams, &'static str> {
    let tty = query.flag("tty");
    let streams = Streams {
        stdin: query.flag("input"),
        stdout: query.flag("output"),
        // A terminal has one output.
        stderr: query.flag("error") && !tty,
        tty,
    };
    if streams.stdin || streams.stdout || streams.stderr {
        Ok(streams)
    } else {
        Err("you must specify at least 1 of stdin, stdout, stderr")
    }
}

/// What a session is opened with.
enum Target {
    Exec { container_id: String, process: String },
    Attach { container_id: String },
}

/// Answers a request for an exec or attach session, which then goes on in a task.
pub async fn answer(
    kind: Kind,
    view: &dyn AgentView,
    io: Arc<dyn ContainerIo>,
    stop: CancellationToken,
    (namespace, pod, container): (&str, &str, &str),
    parts: &mut Parts,
) -> Result<Response<Body>, Refusal> {
    let query = Query::parse(parts.uri.query());
    let streams = streams_of(&query).map_err(Refusal::bad_request)?;
    let protocol = upgrade::Protocol::of(&parts.headers)
        .ok_or_else(|| Refusal::bad_request("unable to upgrade: missing upgrade headers in request"))?;
    let target = match kind {
        Kind::Exec => {
            let command: Vec<String> = query.all("command").map(str::to_owned).collect();
            if command.is_empty() {
                return Err(Refusal::bad_request("you must specify a command"));
            }
            let (process, container_id) = view.exec_process(namespace, pod, container, &command, streams.tty).await?;
            Target::Exec { container_id, process }
        }
        Kind::Attach => Target::Attach { container_id: view.container(namespace, pod, container, false)?.container_id },
    };
    let upgraded = parts
        .extensions
        .remove::<OnUpgrade>()
        .ok_or_else(|| Refusal::bad_request("unable to upgrade: the connection can't change its protocol"))?;
    let run = move |client: client::Client| async move {
        let opened = match &target {
            Target::Exec { container_id, process } => io.exec(container_id, process, streams).await,
            Target::Attach { container_id } => io.attach(container_id, streams).await,
        };
        tokio::select! {
            () = session::run(kind, opened, client) => {}
            () = stop.cancelled() => {}
        }
    };
    match protocol {
        upgrade::Protocol::WebSocket => {
            let (response, protocol) = upgrade::web_socket(&parts.headers, channels::PROTOCOLS)?;
            let protocol = channels::Protocol::named(protocol.unwrap_or_default());
            upgrade::then(upgraded, move |connection| async move {
                let socket = upgrade::socket(connection).await;
                run(channels::client(socket, protocol, streams)).await;
            });
            Ok(response)
        }
        upgrade::Protocol::Spdy => {
            let (response, protocol) = upgrade::spdy(&parts.headers, streams::PROTOCOLS)?;
            let version = streams::Version::named(protocol);
            upgrade::then(upgraded, move |connection| async move {
                match streams::client(connection, version, streams).await {
                    Ok(client) => run(client).await,
                    Err(error) => tracing::debug!(error, "the streams of a session were not opened"),
                }
            });
            Ok(response)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_queries() {
        let streams = |stdin, stdout, stderr, tty| Some(Streams { stdin, stdout, stderr, tty });
        let cases = [
            ("", None),
            ("tty=1", None),
            ("error=1&tty=1", None),
            ("output=1", streams(false, true, false, false)),
            ("input=1&output=1&error=1", streams(true, true, true, false)),
            ("input=1&output=1&error=1&tty=1", streams(true, true, false, true)),
        ];
        for (query, expected) in cases {
            assert_eq!(streams_of(&Query::parse(Some(query))).ok(), expected, "{query}");
        }
    }
}
