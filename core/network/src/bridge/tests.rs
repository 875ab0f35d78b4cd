//! The pod network on a real kernel, in a network namespace of the test's own. Needs root and nftables.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::lab::{self, Lab};

fn config(folder: &Path) -> BridgeConfig {
    BridgeConfig::new(
        folder.join("network"),
        vec!["10.244.1.0/24".parse().expect("a range"), "fd00:10:244:1::/64".parse().expect("a range")],
        vec!["10.244.0.0/16".parse().expect("a range"), "fd00:10:244::/48".parse().expect("a range")],
    )
}

async fn open(folder: &Path) -> BridgeNetwork {
    BridgeNetwork::open(config(folder)).await.expect("the network opens")
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

#[test]
fn pods_reach_each_other_and_the_node() {
    Lab::run(async |lab| {
        let network = open(lab.folder()).await;
        let a = network.attach("a", &[]).await.expect("attached");
        let b = network.attach("b", &[]).await.expect("attached");
        assert_eq!(a.ips.iter().map(IpAddr::to_string).collect::<Vec<_>>(), ["10.244.1.2", "fd00:10:244:1::2"]);
        assert_eq!(network.attach("a", &[]).await.expect("again"), a);
        assert_eq!(network.get("a").await.expect("known"), Some(a.clone()));
        for family in 0..2 {
            let server = lab::serve_tcp(&b.netns_path, at(b.ips[family], 80), "b");
            let answer = lab::ask_tcp(Some(&a.netns_path), server.address()).expect("another pod answers");
            assert_eq!(answer, format!("b {}", a.ips[family]));
            let answer = lab::ask_tcp(None, server.address()).expect("a pod answers its node");
            assert_eq!(answer, format!("b {}", network.gateways()[family]));
            let itself = lab::ask_tcp(Some(&b.netns_path), server.address()).expect("a pod answers itself");
            assert_eq!(itself, format!("b {}", b.ips[family]));
        }
        network.close(true).await.expect("closed");
    });
}

#[test]
fn what_leaves_the_cluster_has_the_nodes_address() {
    Lab::run(async |lab| {
        let network = open(lab.folder()).await;
        let pod = network.attach("a", &[]).await.expect("attached");
        let outside = lab.outside();
        let server = lab::serve_tcp(outside, at(lab::OUTSIDE_IP.into(), 80), "outside");
        let answer = lab::ask_tcp(Some(&pod.netns_path), server.address()).expect("the outside answers");
        assert_eq!(answer, format!("outside {}", lab::NODE_IP));
        network.close(true).await.expect("closed");
    });
}

#[test]
fn host_ports_lead_into_the_pod() {
    Lab::run(async |lab| {
        let network = open(lab.folder()).await;
        let port = |host_ip: Option<IpAddr>, host_port, protocol: &str| HostPort {
            host_ip,
            host_port,
            container_port: 80,
            protocol: protocol.to_owned(),
        };
        let node: IpAddr = lab::NODE_IP.into();
        let ports = [port(None, 8080, "TCP"), port(Some(node), 8081, "TCP"), port(None, 8082, "UDP")];
        let pod = network.attach("a", &ports).await.expect("attached");
        let other = network.attach("b", &[]).await.expect("attached");
        let _tcp = lab::serve_tcp(&pod.netns_path, at(pod.ips[0], 80), "a");
        let _udp = lab::serve_udp(&pod.netns_path, at(pod.ips[0], 80), "a");
        let loopback: IpAddr = "127.0.0.1".parse().expect("an address");
        let ask = |from: Option<&Path>, to: SocketAddr| lab::ask_tcp(from, to).map(|answer| answer[..1].to_owned());
        assert_eq!(ask(None, at(loopback, 8080)).expect("by loopback"), "a");
        assert_eq!(ask(None, at(node, 8080)).expect("by the node's address"), "a");
        assert_eq!(ask(None, at(node, 8081)).expect("bound to the address"), "a");
        assert!(ask(None, at(loopback, 8081)).is_err(), "another address of the node");
        assert_eq!(ask(Some(&other.netns_path), at(node, 8080)).expect("from another pod"), "a");
        assert_eq!(ask(Some(&pod.netns_path), at(node, 8080)).expect("from itself"), "a");
        let outside = lab::ask_tcp(Some(lab.outside()), at(node, 8080)).expect("from outside");
        assert_eq!(outside, format!("a {}", lab::OUTSIDE_IP), "the client's address is kept");
        assert_eq!(lab::ask_udp(Some(lab.outside()), at(node, 8082)).expect("by UDP")[..1], *"a");
        network.detach("a").await.expect("detached");
        assert!(ask(None, at(node, 8080)).is_err(), "the port is closed again");
        network.close(true).await.expect("closed");
    });
}

#[test]
fn udp_flows_follow_a_host_port_to_the_next_pod() {
    Lab::run(async |lab| {
        let network = open(lab.folder()).await;
        let ports = [HostPort { host_ip: None, host_port: 8082, container_port: 80, protocol: "UDP".to_owned() }];
        let client = lab::udp_client(lab.outside());
        let node = at(lab::NODE_IP.into(), 8082);
        client.send_to(b"?", node).expect("sent, though nobody is there");
        for name in ["a", "b"] {
            let pod = network.attach(name, &ports).await.expect("attached");
            let _server = lab::serve_udp(&pod.netns_path, at(pod.ips[0], 80), name);
            let answer = lab::ask_by(&client, node).expect("answered");
            assert_eq!(answer, format!("{name} {}", lab::OUTSIDE_IP), "the same flow");
            network.detach(name).await.expect("detached");
        }
        network.close(true).await.expect("closed");
    });
}

#[test]
fn sandboxes_survive_the_process() {
    Lab::run(async |lab| {
        let network = open(lab.folder()).await;
        let ports = [HostPort { host_ip: None, host_port: 8080, container_port: 80, protocol: "TCP".to_owned() }];
        let kept = network.attach("kept", &ports).await.expect("attached");
        let torn = network.attach("torn", &[]).await.expect("attached");
        let held = BridgeNetwork::open(config(lab.folder())).await.err().expect("the folder is taken").to_string();
        assert!(held.starts_with("lock (is another agent running on this state folder?)"), "{held}");
        drop(network);
        // As a process leaves it that is killed between its steps.
        fs::remove_file(lab.folder().join("network/attachments/torn.json")).expect("a record less");
        fs::write(lab.folder().join("network/netns/half"), "").expect("a namespace not yet mounted");

        let network = open(lab.folder()).await;
        assert_eq!(network.list().await.expect("listed"), ["kept"]);
        assert_eq!(network.attach("kept", &ports).await.expect("known"), kept);
        assert!(!torn.netns_path.exists() && !lab.folder().join("network/netns/half").exists());
        assert_ne!(network.attach("new", &[]).await.expect("attached").ips, kept.ips);
        let server = lab::serve_tcp(&kept.netns_path, at(kept.ips[0], 80), "kept");
        lab::ask_tcp(None, server.address()).expect("the kept one answers");
        lab::ask_tcp(None, at(lab::NODE_IP.into(), 8080)).expect("its host port, too");
        network.close(true).await.expect("closed");
    });
}

#[test]
fn many_at_once_and_nothing_left_behind() {
    Lab::run(async |lab| {
        let before = lab::links();
        let network = Arc::new(open(lab.folder()).await);
        let started = std::time::Instant::now();
        let attaching: Vec<_> = (0..60)
            .map(|n| {
                let network = network.clone();
                tokio::spawn(async move { network.attach(&format!("sandbox-{n}"), &[]).await })
            })
            .collect();
        let mut addresses = HashSet::new();
        for attached in attaching {
            addresses.insert(attached.await.expect("no panic").expect("attached").ips);
        }
        println!("60 attached in {:?}", started.elapsed());
        assert_eq!(addresses.len(), 60);
        assert_eq!(network.list().await.expect("listed").len(), 60);
        network.detach("sandbox-7").await.expect("detached");
        network.detach("sandbox-7").await.expect("nothing there is no failure");
        assert_eq!(network.get("sandbox-7").await.expect("asked"), None);
        assert!(network.attach("../etc", &[]).await.is_err());

        let started = std::time::Instant::now();
        network.close(true).await.expect("closed");
        println!("59 closed in {:?}", started.elapsed());
        assert_eq!(lab::links(), before);
        assert_eq!(lab::tables(), "");
        assert!(!lab.folder().join("network").exists());
    });
}
