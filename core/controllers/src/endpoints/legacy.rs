//! What the Endpoints object of a service shall be. Pure. Source: `pkg/controller/endpoint/endpoints_controller.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_api::timestamp;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::membership::{
    HEADLESS, TRIGGER_TIME, TargetPort, address, families, hostname, is_candidate, is_headless, publishes_unready,
    target_ports, trigger_time,
};
use crate::pods::{is_ready, node_name};

/// How many addresses an Endpoints object holds; upstream's `maxCapacity`.
const ADDRESSES_MAX: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";

/// The object as it shall be; none when it is so already.
pub fn reconcile(service: &Service, pods: &[Arc<Pod>], existing: Option<&Endpoints>) -> Option<Endpoints> {
    let (subsets, truncated) = subsets(service, pods);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    labels.insert(MANAGED_BY.to_owned(), "endpoint-controller".to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let mut wanted = existing.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    let before = (wanted.subsets.clone().unwrap_or_default(), wanted.metadata.labels.clone());
    if existing.is_some() && before == (subsets.clone(), Some(labels.clone())) {
        return None;
    }
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    annotations.remove(OVER_CAPACITY);
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    if let Some(time) = trigger_time(service, pods.iter().map(|pod| &**pod)) {
        annotations.insert(TRIGGER_TIME.to_owned(), timestamp::format(time));
    }
    wanted.metadata.labels = Some(labels);
    wanted.subsets = (!subsets.is_empty()).then_some(subsets);
    Some(wanted)
}

fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let unready_too = publishes_unready(service);
    let asks_ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).is_some_and(|ports| !ports.is_empty());
    let ipv6 = families(service).first().copied().unwrap_or_default();
    let mut groups: BTreeMap<Vec<TargetPort>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| is_candidate(pod, unready_too)) {
        let ports = target_ports(service, pod);
        if asks_ports && ports.is_empty() {
            continue;
        }
        let Some(ip) = address(pod, ipv6) else { continue };
        let address = EndpointAddress {
            ip,
            hostname: hostname(service, pod),
            node_name: Some(node_name(pod).to_owned()).filter(|name| !name.is_empty()),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                namespace: pod.metadata.namespace.clone(),
                uid: pod.metadata.uid.clone(),
                ..ObjectReference::default()
            }),
        };
        let (ready, unready) = groups.entry(ports).or_default();
        if unready_too || is_ready(pod) { ready.push(address) } else { unready.push(address) }
    }
    let mut left = ADDRESSES_MAX;
    let mut truncated = false;
    let mut cut = |mut addresses: Vec<EndpointAddress>| {
        addresses.sort_by(|a, b| a.ip.cmp(&b.ip));
        truncated |= addresses.len() > left;
        addresses.truncate(left);
        left -= addresses.len();
        (!addresses.is_empty()).then_some(addresses)
    };
    let subset = |(ports, (ready, unready)): (Vec<TargetPort>, (Vec<EndpointAddress>, Vec<EndpointAddress>))| {
        let port = |port: TargetPort| EndpointPort {
            name: Some(port.name).filter(|name| !name.is_empty()),
            port: port.port,
            protocol: Some(port.protocol),
            app_protocol: port.app_protocol,
        };
        EndpointSubset {
            addresses: cut(ready),
            not_ready_addresses: cut(unready),
            ports: (!ports.is_empty()).then(|| ports.into_iter().map(port).collect()),
        }
    };
    let all: Vec<EndpointSubset> = groups.into_iter().map(subset).collect();
    let filled = |subset: &EndpointSubset| subset.addresses.is_some() || subset.not_ready_addresses.is_some();
    (all.into_iter().filter(filled).collect(), truncated)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ready_and_unready_pods_are_told_apart() {
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "svc", "namespace": "ns"},
            "spec": {"selector": {"app": "t"}, "ports": [{"port": 80, "targetPort": 8080}]}}))
        .expect("a service");
        let pod = |name: &str, ip: &str, ready: &str| -> Arc<Pod> {
            let value = json!({"metadata": {"name": name, "namespace": "ns", "uid": name},
                "spec": {"nodeName": "n1", "containers": []}, "status": {"phase": "Running", "podIP": ip,
                "conditions": [{"type": "Ready", "status": ready}]}});
            Arc::new(serde_json::from_value(value).expect("a pod"))
        };
        let pods = [pod("b", "10.0.0.2", "True"), pod("a", "10.0.0.1", "True"), pod("c", "10.0.0.3", "False")];
        let made = reconcile(&service, &pods, None).expect("an object");
        let subset = &made.subsets.as_ref().expect("subsets")[0];
        let ips = |addresses: &Option<Vec<EndpointAddress>>| {
            addresses.iter().flatten().map(|address| address.ip.clone()).collect::<Vec<_>>()
        };
        assert_eq!(ips(&subset.addresses), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(ips(&subset.not_ready_addresses), ["10.0.0.3"]);
        assert_eq!(reconcile(&service, &pods, Some(&made)), None);
        let emptied = reconcile(&service, &[], Some(&made)).expect("a change");
        assert_eq!(emptied.subsets, None);
    }
}
