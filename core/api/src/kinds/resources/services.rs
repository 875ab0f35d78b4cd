//! Services: their defaults, and what their type allows. Addresses and ports are given by the API server.
//!
//! Upstream gives them before it validates, and refuses what can't be given at once; here validation comes first, so that
//! what will be given later isn't asked for.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::{Kind, NameRule, keep_status};
use super::checks::{
    annotation, endpoint_ip, invalid, invalid_number, keep, known_only, one_of, path, port_or_name, same, texts_at,
};
use super::service_warnings;
use crate::addresses::{self, legacy_cidr, legacy_ip, parse_ip_sloppy};
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::metadata::validate_labels;
use crate::names;
use crate::object::{Object, i64_at, is_empty, items_at, map_at, map_mut, set_default, str_at};

/// Three hours: how long a client sticks to an endpoint unless the service says otherwise.
const CLIENT_IP_SECONDS: i64 = 10_800;
/// A day.
const CLIENT_IP_SECONDS_MAX: i64 = 86_400;
const NONE: &str = "None";
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

pub(super) struct Service;

impl Kind for Service {
    fn default(&self, object: &mut Object) {
        default_ports(object);
        let kind = service_type(object).to_owned();
        let external = is_external(object);
        let spec = map_mut(object, "spec");
        match spec.get("sessionAffinity").and_then(Value::as_str) {
            Some("None") => {
                spec.remove("sessionAffinityConfig");
            }
            Some("ClientIP")
                if spec
                    .get("sessionAffinityConfig")
                    .is_none_or(|config| config["clientIP"]["timeoutSeconds"].is_null()) =>
            {
                let config = json!({"clientIP": {"timeoutSeconds": CLIENT_IP_SECONDS}});
                spec.insert("sessionAffinityConfig".to_owned(), config);
            }
            _ => {}
        }
        if external && spec.get("externalTrafficPolicy").is_none_or(is_empty) {
            spec.insert("externalTrafficPolicy".to_owned(), json!("Cluster"));
        }
        if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
            set_default(spec, "internalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            set_default(spec, "allocateLoadBalancerNodePorts", true);
            let ingress = object.pointer_mut("/status/loadBalancer/ingress").and_then(Value::as_array_mut);
            for point in ingress.into_iter().flatten().filter_map(Value::as_object_mut) {
                if point.get("ip").is_some_and(|ip| !is_empty(ip)) {
                    set_default(point, "ipMode", "VIP");
                }
            }
        }
    }

