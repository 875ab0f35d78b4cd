//! What a service puts into the rules: elements of maps and sets. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use super::endpoints::{self, Place, Selected, Target};
use super::handling::{Handling, Side};
use super::services::{ServiceOfFamily, ServicePort};

/// A map or a set of the proxy's tables. Their names and types are in the ruleset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Set {
    /// What to do with a connection to an address and port of a service.
    ServicePorts,
    /// The endpoints by number, for traffic to the whole cluster.
    Endpoints,
    /// The endpoints by number, for traffic that stays on the node.
    LocalEndpoints,
    /// For services with affinity: the token of an endpoint by its number.
    Tokens,
    LocalTokens,
    /// For services with affinity: the endpoint by its token.
    StickyEndpoints,
    LocalStickyEndpoints,
    /// What is refused or dropped, as nobody is there to answer.
    NoEndpointPorts,
    /// Endpoints of this node, which may reach themselves.
    Hairpins,
    /// Addresses of services: any other port of them is refused.
    ClusterIps,
    /// Addresses and ports that only some may reach, and who.
    GuardedPorts,
    AllowedSources,
}

impl Set {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ServicePorts => "service-ports",
            Self::Endpoints => "endpoints",
            Self::LocalEndpoints => "local-endpoints",
            Self::Tokens => "tokens",
            Self::LocalTokens => "local-tokens",
            Self::StickyEndpoints => "sticky-endpoints",
            Self::LocalStickyEndpoints => "local-sticky-endpoints",
            Self::NoEndpointPorts => "no-endpoint-ports",
            Self::Hairpins => "hairpins",
            Self::ClusterIps => "cluster-ips",
            Self::GuardedPorts => "guarded-ports",
            Self::AllowedSources => "allowed-sources",
        }
    }
}

/// Which element: the table's family, the set and the key in nftables' notation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ElementKey {
    pub(super) four: bool,
    pub(super) set: Set,
    pub(super) key: String,
}

/// An address and port that a service answers at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Frontend {
    pub(super) ip: IpAddr,
    /// `tcp`, `udp` or `sctp`.
    pub(super) protocol: &'static str,
    pub(super) port: u16,
}

impl fmt::Display for Frontend {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} . {} . {}", self.ip, self.protocol, self.port)
    }
}

/// Places of the endpoints of each port, by frontend side; kept from one plan to the next.
pub(super) type Places = BTreeMap<(bool, String, Side), Vec<Target>>;

/// What a service needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The value is empty for sets.
    pub(super) elements: BTreeMap<ElementKey, String>,
    /// The ways of handling a connection that the elements name.
    pub(super) handlings: BTreeSet<(bool, Handling)>,
    pub(super) places: Places,
    /// Where each UDP frontend may lead: flows that lead elsewhere must be forgotten when that changes.
    pub(super) udp: BTreeMap<Frontend, BTreeSet<Target>>,
}

/// What the planner knows of the node.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeView {
    pub(super) place: Place,
    /// The addresses at which node ports answer.
    pub(super) node_port_ips: Vec<IpAddr>,
}

/// Plans one service. `endpoints_of` gives the endpoints of a port, by name, protocol and family.
pub(super) fn plan(
    sides: &[ServiceOfFamily],
    endpoints_of: impl Fn(&ServicePort, bool) -> Vec<endpoints::Endpoint>,
    node: &NodeView,
    before: &Places,
) -> Plan {
    let mut plan = Plan::default();
    for service in sides {
        plan.element(service.four, Set::ClusterIps, service.cluster_ip.to_string(), "");
        for port in &service.ports {
            let Some(protocol) = protocol(&port.protocol) else { continue };
            let selected = endpoints::select(&endpoints_of(port, service.four), &node.place);
            PortPlanner {
                plan: &mut plan,
                service,
                port,
                protocol,
                node,
                selected: place(selected, service, port, before),
            }
            .plan();
        }
    }
    plan
}

fn protocol(name: &str) -> Option<&'static str> {
    match name {
        "TCP" => Some("tcp"),
        "UDP" => Some("udp"),
        "SCTP" => Some("sctp"),
        _ => None,
    }
}

fn place_key(service: &ServiceOfFamily, port: &ServicePort, side: Side) -> (bool, String, Side) {
    (service.four, format!("{}/{}", port.protocol, port.port), side)
}

fn place(mut selected: Selected, service: &ServiceOfFamily, port: &ServicePort, before: &Places) -> Selected {
    for (side, targets) in [(Side::Cluster, &mut selected.cluster), (Side::Local, &mut selected.local)] {
        if let Some(before) = before.get(&place_key(service, port, side)) {
            *targets = endpoints::keep_places(before, targets);
        }
    }
    selected
}

impl Plan {
    fn element(&mut self, four: bool, set: Set, key: String, value: impl Into<String>) {
        self.elements.insert(ElementKey { four, set, key }, value.into());
    }
}

struct PortPlanner<'a> {
    plan: &'a mut Plan,
    service: &'a ServiceOfFamily,
    port: &'a ServicePort,
    protocol: &'static str,
    node: &'a NodeView,
    selected: Selected,
}

