//! What a name in the cluster's domain asks for (Kubernetes DNS-Based Service Discovery, version 1.1.0). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The name that tells the version of the schema.
const LABEL_VERSION: &str = "dns-version";

/// A name below the cluster's domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question<'a> {
    /// The domain itself.
    Apex,
    /// `dns-version`
    Version,
    /// `ns.dns`: the name server.
    NameServer,
    /// `svc` or `pod`: exists, holds nothing.
    Branch,
    /// `NS.svc` or `NS.pod`: exists when the namespace does.
    Namespace(&'a str),
    /// `SERVICE.NS.svc`
    Service { namespace: &'a str, service: &'a str },
    /// `_PORT._PROTOCOL.SERVICE.NS.svc`
    Port { namespace: &'a str, service: &'a str, port: &'a str, protocol: &'a str },
    /// `HOST.SERVICE.NS.svc`
    Endpoint { namespace: &'a str, service: &'a str, host: &'a str },
    /// `ADDRESS.NS.pod`
    Pod { namespace: &'a str, ip: IpAddr },
    /// Nothing of the schema.
    Unknown,
}

/// Reads the labels before the cluster's domain, in lower case.
pub(super) fn read<'a>(labels: &[&'a str]) -> Question<'a> {
    match labels {
        [] => Question::Apex,
        [LABEL_VERSION] => Question::Version,
        ["ns", "dns"] => Question::NameServer,
        ["svc" | "pod" | "dns"] => Question::Branch,
        [namespace, "svc" | "pod"] => Question::Namespace(namespace),
        [service, namespace, "svc"] => Question::Service { namespace, service },
        [address, namespace, "pod"] => pod_ip(address).map_or(Question::Unknown, |ip| Question::Pod { namespace, ip }),
        [host, service, namespace, "svc"] => Question::Endpoint { namespace, service, host },
        [port, protocol, service, namespace, "svc"] => match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
            (Some(port), Some(protocol)) => Question::Port { namespace, service, port, protocol },
            _ => Question::Unknown,
        },
        _ => Question::Unknown,
    }
}

/// `1-2-3-4` or, of an IPv6 address, `fd00--1`.
fn pod_ip(label: &str) -> Option<IpAddr> {
    let four = label.replace('-', ".").parse::<Ipv4Addr>();
    four.map(IpAddr::V4).or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}

/// The label that stands for an address: of an endpoint without a hostname, say.
pub(super) fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

/// The address that a reverse name (`4.3.2.1.in-addr.arpa`, `….ip6.arpa`) asks for.
pub(super) fn reverse_ip(labels: &[&str]) -> Option<IpAddr> {
    match labels {
        [octets @ .., "in-addr", "arpa"] if octets.len() == 4 => {
            let text: Vec<&str> = octets.iter().rev().copied().collect();
            text.join(".").parse().ok().map(IpAddr::V4)
        }
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 && nibbles.iter().all(|nibble| nibble.len() == 1) => {
            let digits: String = nibbles.iter().rev().copied().collect();
            u128::from_str_radix(&digits, 16).ok().map(|bits| IpAddr::V6(Ipv6Addr::from(bits)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(name: &str) -> Vec<&str> {
        name.split('.').filter(|label| !label.is_empty()).collect()
    }

    #[test]
    fn names_are_read_as_the_schema_has_them() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let (namespace, service) = ("ns", "web");
        let cases = [
            ("", Question::Apex),
            ("dns-version", Question::Version),
            ("ns.dns", Question::NameServer),
            ("svc", Question::Branch),
            ("ns.svc", Question::Namespace("ns")),
            ("web.ns.svc", Question::Service { namespace, service }),
            ("_http._tcp.web.ns.svc", Question::Port { namespace, service, port: "http", protocol: "tcp" }),
            ("http._tcp.web.ns.svc", Question::Unknown),
            ("web-0.web.ns.svc", Question::Endpoint { namespace, service, host: "web-0" }),
            ("10-0-0-1.ns.pod", Question::Pod { namespace, ip: ip("10.0.0.1") }),
            ("fd00--1.ns.pod", Question::Pod { namespace, ip: ip("fd00::1") }),
            ("web.ns.pod", Question::Unknown),
            ("a.b.c.d.e.svc", Question::Unknown),
            ("web.ns", Question::Unknown),
        ];
        for (name, expect) in cases {
            assert_eq!(read(&labels(name)), expect, "{name}");
        }
    }

    #[test]
    fn reverse_names_are_addresses() {
        let six = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        let cases = [
            ("10.0.96.10.in-addr.arpa", Some("10.96.0.10")),
            ("0.96.10.in-addr.arpa", None),
            (six, Some("fd00::1")),
            (&six[2..], None),
            ("web.ns.svc", None),
        ];
        for (name, expect) in cases {
            assert_eq!(reverse_ip(&labels(name)).map(|ip| ip.to_string()).as_deref(), expect, "{name}");
        }
        assert_eq!(dashed("fd00::1".parse().expect("an address")), "fd00--1");
    }
}
