//! The recorded conversations about pods and what makes them: the purely computable part of a write (reading, defaults,
//! preparation, validation) gives what upstream served, or refuses in upstream's words.

use std::collections::BTreeMap;
use std::path::Path;

use gantry_api::decode::{FieldValidation, MediaType, decode};
use gantry_api::error::ApiError;
use gantry_api::kinds::{Kind, kind_of};
use gantry_api::metadata;
use gantry_api::patch::{PatchType, apply};
use gantry_api::resources::{Resource, ResourceTable};
use gantry_api::schema::{apply_defaults, normalize};
use serde_json::{Value, json};

const SCENARIOS: &[&str] = &[
    "kind-pods",
    "kind-podtemplates",
    "kind-replicationcontrollers",
    "kind-replicasets",
    "kind-deployments",
    "kind-statefulsets",
    "kind-daemonsets",
    "kind-jobs",
    "kind-cronjobs",
    "verbs-deployments",
    "pods-life",
    "patch-strategic",
    "patch-json",
];

const WORKLOADS: &[&str] = &[
    "pods",
    "podtemplates",
    "replicationcontrollers",
    "replicasets",
    "deployments",
    "statefulsets",
    "daemonsets",
    "jobs",
    "cronjobs",
];

/// Steps whose answer isn't computed here, and why.
const ELSEWHERE: &[(&str, usize, &str)] = &[
    ("pods-life", 39, "admission turns the name of a priority class into numbers"),
    ("verbs-deployments", 6, "what `/scale` did before doesn't show the deployment"),
];

const TIME: &str = "2026-01-01T00:00:00Z";
const UID: &str = "00000000-0000-4000-8000-000000000000";

struct Target {
    resource: &'static Resource,
    name: String,
    subresource: String,
}

fn target(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.split('?').next().unwrap_or_default().trim_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let ["namespaces", _, plural, rest @ ..] = rest else { return None };
    let resource = ResourceTable::builtin().get(group, version, plural).filter(|_| WORKLOADS.contains(plural))?;
    let at = |index: usize| rest.get(index).copied().unwrap_or_default().to_owned();
    Some(Target { resource, name: at(0), subresource: at(1) })
}

/// What the server's admission adds to a pod that its sender didn't write.
fn without_admission(pod: &mut Value, given: &Value) {
    let Some(spec) = pod["spec"].as_object_mut() else { return };
    for field in ["serviceAccount", "serviceAccountName", "priority", "preemptionPolicy"] {
        if given["spec"][field].is_null() && given["spec"]["serviceAccountName"].is_null() {
            spec.remove(field);
        }
        if matches!(field, "priority" | "preemptionPolicy") && given["spec"][field].is_null() {
            spec.remove(field);
        }
    }
    let added = |name: &str| name.starts_with("kube-api-access-");
    let mut lists = vec![spec];
    while let Some(owner) = lists.pop() {
        for (field, name) in [("volumes", "name"), ("volumeMounts", "name")] {
            if let Some(list) = owner.get_mut(field).and_then(Value::as_array_mut) {
                list.retain(|item| !item[name].as_str().is_some_and(added));
                if list.is_empty() {
                    owner.remove(field);
                }
            }
        }
        if let Some(list) = owner.get_mut("tolerations").and_then(Value::as_array_mut) {
            list.retain(|toleration| {
                let is_default = toleration["tolerationSeconds"] == 300
                    && toleration["key"].as_str().is_some_and(|key| key.starts_with("node.kubernetes.io/"));
                !is_default
            });
            if list.is_empty() {
                owner.remove("tolerations");
            }
        }
        for field in ["containers", "initContainers"] {
            if let Some(list) = owner.get_mut(field).and_then(Value::as_array_mut) {
                let mut inner: Vec<&mut serde_json::Map<String, Value>> =
                    list.iter_mut().filter_map(Value::as_object_mut).collect();
                for container in &mut inner {
                    if let Some(mounts) = container.get_mut("volumeMounts").and_then(Value::as_array_mut) {
                        mounts.retain(|mount| !mount["name"].as_str().is_some_and(added));
                        if mounts.is_empty() {
                            container.remove("volumeMounts");
                        }
                    }
                }
            }
        }
    }
}

