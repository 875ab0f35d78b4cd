//! The pod network's nftables rules: host ports in, masquerade out.

use std::fmt::Write;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::NetworkError;
use crate::pod_network::HostPort;

/// One table a bridge, so that several networks of a machine don't meet.
pub(super) fn table(bridge: &str) -> String {
    format!("inet {bridge}-pods")
}

fn ranges(nets: &[IpNet], four: bool) -> String {
    let nets: Vec<String> =
        nets.iter().filter(|net| net.addr().is_ipv4() == four).map(|net| net.trunc().to_string()).collect();
    nets.join(", ")
}

/// The whole table, without host ports.
pub(super) fn ruleset(bridge: &str, pods: &[IpNet], cluster: &[IpNet]) -> String {
    let table = table(bridge);
    let mut outward = String::new();
    for (family, four) in [("ip", true), ("ip6", false)] {
        let pods_here = ranges(pods, four);
        if pods_here.is_empty() {
            continue;
        }
        let inside = ranges(&[pods, cluster].concat(), four);
        // Multicast keeps its source, as with upstream's ip-masq-agent and the CNI plugins.
        let multicast = if four { "224.0.0.0/4" } else { "ff00::/8" };
        let _ = writeln!(
            outward,
            "    oifname != \"{bridge}\" {family} saddr {{ {pods_here} }} {family} daddr != {{ {inside}, {multicast} }} \
             masquerade fully-random"
        );
    }
    format!(
        r#"add table {table}
delete table {table}
table {table} {{
  map host-ports-4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map host-ports-6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
  map host-ports-at-4 {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  map host-ports-at-6 {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
  set host-port-pods-4 {{ type ipv4_addr . ipv4_addr; }}
  set host-port-pods-6 {{ type ipv6_addr . ipv6_addr; }}
  chain guard-loopback {{
    type filter hook prerouting priority raw;
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
  }}
  chain host-ports {{
    dnat ip to ip daddr . meta l4proto . th dport map @host-ports-at-4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @host-ports-at-6
    meta nfproto ipv4 dnat ip to meta l4proto . th dport map @host-ports-4
    meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @host-ports-6
  }}
  chain prerouting {{
    type nat hook prerouting priority -110;
    fib daddr type local jump host-ports
  }}
  chain output {{
    type nat hook output priority -110;
    fib daddr type local jump host-ports
  }}
  chain postrouting {{
    type nat hook postrouting priority 110;
    oifname "{bridge}" ct status dnat ip saddr 127.0.0.0/8 masquerade
    oifname "{bridge}" ct status dnat ip saddr . ip daddr @host-port-pods-4 masquerade
    oifname "{bridge}" ct status dnat ip6 saddr . ip6 daddr @host-port-pods-6 masquerade
{outward}  }}
}}
"#
    )
}

/// What to do with elements.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Add,
    Remove,
}

/// The elements that lead a sandbox's host ports to it: added, or removed again.
pub(super) fn host_port_elements(
    change: Change,
    bridge: &str,
    ips: &[IpAddr],
    host_ports: &[HostPort],
) -> Result<String, NetworkError> {
    let table = table(bridge);
    let mut elements: Vec<(String, String)> = Vec::new();
    for port in host_ports {
        let protocol = match port.protocol.as_str() {
            "" | "TCP" => "tcp",
            "UDP" => "udp",
            "SCTP" => "sctp",
            other => {
                let setting = format!("protocol {other} of host port {}", port.host_port);
                return Err(NetworkError::Setting { setting, reason: "is none of TCP, UDP and SCTP" });
            }
        };
        for ip in ips {
            let family = if ip.is_ipv4() { 4 } else { 6 };
            let at = match port.host_ip.filter(|at| !at.is_unspecified()) {
                Some(at) if at.is_ipv4() != ip.is_ipv4() => continue,
                at => at,
            };
            let (map, key) = match at {
                Some(at) => (format!("host-ports-at-{family}"), format!("{at} . {protocol} . {}", port.host_port)),
                None => (format!("host-ports-{family}"), format!("{protocol} . {}", port.host_port)),
            };
            elements.push((map, format!("{key} : {ip} . {}", port.container_port)));
        }
    }
    if !elements.is_empty() {
        for ip in ips {
            let family = if ip.is_ipv4() { 4 } else { 6 };
            elements.push((format!("host-port-pods-{family}"), format!("{ip} . {ip}")));
        }
    }
    let mut script = String::new();
    for (set, element) in elements {
        let _ = writeln!(script, "add element {table} {set} {{ {element} }}");
        if change == Change::Remove {
            // Added before, it is there to be deleted, whatever an earlier attempt got done.
            let _ = writeln!(script, "delete element {table} {set} {{ {element} }}");
        }
    }
    Ok(script)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    fn port(host_ip: Option<&str>, host_port: u16, protocol: &str) -> HostPort {
        HostPort {
            host_ip: host_ip.map(|ip| ip.parse().expect("an address")),
            host_port,
            container_port: 8080,
            protocol: protocol.to_owned(),
        }
    }

    #[test]
    fn host_ports_are_elements_of_maps() {
        let ips: Vec<IpAddr> = ["10.244.1.5", "fd00::5"].iter().map(|ip| ip.parse().expect("an address")).collect();
        let ports = [port(None, 80, "TCP"), port(Some("10.0.0.1"), 53, "UDP"), port(Some("0.0.0.0"), 81, "")];
        assert_snapshot!(host_port_elements(Change::Add, "gantry0", &ips, &ports).expect("elements"), @r"
        add element inet gantry0-pods host-ports-4 { tcp . 80 : 10.244.1.5 . 8080 }
        add element inet gantry0-pods host-ports-6 { tcp . 80 : fd00::5 . 8080 }
        add element inet gantry0-pods host-ports-at-4 { 10.0.0.1 . udp . 53 : 10.244.1.5 . 8080 }
        add element inet gantry0-pods host-ports-4 { tcp . 81 : 10.244.1.5 . 8080 }
        add element inet gantry0-pods host-ports-6 { tcp . 81 : fd00::5 . 8080 }
        add element inet gantry0-pods host-port-pods-4 { 10.244.1.5 . 10.244.1.5 }
        add element inet gantry0-pods host-port-pods-6 { fd00::5 . fd00::5 }
        ");
        assert_snapshot!(host_port_elements(Change::Remove, "gantry0", &ips[..1], &ports[..1]).expect("elements"), @r"
        add element inet gantry0-pods host-ports-4 { tcp . 80 : 10.244.1.5 . 8080 }
        delete element inet gantry0-pods host-ports-4 { tcp . 80 : 10.244.1.5 . 8080 }
        add element inet gantry0-pods host-port-pods-4 { 10.244.1.5 . 10.244.1.5 }
        delete element inet gantry0-pods host-port-pods-4 { 10.244.1.5 . 10.244.1.5 }
        ");
        assert_eq!(host_port_elements(Change::Add, "gantry0", &ips, &[]).expect("none"), "");
        assert!(host_port_elements(Change::Add, "gantry0", &ips, &[port(None, 1, "ICMP")]).is_err());
    }
}
