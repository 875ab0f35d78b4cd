//! Two nodes, their pods talking to each other: on one link, and with a router between them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use ipnet::IpNet;
use tokio::sync::oneshot;

use super::kernel::KernelRoutes;
use super::plan::Peer;
use crate::lab::{self, Lab};
use crate::{BridgeConfig, BridgeNetwork, PodNetwork};

fn net(text: &str) -> IpNet {
    text.parse().expect("a range")
}

/// A node with one pod and a route to one peer, in whatever namespace it is started.
struct Node {
    network: BridgeNetwork,
    routes: KernelRoutes,
    pod: PathBuf,
    pod_ip: IpAddr,
}

impl Node {
    async fn start(folder: &Path, own: &str, peer: (&str, &str)) -> Self {
        let config = BridgeConfig::new(folder, vec![net(own)], vec![net("10.244.0.0/16")]);
        let network = BridgeNetwork::open(config).await.expect("the pod network opens");
        let pod = network.attach("pod", &[]).await.expect("attached");
        let mut routes = KernelRoutes::open("gantry-tunnel", &[net(own)]).await.expect("netlink");
        let (range, node) = peer;
        let peer = Peer { node_ips: vec![node.parse().expect("an address")], ranges: vec![net(range)] };
        routes.apply(&BTreeMap::from([("peer".to_owned(), peer)])).await.expect("the route is set");
        Self { network, routes, pod: pod.netns_path, pod_ip: pod.ips[0] }
    }

    async fn stop(mut self) {
        self.routes.remove().await.expect("removed");
        self.network.close(true).await.expect("closed");
    }
}

/// The same on another machine: its pod, and how to end it.
struct Elsewhere {
    pod: PathBuf,
    pod_ip: IpAddr,
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Elsewhere {
    fn start(namespace: &Path, folder: PathBuf, own: &'static str, peer: (&'static str, &'static str)) -> Self {
        let (end, ended) = oneshot::channel();
        let (started, start) = std::sync::mpsc::channel();
        let thread = lab::thread_inside(namespace, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let node = Node::start(&folder, own, peer).await;
                started.send((node.pod.clone(), node.pod_ip)).expect("somebody waits");
                let _ = ended.await;
                node.stop().await;
            });
        });
        let (pod, pod_ip) = start.recv().expect("the other node starts");
        Self { pod, pod_ip, end, thread }
    }

    fn stop(self) {
        self.end.send(()).expect("it runs");
        self.thread.join().expect("no panic");
    }
}

fn talk(node: &Node, other: &Elsewhere) {
    let server = lab::serve_tcp(&other.pod, SocketAddr::new(other.pod_ip, 80), "there");
    let answer = lab::ask_tcp(Some(&node.pod), server.address()).expect("the other node's pod answers");
    assert_eq!(answer, format!("there {}", node.pod_ip), "the source is kept");
    let server = lab::serve_tcp(&node.pod, SocketAddr::new(node.pod_ip, 80), "here");
    assert_eq!(lab::ask_tcp(Some(&other.pod), server.address()).expect("and back"), format!("here {}", other.pod_ip));
}

#[test]
fn pods_of_nodes_on_one_link_talk_directly() {
    Lab::run(async |lab| {
        let other =
            Elsewhere::start(lab.outside(), lab.folder().join("b"), "10.244.2.0/24", ("10.244.1.0/24", "10.89.0.2"));
        let node = Node::start(&lab.folder().join("a"), "10.244.1.0/24", ("10.244.2.0/24", "10.89.0.1")).await;
        talk(&node, &other);
        assert!(!lab::links().contains("gantry-tunnel"), "no tunnel is needed");
        node.stop().await;
        other.stop();
        assert_eq!(lab::output("ip route | grep -c 10.244 || true").trim(), "0");
    });
}

#[test]
fn pods_of_nodes_behind_a_router_talk_through_a_tunnel() {
    Lab::run(async |lab| {
        let far = lab.behind_outside();
        let other = Elsewhere::start(&far, lab.folder().join("b"), "10.244.2.0/24", ("10.244.1.0/24", "10.89.0.2"));
        let node = Node::start(&lab.folder().join("a"), "10.244.1.0/24", ("10.244.2.0/24", "10.90.0.2")).await;
        assert!(lab::links().contains("gantry-tunnel"));
        talk(&node, &other);
        node.stop().await;
        other.stop();
        assert!(!lab::links().contains("gantry-tunnel"), "the tunnel is gone");
    });
}