/// What admission adds at every write of a pod, so that it isn't a change.
fn default_tolerations(pod: &mut Value) {
    for condition in ["not-ready", "unreachable"] {
        let key = format!("node.kubernetes.io/{condition}");
        let Some(spec) = pod["spec"].as_object_mut() else { return };
        let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
        let Some(list) = tolerations.as_array_mut() else { return };
        if !list.iter().any(|toleration| toleration["key"] == key.as_str()) {
            list.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
}

/// The part of an object that kinds decide.
fn compared(object: &Value) -> Value {
    let mut shown = object.clone();
    let metadata = &object["metadata"];
    shown["metadata"] = json!({
        "labels": metadata["labels"],
        "annotations": metadata["annotations"],
        "generation": metadata["generation"],
    });
    shown
}

/// Compares single fields, as some steps record.
fn picked(ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    for (path, value) in theirs.as_object().into_iter().flatten() {
        let pointer = format!("/{}", path.replace('.', "/"));
        differences(path, ours.pointer(&pointer).unwrap_or(&Value::Null), value, found);
    }
}

fn differences(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                differences(&format!("{path}.{key}"), value, b.get(key).unwrap_or(&Value::Null), found);
            }
            for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                differences(&format!("{path}.{key}"), &Value::Null, value, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{index}]"), a, b, found);
            }
        }
        (Value::String(_), Value::String(masked)) if masked.starts_with('<') && masked.ends_with('>') => {}
        (a, b) if a == b => {}
        (a, b) => found.push(format!("{path}: {a} is not {b}")),
    }
}

/// Gives what recordings mask a form that can be read.
fn unmask(value: &mut Value) {
    match value {
        Value::Object(map) => map.values_mut().for_each(unmask),
        Value::Array(items) => items.iter_mut().for_each(unmask),
        Value::String(text) if text == "<time>" => *text = TIME.to_owned(),
        Value::String(text) if text.contains('<') => {
            *text = text.replace("<uid>", UID).replace("<any>", "a").replace("<run>", "r").replace("<rv>", "1");
        }
        _ => {}
    }
}

struct Walk {
    wrong: Vec<String>,
    accepted: usize,
    refused: usize,
    objects: BTreeMap<String, Value>,
}

type Outcome = Result<(Value, Vec<String>), ApiError>;

