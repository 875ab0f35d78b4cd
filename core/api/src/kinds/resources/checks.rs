//! Checks that many kinds share, in upstream's words (`pkg/apis/core/validation`, `apimachinery/pkg/apis/meta/v1/validation`).

use serde_json::{Map, Value};

use crate::addresses::{self, Cidr};
use crate::error::quoted;
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::names::{self, Problems};
use crate::object::{Object, i64_at, items_at, map_at, map_mut, str_at};
use crate::quantity::Quantity;

/// Upstream's words for a field that can't change.
pub(super) const IMMUTABLE: &str = "field is immutable";
/// Upstream's words for what counts things.
pub(super) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// The path of a field.
pub(super) fn path(path: &str) -> FieldPath {
    FieldPath::new(path)
}

/// A value's problems as errors of a field.
pub(super) fn invalid(path: &FieldPath, value: &str, problems: Problems) -> FieldErrors {
    problems.into_iter().map(|problem| FieldError::invalid(path, value, problem)).collect()
}

/// A number's problems as errors of a field.
pub(super) fn invalid_number(path: &FieldPath, value: i64, problems: Problems) -> FieldErrors {
    problems.into_iter().map(|problem| FieldError::invalid(path, value, problem)).collect()
}

/// A text that must be there, and then pass a check.
pub(super) fn required(path: &FieldPath, value: &str, check: fn(&str) -> Problems) -> FieldErrors {
    match value {
        "" => vec![FieldError::required(path, "")],
        value => invalid(path, value, check(value)),
    }
}

/// A text that must be there.
pub(super) fn present(path: &FieldPath, value: &str) -> FieldErrors {
    required(path, value, |_| Problems::new())
}

/// A text from a closed set, which must be there.
pub(super) fn one_of(path: &FieldPath, value: &str, known: &[&str]) -> FieldErrors {
    if value.is_empty() { vec![FieldError::required(path, "")] } else { known_only(path, value, known) }
}

/// A text from a closed set.
pub(super) fn known_only(path: &FieldPath, value: &str, known: &[&str]) -> FieldErrors {
    if known.contains(&value) { FieldErrors::new() } else { vec![FieldError::not_supported(path, value, known)] }
}

/// A number that counts something.
pub(super) fn not_negative(path: &FieldPath, value: i64) -> FieldErrors {
    if value < 0 { vec![FieldError::invalid(path, value, NOT_NEGATIVE)] } else { FieldErrors::new() }
}

/// A field that can't change: its new value is shown.
pub(super) fn immutable(path: &FieldPath, new: &Value, old: &Value) -> FieldErrors {
    if same(new, old) { FieldErrors::new() } else { vec![FieldError::invalid(path, new.clone(), IMMUTABLE)] }
}

/// A text that can't change.
pub(super) fn immutable_text(path: &FieldPath, new: &str, old: &str) -> FieldErrors {
    if new == old { FieldErrors::new() } else { vec![FieldError::invalid(path, new, IMMUTABLE)] }
}

/// Equality in which empty and absent are the same, as upstream's `Semantic.DeepEqual`.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(key, value)| same(value, b.get(key).unwrap_or(&Value::Null)))
                && b.iter().all(|(key, value)| a.contains_key(key) || absent(value))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (a, b) => a == b || absent(a) && absent(b),
    }
}

