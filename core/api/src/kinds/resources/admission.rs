//! Admission by webhooks and by policies. Expressions are read when they are used; here only their form is looked at.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::{Kind, keep_status};
use super::checks::{
    first_generation, invalid, keep, known_only, label_selector, next_generation, one_of, path, present, required,
    texts_at,
};
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::names;
use crate::object::{Object, i64_at, items_at, map_mut, str_at};
use crate::resources::split_api_version;

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const MUTABLE_OPERATIONS: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const CONDITIONS_MAX: usize = 64;
const AUDIT_ANNOTATIONS_MAX: usize = 20;

/// Webhooks, validating or mutating.
pub(super) struct Webhooks {
    is_mutating: bool,
}

pub(super) const VALIDATING_WEBHOOKS: Webhooks = Webhooks { is_mutating: false };
pub(super) const MUTATING_WEBHOOKS: Webhooks = Webhooks { is_mutating: true };

impl Kind for Webhooks {
    fn prepare_for_create(&self, object: &mut Object) {
        first_generation(object);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        next_generation(object, old, &["webhooks"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let mut seen = HashSet::new();
        for (index, hook) in items_at(object, "webhooks").iter().enumerate() {
            let at = path("webhooks").index(index);
            errors.extend(webhook(hook, self.is_mutating, &at));
            errors.extend(review_versions(hook, &at.child("admissionReviewVersions")));
            let name = str_at(hook, "name");
            if !name.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(&at.child("name"), name));
            }
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn webhook(hook: &Value, is_mutating: bool, at: &FieldPath) -> FieldErrors {
    let mut errors = qualified_domain(str_at(hook, "name"), &at.child("name"));
    for (index, rule) in items_at(hook, "rules").iter().enumerate() {
        errors.extend(operations_rule(rule, &at.child("rules").index(index)));
    }
    let policies: [(&str, &[&str]); 2] =
        [("failurePolicy", &["Fail", "Ignore"]), ("matchPolicy", &["Equivalent", "Exact"])];
    for (field, known) in policies {
        if let Some(policy) = hook[field].as_str() {
            errors.extend(known_only(&at.child(field), policy, known));
        }
    }
    let effects = ["None", "NoneOnDryRun"];
    match hook["sideEffects"].as_str() {
        None => {
            let detail = format!("must specify one of {}", effects.join(", "));
            errors.push(FieldError::required(&at.child("sideEffects"), detail));
        }
        Some(effect) => errors.extend(known_only(&at.child("sideEffects"), effect, &effects)),
    }
    if let Some(seconds) = i64_at(hook, "timeoutSeconds").filter(|seconds| !(1..=30).contains(seconds)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(&at.child("timeoutSeconds"), seconds, detail));
    }
    for field in ["namespaceSelector", "objectSelector"] {
        errors.extend(label_selector(&hook[field], &at.child(field)));
    }
    if is_mutating && let Some(policy) = hook["reinvocationPolicy"].as_str() {
        errors.extend(known_only(&at.child("reinvocationPolicy"), policy, &["IfNeeded", "Never"]));
    }
    let config = &hook["clientConfig"];
    let config_at = at.child("clientConfig");
    match (config["url"].as_str(), config["service"].is_null()) {
        (Some(url), true) => errors.extend(webhook_url(url, &config_at.child("url"))),
        (None, false) => errors.extend(webhook_service(&config["service"], &config_at.child("service"))),
        _ => errors.push(FieldError::required(&config_at, "exactly one of url or service is required")),
    }
    errors.extend(match_conditions(hook, &at.child("matchConditions")));
    errors
}

/// A domain of at least three segments.
fn qualified_domain(name: &str, at: &FieldPath) -> FieldErrors {
    if name.is_empty() {
        return vec![FieldError::required(at, "")];
    }
    let problems = names::dns1123_subdomain(name);
    if !problems.is_empty() {
        return vec![FieldError::invalid(at, name, problems.join(","))];
    }
    if name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        return vec![FieldError::invalid(at, name, detail)];
    }
    FieldErrors::new()
}

fn review_versions(hook: &Value, at: &FieldPath) -> FieldErrors {
    let versions = texts_at(hook, "admissionReviewVersions");
    let known = REVIEW_VERSIONS.join(", ");
    if versions.is_empty() {
        return vec![FieldError::required(at, format!("must specify one of {known}"))];
    }
    let mut errors = FieldErrors::new();
    for (index, version) in versions.iter().enumerate() {
        let at = at.index(index);
        if versions[..index].contains(version) {
            errors.push(FieldError::invalid(&at, *version, "duplicate version"));
            continue;
        }
        errors.extend(invalid(&at, version, names::dns1035_label(version)));
    }
    if !versions.iter().any(|version| REVIEW_VERSIONS.contains(version)) {
        let detail = format!("must include at least one of {known}");
        errors.push(FieldError::invalid(at, json!(versions), detail));
    }
    errors
}

fn webhook_url(url: &str, at: &FieldPath) -> FieldErrors {
    const FORM: &str = "; desired format: https://host[/path]";
    let mut errors = FieldErrors::new();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        errors.push(FieldError::invalid(at, scheme, format!("'https' is the only allowed URL scheme{FORM}")));
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = if scheme.is_empty() { "" } else { rest.split('/').next().unwrap_or_default() };
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if host.is_empty() {
        errors.push(FieldError::invalid(at, "", format!("host must be specified{FORM}")));
    }
    if let Some(user) = user {
        errors.push(FieldError::invalid(at, user, "user information is not permitted in the URL"));
    }
    if !fragment.is_empty() {
        errors.push(FieldError::invalid(at, fragment, "fragments are not permitted in the URL"));
    }
    if !query.is_empty() {
        errors.push(FieldError::invalid(at, query, "query parameters are not permitted in the URL"));
    }
    errors
}

fn webhook_service(service: &Value, at: &FieldPath) -> FieldErrors {
    // Upstream mixes the two up: each is reported as the other.
    let mut errors = present(&at.child("name"), str_at(service, "namespace"));
    errors.extend(present(&at.child("namespace"), str_at(service, "name")));
    let port = i64_at(service, "port").unwrap_or(443);
    let problems = names::port_number(port);
    if !problems.is_empty() {
        let detail = format!("port is not valid: {}", problems.join(", "));
        errors.push(FieldError::invalid(&at.child("port"), port, detail));
    }
    let text = str_at(service, "path");
    let at = at.child("path");
    if matches!(text, "" | "/") {
        return errors;
    }
    if text == "//" {
        errors.push(FieldError::invalid(&at, text, "segment[0] may not be empty"));
        return errors;
    }
    if !text.starts_with('/') {
        errors.push(FieldError::invalid(&at, text, "must start with a '/'"));
    }
    let inner = text.get(1..).unwrap_or_default();
    for (index, step) in inner.strip_suffix('/').unwrap_or(inner).split('/').enumerate() {
        if step.is_empty() {
            errors.push(FieldError::invalid(&at, text, format!("segment[{index}] may not be empty")));
            continue;
        }
        for problem in names::dns1123_subdomain(step) {
            errors.push(FieldError::invalid(&at, text, format!("segment[{index}]: {problem}")));
        }
    }
    errors
}

/// A rule with operations.
fn operations_rule(rule: &Value, at: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let operations = texts_at(rule, "operations");
    let operations_at = at.child("operations");
    if operations.is_empty() {
        errors.push(FieldError::required(&operations_at, ""));
    }
    errors.extend(alone(&operations, "operations", &operations_at));
    for (index, operation) in operations.iter().enumerate() {
        errors.extend(known_only(&operations_at.index(index), operation, &OPERATIONS));
    }
    for (field, what) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let values = texts_at(rule, field);
        let at = at.child(field);
        if values.is_empty() {
            errors.push(FieldError::required(&at, ""));
        }
        errors.extend(alone(&values, what, &at));
        if field == "apiVersions" {
            let empty = values.iter().enumerate().filter(|(_, version)| version.is_empty());
            errors.extend(empty.map(|(index, _)| FieldError::required(&at.index(index), "")));
        }
    }
    errors.extend(rule_resources(&texts_at(rule, "resources"), &at.child("resources")));
    if let Some(scope) = rule["scope"].as_str() {
        errors.extend(known_only(&at.child("scope"), scope, &["*", "Cluster", "Namespaced"]));
    }
    errors
}

