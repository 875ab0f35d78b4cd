//! Small kinds of the cluster as a whole: leases, priority and runtime classes, addresses, networks, API services.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::{Kind, NameRule, keep_status};
use super::checks::{
    NOT_NEGATIVE, entries, first_generation, immutable, immutable_text, invalid, keep, known_only, path, required,
    resource_quantity, texts_at,
};
use crate::addresses;
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::metadata::validate_labels;
use crate::names;
use crate::object::{Object, bool_at, i64_at, is_empty, items_at, map_at, map_mut, set_default, str_at};

/// How the next holder of a coordinated lease is chosen.
const STRATEGIES: [&str; 1] = ["OldestEmulationVersion"];
/// The highest priority that isn't the system's.
const USER_PRIORITY_MAX: i64 = 1_000_000_000;
/// The classes that the system brings along, with their values.
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

pub(super) struct Lease;

impl Kind for Lease {
    fn validate_create(&self, object: &Object) -> FieldErrors {
        let at = path("spec");
        let mut errors = FieldErrors::new();
        if let Some(seconds) = i64_at(object, "spec.leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
            errors.push(FieldError::invalid(&at.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
        }
        if let Some(count) = i64_at(object, "spec.leaseTransitions").filter(|count| *count < 0) {
            errors.push(FieldError::invalid(&at.child("leaseTransitions"), count, NOT_NEGATIVE));
        }
        let strategy = object["spec"]["strategy"].as_str();
        if let Some(strategy) = strategy {
            // Upstream names the field twice.
            let at = at.child("strategy").child("strategy");
            if strategy.contains('/') {
                errors.extend(invalid(&at, strategy, names::qualified_name(strategy)));
            } else if !STRATEGIES.contains(&strategy) {
                errors.push(FieldError::not_supported_in_order(&at, strategy, &STRATEGIES));
            }
        }
        let preferred = str_at(object, "spec.preferredHolder");
        if !preferred.is_empty() && strategy.is_none_or(str::is_empty) {
            let detail = "may only be specified if `strategy` is defined";
            errors.push(FieldError::forbidden(&at.child("preferredHolder"), detail));
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

pub(super) struct PriorityClass;

impl Kind for PriorityClass {
    fn default(&self, object: &mut Object) {
        set_default(map_mut(object, ""), "preemptionPolicy", "PreemptLowerPriority");
    }

    fn prepare_for_create(&self, object: &mut Object) {
        first_generation(object);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let name = str_at(object, "metadata.name");
        let value = i64_at(object, "value").unwrap_or_default();
        let mut errors = FieldErrors::new();
        if name.starts_with("system-") {
            if let Some(problem) = not_a_system_class(name, value, bool_at(object, "globalDefault")) {
                let detail = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {problem}"
                );
                errors.push(FieldError::forbidden(&path("metadata.name"), detail));
            }
        } else if value > USER_PRIORITY_MAX {
            let detail = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
            errors.push(FieldError::forbidden(&path("value"), detail));
        }
        match object["preemptionPolicy"].as_str() {
            Some("") => errors.push(FieldError::required(&path("preemptionPolicy"), "")),
            Some(policy) => {
                errors.extend(known_only(&path("preemptionPolicy"), policy, &["Never", "PreemptLowerPriority"]));
            }
            None => {}
        }
        errors
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = FieldErrors::new();
        if i64_at(object, "value").unwrap_or_default() != i64_at(old, "value").unwrap_or_default() {
            errors.push(FieldError::forbidden(&path("value"), "may not be changed in an update."));
        }
        errors.extend(immutable(&path("preemptionPolicy"), &object["preemptionPolicy"], &old["preemptionPolicy"]));
        errors
    }
}

fn not_a_system_class(name: &str, value: i64, is_default: bool) -> Option<String> {
    match SYSTEM_CLASSES.iter().find(|(known, _)| *known == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some((_, expect)) if *expect != value => Some(format!("value of {name} PriorityClass must be {expect}")),
        Some(_) if is_default => Some(format!("globalDefault of {name} PriorityClass must be false")),
        Some(_) => None,
    }
}

pub(super) struct RuntimeClass;

impl Kind for RuntimeClass {
    fn validate_create(&self, object: &Object) -> FieldErrors {
        let mut errors = required(&path("handler"), str_at(object, "handler"), names::dns1123_label);
        for (name, amount) in entries(object, "overhead.podFixed") {
            let at = path("overhead.limits").key(name);
            errors.extend(invalid(&at, name, names::qualified_name(name)));
            errors.extend(resource_quantity(name, amount, &at));
        }
        let scheduling = &object["scheduling"];
        let at = path("scheduling");
        errors.extend(validate_labels(map_at(scheduling, "nodeSelector"), &at.child("nodeSelector")));
        errors.extend(tolerations(items_at(scheduling, "tolerations"), &at.child("tolerations")));
        errors
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        immutable_text(&path("handler"), str_at(object, "handler"), str_at(old, "handler"))
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// Tolerations, each once.
fn tolerations(tolerations: &[Value], path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let mut seen = HashSet::new();
    for (index, toleration) in tolerations.iter().enumerate() {
        let at = path.index(index);
        let [key, operator, value, effect] =
            ["key", "operator", "value", "effect"].map(|field| str_at(toleration, field));
        if !key.is_empty() {
            errors.extend(invalid(&at.child("key"), key, names::qualified_name(key)));
        }
        if key.is_empty() && operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(&at.child("operator"), operator, detail));
        }
        if i64_at(toleration, "tolerationSeconds").is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(&at.child("effect"), effect, detail));
        }
        match operator {
            "Equal" | "" => {
                let problems = names::label_value(value);
                if !problems.is_empty() {
                    errors.push(FieldError::invalid(&at.child("operator"), value, problems.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(&at.child("operator"), json!({}), detail).shown_as(shown(toleration)));
            }
            "Exists" => {}
            other => {
                let known = ["Equal", "Exists"];
                errors.push(FieldError::not_supported_in_order(&at.child("operator"), other, &known));
            }
        }
        if !effect.is_empty() {
            let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            if !known.contains(&effect) {
                errors.push(FieldError::not_supported_in_order(&at.child("effect"), effect, &known));
            }
        }
        if !seen.insert([key, operator, value, effect]) {
            errors.push(FieldError::duplicate(&at, toleration.clone()).shown_as(shown(toleration)));
        }
    }
    errors
}

/// A toleration as upstream prints its own struct.
fn shown(toleration: &Value) -> String {
    let seconds = i64_at(toleration, "tolerationSeconds").map_or("null".to_owned(), |seconds| seconds.to_string());
    let [key, operator, value, effect] = ["key", "operator", "value", "effect"].map(|field| str_at(toleration, field));
    format!(
        "{{\"Key\":\"{key}\",\"Operator\":\"{operator}\",\"Value\":\"{value}\",\"Effect\":\"{effect}\",\"TolerationSeconds\":{seconds}}}"
    )
}

pub(super) struct IpAddress;

impl Kind for IpAddress {
    fn validate_create(&self, object: &Object) -> FieldErrors {
        let name = str_at(object, "metadata.name");
        let mut errors = addresses::ip(&path("metadata.name"), name);
        let parent = &object["spec"]["parentRef"];
        let at = path("spec.parentRef");
        if parent.is_null() {
            errors.push(FieldError::required(&at, ""));
            return errors;
        }
        let group = str_at(parent, "group");
        if !group.is_empty() {
            errors.extend(invalid(&at.child("group"), group, names::dns1123_subdomain(group)));
        }
        for field in ["resource", "name"] {
            errors.extend(required(&at.child(field), str_at(parent, field), names::path_segment));
        }
        let namespace = str_at(parent, "namespace");
        if !namespace.is_empty() {
            errors.extend(invalid(&at.child("namespace"), namespace, names::path_segment(namespace)));
        }
        errors
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        immutable(&path("spec.parentRef"), &object["spec"]["parentRef"], &old["spec"]["parentRef"])
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        let parent = &object["spec"]["parentRef"];
        [
            ("spec.parentRef.group", "group"),
            ("spec.parentRef.resource", "resource"),
            ("spec.parentRef.namespace", "namespace"),
            ("spec.parentRef.name", "name"),
        ]
        .map(|(path, field)| (path, str_at(parent, field).to_owned()))
        .to_vec()
    }
}

pub(super) struct ServiceCidr;

impl Kind for ServiceCidr {
    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_status(object, old);
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        keep(object, old, &["spec"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        networks(object)
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let at = path("spec.cidrs");
        let (now, before) = (texts_at(object, "spec.cidrs"), texts_at(old, "spec.cidrs"));
        let changed = |index: usize| immutable_text(&at.index(index), now[index], before[index]);
        match (before.len(), now.len()) {
            (a, b) if a == b => (0..a).flat_map(changed).collect(),
            (1, 2) => {
                let mut errors = changed(0);
                errors.extend(networks(object));
                errors
            }
            _ => vec![FieldError::invalid(&at, json!(now), super::checks::IMMUTABLE)],
        }
    }
}

fn networks(object: &Object) -> FieldErrors {
    let at = path("spec.cidrs");
    let cidrs = texts_at(object, "spec.cidrs");
    if cidrs.is_empty() {
        return vec![FieldError::required(&at, "at least one CIDR required")];
    }
    if cidrs.len() > 2 {
        let shown = json!({"CIDRs": cidrs});
        return vec![FieldError::invalid(&at, shown, "may only hold up to 2 values")];
    }
    let mut errors: FieldErrors =
        cidrs.iter().enumerate().flat_map(|(index, cidr)| addresses::cidr(&at.index(index), cidr)).collect();
    let families: Vec<bool> =
        cidrs.iter().filter_map(|cidr| Some(addresses::Cidr::parse_sloppy(cidr)?.ip.is_ipv6())).collect();
    if families.len() == 2 && families[0] == families[1] {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(FieldError::invalid(&at, json!(cidrs), detail));
    }
    errors
}

pub(super) struct ApiService;

impl Kind for ApiService {
    fn default(&self, object: &mut Object) {
        if let Some(service) = object.pointer_mut("/spec/service").and_then(Value::as_object_mut) {
            set_default(service, "port", 443);
        }
    }

    fn prepare_for_create(&self, object: &mut Object) {
        let map = map_mut(object, "");
        map.insert("status".to_owned(), json!({}));
        // What this server serves itself is there at once.
        if map.get("spec").is_none_or(|spec| spec["service"].is_null()) {
            let created = map.get("metadata").map(|metadata| metadata["creationTimestamp"].clone()).unwrap_or_default();
            let condition = json!({
                "type": "Available",
                "status": "True",
                "lastTransitionTime": created,
                "reason": "Local",
                "message": "Local APIServices are always available",
            });
            map.insert("status".to_owned(), json!({"conditions": [condition]}));
        }
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_status(object, old);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let at = path("spec");
        let spec = &object["spec"];
        let (group, version) = (str_at(spec, "group"), str_at(spec, "version"));
        let mut errors = FieldErrors::new();
        let expect = format!("{version}.{group}");
        let name = str_at(object, "metadata.name");
        if name != expect {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {}", crate::error::quoted(&expect));
            errors.push(FieldError::invalid(&path("metadata.name"), name, detail));
        }
        if group.is_empty() {
            if version != "v1" {
                let detail = "only v1 may have an empty group and it better be legacy kube";
                errors.push(FieldError::required(&at.child("group"), detail));
            }
        } else {
            errors.extend(invalid(&at.child("group"), group, names::dns1123_subdomain(group)));
        }
        errors.extend(invalid(&at.child("version"), version, names::dns1035_label(version)));
        for (field, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
            let value = i64_at(spec, field).unwrap_or_default();
            if value <= 0 || value > max {
                let detail = format!("must be positive and less than {max}");
                errors.push(FieldError::invalid(&at.child(field), value, detail));
            }
        }
        errors.extend(api_service_backend(spec, &at));
        errors
    }

    fn validate_status_update(&self, object: &Object, _old: &Object) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let known = ["True", "False", "Unknown"];
        for (index, condition) in items_at(object, "status.conditions").iter().enumerate() {
            let status = str_at(condition, "status");
            if !known.contains(&status) {
                let at = path("status.conditions").index(index).child("status");
                errors.push(FieldError::not_supported_in_order(&at, status, &known));
            }
        }
        errors
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }
}

fn api_service_backend(spec: &Value, at: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let skips_check = bool_at(spec, "insecureSkipTLSVerify");
    let has_bundle = !is_empty(&spec["caBundle"]);
    let service = &spec["service"];
    let skip = |detail: &str| FieldError::invalid(&at.child("insecureSkipTLSVerify"), true, detail);
    if service.is_null() {
        if has_bundle {
            let bytes = str_at(spec, "caBundle").len() / 4 * 3;
            let detail = "local APIServices may not have a caBundle";
            errors.push(FieldError::invalid(&at.child("caBundle"), format!("{bytes} bytes"), detail));
        }
        if skips_check {
            errors.push(skip("local APIServices may not have insecureSkipTLSVerify"));
        }
        return errors;
    }
    for field in ["namespace", "name"] {
        if str_at(service, field).is_empty() {
            errors.push(FieldError::required(&at.child("service").child(field), ""));
        }
    }
    let port = i64_at(service, "port").unwrap_or_default();
    let problems = names::port_number(port);
    if !problems.is_empty() {
        let detail = format!("port is not valid: {}", problems.join(", "));
        errors.push(FieldError::invalid(&at.child("service.port"), port, detail));
    }
    if skips_check && has_bundle {
        errors.push(skip("may not be true if caBundle is present"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(errors: FieldErrors, expect: &[&str]) {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, expect);
    }

    #[test]
    fn the_systems_priorities_are_its_own() {
        let class = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value});
        check(PriorityClass.validate_create(&class("a", USER_PRIORITY_MAX)), &[]);
        check(
            PriorityClass.validate_create(&class("a", USER_PRIORITY_MAX + 1)),
            &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
        );
        check(PriorityClass.validate_create(&class("system-node-critical", 2_000_001_000)), &[]);
        check(
            PriorityClass.validate_create(&class("system-x", 1)),
            &[
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-x is not a known system priority class",
            ],
        );
        check(
            PriorityClass.validate_update(&class("a", 2), &class("a", 1)),
            &["value: Forbidden: may not be changed in an update."],
        );
    }

    #[test]
    fn tolerations_stand_once() {
        let toleration = json!({"key": "k", "operator": "Exists"});
        check(
            tolerations(&[toleration.clone(), toleration, json!({"operator": "Equal"})], &path("t")),
            &[
                "t[1]: Duplicate value: {\"Key\":\"k\",\"Operator\":\"Exists\",\"Value\":\"\",\"Effect\":\"\",\"TolerationSeconds\":null}",
                "t[2].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ],
        );
    }

    #[test]
    fn networks_grow_by_a_family_only() {
        let cidr = |cidrs: Value| json!({"spec": {"cidrs": cidrs}});
        let one = cidr(json!(["10.0.0.0/24"]));
        check(ServiceCidr.validate_update(&cidr(json!(["10.0.0.0/24", "fd00::/112"])), &one), &[]);
        check(
            ServiceCidr.validate_update(&cidr(json!(["10.0.1.0/24"])), &one),
            &["spec.cidrs[0]: Invalid value: \"10.0.1.0/24\": field is immutable"],
        );
        check(
            ServiceCidr.validate_create(&cidr(json!(["10.0.0.0/24", "10.0.1.0/24"]))),
            &[
                "spec.cidrs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
            ],
        );
    }

    #[test]
    fn local_api_services_are_available() {
        let mut object = json!({"metadata": {"name": "v1.g", "creationTimestamp": "t"}, "spec": {"group": "g", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}});
        ApiService.prepare_for_create(&mut object);
        assert_eq!(object["status"]["conditions"][0]["reason"], "Local");
        check(ApiService.validate_create(&object), &[]);
        object["spec"]["service"] = json!({"port": 0});
        ApiService.prepare_for_create(&mut object);
        assert_eq!(object["status"], json!({}));
        check(
            ApiService.validate_create(&object),
            &[
                "spec.service.namespace: Required value",
                "spec.service.name: Required value",
                "spec.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
            ],
        );
    }
}
