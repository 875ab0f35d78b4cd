//! Devices: their classes, claims and slices. Expressions are read when they are used.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::{Kind, keep_all_but_status, keep_status};
use super::checks::{
    csi_driver_name, first_generation, immutable, invalid, known_only, next_generation, path, present, required,
};
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::names;
use crate::object::{Object, i64_at, is_empty, items_at, map_mut, str_at};

const LIST_MAX: usize = 32;
const DEVICES_MAX: usize = 128;
const EXPRESSION_BYTES_MAX: usize = 10 * 1024;
const POOL_NAME_BYTES_MAX: usize = 253;
const FIRST_AVAILABLE_MAX: usize = 8;

fn size(items: &[Value], max: usize, at: &FieldPath) -> Option<FieldError> {
    (items.len() > max).then(|| FieldError::too_many(at, items.len(), max))
}

fn selectors(owner: &Value, at: &FieldPath) -> FieldErrors {
    let at = at.child("selectors");
    let items = items_at(owner, "selectors");
    let mut errors: FieldErrors = size(items, LIST_MAX, &at).into_iter().collect();
    for (index, selector) in items.iter().enumerate() {
        let at = at.index(index).child("cel");
        if selector["cel"].is_null() {
            errors.push(FieldError::required(&at, ""));
        } else if str_at(selector, "cel.expression").len() > EXPRESSION_BYTES_MAX {
            errors.push(FieldError::too_long(&at.child("expression"), EXPRESSION_BYTES_MAX));
        }
    }
    errors
}

/// Settings for a driver, which alone can read them.
fn configuration(config: &Value, at: &FieldPath) -> FieldErrors {
    let at = at.child("opaque");
    let opaque = &config["opaque"];
    if opaque.is_null() {
        return vec![FieldError::required(&at, "")];
    }
    let mut errors = csi_driver_name(str_at(opaque, "driver"), &at.child("driver"));
    if opaque["parameters"].is_null() {
        errors.push(FieldError::required(&at.child("parameters"), ""));
    } else if !opaque["parameters"].is_object() {
        errors.push(FieldError::invalid(&at.child("parameters"), "<value omitted>", "must be a valid JSON object"));
    }
    errors
}

pub(super) struct DeviceClass;