/// Whether a value is null or an empty collection, or holds only such values.
fn absent(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(absent),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// Puts top-level fields of the old object back.
pub(super) fn keep(object: &mut Object, old: &Object, fields: &[&str]) {
    let map = map_mut(object, "");
    for field in fields {
        match old.get(*field) {
            Some(value) => map.insert((*field).to_owned(), value.clone()),
            None => map.remove(*field),
        };
    }
}

/// Sets the generation of a new object.
pub(super) fn first_generation(object: &mut Object) {
    map_mut(object, "metadata").insert("generation".to_owned(), Value::from(1));
}

/// Raises the generation when one of these top-level fields has changed.
pub(super) fn next_generation(object: &mut Object, old: &Object, fields: &[&str]) {
    let generation = i64_at(old, "metadata.generation").unwrap_or_default();
    let changed = fields.iter().any(|field| !same(&object[field], &old[field]));
    map_mut(object, "metadata").insert("generation".to_owned(), Value::from(generation + i64::from(changed)));
}

/// A condition's or a label selector's operator and values (upstream's `ValidateLabelSelector`).
pub(super) fn label_selector(selector: &Value, path: &FieldPath) -> FieldErrors {
    let mut errors = crate::metadata::validate_labels(map_at(selector, "matchLabels"), &path.child("matchLabels"));
    for (index, requirement) in items_at(selector, "matchExpressions").iter().enumerate() {
        let at = path.child("matchExpressions").index(index);
        let values = items_at(requirement, "values");
        match str_at(requirement, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(&at.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(&at.child("values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(FieldError::invalid(&at.child("operator"), other, "not a valid selector operator"));
            }
        }
        let key = str_at(requirement, "key");
        errors.extend(invalid(&at.child("key"), key, names::qualified_name(key)));
        for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
            errors.extend(invalid(&at.child("values").index(index), value, names::label_value(value)));
        }
    }
    errors
}

/// A node selector (upstream's `ValidateNodeSelector`).
pub(super) fn node_selector(selector: &Value, path: &FieldPath) -> FieldErrors {
    let terms = items_at(selector, "nodeSelectorTerms");
    let at = path.child("nodeSelectorTerms");
    if terms.is_empty() {
        return vec![FieldError::required(&at, "must have at least one node selector term")];
    }
    let mut errors = FieldErrors::new();
    for (index, term) in terms.iter().enumerate() {
        let at = at.index(index);
        for (index, requirement) in items_at(term, "matchExpressions").iter().enumerate() {
            errors.extend(node_expression(requirement, &at.child("matchExpressions").index(index)));
        }
        for (index, requirement) in items_at(term, "matchFields").iter().enumerate() {
            errors.extend(node_field(requirement, &at.child("matchFields").index(index)));
        }
    }
    errors
}

fn node_expression(requirement: &Value, path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let values = items_at(requirement, "values");
    let at = path.child("values");
    match str_at(requirement, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(FieldError::required(&at, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&at, detail));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors.push(FieldError::required(&at, "must be specified single value when `operator` is 'Lt' or 'Gt'"));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    let key = str_at(requirement, "key");
    errors.extend(invalid(&path.child("key"), key, names::qualified_name(key)));
    for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
        errors.extend(invalid(&at.index(index), value, names::label_value(value)));
    }
    errors
}

fn node_field(requirement: &Value, path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let values = items_at(requirement, "values");
    match str_at(requirement, "operator") {
        "In" | "NotIn" => {
            if values.len() != 1 {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.push(FieldError::required(&path.child("values"), detail));
            }
        }
        other => errors.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    let key = str_at(requirement, "key");
    if key == "metadata.name" {
        for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
            errors.extend(invalid(&path.child("values").index(index), value, names::dns1123_subdomain(value)));
        }
    } else {
        errors.push(FieldError::invalid(&path.child("key"), key, "not a valid field selector key"));
    }
    errors
}

/// The quantity of a value; what can't be read has been refused when it was decoded.
pub(super) fn quantity(value: &Value) -> Quantity {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(Quantity::ZERO)
}

/// A quantity of a standard resource: not negative, and whole where it counts things
/// (upstream's `ValidateResourceQuantityValue`).
pub(super) fn resource_quantity(name: &str, value: &Value, path: &FieldPath) -> FieldErrors {
    let amount = quantity(value);
    let mut errors = FieldErrors::new();
    if amount.sign() < 0 {
        errors.push(FieldError::invalid(path, value.clone(), NOT_NEGATIVE));
    }
    if counts(name) && amount.milli_value() % 1000 != 0 {
        errors.push(FieldError::invalid(path, value.clone(), "must be an integer"));
    }
    errors
}

/// Whether a resource is counted in whole numbers (upstream's `IsIntegerResourceName`).
fn counts(name: &str) -> bool {
    const WHOLE: [&str; 9] = [
        "pods",
        "services",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "services.nodeports",
        "services.loadbalancers",
    ];
    WHOLE.contains(&name) || is_extended(name) || name.starts_with("count/")
}

/// Whether a resource is an extended one: of a domain that isn't Kubernetes' own.
pub(super) fn is_extended(name: &str) -> bool {
    let is_native = !name.contains('/') || name.contains("kubernetes.io/");
    !is_native && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// What is said of an address that is right but not in the best form (upstream's `GetWarningsForIP`).
pub(super) fn ip_warnings(path: &FieldPath, text: &str) -> Option<String> {
    let ip = addresses::parse_ip_sloppy(text)?;
    let plain = addresses::go_string(ip);
    let is_mapped = matches!(ip, std::net::IpAddr::V6(six) if six.to_ipv4_mapped().is_some());
    if text.parse::<std::net::IpAddr>().is_err() || is_mapped {
        return Some(format!("{path}: non-standard IP address {} is invalid: use {}", quoted(text), quoted(&plain)));
    }
    (ip.is_ipv6() && plain != text).then(|| {
        format!("{path}: IPv6 address {} should be in RFC 5952 canonical format ({})", quoted(text), quoted(&plain))
    })
}

/// The same for a network (upstream's `GetWarningsForCIDR`).
pub(super) fn cidr_warnings(path: &FieldPath, text: &str) -> Vec<String> {
    let Some(cidr) = Cidr::parse_sloppy(text) else { return Vec::new() };
    let network = cidr.network_string();
    let mut warnings = Vec::new();
    if cidr.network() != cidr.ip {
        let bits = if cidr.ip.is_ipv4() { 32 } else { 128 };
        let single = format!("{}/{bits}", addresses::go_string(cidr.ip));
        warnings.push(format!(
            "{path}: CIDR value {} is ambiguous in this context (should be {} or {}?)",
            quoted(text),
            quoted(&network),
            quoted(&single)
        ));
    }
    let address = text.split('/').next().unwrap_or_default();
    let is_strict = address.parse::<std::net::IpAddr>().is_ok();
    let is_mapped = matches!(cidr.ip, std::net::IpAddr::V6(six) if six.to_ipv4_mapped().is_some());
    if !is_strict || is_mapped {
        warnings.push(format!("{path}: non-standard CIDR value {} is invalid: use {}", quoted(text), quoted(&network)));
    }
    if warnings.is_empty() && cidr.ip.is_ipv6() && network != text {
        warnings.push(format!(
            "{path}: IPv6 CIDR value {} should be in RFC 5952 canonical format ({})",
            quoted(text),
            quoted(&network)
        ));
    }
    warnings
}

/// The texts of a list.
pub(super) fn texts_at<'a>(value: &'a Value, path: &str) -> Vec<&'a str> {
    items_at(value, path).iter().filter_map(Value::as_str).collect()
}

/// The annotations of an object.
pub(super) fn annotation<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    map_at(object, "metadata.annotations")?.get(name)?.as_str()
}

