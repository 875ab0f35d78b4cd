//! Which pods are behind which node: pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

/// Another node's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    /// The node's own addresses, one of each family.
    pub(super) node_ips: Vec<IpAddr>,
    /// Its pod ranges.
    pub(super) ranges: Vec<IpNet>,
}

/// The other nodes that have pods and can be reached, by name.
pub(super) fn peers<'a>(nodes: impl IntoIterator<Item = &'a Node>, own: &str) -> BTreeMap<String, Peer> {
    nodes.into_iter().filter_map(peer).filter(|(name, _)| name != own).collect()
}

fn peer(node: &Node) -> Option<(String, Peer)> {
    let name = node.metadata.name.clone()?;
    let spec = node.spec.as_ref()?;
    let first = spec.pod_cidr.as_ref().filter(|_| spec.pod_cidrs.as_ref().is_none_or(Vec::is_empty));
    let ranges: Vec<IpNet> =
        spec.pod_cidrs.iter().flatten().chain(first).filter_map(|range| range.parse().ok()).collect();
    let mut node_ips: Vec<IpAddr> = Vec::new();
    for address in node.status.iter().flat_map(|status| &status.addresses).flatten() {
        let Some(ip) = address.address.parse::<IpAddr>().ok().filter(|_| address.type_ == "InternalIP") else {
            continue;
        };
        if !node_ips.iter().any(|known| known.is_ipv4() == ip.is_ipv4()) {
            node_ips.push(ip);
        }
    }
    (!ranges.is_empty() && !node_ips.is_empty()).then_some((name, Peer { node_ips, ranges }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_with_pods_and_an_address_are_peers() {
        let node = |name: &str, cidrs: &[&str], ips: &[(&str, &str)]| -> Node {
            let addresses: Vec<_> =
                ips.iter().map(|(kind, address)| json!({"type": kind, "address": address})).collect();
            serde_json::from_value(json!({"metadata": {"name": name},
                "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs}, "status": {"addresses": addresses}}))
            .expect("a Node")
        };
        let internal = |address| ("InternalIP", address);
        let nodes = [
            node("own", &["10.244.0.0/24"], &[internal("192.0.2.1")]),
            node("new", &[], &[internal("192.0.2.2")]),
            node("lost", &["10.244.2.0/24"], &[("Hostname", "lost"), ("ExternalIP", "203.0.113.1")]),
            node(
                "both",
                &["10.244.3.0/24", "fd00:3::/64"],
                &[internal("192.0.2.3"), internal("192.0.2.33"), internal("2001:db8::3")],
            ),
        ];
        let peers = peers(&nodes, "own");
        let expect = Peer {
            node_ips: vec!["192.0.2.3".parse().expect("an address"), "2001:db8::3".parse().expect("an address")],
            ranges: vec!["10.244.3.0/24".parse().expect("a range"), "fd00:3::/64".parse().expect("a range")],
        };
        assert_eq!(peers, BTreeMap::from([("both".to_owned(), expect)]));
    }
}
