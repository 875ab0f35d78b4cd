//! Cluster addresses and node ports of services.
//!
//! Who owns an address is written in the same transaction as the service: an `IPAddress` object for a cluster
//! address (as upstream), a key of its own for a node port. Both are created only where nothing was, so that no
//! address is given twice, whatever crashes when.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use gantry_api::error::ApiError;
use gantry_api::field::{FieldError, FieldPath};
use gantry_api::object::{Object, items_at, map_mut, str_at};
use gantry_api::resources::{Resource, ResourceTable};
use gantry_store::{Compare, Op};
use ipnet::IpNet;
use jiff::Timestamp;
use parking_lot::Mutex;
use rand::Rng;
use serde_json::{Value, json};
use uuid::Uuid;

use super::commit::Extra;
use super::{keys, timestamp};
use crate::cache::Caches;
use crate::cache::entry::encode;

/// Upstream's default range of node ports.
pub const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;
/// Upstream's default service network.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// How often a random address is drawn before the range is searched in order.
const RANDOM_DRAWS: usize = 64;

/// Gives addresses and ports to services.
pub struct Allocator {
    range: IpNet,
    /// Given to writes that aren't committed yet.
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    addresses: HashSet<IpAddr>,
    ports: HashSet<u16>,
}

/// What a service is about to get; given back when dropped, by then it is either stored or free again.
pub struct Reservation<'a> {
    allocator: &'a Allocator,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
    /// Ports by the index of the service's port.
    port_of: Vec<(usize, u16)>,
    health_check_port: Option<u16>,
    set_cluster_ips: bool,
    owner: (String, String),
    extra: Extra,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut pending = self.allocator.pending.lock();
        for address in &self.addresses {
            pending.addresses.remove(address);
        }
        for port in &self.ports {
            pending.ports.remove(port);
        }
    }
}

/// Whether a resource is the services.
pub fn is_service(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "services"
}

/// The cluster addresses that a service has; none for headless and external ones.
pub fn cluster_addresses(service: &Object) -> Vec<IpAddr> {
    let listed = items_at(service, "spec.clusterIPs");
    let texts: Vec<&str> = if listed.is_empty() {
        vec![str_at(service, "spec.clusterIP")]
    } else {
        listed.iter().filter_map(Value::as_str).collect()
    };
    texts.into_iter().filter_map(|text| IpAddr::from_str(text).ok()).collect()
}

/// The node ports that a service has.
pub fn node_ports(service: &Object) -> Vec<u16> {
    let health = service["spec"]["healthCheckNodePort"].as_u64();
    items_at(service, "spec.ports")
        .iter()
        .filter_map(|port| port["nodePort"].as_u64())
        .chain(health)
        .filter_map(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
        .collect()
}

fn needs_address(service: &Object) -> bool {
    str_at(service, "spec.type") != "ExternalName"
        && str_at(service, "spec.clusterIP") != "None"
        && items_at(service, "spec.clusterIPs").first().is_none_or(|ip| ip != "None")
}

fn needs_node_ports(service: &Object) -> bool {
    match str_at(service, "spec.type") {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true),
        _ => false,
    }
}

impl Allocator {
    /// An allocator of a service network.
    pub fn new(range: IpNet) -> Self {
        Self { range, pending: Mutex::default() }
    }

    /// The network.
    pub fn range(&self) -> IpNet {
        self.range
    }