    fn prepare_for_create(&self, object: &mut Object) {
        map_mut(object, "").insert("status".to_owned(), json!({"loadBalancer": {}}));
        match_cluster_ips(object, None);
        fill_families(object, None);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_allocated(object, old);
        match_cluster_ips(object, Some(old));
        fill_families(object, Some(old));
        keep_status(object, old);
        drop_what_the_type_lacks(object, old);
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        keep(object, old, &["spec"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        validate(object, None)
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let impossible = cannot_be_given(object, Some(old));
        if !impossible.is_empty() {
            return impossible;
        }
        let mut errors = cluster_ips_change(object, old);
        errors.extend(families_change(object, old));
        if service_type(object) == "LoadBalancer"
            && service_type(old) == "LoadBalancer"
            && object["spec"]["loadBalancerClass"] != old["spec"]["loadBalancerClass"]
        {
            let class = object["spec"]["loadBalancerClass"].clone();
            errors.push(FieldError::invalid(&path("spec.loadBalancerClass"), class, "may not change once set"));
        }
        errors.extend(load_balancer_class(object));
        if needs_health_check(object)
            && needs_health_check(old)
            && !same_number(object, old, "spec.healthCheckNodePort")
        {
            errors.push(FieldError::forbidden(&path("spec.healthCheckNodePort"), "field is immutable"));
        }
        errors.extend(validate(object, Some(old)));
        errors
    }

    fn validate_status_update(&self, object: &Object, old: &Object) -> FieldErrors {
        load_balancer_status(object, old)
    }

    fn warnings(&self, object: &Object, _old: Option<&Object>) -> Vec<String> {
        service_warnings::of(object)
    }

    fn name_rule(&self) -> NameRule {
        NameRule::DnsLabel
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        vec![
            ("spec.clusterIP", str_at(object, "spec.clusterIP").to_owned()),
            ("spec.type", service_type(object).to_owned()),
        ]
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

fn service_type(object: &Object) -> &str {
    str_at(object, "spec.type")
}

/// Whether it can be reached from outside the cluster.
fn is_external(object: &Object) -> bool {
    matches!(service_type(object), "LoadBalancer" | "NodePort")
        || service_type(object) == "ClusterIP" && !items_at(object, "spec.externalIPs").is_empty()
}

pub(super) fn is_headless(object: &Object) -> bool {
    let ips = texts_at(object, "spec.clusterIPs");
    ips == [NONE] || ips.is_empty() && str_at(object, "spec.clusterIP") == NONE
}

fn needs_node_ports(object: &Object) -> bool {
    matches!(service_type(object), "NodePort" | "LoadBalancer")
}

fn needs_health_check(object: &Object) -> bool {
    service_type(object) == "LoadBalancer" && str_at(object, "spec.externalTrafficPolicy") == "Local"
}

fn same_number(a: &Object, b: &Object, path: &str) -> bool {
    i64_at(a, path).unwrap_or_default() == i64_at(b, path).unwrap_or_default()
}

fn default_ports(object: &mut Object) {
    let ports = object.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
        if port.get("targetPort").is_none_or(is_empty) {
            let number = port.get("port").cloned().unwrap_or(json!(0));
            port.insert("targetPort".to_owned(), number);
        }
    }
}

/// Keeps `clusterIP` and `clusterIPs` in step, as old clients know only the first (upstream's `normalizeClusterIPs`).
fn match_cluster_ips(object: &mut Object, old: Option<&Object>) {
    let ip = str_at(object, "spec.clusterIP").to_owned();
    let ips = object["spec"]["clusterIPs"].clone();
    let new = match old {
        None if !ip.is_empty() && is_empty(&ips) => Some(json!([ip])),
        None => None,
        Some(old) => {
            let (old_ip, old_ips) = (str_at(old, "spec.clusterIP"), &old["spec"]["clusterIPs"]);
            if !is_empty(old_ips) && is_empty(&ips) && old_ip == ip {
                Some(old_ips.clone())
            } else if old_ip != ip && same(&ips, old_ips) {
                Some(if ip.is_empty() { Value::Null } else { json!([ip]) })
            } else {
                None
            }
        }
    };
    let Some(new) = new else { return };
    let spec = map_mut(object, "spec");
    if new.is_null() {
        spec.remove("clusterIPs");
    } else {
        spec.insert("clusterIPs".to_owned(), new);
    }
}

/// What a client left out of an update stays as it was given (upstream's `patchAllocatedValues`).
fn keep_allocated(object: &mut Object, old: &Object) {
    if service_type(object) != "ExternalName" && service_type(old) != "ExternalName" {
        let spec = map_mut(object, "spec");
        for field in ["clusterIP", "clusterIPs"] {
            if spec.get(field).is_none_or(is_empty) && !is_empty(&old["spec"][field]) {
                spec.insert(field.to_owned(), old["spec"][field].clone());
            }
        }
    }
    if needs_node_ports(object) && needs_node_ports(old) {
        let numbers = |object: &Object| -> HashSet<i64> {
            items_at(object, "spec.ports")
                .iter()
                .filter_map(|port| i64_at(port, "nodePort"))
                .filter(|n| *n != 0)
                .collect()
        };
        let used: HashSet<i64> = numbers(old).intersection(&numbers(object)).copied().collect();
        let old_ports = items_at(old, "spec.ports");
        let ports = object.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten() {
            if i64_at(port, "nodePort").unwrap_or_default() != 0 {
                continue;
            }
            let before = old_ports.iter().rfind(|before| str_at(before, "name") == str_at(port, "name"));
            let number = before.and_then(|before| i64_at(before, "nodePort")).unwrap_or_default();
            if number != 0 && !used.contains(&number) {
                map_mut(port, "").insert("nodePort".to_owned(), json!(number));
            }
        }
    }
    if needs_health_check(object) && needs_health_check(old) && is_empty(&object["spec"]["healthCheckNodePort"]) {
        let number = old["spec"]["healthCheckNodePort"].clone();
        if !number.is_null() {
            map_mut(object, "spec").insert("healthCheckNodePort".to_owned(), number);
        }
    }
}

/// Address families, one unless the service asks for more (upstream's `initIPFamilyFields` on a single-stack cluster).
fn fill_families(object: &mut Object, old: Option<&Object>) {
    if service_type(object) == "ExternalName" {
        return;
    }
    let has_selector = map_at(object, "spec.selector").is_some_and(|selector| !selector.is_empty());
    let any_family = is_headless(object) && !has_selector;
    let old_policy = old.map(|old| old["spec"]["ipFamilyPolicy"].clone()).unwrap_or_default();
    let first_ip = texts_at(object, "spec.clusterIPs").first().copied().unwrap_or_default().to_owned();
    let by_default = if parse_ip_sloppy(&first_ip).is_some_and(|ip| ip.is_ipv6()) { "IPv6" } else { "IPv4" };
    let spec = map_mut(object, "spec");
    if spec.get("ipFamilyPolicy").is_none_or(Value::is_null) {
        let policy = match (&old_policy, any_family) {
            (Value::Null, true) => json!("RequireDualStack"),
            (Value::Null, false) => json!("SingleStack"),
            (old, _) => old.clone(),
        };
        spec.insert("ipFamilyPolicy".to_owned(), policy);
    }
    let is_single = spec.get("ipFamilyPolicy").is_some_and(|policy| policy == "SingleStack");
    let families = spec.entry("ipFamilies").or_insert(Value::Null);
    if is_empty(families) {
        *families = json!([by_default]);
    }
    if let Value::Array(families) = families
        && any_family
        && families.len() == 1
        && !is_single
    {
        families.push(if families[0] == "IPv4" { json!("IPv6") } else { json!("IPv4") });
    }
}

/// Takes away what was set for the old type and no longer means anything (upstream's `dropTypeDependentFields`).
fn drop_what_the_type_lacks(object: &mut Object, old: &Object) {
    let kind = service_type(object).to_owned();
    let unchanged = |object: &Object, field: &str| same(&object["spec"][field], &old["spec"][field]);
    let mut gone: Vec<&str> = Vec::new();
    if service_type(old) != "ExternalName" && kind == "ExternalName" {
        if unchanged(object, "clusterIP") && unchanged(object, "clusterIPs") {
            gone.extend(["clusterIP", "clusterIPs"]);
        }
        gone.extend(["ipFamilies", "ipFamilyPolicy"].into_iter().filter(|field| unchanged(object, field)));
    }
    if needs_health_check(old) && !needs_health_check(object) && unchanged(object, "healthCheckNodePort") {
        gone.push("healthCheckNodePort");
    }
    if service_type(old) == "LoadBalancer" && kind != "LoadBalancer" {
        let fields = ["allocateLoadBalancerNodePorts", "loadBalancerClass"];
        gone.extend(fields.into_iter().filter(|field| unchanged(object, field)));
    }
    if is_external(old) && !is_external(object) && unchanged(object, "externalTrafficPolicy") {
        gone.push("externalTrafficPolicy");
    }
    if needs_node_ports(old) && !needs_node_ports(object) {
        let known: Vec<i64> = items_at(old, "spec.ports").iter().filter_map(|port| i64_at(port, "nodePort")).collect();
        let ports = object.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
        if let Some(ports) = ports
            && ports
                .iter()
                .filter_map(|port| i64_at(port, "nodePort"))
                .all(|number| number == 0 || known.contains(&number))
        {
            for port in ports {
                map_mut(port, "").remove("nodePort");
            }
        }
    }
    let spec = map_mut(object, "spec");
    for field in gone {
        spec.remove(field);
    }
    if kind != "LoadBalancer" {
        map_mut(object, "status").insert("loadBalancer".to_owned(), json!({}));
    }
}

/// What upstream refuses when it gives addresses, before it looks at the rest.
fn cannot_be_given(object: &Object, old: Option<&Object>) -> FieldErrors {
    if service_type(object) == "ExternalName" {
        return FieldErrors::new();
    }
    let errors = cluster_ips(object, old);
    if !errors.is_empty() {
        return errors;
    }
    let mut errors = FieldErrors::new();
    let policy = &object["spec"]["ipFamilyPolicy"];
    let families = texts_at(object, "spec.ipFamilies");
    let ips = texts_at(object, "spec.clusterIPs");
    let at = path("spec.ipFamilyPolicy");
    if policy == "SingleStack" {
        for (count, what) in [(ips.len(), "cluster IPs"), (families.len(), "IP families")] {
            if count == 2 {
                let detail =
                    format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
                errors.push(FieldError::invalid(&at, policy.clone(), detail));
            }
        }
    }
    errors
}

fn validate(object: &Object, old: Option<&Object>) -> FieldErrors {
    let mut errors = cannot_be_given(object, old);
    if !errors.is_empty() {
        return errors;
    }
    let (hints, mode) = (annotation(object, TOPOLOGY_HINTS), annotation(object, TOPOLOGY_MODE));
    if let (Some(hints), Some(mode)) = (hints, mode)
        && hints != mode
    {
        let detail = format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified");
        errors.push(FieldError::invalid(&path("metadata.annotations").key(TOPOLOGY_MODE), mode, detail));
    }
    let spec = path("spec");
    let kind = service_type(object);
    let ports = items_at(object, "spec.ports");
    if ports.is_empty() && !is_headless(object) && kind != "ExternalName" {
        errors.push(FieldError::required(&spec.child("ports"), ""));
    }
    errors.extend(type_allows(object));
    let mut port_names = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        errors.extend(validate_port(port, ports.len() > 1, &mut port_names, &spec.child("ports").index(index)));
    }
    errors.extend(validate_labels(map_at(object, "spec.selector"), &spec.child("selector")));
    let affinity = str_at(object, "spec.sessionAffinity");
    errors.extend(one_of(&spec.child("sessionAffinity"), affinity, &["ClientIP", NONE]));
    errors.extend(affinity_config(object));
    let old_ips = old.map(|old| texts_at(old, "spec.externalIPs")).unwrap_or_default();
    for (index, ip) in texts_at(object, "spec.externalIPs").into_iter().enumerate() {
        let at = spec.child("externalIPs").index(index);
        let problems = legacy_ip(&at, ip, &old_ips);
        errors.extend(if problems.is_empty() { endpoint_ip(ip, &at) } else { problems });
    }
    errors.extend(one_of(&spec.child("type"), kind, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]));
    errors.extend(ports_together(object));
    errors.extend(source_ranges(object, old));
    if kind != "LoadBalancer" && !object["spec"]["allocateLoadBalancerNodePorts"].is_null() {
        let detail = "may only be used when `type` is 'LoadBalancer'";
        errors.push(FieldError::forbidden(&spec.child("allocateLoadBalancerNodePorts"), detail));
    }
    errors.extend(load_balancer_class(object));
    errors.extend(traffic_policies(object));
    errors
}

/// What may stand beside the type.
fn type_allows(object: &Object) -> FieldErrors {
    let spec = path("spec");
    let mut errors = FieldErrors::new();
    match service_type(object) {
        kind @ ("LoadBalancer" | "NodePort") if is_headless(object) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.push(FieldError::invalid(&spec.child("clusterIPs").index(0), NONE, detail));
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if !is_empty(&object["spec"][field]) {
                    errors.push(FieldError::forbidden(&spec.child(field), "may not be set for ExternalName services"));
                }
            }
            let name = str_at(object, "spec.externalName");
            let name = name.strip_suffix('.').unwrap_or(name);
            errors.extend(super::checks::required(&spec.child("externalName"), name, names::dns1123_subdomain));
        }
        _ => {}
    }
    errors
}