/// The entries of a map, nothing when it isn't there.
pub(super) fn entries<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    map_at(value, path).into_iter().flat_map(Map::iter)
}

/// An address and what an endpoint's address must not be (upstream's `ValidateEndpointIP`).
pub(super) fn endpoint_ip(text: &str, path: &FieldPath) -> FieldErrors {
    let Some(ip) = addresses::parse_ip_sloppy(text) else {
        return vec![FieldError::invalid(path, text, "must be a valid IP address")];
    };
    let ip = ip.to_canonical();
    let (link_local, link_multicast) = match ip {
        std::net::IpAddr::V4(four) => (four.is_link_local(), four.octets()[..3] == [224, 0, 0]),
        std::net::IpAddr::V6(six) => (six.is_unicast_link_local(), six.segments()[0] & 0xff0f == 0xff02),
    };
    let problems = [
        (ip.is_unspecified(), format!("may not be unspecified ({text})")),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()),
        (link_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()),
    ];
    problems
        .into_iter()
        .filter(|(holds, _)| *holds)
        .map(|(_, text_of)| FieldError::invalid(path, text, text_of))
        .collect()
}

/// A port by number or name.
pub(super) fn port_or_name(port: &Value, path: &FieldPath) -> FieldErrors {
    match port {
        Value::String(name) => invalid(path, name, names::port_name(name)),
        other => {
            let number = other.as_i64().unwrap_or_default();
            invalid_number(path, number, names::port_number(number))
        }
    }
}

/// A CSI driver's name (upstream's `ValidateCSIDriverName`).
pub(super) fn csi_driver_name(name: &str, path: &FieldPath) -> FieldErrors {
    if name.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut errors = FieldErrors::new();
    if name.len() > 63 {
        errors.push(FieldError::too_long(path, 63));
    }
    errors.extend(invalid(path, name, names::dns1123_subdomain(&name.to_lowercase())));
    errors
}

/// A text that Go's `IsDomainPrefixedPath` accepts.
pub(super) fn domain_prefixed_path(text: &str, path: &FieldPath) -> FieldErrors {
    if text.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let Some((domain, rest)) = text.split_once('/').filter(|(domain, rest)| !domain.is_empty() && !rest.is_empty())
    else {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        return vec![FieldError::invalid(path, text, detail)];
    };
    let mut errors = invalid(path, domain, names::dns1123_subdomain(domain));
    if !rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte)) {
        let problem = names::form_error("Invalid path", "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+", &[]);
        errors.push(FieldError::invalid(path, rest, problem));
    }
    errors
}
