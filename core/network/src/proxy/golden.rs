//! The rules that services become, as text.

use std::sync::Arc;

use gantry_client::ObjectKey;
use insta::assert_snapshot;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::elements::NodeView;
use super::endpoints::Place;
use super::rules_state::{Changes, Tables};
use super::{Worker, ruleset};

/// A proxy without a kernel: what it would tell it.
struct Paper {
    worker: Worker,
}

impl Paper {
    fn new() -> Self {
        let ranges = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a range")).collect();
        let tables = Tables {
            name: "gantry-proxy".to_owned(),
            families: vec![true],
            pods: ranges(&["10.244.0.0/16"]),
            services: ranges(&["10.96.0.0/16"]),
        };
        let view = NodeView {
            place: Place { node: "n1".to_owned(), zone: Some("z1".to_owned()) },
            node_port_ips: vec!["10.89.0.2".parse().expect("an address")],
        };
        Self { worker: Worker::new(tables, view) }
    }

    /// The script for one service's change; `endpoints` are `ADDRESS NODE`.
    fn change(&mut self, name: &str, spec: Value, endpoints: &[&str]) -> String {
        let service: Service =
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec,
                "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}}))
            .expect("a Service");
        let endpoints: Vec<Value> = endpoints
            .iter()
            .filter_map(|text| text.split_once(' '))
            .map(|(address, node)| json!({"addresses": [address], "nodeName": node}))
            .collect();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}]}))
        .expect("an EndpointSlice");
        let key = ObjectKey::new("default", name);
        let (plan, _) = self.worker.plan(&key, &service, &[Arc::new(slice)]);
        let mut changes = Changes::default();
        self.worker.state.replace(&key, plan, &mut changes);
        self.worker.state.script(&changes).replace("ip gantry-proxy ", "")
    }
}

fn cluster_ip(more: Value) -> Value {
    let mut spec = json!({"clusterIP": "10.96.0.20", "ports": [{"name": "http", "port": 80}]});
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    spec
}