fn validate_port<'a>(port: &'a Value, needs_name: bool, known: &mut HashSet<&'a str>, path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let name = str_at(port, "name");
    if name.is_empty() && needs_name {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else if !name.is_empty() {
        errors.extend(invalid(&path.child("name"), name, names::dns1123_label(name)));
        if !known.insert(name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
    }
    let number = i64_at(port, "port").unwrap_or_default();
    errors.extend(invalid_number(&path.child("port"), number, names::port_number(number)));
    errors.extend(one_of(&path.child("protocol"), str_at(port, "protocol"), &["SCTP", "TCP", "UDP"]));
    errors.extend(port_or_name(&port["targetPort"], &path.child("targetPort")));
    if let Some(protocol) = port["appProtocol"].as_str() {
        errors.extend(invalid(&path.child("appProtocol"), protocol, names::qualified_name(protocol)));
    }
    errors
}

fn affinity_config(object: &Object) -> FieldErrors {
    let at = path("spec.sessionAffinityConfig");
    let config = &object["spec"]["sessionAffinityConfig"];
    match str_at(object, "spec.sessionAffinity") {
        "ClientIP" => {
            let seconds = config["clientIP"]["timeoutSeconds"].as_i64().unwrap_or_default();
            if seconds <= 0 || seconds > CLIENT_IP_SECONDS_MAX {
                let detail = format!("must be greater than 0 and less than {CLIENT_IP_SECONDS_MAX}");
                return vec![FieldError::invalid(&at.child("clientIP.timeoutSeconds"), seconds, detail)];
            }
            FieldErrors::new()
        }
        NONE if !config.is_null() => {
            vec![FieldError::forbidden(&at, "must not be set when session affinity is None")]
        }
        _ => FieldErrors::new(),
    }
}

/// What ports mustn't share.
fn ports_together(object: &Object) -> FieldErrors {
    let at = path("spec.ports");
    let ports = items_at(object, "spec.ports");
    let number = |port: &Value, field: &str| i64_at(port, field).unwrap_or_default();
    let mut errors = FieldErrors::new();
    if service_type(object) == "ClusterIP" {
        for (index, _) in ports.iter().enumerate().filter(|(_, port)| number(port, "nodePort") != 0) {
            let detail = "may not be used when `type` is 'ClusterIP'";
            errors.push(FieldError::forbidden(&at.index(index).child("nodePort"), detail));
        }
    }
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let node_port = number(port, "nodePort");
        if node_port != 0 && !seen.insert((str_at(port, "protocol"), node_port)) {
            errors.push(FieldError::duplicate(&at.index(index).child("nodePort"), node_port));
        }
    }
    let mut seen = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let (protocol, number) = (str_at(port, "protocol"), number(port, "port"));
        if !seen.insert((protocol, number)) {
            // Upstream prints its own struct.
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":\"{protocol}\",\"AppProtocol\":null,\"Port\":{number},\"TargetPort\":0,\"NodePort\":0}}"
            );
            errors.push(FieldError::duplicate(&at.index(index), port.clone()).shown_as(shown));
        }
    }
    errors
}

