//! Nodes, and the binding of a pod to one.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::{Kind, keep_status};
use super::checks::{cidr_warnings, entries, invalid, keep, path, resource_quantity, same, texts_at};
use crate::addresses::{Cidr, legacy_cidr};
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::names;
use crate::object::{Object, bool_at, is_empty, items_at, map_mut, str_at};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(super) struct Node;

impl Kind for Node {
    fn default(&self, object: &mut Object) {
        // `podCIDR` is the first of `podCIDRs`: old clients know only the one.
        let first = str_at(object, "spec.podCIDR").to_owned();
        if !first.is_empty() && is_empty(&object["spec"]["podCIDRs"]) {
            map_mut(object, "spec").insert("podCIDRs".to_owned(), json!([first]));
        }
        let capacity = object["status"]["capacity"].clone();
        if !is_empty(&capacity) && object["status"]["allocatable"].is_null() {
            map_mut(object, "status").insert("allocatable".to_owned(), capacity);
        }
    }

    fn prepare_for_create(&self, object: &mut Object) {
        map_mut(object, "spec").remove("configSource");
        if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
            status.remove("config");
        }
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_status(object, old);
        if old["spec"]["configSource"].is_null() {
            map_mut(object, "spec").remove("configSource");
        }
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        keep(object, old, &["spec"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let mut errors = taints(object);
        errors.extend(resources(object));
        let at = path("spec.podCIDRs");
        let cidrs = texts_at(object, "spec.podCIDRs");
        for (index, cidr) in cidrs.iter().enumerate() {
            errors.extend(legacy_cidr(&at.index(index), cidr, &[]));
        }
        let is_six: Vec<bool> = cidrs.iter().filter_map(|cidr| Some(Cidr::parse_sloppy(cidr)?.ip.is_ipv6())).collect();
        let one_each = cidrs.len() < 2 || cidrs.len() == 2 && is_six.len() == 2 && is_six[0] != is_six[1];
        if !one_each {
            let detail = "may specify no more than one CIDR for each IP family";
            errors.push(FieldError::invalid(&at, json!(cidrs), detail));
        }
        errors
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = self.validate_create(object);
        errors.extend(change(object, old));
        errors
    }

    fn validate_status_update(&self, object: &Object, old: &Object) -> FieldErrors {
        change(object, old)
    }

    fn warnings(&self, object: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut warnings = Vec::new();
        if !object["spec"]["configSource"].is_null() {
            warnings.push("spec.configSource: the feature is removed".to_owned());
        }
        if !str_at(object, "spec.externalID").is_empty() {
            warnings.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        for (index, cidr) in texts_at(object, "spec.podCIDRs").into_iter().enumerate() {
            warnings.extend(cidr_warnings(&path("spec.podCIDRs").index(index), cidr));
        }
        warnings
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        vec![("spec.unschedulable", bool_at(object, "spec.unschedulable").to_string())]
    }
}

fn taints(object: &Object) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let mut seen = HashSet::new();
    for (index, taint) in items_at(object, "spec.taints").iter().enumerate() {
        // Upstream says `metadata` here, though taints stand in the spec.
        let at = path("metadata.taints").index(index);
        let (key, value, effect) = (str_at(taint, "key"), str_at(taint, "value"), str_at(taint, "effect"));
        errors.extend(invalid(&at.child("key"), key, names::qualified_name(key)));
        let problems = names::label_value(value);
        if !problems.is_empty() {
            errors.push(FieldError::invalid(&at.child("value"), value, problems.join(";")));
        }
        match effect {
            "" => errors.push(FieldError::required(&at.child("effect"), "")),
            effect if EFFECTS.contains(&effect) => {}
            effect => errors.push(FieldError::not_supported_in_order(&at.child("effect"), effect, &EFFECTS)),
        }
        if !seen.insert((key, effect)) {
            // Upstream prints its own struct.
            let added = taint["timeAdded"].as_str().map_or("null".to_owned(), |time| format!("\"{time}\""));
            let shown =
                format!("{{\"Key\":\"{key}\",\"Value\":\"{value}\",\"Effect\":\"{effect}\",\"TimeAdded\":{added}}}");
            let mut error = FieldError::duplicate(&at, taint.clone()).shown_as(shown);
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
    errors
}

fn resources(object: &Object) -> FieldErrors {
    let mut errors = FieldErrors::new();
    for field in ["capacity", "allocatable"] {
        for (name, amount) in entries(object, &format!("status.{field}")) {
            let at = FieldPath::new("status").child(field).child(name);
            errors.extend(resource_quantity(name, amount, &at));
        }
    }
    errors
}

fn change(object: &Object, old: &Object) -> FieldErrors {
    let mut errors = resources(object);
    let addresses = items_at(object, "status.addresses");
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            let shown =
                format!("{{\"Type\":\"{}\",\"Address\":\"{}\"}}", str_at(address, "type"), str_at(address, "address"));
            let at = path("status.addresses").index(index);
            errors.push(FieldError::duplicate(&at, address.clone()).shown_as(shown));
        }
    }
    let before = texts_at(old, "spec.podCIDRs");
    let now = texts_at(object, "spec.podCIDRs");
    if !before.is_empty() {
        let changed = match before.len() == now.len() {
            true => before.iter().zip(&now).filter(|(old, new)| old != new).count(),
            false => 1,
        };
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.extend((0..changed).map(|_| FieldError::forbidden(&path("spec.podCIDRs"), detail)));
    }
    let before = str_at(old, "spec.providerID");
    if !before.is_empty() && before != str_at(object, "spec.providerID") {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden(&path("spec.providerID"), detail));
    }
    errors.extend(taints(object));
    if !same(&object["spec"]["externalID"], &old["spec"]["externalID"]) {
        errors.push(FieldError::forbidden(&path("spec.externalID"), "may not be updated"));
    }
    errors
}

