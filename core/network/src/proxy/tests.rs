//! The proxy on a real kernel: services of pods, asked by pods, the node and what is outside.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::lab::{self, Lab, Server};
use crate::pod_network::PodNetwork;
use crate::{BridgeConfig, BridgeNetwork};

const CLUSTER_IP: &str = "10.96.0.20";
const NODE_PORT: u16 = 30080;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn ranges(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().expect("a range")).collect()
}

/// A node with a pod network, a proxy and servers in pods.
struct Node {
    network: BridgeNetwork,
    worker: Worker,
    objects: HashMap<ObjectKey, (Arc<Service>, Vec<Arc<EndpointSlice>>)>,
    pods: HashMap<String, (PathBuf, Vec<IpAddr>, Vec<Server>)>,
}

impl Node {
    async fn start(lab: &Lab) -> Self {
        let config = BridgeConfig::new(
            lab.folder().join("network"),
            ranges(&["10.244.1.0/24", "fd00:10:244:1::/64"]),
            ranges(&["10.244.0.0/16", "fd00:10:244::/48"]),
        );
        let network = BridgeNetwork::open(config).await.expect("the pod network opens");
        let tables = Tables {
            name: "gantry-proxy".to_owned(),
            families: vec![true, false],
            pods: ranges(&["10.244.0.0/16", "fd00:10:244::/48"]),
            services: ranges(&["10.96.0.0/16", "fd00:10:96::/112"]),
        };
        let view =
            NodeView { place: Place { node: "n1".to_owned(), zone: None }, node_port_ips: vec![lab::NODE_IP.into()] };
        let mut node =
            Self { network, worker: Worker::new(tables, view), objects: HashMap::new(), pods: HashMap::new() };
        node.apply(HashSet::new()).await;
        node
    }

    /// Starts pods that answer with their names at port 8080, by TCP and UDP, at each of their addresses.
    async fn run_pods(&mut self, names: &[&str]) {
        for name in names {
            let attached = self.network.attach(name, &[]).await.expect("attached");
            let servers = attached
                .ips
                .iter()
                .flat_map(|ip| {
                    let address = SocketAddr::new(*ip, 8080);
                    [
                        lab::serve_tcp(&attached.netns_path, address, name),
                        lab::serve_udp(&attached.netns_path, address, name),
                    ]
                })
                .collect();
            self.pods.insert((*name).to_owned(), (attached.netns_path, attached.ips, servers));
        }
    }

    fn endpoint(&self, pod: &str, family: usize) -> Value {
        json!({"addresses": [self.pods[pod].1[family]], "nodeName": "n1", "conditions": {"ready": true}})
    }

    /// A service `web` whose endpoints are these, and one of the same for UDP behind it.
    async fn serve(&mut self, spec: Value, status: Value, endpoints: Vec<Value>) {
        self.serve_as("web", "IPv4", spec, status, endpoints).await;
    }

    async fn serve_as(&mut self, name: &str, family: &str, spec: Value, status: Value, endpoints: Vec<Value>) {
        let service = json!({"metadata": {"namespace": "default", "name": name}, "spec": spec, "status": status});
        let slice = json!({
            "metadata": {"namespace": "default", "name": "web-1", "labels": {"kubernetes.io/service-name": name}},
            "addressType": family, "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "echo", "port": 8080, "protocol": "UDP"}],
        });
        let key = ObjectKey::new("default", name);
        let service = Arc::new(serde_json::from_value(service).expect("a Service"));
        let slice = Arc::new(serde_json::from_value(slice).expect("an EndpointSlice"));
        self.objects.insert(key.clone(), (service, vec![slice]));
        self.apply(HashSet::from([key])).await;
    }

    async fn apply(&mut self, dirty: HashSet<ObjectKey>) {
        let objects = &self.objects;
        self.worker.update(dirty, |key| objects.get(key).cloned()).await.expect("the kernel takes the rules");
    }

    fn netns(&self, pod: &str) -> &std::path::Path {
        &self.pods[pod].0
    }

    async fn stop(self) {
        drop(self.pods);
        self.network.close(true).await.expect("closed");
        for family in ["ip", "ip6"] {
            nftables::remove_table(&format!("{family} gantry-proxy")).await.expect("removed");
        }
        assert_eq!(lab::tables(), "");
    }
}

