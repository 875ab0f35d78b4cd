//! Which endpoints of a service a node uses: pure, after upstream's `CategorizeEndpoints` (KEP-1669 terminating
//! endpoints, KEP-2086 internal traffic policy, KEP-3015 traffic distribution).

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::EndpointSlice;

/// Where a connection goes: address and port of an endpoint.
pub(super) use crate::conntrack::Target;

/// An endpoint of one port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) target: Target,
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
    /// Whether it runs on this node.
    pub(super) local: bool,
    /// Nodes that should use it; none: no hint.
    pub(super) for_nodes: Vec<String>,
    /// Zones that should use it; none: no hint.
    pub(super) for_zones: Vec<String>,
}

/// Where the proxy runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) node: String,
    pub(super) zone: Option<String>,
}

/// The endpoints of a port in some slices, one for each target. `four` selects the family.
pub(super) fn of_port<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    port_name: &str,
    protocol: &str,
    four: bool,
    node: &str,
) -> Vec<Endpoint> {
    let family = if four { "IPv4" } else { "IPv6" };
    let mut endpoints: BTreeMap<Target, Endpoint> = BTreeMap::new();
    for slice in slices.into_iter().filter(|slice| slice.address_type == family) {
        let ports = slice.ports.iter().flatten().filter(|port| {
            port.name.as_deref().unwrap_or_default() == port_name
                && port.protocol.as_deref().unwrap_or("TCP") == protocol
        });
        for number in ports.filter_map(|port| u16::try_from(port.port?).ok()) {
            for endpoint in slice.endpoints.iter().flatten() {
                let Some(ip) = endpoint.addresses.first().and_then(|ip| ip.parse::<IpAddr>().ok()) else { continue };
                if ip.is_ipv4() != four {
                    continue;
                }
                let conditions = endpoint.conditions.as_ref();
                let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
                let hints = endpoint.hints.as_ref();
                let new = Endpoint {
                    target: (ip, number),
                    ready,
                    serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(ready),
                    terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
                    local: endpoint.node_name.as_deref() == Some(node),
                    for_nodes: hints
                        .and_then(|hints| hints.for_nodes.as_ref())
                        .map(|nodes| nodes.iter().map(|node| node.name.clone()).collect())
                        .unwrap_or_default(),
                    for_zones: hints
                        .and_then(|hints| hints.for_zones.as_ref())
                        .map(|zones| zones.iter().map(|zone| zone.name.clone()).collect())
                        .unwrap_or_default(),
                };
                // While an endpoint moves from one slice to another it is in both.
                endpoints
                    .entry(new.target)
                    .and_modify(|known| {
                        known.local |= new.local;
                        if new.ready && !known.ready {
                            *known = Endpoint { local: known.local, ..new.clone() };
                        }
                    })
                    .or_insert(new);
            }
        }
    }
    endpoints.into_values().collect()
}

/// The endpoints that connections of a port may go to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selected {
    /// For traffic that may go anywhere in the cluster.
    pub(super) cluster: Vec<Target>,
    /// For traffic that must stay on this node.
    pub(super) local: Vec<Target>,
    /// Whether there is a usable endpoint at all, on whichever node.
    pub(super) any: bool,
    /// Endpoints of this node among all of these, which may find themselves behind the service.
    pub(super) here: Vec<Target>,
}

enum Topology {
    Anywhere,
    SameNode,
    SameZone,
}

/// Hints count only when all ready endpoints have them and one of them is for this place.
fn topology(endpoints: &[Endpoint], place: &Place) -> Topology {
    let ready = || endpoints.iter().filter(|endpoint| endpoint.ready);
    if ready().all(|endpoint| !endpoint.for_nodes.is_empty())
        && ready().any(|endpoint| endpoint.for_nodes.contains(&place.node))
    {
        return Topology::SameNode;
    }
    if let Some(zone) = &place.zone
        && ready().all(|endpoint| !endpoint.for_zones.is_empty())
        && ready().any(|endpoint| endpoint.for_zones.contains(zone))
    {
        return Topology::SameZone;
    }
    Topology::Anywhere
}

