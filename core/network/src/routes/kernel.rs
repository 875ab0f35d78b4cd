//! Routes to the pods of other nodes: straight to a node of the same link, through a VXLAN tunnel to one behind a router.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::packet_route::neighbour::NeighbourFlags;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::{Handle, LinkVxlan, RouteMessageBuilder};

use super::plan::Peer;
use crate::bridge::links;
use crate::error::NetworkError;

/// Marks routes as ours (`/etc/iproute2/rt_protos` leaves 64 to 185 to whoever needs one).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(116);
/// The tunnel's network number and port (RFC 7348), the same on all nodes.
const VXLAN_ID: u32 = 116;
const VXLAN_PORT: u16 = 4789;
/// What VXLAN adds to a packet over IPv6, the longer of the two, in bytes.
const VXLAN_OVERHEAD: u32 = 70;

/// How this node reaches a range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// The node is on this link.
    Direct { node: IpAddr, link: u32 },
    /// Through the tunnel to the node, whose bridge has this address.
    Tunnel { node: IpAddr, gateway: IpAddr, hardware: [u8; 6] },
}

/// The kernel's routes to peers.
pub(super) struct KernelRoutes {
    netlink: Handle,
    tunnel: String,
    /// This node's pod ranges; the first names its end of the tunnel.
    own: Vec<IpNet>,
    ways: BTreeMap<IpNet, Way>,
}

/// The hardware address of a node's end of the tunnel: every node knows it from the range.
fn tunnel_end(range: IpNet) -> [u8; 6] {
    let tail = match range.network() {
        IpAddr::V4(four) => four.octets(),
        IpAddr::V6(six) => {
            let octets = six.octets();
            // The end of a /64 is all zeros; its nodes differ before that.
            [octets[4], octets[5], octets[6], octets[7]]
        }
    };
    [0x0a, 0x59, tail[0], tail[1], tail[2], tail[3]]
}

/// The first address of a range: its node's bridge.
fn gateway_of(range: IpNet) -> Option<IpAddr> {
    match range.network() {
        IpAddr::V4(first) => Some(Ipv4Addr::from(u32::from(first).checked_add(1)?).into()),
        IpAddr::V6(first) => Some(Ipv6Addr::from(u128::from(first).checked_add(1)?).into()),
    }
}

fn to(range: IpNet) -> Result<RouteMessageBuilder<IpAddr>, NetworkError> {
    RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(range.network(), range.prefix_len())
        .map_err(|_| NetworkError::Setting { setting: format!("pod range {range}"), reason: "is no route's target" })
}

fn setting(range: IpNet, reason: &'static str) -> NetworkError {
    NetworkError::Setting { setting: format!("pod range {range}"), reason }
}

impl KernelRoutes {
    pub(super) async fn open(tunnel: &str, own: &[IpNet]) -> Result<Self, NetworkError> {
        let netlink = links::connect_to_kernel().await?;
        Ok(Self { netlink, tunnel: tunnel.to_owned(), own: own.to_vec(), ways: BTreeMap::new() })
    }

    /// Makes the routes those to these peers, and no others. What an earlier process left is taken over.
    pub(super) async fn apply(&mut self, peers: &BTreeMap<String, Peer>) -> Result<(), NetworkError> {
        let mut wanted = BTreeMap::new();
        for peer in peers.values() {
            for range in &peer.ranges {
                if let Some(way) = self.way(peer, *range).await? {
                    wanted.insert(*range, way);
                }
            }
        }
        let needs_tunnel = wanted.values().any(|way| matches!(way, Way::Tunnel { .. }));
        let tunnel = if needs_tunnel { Some(self.tunnel().await?) } else { None };
        for route in self.ours().await? {
            let known = target(&route).is_some_and(|range| wanted.contains_key(&range));
            if !known {
                self.delete(route).await?;
            }
        }
        for (range, way) in &wanted {
            if self.ways.get(range) != Some(way) {
                self.add(*range, way, tunnel).await?;
            }
        }
        self.ways = wanted;
        if tunnel.is_none() {
            links::remove(&self.netlink, &self.tunnel).await?;
        }
        Ok(())
    }

    /// Takes all of it away.
    pub(super) async fn remove(&mut self) -> Result<(), NetworkError> {
        self.apply(&BTreeMap::new()).await
    }