fn source_ranges(object: &Object, old: Option<&Object>) -> FieldErrors {
    let ranges = texts_at(object, "spec.loadBalancerSourceRanges");
    let is_balanced = service_type(object) == "LoadBalancer";
    let detail = "may only be used when `type` is 'LoadBalancer'";
    let mut errors = FieldErrors::new();
    if !ranges.is_empty() {
        let at = path("spec.LoadBalancerSourceRanges");
        if !is_balanced {
            errors.push(FieldError::forbidden(&at, detail));
        }
        let known: Vec<&str> = old
            .map(|old| texts_at(old, "spec.loadBalancerSourceRanges"))
            .unwrap_or_default()
            .iter()
            .map(|range| range.trim())
            .collect();
        for (index, range) in ranges.iter().enumerate() {
            errors.extend(legacy_cidr(&at.index(index), range.trim(), &known));
        }
    } else if let Some(value) = annotation(object, SOURCE_RANGES) {
        let at = path("metadata.annotations").key(SOURCE_RANGES);
        if !is_balanced {
            errors.push(FieldError::forbidden(&at, detail));
        }
        if old.and_then(|old| annotation(old, SOURCE_RANGES)) != Some(value) && !value.trim().is_empty() {
            for range in value.trim().split(',') {
                errors.extend(legacy_cidr(&at, range.trim(), &[]));
            }
        }
    }
    errors
}

