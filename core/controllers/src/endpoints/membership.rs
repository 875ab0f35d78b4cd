//! Which pods are behind a service, at which ports. Source: `endpointslice/utils.go`, `endpoints_controller.go`.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods::{condition, is_ready, is_terminal};

/// A port of a service as its pods serve it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetPort {
    /// The service port's name, empty when it has none.
    pub name: String,
    /// The pod's port.
    pub port: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// A hint for proxies.
    pub app_protocol: Option<String>,
}

/// Whether the service has no address of its own.
pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// Whether pods count as ready from the start.
pub fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or_default()
}

/// Whether the service selects pods at all.
pub fn has_selector(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.selector.as_ref()).is_some_and(|selector| !selector.is_empty())
        && spec.and_then(|spec| spec.type_.as_deref()) != Some("ExternalName")
}

/// Whether a pod is one of the service's.
pub fn selects_pod(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels = pod.metadata.labels.as_ref();
    selector.into_iter().flatten().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// The address families of the service: true for IPv6. One without families gets those of its pods: IPv4.
pub fn families(service: &Service) -> Vec<bool> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    if families.is_empty() { vec![false] } else { families.iter().map(|family| family == "IPv6").collect() }
}

/// The pod's address of a family.
pub fn address(pod: &Pod, ipv6: bool) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
    all.into_iter().find(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == ipv6)).map(str::to_owned)
}

/// Whether a pod can be an endpoint: it hasn't ended and has an address.
pub fn is_candidate(pod: &Pod, include_terminating: bool) -> bool {
    let has_address =
        pod.status.as_ref().is_some_and(|status| status.pod_ip.as_deref().is_some_and(|ip| !ip.is_empty()));
    !is_terminal(pod) && has_address && (include_terminating || pod.metadata.deletion_timestamp.is_none())
}

/// The name by which the pod can be found in the service's domain, if it asks for one.
pub fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_deref().filter(|hostname| !hostname.is_empty())?;
    let same = spec.subdomain.is_some()
        && spec.subdomain == service.metadata.name
        && pod.metadata.namespace == service.metadata.namespace;
    same.then(|| hostname.to_owned())
}

/// The pod's port for a service port; none when it has no port of that name.
pub fn find_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match port.target_port.as_ref() {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
            spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten()).find_map(
                |candidate| {
                    let matches = candidate.name.as_ref() == Some(name)
                        && candidate.protocol.as_deref().unwrap_or("TCP") == protocol;
                    matches.then_some(candidate.container_port)
                },
            )
        }
    }
}

/// The ports of a service as a pod serves them, sorted.
pub fn target_ports(service: &Service, pod: &Pod) -> Vec<TargetPort> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let mut found: Vec<TargetPort> = ports
        .iter()
        .filter_map(|port| {
            Some(TargetPort {
                name: port.name.clone().unwrap_or_default(),
                port: find_port(pod, port)?,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    found.sort();
    found
}

/// When the state that the endpoints show came about: the latest change of readiness, or the service's creation.
pub fn trigger_time<'a>(service: &Service, pods: impl Iterator<Item = &'a Pod>) -> Option<Timestamp> {
    let changed = pods.filter_map(|pod| match (is_ready(pod), condition(pod, "Ready")) {
        (_, Some(ready)) => ready.last_transition_time.as_ref().map(|time| time.0),
        _ => None,
    });
    changed.chain(service.metadata.creation_timestamp.as_ref().map(|time| time.0)).max()
}

/// The annotation that carries [`trigger_time`].
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The label of headless services' endpoints.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