/// Chooses among a port's endpoints. Where none is ready, those that terminate but still serve are used.
pub(super) fn select(endpoints: &[Endpoint], place: &Place) -> Selected {
    let topology = topology(endpoints, place);
    let fits = |endpoint: &&Endpoint| match (&topology, &place.zone) {
        (Topology::SameNode, _) => endpoint.for_nodes.contains(&place.node),
        (Topology::SameZone, Some(zone)) => endpoint.for_zones.contains(zone),
        _ => true,
    };
    let target = |endpoint: &Endpoint| endpoint.target;
    let leaving = |endpoint: &&Endpoint| endpoint.serving && endpoint.terminating;

    let ready = endpoints.iter().filter(|endpoint| endpoint.ready);
    let mut cluster: Vec<Target> = ready.clone().filter(fits).map(target).collect();
    if cluster.is_empty() {
        cluster = endpoints.iter().filter(leaving).map(target).collect();
    }
    let mut local: Vec<Target> = ready.filter(|endpoint| endpoint.local).map(target).collect();
    if local.is_empty() {
        local = endpoints.iter().filter(|endpoint| endpoint.local).filter(leaving).map(target).collect();
    }
    let used = |endpoint: &&Endpoint| cluster.contains(&endpoint.target) || local.contains(&endpoint.target);
    let here = endpoints.iter().filter(|endpoint| endpoint.local).filter(used).map(target).collect();
    let any = endpoints.iter().any(|endpoint| endpoint.ready || (endpoint.serving && endpoint.terminating));
    Selected { cluster, local, any, here }
}

