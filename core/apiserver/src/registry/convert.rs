//! Resources that show objects stored in another group or version: events in two groups, autoscalers in two versions.

use gantry_api::object::Object;
use gantry_api::resources::{Resource, ResourceTable};
use gantry_api::schema::normalize;
use serde_json::{Map, Value, json};

/// The fields of `v1` events and their names in `events.k8s.io/v1`.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Where `autoscaling/v1` keeps what it has no fields for.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";

/// Turns an object of the resource's version into what is stored.
pub fn to_storage(resource: &Resource, object: &mut Object) {
    match resource.kind.as_str() {
        "Event" => rename_fields(object, resource.group == "events.k8s.io"),
        "HorizontalPodAutoscaler" if resource.version == "v1" && resource.storage.version == "v2" => {
            autoscaler_to_v2(object)
        }
        "HorizontalPodAutoscaler" if resource.version == "v2" && resource.storage.version == "v1" => {
            autoscaler_to_v1(object)
        }
        _ => {}
    }
    retype(object, &gantry_api::resources::group_version(&resource.storage.group, &resource.storage.version));
    normalize(ResourceTable::builtin().storage_of(resource), object);
}

/// Turns a stored object into the resource's version.
pub fn from_storage(resource: &Resource, object: &mut Object) {
    match resource.kind.as_str() {
        "Event" => rename_fields(object, resource.group.is_empty()),
        "HorizontalPodAutoscaler" if resource.version == "v1" && resource.storage.version == "v2" => {
            autoscaler_to_v1(object)
        }
        "HorizontalPodAutoscaler" if resource.version == "v2" && resource.storage.version == "v1" => {
            autoscaler_to_v2(object)
        }
        _ => {}
    }
    retype(object, &resource.api_version());
    normalize(resource, object);
}

fn retype(object: &mut Object, api_version: &str) {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), json!(api_version));
    }
}

fn rename_fields(object: &mut Object, to_core: bool) {
    let Some(map) = object.as_object_mut() else { return };
    for (core, new) in EVENT_FIELDS {
        let (from, to) = if to_core { (new, core) } else { (core, new) };
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

fn take(map: &mut Map<String, Value>, annotation: &str) -> Option<Value> {
    let text = map.remove(annotation)?;
    serde_json::from_str(text.as_str()?).ok()
}

fn annotations(object: &mut Object) -> &mut Map<String, Value> {
    gantry_api::object::map_mut(object, "metadata.annotations")
}

fn is_cpu_utilization(metric: &Value) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && !metric["resource"]["target"]["averageUtilization"].is_null()
}

/// `v2` to `v1`: the CPU target has a field, the rest goes into annotations.
fn autoscaler_to_v1(object: &mut Object) {
    let metrics = object["spec"]["metrics"].as_array().cloned().unwrap_or_default();
    let behavior = object["spec"]["behavior"].take();
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let current = object["status"]["currentMetrics"].as_array().cloned().unwrap_or_default();
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.remove("metrics");
        spec.remove("behavior");
        if let Some(metric) = metrics.iter().find(|metric| is_cpu_utilization(metric)) {
            spec.insert(
                "targetCPUUtilizationPercentage".to_owned(),
                metric["resource"]["target"]["averageUtilization"].clone(),
            );
        }
    }
    if let Some(status) = object["status"].as_object_mut() {
        status.remove("conditions");
        status.remove("currentMetrics");
        if let Some(metric) =
            current.iter().find(|metric| metric["type"] == "Resource" && metric["resource"]["name"] == "cpu")
        {
            let value = &metric["resource"]["current"]["averageUtilization"];
            if !value.is_null() {
                status.insert("currentCPUUtilizationPercentage".to_owned(), value.clone());
            }
        }
    }
    let first_cpu = metrics.iter().position(is_cpu_utilization);
    let others: Vec<Value> =
        metrics.into_iter().enumerate().filter(|(at, _)| Some(*at) != first_cpu).map(|(_, metric)| metric).collect();
    let kept = annotations(object);
    for (name, value) in [
        (METRICS, json!(others)),
        (BEHAVIOR, behavior),
        (CONDITIONS, json!(conditions)),
        (CURRENT_METRICS, json!(current)),
    ] {
        if !gantry_api::object::is_empty(&value) {
            kept.insert(name.to_owned(), json!(value.to_string()));
        }
    }
    super::metadata::tidy(object);
}

/// `v1` to `v2`: the reverse.
fn autoscaler_to_v2(object: &mut Object) {
    let kept = annotations(object);
    let others = take(kept, METRICS);
    let (behavior, conditions, current) = (take(kept, BEHAVIOR), take(kept, CONDITIONS), take(kept, CURRENT_METRICS));
    let mut metrics = others.and_then(|value| value.as_array().cloned()).unwrap_or_default();
    let spec = gantry_api::object::map_mut(object, "spec");
    if let Some(target) = spec.remove("targetCPUUtilizationPercentage").filter(|target| !target.is_null()) {
        metrics.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": target}}}));
    }
    if !metrics.is_empty() {
        spec.insert("metrics".to_owned(), json!(metrics));
    }
    if let Some(behavior) = behavior {
        spec.insert("behavior".to_owned(), behavior);
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("currentCPUUtilizationPercentage");
        for (field, value) in [("conditions", conditions), ("currentMetrics", current)] {
            if let Some(value) = value {
                status.insert(field.to_owned(), value);
            }
        }
    }
    super::metadata::tidy(object);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn autoscalers_survive_the_way_there_and_back() {
        let v2 = json!({
            "metadata": {"name": "h"},
            "spec": {
                "maxReplicas": 3,
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
                    {"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 50}}},
                ],
                "behavior": {"scaleUp": {"stabilizationWindowSeconds": 5}},
            },
            "status": {"conditions": [{"type": "AbleToScale", "status": "True"}]},
        });
        let mut object = v2.clone();
        autoscaler_to_v1(&mut object);
        assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 80);
        assert!(object["spec"].get("metrics").is_none());
        autoscaler_to_v2(&mut object);
        assert_eq!(object, v2);
    }

    #[test]
    fn events_change_names() {
        let core = json!({"involvedObject": {"name": "p"}, "message": "m", "reportingComponent": "c", "reason": "r"});
        let mut object = core.clone();
        rename_fields(&mut object, false);
        assert_eq!(object, json!({"regarding": {"name": "p"}, "note": "m", "reportingController": "c", "reason": "r"}));
        rename_fields(&mut object, true);
        assert_eq!(object, core);
    }
}