fn load_balancer_class(object: &Object) -> FieldErrors {
    let at = path("spec.loadBalancerClass");
    match object["spec"]["loadBalancerClass"].as_str() {
        None => FieldErrors::new(),
        Some(class) if service_type(object) == "LoadBalancer" => invalid(&at, class, names::qualified_name(class)),
        Some(_) => vec![FieldError::forbidden(&at, "may only be used when `type` is 'LoadBalancer'")],
    }
}

fn traffic_policies(object: &Object) -> FieldErrors {
    let spec = path("spec");
    let policy = str_at(object, "spec.externalTrafficPolicy");
    let at = spec.child("externalTrafficPolicy");
    let mut errors = FieldErrors::new();
    if is_external(object) {
        errors.extend(one_of(&at, policy, &["Cluster", "Local"]));
    } else if !policy.is_empty() {
        errors.push(FieldError::invalid(&at, policy, "may only be set for externally-accessible services"));
    }
    let port = i64_at(object, "spec.healthCheckNodePort").unwrap_or_default();
    let at = spec.child("healthCheckNodePort");
    if needs_health_check(object) {
        if port != 0 {
            errors.extend(invalid_number(&at, port, names::port_number(port)));
        }
    } else if port != 0 {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid(&at, port, detail));
    }
    if let Some(policy) = object["spec"]["internalTrafficPolicy"].as_str() {
        errors.extend(known_only(&spec.child("internalTrafficPolicy"), policy, &["Cluster", "Local"]));
    }
    if let Some(distribution) = object["spec"]["trafficDistribution"].as_str() {
        let known = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        errors.extend(known_only(&spec.child("trafficDistribution"), distribution, &known));
    }
    errors
}

