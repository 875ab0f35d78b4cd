//! Limit ranges and resource quotas.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::{Kind, keep_status};
use super::checks::{entries, invalid, is_extended, keep, path, quantity, resource_quantity, texts_at};
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::names;
use crate::object::{Object, items_at, map_mut, str_at};
use crate::quantity::Quantity;

/// Resources that a quota counts, beside huge pages and those with a domain.
const QUOTA_RESOURCES: [&str; 19] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const CONTAINER_RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const POD_COMPUTE: [&str; 6] = ["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

fn is_quota_resource(name: &str) -> bool {
    QUOTA_RESOURCES.contains(&name) || is_huge_page(name)
}

/// The name of any resource (upstream's `validateResourceName`).
fn resource_name(name: &str, at: &FieldPath) -> FieldErrors {
    let problems = invalid(at, name, names::qualified_name(name));
    if !problems.is_empty() {
        return problems;
    }
    if !name.contains('/') && !is_quota_resource(name) && name != "storage" {
        let detail = "must be a standard resource type or fully qualified";
        return vec![FieldError::invalid(at, name, detail)];
    }
    FieldErrors::new()
}

pub(super) struct LimitRange;

impl Kind for LimitRange {
    fn default(&self, object: &mut Object) {
        for limit in object.pointer_mut("/spec/limits").and_then(Value::as_array_mut).into_iter().flatten() {
            if str_at(limit, "type") == "Container" {
                default_limits(limit);
            }
        }
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let limits = items_at(object, "spec.limits");
        let mut errors = FieldErrors::new();
        for (index, limit) in limits.iter().enumerate() {
            let at = path("spec.limits").index(index);
            let kind = str_at(limit, "type");
            errors.extend(limit_type(kind, &at.child("type")));
            if limits[..index].iter().any(|other| str_at(other, "type") == kind) {
                errors.push(FieldError::duplicate(&at.child("type"), kind));
            }
            errors.extend(limit_item(limit, &at));
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

/// A maximum is the default limit, the limit the default request, a minimum the default request where there is no limit.
fn default_limits(limit: &mut Value) {
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let Some(source) = limit[from].as_object().cloned() else { continue };
        let target = map_mut(limit, to);
        for (name, amount) in source {
            target.entry(name).or_insert(amount);
        }
    }
}

fn limit_type(kind: &str, at: &FieldPath) -> FieldErrors {
    let problems = invalid(at, kind, names::qualified_name(kind));
    if !problems.is_empty() {
        return problems;
    }
    if !kind.contains('/') && !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") {
        return vec![FieldError::invalid(at, kind, "must be a standard limit type or fully qualified")];
    }
    FieldErrors::new()
}

fn limit_item(limit: &Value, at: &FieldPath) -> FieldErrors {
    let kind = str_at(limit, "type");
    let mut errors = FieldErrors::new();
    let mut keys = BTreeSet::new();
    let name_of = |name: &str, at: &FieldPath| match kind {
        "Pod" | "Container" => container_resource_name(name, at),
        _ => resource_name(name, at),
    };
    for field in ["max", "min", "default", "defaultRequest"] {
        if kind == "Pod" && field.starts_with("default") {
            if entries(limit, field).next().is_some() {
                errors.push(FieldError::forbidden(&at.child(field), "may not be specified when `type` is 'Pod'"));
            }
            continue;
        }
        for (name, _) in entries(limit, field) {
            errors.extend(name_of(name, &at.child(field).key(name)));
            keys.insert(name.as_str());
        }
    }
    if kind == "PersistentVolumeClaim" && limit["min"]["storage"].is_null() && limit["max"]["storage"].is_null() {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(FieldError::required(&at.child("limits"), detail));
    }
    for (name, _) in entries(limit, "maxLimitRequestRatio") {
        errors.extend(name_of(name, &at.child("maxLimitRequestRatio").key(name)));
        keys.insert(name.as_str());
    }
    for key in keys {
        errors.extend(amounts(limit, key, at));
    }
    errors
}

fn container_resource_name(name: &str, at: &FieldPath) -> FieldErrors {
    let problems = invalid(at, name, names::qualified_name(name));
    if !problems.is_empty() {
        return problems;
    }
    if name.contains('/') {
        if !is_extended(name) && !name.contains("kubernetes.io/") {
            return vec![FieldError::invalid(at, name, "doesn't follow extended resource name standard")];
        }
    } else if !CONTAINER_RESOURCES.contains(&name) && !name.starts_with("hugepages-") {
        return vec![FieldError::invalid(at, name, "must be a standard resource for containers")];
    }
    FieldErrors::new()
}

/// How the amounts of one resource must relate.
fn amounts(limit: &Value, key: &str, at: &FieldPath) -> FieldErrors {
    let amount = |field: &str| -> Option<Quantity> { limit[field].get(key).map(quantity) };
    let is_pod = str_at(limit, "type") == "Pod";
    let (min, max, ratio) = (amount("min"), amount("max"), amount("maxLimitRequestRatio"));
    let default = amount("default").filter(|_| !is_pod);
    let request = amount("defaultRequest").filter(|_| !is_pod);
    let mut errors = FieldErrors::new();
    let mut refuse = |field: &str, shown: &Quantity, detail: String| {
        errors.push(FieldError::invalid(&at.child(field).key(key), shown.to_string(), detail));
    };
    if let (Some(min), Some(max)) = (&min, &max)
        && min > max
    {
        refuse("min", min, format!("min value {min} is greater than max value {max}"));
    }
    if let (Some(request), Some(min)) = (&request, &min)
        && min > request
    {
        refuse("defaultRequest", request, format!("min value {min} is greater than default request value {request}"));
    }
    if let (Some(request), Some(max)) = (&request, &max)
        && request > max
    {
        refuse("defaultRequest", request, format!("default request value {request} is greater than max value {max}"));
    }
    if let (Some(request), Some(default)) = (&request, &default)
        && request > default
    {
        let detail = format!("default request value {request} is greater than default limit value {default}");
        refuse("defaultRequest", request, detail);
    }
    if let (Some(default), Some(min)) = (&default, &min)
        && min > default
    {
        refuse("default", min, format!("min value {min} is greater than default value {default}"));
    }
    if let (Some(default), Some(max)) = (&default, &max)
        && default > max
    {
        refuse("default", max, format!("default value {default} is greater than max value {max}"));
    }
    if let Some(ratio) = &ratio {
        if *ratio < Quantity::from_i64(1) {
            refuse("maxLimitRequestRatio", ratio, format!("ratio {ratio} is less than 1"));
        }
        if let (Some(min), Some(max)) = (&min, &max) {
            let highest = max.milli_value() as f64 / min.milli_value() as f64;
            if ratio.milli_value() as f64 / 1000.0 > highest {
                let detail = format!("ratio {ratio} is greater than max/min = {highest:.6}");
                refuse("maxLimitRequestRatio", ratio, detail);
            }
        }
    }
    let overcommits = !key.contains('/') && !key.starts_with("hugepages-") || key.contains("kubernetes.io/");
    if let (Some(request), Some(default)) = (&request, &default)
        && !overcommits
        && request != default
    {
        let detail = format!("default value {default} must equal to defaultRequest value {request} in {key}");
        refuse("defaultRequest", request, detail);
    }
    errors
}

pub(super) struct ResourceQuota;

impl Kind for ResourceQuota {
    fn prepare_for_create(&self, object: &mut Object) {
        map_mut(object, "").insert("status".to_owned(), json!({}));
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_status(object, old);
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        keep(object, old, &["spec"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        quota_spec(object)
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = quota_spec(object);
        let set = |object: &Object| -> BTreeSet<String> {
            texts_at(object, "spec.scopes").into_iter().map(str::to_owned).collect()
        };
        if set(object) != set(old) {
            let scopes = object["spec"]["scopes"].clone();
            errors.push(FieldError::invalid(&path("spec.scopes"), scopes, super::checks::IMMUTABLE));
        }
        errors
    }

    fn validate_status_update(&self, object: &Object, _old: &Object) -> FieldErrors {
        ["hard", "used"].into_iter().flat_map(|field| quota_amounts(object, &format!("status.{field}"))).collect()
    }

    fn warnings(&self, object: &Object, old: Option<&Object>) -> Vec<String> {
        if old.is_some() {
            return Vec::new();
        }
        let hard = &object["spec"]["hard"];
        let mut warnings = Vec::new();
        for name in ["cpu", "memory", "storage", "ephemeral-storage"] {
            let mut request_name = format!("requests.{name}");
            if hard[&request_name].is_null() && matches!(name, "cpu" | "memory") {
                request_name = name.to_owned();
            }
            let limit_name = format!("limits.{name}");
            let (request, limit) = (&hard[&request_name], &hard[&limit_name]);
            if !request.is_null() && !limit.is_null() && quantity(request) > quantity(limit) {
                warnings.push(format!(
                    "ResourceQuota {request_name} ({}) should be less than {limit_name} ({})",
                    quantity(request),
                    quantity(limit)
                ));
            }
        }
        warnings
    }
}

fn quota_amounts(object: &Object, field: &str) -> FieldErrors {
    let mut errors = FieldErrors::new();
    for (name, amount) in entries(object, field) {
        let at = path(field).key(name);
        errors.extend(resource_name(name, &at));
        if !name.contains('/') && !is_quota_resource(name) {
            errors.push(FieldError::invalid(&at, name.as_str(), "must be a standard resource for quota"));
        }
        errors.extend(resource_quantity(name, amount, &at));
    }
    errors
}

fn scope_fits(scope: &str, resource: &str) -> bool {
    match scope {
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            resource == "pods" || POD_COMPUTE.contains(&resource)
        }
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

fn is_scope(scope: &str) -> bool {
    matches!(
        scope,
        "Terminating"
            | "NotTerminating"
            | "BestEffort"
            | "NotBestEffort"
            | "PriorityClass"
            | "VolumeAttributesClass"
            | "CrossNamespacePodAffinity"
    )
}

fn quota_spec(object: &Object) -> FieldErrors {
    let mut errors = quota_amounts(object, "spec.hard");
    let at = path("spec.scopes");
    let hard: Vec<&str> =
        entries(object, "spec.hard").map(|(name, _)| name.as_str()).filter(|name| is_quota_resource(name)).collect();
    let scopes = texts_at(object, "spec.scopes");
    let refuse = |detail: &str| FieldError::invalid(&at, json!(scopes), detail);
    for scope in &scopes {
        if !is_scope(scope) {
            errors.push(refuse("unsupported scope"));
        }
        let misfits = hard.iter().filter(|resource| !scope_fits(scope, resource));
        errors.extend(misfits.map(|_| refuse("unsupported scope applied to resource")));
    }
    errors.extend(conflicts(&scopes).map(|()| refuse("conflicting scopes")));
    errors.extend(scope_selector(object, &hard));
    errors
}

/// One for each pair of scopes that exclude each other.
fn conflicts(scopes: &[&str]) -> impl Iterator<Item = ()> {
    let has = |scope: &str| scopes.contains(&scope);
    let pairs = [has("BestEffort") && has("NotBestEffort"), has("Terminating") && has("NotTerminating")];
    pairs.into_iter().filter(|conflict| *conflict).map(|_| ())
}

fn scope_selector(object: &Object, hard: &[&str]) -> FieldErrors {
    let at = path("spec.scopeSelector.matchExpressions");
    let mut errors = FieldErrors::new();
    let requirements = items_at(object, "spec.scopeSelector.matchExpressions");
    let mut scopes = Vec::new();
    for requirement in requirements {
        let (scope, operator) = (str_at(requirement, "scopeName"), str_at(requirement, "operator"));
        if !is_scope(scope) {
            errors.push(FieldError::invalid(&at.child("scopeName"), scope, "unsupported scope"));
        }
        for _ in hard.iter().filter(|resource| !scope_fits(scope, resource)) {
            let detail = "unsupported scope applied to resource";
            errors.push(FieldError::invalid(&at, object["spec"]["scopeSelector"].clone(), detail));
        }
        let exists_only = matches!(
            scope,
            "BestEffort" | "NotBestEffort" | "Terminating" | "NotTerminating" | "CrossNamespacePodAffinity"
        );
        if exists_only && operator != "Exists" {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.push(FieldError::invalid(&at.child("operator"), operator, detail));
        }
        let values = texts_at(requirement, "values");
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(FieldError::required(&at.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.push(FieldError::invalid(&at.child("values"), json!(values), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(FieldError::invalid(&at.child("operator"), other, "not a valid selector operator"));
            }
        }
        scopes.push(scope);
    }
    let shown = object["spec"]["scopes"].clone();
    errors.extend(conflicts(&scopes).map(|()| FieldError::invalid(&at, shown.clone(), "conflicting scopes")));
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
    fn limits_follow_from_each_other() {
        let mut object =
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}});
        Kind::default(&LimitRange, &mut object);
        let limit = &object["spec"]["limits"][0];
        assert_eq!(limit["default"], json!({"cpu": "2"}));
        assert_eq!(limit["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
        check(LimitRange.validate_create(&object), &[]);
    }

    #[test]
    fn amounts_are_in_order() {
        let limit = json!({"spec": {"limits": [
            {"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "3"}},
            {"type": "Container", "default": {"magic": "1"}},
            {"type": "PersistentVolumeClaim"},
        ]}});
        check(
            LimitRange.validate_create(&limit),
            &[
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 0.500000",
                "spec.limits[1].type: Duplicate value: \"Container\"",
                "spec.limits[1].default[magic]: Invalid value: \"magic\": must be a standard resource for containers",
                "spec.limits[2].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
            ],
        );
    }

    #[test]
    fn scopes_fit_what_is_counted() {
        check(
            ResourceQuota
                .validate_create(&json!({"spec": {"hard": {"services": "1", "magic": "1"}, "scopes": ["BestEffort"]}})),
            &[
                "spec.hard[magic]: Invalid value: \"magic\": must be a standard resource type or fully qualified",
                "spec.hard[magic]: Invalid value: \"magic\": must be a standard resource for quota",
                "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
            ],
        );
        let warned = json!({"spec": {"hard": {"cpu": "2", "limits.cpu": "1"}}});
        assert_eq!(ResourceQuota.warnings(&warned, None), ["ResourceQuota cpu (2) should be less than limits.cpu (1)"]);
    }
}
