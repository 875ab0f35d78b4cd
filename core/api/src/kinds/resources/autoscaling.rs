//! Horizontal pod autoscalers, of either version, and scales.

use serde_json::{Value, json};

use super::super::{Kind, keep_status};
use super::checks::{NOT_NEGATIVE, annotation, invalid, keep, label_selector, not_negative, path, quantity, required};
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::names;
use crate::object::{Object, i64_at, is_empty, items_at, map_mut, str_at};
use crate::resources::split_api_version;

/// The share of the requested CPU that pods should use, unless the autoscaler says what to look at.
const CPU_PERCENT: i64 = 80;
/// Where `autoscaling/v1` keeps the metrics that it has no field for.
const V1_METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const WINDOW_SECONDS_MAX: i64 = 3600;
const PERIOD_SECONDS_MAX: i64 = 1800;
const SOURCES: [(&str, &str); 5] = [
    ("object", "Object"),
    ("external", "External"),
    ("pods", "Pods"),
    ("resource", "Resource"),
    ("containerResource", "ContainerResource"),
];
const SOURCE_TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

pub(super) struct HorizontalPodAutoscaler;

impl Kind for HorizontalPodAutoscaler {
    fn default(&self, object: &mut Object) {
        let is_v1 = str_at(object, "apiVersion") == "autoscaling/v1";
        let has_kept_metrics = annotation(object, V1_METRICS).is_some();
        let spec = map_mut(object, "spec");
        if is_v1 {
            let target = "targetCPUUtilizationPercentage";
            if !has_kept_metrics && spec.get(target).is_none_or(Value::is_null) {
                spec.insert(target.to_owned(), json!(CPU_PERCENT));
            }
        } else if spec.get("metrics").is_none_or(is_empty) {
            spec.insert("metrics".to_owned(), json!([cpu_metric(CPU_PERCENT)]));
        }
        if let Some(behavior) = spec.get_mut("behavior").filter(|behavior| behavior.is_object()) {
            default_rules(
                behavior,
                "scaleUp",
                json!({
                    "stabilizationWindowSeconds": 0,
                    "selectPolicy": "Max",
                    "policies": [
                        {"type": "Pods", "value": 4, "periodSeconds": 15},
                        {"type": "Percent", "value": 100, "periodSeconds": 15},
                    ],
                }),
            );
            default_rules(
                behavior,
                "scaleDown",
                json!({"selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}),
            );
        }
    }

    fn prepare_for_create(&self, object: &mut Object) {
        let empty = if str_at(object, "apiVersion") == "autoscaling/v1" {
            json!({"currentReplicas": 0, "desiredReplicas": 0})
        } else {
            json!({"desiredReplicas": 0, "currentMetrics": null})
        };
        map_mut(object, "").insert("status".to_owned(), empty);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_status(object, old);
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        keep(object, old, &["spec"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        spec(object, None)
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        spec(object, Some(old))
    }

    fn validate_status_update(&self, object: &Object, _old: &Object) -> FieldErrors {
        let mut errors = FieldErrors::new();
        for field in ["currentReplicas", "desiredReplicas"] {
            let count = i64_at(&object["status"], field).unwrap_or_default();
            errors.extend(not_negative(&path("status").child(field), count));
        }
        errors
    }
}

fn cpu_metric(percent: i64) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

fn default_rules(behavior: &mut Value, field: &str, mut rules: Value) {
    if let Some(given) = behavior[field].as_object() {
        let map = map_mut(&mut rules, "");
        for (field, value) in given.iter().filter(|(_, value)| !value.is_null()) {
            map.insert(field.clone(), value.clone());
        }
    }
    map_mut(behavior, "").insert(field.to_owned(), rules);
}

fn spec(object: &Object, old: Option<&Object>) -> FieldErrors {
    let at = path("spec");
    let spec = &object["spec"];
    let min = i64_at(spec, "minReplicas");
    let max = i64_at(spec, "maxReplicas").unwrap_or_default();
    // Down to none is an alpha feature; what is there already may stay.
    let lowest = if old.is_some_and(|old| i64_at(old, "spec.minReplicas") == Some(0)) { 0 } else { 1 };
    let mut errors = FieldErrors::new();
    if let Some(min) = min.filter(|min| *min < lowest) {
        let detail = format!("must be greater than or equal to {lowest}");
        errors.push(FieldError::invalid(&at.child("minReplicas"), min, detail));
    }
    let max_at = at.child("maxReplicas");
    if max == 0 {
        errors.push(FieldError::required(&max_at, "must be set and greater than 0"));
    } else if max < 0 {
        errors.push(FieldError::invalid(&max_at, max, "must be greater than or equal to 1"));
    }
    if min.is_some_and(|min| max < min) {
        errors.push(FieldError::invalid(&max_at, max, "must be greater than or equal to `minReplicas`"));
    }
    errors.extend(target(&spec["scaleTargetRef"], &at.child("scaleTargetRef")));
    errors.extend(metrics(spec, min, &at.child("metrics")));
    let behavior = &spec["behavior"];
    for field in ["scaleUp", "scaleDown"] {
        if !behavior[field].is_null() {
            errors.extend(scaling_rules(&behavior[field], &at.child("behavior").child(field)));
        }
    }
    errors
}

fn target(reference: &Value, at: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    for field in ["kind", "name"] {
        errors.extend(required(&at.child(field), str_at(reference, field), names::path_segment));
    }
    errors.extend(api_version(reference, false, &at.child("apiVersion")));
    errors
}

/// A core kind other than a replication controller has no scale.
fn api_version(reference: &Value, may_be_core: bool, at: &FieldPath) -> Option<FieldError> {
    let version = str_at(reference, "apiVersion");
    if version.matches('/').count() > 1 {
        let detail = format!("unexpected GroupVersion string: {version}");
        return Some(FieldError::invalid(at, version, detail));
    }
    let is_controller = str_at(reference, "kind") == "ReplicationController" && version == "v1";
    let is_core = split_api_version(version).0.is_empty();
    (is_core && !may_be_core && !is_controller)
        .then(|| FieldError::invalid(at, version, "apiVersion must specify API group"))
}

fn metrics(spec: &Value, min: Option<i64>, at: &FieldPath) -> FieldErrors {
    let mut metrics = items_at(spec, "metrics").to_vec();
    if let Some(percent) = i64_at(spec, "targetCPUUtilizationPercentage") {
        metrics.insert(0, cpu_metric(percent));
    }
    let mut errors: FieldErrors =
        metrics.iter().enumerate().flat_map(|(index, metric)| metric_spec(metric, &at.index(index))).collect();
    let from_outside = metrics.iter().any(|metric| matches!(str_at(metric, "type"), "Object" | "External"));
    if min == Some(0) && !from_outside {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.push(FieldError::forbidden(at, detail));
    }
    errors
}

fn metric_spec(metric: &Value, at: &FieldPath) -> FieldErrors {
    let kind = str_at(metric, "type");
    let mut errors = FieldErrors::new();
    let unknown = || FieldError::not_supported(&at.child("type"), kind, &SOURCE_TYPES);
    if kind.is_empty() {
        errors.push(FieldError::required(&at.child("type"), "must specify a metric source type"));
    }
    let is_known = SOURCE_TYPES.contains(&kind);
    if !is_known {
        errors.push(unknown());
    }
    let given: Vec<&str> = SOURCES.iter().map(|(field, _)| *field).filter(|field| !metric[*field].is_null()).collect();
    if let Some(first) = given.first() {
        errors.extend(metric_source(first, &metric[*first], &at.child(first)));
    }
    let expected = SOURCES.iter().find(|(_, name)| *name == kind).map(|(field, _)| *field);
    match expected {
        Some(field) if metric[field].is_null() => {
            let detail = "must populate information for the given metric source";
            errors.push(FieldError::required(&at.child(field), detail));
        }
        Some(_) => {}
        None => errors.push(unknown()),
    }
    if given.len() != 1 {
        let others = given.iter().filter(|field| Some(**field) != expected);
        errors.extend(
            others.map(|field| FieldError::forbidden(&at.child(field), "must populate the given metric source only")),
        );
    }
    errors
}

fn metric_source(field: &str, source: &Value, at: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let target = &source["target"];
    let target_at = at.child("target");
    let [has_value, has_average, has_percent] =
        ["value", "averageValue", "averageUtilization"].map(|field| !target[field].is_null());
    let (average_at, percent_at) = (target_at.child("averageValue"), target_at.child("averageUtilization"));
    match field {
        "object" => {
            let object = &source["describedObject"];
            let object_at = at.child("describedObject");
            for field in ["kind", "name"] {
                errors.extend(required(&object_at.child(field), str_at(object, field), names::path_segment));
            }
            errors.extend(api_version(object, true, &object_at.child("apiVersion")));
            errors.extend(metric_identifier(&source["metric"], &at.child("metric")));
            errors.extend(metric_target(target, &target_at));
            if !has_value && !has_average {
                errors.push(FieldError::required(&average_at, "must set either a target value or averageValue"));
            }
        }
        "external" => {
            errors.extend(metric_identifier(&source["metric"], &at.child("metric")));
            errors.extend(metric_target(target, &target_at));
            if !has_value && !has_average {
                let detail = "must set either a target value for metric or a per-pod target";
                errors.push(FieldError::required(&average_at, detail));
            }
            if has_value && has_average {
                let detail = "may not set both a target value for metric and a per-pod target";
                errors.push(FieldError::forbidden(&target_at.child("value"), detail));
            }
        }
        "pods" => {
            errors.extend(metric_identifier(&source["metric"], &at.child("metric")));
            errors.extend(metric_target(target, &target_at));
            if !has_average {
                errors.push(FieldError::required(&average_at, "must specify a positive target averageValue"));
            }
        }
        _ => {
            if str_at(source, "name").is_empty() {
                errors.push(FieldError::required(&at.child("name"), "must specify a resource name"));
            }
            if field == "containerResource" {
                let container = str_at(source, "container");
                let container_at = at.child("container");
                if container.is_empty() {
                    errors.push(FieldError::required(&container_at, "must specify a container"));
                } else {
                    errors.extend(invalid(&container_at, container, names::dns1123_label(container)));
                }
            }
            errors.extend(metric_target(target, &target_at));
            if !has_percent && !has_average {
                let detail = "must set either a target raw value or a target utilization";
                errors.push(FieldError::required(&percent_at, detail));
            }
            if has_percent && has_average {
                let detail = "may not set both a target raw value and a target utilization";
                errors.push(FieldError::forbidden(&average_at, detail));
            }
        }
    }
    errors
}

fn metric_identifier(metric: &Value, at: &FieldPath) -> FieldErrors {
    let name = str_at(metric, "name");
    let mut errors = FieldErrors::new();
    if name.is_empty() {
        errors.push(FieldError::required(&at.child("name"), "must specify a metric name"));
    } else {
        errors.extend(invalid(&at.child("name"), name, names::path_segment(name)));
    }
    errors.extend(label_selector(&metric["selector"], &at.child("selector")));
    errors
}

fn metric_target(target: &Value, at: &FieldPath) -> FieldErrors {
    let kind = str_at(target, "type");
    let mut errors = FieldErrors::new();
    if kind.is_empty() {
        errors.push(FieldError::required(&at.child("type"), "must specify a metric target type"));
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(&at.child("type"), kind, detail));
    }
    for field in ["value", "averageValue"] {
        let amount = &target[field];
        if !amount.is_null() && quantity(amount).sign() != 1 {
            errors.push(FieldError::invalid(&at.child(field), amount.clone(), "must be positive"));
        }
    }
    if let Some(percent) = i64_at(target, "averageUtilization").filter(|percent| *percent < 1) {
        errors.push(FieldError::invalid(&at.child("averageUtilization"), percent, "must be greater than 0"));
    }
    errors
}

fn scaling_rules(rules: &Value, at: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    if let Some(seconds) = i64_at(rules, "stabilizationWindowSeconds") {
        let at = at.child("stabilizationWindowSeconds");
        if seconds < 0 {
            errors.push(FieldError::invalid(&at, seconds, "must be greater than or equal to zero"));
        }
        if seconds > WINDOW_SECONDS_MAX {
            let detail = format!("must be less than or equal to {WINDOW_SECONDS_MAX}");
            errors.push(FieldError::invalid(&at, seconds, detail));
        }
    }
    if let Some(policy) = rules["selectPolicy"].as_str() {
        let known = ["Disabled", "Max", "Min"];
        errors.extend(super::checks::known_only(&at.child("selectPolicy"), policy, &known));
    }
    let policies = items_at(rules, "policies");
    if policies.is_empty() {
        errors.push(FieldError::required(&at.child("policies"), "must specify at least one Policy"));
    }
    for (index, policy) in policies.iter().enumerate() {
        let at = at.child("policies").index(index);
        errors.extend(super::checks::known_only(&at.child("type"), str_at(policy, "type"), &["Percent", "Pods"]));
        for field in ["value", "periodSeconds"] {
            let number = i64_at(policy, field).unwrap_or_default();
            if number <= 0 {
                errors.push(FieldError::invalid(&at.child(field), number, "must be greater than zero"));
            }
        }
        let period = i64_at(policy, "periodSeconds").unwrap_or_default();
        if period > PERIOD_SECONDS_MAX {
            let detail = format!("must be less than or equal to {PERIOD_SECONDS_MAX}");
            errors.push(FieldError::invalid(&at.child("periodSeconds"), period, detail));
        }
    }
    let tolerance = &rules["tolerance"];
    if !tolerance.is_null() && quantity(tolerance).sign() < 0 {
        errors.push(FieldError::invalid(&at.child("tolerance"), tolerance.clone(), NOT_NEGATIVE));
    }
    errors
}

pub(super) struct Scale;

impl Kind for Scale {
    fn validate_create(&self, object: &Object) -> FieldErrors {
        not_negative(&path("spec.replicas"), i64_at(object, "spec.replicas").unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec_of: Value, expect: &[&str]) {
        let errors: Vec<String> = spec(&json!({"spec": spec_of}), None).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expect);
    }

    #[test]
    fn metrics_have_one_source() {
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
        check(
            json!({"maxReplicas": 1, "scaleTargetRef": target, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}, "pods": {}},
                {"type": "Magic"},
            ]}),
            &[
                "spec.metrics[0].pods.metric.name: Required value: must specify a metric name",
                "spec.metrics[0].pods.target.type: Required value: must specify a metric target type",
                "spec.metrics[0].pods.target.type: Invalid value: \"\": must be either Utilization, Value, or AverageValue",
                "spec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue",
                "spec.metrics[0].pods: Forbidden: must populate the given metric source only",
                "spec.metrics[1].type: Unsupported value: \"Magic\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
                "spec.metrics[1].type: Unsupported value: \"Magic\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
            ],
        );
        check(
            json!({"minReplicas": 0, "maxReplicas": -1, "scaleTargetRef": target, "targetCPUUtilizationPercentage": 0}),
            &[
                "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                "spec.maxReplicas: Invalid value: -1: must be greater than or equal to 1",
                "spec.maxReplicas: Invalid value: -1: must be greater than or equal to `minReplicas`",
                "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0",
                "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas",
            ],
        );
    }

    #[test]
    fn behavior_is_filled_in() {
        let mut object = json!({"apiVersion": "autoscaling/v2", "spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}}}});
        Kind::default(&HorizontalPodAutoscaler, &mut object);
        let behavior = &object["spec"]["behavior"];
        assert_eq!(behavior["scaleUp"]["policies"].as_array().map(Vec::len), Some(2));
        assert_eq!(behavior["scaleDown"]["stabilizationWindowSeconds"], 5);
        assert_eq!(behavior["scaleDown"]["selectPolicy"], "Max");
        assert_eq!(object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        assert_eq!(
            scaling_rules(&json!({"policies": [{"type": "Pods", "value": 0, "periodSeconds": 1801}]}), &path("b"))
                .len(),
            2
        );
    }
}
