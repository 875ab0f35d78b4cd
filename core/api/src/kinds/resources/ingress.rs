//! Ingresses and their classes.

use serde_json::{Value, json};

use super::super::{Kind, keep_status};
use super::checks::{
    annotation, domain_prefixed_path, first_generation, invalid, invalid_number, ip_warnings, keep, known_only,
    next_generation, path, required, texts_at,
};
use super::services::balancer_hostname;
use crate::addresses::{legacy_ip, parse_ip_sloppy};
use crate::error::quoted;
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::names;
use crate::object::{Object, i64_at, items_at, map_mut, set_default, str_at};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const CONTROLLER_BYTES_MAX: usize = 250;
const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];

pub(super) struct Ingress;

impl Kind for Ingress {
    fn prepare_for_create(&self, object: &mut Object) {
        map_mut(object, "").insert("status".to_owned(), json!({"loadBalancer": {}}));
        first_generation(object);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_status(object, old);
        next_generation(object, old, &["spec"]);
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        keep(object, old, &["spec"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let mut errors = spec(object, None);
        let class = object["spec"]["ingressClassName"].as_str();
        if let (Some(annotated), Some(class)) = (annotation(object, CLASS_ANNOTATION), class)
            && annotated != class
        {
            let at = path("annotations").child(CLASS_ANNOTATION);
            let detail = "must match `ingressClassName` when both are specified";
            errors.push(FieldError::invalid(&at, annotated, detail));
        }
        errors
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        spec(object, Some(old))
    }

    fn validate_status_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let known: Vec<&str> =
            items_at(old, "status.loadBalancer.ingress").iter().map(|point| str_at(point, "ip")).collect();
        let mut errors = FieldErrors::new();
        for (index, point) in items_at(object, "status.loadBalancer.ingress").iter().enumerate() {
            let at = path("status.loadBalancer.ingress").index(index);
            let ip = str_at(point, "ip");
            if !ip.is_empty() {
                errors.extend(legacy_ip(&at.child("ip"), ip, &known));
            }
            errors.extend(balancer_hostname(str_at(point, "hostname"), &at.child("hostname")));
        }
        errors
    }

    fn warnings(&self, object: &Object, old: Option<&Object>) -> Vec<String> {
        let mut warnings = Vec::new();
        let has_class = !object["spec"]["ingressClassName"].is_null();
        if old.is_none() && annotation(object, CLASS_ANNOTATION).is_some() && !has_class {
            warnings.push(format!(
                "annotation {} is deprecated, please use 'spec.ingressClassName' instead",
                quoted(CLASS_ANNOTATION)
            ));
        }
        for (index, point) in items_at(object, "status.loadBalancer.ingress").iter().enumerate() {
            let at = path("status.loadBalancer.ingress").index(index);
            warnings.extend(ip_warnings(&at, str_at(point, "ip")));
        }
        warnings
    }
}

fn spec(object: &Object, old: Option<&Object>) -> FieldErrors {
    let at = path("spec");
    let spec = &object["spec"];
    let rules = items_at(spec, "rules");
    let backend = &spec["defaultBackend"];
    let mut errors = FieldErrors::new();
    if rules.is_empty() && backend.is_null() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid(&at, Value::Null, detail));
    }
    if !backend.is_null() {
        errors.extend(validate_backend(backend, &at.child("defaultBackend")));
    }
    // A rule of a wildcard host may be as wrong as one was before.
    let lenient = old.is_some_and(|old| {
        items_at(old, "spec.rules")
            .iter()
            .any(|rule| str_at(rule, "host").contains('*') && !rule_value(rule, &at).is_empty())
    });
    for (index, rule) in rules.iter().enumerate() {
        errors.extend(validate_rule(rule, lenient, &at.child("rules").index(index)));
    }
    errors.extend(tls(object, old));
    if let Some(class) = spec["ingressClassName"].as_str() {
        errors.extend(invalid(&at.child("ingressClassName"), class, names::dns1123_subdomain(class)));
    }
    errors
}

fn host_problems(host: &str) -> names::Problems {
    if host.contains('*') { names::wildcard_dns1123_subdomain(host) } else { names::dns1123_subdomain(host) }
}

