//! What a client is told of a service that surely doesn't do what it seems to.

use super::checks::{annotation, cidr_warnings, ip_warnings, path, texts_at};
use super::services::is_headless;
use crate::object::{Object, items_at, str_at};

const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";

/// The warnings for a service.
pub(super) fn of(object: &Object) -> Vec<String> {
    let mut warnings = Vec::new();
    if annotation(object, TOPOLOGY_HINTS).is_some() {
        warnings.push(format!("annotation {TOPOLOGY_HINTS} is deprecated, please use {TOPOLOGY_MODE} instead"));
    }
    let ip = str_at(object, "spec.clusterIP");
    if !ip.is_empty() && ip != "None" {
        for (index, ip) in texts_at(object, "spec.clusterIPs").into_iter().enumerate() {
            warnings.extend(ip_warnings(&path("spec.clusterIPs").index(index), ip));
        }
    }
    let kind = str_at(object, "spec.type");
    let balancer_ip = str_at(object, "spec.loadBalancerIP");
    let external_ips = texts_at(object, "spec.externalIPs");
    let headless = kind == "ClusterIP" && is_headless(object);
    if headless {
        let ignored = [
            (!balancer_ip.is_empty(), "spec.loadBalancerIP"),
            (!external_ips.is_empty(), "spec.externalIPs"),
            (str_at(object, "spec.sessionAffinity") != "None", "spec.SessionAffinity"),
        ];
        let ignored = ignored.iter().filter(|(set, _)| *set);
        warnings.extend(ignored.map(|(_, field)| format!("{field} is ignored for headless services")));
    }
    for (index, ip) in external_ips.iter().enumerate() {
        warnings.extend(ip_warnings(&path("spec.externalIPs").index(index), ip));
    }
    if !external_ips.is_empty() && !headless && kind != "ExternalName" {
        warnings.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    if !balancer_ip.is_empty() {
        warnings.extend(ip_warnings(&path("spec.loadBalancerIP"), balancer_ip));
    }
    for (index, range) in items_at(object, "spec.loadBalancerSourceRanges").iter().enumerate() {
        let at = path("spec.loadBalancerSourceRanges").index(index);
        warnings.extend(cidr_warnings(&at, range.as_str().unwrap_or_default()));
    }
    if kind == "ExternalName" && !external_ips.is_empty() {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if kind != "ExternalName" && !str_at(object, "spec.externalName").is_empty() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if str_at(object, "spec.trafficDistribution") == "PreferClose" {
        warnings.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    warnings
}