fn cluster_ips(object: &Object, old: Option<&Object>) -> FieldErrors {
    let spec = path("spec");
    let at = spec.child("clusterIPs");
    let ip = str_at(object, "spec.clusterIP");
    let ips = texts_at(object, "spec.clusterIPs");
    let shown = || json!(ips);
    let mut errors = FieldErrors::new();
    match (ip, ips.first()) {
        ("", Some(_)) => {
            errors.push(FieldError::invalid(&at, shown(), "must be empty when `clusterIP` is not specified"));
        }
        ("", None) => {}
        (_, None) => errors.push(FieldError::required(&at, "")),
        (ip, Some(first)) if *first != ip => {
            errors.push(FieldError::invalid(&at, shown(), "first value must match `clusterIP`"));
        }
        _ => {}
    }
    let mut seen = HashSet::new();
    for (index, family) in texts_at(object, "spec.ipFamilies").into_iter().enumerate() {
        let at = spec.child("ipFamilies").index(index);
        errors.extend(known_only(&at, family, &["IPv4", "IPv6"]));
        if !seen.insert(family) {
            errors.push(FieldError::duplicate(&at, family));
        }
    }
    if let Some(policy) = object["spec"]["ipFamilyPolicy"].as_str() {
        let known = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        errors.extend(known_only(&spec.child("ipFamilyPolicy"), policy, &known));
    }
    let known = old.map(|old| texts_at(old, "spec.clusterIPs")).unwrap_or_default();
    let mut unreadable = false;
    for (index, ip) in ips.iter().enumerate() {
        let problems = match (index, *ip) {
            (0, NONE) if ips.len() > 1 => {
                vec![FieldError::invalid(&at, shown(), "'None' must be the first and only value")]
            }
            (0, NONE) => continue,
            (_, ip) => legacy_ip(&at.index(index), ip, &known),
        };
        unreadable |= !problems.is_empty();
        errors.extend(problems);
    }
    if ips.len() > 2 {
        errors.push(FieldError::invalid(&at, shown(), "may only hold up to 2 values"));
    }
    if unreadable {
        return errors;
    }
    let is_six: Vec<bool> = ips.iter().map(|ip| parse_ip_sloppy(ip).is_some_and(|ip| ip.is_ipv6())).collect();
    if ips.len() > 1 && is_six.iter().all(|six| *six == is_six[0]) {
        errors.push(FieldError::invalid(&at, shown(), "may specify no more than one IP for each IP family"));
    }
    if !is_headless(object) {
        for (index, (family, ip)) in texts_at(object, "spec.ipFamilies").iter().zip(&ips).enumerate() {
            let right = if is_six[index] { "IPv6" } else { "IPv4" };
            if matches!(*family, "IPv4" | "IPv6") && *family != right {
                let detail = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
                errors.push(FieldError::invalid(&at.index(index), *ip, detail));
            }
        }
    }
    errors
}

