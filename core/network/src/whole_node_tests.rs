//! All of a node's network with a real API server behind it: pod network, proxy and DNS together.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_apiserver::auth::UserInfo;
use gantry_apiserver::{RunOptions, Running};
use gantry_client::{Client, Informers};
use hickory_server::proto::op::{Message, MessageType, OpCode, Query};
use hickory_server::proto::rr::{Name, RecordType};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::lab::{self, Lab};
use crate::{BridgeConfig, BridgeNetwork, ClusterDns, DnsConfig, NetworkError, PodNetwork, ProxyConfig, ServiceProxy};

const NODE: &str = "n1";
const API_PORT: u16 = 6443;
/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(10);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

struct Cluster {
    api: Running,
    client: Client,
    network: BridgeNetwork,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<Result<(), NetworkError>>>,
}

impl Cluster {
    async fn start(lab: &Lab) -> Self {
        let options = RunOptions::new(lab.folder().join("api"), SocketAddr::new(lab::NODE_IP.into(), API_PORT));
        let api = Running::start(options).await.expect("the API server starts");
        let client = gantry_client::in_process(api.in_process(UserInfo::new("test", ["system:masters"])));
        let nodes: Api<Node> = Api::all(client.clone());
        nodes.create(&PostParams::default(), &object(json!({"metadata": {"name": NODE}}))).await.expect("a node");

        let pods = vec!["10.244.0.0/16".parse().expect("a range")];
        let node_pods = vec!["10.244.1.0/24".parse().expect("a range")];
        let services = vec!["10.96.0.0/16".parse().expect("a range")];
        let config = BridgeConfig::new(lab.folder().join("network"), node_pods, pods.clone());
        let network = BridgeNetwork::open(config).await.expect("the pod network opens");
        let informers = Informers::new(client.clone());
        let proxy =
            Arc::new(ServiceProxy::new(&informers, ProxyConfig::new(NODE, vec![lab::NODE_IP.into()], pods, services)));
        let dns = Arc::new(ClusterDns::new(&informers, DnsConfig::new(NODE, ip("10.96.0.10"), network.gateways())));
        let stop = CancellationToken::new();
        let mut synced = proxy.synced();
        let tasks = vec![
            tokio::spawn({
                let stop = stop.clone();
                async move { proxy.run(stop).await }
            }),
            tokio::spawn({
                let stop = stop.clone();
                async move { dns.run(stop).await }
            }),
        ];
        synced.wait_for(|synced| *synced).await.expect("the proxy runs");
        Self { api, client, network, stop, tasks }
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.expect("no panic").expect("ended well");
        }
        self.network.close(true).await.expect("closed");
        self.api.stop().await.expect("the API server stops");
    }
}

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object")
}

fn slice(address: IpAddr) -> EndpointSlice {
    object(json!({
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "nodeName": NODE, "conditions": {"ready": true}}],
    }))
}

/// Asks until the answer is there: how long it took.
async fn until<T: Send + 'static>(ask: impl Fn() -> Option<T> + Send + 'static) -> (T, Duration) {
    spawn_blocking(move || {
        let started = Instant::now();
        loop {
            if let Some(answer) = ask() {
                return (answer, started.elapsed());
            }
            assert!(started.elapsed() < PATIENCE, "the condition never came true");
        }
    })
    .await
    .expect("no panic")
}

/// The first address that a name has for a client in a namespace.
fn look_up(from: &Path, server: SocketAddr, name: &str) -> Option<IpAddr> {
    let mut question = Message::new(7, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));
    let socket = lab::udp_client(from);
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    socket.send_to(&question.to_vec().expect("encoded"), server).ok()?;
    let mut buffer = [0; 512];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    let answer = Message::from_vec(&buffer[..length]).expect("an answer");
    answer.answers.first().and_then(|record| record.data.ip_addr())
}

#[test]
fn a_pod_finds_services_by_name_and_reaches_them() {
    Lab::run(async |lab| {
        let cluster = Cluster::start(lab).await;
        let client = cluster.network.attach("client", &[]).await.expect("attached");
        let pods = [
            cluster.network.attach("a", &[]).await.expect("attached"),
            cluster.network.attach("b", &[]).await.expect("attached"),
        ];
        let serve =
            |pod: &crate::Attachment, name| lab::serve_tcp(&pod.netns_path, SocketAddr::new(pod.ips[0], 8080), name);
        let _servers = [serve(&pods[0], "a"), serve(&pods[1], "b")];
        let services: Api<Service> = cluster.api("default");
        let slices: Api<EndpointSlice> = cluster.api("default");
        let web = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"name": "http", "port": 80}]}});
        let web = services.create(&PostParams::default(), &object(web)).await.expect("a service");
        let address = web.spec.and_then(|spec| spec.cluster_ip).map(|address| ip(&address)).expect("an address");
        slices.create(&PostParams::default(), &slice(pods[0].ips[0])).await.expect("a slice");

        let dns = SocketAddr::new(ip("10.96.0.10"), 53);
        let netns: PathBuf = client.netns_path.clone();
        let (found, took) = until({
            let netns = netns.clone();
            move || look_up(&netns, dns, "web.default.svc.cluster.local.")
        })
        .await;
        println!("the service's name after {took:?}");
        assert_eq!(found, address);
        let web = SocketAddr::new(found, 80);
        let answered_by = |name: &'static str| {
            let netns = netns.clone();
            until(move || lab::ask_tcp(Some(&netns), web).ok().filter(|answer| answer.starts_with(name)).map(drop))
        };
        answered_by("a").await;
        let patch =
            json!({"endpoints": [{"addresses": [pods[1].ips[0]], "nodeName": NODE, "conditions": {"ready": true}}]});
        slices.patch("web-1", &PatchParams::default(), &Patch::Merge(patch)).await.expect("another endpoint");
        let ((), took) = answered_by("b").await;
        println!("the other endpoint after {took:?}");

        let kubernetes = SocketAddr::new(ip("10.96.0.1"), 443);
        let from = netns.clone();
        until(move || lab::inside(&from, move || std::net::TcpStream::connect(kubernetes)).ok()).await;

        // The node's own endpoint comes back when somebody takes it away.
        let of_dns: Api<EndpointSlice> = cluster.api("kube-system");
        let own = of_dns.get("kube-dns-n1").await.expect("registered");
        let endpoints = own.endpoints.expect("an endpoint");
        assert_eq!(endpoints[0].addresses, ["10.244.1.1"]);
        of_dns.delete("kube-dns-n1", &DeleteParams::default()).await.expect("deleted");
        let mut again = None;
        let patience = Instant::now();
        while again.is_none() && patience.elapsed() < PATIENCE {
            again = of_dns.get_opt("kube-dns-n1").await.expect("asked");
            tokio::task::yield_now().await;
        }
        assert!(again.is_some_and(|again| again.metadata.uid != own.metadata.uid), "a new one");
        let service: Service = cluster.api::<Service>("kube-system").get("kube-dns").await.expect("the service");
        let spec = service.spec.expect("a spec");
        assert_eq!(spec.cluster_ip.as_deref(), Some("10.96.0.10"));
        assert_eq!(spec.traffic_distribution.as_deref(), Some("PreferSameNode"));
        cluster.stop().await;
        assert_eq!(lab::tables(), "");
    });
}