pub(super) struct Binding;

impl Kind for Binding {
    fn validate_create(&self, object: &Object) -> FieldErrors {
        let at = path("target");
        let (kind, name) = (str_at(object, "target.kind"), str_at(object, "target.name"));
        let mut errors = FieldErrors::new();
        if !matches!(kind, "" | "Node") {
            let known = ["Node", "<empty>"];
            errors.push(FieldError::not_supported_in_order(&at.child("kind"), kind, &known));
        }
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_networks() {
        let old = json!({"spec": {"podCIDRs": ["10.0.0.0/24"], "providerID": "x://1"}});
        let new = json!({"spec": {"podCIDRs": ["10.0.1.0/24"], "taints": [{"key": "a", "effect": "NoExecute"}, {"key": "a", "effect": "NoExecute"}]}});
        let errors: Vec<String> = change(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
                "spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid",
                "metadata.taints[1]: Duplicate value: {\"Key\":\"a\",\"Value\":\"\",\"Effect\":\"NoExecute\",\"TimeAdded\":null}: taints must be unique by key and effect pair",
            ]
        );
    }

    #[test]
    fn capacity_is_allocatable_until_the_node_says_otherwise() {
        let mut object = json!({"spec": {"podCIDR": "10.0.0.0/24"}, "status": {"capacity": {"cpu": "2"}}});
        Kind::default(&Node, &mut object);
        assert_eq!(object["status"]["allocatable"], json!({"cpu": "2"}));
        assert_eq!(object["spec"]["podCIDRs"], json!(["10.0.0.0/24"]));
    }

    #[test]
    fn quantities_of_nodes_are_checked() {
        let object = json!({"status": {"capacity": {"cpu": "-1", "pods": "1.5"}}});
        let errors: Vec<String> = resources(&object).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "status.capacity.cpu: Invalid value: \"-1\": must be greater than or equal to 0",
                "status.capacity.pods: Invalid value: \"1.5\": must be an integer",
            ]
        );
    }
}
