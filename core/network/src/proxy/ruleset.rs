//! The proxy's tables as they are without services.
//!
//! One table a family, in the shape of KEP-3866: a verdict map from (address, protocol, port) to a chain that chooses
//! an endpoint. Unlike upstream's, these chains don't belong to one service: they find the endpoint in a map, by the
//! address that the packet asked for and a random number. So a change of a service is a change of elements.

use ipnet::IpNet;

/// The bit of a packet's mark that asks for masquerade, as upstream's proxy uses it.
pub(super) const MASQUERADE_MARK: u32 = 0x4000;
/// How many clients' choices are remembered; more make new choices.
const AFFINITY_CLIENTS_MAX: usize = 1 << 18;

/// `ip` or `ip6`.
pub(super) fn family(four: bool) -> &'static str {
    if four { "ip" } else { "ip6" }
}

/// A table's family and name.
pub(super) fn table(name: &str, four: bool) -> String {
    format!("{} {name}", family(four))
}

/// Ranges of a family as nftables writes the inside of a set.
pub(super) fn ranges(ranges: &[IpNet], four: bool) -> String {
    let mut ranges: Vec<IpNet> = ranges.iter().filter(|range| range.addr().is_ipv4() == four).copied().collect();
    ranges = IpNet::aggregate(&ranges);
    ranges.iter().map(IpNet::to_string).collect::<Vec<_>>().join(", ")
}

/// The script that makes a table, whatever was there before. `services` are the cluster's service ranges.
pub(super) fn skeleton(name: &str, four: bool, services: &[IpNet]) -> String {
    let table = table(name, four);
    let family = family(four);
    let address = if four { "ipv4_addr" } else { "ipv6_addr" };
    let port = format!("{family} daddr . meta l4proto . th dport");
    let front = format!("{address} . inet_proto . inet_service");
    let numbered = format!("{front} . classid");
    let target = format!("{address} . inet_service");
    let unallocated = match ranges(services, four) {
        services if services.is_empty() => String::new(),
        services => format!("\n    {family} daddr {{ {services} }} drop"),
    };
    format!(
        r#"add table {table}
delete table {table}
table {table} {{
  map service-ports {{ type {front} : verdict; }}
  map no-endpoint-ports {{ type {front} : verdict; }}
  map endpoints {{ type {numbered} : {target}; }}
  map local-endpoints {{ type {numbered} : {target}; }}
  map tokens {{ type {numbered} : classid; }}
  map local-tokens {{ type {numbered} : classid; }}
  map sticky-endpoints {{ type {numbered} : {target}; }}
  map local-sticky-endpoints {{ type {numbered} : {target}; }}
  map affinity {{ type {address} . {front} : classid; size {AFFINITY_CLIENTS_MAX}; flags dynamic,timeout; }}
  set hairpins {{ type {address} . {address}; }}
  set cluster-ips {{ type {address}; }}
  set guarded-ports {{ type {front}; }}
  set allowed-sources {{ type {front} . {address}; flags interval; }}

  chain mark-for-masquerade {{
    meta mark set meta mark or {MASQUERADE_MARK:#x}
  }}
  chain refuse {{
    reject
  }}
  chain services {{
    {port} vmap @service-ports
  }}
  chain prerouting {{
    type nat hook prerouting priority -100;
    jump services
  }}
  chain output {{
    type nat hook output priority -100;
    jump services
  }}
  chain postrouting {{
    type nat hook postrouting priority 100;
    ct status dnat {family} saddr . {family} daddr @hairpins masquerade fully-random
    meta mark and {MASQUERADE_MARK:#x} == 0 return
    meta mark set meta mark and {unmasked:#x}
    masquerade fully-random
  }}
  chain guard {{
    {port} @guarded-ports {port} . {family} saddr != @allowed-sources drop
  }}
  chain guard-prerouting {{
    type filter hook prerouting priority -110;
    ct state new jump guard
  }}
  chain guard-output {{
    type filter hook output priority -110;
    ct state new jump guard
  }}
  chain forget-number-prerouting {{
    type filter hook prerouting priority -99;
    ct state new ct status dnat meta priority set none
  }}
  chain forget-number-output {{
    type filter hook output priority -99;
    ct state new ct status dnat meta priority set none
  }}
  chain unanswered {{
    {port} vmap @no-endpoint-ports
    {family} daddr @cluster-ips goto refuse{unallocated}
  }}
  chain unanswered-input {{
    type filter hook input priority -110;
    ct state new {port} vmap @no-endpoint-ports
  }}
  chain unanswered-forward {{
    type filter hook forward priority -110;
    ct state new jump unanswered
  }}
  chain unanswered-output {{
    type filter hook output priority -90;
    ct state new jump unanswered
  }}
}}
"#,
        unmasked = !MASQUERADE_MARK,
    )
}