fn tls(object: &Object, old: Option<&Object>) -> FieldErrors {
    let is_bad = |name: &str| !name.is_empty() && !names::dns1123_subdomain(name).is_empty();
    let lenient = old.is_some_and(|old| items_at(old, "spec.tls").iter().any(|tls| is_bad(str_at(tls, "secretName"))));
    let mut errors = FieldErrors::new();
    for (index, tls) in items_at(object, "spec.tls").iter().enumerate() {
        let at = path("spec.tls").index(index);
        for (index, host) in texts_at(tls, "hosts").into_iter().enumerate() {
            errors.extend(invalid(&at.child("hosts").index(index), host, host_problems(host)));
        }
        let name = str_at(tls, "secretName");
        if !lenient && !name.is_empty() {
            errors.extend(invalid(&at.child("secretName"), name, names::dns1123_subdomain(name)));
        }
    }
    errors
}

fn validate_rule(rule: &Value, lenient: bool, path: &FieldPath) -> FieldErrors {
    let host = str_at(rule, "host");
    let mut errors = FieldErrors::new();
    if !host.is_empty() {
        let at = path.child("host");
        if parse_ip_sloppy(host).is_some() {
            errors.push(FieldError::invalid(&at, host, "must be a DNS name, not an IP address"));
        }
        errors.extend(invalid(&at, host, host_problems(host)));
    }
    if !(lenient && host.contains('*')) {
        errors.extend(rule_value(rule, path));
    }
    errors
}

fn rule_value(rule: &Value, path: &FieldPath) -> FieldErrors {
    if rule["http"].is_null() {
        return FieldErrors::new();
    }
    let at = path.child("http.paths");
    let paths = items_at(rule, "http.paths");
    if paths.is_empty() {
        return vec![FieldError::required(&at, "")];
    }
    paths.iter().enumerate().flat_map(|(index, path)| http_path(path, &at.index(index))).collect()
}

fn http_path(rule: &Value, path: &FieldPath) -> FieldErrors {
    let Some(kind) = rule["pathType"].as_str() else {
        return vec![FieldError::required(&path.child("pathType"), "pathType must be specified")];
    };
    let at = path.child("path");
    let text = str_at(rule, "path");
    let mut errors = FieldErrors::new();
    let refuse = |detail: String| FieldError::invalid(&at, text, detail);
    let is_absolute = text.starts_with('/');
    match kind {
        "Exact" | "Prefix" => {
            if !is_absolute {
                errors.push(refuse("must be an absolute path".to_owned()));
            }
            let inner = ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|part| text.contains(part));
            errors.extend(inner.map(|part| refuse(format!("must not contain '{part}'"))));
            let end = ["/..", "/."].into_iter().filter(|part| text.ends_with(part));
            errors.extend(end.map(|part| refuse(format!("cannot end with '{part}'"))));
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !is_absolute {
                errors.push(refuse("must be an absolute path".to_owned()));
            }
        }
        kind => errors.extend(known_only(&path.child("pathType"), kind, &PATH_TYPES)),
    }
    errors.extend(validate_backend(&rule["backend"], &path.child("backend")));
    errors
}

fn validate_backend(backend: &Value, path: &FieldPath) -> FieldErrors {
    let (service, resource) = (&backend["service"], &backend["resource"]);
    match (service.is_null(), resource.is_null()) {
        (false, false) => {
            vec![FieldError::invalid(path, "", "cannot set both resource and service backends")]
        }
        (true, true) => vec![FieldError::invalid(path, "", "resource or service backend is required")],
        (true, false) => local_reference(resource, &path.child("resource")),
        (false, true) => {
            let at = path.child("service");
            let mut errors = required(&at.child("name"), str_at(service, "name"), names::dns1123_label);
            let port = &service["port"];
            let (name, number) = (str_at(port, "name"), i64_at(port, "number").unwrap_or_default());
            match (name.is_empty(), number == 0) {
                (false, false) => {
                    errors.push(FieldError::invalid(path, "", "cannot set both port name & port number"));
                }
                (false, true) => errors.extend(invalid(&at.child("port.name"), name, names::port_name(name))),
                (true, false) => {
                    errors.extend(invalid_number(&at.child("port.number"), number, names::port_number(number)));
                }
                (true, true) => errors.push(FieldError::required(path, "port name or number is required")),
            }
            errors
        }
    }
}

