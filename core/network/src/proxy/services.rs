//! What a Service asks of the proxy: its ports with the addresses they answer at. Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use serde_json::Value;

/// Another proxy than the cluster's takes care of a service with this label.
const LABEL_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// A headless service, whatever its cluster IP says.
const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";
/// Upstream's default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS_DEFAULT: u32 = 10800;

/// One port of a service in one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServicePort {
    pub(super) name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub(super) protocol: String,
    pub(super) port: u16,
    pub(super) node_port: Option<u16>,
}

/// A service in one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceOfFamily {
    pub(super) four: bool,
    pub(super) cluster_ip: IpAddr,
    pub(super) external_ips: Vec<IpAddr>,
    pub(super) load_balancer_ips: Vec<IpAddr>,
    /// Who may reach the load balancer's addresses; none: everybody.
    pub(super) source_ranges: Option<Vec<IpNet>>,
    pub(super) internal_local: bool,
    pub(super) external_local: bool,
    /// How long a client keeps its endpoint, in seconds.
    pub(super) affinity: Option<u32>,
    pub(super) ports: Vec<ServicePort>,
}

/// The port on which load balancers ask whether this node has endpoints of the service.
pub(super) fn health_check_node_port(service: &Service) -> Option<u16> {
    let spec = service.spec.as_ref()?;
    let wanted = spec.type_.as_deref() == Some("LoadBalancer")
        && spec.external_traffic_policy.as_deref() == Some("Local")
        && !is_skipped(service);
    spec.health_check_node_port.filter(|_| wanted).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

fn is_skipped(service: &Service) -> bool {
    let labels = service.metadata.labels.as_ref();
    let labelled = |name: &str| labels.is_some_and(|labels| labels.contains_key(name));
    let Some(spec) = &service.spec else { return true };
    labelled(LABEL_PROXY_NAME)
        || labelled(LABEL_HEADLESS)
        || spec.type_.as_deref() == Some("ExternalName")
        || matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"))
}

/// The service by address family; nothing for one that needs no proxy.
pub(super) fn families(service: &Service) -> Vec<ServiceOfFamily> {
    let Some(spec) = service.spec.as_ref().filter(|_| !is_skipped(service)) else { return Vec::new() };
    let mut ips: Vec<IpAddr> =
        spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter()).filter_map(|ip| ip.parse().ok()).collect();
    ips.dedup();
    let mut families: Vec<ServiceOfFamily> = Vec::new();
    for ip in ips {
        if !families.iter().any(|family| family.four == ip.is_ipv4()) {
            families.push(of_family(service, spec, ip));
        }
    }
    families
}

fn of_family(service: &Service, spec: &ServiceSpec, cluster_ip: IpAddr) -> ServiceOfFamily {
    let four = cluster_ip.is_ipv4();
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let external = matches!(kind, "NodePort" | "LoadBalancer");
    let ips = |texts: &mut dyn Iterator<Item = &String>| -> Vec<IpAddr> {
        texts.filter_map(|ip| ip.parse().ok()).filter(|ip: &IpAddr| ip.is_ipv4() == four).collect()
    };
    let ingress = service.status.iter().flat_map(|status| &status.load_balancer).flat_map(|status| &status.ingress);
    let load_balancer_ips = if kind == "LoadBalancer" {
        // With mode Proxy the load balancer wants the traffic itself (KEP-1860).
        let mut addresses = ingress
            .flatten()
            .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
            .filter_map(|ingress| ingress.ip.as_ref());
        ips(&mut addresses)
    } else {
        Vec::new()
    };
    let source_ranges = spec
        .load_balancer_source_ranges
        .as_ref()
        .filter(|ranges| !ranges.is_empty())
        .map(|ranges| ranges.iter().filter_map(|range| range.trim().parse::<IpNet>().ok()).collect::<Vec<_>>())
        .map(|ranges| {
            ranges.into_iter().filter(|range| range.addr().is_ipv4() == four).map(|range| range.trunc()).collect()
        });
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        let seconds = config.and_then(|config| config.timeout_seconds).and_then(|seconds| u32::try_from(seconds).ok());
        seconds.unwrap_or(AFFINITY_SECONDS_DEFAULT)
    });
    ServiceOfFamily {
        four,
        cluster_ip,
        external_ips: ips(&mut spec.external_ips.iter().flatten()),
        load_balancer_ips,
        source_ranges,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        affinity,
        ports: spec
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                Some(ServicePort {
                    name: port.name.clone().unwrap_or_default(),
                    protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                    port: u16::try_from(port.port).ok()?,
                    node_port: port
                        .node_port
                        .filter(|_| external)
                        .and_then(|port| u16::try_from(port).ok())
                        .filter(|port| *port != 0),
                })
            })
            .collect(),
    }
}

/// What a health check of a service's node port is told (upstream's `healthcheck` package).
pub(super) fn health_answer(namespace: &str, name: &str, local_endpoints: usize) -> Value {
    serde_json::json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": true,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(value: Value) -> Service {
        serde_json::from_value(value).expect("a Service")
    }

    #[test]
    fn some_services_need_no_proxy() {
        let port = json!([{"port": 80}]);
        let cases = [
            json!({"spec": {"clusterIP": "None", "ports": port}}),
            json!({"spec": {"clusterIP": "", "ports": port}}),
            json!({"spec": {"type": "ExternalName", "externalName": "a.b"}}),
            json!({"metadata": {"labels": {LABEL_PROXY_NAME: "x"}}, "spec": {"clusterIP": "10.96.0.1", "ports": port}}),
            json!({"metadata": {"labels": {LABEL_HEADLESS: ""}}, "spec": {"clusterIP": "10.96.0.1", "ports": port}}),
            json!({}),
        ];
        for case in cases {
            assert_eq!(families(&service(case.clone())), [], "{case}");
        }
    }

    #[test]
    fn a_service_has_a_side_for_each_family() {
        let balancer = service(json!({
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00::9"],
                "externalIPs": ["192.0.2.1", "2001:db8::1"], "loadBalancerSourceRanges": ["203.0.113.7/24 ", "2001:db8::/32"],
                "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000, "sessionAffinity": "ClientIP",
                "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}],
            },
            "status": {"loadBalancer": {"ingress": [
                {"ip": "198.51.100.1", "ipMode": "VIP"}, {"ip": "198.51.100.2", "ipMode": "Proxy"}, {"hostname": "lb"}]}},
        }));
        assert_eq!(health_check_node_port(&balancer), Some(31000));
        let sides = families(&balancer);
        assert_eq!(sides.len(), 2);
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(
            sides[0],
            ServiceOfFamily {
                four: true,
                cluster_ip: ip("10.96.0.9"),
                external_ips: vec![ip("192.0.2.1")],
                load_balancer_ips: vec![ip("198.51.100.1")],
                source_ranges: Some(vec!["203.0.113.0/24".parse().expect("a range")]),
                internal_local: false,
                external_local: true,
                affinity: Some(10800),
                ports: vec![ServicePort {
                    name: "http".to_owned(),
                    protocol: "TCP".to_owned(),
                    port: 80,
                    node_port: Some(30080),
                }],
            }
        );
        assert_eq!((sides[1].four, sides[1].cluster_ip), (false, ip("fd00::9")));
        assert_eq!(sides[1].external_ips, [ip("2001:db8::1")]);
    }
}
