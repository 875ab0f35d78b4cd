//! A pod's names: host name, `/etc/hosts` and `/etc/resolv.conf`. Pure.

use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use crate::pod;

/// glibc reads no more name servers.
const NAME_SERVERS_MAX: usize = 3;
/// Upstream's limits of search domains: how many, and how many characters in all.
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARACTERS_MAX: usize = 2048;
/// The kernel's limit of a host name.
const HOSTNAME_MAX: usize = 64;

/// The cluster's names, as the agent was told.
#[derive(Clone, Copy, Debug)]
pub struct ClusterDns<'a> {
    /// Addresses of the DNS service.
    pub servers: &'a [IpAddr],
    /// `cluster.local`
    pub domain: &'a str,
    /// The node's resolver configuration.
    pub node: &'a str,
}

/// Host name and domain of a pod; the domain is empty without a subdomain.
pub fn names(pod: &Pod, node_hostname: &str, cluster_domain: &str) -> (String, String) {
    let spec = pod::spec(pod);
    if pod::host_network(pod) && spec.hostname_override.is_none() {
        return (node_hostname.to_owned(), String::new());
    }
    if let Some(name) = spec.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        return (name.to_owned(), String::new());
    }
    let host = match spec.hostname.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => name.to_owned(),
        // A label has at most 63 characters, and ends with none of these.
        None => pod::name(pod).chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned(),
    };
    let domain = match spec.subdomain.as_deref().filter(|name| !name.is_empty()) {
        Some(subdomain) => format!("{subdomain}.{}.svc.{cluster_domain}", pod::namespace(pod)),
        None => String::new(),
    };
    (host, domain)
}

/// The host name that the kernel shall know.
///
/// # Errors
/// Upstream's message when a fully qualified name is wanted and too long.
pub fn kernel_hostname(pod: &Pod, host: &str, domain: &str) -> Result<String, String> {
    let qualified = pod::spec(pod).set_hostname_as_fqdn == Some(true) && !domain.is_empty();
    if !qualified {
        return Ok(host.to_owned());
    }
    let name = format!("{host}.{domain}");
    if name.len() > HOSTNAME_MAX {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long ({HOSTNAME_MAX} is \
             the max, {} characters requested)",
            name.len()
        ));
    }
    Ok(name)
}

/// `/etc/hosts`; `node` is the node's own file, for pods that use its network.
pub fn hosts(pod: &Pod, ips: &[IpAddr], host: &str, domain: &str, node: &str) -> String {
    let spec = pod::spec(pod);
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    let mut out = String::new();
    if pod::host_network(pod) {
        out.push_str("# Kubernetes-managed hosts file (host network).\n");
        out.push_str(node);
    } else {
        out.push_str(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        for ip in ips {
            let _ = match domain {
                "" => writeln!(out, "{ip}\t{host}"),
                domain => writeln!(out, "{ip}\t{host}.{domain}\t{host}"),
            };
        }
    }
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for HostAlias { ip, hostnames } in aliases {
            let _ = writeln!(out, "{ip}\t{}", hostnames.as_deref().unwrap_or_default().join("\t"));
        }
    }
    out
}

#[derive(Default)]
struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