#[test]
fn the_tables_without_services() {
    let services = ["10.96.0.0/16".parse().expect("a range")];
    assert_snapshot!(ruleset::skeleton("gantry-proxy", true, &services), @r"
    add table ip gantry-proxy
    delete table ip gantry-proxy
    table ip gantry-proxy {
      map service-ports { type ipv4_addr . inet_proto . inet_service : verdict; }
      map no-endpoint-ports { type ipv4_addr . inet_proto . inet_service : verdict; }
      map endpoints { type ipv4_addr . inet_proto . inet_service . classid : ipv4_addr . inet_service; }
      map local-endpoints { type ipv4_addr . inet_proto . inet_service . classid : ipv4_addr . inet_service; }
      map tokens { type ipv4_addr . inet_proto . inet_service . classid : classid; }
      map local-tokens { type ipv4_addr . inet_proto . inet_service . classid : classid; }
      map sticky-endpoints { type ipv4_addr . inet_proto . inet_service . classid : ipv4_addr . inet_service; }
      map local-sticky-endpoints { type ipv4_addr . inet_proto . inet_service . classid : ipv4_addr . inet_service; }
      map affinity { type ipv4_addr . ipv4_addr . inet_proto . inet_service : classid; size 262144; flags dynamic,timeout; }
      set hairpins { type ipv4_addr . ipv4_addr; }
      set cluster-ips { type ipv4_addr; }
      set guarded-ports { type ipv4_addr . inet_proto . inet_service; }
      set allowed-sources { type ipv4_addr . inet_proto . inet_service . ipv4_addr; flags interval; }

      chain mark-for-masquerade {
        meta mark set meta mark or 0x4000
      }
      chain refuse {
        reject
      }
      chain services {
        ip daddr . meta l4proto . th dport vmap @service-ports
      }
      chain prerouting {
        type nat hook prerouting priority -100;
        jump services
      }
      chain output {
        type nat hook output priority -100;
        jump services
      }
      chain postrouting {
        type nat hook postrouting priority 100;
        ct status dnat ip saddr . ip daddr @hairpins masquerade fully-random
        meta mark and 0x4000 == 0 return
        meta mark set meta mark and 0xffffbfff
        masquerade fully-random
      }
      chain guard {
        ip daddr . meta l4proto . th dport @guarded-ports ip daddr . meta l4proto . th dport . ip saddr != @allowed-sources drop
      }
      chain guard-prerouting {
        type filter hook prerouting priority -110;
        ct state new jump guard
      }
      chain guard-output {
        type filter hook output priority -110;
        ct state new jump guard
      }
      chain forget-number-prerouting {
        type filter hook prerouting priority -99;
        ct state new ct status dnat meta priority set none
      }
      chain forget-number-output {
        type filter hook output priority -99;
        ct state new ct status dnat meta priority set none
      }
      chain unanswered {
        ip daddr . meta l4proto . th dport vmap @no-endpoint-ports
        ip daddr @cluster-ips goto refuse
        ip daddr { 10.96.0.0/16 } drop
      }
      chain unanswered-input {
        type filter hook input priority -110;
        ct state new ip daddr . meta l4proto . th dport vmap @no-endpoint-ports
      }
      chain unanswered-forward {
        type filter hook forward priority -110;
        ct state new jump unanswered
      }
      chain unanswered-output {
        type filter hook output priority -90;
        ct state new jump unanswered
      }
    }
    ");
}

#[test]
fn endpoints_come_and_go() {
    let mut paper = Paper::new();
    let spec = cluster_ip(json!({}));
    assert_snapshot!(paper.change("web", spec.clone(), &[]), @r"
    add element cluster-ips { 10.96.0.20 }
    add element no-endpoint-ports { 10.96.0.20 . tcp . 80 : goto refuse }
    ");
    assert_snapshot!(paper.change("web", spec.clone(), &["10.244.1.2 n1", "10.244.2.2 n2", "10.244.3.2 n3"]), @r"
    add chain internal-3
    add rule internal-3 ip saddr != { 10.244.0.0/16 } jump mark-for-masquerade
    add rule internal-3 meta priority set numgen random mod 3
    add rule internal-3 dnat ip to ip daddr . meta l4proto . th dport . meta priority map @endpoints
    delete element no-endpoint-ports { 10.96.0.20 . tcp . 80 }
    add element endpoints { 10.96.0.20 . tcp . 80 . 0:0 : 10.244.1.2 . 8080, 10.96.0.20 . tcp . 80 . 0:1 : 10.244.2.2 . 8080, 10.96.0.20 . tcp . 80 . 0:2 : 10.244.3.2 . 8080 }
    add element hairpins { 10.244.1.2 . 10.244.1.2 }
    add element service-ports { 10.96.0.20 . tcp . 80 : goto internal-3 }
    ");
    assert_snapshot!(paper.change("web", spec.clone(), &["10.244.2.2 n2", "10.244.3.2 n3"]), @r"
    add chain internal-2
    add rule internal-2 ip saddr != { 10.244.0.0/16 } jump mark-for-masquerade
    add rule internal-2 meta priority set numgen random mod 2
    add rule internal-2 dnat ip to ip daddr . meta l4proto . th dport . meta priority map @endpoints
    delete element endpoints { 10.96.0.20 . tcp . 80 . 0:0, 10.96.0.20 . tcp . 80 . 0:2 }
    delete element hairpins { 10.244.1.2 . 10.244.1.2 }
    delete element service-ports { 10.96.0.20 . tcp . 80 }
    add element endpoints { 10.96.0.20 . tcp . 80 . 0:0 : 10.244.3.2 . 8080 }
    add element service-ports { 10.96.0.20 . tcp . 80 : goto internal-2 }
    flush chain internal-3
    delete chain internal-3
    ");
    assert_snapshot!(paper.change("web", spec.clone(), &["10.244.2.2 n2", "10.244.9.9 n3"]), @r"
    delete element endpoints { 10.96.0.20 . tcp . 80 . 0:0 }
    add element endpoints { 10.96.0.20 . tcp . 80 . 0:0 : 10.244.9.9 . 8080 }
    ");
    assert_snapshot!(paper.change("web", spec.clone(), &["10.244.2.2 n2", "10.244.9.9 n3"]), @"");
    assert_snapshot!(paper.change("web", cluster_ip(json!({"clusterIP": "None"})), &["10.244.2.2 n2"]), @r"
    delete element cluster-ips { 10.96.0.20 }
    delete element endpoints { 10.96.0.20 . tcp . 80 . 0:0, 10.96.0.20 . tcp . 80 . 0:1 }
    delete element service-ports { 10.96.0.20 . tcp . 80 }
    flush chain internal-2
    delete chain internal-2
    ");
}

#[test]
fn a_balancer_with_local_policy_and_affinity() {
    let mut paper = Paper::new();
    let spec = cluster_ip(json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
        "loadBalancerSourceRanges": ["192.0.2.0/24", "192.0.2.128/25"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
    }));
    assert_snapshot!(paper.change("lb", spec.clone(), &["10.244.1.2 n1", "10.244.2.2 n2"]), @r"
    add chain internal-2-sticky-10800
    add chain pod-2-sticky-10800
    add chain external-2-sticky-10800
    add chain external-2-local-1-sticky-10800
    add rule internal-2-sticky-10800 ip saddr != { 10.244.0.0/16 } jump mark-for-masquerade
    add rule internal-2-sticky-10800 meta priority set ip saddr . ip daddr . meta l4proto . th dport map @affinity
    add rule internal-2-sticky-10800 dnat ip to ip daddr . meta l4proto . th dport . meta priority map @sticky-endpoints
    add rule internal-2-sticky-10800 delete @affinity { ip saddr . ip daddr . meta l4proto . th dport : meta priority }
    add rule internal-2-sticky-10800 meta priority set numgen random mod 2
    add rule internal-2-sticky-10800 meta priority set ip daddr . meta l4proto . th dport . meta priority map @tokens
    add rule internal-2-sticky-10800 update @affinity { ip saddr . ip daddr . meta l4proto . th dport timeout 10800s : meta priority }
    add rule internal-2-sticky-10800 dnat ip to ip daddr . meta l4proto . th dport . meta priority map @sticky-endpoints
    add rule pod-2-sticky-10800 meta priority set ip saddr . ip daddr . meta l4proto . th dport map @affinity
    add rule pod-2-sticky-10800 dnat ip to ip daddr . meta l4proto . th dport . meta priority map @sticky-endpoints
    add rule pod-2-sticky-10800 delete @affinity { ip saddr . ip daddr . meta l4proto . th dport : meta priority }
    add rule pod-2-sticky-10800 meta priority set numgen random mod 2
    add rule pod-2-sticky-10800 meta priority set ip daddr . meta l4proto . th dport . meta priority map @tokens
    add rule pod-2-sticky-10800 update @affinity { ip saddr . ip daddr . meta l4proto . th dport timeout 10800s : meta priority }
    add rule pod-2-sticky-10800 dnat ip to ip daddr . meta l4proto . th dport . meta priority map @sticky-endpoints
    add rule external-2-sticky-10800 jump mark-for-masquerade
    add rule external-2-sticky-10800 meta priority set ip saddr . ip daddr . meta l4proto . th dport map @affinity
    add rule external-2-sticky-10800 dnat ip to ip daddr . meta l4proto . th dport . meta priority map @sticky-endpoints
    add rule external-2-sticky-10800 delete @affinity { ip saddr . ip daddr . meta l4proto . th dport : meta priority }
    add rule external-2-sticky-10800 meta priority set numgen random mod 2
    add rule external-2-sticky-10800 meta priority set ip daddr . meta l4proto . th dport . meta priority map @tokens
    add rule external-2-sticky-10800 update @affinity { ip saddr . ip daddr . meta l4proto . th dport timeout 10800s : meta priority }
    add rule external-2-sticky-10800 dnat ip to ip daddr . meta l4proto . th dport . meta priority map @sticky-endpoints
    add rule external-2-local-1-sticky-10800 ip saddr { 10.244.0.0/16 } goto pod-2-sticky-10800
    add rule external-2-local-1-sticky-10800 fib saddr type local goto external-2-sticky-10800
    add rule external-2-local-1-sticky-10800 meta priority set ip saddr . ip daddr . meta l4proto . th dport map @affinity
    add rule external-2-local-1-sticky-10800 dnat ip to ip daddr . meta l4proto . th dport . meta priority map @local-sticky-endpoints
    add rule external-2-local-1-sticky-10800 delete @affinity { ip saddr . ip daddr . meta l4proto . th dport : meta priority }
    add rule external-2-local-1-sticky-10800 meta priority set numgen random mod 1
    add rule external-2-local-1-sticky-10800 meta priority set ip daddr . meta l4proto . th dport . meta priority map @local-tokens
    add rule external-2-local-1-sticky-10800 update @affinity { ip saddr . ip daddr . meta l4proto . th dport timeout 10800s : meta priority }
    add rule external-2-local-1-sticky-10800 dnat ip to ip daddr . meta l4proto . th dport . meta priority map @local-sticky-endpoints
    add element allowed-sources { 203.0.113.9 . tcp . 80 . 192.0.2.0/24 }
    add element cluster-ips { 10.96.0.20 }
    add element guarded-ports { 203.0.113.9 . tcp . 80 }
    add element hairpins { 10.244.1.2 . 10.244.1.2 }
    add element local-sticky-endpoints { 10.89.0.2 . tcp . 30080 . 3fe7:fe52 : 10.244.1.2 . 8080, 203.0.113.9 . tcp . 80 . 3fe7:fe52 : 10.244.1.2 . 8080 }
    add element local-tokens { 10.89.0.2 . tcp . 30080 . 0:0 : 3fe7:fe52, 203.0.113.9 . tcp . 80 . 0:0 : 3fe7:fe52 }
    add element service-ports { 10.89.0.2 . tcp . 30080 : goto external-2-local-1-sticky-10800, 10.96.0.20 . tcp . 80 : goto internal-2-sticky-10800, 203.0.113.9 . tcp . 80 : goto external-2-local-1-sticky-10800 }
    add element sticky-endpoints { 10.89.0.2 . tcp . 30080 . 3fe7:fe52 : 10.244.1.2 . 8080, 10.89.0.2 . tcp . 30080 . 8714:c5f9 : 10.244.2.2 . 8080, 10.96.0.20 . tcp . 80 . 3fe7:fe52 : 10.244.1.2 . 8080, 10.96.0.20 . tcp . 80 . 8714:c5f9 : 10.244.2.2 . 8080, 203.0.113.9 . tcp . 80 . 3fe7:fe52 : 10.244.1.2 . 8080, 203.0.113.9 . tcp . 80 . 8714:c5f9 : 10.244.2.2 . 8080 }
    add element tokens { 10.89.0.2 . tcp . 30080 . 0:0 : 3fe7:fe52, 10.89.0.2 . tcp . 30080 . 0:1 : 8714:c5f9, 10.96.0.20 . tcp . 80 . 0:0 : 3fe7:fe52, 10.96.0.20 . tcp . 80 . 0:1 : 8714:c5f9, 203.0.113.9 . tcp . 80 . 0:0 : 3fe7:fe52, 203.0.113.9 . tcp . 80 . 0:1 : 8714:c5f9 }
    ");
    assert_snapshot!(paper.change("lb", spec, &["10.244.2.2 n2"]), @r"
    add chain internal-1-sticky-10800
    add chain pod-1-sticky-10800
    add chain external-1-sticky-10800
    add chain external-1-local-0-sticky-10800
    add rule internal-1-sticky-10800 ip saddr != { 10.244.0.0/16 } jump mark-for-masquerade
    add rule internal-1-sticky-10800 meta priority set ip saddr . ip daddr . meta l4proto . th dport map @affinity
    add rule internal-1-sticky-10800 dnat ip to ip daddr . meta l4proto . th dport . meta priority map @sticky-endpoints
    add rule internal-1-sticky-10800 delete @affinity { ip saddr . ip daddr . meta l4proto . th dport : meta priority }
    add rule internal-1-sticky-10800 meta priority set numgen random mod 1
    add rule internal-1-sticky-10800 meta priority set ip daddr . meta l4proto . th dport . meta priority map @tokens
    add rule internal-1-sticky-10800 update @affinity { ip saddr . ip daddr . meta l4proto . th dport timeout 10800s : meta priority }
    add rule internal-1-sticky-10800 dnat ip to ip daddr . meta l4proto . th dport . meta priority map @sticky-endpoints
    add rule pod-1-sticky-10800 meta priority set ip saddr . ip daddr . meta l4proto . th dport map @affinity
    add rule pod-1-sticky-10800 dnat ip to ip daddr . meta l4proto . th dport . meta priority map @sticky-endpoints
    add rule pod-1-sticky-10800 delete @affinity { ip saddr . ip daddr . meta l4proto . th dport : meta priority }
    add rule pod-1-sticky-10800 meta priority set numgen random mod 1
    add rule pod-1-sticky-10800 meta priority set ip daddr . meta l4proto . th dport . meta priority map @tokens
    add rule pod-1-sticky-10800 update @affinity { ip saddr . ip daddr . meta l4proto . th dport timeout 10800s : meta priority }
    add rule pod-1-sticky-10800 dnat ip to ip daddr . meta l4proto . th dport . meta priority map @sticky-endpoints
    add rule external-1-sticky-10800 jump mark-for-masquerade
    add rule external-1-sticky-10800 meta priority set ip saddr . ip daddr . meta l4proto . th dport map @affinity
    add rule external-1-sticky-10800 dnat ip to ip daddr . meta l4proto . th dport . meta priority map @sticky-endpoints
    add rule external-1-sticky-10800 delete @affinity { ip saddr . ip daddr . meta l4proto . th dport : meta priority }
    add rule external-1-sticky-10800 meta priority set numgen random mod 1
    add rule external-1-sticky-10800 meta priority set ip daddr . meta l4proto . th dport . meta priority map @tokens
    add rule external-1-sticky-10800 update @affinity { ip saddr . ip daddr . meta l4proto . th dport timeout 10800s : meta priority }
    add rule external-1-sticky-10800 dnat ip to ip daddr . meta l4proto . th dport . meta priority map @sticky-endpoints
    add rule external-1-local-0-sticky-10800 ip saddr { 10.244.0.0/16 } goto pod-1-sticky-10800
    add rule external-1-local-0-sticky-10800 fib saddr type local goto external-1-sticky-10800
    add rule external-1-local-0-sticky-10800 drop
    delete element hairpins { 10.244.1.2 . 10.244.1.2 }
    delete element local-sticky-endpoints { 10.89.0.2 . tcp . 30080 . 3fe7:fe52, 203.0.113.9 . tcp . 80 . 3fe7:fe52 }
    delete element local-tokens { 10.89.0.2 . tcp . 30080 . 0:0, 203.0.113.9 . tcp . 80 . 0:0 }
    delete element service-ports { 10.89.0.2 . tcp . 30080, 10.96.0.20 . tcp . 80, 203.0.113.9 . tcp . 80 }
    delete element sticky-endpoints { 10.89.0.2 . tcp . 30080 . 3fe7:fe52, 10.96.0.20 . tcp . 80 . 3fe7:fe52, 203.0.113.9 . tcp . 80 . 3fe7:fe52 }
    delete element tokens { 10.89.0.2 . tcp . 30080 . 0:0, 10.89.0.2 . tcp . 30080 . 0:1, 10.96.0.20 . tcp . 80 . 0:0, 10.96.0.20 . tcp . 80 . 0:1, 203.0.113.9 . tcp . 80 . 0:0, 203.0.113.9 . tcp . 80 . 0:1 }
    add element service-ports { 10.89.0.2 . tcp . 30080 : goto external-1-local-0-sticky-10800, 10.96.0.20 . tcp . 80 : goto internal-1-sticky-10800, 203.0.113.9 . tcp . 80 : goto external-1-local-0-sticky-10800 }
    add element tokens { 10.89.0.2 . tcp . 30080 . 0:0 : 8714:c5f9, 10.96.0.20 . tcp . 80 . 0:0 : 8714:c5f9, 203.0.113.9 . tcp . 80 . 0:0 : 8714:c5f9 }
    flush chain internal-2-sticky-10800
    flush chain pod-2-sticky-10800
    flush chain external-2-sticky-10800
    flush chain external-2-local-1-sticky-10800
    delete chain internal-2-sticky-10800
    delete chain pod-2-sticky-10800
    delete chain external-2-sticky-10800
    delete chain external-2-local-1-sticky-10800
    ");
}

#[test]
fn two_services_claim_one_address() {
    let mut paper = Paper::new();
    let claim = |ip: &str| cluster_ip(json!({"clusterIP": ip, "externalIPs": ["203.0.113.1"]}));
    paper.change("b", claim("10.96.0.2"), &["10.244.1.2 n1"]);
    assert_snapshot!(paper.change("a", claim("10.96.0.1"), &["10.244.1.3 n1"]), @r"
    delete element endpoints { 203.0.113.1 . tcp . 80 . 0:0 }
    add element cluster-ips { 10.96.0.1 }
    add element endpoints { 10.96.0.1 . tcp . 80 . 0:0 : 10.244.1.3 . 8080, 203.0.113.1 . tcp . 80 . 0:0 : 10.244.1.3 . 8080 }
    add element hairpins { 10.244.1.3 . 10.244.1.3 }
    add element service-ports { 10.96.0.1 . tcp . 80 : goto internal-1 }
    ");
    assert_snapshot!(paper.change("a", json!({}), &[]), @r"
    delete element cluster-ips { 10.96.0.1 }
    delete element endpoints { 10.96.0.1 . tcp . 80 . 0:0, 203.0.113.1 . tcp . 80 . 0:0 }
    delete element hairpins { 10.244.1.3 . 10.244.1.3 }
    delete element service-ports { 10.96.0.1 . tcp . 80 }
    add element endpoints { 203.0.113.1 . tcp . 80 . 0:0 : 10.244.1.2 . 8080 }
    ");
}

#[test]
fn internal_policy_local_without_an_endpoint_here_is_dropped() {
    let mut paper = Paper::new();
    let spec = cluster_ip(json!({"internalTrafficPolicy": "Local"}));
    assert_snapshot!(paper.change("web", spec.clone(), &["10.244.2.2 n2"]), @r"
    add element cluster-ips { 10.96.0.20 }
    add element no-endpoint-ports { 10.96.0.20 . tcp . 80 : drop }
    ");
    assert_snapshot!(paper.change("web", spec, &["10.244.2.2 n2", "10.244.1.2 n1"]), @r"
    add chain internal-local-1
    add rule internal-local-1 ip saddr != { 10.244.0.0/16 } jump mark-for-masquerade
    add rule internal-local-1 meta priority set numgen random mod 1
    add rule internal-local-1 dnat ip to ip daddr . meta l4proto . th dport . meta priority map @local-endpoints
    delete element no-endpoint-ports { 10.96.0.20 . tcp . 80 }
    add element hairpins { 10.244.1.2 . 10.244.1.2 }
    add element local-endpoints { 10.96.0.20 . tcp . 80 . 0:0 : 10.244.1.2 . 8080 }
    add element service-ports { 10.96.0.20 . tcp . 80 : goto internal-local-1 }
    ");
}