fn spec(more: Value) -> Value {
    let mut spec = json!({
        "type": "ClusterIP", "clusterIP": CLUSTER_IP, "clusterIPs": [CLUSTER_IP],
        "ports": [
            {"name": "http", "port": 80, "protocol": "TCP"},
            {"name": "echo", "port": 53, "protocol": "UDP"},
        ],
    });
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    spec
}

fn node_port(more: Value) -> Value {
    let mut spec = spec(more);
    spec["type"] = spec.get("type").filter(|kind| *kind != "ClusterIP").cloned().unwrap_or_else(|| json!("NodePort"));
    spec["ports"][0]["nodePort"] = json!(NODE_PORT);
    spec
}

/// Who answers, without its client's address.
fn who(answer: std::io::Result<String>) -> String {
    let answer = answer.expect("an answer");
    answer.split(' ').next().unwrap_or_default().to_owned()
}

fn refused(answer: std::io::Result<String>) {
    let error = answer.expect_err("nobody answers");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
}

#[test]
fn a_cluster_ip_leads_to_the_endpoints_there_are() {
    Lab::run(async |lab| {
        let mut node = Node::start(lab).await;
        node.run_pods(&["a", "b", "client"]).await;
        let vip = SocketAddr::new(ip(CLUSTER_IP), 80);
        let a = node.endpoint("a", 0);
        node.serve(spec(json!({})), json!({}), vec![a.clone()]).await;
        let client = node.pods["client"].1[0];
        let answer = lab::ask_tcp(Some(node.netns("client")), vip).expect("a pod is answered");
        assert_eq!(answer, format!("a {client}"), "its address is kept");
        assert_eq!(who(lab::ask_tcp(None, vip)), "a", "the node is answered");
        assert_eq!(who(lab::ask_tcp(Some(node.netns("a")), vip)), "a", "the endpoint reaches itself");
        refused(lab::ask_tcp(None, SocketAddr::new(ip(CLUSTER_IP), 81)));
        refused(lab::ask_tcp(Some(node.netns("client")), SocketAddr::new(ip(CLUSTER_IP), 81)));

        let b = node.endpoint("b", 0);
        node.serve(spec(json!({})), json!({}), vec![b.clone()]).await;
        assert_eq!(who(lab::ask_tcp(Some(node.netns("client")), vip)), "b", "the endpoint is another one");
        node.serve(spec(json!({})), json!({}), vec![a, b]).await;
        let seen: BTreeSet<String> = (0..40).map(|_| who(lab::ask_tcp(Some(node.netns("client")), vip))).collect();
        assert_eq!(seen, BTreeSet::from(["a".to_owned(), "b".to_owned()]), "both are used");

        node.serve(spec(json!({})), json!({}), vec![]).await;
        refused(lab::ask_tcp(None, vip));
        refused(lab::ask_tcp(Some(node.netns("client")), vip));
        refused(lab::ask_udp(Some(node.netns("client")), SocketAddr::new(ip(CLUSTER_IP), 53)));
        node.objects.clear();
        node.apply(HashSet::from([ObjectKey::new("default", "web")])).await;
        assert!(!lab::output("nft list ruleset").contains("internal-"), "chains that nobody needs are gone");
        node.stop().await;
    });
}

