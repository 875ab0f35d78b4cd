//! Network policies.

use serde_json::{Value, json};

use super::super::Kind;
use super::checks::{
    cidr_warnings, first_generation, invalid, invalid_number, label_selector, next_generation, path, texts_at,
};
use crate::addresses::{Cidr, legacy_cidr};
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::names;
use crate::object::{Object, i64_at, is_empty, items_at, map_mut, str_at};

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
/// Each direction with the name of its peers.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

pub(super) struct NetworkPolicy;

impl Kind for NetworkPolicy {
    fn default(&self, object: &mut Object) {
        let spec = map_mut(object, "spec");
        if spec.get("policyTypes").is_none_or(is_empty) {
            let has_egress = spec.get("egress").is_some_and(|egress| !is_empty(egress));
            let types = if has_egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
            spec.insert("policyTypes".to_owned(), types);
        }
    }

    fn prepare_for_create(&self, object: &mut Object) {
        first_generation(object);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        next_generation(object, old, &["spec"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        spec(object, &[])
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut known = Vec::new();
        for (_, _, block) in blocks(old) {
            known.push(str_at(block, "cidr"));
            known.extend(texts_at(block, "except"));
        }
        spec(object, &known)
    }

    fn warnings(&self, object: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut warnings = Vec::new();
        for (at, _, block) in blocks(object) {
            warnings.extend(cidr_warnings(&at.child("cidr"), str_at(block, "cidr")));
            for (index, except) in texts_at(block, "except").into_iter().enumerate() {
                warnings.extend(cidr_warnings(&at.child("except").index(index), except));
            }
        }
        warnings
    }
}

/// All address blocks with their paths.
fn blocks(object: &Object) -> Vec<(FieldPath, &'static str, &Value)> {
    let mut blocks = Vec::new();
    for (direction, peers) in DIRECTIONS {
        for (index, rule) in items_at(object, &format!("spec.{direction}")).iter().enumerate() {
            for (peer_index, peer) in items_at(rule, peers).iter().enumerate() {
                if !peer["ipBlock"].is_null() {
                    let at = path("spec").child(direction).index(index).child(peers).index(peer_index);
                    blocks.push((at.child("ipBlock"), direction, &peer["ipBlock"]));
                }
            }
        }
    }
    blocks
}

fn spec(object: &Object, known: &[&str]) -> FieldErrors {
    let at = path("spec");
    let mut errors = label_selector(&object["spec"]["podSelector"], &at.child("podSelector"));
    for (direction, peers) in DIRECTIONS {
        for (index, rule) in items_at(object, &format!("spec.{direction}")).iter().enumerate() {
            let at = at.child(direction).index(index);
            for (index, port) in items_at(rule, "ports").iter().enumerate() {
                errors.extend(policy_port(port, &at.child("ports").index(index)));
            }
            for (index, peer) in items_at(rule, peers).iter().enumerate() {
                errors.extend(policy_peer(peer, known, &at.child(peers).index(index)));
            }
        }
    }
    let types = texts_at(object, "spec.policyTypes");
    let at = at.child("policyTypes");
    if types.len() > 2 {
        errors.push(FieldError::invalid(&at, json!(types), "may not specify more than two policyTypes"));
        return errors;
    }
    let unknown = types.into_iter().enumerate().filter(|(_, kind)| !matches!(*kind, "Ingress" | "Egress"));
    errors.extend(
        unknown.map(|(index, kind)| FieldError::not_supported_in_order(&at.index(index), kind, &["Ingress", "Egress"])),
    );
    errors
}

fn policy_port(port: &Value, path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    if let Some(protocol) = port["protocol"].as_str()
        && !PROTOCOLS.contains(&protocol)
    {
        errors.push(FieldError::not_supported_in_order(&path.child("protocol"), protocol, &PROTOCOLS));
    }
    let end = i64_at(port, "endPort");
    let end_at = path.child("endPort");
    match &port["port"] {
        Value::Null => {
            if let Some(end) = end {
                errors.push(FieldError::invalid(&end_at, end, "may not be specified when `port` is not specified"));
            }
        }
        Value::String(name) => {
            if let Some(end) = end {
                errors.push(FieldError::invalid(&end_at, end, "may not be specified when `port` is non-numeric"));
            }
            errors.extend(invalid(&path.child("port"), name, names::port_name(name)));
        }
        number => {
            let number = number.as_i64().unwrap_or_default();
            errors.extend(invalid_number(&path.child("port"), number, names::port_number(number)));
            if let Some(end) = end {
                if end < number {
                    // Upstream shows the start, not the end.
                    errors.push(FieldError::invalid(&end_at, number, "must be greater than or equal to `port`"));
                }
                errors.extend(invalid_number(&end_at, end, names::port_number(end)));
            }
        }
    }
    errors
}

fn policy_peer(peer: &Value, known: &[&str], path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let mut count = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if !peer[field].is_null() {
            count += 1;
            errors.extend(label_selector(&peer[field], &path.child(field)));
        }
    }
    let block = &peer["ipBlock"];
    if !block.is_null() {
        count += 1;
        errors.extend(address_block(block, known, &path.child("ipBlock")));
    }
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a peer"));
    } else if count > 1 && !block.is_null() {
        errors.push(FieldError::forbidden(path, "may not specify both ipBlock and another peer"));
    }
    errors
}

fn address_block(block: &Value, known: &[&str], path: &FieldPath) -> FieldErrors {
    let text = str_at(block, "cidr");
    if text.is_empty() {
        return vec![FieldError::required(&path.child("cidr"), "")];
    }
    let mut errors = legacy_cidr(&path.child("cidr"), text, known);
    let Some(cidr) = Cidr::parse_sloppy(text) else { return errors };
    for (index, text) in texts_at(block, "except").into_iter().enumerate() {
        let at = path.child("except").index(index);
        errors.extend(legacy_cidr(&at, text, known));
        let Some(except) = Cidr::parse_sloppy(text) else { continue };
        if !cidr.contains(except.network()) || cidr.prefix >= except.prefix {
            errors.push(FieldError::invalid(&at, text, "must be a strict subset of `cidr`"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_imply_their_types() {
        let mut object = json!({"spec": {"podSelector": {}, "egress": [{}]}});
        Kind::default(&NetworkPolicy, &mut object);
        assert_eq!(object["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    }

    #[test]
    fn ports_and_peers_are_checked() {
        let object = json!({"spec": {"podSelector": {}, "policyTypes": ["Up"], "ingress": [{
            "ports": [{"protocol": "ICMP"}, {"port": 80, "endPort": 79}, {"endPort": 1}, {"port": "web", "endPort": 1}],
            "from": [{}, {"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/16", "except": ["10.0.0.0/8", "10.0.1.0/24"]}}],
        }]}});
        let errors: Vec<String> = NetworkPolicy.validate_create(&object).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "spec.ingress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
                "spec.ingress[0].ports[1].endPort: Invalid value: 80: must be greater than or equal to `port`",
                "spec.ingress[0].ports[2].endPort: Invalid value: 1: may not be specified when `port` is not specified",
                "spec.ingress[0].ports[3].endPort: Invalid value: 1: may not be specified when `port` is non-numeric",
                "spec.ingress[0].from[0]: Required value: must specify a peer",
                "spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
                "spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer",
                "spec.policyTypes[0]: Unsupported value: \"Up\": supported values: \"Ingress\", \"Egress\"",
            ]
        );
    }
}