/// A reference to any object of the same namespace.
fn local_reference(reference: &Value, path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    if let Some(group) = reference["apiGroup"].as_str() {
        errors.extend(invalid(&path.child("apiGroup"), group, names::dns1123_subdomain(group)));
    }
    for field in ["kind", "name"] {
        errors.extend(required(&path.child(field), str_at(reference, field), names::path_segment));
    }
    errors
}

pub(super) struct IngressClass;

impl Kind for IngressClass {
    fn default(&self, object: &mut Object) {
        if let Some(parameters) = object.pointer_mut("/spec/parameters").and_then(Value::as_object_mut) {
            set_default(parameters, "scope", "Cluster");
        }
    }

    fn prepare_for_create(&self, object: &mut Object) {
        first_generation(object);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        next_generation(object, old, &["spec"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let at = path("spec");
        let controller = str_at(object, "spec.controller");
        let mut errors = FieldErrors::new();
        if controller.len() > CONTROLLER_BYTES_MAX {
            errors.push(FieldError::too_long(&at.child("controller"), CONTROLLER_BYTES_MAX));
        }
        errors.extend(domain_prefixed_path(controller, &at.child("controller")));
        errors.extend(class_parameters(&object["spec"]["parameters"], &at.child("parameters")));
        errors
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let at = path("spec.controller");
        let mut errors =
            super::checks::immutable_text(&at, str_at(object, "spec.controller"), str_at(old, "spec.controller"));
        errors.extend(self.validate_create(object));
        errors
    }
}

fn class_parameters(parameters: &Value, path: &FieldPath) -> FieldErrors {
    if parameters.is_null() {
        return FieldErrors::new();
    }
    let mut errors = local_reference(parameters, path);
    let at = path.child("namespace");
    let namespace = parameters["namespace"].as_str();
    match (parameters["scope"].as_str(), namespace) {
        (None, _) => errors.push(FieldError::required(&path.child("scope"), "")),
        (Some("Namespace"), None) => {
            errors.push(FieldError::required(&at, "`parameters.scope` is set to 'Namespace'"));
        }
        (Some("Namespace"), Some(namespace)) => {
            errors.extend(invalid(&at, namespace, names::dns1123_label(namespace)));
        }
        (Some("Cluster"), Some(_)) => {
            errors.push(FieldError::forbidden(&at, "`parameters.scope` is set to 'Cluster'"));
        }
        (Some("Cluster"), None) => {}
        (Some(scope), _) => errors.extend(known_only(&path.child("scope"), scope, &["Cluster", "Namespace"])),
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
    fn backends_are_services_or_resources() {
        let at = path("b");
        let cases: &[(Value, &[&str])] = &[
            (json!({}), &["b: Invalid value: \"\": resource or service backend is required"]),
            (json!({"service": {"name": "s"}}), &["b: Required value: port name or number is required"]),
            (
                json!({"service": {"name": "", "port": {"number": 70000}}}),
                &[
                    "b.service.name: Required value",
                    "b.service.port.number: Invalid value: 70000: must be between 1 and 65535, inclusive",
                ],
            ),
            (json!({"resource": {"kind": "K"}}), &["b.resource.name: Required value"]),
        ];
        for (backend, expect) in cases {
            check(validate_backend(backend, &at), expect);
        }
    }

    #[test]
    fn paths_are_absolute() {
        let rule = json!({"pathType": "Prefix", "path": "a//b/..", "backend": {"service": {"name": "s", "port": {"number": 1}}}});
        check(
            http_path(&rule, &path("p")),
            &[
                "p.path: Invalid value: \"a//b/..\": must be an absolute path",
                "p.path: Invalid value: \"a//b/..\": must not contain '//'",
                "p.path: Invalid value: \"a//b/..\": cannot end with '/..'",
            ],
        );
    }

    #[test]
    fn only_a_changed_spec_raises_the_generation() {
        let old =
            json!({"metadata": {"generation": 3}, "spec": {"ingressClassName": "a"}, "status": {"loadBalancer": {}}});
        let mut new = old.clone();
        new["status"] = json!({"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}});
        Ingress.prepare_for_update(&mut new, &old);
        assert_eq!(new, old);
        new["spec"]["ingressClassName"] = json!("b");
        Ingress.prepare_for_update(&mut new, &old);
        assert_eq!(new["metadata"]["generation"], 4);
    }
}