#[test]
fn ipv6_is_served_as_well() {
    Lab::run(async |lab| {
        let mut node = Node::start(lab).await;
        node.run_pods(&["a", "b", "client"]).await;
        let spec = json!({"clusterIP": "fd00:10:96::20", "clusterIPs": ["fd00:10:96::20"],
            "ports": [{"name": "http", "port": 80}]});
        let endpoints = vec![node.endpoint("a", 1), node.endpoint("b", 1)];
        node.serve_as("six", "IPv6", spec, json!({}), endpoints).await;
        let vip = SocketAddr::new(ip("fd00:10:96::20"), 80);
        let seen: BTreeSet<String> = (0..40).map(|_| who(lab::ask_tcp(Some(node.netns("client")), vip))).collect();
        assert_eq!(seen, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        assert_eq!(who(lab::ask_tcp(None, vip)).len(), 1);
        node.stop().await;
    });
}

#[test]
fn node_ports_and_balancers_lead_in_from_outside() {
    Lab::run(async |lab| {
        let mut node = Node::start(lab).await;
        node.run_pods(&["a", "client"]).await;
        let at = SocketAddr::new(lab::NODE_IP.into(), NODE_PORT);
        let a = node.endpoint("a", 0);
        let elsewhere = json!({"addresses": ["10.244.9.9"], "nodeName": "n2"});
        node.serve(node_port(json!({})), json!({}), vec![a.clone()]).await;
        let gateway = node.network.gateways()[0];
        assert_eq!(lab::ask_tcp(Some(lab.outside()), at).expect("answered"), format!("a {gateway}"), "masqueraded");
        assert_eq!(who(lab::ask_tcp(None, at)), "a");
        assert_eq!(who(lab::ask_tcp(Some(node.netns("client")), at)), "a");

        let local = json!({"externalTrafficPolicy": "Local"});
        node.serve(node_port(local.clone()), json!({}), vec![a.clone(), elsewhere.clone()]).await;
        for _ in 0..10 {
            let answer = lab::ask_tcp(Some(lab.outside()), at).expect("answered by the endpoint of this node");
            assert_eq!(answer, format!("a {}", lab::OUTSIDE_IP), "the client's address is kept");
        }
        node.serve(node_port(local), json!({}), vec![elsewhere]).await;
        let dropped = lab::ask_tcp(Some(lab.outside()), at).expect_err("no endpoint on this node");
        assert_eq!(dropped.kind(), std::io::ErrorKind::TimedOut);

        let balanced = json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.89.0.0/28", "10.89.0.1/32"],
            "externalIPs": ["203.0.113.5"]});
        let status = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}});
        node.serve(node_port(balanced), status.clone(), vec![a.clone()]).await;
        lab::sh(&format!("nsenter --net={} ip route add 203.0.113.0/24 via {}", lab.outside().display(), lab::NODE_IP));
        let balancer = SocketAddr::new(ip("203.0.113.9"), 80);
        assert_eq!(who(lab::ask_tcp(Some(lab.outside()), balancer)), "a", "an allowed source");
        assert_eq!(who(lab::ask_tcp(Some(lab.outside()), SocketAddr::new(ip("203.0.113.5"), 80))), "a");
        assert!(lab::ask_tcp(Some(node.netns("client")), balancer).is_err(), "a source that isn't");
        let closed = json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24"]});
        node.serve(node_port(closed), status, vec![a]).await;
        assert!(lab::ask_tcp(Some(lab.outside()), balancer).is_err(), "no longer allowed");
        node.stop().await;
    });
}

