//! The etcd engine: the suite of all engines, over a real etcd on loopback.

mod suite;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_store::{EtcdStore, Store};
use tempfile::TempDir;

/// Where Debian's package puts it.
const ETCD: &str = "/usr/bin/etcd";
/// How long it may take until it answers.
const READY_MAX: Duration = Duration::from_secs(60);
/// How often it is started on other ports when somebody else took the chosen ones.
const ATTEMPTS_MAX: usize = 5;

/// A member of its own; killed when dropped.
struct Etcd {
    child: Child,
    _dir: TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start() -> (Etcd, String) {
    let dir = tempfile::tempdir().expect("a folder");
    let free = || TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let urls = {
        // Both are held until both are known, so that they differ.
        let (client, peer) = (free(), free());
        [client, peer].map(|socket| format!("http://{}", socket.local_addr().expect("an address")))
    };
    let [client, peer] = &urls;
    let child = Command::new(ETCD)
        .arg("--data-dir")
        .arg(dir.path())
        .args(["--name", "one", "--listen-client-urls", client, "--advertise-client-urls", client])
        .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
        .args(["--initial-cluster", &format!("one={peer}"), "--log-level", "error"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd starts: install Debian's etcd-server");
    (Etcd { child, _dir: dir }, client.clone())
}

async fn empty() -> (Arc<dyn Store>, Etcd) {
    for _ in 0..ATTEMPTS_MAX {
        let (mut etcd, url) = start();
        let deadline = Instant::now() + READY_MAX;
        while Instant::now() < deadline && etcd.child.try_wait().expect("its state").is_none() {
            if let Ok(store) = EtcdStore::connect(std::slice::from_ref(&url)).await
                && store.status().await.is_ok()
            {
                return (Arc::new(store), etcd);
            }
        }
    }
    panic!("etcd did not start");
}

store_suite!(empty);
