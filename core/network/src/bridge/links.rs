//! Links, addresses and routes: the bridge, and what leads from a sandbox to it.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::thread;

use futures::TryStreamExt;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::RouteAttribute;
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::sync::oneshot;

use super::namespaces::{NewNamespace, write_if_there};
use crate::error::NetworkError;

/// The name of a sandbox's link inside of it.
const SANDBOX_LINK: &str = "eth0";
/// A namespace's first link is always its loopback.
const LOOPBACK_INDEX: u32 = 1;
/// What Ethernet carries, for a machine without a default route.
const MTU_DEFAULT: u32 = 1500;

/// A locally administered hardware address made of an IP address: one that moves to another pod keeps its neighbours'
/// tables right, and a bridge keeps its own whatever joins it.
fn hardware_address(ip: IpAddr) -> Vec<u8> {
    let tail = match ip {
        IpAddr::V4(four) => four.octets(),
        IpAddr::V6(six) => {
            let octets = six.octets();
            [octets[12], octets[13], octets[14], octets[15]]
        }
    };
    [&[0x0a, 0x58], &tail[..]].concat()
}

/// The name of the node's end of the link to the sandbox with this address.
pub(super) fn host_link(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(four) => format!("veth{:08x}", u32::from(four)),
        IpAddr::V6(six) => format!("veth{:011x}", u128::from(six) & 0xfff_ffff_ffff),
    }
}

/// A connection to the kernel's links, addresses and routes in the network namespace of the caller. It has a thread of
/// its own, which ends with the last handle: the kernel works while it takes a request, and may take long.
pub(crate) async fn connect_to_kernel() -> Result<Handle, NetworkError> {
    let (sender, receiver) = oneshot::channel();
    let failed = || NetworkError::system::<io::Error>("open", "a netlink socket");
    let work = move || {
        let opened = tokio::runtime::Builder::new_current_thread().enable_io().build().and_then(|runtime| {
            let guard = runtime.enter();
            let (connection, netlink, _) = rtnetlink::new_connection()?;
            drop(guard);
            Ok((runtime, connection, netlink))
        });
        match opened {
            Ok((runtime, connection, netlink)) => {
                if sender.send(Ok(netlink)).is_ok() {
                    runtime.block_on(connection);
                }
            }
            Err(error) => {
                // Whoever asked may have been cancelled.
                let _ = sender.send(Err(error));
            }
        }
    };
    thread::Builder::new().name("netlink".to_owned()).spawn(work).map_err(failed())?;
    receiver.await.unwrap_or_else(|_| Err(io::Error::other("its thread ended early"))).map_err(failed())
}

/// A link by name, if there is one.
pub(crate) async fn find(netlink: &Handle, name: &str) -> Result<Option<LinkMessage>, NetworkError> {
    match netlink.link().get().match_name(name.to_owned()).execute().try_next().await {
        Ok(link) => Ok(link),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -(Errno::ENODEV as i32) => Ok(None),
        Err(error) => Err(NetworkError::netlink("look up link", name)(error)),
    }
}

pub(crate) fn is(error: &rtnetlink::Error, errno: Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -(errno as i32))
}

/// Makes the bridge, or makes the one that is there right. Returns its index.
pub(super) async fn ensure_bridge(
    netlink: &Handle,
    name: &str,
    gateways: &[IpNet],
    mtu: u32,
) -> Result<u32, NetworkError> {
    let hardware = gateways.first().map(|gateway| hardware_address(gateway.addr()));
    let described = || {
        let bridge = LinkMessageBuilder::<LinkBridge>::new(name).mtu(mtu);
        match &hardware {
            Some(address) => bridge.address(address.clone()),
            None => bridge,
        }
    };
    match netlink.link().add(described().build()).execute().await {
        Ok(()) => {}
        Err(error) if is(&error, Errno::EEXIST) => {
            // It stays up: pods are using it.
            let changed = netlink.link().change(described().build()).execute().await;
            changed.map_err(NetworkError::netlink("adopt bridge", name))?;
        }
        Err(error) => return Err(NetworkError::netlink("create bridge", name)(error)),
    }
    let missing = || std::io::Error::from(Errno::ENODEV);
    let bridge = find(netlink, name).await?.ok_or_else(|| NetworkError::System {
        operation: "create bridge",
        object: name.to_owned(),
        source: missing(),
    })?;
    let index = bridge.header.index;

    let mut addresses = netlink.address().get().set_link_index_filter(index).execute();
    while let Some(address) = addresses.try_next().await.map_err(NetworkError::netlink("list addresses of", name))? {
        let ip = address.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        });
        let link_local = matches!(ip, Some(IpAddr::V6(six)) if six.is_unicast_link_local());
        let wanted = gateways
            .iter()
            .any(|gateway| Some(gateway.addr()) == ip && gateway.prefix_len() == address.header.prefix_len);
        if !link_local && !wanted {
            let deleted = netlink.address().del(address).execute().await;
            deleted.map_err(NetworkError::netlink("remove an old address of", name))?;
        }
    }
    for gateway in gateways {
        add_address(netlink, index, *gateway, name).await?;
    }
    // Its link-local address is used for asking for IPv6 neighbours: at once, not after a second of looking for others.
    let parameter = format!("/proc/sys/net/ipv6/conf/{name}/accept_dad");
    write_if_there(&parameter, "0").map_err(NetworkError::system("set", &parameter))?;
    let up = LinkUnspec::new_with_index(index).up().build();
    netlink.link().change(up).execute().await.map_err(NetworkError::netlink("set up bridge", name))?;
    Ok(index)
}