impl PortPlanner<'_> {
    fn plan(mut self) {
        let service = self.service;
        for (side, targets) in [(Side::Cluster, &self.selected.cluster), (Side::Local, &self.selected.local)] {
            self.plan.places.insert(place_key(service, self.port, side), targets.clone());
        }
        for (ip, _) in &self.selected.here {
            self.plan.element(service.four, Set::Hairpins, format!("{ip} . {ip}"), "");
        }
        self.internal();
        for ip in &service.external_ips {
            self.external(*ip, self.port.port);
        }
        for ip in &service.load_balancer_ips {
            self.external(*ip, self.port.port);
            self.guard(*ip);
        }
        if let Some(port) = self.port.node_port {
            let ips: Vec<IpAddr> =
                self.node.node_port_ips.iter().filter(|ip| ip.is_ipv4() == service.four).copied().collect();
            for ip in ips {
                self.external(ip, port);
            }
        }
    }

    fn internal(&mut self) {
        let frontend = self.frontend(self.service.cluster_ip, self.port.port);
        let affinity = self.service.affinity;
        let side = if self.service.internal_local { Side::Local } else { Side::Cluster };
        let count = self.targets(side).len();
        if count == 0 {
            // Elsewhere there may be endpoints; but this traffic must not go there.
            self.nobody(&frontend, self.selected.any);
        } else {
            self.answer(&frontend, Handling::Internal { side, count, affinity });
            self.lead(&frontend, side);
        }
        let targets = self.targets(side).iter().copied().collect();
        self.remember_udp(frontend, targets);
    }

    fn external(&mut self, ip: IpAddr, port: u16) {
        let frontend = self.frontend(ip, port);
        let affinity = self.service.affinity;
        let cluster = self.selected.cluster.len();
        let local = self.selected.local.len();
        let mut targets: BTreeSet<Target> = self.selected.cluster.iter().copied().collect();
        if !self.service.external_local {
            if cluster == 0 {
                self.nobody(&frontend, false);
            } else {
                self.answer(&frontend, Handling::External { count: cluster, affinity });
                self.lead(&frontend, Side::Cluster);
            }
        } else if cluster == 0 && local == 0 {
            self.nobody(&frontend, false);
        } else {
            self.answer(&frontend, Handling::ExternalLocal { cluster, local, affinity });
            self.lead(&frontend, Side::Cluster);
            self.lead(&frontend, Side::Local);
            targets.extend(&self.selected.local);
        }
        self.remember_udp(frontend, targets);
    }

    fn frontend(&self, ip: IpAddr, port: u16) -> Frontend {
        Frontend { ip, protocol: self.protocol, port }
    }

    fn targets(&self, side: Side) -> &[Target] {
        match side {
            Side::Cluster => &self.selected.cluster,
            Side::Local => &self.selected.local,
        }
    }

    fn nobody(&mut self, frontend: &Frontend, elsewhere: bool) {
        let verdict = if elsewhere { "drop" } else { "goto refuse" };
        self.plan.element(self.service.four, Set::NoEndpointPorts, frontend.to_string(), verdict);
    }

    fn answer(&mut self, frontend: &Frontend, handling: Handling) {
        let verdict = format!("goto {}", handling.chain());
        self.plan.element(self.service.four, Set::ServicePorts, frontend.to_string(), verdict);
        self.plan.handlings.insert((self.service.four, handling));
    }

    /// Lists a side's endpoints under a frontend.
    fn lead(&mut self, frontend: &Frontend, side: Side) {
        let four = self.service.four;
        let (by_number, tokens, by_token) = match side {
            Side::Cluster => (Set::Endpoints, Set::Tokens, Set::StickyEndpoints),
            Side::Local => (Set::LocalEndpoints, Set::LocalTokens, Set::LocalStickyEndpoints),
        };
        let targets = self.targets(side).to_vec();
        let mut used = BTreeSet::new();
        for (number, (ip, port)) in (0..).zip(&targets) {
            let number = priority(number);
            if self.service.affinity.is_none() {
                self.plan.element(four, by_number, format!("{frontend} . {number}"), format!("{ip} . {port}"));
                continue;
            }
            let token = priority(token((*ip, *port), &mut used));
            self.plan.element(four, tokens, format!("{frontend} . {number}"), token.clone());
            self.plan.element(four, by_token, format!("{frontend} . {token}"), format!("{ip} . {port}"));
        }
    }

    fn guard(&mut self, ip: IpAddr) {
        let Some(ranges) = &self.service.source_ranges else { return };
        let four = self.service.four;
        let frontend = self.frontend(ip, self.port.port);
        self.plan.element(four, Set::GuardedPorts, frontend.to_string(), "");
        // Ranges that overlap aren't taken.
        let ranges = ipnet::IpNet::aggregate(ranges);
        for range in &ranges {
            self.plan.element(four, Set::AllowedSources, format!("{frontend} . {range}"), "");
        }
        // A node that owns the load balancer's address reaches it with that very address as its source.
        let own = ranges.iter().any(|range| self.node.node_port_ips.iter().any(|ip| range.contains(ip)));
        if own && !ranges.iter().any(|range| range.contains(&ip)) {
            self.plan.element(four, Set::AllowedSources, format!("{frontend} . {ip}"), "");
        }
    }

    fn remember_udp(&mut self, frontend: Frontend, targets: BTreeSet<Target>) {
        if frontend.protocol == "udp" {
            self.plan.udp.insert(frontend, targets);
        }
    }
}

/// A number as nftables writes a packet's priority.
fn priority(number: u32) -> String {
    format!("{:x}:{:x}", number >> 16, number & 0xffff)
}

/// A number for an endpoint that stays the same whatever happens to the others.
fn token(target: Target, used: &mut BTreeSet<u32>) -> u32 {
    // FNV-1a.
    let hash = format!("{}/{}", target.0, target.1)
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let mut token = hash;
    while !used.insert(token) {
        token = token.wrapping_add(1);
    }
    token
}