fn parse(text: &str) -> Resolver {
    let mut out = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let keyword = words.next();
        match keyword {
            Some("nameserver") => out.servers.extend(words.next().map(str::to_owned)),
            // The last one counts; a lone dot is dropped.
            Some("search") => out.searches = words.filter(|word| *word != ".").map(str::to_owned).collect(),
            Some("options") => out.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    out
}

/// `/etc/resolv.conf`.
pub fn resolv_conf(pod: &Pod, cluster: ClusterDns<'_>) -> String {
    let spec = pod::spec(pod);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let in_cluster = match policy {
        "ClusterFirst" => !pod::host_network(pod),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let node = parse(cluster.node);
    let mut resolver = if policy == "None" {
        Resolver::default()
    } else if in_cluster && !cluster.servers.is_empty() {
        let (namespace, domain) = (pod::namespace(pod), cluster.domain);
        let mut searches = Vec::new();
        if !domain.is_empty() {
            searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
        }
        searches.extend(node.searches);
        let servers = cluster.servers.iter().map(IpAddr::to_string).collect();
        Resolver { servers, searches, options: vec!["ndots:5".to_owned()] }
    } else {
        node
    };
    if let Some(own) = &spec.dns_config {
        resolver.servers.extend(own.nameservers.iter().flatten().cloned());
        resolver.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            let text = option.value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}:{value}"));
            // An option of the pod replaces that of the cluster.
            resolver.options.retain(|known| known.split(':').next() != Some(name));
            resolver.options.push(text);
        }
    }
    let unique = |list: Vec<String>| {
        let mut out: Vec<String> = Vec::new();
        for item in list {
            if !out.contains(&item) {
                out.push(item);
            }
        }
        out
    };
    let mut searches = unique(resolver.searches);
    searches.truncate(SEARCHES_MAX);
    while searches.join(" ").len() > SEARCH_CHARACTERS_MAX {
        searches.pop();
    }
    let mut servers = unique(resolver.servers);
    servers.truncate(NAME_SERVERS_MAX);
    let mut out = String::new();
    if !searches.is_empty() {
        let _ = writeln!(out, "search {}", searches.join(" "));
    }
    for server in servers {
        let _ = writeln!(out, "nameserver {server}");
    }
    if !resolver.options.is_empty() {
        let _ = writeln!(out, "options {}", resolver.options.join(" "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).expect("a pod")
    }

    #[test]
    fn resolvers_by_policy() {
        let servers = ["10.96.0.10".parse().expect("an address")];
        let cluster =
            ClusterDns { servers: &servers, domain: "cluster.local", node: "nameserver 9.9.9.9\nsearch lan\n" };
        let show = |spec: serde_json::Value| {
            let mut spec = spec;
            spec["containers"] = json!([]);
            resolv_conf(&pod(spec), cluster).trim_end().replace('\n', "; ")
        };
        let in_cluster =
            "search n.svc.cluster.local svc.cluster.local cluster.local lan; nameserver 10.96.0.10; options ndots:5";
        let cases = [
            (json!({}), in_cluster),
            (json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), "search lan; nameserver 9.9.9.9"),
            (json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), in_cluster),
            (json!({"dnsPolicy": "Default"}), "search lan; nameserver 9.9.9.9"),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [
                    {"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
                "search x; nameserver 1.1.1.1; options ndots:2 edns0",
            ),
        ];
        for (spec, expect) in cases {
            assert_eq!(show(spec.clone()), expect, "{spec}");
        }
    }

    #[test]
    fn host_names_and_files() {
        let sub = pod(json!({"containers": [], "hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true,
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let (host, domain) = names(&sub, "node", "cluster.local");
        assert_eq!((host.as_str(), domain.as_str()), ("h", "s.n.svc.cluster.local"));
        assert_eq!(kernel_hostname(&sub, &host, &domain).as_deref(), Ok("h.s.n.svc.cluster.local"));
        let text = hosts(&sub, &["10.0.0.2".parse().expect("an address")], &host, &domain, "");
        insta::assert_snapshot!(text, @r"
        # Kubernetes-managed hosts file.
        127.0.0.1	localhost
        ::1	localhost ip6-localhost ip6-loopback
        fe00::0	ip6-localnet
        fe00::0	ip6-mcastprefix
        fe00::1	ip6-allnodes
        fe00::2	ip6-allrouters
        10.0.0.2	h.s.n.svc.cluster.local	h

        # Entries added by HostAliases.
        1.2.3.4	a	b
        ");
        let own = pod(json!({"containers": [], "hostNetwork": true}));
        assert_eq!(names(&own, "node", "c").0, "node");
    }
}