fn cluster_ips_change(object: &Object, old: &Object) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let is_named = service_type(object) == "ExternalName" || service_type(old) == "ExternalName";
    if is_named || is_headless(object) && is_headless(old) {
        return errors;
    }
    let at = path("spec.clusterIPs");
    let (new_ips, old_ips) = (texts_at(object, "spec.clusterIPs"), texts_at(old, "spec.clusterIPs"));
    let shown = || if new_ips.is_empty() { Value::Null } else { json!(new_ips) };
    let changed = |index: usize| FieldError::invalid(&at.index(index), shown(), "may not change once set");
    if old_ips.len() == new_ips.len() {
        let pairs = old_ips.iter().zip(&new_ips).enumerate();
        errors.extend(pairs.filter(|(_, (old, new))| old != new).map(|(index, _)| changed(index)));
        return errors;
    }
    if old_ips.len() > new_ips.len() && new_ips.is_empty() {
        errors.push(FieldError::invalid(&at.index(0), shown(), "primary clusterIP can not be unset"));
    }
    if let (Some(new), Some(old)) = (new_ips.first(), old_ips.first())
        && new != old
    {
        errors.push(changed(0));
    }
    if old_ips.len() > 1 && new_ips.len() == 1 {
        errors.extend(released(object, "secondary clusterIP"));
    }
    errors
}

fn released(object: &Object, what: &str) -> Option<FieldError> {
    let policy = &object["spec"]["ipFamilyPolicy"];
    (policy != "SingleStack").then(|| {
        let detail = format!("must be set to 'SingleStack' when releasing the {what}");
        FieldError::invalid(&path("spec.ipFamilyPolicy"), policy.clone(), detail)
    })
}

fn families_change(object: &Object, old: &Object) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let is_named = service_type(object) == "ExternalName" || service_type(old) == "ExternalName";
    if is_named || is_headless(object) || is_headless(old) {
        return errors;
    }
    let at = path("spec.ipFamilies").index(0);
    let (new, before) = (texts_at(object, "spec.ipFamilies"), texts_at(old, "spec.ipFamilies"));
    if new.len() == before.len() {
        let changed = before.iter().zip(&new).filter(|(old, new)| old != new);
        errors.extend(changed.map(|_| FieldError::invalid(&at, json!(new), "may not change once set")));
        return errors;
    }
    if let (Some(first), Some(first_before)) = (new.first(), before.first())
        && first != first_before
    {
        let ips = object["spec"]["clusterIPs"].clone();
        errors.push(FieldError::invalid(&at, ips, "may not change once set"));
    }
    if before.len() > 1 && new.len() == 1 {
        errors.extend(released(object, "secondary ipFamily"));
    }
    errors
}

fn load_balancer_status(object: &Object, old: &Object) -> FieldErrors {
    let at = path("status.loadBalancer.ingress");
    let points = items_at(object, "status.loadBalancer.ingress");
    if service_type(object) != "LoadBalancer" && !points.is_empty() {
        return vec![FieldError::forbidden(&at, "may only be used when `spec.type` is 'LoadBalancer'")];
    }
    let known: Vec<&str> =
        items_at(old, "status.loadBalancer.ingress").iter().map(|point| str_at(point, "ip")).collect();
    let mut errors = FieldErrors::new();
    for (index, point) in points.iter().enumerate() {
        let at = at.index(index);
        let (ip, hostname) = (str_at(point, "ip"), str_at(point, "hostname"));
        if !ip.is_empty() {
            errors.extend(legacy_ip(&at.child("ip"), ip, &known));
        }
        match (point["ipMode"].as_str(), ip.is_empty()) {
            (None, false) => {
                errors.push(FieldError::required(&at.child("ipMode"), "must be specified when `ip` is set"));
            }
            (Some(_), true) => {
                errors.push(FieldError::forbidden(&at.child("ipMode"), "may not be specified when `ip` is not set"));
            }
            (Some(mode), false) => errors.extend(known_only(&at.child("ipMode"), mode, &["Proxy", "VIP"])),
            (None, true) => {}
        }
        errors.extend(balancer_hostname(hostname, &at.child("hostname")));
    }
    errors
}

