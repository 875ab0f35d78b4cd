//! Services and what leads to them.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::{age, first_few, joined, name, or, selector_at, text, text_or};
use crate::object::{Object, i64_at, items_at, str_at};

/// How many endpoints, ports or hosts are shown.
const SHOWN: usize = 3;

pub(super) fn service(object: &Object, now: Timestamp) -> Vec<Value> {
    let ip = items_at(object, "spec.clusterIPs").first().and_then(Value::as_str).unwrap_or("<none>");
    let ports: Vec<String> = items_at(object, "spec.ports").iter().map(port).collect();
    vec![
        name(object),
        text(str_at(object, "spec.type")),
        text(ip),
        text(external_ip(object)),
        text(or(&ports.join(","), "<none>")),
        age(object, now),
        super::labels_at(object, "spec.selector"),
    ]
}

fn port(port: &Value) -> String {
    let number = i64_at(port, "port").unwrap_or_default();
    let protocol = str_at(port, "protocol");
    match i64_at(port, "nodePort").unwrap_or_default() {
        0 => format!("{number}/{protocol}"),
        node_port => format!("{number}:{node_port}/{protocol}"),
    }
}

fn external_ip(object: &Object) -> String {
    let external = joined(object, "spec.externalIPs");
    match str_at(object, "spec.type") {
        "ClusterIP" | "NodePort" => or(&external, "<none>").to_owned(),
        "LoadBalancer" => {
            let balanced = ingress_points(object);
            let both: Vec<&str> = [balanced.as_str(), &external].into_iter().filter(|text| !text.is_empty()).collect();
            or(&both.join(","), "<pending>").to_owned()
        }
        "ExternalName" => str_at(object, "spec.externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// The addresses or names of a load balancer.
fn ingress_points(object: &Object) -> String {
    let points: BTreeSet<&str> = items_at(object, "status.loadBalancer.ingress")
        .iter()
        .map(|point| or(str_at(point, "ip"), str_at(point, "hostname")))
        .filter(|point| !point.is_empty())
        .collect();
    points.into_iter().collect::<Vec<_>>().join(",")
}

pub(super) fn endpoints(object: &Object, now: Timestamp) -> Vec<Value> {
    let subsets = items_at(object, "subsets");
    let mut shown = Vec::new();
    for subset in subsets {
        let ips = || items_at(subset, "addresses").iter().map(|address| str_at(address, "ip"));
        let ports = items_at(subset, "ports");
        if ports.is_empty() {
            shown.extend(ips().map(str::to_owned));
        }
        for port in ports {
            let number = i64_at(port, "port").unwrap_or_default();
            shown.extend(
                ips().map(|ip| if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }),
            );
        }
    }
    let none = if subsets.is_empty() { "<none>" } else { "" };
    vec![name(object), text(first_few(shown, SHOWN, ",", none)), age(object, now)]
}

pub(super) fn endpoint_slice(object: &Object, now: Timestamp) -> Vec<Value> {
    let ports = items_at(object, "ports").iter().map(|port| match (i64_at(port, "port"), port["name"].as_str()) {
        (Some(number), _) => number.to_string(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => "*".to_owned(),
    });
    let addresses = items_at(object, "endpoints")
        .iter()
        .flat_map(|endpoint| items_at(endpoint, "addresses"))
        .filter_map(|address| address.as_str().map(str::to_owned));
    vec![
        name(object),
        text(str_at(object, "addressType")),
        text(first_few(ports.collect(), SHOWN, ",", "<unset>")),
        text(first_few(addresses.collect(), SHOWN, ",", "<unset>")),
        age(object, now),
    ]
}

/// The hosts of an ingress. What is left out is counted by rules, as upstream does, and only when a rule follows the last
/// host that is shown.
fn hosts(rules: &[Value]) -> String {
    let mut shown = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= shown.len() == SHOWN;
        let host = str_at(rule, "host");
        if !more && !host.is_empty() {
            shown.push(host);
        }
    }
    match shown.as_slice() {
        [] => "*".to_owned(),
        shown if more => format!("{} + {} more...", shown.join(","), rules.len() - SHOWN),
        shown => shown.join(","),
    }
}

pub(super) fn ingress(object: &Object, now: Timestamp) -> Vec<Value> {
    let ports = if items_at(object, "spec.tls").is_empty() { "80" } else { "80, 443" };
    vec![
        name(object),
        text_or(object, "spec.ingressClassName", "<none>"),
        text(hosts(items_at(object, "spec.rules"))),
        text(ingress_points(object)),
        text(ports),
        age(object, now),
    ]
}

pub(super) fn ingress_class(object: &Object, now: Timestamp) -> Vec<Value> {
    let parameters = match &object["spec"]["parameters"] {
        Value::Null => "<none>".to_owned(),
        parameters => {
            let group = parameters["apiGroup"].as_str().map(|group| format!(".{group}")).unwrap_or_default();
            format!("{}{group}/{}", str_at(parameters, "kind"), str_at(parameters, "name"))
        }
    };
    let is_default = object["metadata"]["annotations"]["ingressclass.kubernetes.io/is-default-class"] == "true";
    vec![
        super::storage::class_name(object, is_default),
        text(str_at(object, "spec.controller")),
        text(parameters),
        age(object, now),
    ]
}

pub(super) fn network_policy(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), selector_at(object, "spec.podSelector"), age(object, now)]
}