/// A list in which `*` stands alone.
fn alone(values: &[&str], what: &str, at: &FieldPath) -> Option<FieldError> {
    (values.len() > 1 && values.contains(&"*"))
        .then(|| FieldError::invalid(at, json!(values), format!("if '*' is present, must not specify other {what}")))
}

fn rule_resources(resources: &[&str], at: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    if resources.is_empty() {
        errors.push(FieldError::required(at, ""));
    }
    let (mut all_of, mut in_all) = (HashSet::new(), HashSet::new());
    let mut has_plain = false;
    for (index, text) in resources.iter().enumerate() {
        let at = at.index(index);
        if text.is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        let Some((resource, sub)) = text.split_once('/') else {
            has_plain = *text != "*";
            continue;
        };
        let clash = |known: String| {
            FieldError::invalid(&at, *text, format!("if '{known}' is present, must not specify {text}"))
        };
        if all_of.contains(resource) {
            errors.push(clash(format!("{resource}/*")));
        }
        if in_all.contains(sub) {
            errors.push(clash(format!("*/{sub}")));
        }
        if sub == "*" {
            all_of.insert(resource);
        }
        if resource == "*" {
            in_all.insert(sub);
        }
    }
    if resources.len() > 1 && resources.contains(&"*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.push(FieldError::invalid(at, json!(resources), detail));
    }
    if resources.contains(&"*") && has_plain {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.push(FieldError::invalid(at, json!(resources), detail));
    }
    errors
}

