//! What the endpoint slices of a service shall be, with as few changes as possible. Pure. Source: KEP-0752 and
//! `endpointslice/reconciler.go`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gantry_api::timestamp;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::membership::{
    HEADLESS, TRIGGER_TIME, TargetPort, address, families, hostname, is_candidate, is_headless, publishes_unready,
    target_ports, trigger_time,
};
use crate::ownership::controller_reference;
use crate::pods::{is_ready, node_name};

/// The label that names the service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that names who manages a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Our own value of it, which is upstream's.
pub const CONTROLLER: &str = "endpointslice-controller.k8s.io";
/// How many endpoints a slice holds; upstream's `max-endpoints-per-slice`.
const ENDPOINTS_PER_SLICE_MAX: usize = 100;

/// Changes to make.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    /// Slices to make.
    pub create: Vec<EndpointSlice>,
    /// Slices to write.
    pub update: Vec<EndpointSlice>,
    /// Slices to delete, by name.
    pub delete: Vec<String>,
}

/// A slice's kind: its family and ports.
type Group = (bool, Vec<TargetPort>);

/// Compares slices with what they shall hold.
pub fn reconcile(
    service: &Service,
    pods: &[Arc<Pod>],
    node_of: &dyn Fn(&str) -> Option<Arc<Node>>,
    existing: &[Arc<EndpointSlice>],
) -> Changes {
    let mut groups: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    let families = families(service);
    for pod in pods.iter().filter(|pod| is_candidate(pod, true)) {
        let ports = target_ports(service, pod);
        // A pod that serves none of the ports is no endpoint; a service without ports has them all.
        let asks_ports =
            service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).is_some_and(|ports| !ports.is_empty());
        if asks_ports && ports.is_empty() {
            continue;
        }
        for family in &families {
            if let Some(address) = address(pod, *family) {
                let node = node_of(node_name(pod));
                let group = groups.entry((*family, ports.clone())).or_default();
                group.push(endpoint(service, pod, address, node.as_deref()));
            }
        }
    }
    let trigger = trigger_time(service, pods.iter().map(|pod| &**pod));
    let mut changes = Changes::default();
    let mut unused: Vec<&Arc<EndpointSlice>> = Vec::new();
    let mut by_group: HashMap<Group, Vec<&Arc<EndpointSlice>>> = HashMap::new();
    for slice in existing {
        let group = group_of(slice);
        if groups.contains_key(&group) { by_group.entry(group).or_default().push(slice) } else { unused.push(slice) }
    }
    for (group, endpoints) in groups {
        let slices = by_group.remove(&group).unwrap_or_default();
        fill(service, &group, endpoints, slices, &mut unused, trigger, &mut changes);
    }
    for family in families {
        let covered = changes.create.iter().chain(&changes.update).any(|slice| is_ipv6(slice) == family)
            || existing
                .iter()
                .any(|slice| is_ipv6(slice) == family && !unused.iter().any(|other| Arc::ptr_eq(other, slice)));
        if covered {
            continue;
        }
        // One empty slice says that there are none, rather than that nobody has looked.
        let placeholder = slice(service, &(family, Vec::new()), Vec::new(), trigger);
        match unused.iter().position(|slice| is_ipv6(slice) == family) {
            Some(index) => {
                let old = unused.remove(index);
                update(old, placeholder, &mut changes);
            }
            None => changes.create.push(placeholder),
        }
    }
    changes.delete.extend(unused.iter().filter_map(|slice| slice.metadata.name.clone()));
    changes
}