pub(super) fn ip_address(object: &Object, now: Timestamp) -> Vec<Value> {
    let parent = match &object["spec"]["parentRef"] {
        Value::Null => "<none>".to_owned(),
        parent => {
            let (group, namespace) = (str_at(parent, "group"), str_at(parent, "namespace"));
            let dot = if group.is_empty() { "" } else { "." };
            let slash = if namespace.is_empty() { "" } else { "/" };
            let resource = format!("{}{dot}{group}", str_at(parent, "resource")).to_lowercase();
            format!("{resource}{slash}{namespace}/{}", str_at(parent, "name"))
        }
    };
    vec![name(object), text(parent), age(object, now)]
}

pub(super) fn service_cidr(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(joined(object, "spec.cidrs")), age(object, now)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn services_show_where_they_are_reached() {
        let cases = [
            (json!({"type": "ClusterIP"}), json!({}), "<none>"),
            (json!({"type": "NodePort", "externalIPs": ["1.1.1.1", "2.2.2.2"]}), json!({}), "1.1.1.1,2.2.2.2"),
            (json!({"type": "LoadBalancer"}), json!({}), "<pending>"),
            (
                json!({"type": "LoadBalancer", "externalIPs": ["1.1.1.1"]}),
                json!({"loadBalancer": {"ingress": [{"hostname": "b"}, {"ip": "9.9.9.9"}]}}),
                "9.9.9.9,b,1.1.1.1",
            ),
            (json!({"type": "ExternalName", "externalName": "e"}), json!({}), "e"),
        ];
        for (spec, status, expect) in cases {
            assert_eq!(external_ip(&json!({"spec": spec, "status": status})), expect);
        }
    }

    #[test]
    fn only_a_few_endpoints_are_shown() {
        let addresses = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
        let cases = [
            (json!([]), "<none>"),
            (json!([{"addresses": addresses}]), "10.0.0.1,fd00::1"),
            (
                json!([{"addresses": addresses, "ports": [{"port": 80}, {"port": 81}]}]),
                "10.0.0.1:80,[fd00::1]:80,10.0.0.1:81 + 1 more...",
            ),
            (json!([{"notReadyAddresses": addresses, "ports": [{"port": 80}]}]), ""),
        ];
        for (subsets, expect) in cases {
            assert_eq!(endpoints(&json!({"subsets": subsets}), Timestamp::UNIX_EPOCH)[1], expect);
        }
        let slice = json!({"ports": [{"name": "a"}, {"port": 1}, {}], "endpoints": []});
        assert_eq!(endpoint_slice(&slice, Timestamp::UNIX_EPOCH)[2..4], [json!("a,1,*"), json!("<unset>")]);
    }

    #[test]
    fn only_a_few_hosts_are_shown() {
        let rule = |host: &str| json!({"host": host});
        assert_eq!(hosts(&[]), "*");
        assert_eq!(hosts(&[rule("a"), rule("b"), rule("c")]), "a,b,c");
        assert_eq!(hosts(&[rule("a"), rule(""), rule("b"), rule("c"), rule("d")]), "a,b,c + 2 more...");
    }

    #[test]
    fn addresses_name_their_parents() {
        let object = json!({"spec": {"parentRef": {"group": "G", "resource": "r", "namespace": "n", "name": "x"}}});
        assert_eq!(ip_address(&object, Timestamp::UNIX_EPOCH)[1], "r.g/n/x");
    }
}