    /// Reserves what a service needs and hasn't got. Of other resources nothing is reserved.
    pub fn reserve(
        &self,
        caches: &Caches,
        resource: &Resource,
        object: &Object,
        old: Option<&Object>,
        dry_run: bool,
    ) -> Result<Reservation<'_>, ApiError> {
        let owner = (str_at(object, "metadata.namespace").to_owned(), str_at(object, "metadata.name").to_owned());
        let mut reservation = Reservation {
            allocator: self,
            addresses: Vec::new(),
            ports: Vec::new(),
            port_of: Vec::new(),
            health_check_port: None,
            set_cluster_ips: false,
            owner,
            extra: Extra::default(),
        };
        if !is_service(resource) {
            return Ok(reservation);
        }
        self.reserve_address(caches, object, old, dry_run, &mut reservation)?;
        self.reserve_ports(caches, object, old, &mut reservation)?;
        self.give_up(object, old, &mut reservation);
        Ok(reservation)
    }

    fn reserve_address(
        &self,
        caches: &Caches,
        object: &Object,
        old: Option<&Object>,
        dry_run: bool,
        reservation: &mut Reservation<'_>,
    ) -> Result<(), ApiError> {
        if !needs_address(object) {
            return Ok(());
        }
        let has = old.map(cluster_addresses).unwrap_or_default();
        let wanted = cluster_addresses(object);
        let name = str_at(object, "metadata.name");
        let refuse = |text: String| {
            let shown = if items_at(object, "spec.clusterIPs").is_empty() {
                json!([str_at(object, "spec.clusterIP")])
            } else {
                object["spec"]["clusterIPs"].clone()
            };
            ApiError::invalid(
                ("", "Service"),
                name,
                &[FieldError::invalid(&FieldPath::new("spec.clusterIPs"), shown, text)],
            )
        };
        if wanted.is_empty() {
            if !has.is_empty() {
                return Ok(());
            }
            let address = self
                .free_address(caches)
                .ok_or_else(|| ApiError::internal("failed to allocate a serviceIP: range is full"))?;
            reservation.set_cluster_ips = true;
            self.take_address(address, reservation)?;
            return Ok(());
        }
        for address in wanted.into_iter().filter(|address| !has.contains(address)) {
            if !self.range.contains(&address) {
                return Err(refuse(format!(
                    "failed to allocate IP {address}: the provided network does not match the current range"
                )));
            }
            if dry_run {
                // As upstream: a dry run checks only that the address could be given.
                continue;
            }
            let taken = self.is_taken(caches, address) || !self.pending.lock().addresses.insert(address);
            if taken {
                return Err(refuse(format!("failed to allocate IP {address}: provided IP is already allocated")));
            }
            self.note_address(address, reservation)?;
        }
        Ok(())
    }

    fn is_taken(&self, caches: &Caches, address: IpAddr) -> bool {
        caches
            .named("networking.k8s.io", "ipaddresses")
            .is_some_and(|stored| stored.cache.get(&address.to_string()).is_some())
    }

    fn free_address(&self, caches: &Caches) -> Option<IpAddr> {
        let pending = self.pending.lock();
        let is_free = |address: &IpAddr| !pending.addresses.contains(address) && !self.is_taken(caches, *address);
        let (low, count) = upper_band(self.range);
        let mut rng = rand::rng();
        let draws = (0..RANDOM_DRAWS).map(|_| nth(self.range, low + rng.random_range(0..count)));
        let size = size(self.range);
        draws
            .into_iter()
            .find(is_free)
            .or_else(|| (low..low + count).chain(1..size.saturating_sub(1)).map(|at| nth(self.range, at)).find(is_free))
    }

    fn take_address(&self, address: IpAddr, reservation: &mut Reservation<'_>) -> Result<(), ApiError> {
        self.pending.lock().addresses.insert(address);
        self.note_address(address, reservation)
    }

    /// Adds the `IPAddress` object to the transaction.
    fn note_address(&self, address: IpAddr, reservation: &mut Reservation<'_>) -> Result<(), ApiError> {
        reservation.addresses.push(address);
        let (key, value) = address_object(address, &reservation.owner.0, &reservation.owner.1)?;
        reservation.extra.compares.push(Compare::absent(key.clone()));
        reservation.extra.ops.push(Op::put(key, value));
        Ok(())
    }

    fn reserve_ports(
        &self,
        caches: &Caches,
        object: &Object,
        old: Option<&Object>,
        reservation: &mut Reservation<'_>,
    ) -> Result<(), ApiError> {
        let has = old.map(node_ports).unwrap_or_default();
        let used = used_ports(caches);
        let name = str_at(object, "metadata.name");
        let fixed: Vec<(usize, u16)> = items_at(object, "spec.ports")
            .iter()
            .enumerate()
            .filter_map(|(at, port)| Some((at, u16::try_from(port["nodePort"].as_u64()?).ok()?)))
            .filter(|(_, port)| *port != 0)
            .collect();
        for (at, port) in &fixed {
            if has.contains(port) || reservation.ports.contains(port) {
                continue;
            }
            let refuse = |text: &str| {
                ApiError::invalid(
                    ("", "Service"),
                    name,
                    &[FieldError::invalid(&FieldPath::new("spec.ports").index(*at).child("nodePort"), *port, text)],
                )
            };
            if !NODE_PORTS.contains(port) {
                return Err(refuse("provided port is not in the valid range. The range of valid ports is 30000-32767"));
            }
            if used.contains(port) || !self.pending.lock().ports.insert(*port) {
                return Err(refuse("provided port is already allocated"));
            }
            self.note_port(*port, reservation);
        }
        if needs_node_ports(object) {
            let fixed_at: HashSet<usize> = fixed.iter().map(|(at, _)| *at).collect();
            for (at, port) in items_at(object, "spec.ports").iter().enumerate() {
                if fixed_at.contains(&at) {
                    continue;
                }
                let same = fixed.iter().map(|(at, port)| (*at, *port)).chain(reservation.port_of.iter().copied()).find(
                    |(other, _)| {
                        // One number for TCP and UDP of one port, as upstream.
                        let other = &items_at(object, "spec.ports")[*other];
                        other["port"] == port["port"] && other["protocol"] != port["protocol"]
                    },
                );
                let number = match same {
                    Some((_, number)) => number,
                    None => self.free_port(&used, reservation)?,
                };
                reservation.port_of.push((at, number));
            }
        }
        let wants_health =
            str_at(object, "spec.type") == "LoadBalancer" && str_at(object, "spec.externalTrafficPolicy") == "Local";
        if wants_health && object["spec"]["healthCheckNodePort"].as_u64().unwrap_or_default() == 0 {
            let number = self.free_port(&used, reservation)?;
            reservation.health_check_port = Some(number);
        }
        Ok(())
    }

    fn free_port(&self, used: &HashSet<u16>, reservation: &mut Reservation<'_>) -> Result<u16, ApiError> {
        let mut pending = self.pending.lock();
        let mut rng = rand::rng();
        let draws: Vec<u16> = (0..RANDOM_DRAWS).map(|_| rng.random_range(NODE_PORTS)).collect();
        let number = draws
            .into_iter()
            .chain(NODE_PORTS)
            .find(|port| !used.contains(port) && !pending.ports.contains(port))
            .ok_or_else(|| ApiError::internal("failed to allocate a nodePort: range is full"))?;
        pending.ports.insert(number);
        drop(pending);
        self.note_port(number, reservation);
        Ok(number)
    }

    fn note_port(&self, port: u16, reservation: &mut Reservation<'_>) {
        reservation.ports.push(port);
        let key = keys::node_port(port);
        let owner = format!("{}/{}", reservation.owner.0, reservation.owner.1);
        reservation.extra.compares.push(Compare::absent(key.clone()));
        reservation.extra.ops.push(Op::put(key, owner));
    }

    /// Adds to an update's transaction what the service no longer has.
    fn give_up(&self, object: &Object, old: Option<&Object>, reservation: &mut Reservation<'_>) {
        let Some(old) = old else { return };
        let keeps = if needs_address(object) && cluster_addresses(object).is_empty() {
            cluster_addresses(old)
        } else {
            cluster_addresses(object)
        };
        for address in cluster_addresses(old).into_iter().filter(|address| !keeps.contains(address)) {
            reservation.extra.ops.push(Op::delete(address_key(address)));
        }
        let keeps = node_ports(object);
        for port in node_ports(old).into_iter().filter(|port| !keeps.contains(port)) {
            reservation.extra.ops.push(Op::delete(keys::node_port(port)));
        }
    }

    /// What goes along with a service that is removed.
    pub fn release(&self, resource: &Resource, object: &Object) -> Extra {
        if !is_service(resource) {
            return Extra::default();
        }
        let addresses = cluster_addresses(object).into_iter().map(address_key);
        let mut ports = node_ports(object);
        ports.sort_unstable();
        ports.dedup();
        let ops = addresses.chain(ports.into_iter().map(keys::node_port)).map(Op::delete).collect();
        Extra { compares: Vec::new(), ops }
    }
}