impl Kind for DeviceClass {
    fn prepare_for_create(&self, object: &mut Object) {
        first_generation(object);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        next_generation(object, old, &["spec"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let at = path("spec");
        let mut errors = selectors(&object["spec"], &at);
        let configs = items_at(object, "spec.config");
        errors.extend(size(configs, LIST_MAX, &at.child("config")));
        for (index, config) in configs.iter().enumerate() {
            errors.extend(configuration(config, &at.child("config").index(index)));
        }
        errors
    }
}

/// Gives requests the number of devices that they ask for when they don't say.
fn default_counts(spec: &mut Value) {
    let requests = spec.pointer_mut("/devices/requests").and_then(Value::as_array_mut);
    for request in requests.into_iter().flatten() {
        let (exactly, alternatives) = match request {
            Value::Object(map) => {
                let exactly = map.get("exactly").is_some_and(Value::is_object);
                (exactly, map.get("firstAvailable").is_some_and(Value::is_array))
            }
            _ => continue,
        };
        if exactly {
            default_count(&mut request["exactly"]);
        }
        if alternatives {
            request["firstAvailable"].as_array_mut().into_iter().flatten().for_each(default_count);
        }
    }
}

fn default_count(request: &mut Value) {
    if matches!(str_at(request, "allocationMode"), "" | "ExactCount") && is_empty(&request["count"]) {
        map_mut(request, "").insert("count".to_owned(), json!(1));
    }
}

fn claim_spec(spec: &Value, at: &FieldPath) -> FieldErrors {
    let at = at.child("devices");
    let devices = &spec["devices"];
    let requests = items_at(devices, "requests");
    let requests_at = at.child("requests");
    let mut errors: FieldErrors = size(requests, LIST_MAX, &requests_at).into_iter().collect();
    for (index, request) in requests.iter().enumerate() {
        errors.extend(device_request(request, &requests_at.index(index)));
        let name = str_at(request, "name");
        if requests[..index].iter().any(|other| str_at(other, "name") == name) {
            errors.push(FieldError::duplicate(&requests_at.index(index), name));
        }
    }
    let known = request_names(requests);
    for (field, is_constraint) in [("constraints", true), ("config", false)] {
        let items = items_at(devices, field);
        errors.extend(size(items, LIST_MAX, &at.child(field)));
        for (index, item) in items.iter().enumerate() {
            let at = at.child(field).index(index);
            for (index, name) in super::checks::texts_at(item, "requests").into_iter().enumerate() {
                let at = at.child("requests").index(index);
                errors.extend(invalid(&at, name, name.split('/').flat_map(names::dns1123_label).collect()));
                if !known.contains(name) {
                    let detail = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
                    errors.push(FieldError::invalid(&at, name, detail));
                }
            }
            if !is_constraint {
                errors.extend(configuration(item, &at));
            } else if item["matchAttribute"].is_null() && item["distinctAttribute"].is_null() {
                let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
                errors.push(FieldError::required(&at, detail));
            }
        }
    }
    errors
}

fn request_names(requests: &[Value]) -> HashSet<String> {
    let mut known = HashSet::new();
    for request in requests {
        let name = str_at(request, "name");
        known.insert(name.to_owned());
        known.extend(items_at(request, "firstAvailable").iter().map(|sub| format!("{name}/{}", str_at(sub, "name"))));
    }
    known
}

fn device_request(request: &Value, at: &FieldPath) -> FieldErrors {
    let mut errors = required(&at.child("name"), str_at(request, "name"), names::dns1123_label);
    let (exactly, alternatives) = (&request["exactly"], items_at(request, "firstAvailable"));
    let detail = "exactly one of `exactly` or `firstAvailable` is required";
    match (exactly.is_null(), alternatives.is_empty()) {
        (true, true) => errors.push(FieldError::required(at, detail)),
        (false, false) => {
            let detail = format!("{detail}, but multiple fields are set");
            errors.push(FieldError::invalid(at, Value::Null, detail));
        }
        (false, true) => errors.extend(exact_request(exactly, &at.child("exactly"))),
        (true, false) => {
            let at = at.child("firstAvailable");
            errors.extend(size(alternatives, FIRST_AVAILABLE_MAX, &at));
            for (index, request) in alternatives.iter().enumerate() {
                let at = at.index(index);
                errors.extend(required(&at.child("name"), str_at(request, "name"), names::dns1123_label));
                errors.extend(exact_request(request, &at));
            }
        }
    }
    errors
}

fn exact_request(request: &Value, at: &FieldPath) -> FieldErrors {
    let class = str_at(request, "deviceClassName");
    let mut errors = required(&at.child("deviceClassName"), class, names::dns1123_subdomain);
    errors.extend(selectors(request, at));
    let count = i64_at(request, "count").unwrap_or_default();
    match str_at(request, "allocationMode") {
        "All" if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            errors.push(FieldError::invalid(&at.child("count"), count, detail));
        }
        "All" => {}
        "ExactCount" if count <= 0 => {
            errors.push(FieldError::invalid(&at.child("count"), count, "must be greater than zero"));
        }
        "ExactCount" => {}
        mode => errors.extend(known_only(&at.child("allocationMode"), mode, &["All", "ExactCount"])),
    }
    errors
}

pub(super) struct ResourceClaim;

impl Kind for ResourceClaim {
    fn default(&self, object: &mut Object) {
        default_counts(&mut object["spec"]);
    }

