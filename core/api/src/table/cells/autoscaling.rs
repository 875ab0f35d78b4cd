//! Autoscalers and scales.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, first_few, name, number, text};
use crate::object::{Object, i64_at, items_at, map_at, str_at};

/// How many metrics are shown.
const METRICS_SHOWN: usize = 2;
/// Where `autoscaling/v1` keeps the metrics that it has no field for.
const V1_METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const V1_CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";

pub(super) fn autoscaler(object: &Object, now: Timestamp) -> Vec<Value> {
    let target = &object["spec"]["scaleTargetRef"];
    let min = i64_at(object, "spec.minReplicas").map_or("<unset>".to_owned(), |min| min.to_string());
    vec![
        name(object),
        text(format!("{}/{}", str_at(target, "kind"), str_at(target, "name"))),
        text(metrics(object)),
        text(min),
        number(object, "spec.maxReplicas"),
        number(object, "status.currentReplicas"),
        age(object, now),
    ]
}

/// The metrics of either version, with what they are now and what they should be.
fn metrics(object: &Object) -> String {
    let mut specs = items_at(object, "spec.metrics").to_vec();
    let mut statuses = items_at(object, "status.currentMetrics").to_vec();
    let kept = |annotation: &str| -> Vec<Value> {
        map_at(object, "metadata.annotations")
            .and_then(|annotations| annotations.get(annotation)?.as_str())
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    };
    if let Some(percent) = i64_at(object, "spec.targetCPUUtilizationPercentage") {
        specs.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": percent}}}));
    }
    if specs.len() < 2 && items_at(object, "spec.metrics").is_empty() {
        specs.extend(kept(V1_METRICS));
        statuses.extend(kept(V1_CURRENT_METRICS));
    }
    let shown = specs.iter().enumerate().map(|(index, spec)| metric(spec, statuses.get(index).unwrap_or(&Value::Null)));
    first_few(shown.collect(), METRICS_SHOWN, ", ", "<none>")
}

fn quantity<'a>(current: &'a Value, field: &str) -> &'a str {
    current[field].as_str().unwrap_or("<unknown>")
}

fn metric(spec: &Value, status: &Value) -> String {
    let (source, is_resource) = match str_at(spec, "type") {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".to_owned(),
    };
    let (target, current) = (&spec[source]["target"], &status[source]["current"]);
    let name = str_at(&spec[source], "name");
    let average = target["averageValue"].as_str();
    match (is_resource, average) {
        (true, Some(average)) => format!("{name}: {}/{average}", quantity(current, "averageValue")),
        (true, None) => {
            let percent = |value: &Value, none: &str| value.as_i64().map_or(none.to_owned(), |n| format!("{n}%"));
            let now = percent(&current["averageUtilization"], "<unknown>");
            format!("{name}: {now}/{}", percent(&target["averageUtilization"], "<auto>"))
        }
        (false, Some(average)) if source == "pods" => format!("{}/{average}", quantity(current, "averageValue")),
        (false, Some(average)) => format!("{}/{average} (avg)", quantity(current, "averageValue")),
        (false, None) => format!("{}/{}", quantity(current, "value"), str_at(target, "value")),
    }
}

pub(super) fn scale(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), number(object, "spec.replicas"), number(object, "status.replicas"), age(object, now)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_show_what_is_and_what_should_be() {
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}});
        let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"averageValue": "1Gi"}}});
        let pods = json!({"type": "Pods", "pods": {"target": {"averageValue": "10"}}});
        let external = json!({"type": "External", "external": {"target": {"value": "30"}}});
        let object = json!({"type": "Object", "object": {"target": {"averageValue": "3"}}});
        let cases = [
            (json!([]), json!([]), "<none>"),
            (json!([cpu]), json!([]), "cpu: <unknown>/80%"),
            (
                json!([cpu, memory]),
                json!([{"resource": {"current": {"averageUtilization": 20}}}, {"resource": {"current": {"averageValue": "2Gi"}}}]),
                "cpu: 20%/80%, memory: 2Gi/1Gi",
            ),
            (json!([pods, external, object]), json!([]), "<unknown>/10, <unknown>/30 + 1 more..."),
            (json!([object]), json!([]), "<unknown>/3 (avg)"),
        ];
        for (specs, statuses, expect) in cases {
            let object = json!({"spec": {"metrics": specs}, "status": {"currentMetrics": statuses}});
            assert_eq!(metrics(&object), expect);
        }
        let v1 = json!({"spec": {"targetCPUUtilizationPercentage": 50}});
        assert_eq!(metrics(&v1), "cpu: <unknown>/50%");
    }
}