impl Reservation<'_> {
    /// Writes what was reserved into the service.
    pub fn apply(&self, object: &mut Object) {
        if self.set_cluster_ips {
            let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
            let spec = map_mut(object, "spec");
            spec.insert("clusterIP".to_owned(), json!(addresses.first()));
            spec.insert("clusterIPs".to_owned(), json!(addresses));
        }
        if let Some(port) = self.health_check_port {
            map_mut(object, "spec").insert("healthCheckNodePort".to_owned(), json!(port));
        }
        for (at, number) in &self.port_of {
            if let Some(port) = object.pointer_mut(&format!("/spec/ports/{at}")).and_then(Value::as_object_mut) {
                port.insert("nodePort".to_owned(), json!(number));
            }
        }
    }

    /// What the transaction writes beside the service.
    pub fn extra(&self) -> Extra {
        self.extra.clone()
    }
}

fn address_key(address: IpAddr) -> String {
    format!("{}ipaddresses/{address}", keys::ROOT)
}

/// The key and the stored form of a service's `IPAddress`.
pub fn address_object(address: IpAddr, namespace: &str, service: &str) -> Result<(String, bytes::Bytes), ApiError> {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let object = json!({
        "metadata": {
            "name": address.to_string(),
            "uid": Uuid::new_v4().to_string(),
            "creationTimestamp": timestamp(Timestamp::now()),
            "labels": {"ipaddress.kubernetes.io/ip-family": family, "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"},
        },
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": service}},
    });
    let api_version = ResourceTable::builtin()
        .versions("networking.k8s.io")
        .first()
        .map_or_else(|| "networking.k8s.io/v1".to_owned(), |version| format!("networking.k8s.io/{version}"));
    let value = encode(&object, "IPAddress", &api_version).map_err(ApiError::internal)?;
    Ok((address_key(address), value))
}

