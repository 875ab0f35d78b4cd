//! A connection to a pod's port, from within the pod's network namespace.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// How long a port may take to answer.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// The ports of a pod.
#[derive(Clone, Debug)]
pub struct PodPorts {
    /// The pod's name.
    pub pod: String,
    /// Its network namespace; none when it is the node's own.
    pub namespace_path: Option<PathBuf>,
}

fn connect_here(port: u16) -> io::Result<std::net::TcpStream> {
    let first = std::net::TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), CONNECT_MAX);
    let Err(error) = first else { return first };
    let second = std::net::TcpStream::connect_timeout(&SocketAddr::from((Ipv6Addr::LOCALHOST, port)), CONNECT_MAX);
    second.map_err(|_| error)
}

/// Runs on a thread of its own, which ends in the namespace that it joined.
fn connect_in(namespace: Option<&Path>, port: u16) -> io::Result<std::net::TcpStream> {
    if let Some(path) = namespace {
        setns(std::fs::File::open(path)?, CloneFlags::CLONE_NEWNET)?;
    }
    let stream = connect_here(port)?;
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl PodPorts {
    /// Connects to a port of the pod's loopback. The error is a message for the client.
    pub async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let fail = |error: io::Error| format!("error forwarding port {port} to pod {}: {error}", self.pod);
        let (done, result) = oneshot::channel();
        let namespace = self.namespace_path.clone();
        std::thread::Builder::new()
            .name("port-forward".into())
            .spawn(move || {
                let _ = done.send(connect_in(namespace.as_deref(), port));
            })
            .map_err(fail)?;
        let stream = result.await.unwrap_or_else(|_| Err(io::Error::other("the thread panicked"))).map_err(fail)?;
        TcpStream::from_std(stream).map_err(fail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ports_of_this_namespace() {
        let ports = PodPorts { pod: "p".into(), namespace_path: None };
        for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))] {
            let listener = tokio::net::TcpListener::bind(address).await.expect("bound");
            let port = listener.local_addr().expect("an address").port();
            ports.connect(port).await.expect("connected");
            drop(listener);
            let error = ports.connect(port).await.expect_err("nobody listens");
            assert!(error.starts_with(&format!("error forwarding port {port} to pod p: ")), "{error}");
        }
    }
}