/// Spreads endpoints over slices: each stays where it is, new ones go where there is room.
fn fill(
    service: &Service,
    group: &Group,
    endpoints: Vec<Endpoint>,
    slices: Vec<&Arc<EndpointSlice>>,
    unused: &mut Vec<&Arc<EndpointSlice>>,
    trigger: Option<Timestamp>,
    changes: &mut Changes,
) {
    let mut wanted: BTreeMap<String, Endpoint> = BTreeMap::new();
    let mut order = Vec::new();
    for endpoint in endpoints {
        let key = identity(&endpoint);
        if wanted.insert(key.clone(), endpoint).is_none() {
            order.push(key);
        }
    }
    let mut kept: Vec<(Option<&Arc<EndpointSlice>>, Vec<Endpoint>)> = Vec::new();
    for old in slices {
        let stays = old.endpoints.iter().flatten().filter_map(|endpoint| wanted.remove(&identity(endpoint)));
        kept.push((Some(old), stays.collect()));
    }
    let mut new: Vec<Endpoint> = order.iter().filter_map(|key| wanted.remove(key)).collect();
    for (_, endpoints) in &mut kept {
        let room = ENDPOINTS_PER_SLICE_MAX.saturating_sub(endpoints.len()).min(new.len());
        endpoints.extend(new.drain(..room));
    }
    while !new.is_empty() {
        let rest = new.split_off(new.len().min(ENDPOINTS_PER_SLICE_MAX));
        let reused = unused.iter().position(|slice| is_ipv6(slice) == group.0).map(|index| unused.remove(index));
        kept.push((reused, std::mem::replace(&mut new, rest)));
    }
    for (old, endpoints) in kept {
        match old {
            Some(old) if endpoints.is_empty() => changes.delete.extend(old.metadata.name.clone()),
            Some(old) => update(old, slice(service, group, endpoints, trigger), changes),
            None => changes.create.push(slice(service, group, endpoints, trigger)),
        }
    }
}

fn update(old: &EndpointSlice, wanted: EndpointSlice, changes: &mut Changes) {
    let mut changed = old.clone();
    changed.endpoints = wanted.endpoints;
    changed.ports = wanted.ports;
    changed.metadata.labels = wanted.metadata.labels;
    changed.metadata.owner_references = wanted.metadata.owner_references;
    let same = changed.endpoints.as_deref().unwrap_or_default() == old.endpoints.as_deref().unwrap_or_default()
        && changed.ports.as_deref().unwrap_or_default() == old.ports.as_deref().unwrap_or_default()
        && changed.metadata == old.metadata;
    if !same {
        if let Some(trigger) =
            wanted.metadata.annotations.as_ref().and_then(|annotations| annotations.get(TRIGGER_TIME))
        {
            changed.metadata.annotations.get_or_insert_default().insert(TRIGGER_TIME.to_owned(), trigger.clone());
        }
        changes.update.push(changed);
    }
}

fn is_ipv6(slice: &EndpointSlice) -> bool {
    slice.address_type == "IPv6"
}

fn group_of(slice: &EndpointSlice) -> Group {
    let port = |port: &EndpointPort| TargetPort {
        name: port.name.clone().unwrap_or_default(),
        port: port.port.unwrap_or_default(),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        app_protocol: port.app_protocol.clone(),
    };
    let mut ports: Vec<TargetPort> = slice.ports.iter().flatten().map(port).collect();
    ports.sort();
    (is_ipv6(slice), ports)
}

/// What makes an endpoint the same one: its pod and address.
fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref()).unwrap_or_default();
    format!("{uid} {}", endpoint.addresses.join(","))
}