fn write(method: &str, step: &Value, target: &Target, old: Option<&Value>) -> Option<Outcome> {
    let (resource, request) = (target.resource, &step["do"]);
    let kind = kind_of(&resource.group, &resource.kind);
    let body = request["body"].to_string();
    let decoded = if method == "PATCH" {
        let patch_type = match request["headers"]["Content-Type"].as_str()? {
            "application/merge-patch+json" => PatchType::Merge,
            "application/json-patch+json" => PatchType::Json,
            "application/strategic-merge-patch+json" => PatchType::Strategic,
            _ => return None,
        };
        apply(patch_type, resource, old?, body.as_bytes(), FieldValidation::Warn)
    } else {
        decode(body.as_bytes(), MediaType::Json, resource, FieldValidation::Warn)
    };
    let mut object = match decoded {
        Ok(decoded) => decoded.object,
        Err(error) => return Some(Err(error)),
    };
    apply_defaults(resource, &mut object);
    if resource.plural == "pods" && target.subresource.is_empty() {
        default_tolerations(&mut object);
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let errors = match old {
        None => {
            object["metadata"]["uid"] = UID.into();
            object["metadata"]["creationTimestamp"] = TIME.into();
            object["metadata"]["namespace"] = "default".into();
            object["metadata"]["resourceVersion"] = "1".into();
            if resource.plural == "pods" && object["spec"]["serviceAccountName"].is_null() {
                object["spec"]["serviceAccountName"] = "default".into();
            }
            kind.prepare_for_create(&mut object);
            let mut errors = metadata::validate(&object, true, kind.name_rule());
            errors.extend(kind.validate_create(&object));
            errors
        }
        Some(old) => update(kind, target, &mut object, old),
    };
    if !errors.is_empty() {
        return Some(Err(ApiError::invalid(resource, &name, &errors)));
    }
    let warnings = kind.warnings(&object, old);
    normalize(resource, &mut object);
    Some(Ok((object, warnings)))
}

fn update(kind: &dyn Kind, target: &Target, object: &mut Value, old: &Value) -> Vec<gantry_api::field::FieldError> {
    for field in ["uid", "creationTimestamp", "generation", "resourceVersion", "namespace", "managedFields"] {
        object["metadata"][field] = old["metadata"][field].clone();
    }
    if target.subresource == "status" {
        kind.prepare_for_status_update(object, old);
        let mut errors = metadata::validate_update(object, old);
        errors.extend(kind.validate_status_update(object, old));
        errors
    } else {
        kind.prepare_for_update(object, old);
        let mut errors = metadata::validate_update(object, old);
        errors.extend(kind.validate_update(object, old));
        errors
    }
}

impl Walk {
    fn step(&mut self, scenario: &str, index: usize, step: &Value) {
        let (request, answer) = (&step["do"], &step["see"]);
        let (method, path) =
            (request["method"].as_str().unwrap_or_default(), request["path"].as_str().unwrap_or_default());
        let Some(target) = target(path) else { return };
        let key = |name: &str| format!("{}/{name}", target.resource.plural);
        let mut served = answer["body"].clone();
        unmask(&mut served);
        let served = &served;
        let is_written_here =
            matches!(method, "POST" | "PUT" | "PATCH") && matches!(target.subresource.as_str(), "" | "status");
        let elsewhere = ELSEWHERE.iter().any(|(name, at, _)| *name == scenario && *at == index);
        if !is_written_here || elsewhere {
            // What others did is where the next write starts.
            if served["kind"] == target.resource.kind.as_str() && served["metadata"]["name"] == target.name.as_str() {
                self.objects.insert(key(&target.name), served.clone());
            }
            return;
        }
        let old = if method == "POST" { None } else { self.objects.get(&key(&target.name)).cloned() };
        if method != "POST" && old.is_none() {
            return;
        }
        let Some(outcome) = write(method, step, &target, old.as_ref()) else { return };
        let place = format!("{scenario} step {index} ({})", step["note"].as_str().unwrap_or_default());
        match (outcome, answer["status"].as_u64()) {
            (Ok((mut object, _)), None) => {
                // A setup step has no answer; what it made is what follows from what was sent.
                normalize(target.resource, &mut object);
                let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                self.objects.insert(key(&name), object);
            }
            (Ok((mut object, warnings)), Some(200 | 201)) => {
                self.accepted += 1;
                let mut theirs = served.clone();
                if target.resource.plural == "pods" {
                    let given = if method == "POST" { request["body"].clone() } else { json!({}) };
                    without_admission(&mut theirs, &given);
                    without_admission(&mut object, &given);
                }
                let mut found = Vec::new();
                if step.get("pick").is_some() {
                    picked(&object, served, &mut found);
                } else {
                    differences("", &compared(&object), &compared(&theirs), &mut found);
                }
                for warning in &warnings {
                    if !answer["warnings"].to_string().contains(&warning.replace('"', "\\\\\\\"")) {
                        found.push(format!("warning {warning} not in {}", answer["warnings"]));
                    }
                }
                if !found.is_empty() {
                    self.wrong.push(format!("{place}\n    {}", found.join("\n    ")));
                }
                if !path.contains("dryRun") && step.get("pick").is_none() {
                    let name = served["metadata"]["name"].as_str().unwrap_or_default();
                    self.objects.insert(key(name), served.clone());
                }
            }
            (Err(error), Some(422)) => {
                self.refused += 1;
                let ours = error.to_status();
                let mut found = Vec::new();
                differences("message", &ours["message"], &served["message"], &mut found);
                differences("causes", &ours["details"]["causes"], &served["details"]["causes"], &mut found);
                if !found.is_empty() {
                    self.wrong.push(format!("{place}\n    {}", found.join("\n    ")));
                }
            }
            (Ok(_), Some(status @ 422)) => {
                self.wrong.push(format!("{place} should be refused ({status}): {}", served["message"]));
            }
            (Err(error), Some(status @ (200 | 201))) => {
                self.wrong.push(format!("{place} should be accepted ({status}): {}", error.message));
            }
            // Taken names, preconditions, what can't be read: others' business.
            _ => {}
        }
    }
}

#[test]
fn workloads_are_written_as_upstream_writes_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus");
    let mut walk = Walk { wrong: Vec::new(), accepted: 0, refused: 0, objects: BTreeMap::new() };
    for scenario in SCENARIOS {
        let Ok(text) = std::fs::read_to_string(folder.join(format!("{scenario}.json"))) else { continue };
        let conversation: Value = serde_json::from_str(&text).expect("a conversation");
        walk.objects.clear();
        for (index, step) in conversation["steps"].as_array().into_iter().flatten().enumerate() {
            walk.step(scenario, index, step);
        }
    }
    assert!(
        walk.wrong.is_empty(),
        "{} of {} differ:\n{}",
        walk.wrong.len(),
        walk.accepted + walk.refused,
        walk.wrong.join("\n")
    );
    assert!(walk.accepted > 20 && walk.refused > 25, "only {} and {}", walk.accepted, walk.refused);
}