async fn add_address(netlink: &Handle, index: u32, address: IpNet, link: &str) -> Result<(), NetworkError> {
    let mut request = netlink.address().add(index, address.addr(), address.prefix_len()).replace();
    if address.addr().is_ipv6() {
        // Usable at once: nobody else has it.
        request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    request.execute().await.map_err(NetworkError::netlink("set the address of", link))
}

/// The addresses of this machine.
pub(super) async fn local_addresses(netlink: &Handle) -> Result<HashSet<IpAddr>, NetworkError> {
    let mut addresses = netlink.address().get().execute();
    let mut local = HashSet::new();
    while let Some(address) = addresses.try_next().await.map_err(NetworkError::netlink("list", "addresses"))? {
        local.extend(address.attributes.iter().filter_map(|attribute| match attribute {
            AddressAttribute::Address(ip) | AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        }));
    }
    Ok(local)
}

/// Removes a link by name; nothing there is no failure. The peer of a veth goes with it.
pub(crate) async fn remove(netlink: &Handle, name: &str) -> Result<(), NetworkError> {
    let Some(link) = find(netlink, name).await? else {
        return Ok(());
    };
    match netlink.link().del(link.header.index).execute().await {
        Err(error) if !is(&error, Errno::ENODEV) => Err(NetworkError::netlink("remove link", name)(error)),
        _ => Ok(()),
    }
}

/// The index of a link, if it is there.
pub(super) async fn index_of(netlink: &Handle, name: &str) -> Result<Option<u32>, NetworkError> {
    Ok(find(netlink, name).await?.map(|link| link.header.index))
}

/// Removes a link by index; nothing there is no failure.
pub(super) async fn remove_index(netlink: &Handle, index: u32) -> Result<(), NetworkError> {
    match netlink.link().del(index).execute().await {
        Err(error) if !is(&error, Errno::ENODEV) => Err(NetworkError::netlink("remove link", index)(error)),
        _ => Ok(()),
    }
}

/// The kernel's group of the links that lead to a bridge's sandboxes. (The default group is 0, and people number from 1.)
fn group(bridge: u32) -> u32 {
    0x6761_0000 | (bridge & 0xffff)
}

/// Removes the links to all sandboxes of a bridge, at the price of one.
pub(super) async fn remove_all(netlink: &Handle, bridge: u32) -> Result<(), NetworkError> {
    let mut all = LinkMessage::default();
    all.attributes.push(LinkAttribute::Group(group(bridge)));
    match netlink.link().del_with_message(all).execute().await {
        Err(error) if !is(&error, Errno::ENODEV) => {
            Err(NetworkError::netlink("remove the links of", "all sandboxes")(error))
        }
        _ => Ok(()),
    }
}

/// Names of the links that are ports of a bridge.
pub(super) async fn ports(netlink: &Handle, bridge: u32) -> Result<Vec<String>, NetworkError> {
    let mut links = netlink.link().get().execute();
    let mut names = Vec::new();
    while let Some(link) = links.try_next().await.map_err(NetworkError::netlink("list", "links"))? {
        let is_port = link.attributes.contains(&LinkAttribute::Controller(bridge));
        names.extend(link.attributes.into_iter().filter(|_| is_port).find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        }));
    }
    Ok(names)
}

