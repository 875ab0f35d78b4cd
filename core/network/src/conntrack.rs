//! Forgetting UDP flows whose translation is out of date, by ctnetlink. UDP has no connections that end: as long as a
//! client goes on sending, its flow leads where it once led.
//!
//! The formats are those of `linux/netfilter/nfnetlink.h` and `nfnetlink_conntrack.h`; attributes are big-endian.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};

use crate::error::NetworkError;

const HEADER_BYTES: usize = 16;
const FAMILY_HEADER_BYTES: usize = 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const CT_GET: u16 = (1 << 8) | 1;
const CT_DELETE: u16 = (1 << 8) | 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const TYPE_MASK: u16 = 0x3fff;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;
/// A dump comes in parts of at most this many bytes.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;

/// An address and a port.
pub(crate) type Target = (IpAddr, u16);

/// A UDP flow as its translation has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UdpFlow {
    /// Where its client sends to.
    pub(crate) destination: Target,
    /// Who answers: the same, unless it is translated.
    pub(crate) answering: Target,
}

/// The kernel's table of flows, in the network namespace of whoever asks first. Its socket stays open: closing one
/// waits until the kernel has thrown away all that nftables has just removed, tens of milliseconds.
#[derive(Clone, Default)]
pub(crate) struct Conntrack {
    socket: Arc<Mutex<Option<Socket>>>,
}

impl Conntrack {
    /// Forgets the UDP flows of a family (IPv4 when `four`) that are stale. Returns how many.
    pub(crate) async fn forget(
        &self,
        four: bool,
        is_stale: impl Fn(&UdpFlow) -> bool + Send + 'static,
    ) -> Result<usize, NetworkError> {
        let slot = self.socket.clone();
        let work = move || {
            let mut slot = slot.lock();
            let socket = match slot.take() {
                Some(socket) => socket,
                None => open()?,
            };
            let forgotten = forget_by(&socket, four, &is_stale)?;
            // Not after a failure: what is left of the answer would be taken for the next one.
            *slot = Some(socket);
            Ok(forgotten)
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the task ended early")))
            .map_err(NetworkError::system("forget", "UDP flows"))
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

fn forget_by(socket: &Socket, four: bool, is_stale: &impl Fn(&UdpFlow) -> bool) -> io::Result<usize> {
    let family = if four { libc::AF_INET } else { libc::AF_INET6 } as u8;
    let mut stale = Vec::new();
    socket.send(&request(CT_GET, DUMP, family, &[]), 0)?;
    receive(socket, |message| {
        if let Some((tuple, _)) = udp_flow(message).filter(|(_, flow)| is_stale(flow)) {
            stale.push(tuple.to_vec());
        }
    })?;
    let mut forgotten = 0;
    for tuple in stale {
        socket.send(&request(CT_DELETE, ACK, family, &tuple), 0)?;
        match receive(socket, |_| {}) {
            Ok(()) => forgotten += 1,
            // It ended by itself in the meantime.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(forgotten)
}

fn request(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    let length = (HEADER_BYTES + FAMILY_HEADER_BYTES + attributes.len()) as u32;
    let mut message = Vec::with_capacity(length as usize);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, 0, 0, 0]);
    message.extend(attributes);
    message
}

/// Reads answers until the last one; `each` gets the attributes of each flow.
fn receive(socket: &Socket, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let length = socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = &buffer[..length];
        while let Some(header) = rest.first_chunk::<HEADER_BYTES>() {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            let Some(body) = rest.get(HEADER_BYTES..length) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = body.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
                    return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => each(body.get(FAMILY_HEADER_BYTES..).unwrap_or_default()),
            }
            rest = rest.get(aligned(length)..).unwrap_or_default();
        }
    }
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// The attributes of a message or of a nested attribute: type, whole attribute, payload.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let payload = bytes.get(4..length)?;
        let whole = bytes.get(..aligned(length)).unwrap_or(bytes);
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, whole, payload))
    })
}

fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, ..)| *found == kind).map(|(.., payload)| payload)
}

struct Tuple {
    protocol: u8,
    source: Target,
    destination: Target,
}

fn ip(bytes: &[u8], four: u16, six: u16) -> Option<IpAddr> {
    if let Some(four) = find(bytes, four) {
        return Some(Ipv4Addr::from(<[u8; 4]>::try_from(four).ok()?).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(find(bytes, six)?).ok()?).into())
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let addresses = find(bytes, CTA_TUPLE_IP)?;
    let protocol = find(bytes, CTA_TUPLE_PROTO)?;
    let port = |kind| Some(u16::from_be_bytes(find(protocol, kind)?.try_into().ok()?));
    Some(Tuple {
        protocol: *find(protocol, CTA_PROTO_NUM)?.first()?,
        source: (ip(addresses, CTA_IP_V4_SRC, CTA_IP_V6_SRC)?, port(CTA_PROTO_SRC_PORT)?),
        destination: (ip(addresses, CTA_IP_V4_DST, CTA_IP_V6_DST)?, port(CTA_PROTO_DST_PORT)?),
    })
}

/// A UDP flow, with the attribute that names it.
fn udp_flow(message: &[u8]) -> Option<(&[u8], UdpFlow)> {
    let (_, whole, original) = attributes(message).find(|(kind, ..)| *kind == CTA_TUPLE_ORIG)?;
    let original = tuple(original)?;
    if original.protocol != UDP {
        return None;
    }
    let answering = tuple(find(message, CTA_TUPLE_REPLY)?)?.source;
    Some((whole, UdpFlow { destination: original.destination, answering }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NESTED: u16 = 0x8000;

    fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = ((payload.len() + 4) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn tuple_bytes(kind: u16, from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        let ips = [attribute(CTA_IP_V4_SRC, &from.0), attribute(CTA_IP_V4_DST, &to.0)].concat();
        let protocol = [
            attribute(CTA_PROTO_NUM, &[UDP]),
            attribute(CTA_PROTO_SRC_PORT, &from.1.to_be_bytes()),
            attribute(CTA_PROTO_DST_PORT, &to.1.to_be_bytes()),
        ];
        let inner =
            [attribute(CTA_TUPLE_IP | NESTED, &ips), attribute(CTA_TUPLE_PROTO | NESTED, &protocol.concat())].concat();
        attribute(kind | NESTED, &inner)
    }

    #[test]
    fn flows_are_read_from_what_the_kernel_says() {
        let (client, service, endpoint) = (([10, 244, 0, 9], 4000), ([10, 96, 0, 10], 53), ([10, 244, 0, 2], 5353));
        let named = tuple_bytes(CTA_TUPLE_ORIG, client, service);
        let message = [named.clone(), tuple_bytes(CTA_TUPLE_REPLY, endpoint, client)].concat();
        let flow = UdpFlow {
            destination: (IpAddr::from(service.0), service.1),
            answering: (IpAddr::from(endpoint.0), endpoint.1),
        };
        assert_eq!(udp_flow(&message), Some((&named[..], flow)));
        for cut in 0..message.len() {
            assert_eq!(udp_flow(&message[..cut]), None, "a message cut short at {cut}");
        }
    }
}