fn slice(service: &Service, group: &Group, endpoints: Vec<Endpoint>, trigger: Option<Timestamp>) -> EndpointSlice {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    labels.insert(SERVICE_NAME.to_owned(), name.to_owned());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let port = |port: &TargetPort| EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    };
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: trigger.map(|time| BTreeMap::from([(TRIGGER_TIME.to_owned(), timestamp::format(time))])),
            owner_references: Some(vec![controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: if group.0 { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints: (!endpoints.is_empty()).then_some(endpoints),
        ports: (!group.1.is_empty()).then(|| group.1.iter().map(port).collect()),
    }
}

fn endpoint(service: &Service, pod: &Pod, address: String, node: Option<&Node>) -> Endpoint {
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let serving = is_ready(pod);
    let ready = publishes_unready(service) || serving && !terminating;
    let zone = node
        .and_then(|node| node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned())
        .filter(|zone| !zone.is_empty());
    let node_name = Some(node_name(pod).to_owned()).filter(|name| !name.is_empty());
    let distribution = service.spec.as_ref().and_then(|spec| spec.traffic_distribution.as_deref());
    let zones = || zone.clone().map(|name| vec![ForZone { name }]);
    let hints = match distribution {
        _ if !ready => None,
        Some("PreferClose" | "PreferSameZone") => {
            zones().map(|zones| EndpointHints { for_zones: Some(zones), for_nodes: None })
        }
        Some("PreferSameNode") => {
            node_name.clone().map(|name| EndpointHints { for_zones: zones(), for_nodes: Some(vec![ForNode { name }]) })
        }
        _ => None,
    };
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name,
        zone,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        hints,
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service() -> Service {
        serde_json::from_value(json!({"metadata": {"name": "svc", "namespace": "ns", "uid": "s", "labels": {"x": "y"}},
            "spec": {"selector": {"app": "t"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
                "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]}}))
        .expect("a service")
    }

    fn pod(number: usize, ready: bool) -> Arc<Pod> {
        let ip = format!("10.1.{}.{}", number / 250, number % 250 + 1);
        let value = json!({"metadata": {"name": format!("p{number}"), "namespace": "ns", "uid": format!("u{number}")},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}});
        Arc::new(serde_json::from_value(value).expect("a pod"))
    }

    fn run(service: &Service, pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>]) -> Changes {
        reconcile(service, pods, &|_| None, slices)
    }

    fn named(slices: Vec<EndpointSlice>) -> Vec<Arc<EndpointSlice>> {
        let name = |(index, mut slice): (usize, EndpointSlice)| {
            slice.metadata.name = Some(format!("svc-{index}"));
            Arc::new(slice)
        };
        slices.into_iter().enumerate().map(name).collect()
    }

    #[test]
    fn a_slice_is_as_upstreams() {
        let changes = run(&service(), &[pod(0, true), pod(1, false)], &[]);
        insta::assert_json_snapshot!(changes.create, @r#"
        [
          {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "addressType": "IPv4",
            "endpoints": [
              {
                "addresses": [
                  "10.1.0.1"
                ],
                "conditions": {
                  "ready": true,
                  "serving": true,
                  "terminating": false
                },
                "nodeName": "n1",
                "targetRef": {
                  "kind": "Pod",
                  "name": "p0",
                  "namespace": "ns",
                  "uid": "u0"
                }
              },
              {
                "addresses": [
                  "10.1.0.2"
                ],
                "conditions": {
                  "ready": false,
                  "serving": false,
                  "terminating": false
                },
                "nodeName": "n1",
                "targetRef": {
                  "kind": "Pod",
                  "name": "p1",
                  "namespace": "ns",
                  "uid": "u1"
                }
              }
            ],
            "metadata": {
              "generateName": "svc-",
              "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": "svc",
                "x": "y"
              },
              "namespace": "ns",
              "ownerReferences": [
                {
                  "apiVersion": "v1",
                  "blockOwnerDeletion": true,
                  "controller": true,
                  "kind": "Service",
                  "name": "svc",
                  "uid": "s"
                }
              ]
            },
            "ports": [
              {
                "name": "http",
                "port": 8080,
                "protocol": "TCP"
              }
            ]
          }
        ]
        "#);
    }

    #[test]
    fn changes_are_few() {
        let service = service();
        let pods: Vec<_> = (0..250).map(|number| pod(number, true)).collect();
        let slices = named(run(&service, &pods, &[]).create);
        assert_eq!(
            slices.iter().map(|slice| slice.endpoints.iter().flatten().count()).collect::<Vec<_>>(),
            [100, 100, 50]
        );
        assert_eq!(run(&service, &pods, &slices), Changes::default(), "nothing to do");
        let mut one_less = pods.clone();
        one_less.remove(120);
        let changes = run(&service, &one_less, &slices);
        assert_eq!((changes.create.len(), changes.update.len(), changes.delete.len()), (0, 1, 0));
        let mut one_unready = pods;
        one_unready[3] = pod(3, false);
        let changes = run(&service, &one_unready, &slices);
        assert_eq!((changes.create.len(), changes.update.len(), changes.delete.len()), (0, 1, 0));
        let changes = run(&service, &[], &slices);
        assert_eq!(
            (changes.create.len(), changes.update.len(), changes.delete.len()),
            (0, 1, 2),
            "a placeholder stays"
        );
        assert!(changes.update[0].endpoints.is_none() && changes.update[0].ports.is_none());
    }
}