/// The largest packet that the node's way out takes: that of its default route's link, IPv4's first.
pub(crate) async fn outward_mtu(netlink: &Handle) -> Result<u32, NetworkError> {
    let queries = [
        RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    ];
    for query in queries {
        let mut routes = netlink.route().get(query).execute();
        let mut outward = None;
        while let Some(route) = routes.try_next().await.map_err(NetworkError::netlink("list", "routes"))? {
            if route.header.destination_prefix_length == 0 && outward.is_none() {
                outward = route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                });
            }
        }
        let Some(index) = outward else { continue };
        let link = netlink.link().get().match_index(index).execute().try_next().await;
        let link = link.map_err(NetworkError::netlink("look up the link of", "the default route"))?;
        let mtu = link.iter().flat_map(|link| &link.attributes).find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        if let Some(mtu) = mtu {
            return Ok(mtu);
        }
    }
    Ok(MTU_DEFAULT)
}

/// What a sandbox's links need.
pub(super) struct SandboxLink<'a> {
    /// The node's end.
    pub(super) host_link: &'a str,
    /// The bridge's index.
    pub(super) bridge: u32,
    /// The sandbox's addresses with the gateway of each.
    pub(super) addresses: &'a [(IpAddr, IpAddr)],
    pub(super) mtu: u32,
}

/// Links a new namespace to the bridge and gives it its addresses.
///
/// A sandbox knows no neighbour but its gateway (its addresses are /32 and /128): what it sends is routed by the node,
/// also to another pod of the same node. So services and policies see all traffic, whether the kernel filters bridges
/// or not.
pub(super) async fn connect(
    netlink: &Handle,
    namespace: &NewNamespace,
    link: &SandboxLink<'_>,
) -> Result<(), NetworkError> {
    let name = link.host_link;
    let failed = |operation| NetworkError::netlink(operation, name);
    let mut peer =
        LinkUnspec::new_with_name(SANDBOX_LINK).mtu(link.mtu).setns_by_fd(namespace.file.as_fd().as_raw_fd());
    if let Some((ip, _)) = link.addresses.first() {
        peer = peer.address(hardware_address(*ip));
    }
    let described = LinkMessageBuilder::<LinkVeth>::new(name, SANDBOX_LINK)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())))
        .mtu(link.mtu)
        .controller(link.bridge)
        .append_extra_attribute(LinkAttribute::Group(group(link.bridge)))
        .up()
        .build();
    match netlink.link().add(described.clone()).execute().await {
        Ok(()) => {}
        Err(error) if is(&error, Errno::EEXIST) => {
            // Left by an attachment that was given up half-way.
            remove(netlink, name).await?;
            netlink.link().add(described).execute().await.map_err(failed("create link"))?;
        }
        Err(error) => return Err(failed("create link")(error)),
    }
    hairpin(netlink, name).await?;

    let inside = &namespace.netlink;
    let loopback = LinkUnspec::new_with_index(LOOPBACK_INDEX).up().build();
    inside.link().change(loopback).execute().await.map_err(failed("set up the loopback behind"))?;
    let index =
        find(inside, SANDBOX_LINK).await?.map(|link| link.header.index).ok_or_else(|| NetworkError::System {
            operation: "look up the sandbox's end of",
            object: name.to_owned(),
            source: Errno::ENODEV.into(),
        })?;
    // Not when it is made: a veth can't be set up before it has its peer.
    let up = LinkUnspec::new_with_index(index).up().build();
    inside.link().change(up).execute().await.map_err(failed("set up the sandbox's end of"))?;
    for (ip, gateway) in link.addresses {
        add_address(inside, index, IpNet::from(*ip), name).await?;
        let route = match gateway {
            IpAddr::V4(gateway) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .gateway(*gateway)
                .output_interface(index)
                .onlink()
                .build(),
            IpAddr::V6(gateway) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .gateway(*gateway)
                .output_interface(index)
                .onlink()
                .build(),
        };
        inside.route().add(route).execute().await.map_err(failed("set the default route behind"))?;
    }
    Ok(())
}

/// Lets a port send back what came from it. Where the kernel filters bridges, a service's address is translated in the
/// bridge already, and a pod that the service leads back to itself needs that.
async fn hairpin(netlink: &Handle, name: &str) -> Result<(), NetworkError> {
    let port = LinkBridgePort::new(0).name(name).hairpin(true).build();
    netlink.link().set_port(port).execute().await.map_err(NetworkError::netlink("set hairpin mode of link", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_hardware_addresses_come_from_the_address() {
        let four: IpAddr = "10.244.1.5".parse().expect("an address");
        assert_eq!(host_link(four), "veth0af40105");
        assert_eq!(hardware_address(four), [0x0a, 0x58, 10, 244, 1, 5]);
        let six: IpAddr = "fd00:10:244:1::7".parse().expect("an address");
        assert_eq!(host_link(six), "veth00000000007");
        assert!(host_link(six).len() <= 15);
    }
}