    async fn way(&self, peer: &Peer, range: IpNet) -> Result<Option<Way>, NetworkError> {
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == range.addr().is_ipv4();
        let Some(node) = peer.node_ips.iter().find(same_family).or(peer.node_ips.first()).copied() else {
            return Ok(None);
        };
        let Some(route) = self.route_to(node).await? else { return Ok(None) };
        if route.header.kind == RouteType::Local {
            // Another node of this very machine: its bridge is here.
            return Ok(None);
        }
        let link = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(link) => Some(*link),
            _ => None,
        });
        let routed = route.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::Gateway(_)));
        if let Some(link) = link.filter(|_| !routed && node.is_ipv4() == range.addr().is_ipv4()) {
            return Ok(Some(Way::Direct { node, link }));
        }
        let end = peer.ranges.first().copied().unwrap_or(range);
        let Some(gateway) = gateway_of(range) else { return Err(setting(range, "has no first address")) };
        Ok(Some(Way::Tunnel { node, gateway, hardware: tunnel_end(end) }))
    }

    /// How the kernel would send to an address; none when it can't.
    async fn route_to(&self, ip: IpAddr) -> Result<Option<RouteMessage>, NetworkError> {
        let host = IpNet::from(ip);
        match self.netlink.route().get(to(host)?.build()).execute().try_next().await {
            Ok(route) => Ok(route),
            Err(error) if links::is(&error, Errno::ENETUNREACH) || links::is(&error, Errno::EHOSTUNREACH) => Ok(None),
            Err(error) => Err(NetworkError::netlink("look up the route to node", ip)(error)),
        }
    }

    /// The tunnel's index; makes it when it isn't there.
    async fn tunnel(&self) -> Result<u32, NetworkError> {
        let name = self.tunnel.as_str();
        if let Some(link) = links::find(&self.netlink, name).await? {
            return Ok(link.header.index);
        }
        let mtu = links::outward_mtu(&self.netlink).await?.saturating_sub(VXLAN_OVERHEAD);
        let mut link = LinkVxlan::new(name, VXLAN_ID).port(VXLAN_PORT).learning(false).mtu(mtu).up();
        if let Some(own) = self.own.first() {
            link = link.address(tunnel_end(*own).to_vec());
        }
        self.netlink.link().add(link.build()).execute().await.map_err(NetworkError::netlink("create tunnel", name))?;
        let link = links::find(&self.netlink, name).await?;
        link.map(|link| link.header.index).ok_or_else(|| NetworkError::System {
            operation: "create tunnel",
            object: name.to_owned(),
            source: Errno::ENODEV.into(),
        })
    }

    /// The routes that bear our mark.
    async fn ours(&self) -> Result<Vec<RouteMessage>, NetworkError> {
        let mut ours = Vec::new();
        for four in [true, false] {
            let query = if four {
                RouteMessageBuilder::<Ipv4Addr>::new().build()
            } else {
                RouteMessageBuilder::<Ipv6Addr>::new().build()
            };
            let mut routes = self.netlink.route().get(query).execute();
            while let Some(route) = routes.try_next().await.map_err(NetworkError::netlink("list", "routes"))? {
                if route.header.protocol == PROTOCOL {
                    ours.push(route);
                }
            }
        }
        Ok(ours)
    }

    async fn delete(&self, route: RouteMessage) -> Result<(), NetworkError> {
        let described = target(&route).map(|range| range.to_string()).unwrap_or_default();
        match self.netlink.route().del(route).execute().await {
            Err(error) if !links::is(&error, Errno::ESRCH) => {
                Err(NetworkError::netlink("remove the route to pods", described)(error))
            }
            _ => Ok(()),
        }
    }

    async fn add(&self, range: IpNet, way: &Way, tunnel: Option<u32>) -> Result<(), NetworkError> {
        let failed = |operation| NetworkError::netlink(operation, range);
        let family = || setting(range, "differs in family from its gateway");
        let route = match (way, tunnel) {
            (Way::Direct { node, link }, _) => to(range)?.gateway(*node).map_err(|_| family())?.output_interface(*link),
            (Way::Tunnel { node, gateway, hardware }, Some(tunnel)) => {
                // The tunnel learns nothing: who has which hardware address, and behind which node it is, is told.
                let neighbours = self.netlink.neighbours();
                let entry = neighbours.add_bridge(tunnel, hardware).destination(*node).flags(NeighbourFlags::Own);
                entry.replace().execute().await.map_err(failed("name the node of pods"))?;
                let entry = neighbours.add(tunnel, *gateway).link_layer_address(hardware);
                entry.replace().execute().await.map_err(failed("name the gateway of pods"))?;
                let mut route = to(range)?.gateway(*gateway).map_err(|_| family())?.output_interface(tunnel).onlink();
                let own = self.own.iter().find(|own| own.addr().is_ipv4() == range.addr().is_ipv4());
                if let Some(source) = own.and_then(|own| gateway_of(*own)) {
                    // Answers come back through the tunnel.
                    route = route.pref_source(source).map_err(|_| family())?;
                }
                route
            }
            (Way::Tunnel { .. }, None) => return Err(setting(range, "needs a tunnel that isn't there")),
        };
        let route = route.protocol(PROTOCOL).build();
        self.netlink.route().add(route).replace().execute().await.map_err(failed("set the route to pods"))
    }
}

/// Where a route leads.
fn target(route: &RouteMessage) -> Option<IpNet> {
    let ip = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })?;
    IpNet::new(ip, route.header.destination_prefix_length).ok()
}