fn match_conditions(object: &Value, at: &FieldPath) -> FieldErrors {
    let conditions = items_at(object, "matchConditions");
    let mut errors = FieldErrors::new();
    if conditions.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(at, conditions.len(), CONDITIONS_MAX));
    }
    for (index, condition) in conditions.iter().enumerate() {
        let at = at.index(index);
        errors.extend(present(&at.child("expression"), str_at(condition, "expression").trim()));
        let name = str_at(condition, "name");
        errors.extend(required(&at.child("name"), name, names::qualified_name));
        if !name.is_empty() && conditions[..index].iter().any(|other| str_at(other, "name") == name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
    }
    errors
}

fn match_resources(resources: &Value, at: &FieldPath) -> FieldErrors {
    if resources.is_null() {
        return FieldErrors::new();
    }
    let mut errors = one_of(&at.child("matchPolicy"), str_at(resources, "matchPolicy"), &["Equivalent", "Exact"]);
    for field in ["namespaceSelector", "objectSelector"] {
        if resources[field].is_null() {
            errors.push(FieldError::required(&at.child(field), ""));
        } else {
            errors.extend(label_selector(&resources[field], &at.child(field)));
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for (index, rule) in items_at(resources, field).iter().enumerate() {
            let at = at.child(field).index(index);
            let names_of = texts_at(rule, "resourceNames");
            for (index, name) in names_of.iter().enumerate() {
                let at = at.child("resourceNames").index(index);
                errors.extend(invalid(&at, name, names::path_segment(name)));
                if names_of[..index].contains(name) {
                    errors.push(FieldError::duplicate(&at, *name));
                }
            }
            errors.extend(operations_rule(rule, &at));
        }
    }
    errors
}

/// What can't be mutated.
fn immutable_operations(resources: &Value, at: &FieldPath) -> FieldErrors {
    let operations = items_at(resources, "resourceRules").iter().flat_map(|rule| texts_at(rule, "operations"));
    operations.flat_map(|op| known_only(&at.child("resourceRules.operations"), op, &MUTABLE_OPERATIONS)).collect()
}

fn param_kind(kind: &Value, at: &FieldPath) -> FieldErrors {
    if kind.is_null() {
        return FieldErrors::new();
    }
    let mut errors = FieldErrors::new();
    let version_text = str_at(kind, "apiVersion");
    let version_at = at.child("apiVersion");
    if version_text.is_empty() {
        errors.push(FieldError::required(&version_at, ""));
    } else if version_text.matches('/').count() > 1 {
        let detail = format!("unexpected GroupVersion string: {version_text}");
        errors.push(FieldError::invalid(&version_at, version_text, detail));
    } else {
        let (group, version) = split_api_version(version_text);
        let group_problems = if group.is_empty() { Vec::new() } else { names::dns1123_subdomain(group) };
        if !group_problems.is_empty() {
            errors.push(FieldError::invalid(&version_at, group, group_problems.join(",")));
        }
        if version.is_empty() {
            errors.push(FieldError::invalid(&version_at, version_text, "version must be specified"));
        } else {
            let problems = names::dns1035_label(version);
            if !problems.is_empty() {
                errors.push(FieldError::invalid(&version_at, version, problems.join(",")));
            }
        }
    }
    let name = str_at(kind, "kind");
    let problems = names::dns1035_label(&name.to_lowercase());
    if name.is_empty() {
        errors.push(FieldError::required(&at.child("kind"), ""));
    } else if !problems.is_empty() {
        let detail = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
        errors.push(FieldError::invalid(&at.child("kind"), name, detail));
    }
    errors
}

/// What policies of both sorts have.
fn policy_head(spec: &Value, at: &FieldPath, is_mutating: bool) -> FieldErrors {
    let mut errors = one_of(&at.child("failurePolicy"), str_at(spec, "failurePolicy"), &["Fail", "Ignore"]);
    errors.extend(param_kind(&spec["paramKind"], &at.child("paramKind")));
    let constraints = &spec["matchConstraints"];
    let constraints_at = at.child("matchConstraints");
    if constraints.is_null() {
        errors.push(FieldError::required(&constraints_at, ""));
    } else {
        errors.extend(match_resources(constraints, &constraints_at));
        if items_at(constraints, "resourceRules").is_empty() {
            errors.push(FieldError::required(&constraints_at.child("resourceRules"), ""));
        }
        if is_mutating {
            errors.extend(immutable_operations(constraints, &constraints_at));
        }
    }
    errors.extend(match_conditions(spec, &at.child("matchConditions")));
    for (index, variable) in items_at(spec, "variables").iter().enumerate() {
        let at = at.child("variables").index(index);
        let name = str_at(variable, "name");
        if name.trim().is_empty() {
            errors.push(FieldError::required(&at.child("name"), "name is not specified"));
        } else if !names::c_identifier(name).is_empty() {
            errors.push(FieldError::invalid(&at.child("name"), name, "must be a valid CEL identifier"));
        }
        if str_at(variable, "expression").trim().is_empty() {
            errors.push(FieldError::required(&at.child("expression"), "expression is not specified"));
        }
    }
    errors
}

pub(super) struct ValidatingAdmissionPolicy;

impl Kind for ValidatingAdmissionPolicy {
    fn prepare_for_create(&self, object: &mut Object) {
        map_mut(object, "").insert("status".to_owned(), json!({}));
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
        let at = path("spec");
        let spec = &object["spec"];
        let mut errors = policy_head(spec, &at, false);
        let (validations, annotations) = (items_at(spec, "validations"), items_at(spec, "auditAnnotations"));
        if validations.is_empty() && annotations.is_empty() {
            let detail = "validations or auditAnnotations must contain at least one item";
            errors.push(FieldError::required(&at.child("validations"), detail));
            errors.push(FieldError::required(&at.child("auditAnnotations"), detail));
            return errors;
        }
        for (index, validation) in validations.iter().enumerate() {
            errors.extend(validation_rule(validation, &at.child("validations").index(index)));
        }
        let at = at.child("auditAnnotations");
        if annotations.len() > AUDIT_ANNOTATIONS_MAX {
            let detail = format!("must not have more than {AUDIT_ANNOTATIONS_MAX} auditAnnotations");
            errors.push(FieldError::invalid(&at, json!(annotations), detail));
        }
        let name = str_at(object, "metadata.name");
        for (index, annotation) in annotations.iter().enumerate() {
            let at = at.index(index);
            let key = str_at(annotation, "key");
            let full = format!("{name}/{key}");
            errors.extend(invalid(&at.child("key"), &full, names::qualified_name(&full)));
            if str_at(annotation, "valueExpression").trim().is_empty() {
                let detail = "valueExpression is not specified";
                errors.push(FieldError::required(&at.child("valueExpression"), detail));
            }
            if annotations[..index].iter().any(|other| str_at(other, "key") == key) {
                errors.push(FieldError::duplicate(&at.child("key"), key));
            }
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn validation_rule(validation: &Value, at: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    if str_at(validation, "expression").trim().is_empty() {
        errors.push(FieldError::required(&at.child("expression"), "expression is not specified"));
    }
    for field in ["messageExpression", "message"] {
        let text = str_at(validation, field);
        if !text.is_empty() && text.trim().is_empty() {
            errors.push(FieldError::invalid(&at.child(field), text, "must be non-empty if specified"));
        } else if field == "message" && text.trim().contains(['\n', '\r']) {
            errors.push(FieldError::invalid(&at.child(field), text, "must not contain line breaks"));
        }
    }
    if let Some(reason) = validation["reason"].as_str() {
        errors.extend(known_only(&at.child("reason"), reason, &["Forbidden", "Invalid", "RequestEntityTooLarge"]));
    }
    errors
}

pub(super) struct MutatingAdmissionPolicy;

impl Kind for MutatingAdmissionPolicy {
    fn prepare_for_create(&self, object: &mut Object) {
        first_generation(object);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        next_generation(object, old, &["spec"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let at = path("spec");
        let spec = &object["spec"];
        let mut errors = policy_head(spec, &at, true);
        let mutations = items_at(spec, "mutations");
        if mutations.is_empty() {
            errors.push(FieldError::required(&at.child("mutations"), "mutations must contain at least one item"));
        }
        for (index, mutation) in mutations.iter().enumerate() {
            errors.extend(mutation_rule(mutation, &at.child("mutations").index(index)));
        }
        let policy = str_at(spec, "reinvocationPolicy");
        errors.extend(one_of(&at.child("reinvocationPolicy"), policy, &["IfNeeded", "Never"]));
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn mutation_rule(mutation: &Value, at: &FieldPath) -> FieldErrors {
    let kinds =
        [("JSONPatch", "jsonPatch", "applyConfiguration"), ("ApplyConfiguration", "applyConfiguration", "jsonPatch")];
    let kind = str_at(mutation, "patchType");
    let Some((_, own, other)) = kinds.iter().find(|(known, ..)| *known == kind) else {
        return one_of(&at.child("patchType"), kind, &["ApplyConfiguration", "JSONPatch"]);
    };
    let mut errors = FieldErrors::new();
    if mutation[*own].is_null() {
        let detail = format!("must be specified when patchType is {kind}");
        errors.push(FieldError::required(&at.child(own), detail));
    } else if str_at(&mutation[*own], "expression").trim().is_empty() {
        errors.push(FieldError::required(&at.child(own).child("expression"), "expression is not specified"));
    }
    if !mutation[*other].is_null() {
        let detail = format!("must not be specified when patchType is {kind}");
        errors.push(FieldError::invalid(&at.child(other), format!("{{{other}}}"), detail));
    }
    errors
}

/// What bindings of both sorts have.
fn binding_head(spec: &Value, at: &FieldPath) -> FieldErrors {
    let mut errors = required(&at.child("policyName"), str_at(spec, "policyName"), names::dns1123_subdomain);
    errors.extend(param_ref(&spec["paramRef"], &at.child("paramRef")));
    errors.extend(match_resources(&spec["matchResources"], &at.child("matchResources")));
    errors
}

fn param_ref(reference: &Value, at: &FieldPath) -> FieldErrors {
    if reference.is_null() {
        return FieldErrors::new();
    }
    let (name, selector) = (str_at(reference, "name"), &reference["selector"]);
    let exclusive = "name and selector are mutually exclusive";
    let mut errors = FieldErrors::new();
    if !name.is_empty() {
        errors.extend(invalid(&at.child("name"), name, names::path_segment(name)));
        if !selector.is_null() {
            errors.push(FieldError::forbidden(&at.child("name"), exclusive));
        }
    }
    if !selector.is_null() {
        errors.extend(label_selector(selector, &at.child("selector")));
        if !name.is_empty() {
            errors.push(FieldError::forbidden(&at.child("selector"), exclusive));
        }
    }
    if name.is_empty() && selector.is_null() {
        errors.push(FieldError::required(at, "one of name or selector must be specified"));
    }
    let action = str_at(reference, "parameterNotFoundAction");
    let known = ["Deny", "Allow"];
    if action.is_empty() {
        errors.push(FieldError::required(&at.child("parameterNotFoundAction"), ""));
    } else if !known.contains(&action) {
        errors.push(FieldError::not_supported_in_order(&at.child("parameterNotFoundAction"), action, &known));
    }
    errors
}

pub(super) struct ValidatingBinding;

impl Kind for ValidatingBinding {
    fn prepare_for_create(&self, object: &mut Object) {
        first_generation(object);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        next_generation(object, old, &["spec"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let at = path("spec");
        let mut errors = binding_head(&object["spec"], &at);
        let actions = texts_at(object, "spec.validationActions");
        let at = at.child("validationActions");
        for (index, action) in actions.iter().enumerate() {
            errors.extend(known_only(&at.index(index), action, &["Audit", "Deny", "Warn"]));
            if actions[..index].contains(action) {
                errors.push(FieldError::duplicate(&at.index(index), *action));
            }
        }
        if actions.contains(&"Deny") && actions.contains(&"Warn") {
            let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
            errors.push(FieldError::invalid(&at, json!(actions), detail));
        }
        if actions.is_empty() {
            errors.push(FieldError::required(&at, "at least one validation action is required"));
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

pub(super) struct MutatingBinding;

impl Kind for MutatingBinding {
    fn prepare_for_create(&self, object: &mut Object) {
        first_generation(object);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        next_generation(object, old, &["spec"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let at = path("spec");
        let mut errors = binding_head(&object["spec"], &at);
        errors.extend(immutable_operations(&object["spec"]["matchResources"], &at.child("matchResources")));
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(errors: FieldErrors, expect: &[&str]) {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, expect);
    }

    #[test]
    fn webhooks_are_reached_by_https() {
        let at = path("u");
        check(webhook_url("https://a.example.org/p", &at), &[]);
        check(
            webhook_url("http://me@a.example.org/p?q=1#f", &at),
            &[
                "u: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                "u: Invalid value: \"me\": user information is not permitted in the URL",
                "u: Invalid value: \"f\": fragments are not permitted in the URL",
                "u: Invalid value: \"q=1\": query parameters are not permitted in the URL",
            ],
        );
        check(
            webhook_service(&json!({"name": "n", "namespace": "ns", "path": "/a//b/", "port": 0}), &path("s")),
            &[
                "s.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
                "s.path: Invalid value: \"/a//b/\": segment[1] may not be empty",
            ],
        );
    }

    #[test]
    fn wildcards_stand_alone() {
        check(
            operations_rule(
                &json!({"operations": ["*", "CREATE"], "apiGroups": ["*"], "apiVersions": ["v1", ""], "resources": ["pods/*", "pods/log", "*/*"]}),
                &path("r"),
            ),
            &[
                "r.operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
                "r.apiVersions[1]: Required value",
                "r.resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log",
                "r.resources: Invalid value: [\"pods/*\",\"pods/log\",\"*/*\"]: if '*/*' is present, must not specify other resources",
            ],
        );
    }

    #[test]
    fn policies_do_something() {
        let constraints = json!({"matchPolicy": "Exact", "namespaceSelector": {}, "objectSelector": {}});
        check(
            ValidatingAdmissionPolicy.validate_create(&json!({"metadata": {"name": "p"}, "spec": {"failurePolicy": "Fail", "matchConstraints": constraints, "paramKind": {"apiVersion": "v1"}}})),
            &[
                "spec.paramKind.kind: Required value",
                "spec.matchConstraints.resourceRules: Required value",
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
            ],
        );
        check(
            ValidatingBinding.validate_create(
                &json!({"spec": {"policyName": "p", "paramRef": {}, "validationActions": ["Deny", "Warn"]}}),
            ),
            &[
                "spec.paramRef: Required value: one of name or selector must be specified",
                "spec.paramRef.parameterNotFoundAction: Required value",
                "spec.validationActions: Invalid value: [\"Deny\",\"Warn\"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
            ],
        );
    }
}