    fn prepare_for_create(&self, object: &mut Object) {
        map_mut(object, "").insert("status".to_owned(), json!({}));
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_status(object, old);
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        keep_all_but_status(object, old);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        claim_spec(&object["spec"], &path("spec"))
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        immutable(&path("spec"), &object["spec"], &old["spec"])
    }
}

pub(super) struct ResourceClaimTemplate;

impl Kind for ResourceClaimTemplate {
    fn default(&self, object: &mut Object) {
        if let Some(spec) = object.pointer_mut("/spec/spec") {
            default_counts(spec);
        }
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        claim_spec(&object["spec"]["spec"], &path("spec.spec"))
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = self.validate_create(object);
        errors.extend(immutable(&path("spec"), &object["spec"], &old["spec"]));
        errors
    }
}

pub(super) struct ResourceSlice;

impl Kind for ResourceSlice {
    fn prepare_for_create(&self, object: &mut Object) {
        first_generation(object);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        next_generation(object, old, &["spec"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let at = path("spec");
        let spec = &object["spec"];
        let mut errors = csi_driver_name(str_at(spec, "driver"), &at.child("driver"));
        errors.extend(pool(&spec["pool"], &at.child("pool")));
        let choices = [
            ("nodeName", !str_at(spec, "nodeName").is_empty()),
            ("nodeSelector", !spec["nodeSelector"].is_null()),
            ("allNodes", spec["allNodes"] == true),
            ("perDeviceNodeSelection", spec["perDeviceNodeSelection"] == true),
        ];
        let chosen: Vec<&str> = choices.iter().filter(|(_, set)| *set).map(|(field, _)| *field).collect();
        let detail = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
        match chosen.as_slice() {
            [] => errors.push(FieldError::required(&at, detail)),
            [_] => {}
            chosen => {
                let shown = format!("{{{}}}", chosen.join(", "));
                errors.push(FieldError::invalid(&at, shown, format!("{detail}, but multiple fields are set")));
            }
        }
        let node = str_at(spec, "nodeName");
        if !node.is_empty() {
            errors.extend(invalid(&at.child("nodeName"), node, names::dns1123_subdomain(node)));
        }
        let devices = items_at(spec, "devices");
        errors.extend(size(devices, DEVICES_MAX, &at.child("devices")));
        for (index, device) in devices.iter().enumerate() {
            let at = at.child("devices").index(index).child("name");
            let name = str_at(device, "name");
            errors.extend(required(&at, name, names::dns1123_label));
            if devices[..index].iter().any(|other| str_at(other, "name") == name) {
                errors.push(FieldError::duplicate(&at, name));
            }
        }
        errors
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = self.validate_create(object);
        let (new, before) = (&object["spec"], &old["spec"]);
        errors.extend(immutable(&path("spec.driver"), &new["driver"], &before["driver"]));
        errors.extend(immutable(&path("spec.pool.name"), &new["pool"]["name"], &before["pool"]["name"]));
        errors.extend(immutable(&path("spec.nodeName"), &new["nodeName"], &before["nodeName"]));
        errors
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        vec![
            ("spec.nodeName", str_at(object, "spec.nodeName").to_owned()),
            ("spec.driver", str_at(object, "spec.driver").to_owned()),
        ]
    }
}

fn pool(pool: &Value, at: &FieldPath) -> FieldErrors {
    let name = str_at(pool, "name");
    let name_at = at.child("name");
    let mut errors = present(&name_at, name);
    if !name.is_empty() {
        if name.len() > POOL_NAME_BYTES_MAX {
            errors.push(FieldError::too_long(&name_at, POOL_NAME_BYTES_MAX));
        }
        errors.extend(name.split('/').flat_map(|part| invalid(&name_at, part, names::dns1123_subdomain(part))));
    }
    let count = i64_at(pool, "resourceSliceCount").unwrap_or_default();
    if count <= 0 {
        errors.push(FieldError::invalid(&at.child("resourceSliceCount"), count, "must be greater than zero"));
    }
    if let Some(generation) = i64_at(pool, "generation").filter(|generation| *generation < 0) {
        let detail = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(&at.child("generation"), generation, detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_ask_for_one_thing_at_a_time() {
        let spec = json!({"devices": {
            "requests": [
                {"name": "a", "exactly": {"deviceClassName": "", "allocationMode": "All", "count": 2}},
                {"name": "a", "exactly": {"deviceClassName": "c", "allocationMode": "ExactCount"}, "firstAvailable": [{}]},
            ],
            "constraints": [{"requests": ["b"], "matchAttribute": "d.example.org/x"}],
        }});
        let errors: Vec<String> = claim_spec(&spec, &path("spec")).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "spec.devices.requests[0].exactly.deviceClassName: Required value",
                "spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
                "spec.devices.requests[1]: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
                "spec.devices.requests[1]: Duplicate value: \"a\"",
                "spec.devices.constraints[0].requests[0]: Invalid value: \"b\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
            ]
        );
    }

    #[test]
    fn one_device_is_asked_for_by_default() {
        let mut object = json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}, {"name": "s", "firstAvailable": [{"name": "x", "allocationMode": "All"}]}]}}});
        Kind::default(&ResourceClaim, &mut object);
        assert_eq!(object["spec"]["devices"]["requests"][0]["exactly"]["count"], 1);
        assert_eq!(object["spec"]["devices"]["requests"][1]["firstAvailable"][0].get("count"), None);
    }
}