#[test]
fn clients_keep_their_endpoint_as_long_as_it_is_there() {
    Lab::run(async |lab| {
        let mut node = Node::start(lab).await;
        let names = ["a", "b", "c", "client"];
        node.run_pods(&names).await;
        let vip = SocketAddr::new(ip(CLUSTER_IP), 80);
        let at = SocketAddr::new(lab::NODE_IP.into(), NODE_PORT);
        let sticky = node_port(json!({"sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 3600}}}));
        let endpoints: Vec<Value> = names[..3].iter().map(|name| node.endpoint(name, 0)).collect();
        node.serve(sticky.clone(), json!({}), endpoints.clone()).await;
        let kept = who(lab::ask_tcp(Some(node.netns("client")), vip));
        for _ in 0..20 {
            assert_eq!(who(lab::ask_tcp(Some(node.netns("client")), vip)), kept);
        }
        let outside = who(lab::ask_tcp(Some(lab.outside()), at));
        for _ in 0..20 {
            assert_eq!(who(lab::ask_tcp(Some(lab.outside()), at)), outside);
        }
        // Another endpoint goes: nothing changes. This one goes: another one, kept from then on.
        let other = names[..3].iter().position(|name| **name != kept).expect("another one");
        let rest: Vec<Value> =
            endpoints.iter().enumerate().filter(|(at, _)| *at != other).map(|(_, endpoint)| endpoint.clone()).collect();
        node.serve(sticky.clone(), json!({}), rest).await;
        assert_eq!(who(lab::ask_tcp(Some(node.netns("client")), vip)), kept);
        let rest = names[..3].iter().zip(&endpoints).filter(|(name, _)| **name != kept);
        node.serve(sticky, json!({}), rest.map(|(_, endpoint)| endpoint.clone()).collect()).await;
        let moved = who(lab::ask_tcp(Some(node.netns("client")), vip));
        assert_ne!(moved, kept);
        for _ in 0..20 {
            assert_eq!(who(lab::ask_tcp(Some(node.netns("client")), vip)), moved);
        }
        node.stop().await;
    });
}

#[test]
fn udp_flows_follow_their_endpoints() {
    Lab::run(async |lab| {
        let mut node = Node::start(lab).await;
        node.run_pods(&["a", "b", "client"]).await;
        let vip = SocketAddr::new(ip(CLUSTER_IP), 53);
        let (a, b) = (node.endpoint("a", 0), node.endpoint("b", 0));
        node.serve(spec(json!({})), json!({}), vec![a]).await;
        let socket = lab::udp_client(node.netns("client"));
        assert_eq!(who(lab::ask_by(&socket, vip)), "a");
        node.serve(spec(json!({})), json!({}), vec![b]).await;
        assert_eq!(who(lab::ask_by(&socket, vip)), "b", "the same flow, another endpoint");
        node.stop().await;
    });
}

#[test]
fn balancers_are_told_whether_there_are_endpoints_here() {
    Lab::run(async |lab| {
        let mut node = Node::start(lab).await;
        node.run_pods(&["a"]).await;
        let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31999});
        let a = node.endpoint("a", 0);
        let ask = async || {
            let mut stream = tokio::net::TcpStream::connect((lab::NODE_IP, 31999)).await.expect("the port is open");
            let request = b"GET /healthz HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut stream, request).await.expect("asked");
            let mut answer = String::new();
            tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.expect("answered");
            answer.to_ascii_lowercase()
        };
        node.serve(spec(local.clone()), json!({}), vec![a]).await;
        let answer = ask().await;
        assert!(answer.starts_with("http/1.1 200"), "{answer}");
        assert!(answer.contains("x-load-balancing-endpoint-weight: 1\r\n"), "{answer}");
        assert!(answer.contains("\"localendpoints\":1"), "{answer}");
        node.serve(spec(local), json!({}), vec![]).await;
        assert!(ask().await.starts_with("http/1.1 503"));
        node.serve(spec(json!({})), json!({}), vec![]).await;
        let closed = tokio::net::TcpStream::connect((lab::NODE_IP, 31999)).await;
        assert!(closed.is_err(), "the port is closed again");
        node.stop().await;
    });
}

/// Not a test of time, but a figure to look at: what one change costs among many services.
#[test]
fn many_services_are_written_at_once() {
    Lab::run(async |lab| {
        let mut node = Node::start(lab).await;
        let mut dirty = HashSet::new();
        for n in 0..2000 {
            let cluster_ip = format!("10.96.{}.{}", 1 + n / 250, 1 + n % 250);
            let service = json!({"metadata": {"namespace": "many", "name": format!("s{n}")},
                "spec": {"clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "ports": [{"name": "http", "port": 80}]}});
            let slice = json!({"metadata": {"name": "x"}, "addressType": "IPv4",
                "ports": [{"name": "http", "port": 8080}],
                "endpoints": [{"addresses": ["10.244.1.2"]}, {"addresses": ["10.244.1.3"]}]});
            let key = ObjectKey::new("many", format!("s{n}"));
            let service = Arc::new(serde_json::from_value(service).expect("a Service"));
            let slice = Arc::new(serde_json::from_value(slice).expect("an EndpointSlice"));
            node.objects.insert(key.clone(), (service, vec![slice]));
            dirty.insert(key);
        }
        let started = std::time::Instant::now();
        node.apply(dirty).await;
        println!("2000 services in {:?}", started.elapsed());
        let started = std::time::Instant::now();
        let endpoint = json!({"addresses": ["10.244.1.4"], "nodeName": "n1"});
        node.serve(spec(json!({})), json!({}), vec![endpoint]).await;
        println!("one more in {:?}", started.elapsed());
        assert_eq!(
            lab::output("nft list map ip gantry-proxy service-ports | grep -o goto | wc -l").trim(),
            "2002",
            "it has two ports"
        );
        node.stop().await;
    });
}