/// The name of a load balancer: a DNS name and no address.
pub(super) fn balancer_hostname(hostname: &str, path: &FieldPath) -> FieldErrors {
    if hostname.is_empty() {
        return FieldErrors::new();
    }
    let mut errors = invalid(path, hostname, names::dns1123_subdomain(hostname));
    if addresses::parse_ip_sloppy(hostname).is_some() {
        errors.push(FieldError::invalid(path, hostname, "must be a DNS name, not an IP address"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Object {
        let mut object = json!({"metadata": {"name": "s"}, "spec": spec});
        for (field, value) in [("type", "ClusterIP"), ("sessionAffinity", NONE)] {
            set_default(map_mut(&mut object, "spec"), field, value);
        }
        let ports = object.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
            set_default(port, "protocol", "TCP");
        }
        Kind::default(&Service, &mut object);
        object
    }

    fn check(spec: Value, expect: &[&str]) {
        let mut object = service(spec);
        Service.prepare_for_create(&mut object);
        let errors: Vec<String> = Service.validate_create(&object).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expect);
    }

    #[test]
    fn new_services_are_checked() {
        check(json!({"ports": [{"port": 80}]}), &[]);
        check(
            json!({"ports": [{"port": 80}, {"port": 80}]}),
            &[
                "spec.ports[0].name: Required value",
                "spec.ports[1].name: Required value",
                "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,\"TargetPort\":0,\"NodePort\":0}",
            ],
        );
        check(
            json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 80}]}),
            &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
        );
        check(
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"], "ports": [{"port": 80}]}),
            &["spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: first value must match `clusterIP`"],
        );
        check(
            json!({"externalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30000}]}),
            &[
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ],
        );
    }

    #[test]
    fn an_update_keeps_what_was_given() {
        let old = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None", "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster", "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP", "targetPort": 80}]}, "status": {"loadBalancer": {}}});
        let mut object = service(json!({"type": "NodePort", "ports": [{"port": 81}]}));
        Service.prepare_for_update(&mut object, &old);
        assert_eq!(object["spec"]["clusterIPs"], json!(["10.0.0.1"]));
        assert_eq!(object["spec"]["ports"][0]["nodePort"], 30000);
        let mut object = old.clone();
        object["spec"]["type"] = json!("ClusterIP");
        Service.prepare_for_update(&mut object, &old);
        assert_eq!(object["spec"].get("externalTrafficPolicy"), None);
        assert_eq!(object["spec"]["ports"][0].get("nodePort"), None);
        assert_eq!(Service.validate_update(&object, &old), []);
        let mut object = old.clone();
        object["spec"]["clusterIP"] = json!("10.0.0.2");
        Service.prepare_for_update(&mut object, &old);
        let errors: Vec<String> = Service.validate_update(&object, &old).iter().map(ToString::to_string).collect();
        assert_eq!(errors, ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]);
        let mut object = old.clone();
        object["spec"] =
            json!({"type": "ExternalName", "externalName": "e", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]});
        Service.prepare_for_update(&mut object, &old);
        assert_eq!(object["spec"], json!({"type": "ExternalName", "externalName": "e"}));
    }

    #[test]
    fn balancers_report_where_they_are() {
        let spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
        let mut object = service(spec);
        object["status"] =
            json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}, {"hostname": "1.2.3.4", "ipMode": "VIP"}]}});
        let errors: Vec<String> =
            Service.validate_status_update(&object, &json!({})).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "status.loadBalancer.ingress[0].ipMode: Required value: must be specified when `ip` is set",
                "status.loadBalancer.ingress[1].ipMode: Forbidden: may not be specified when `ip` is not set",
                "status.loadBalancer.ingress[1].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            ]
        );
    }
}
