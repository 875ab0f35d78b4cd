//! Endpoints and endpoint slices.

use std::collections::HashSet;

use serde_json::Value;

use super::super::Kind;
use super::checks::{
    endpoint_ip, first_generation, immutable_text, invalid, invalid_number, ip_warnings, one_of, path, same, texts_at,
};
use crate::addresses::{ip, legacy_ip, parse_ip_sloppy};
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::metadata::validate_labels;
use crate::names;
use crate::object::{Object, i64_at, items_at, map_at, map_mut, str_at};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;
const TOPOLOGY_LABELS_MAX: usize = 16;
const HINTS_MAX: usize = 8;

pub(super) struct Endpoints;

impl Kind for Endpoints {
    fn validate_create(&self, object: &Object) -> FieldErrors {
        subsets(object)
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        // What is wrong already may stay.
        if same(&object["subsets"], &old["subsets"]) { FieldErrors::new() } else { subsets(object) }
    }

    fn warnings(&self, object: &Object, _old: Option<&Object>) -> Vec<String> {
        if object["metadata"]["labels"]["endpoints.kubernetes.io/managed-by"] == "endpoint-controller" {
            return Vec::new();
        }
        let mut warnings = Vec::new();
        for (index, subset) in items_at(object, "subsets").iter().enumerate() {
            for field in ["addresses", "notReadyAddresses"] {
                for (at, address) in items_at(subset, field).iter().enumerate() {
                    let at = path("subsets").index(index).child(field).index(at).child("ip");
                    warnings.extend(ip_warnings(&at, str_at(address, "ip")));
                }
            }
        }
        warnings
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

fn subsets(object: &Object) -> FieldErrors {
    let mut errors = FieldErrors::new();
    for (index, subset) in items_at(object, "subsets").iter().enumerate() {
        let at = path("subsets").index(index);
        let (ready, waiting) = (items_at(subset, "addresses"), items_at(subset, "notReadyAddresses"));
        if ready.is_empty() && waiting.is_empty() {
            errors.push(FieldError::required(&at, "must specify `addresses` or `notReadyAddresses`"));
        }
        for (field, addresses) in [("addresses", ready), ("notReadyAddresses", waiting)] {
            for (index, address) in addresses.iter().enumerate() {
                errors.extend(subset_address(address, &at.child(field).index(index)));
            }
        }
        let ports = items_at(subset, "ports");
        for (index, port) in ports.iter().enumerate() {
            errors.extend(subset_port(port, ports.len() > 1, &at.child("ports").index(index)));
        }
    }
    errors
}

fn subset_address(address: &Value, path: &FieldPath) -> FieldErrors {
    let ip = str_at(address, "ip");
    let mut errors = legacy_ip(&path.child("ip"), ip, &[]);
    let hostname = str_at(address, "hostname");
    if !hostname.is_empty() {
        errors.extend(invalid(&path.child("hostname"), hostname, names::dns1123_label(hostname)));
    }
    if let Some(node) = address["nodeName"].as_str() {
        errors.extend(invalid(&path.child("nodeName"), node, names::dns1123_subdomain(node)));
    }
    errors.extend(endpoint_ip(ip, &path.child("ip")));
    errors
}

fn subset_port(port: &Value, needs_name: bool, path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let name = str_at(port, "name");
    if !name.is_empty() {
        errors.extend(invalid(&path.child("name"), name, names::dns1123_label(name)));
    } else if needs_name {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    let number = i64_at(port, "port").unwrap_or_default();
    errors.extend(invalid_number(&path.child("port"), number, names::port_number(number)));
    errors.extend(one_of(&path.child("protocol"), str_at(port, "protocol"), &PROTOCOLS));
    errors.extend(app_protocol(port, path));
    errors
}

fn app_protocol(port: &Value, path: &FieldPath) -> FieldErrors {
    match port["appProtocol"].as_str() {
        Some(protocol) => invalid(&path.child("appProtocol"), protocol, names::qualified_name(protocol)),
        None => FieldErrors::new(),
    }
}

pub(super) struct EndpointSlice;

impl Kind for EndpointSlice {
    fn prepare_for_create(&self, object: &mut Object) {
        first_generation(object);
        drop_topology(object, None);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        let changed = ["addressType", "endpoints", "ports"].iter().any(|field| !same(&object[field], &old[field]))
            || !same(&object["metadata"]["labels"], &old["metadata"]["labels"]);
        let generation = i64_at(old, "metadata.generation").unwrap_or_default() + i64::from(changed);
        map_mut(object, "metadata").insert("generation".to_owned(), Value::from(generation));
        drop_topology(object, Some(old));
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let mut errors = slice_head(object);
        errors.extend(slice_endpoints(object));
        errors
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = slice_head(object);
        if !same(&object["endpoints"], &old["endpoints"]) {
            errors.extend(slice_endpoints(object));
        }
        let (new, before) = (str_at(object, "addressType"), str_at(old, "addressType"));
        errors.extend(immutable_text(&path("addressType"), new, before));
        errors
    }

    fn warnings(&self, object: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut warnings = Vec::new();
        if str_at(object, "addressType") == "FQDN" {
            warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        let managed_by = object["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"].as_str();
        let by_controller =
            matches!(managed_by, Some("endpointslice-controller.k8s.io" | "endpointslicemirroring-controller.k8s.io"));
        if by_controller {
            return warnings;
        }
        for (index, endpoint) in items_at(object, "endpoints").iter().enumerate() {
            for (at, address) in texts_at(endpoint, "addresses").into_iter().enumerate() {
                let at = path("endpoints").index(index).child("addresses").index(at);
                warnings.extend(ip_warnings(&at, address));
            }
        }
        warnings
    }
}

/// `deprecatedTopology` is no part of `v1`; where it names a node, it may become the node's name.
fn drop_topology(object: &mut Object, old: Option<&Object>) {
    const HOSTNAME: &str = "kubernetes.io/hostname";
    if old.is_some_and(|old| same(&old["endpoints"], &object["endpoints"])) {
        return;
    }
    let known: Vec<String> = old
        .map(|old| items_at(old, "endpoints"))
        .unwrap_or_default()
        .iter()
        .filter_map(|endpoint| endpoint["deprecatedTopology"][HOSTNAME].as_str().map(str::to_owned))
        .collect();
    for endpoint in object.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten() {
        let map = map_mut(endpoint, "");
        let Some(topology) = map.remove("deprecatedTopology") else { continue };
        if let Some(node) = topology[HOSTNAME].as_str()
            && map.get("nodeName").is_none_or(Value::is_null)
            && known.iter().any(|known| known == node)
        {
            map.insert("nodeName".to_owned(), node.into());
        }
    }
}

fn slice_head(object: &Object) -> FieldErrors {
    let mut errors = one_of(&path("addressType"), str_at(object, "addressType"), &["FQDN", "IPv4", "IPv6"]);
    let ports = items_at(object, "ports");
    if ports.len() > PORTS_MAX {
        errors.push(FieldError::too_many(&path("ports"), ports.len(), PORTS_MAX));
        return errors;
    }
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = path("ports").index(index);
        let name = str_at(port, "name");
        if !name.is_empty() {
            errors.extend(invalid(&at.child("name"), name, names::dns1123_label(name)));
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
        errors.extend(one_of(&at.child("protocol"), str_at(port, "protocol"), &PROTOCOLS));
        errors.extend(app_protocol(port, &at));
    }
    errors
}

fn slice_endpoints(object: &Object) -> FieldErrors {
    let endpoints = items_at(object, "endpoints");
    if endpoints.len() > ENDPOINTS_MAX {
        return vec![FieldError::too_many(&path("endpoints"), endpoints.len(), ENDPOINTS_MAX)];
    }
    let kind = str_at(object, "addressType");
    let checked = endpoints.iter().enumerate();
    checked.flat_map(|(index, endpoint)| slice_endpoint(endpoint, kind, &path("endpoints").index(index))).collect()
}

fn slice_endpoint(endpoint: &Value, kind: &str, path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let at = path.child("addresses");
    let addresses = texts_at(endpoint, "addresses");
    if addresses.is_empty() {
        errors.push(FieldError::required(&at, "must contain at least 1 address"));
    } else if addresses.len() > ADDRESSES_MAX {
        errors.push(FieldError::too_many(&at, addresses.len(), ADDRESSES_MAX));
    }
    for (index, address) in addresses.into_iter().enumerate() {
        errors.extend(slice_address(address, kind, &at, index));
    }
    if let Some(node) = endpoint["nodeName"].as_str() {
        errors.extend(invalid(&path.child("nodeName"), node, names::dns1123_subdomain(node)));
    }
    let topology = map_at(endpoint, "deprecatedTopology");
    let at = path.child("deprecatedTopology");
    if topology.is_some_and(|labels| labels.len() > TOPOLOGY_LABELS_MAX) {
        errors.push(FieldError::too_many(&at, topology.map_or(0, serde_json::Map::len), TOPOLOGY_LABELS_MAX));
    }
    errors.extend(validate_labels(topology, &at));
    if let Some(hostname) = endpoint["hostname"].as_str() {
        errors.extend(invalid(&path.child("hostname"), hostname, names::dns1123_label(hostname)));
    }
    errors.extend(hints(&endpoint["hints"], &path.child("hints")));
    errors
}

fn slice_address(address: &str, kind: &str, path: &FieldPath, index: usize) -> FieldErrors {
    let at = path.index(index);
    let (problems, six) = match kind {
        "IPv4" => (legacy_ip(&at, address, &[]), false),
        "IPv6" => (ip(&at, address), true),
        "FQDN" => {
            let name = address.strip_suffix('.').unwrap_or(address);
            let mut errors = invalid(&at, name, names::dns1123_subdomain(name));
            if errors.is_empty() && !name.contains('.') {
                errors.push(FieldError::invalid(
                    &at,
                    name,
                    "should be a domain with at least two segments separated by dots",
                ));
            }
            return errors;
        }
        _ => return FieldErrors::new(),
    };
    if !problems.is_empty() {
        return problems;
    }
    let mut errors = FieldErrors::new();
    if parse_ip_sloppy(address).is_some_and(|ip| ip.is_ipv6()) != six {
        let detail = format!("must be an {kind} address");
        errors.push(FieldError::invalid(path, address, detail));
    }
    errors.extend(endpoint_ip(address, &at));
    errors
}

fn hints(hints: &Value, path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    for field in ["forZones", "forNodes"] {
        let items = items_at(hints, field);
        if items.len() > HINTS_MAX {
            errors.push(FieldError::too_many(&path.child(field), items.len(), HINTS_MAX));
            return errors;
        }
        let mut seen = HashSet::new();
        for (index, item) in items.iter().enumerate() {
            let at = path.child(field).index(index).child("name");
            let name = str_at(item, "name");
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(&at, name));
            }
            let problems = if field == "forZones" { names::label_value(name) } else { names::dns1123_subdomain(name) };
            errors.extend(invalid(&at, name, problems));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn slices_hold_addresses_of_their_type() {
        let slice = json!({
            "addressType": "IPv4",
            "ports": [{"name": "", "protocol": "TCP"}, {"name": "", "protocol": "X"}],
            "endpoints": [{"addresses": ["fd00::1", "127.0.0.1"]}, {"addresses": []}],
        });
        let errors: Vec<String> = EndpointSlice.validate_create(&slice).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "ports[1].name: Duplicate value: \"\"",
                "ports[1].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "endpoints[0].addresses: Invalid value: \"fd00::1\": must be an IPv4 address",
                "endpoints[0].addresses[1]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "endpoints[1].addresses: Required value: must contain at least 1 address",
            ]
        );
    }

    #[test]
    fn the_generation_follows_what_is_said() {
        let old =
            json!({"metadata": {"generation": 2}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]});
        let mut new = old.clone();
        EndpointSlice.prepare_for_update(&mut new, &old);
        assert_eq!(new["metadata"]["generation"], 2);
        new["metadata"]["labels"] = json!({"a": "b"});
        EndpointSlice.prepare_for_update(&mut new, &old);
        assert_eq!(new["metadata"]["generation"], 3);
    }
}
