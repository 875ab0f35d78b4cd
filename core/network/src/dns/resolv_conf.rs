//! The node's own resolvers (resolv.conf(5)).

use std::net::{IpAddr, SocketAddr};

/// The port that resolvers answer at.
const PORT_DNS: u16 = 53;
/// As many as libc uses.
const RESOLVERS_MAX: usize = 3;

/// The resolvers that a resolv.conf names, without those that would lead back here.
pub(super) fn resolvers(text: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split(['#', ';']).next()?.trim().parse::<IpAddr>().ok())
        .filter(|ip| !own.contains(ip))
        .map(|ip| SocketAddr::new(ip, PORT_DNS))
        .take(RESOLVERS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_as_libc_does() {
        let text = "# mine\nsearch example.com\nnameserver 192.0.2.1\n nameserver  2001:db8::1 # second\n\
                    nameserver fe80::1%eth0\nnameserver 10.244.0.1\noptions ndots:5\nnameserver 192.0.2.2\n";
        let own = ["10.244.0.1".parse().expect("an address")];
        let found: Vec<String> = resolvers(text, &own).iter().map(SocketAddr::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53"]);
    }
}