fn used_ports(caches: &Caches) -> HashSet<u16> {
    caches.node_ports.read().clone()
}

fn size(range: IpNet) -> u128 {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len());
    1u128.checked_shl(bits).unwrap_or(u128::MAX)
}

/// Dynamic addresses come from the upper part of the range, so that the lower is left for chosen ones
/// (KEP-3070): the part behind min(max(16, size/16), 256).
fn upper_band(range: IpNet) -> (u128, u128) {
    let size = size(range);
    let offset = (size / 16).clamp(16, 256);
    if size <= 16 + 2 { (1, size.saturating_sub(2).max(1)) } else { (offset, size - offset - 1) }
}

fn nth(range: IpNet, at: u128) -> IpAddr {
    match range {
        IpNet::V4(net) => IpAddr::V4(Ipv4Addr::from_bits(net.network().to_bits().wrapping_add(at as u32))),
        IpNet::V6(net) => IpAddr::V6(Ipv6Addr::from_bits(net.network().to_bits().wrapping_add(at))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_addresses_come_from_the_upper_band() {
        for (range, low, count) in [("10.96.0.0/16", 256, 65279), ("10.0.0.0/24", 16, 239), ("10.0.0.0/28", 1, 14)] {
            assert_eq!(upper_band(range.parse().expect("a network")), (low, count), "{range}");
        }
        assert_eq!(nth("10.96.0.0/16".parse().expect("a network"), 258).to_string(), "10.96.1.2");
    }

    #[test]
    fn services_need_what_their_type_says() {
        let cases = [
            (json!({"spec": {"type": "ClusterIP"}}), true, false),
            (json!({"spec": {"type": "ClusterIP", "clusterIP": "None"}}), false, false),
            (json!({"spec": {"type": "NodePort"}}), true, true),
            (json!({"spec": {"type": "ExternalName"}}), false, false),
            (json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false}}), true, false),
        ];
        for (service, address, ports) in cases {
            assert_eq!((needs_address(&service), needs_node_ports(&service)), (address, ports), "{service}");
        }
    }
}