/// Puts targets into the order in which they were before, as far as they were: new ones take the places of those that
/// are gone, and what is left at the end moves into the holes. So a change touches few places, however many there are.
pub(super) fn keep_places(before: &[Target], now: &[Target]) -> Vec<Target> {
    let wanted: std::collections::HashSet<&Target> = now.iter().collect();
    let known: std::collections::HashSet<&Target> = before.iter().collect();
    let mut new = now.iter().filter(|target| !known.contains(target)).copied();
    let mut places: Vec<Option<Target>> =
        before.iter().map(|target| if wanted.contains(target) { Some(*target) } else { new.next() }).collect();
    places.extend(new.map(Some));
    let mut at = 0;
    while at < places.len() {
        if places[at].is_some() {
            at += 1;
        } else {
            places.swap_remove(at);
        }
    }
    places.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn slice(value: serde_json::Value) -> EndpointSlice {
        serde_json::from_value(value).expect("an EndpointSlice")
    }

    #[test]
    fn endpoints_come_from_all_slices_of_a_family() {
        let slices = [
            slice(json!({
            "addressType": "IPv4", "metadata": {"name": "a"},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}],
            "endpoints": [
                {"addresses": ["10.0.0.2"], "nodeName": "n1", "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["10.0.0.1"], "nodeName": "n2"},
            ]})),
            slice(json!({
                "addressType": "IPv4", "metadata": {"name": "b"},
                "ports": [{"name": "http", "port": 8080}],
                "endpoints": [{"addresses": ["10.0.0.2"], "hints": {"forZones": [{"name": "z"}]}}, {"addresses": ["bad"]}]})),
            slice(json!({
                "addressType": "IPv6", "metadata": {"name": "c"},
                "ports": [{"name": "http", "port": 8080}], "endpoints": [{"addresses": ["fd00::1"]}]})),
        ];
        let found = of_port(&slices, "http", "TCP", true, "n1");
        let described: Vec<(String, bool, bool)> =
            found.iter().map(|found| (found.target.0.to_string(), found.ready, found.local)).collect();
        assert_eq!(described, [("10.0.0.1".to_owned(), true, false), ("10.0.0.2".to_owned(), true, true)]);
        assert_eq!(of_port(&slices, "http", "TCP", false, "n1").len(), 1);
        assert_eq!(of_port(&slices, "dns", "UDP", true, "n1").len(), 2);
        assert_eq!(of_port(&slices, "dns", "TCP", true, "n1"), []);
    }

    /// `name: state [local] [node=..] [zone=..]` for each endpoint, then what cluster and local traffic use.
    fn check(endpoints: &[(u8, &str)], cluster: &[u8], local: &[u8], any: bool) {
        let endpoints: Vec<Endpoint> = endpoints
            .iter()
            .map(|(number, words)| {
                let has = |word: &str| words.split(' ').any(|have| have == word);
                let hint = |name: &str| -> Vec<String> {
                    words.split(' ').filter_map(|word| word.strip_prefix(name)).map(str::to_owned).collect()
                };
                Endpoint {
                    target: (IpAddr::from([10, 0, 0, *number]), 80),
                    ready: has("ready"),
                    serving: has("ready") || has("leaving"),
                    terminating: has("leaving") || has("gone"),
                    local: has("local"),
                    for_nodes: hint("node="),
                    for_zones: hint("zone="),
                }
            })
            .collect();
        let place = Place { node: "n1".to_owned(), zone: Some("z1".to_owned()) };
        let selected = select(&endpoints, &place);
        let targets = |numbers: &[u8]| -> Vec<Target> {
            numbers.iter().map(|number| (IpAddr::from([10, 0, 0, *number]), 80)).collect()
        };
        assert_eq!(selected.cluster, targets(cluster), "cluster traffic of {endpoints:?}");
        assert_eq!(selected.local, targets(local), "local traffic of {endpoints:?}");
        assert_eq!(selected.any, any, "{endpoints:?}");
    }

    #[test]
    fn endpoints_are_chosen_as_upstream_does() {
        check(&[], &[], &[], false);
        check(&[(1, "ready"), (2, "ready local"), (3, "down")], &[1, 2], &[2], true);
        // Terminating ones only where nothing is ready.
        check(&[(1, "ready"), (2, "leaving local")], &[1], &[2], true);
        check(&[(1, "leaving"), (2, "gone local")], &[1], &[], true);
        check(&[(1, "gone"), (2, "down local")], &[], &[], false);
        // Hints of zones and nodes.
        check(&[(1, "ready zone=z1"), (2, "ready zone=z2 local")], &[1], &[2], true);
        check(&[(1, "ready zone=z2"), (2, "ready zone=z3")], &[1, 2], &[], true);
        check(&[(1, "ready zone=z1"), (2, "ready")], &[1, 2], &[], true);
        check(&[(1, "ready node=n1 zone=z1 local"), (2, "ready node=n2 zone=z1")], &[1], &[1], true);
        check(&[(1, "ready node=n3 zone=z1"), (2, "ready node=n2 zone=z2")], &[1], &[], true);
    }

    proptest! {
        #[test]
        fn places_are_kept(
            before in proptest::collection::hash_set(0u8..40, 0..30),
            now in proptest::collection::hash_set(0u8..40, 0..30),
        ) {
            let targets = |numbers: &std::collections::HashSet<u8>| -> Vec<Target> {
                numbers.iter().map(|number| (IpAddr::from([10, 0, 0, *number]), 80)).collect()
            };
            let (before, now) = (targets(&before), targets(&now));
            let placed = keep_places(&before, &now);
            let mut sorted = (placed.clone(), now.clone());
            sorted.0.sort();
            sorted.1.sort();
            prop_assert_eq!(sorted.0, sorted.1);
            let gone = before.iter().filter(|target| !now.contains(target)).count();
            let new = now.iter().filter(|target| !before.contains(target)).count();
            let touched = placed.iter().enumerate().filter(|(at, target)| before.get(*at) != Some(*target)).count();
            prop_assert!(touched <= gone.max(new), "{touched} places touched by {gone} gone and {new} new");
        }
    }
}
