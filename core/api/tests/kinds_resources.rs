//! What the recorded conversations wrote, gone through defaults, preparation and validation alone: the outcome is what
//! upstream served, and what it refused is refused in its words.

use std::collections::HashMap;
use std::path::Path;

use gantry_api::decode::{FieldValidation, MediaType, decode};
use gantry_api::error::ApiError;
use gantry_api::field::FieldErrors;
use gantry_api::kinds::kind_of;
use gantry_api::metadata;
use gantry_api::resources::{Resource, ResourceTable};
use gantry_api::schema::{apply_defaults, normalize};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Kinds with a pod template have a test of their own.
const WORKLOADS: [&str; 9] = [
    "pods",
    "podtemplates",
    "replicationcontrollers",
    "deployments",
    "replicasets",
    "statefulsets",
    "daemonsets",
    "jobs",
    "cronjobs",
];
/// Refusals that aren't validation's: who is allowed what, addresses that are taken, and expressions that don't compile.
const OTHERS_REFUSALS: [&str; 3] = ["failed to allocate IP", "compilation failed", "pod-security.kubernetes.io"];

fn scenarios() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("tests/corpus").filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    files
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .filter_map(|path| {
            let name = path.file_stem()?.to_str()?.to_owned();
            let text = std::fs::read_to_string(&path).expect("a file").replace("${run}", "run").replace("<run>", "run");
            let is_one = name.starts_with("kind-") || name == "verbs-configmaps";
            is_one.then(|| (name, serde_json::from_str(&text).expect("a conversation")))
        })
        .collect()
}

/// A request's target.
struct Target {
    resource: &'static Resource,
    namespace: String,
    name: String,
    sub: String,
}

fn target(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.split('?').next()?.trim_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..]
            if rest.first().is_some_and(|part| *part != "status" && *part != "finalize") =>
        {
            (*namespace, rest)
        }
        rest => ("", rest),
    };
    let resource = ResourceTable::builtin().get(group, version, rest.first()?)?;
    let part = |index: usize| rest.get(index).map(|part| (*part).to_owned()).unwrap_or_default();
    Some(Target { resource, namespace: namespace.to_owned(), name: part(1), sub: part(2) })
}

/// Compares with what was served, in which what differs from run to run is masked.
fn differences(expect: &Value, got: &Value, at: &str, out: &mut Vec<String>) {
    match (expect, got) {
        (Value::String(text), _) if ["<any>", "<time>", "<uid>", "<rv>"].iter().any(|mask| text.contains(mask)) => {}
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let null = Value::Null;
                let at = format!("{at}.{key}");
                if matches!(at.as_str(), ".metadata.managedFields" | ".metadata.uid" | ".metadata.resourceVersion") {
                    continue;
                }
                differences(a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null), &at, out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(index, (a, b))| differences(a, b, &format!("{at}[{index}]"), out));
        }
        (a, b) if a == b => {}
        (a, b) => out.push(format!("{at}: should be {a}, is {b}")),
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        let map = target.as_object_mut().expect("made a map above");
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

const NOW: &str = "2026-01-01T00:00:00Z";

/// What upstream's admission adds to new objects.
fn admit(resource: &Resource, object: &mut Value) {
    let finalizer = match resource.plural.as_str() {
        "persistentvolumes" => "kubernetes.io/pv-protection",
        "persistentvolumeclaims" => "kubernetes.io/pvc-protection",
        "volumeattributesclasses" => "kubernetes.io/vac-protection",
        "nodes" => {
            let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
            let mut taints = object["spec"]["taints"].as_array().cloned().unwrap_or_default();
            taints.push(taint);
            object["spec"]["taints"] = json!(taints);
            return;
        }
        _ => return,
    };
    object["metadata"]["finalizers"] = json!([finalizer]);
}

fn create(target: &Target, body: &Value) -> Result<(Value, FieldErrors), String> {
    let resource = target.resource;
    let decoded = decode(body.to_string().as_bytes(), MediaType::Json, resource, FieldValidation::Ignore)
        .map_err(|error| error.message)?;
    let mut object = decoded.object;
    let kind = kind_of(&resource.group, &resource.kind);
    if resource.namespaced {
        object["metadata"]["namespace"] = json!(target.namespace);
    }
    apply_defaults(resource, &mut object);
    admit(resource, &mut object);
    if let Some(base) = object["metadata"]["generateName"].as_str().map(str::to_owned) {
        object["metadata"]["name"] = json!(format!("{base}abcde"));
    }
    object["metadata"]["creationTimestamp"] = json!(NOW);
    object["metadata"]["uid"] = json!("u");
    kind.prepare_for_create(&mut object);
    kind.stamp(&mut object, None, NOW.parse().expect("a time"));
    let mut errors = metadata::validate(&object, resource.namespaced, kind.name_rule());
    errors.extend(kind.validate_create(&object));
    normalize(resource, &mut object);
    Ok((object, errors))
}

fn update(target: &Target, mut object: Value, old: &Value) -> (Value, FieldErrors) {
    let resource = target.resource;
    let kind = kind_of(&resource.group, &resource.kind);
    let now: Timestamp = NOW.parse().expect("a time");
    apply_defaults(resource, &mut object);
    let kept =
        ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "namespace"];
    for field in kept {
        if let Some(value) = old["metadata"].get(field) {
            object["metadata"][field] = value.clone();
        }
    }
    let is_status = target.sub == "status";
    if is_status {
        kind.prepare_for_status_update(&mut object, old);
    } else {
        kind.prepare_for_update(&mut object, old);
    }
    kind.stamp(&mut object, Some(old), now);
    object["metadata"]["resourceVersion"] = json!("1");
    let mut errors = metadata::validate_change(&object, old, resource.namespaced, kind.name_rule());
    errors.extend(match is_status {
        true => kind.validate_status_update(&object, old),
        false => kind.validate_update(&object, old),
    });
    normalize(resource, &mut object);
    (object, errors)
}

fn refusal(target: &Target, name: &str, errors: &FieldErrors) -> Value {
    let error = ApiError::invalid(target.resource, name, errors);
    let causes: Vec<Value> = errors
        .iter()
        .map(|error| json!({"reason": error.kind.reason(), "message": error.body(), "field": error.field.to_string()}))
        .collect();
    json!({"message": error.message, "causes": causes})
}

#[test]
fn writes_end_as_upstreams_did() {
    let (mut served, mut refused, mut wrong) = (0, 0, Vec::new());
    for (name, scenario) in scenarios() {
        let mut objects: HashMap<String, Value> = HashMap::new();
        for (index, step) in scenario["steps"].as_array().into_iter().flatten().enumerate() {
            let (ask, see) = (&step["do"], &step["see"]);
            let path = ask["path"].as_str().unwrap_or_default();
            let Some(target) = target(path).filter(|target| !WORKLOADS.contains(&target.resource.plural.as_str()))
            else {
                continue;
            };
            let is_seen = step.get("setup").is_none() && step.get("pick").is_none() && !see["body"].is_null();
            let (body, status) = (&ask["body"], see["status"].as_u64().unwrap_or_default());
            let key = format!("{}/{}/{}", target.resource.qualified(), target.namespace, target.name);
            let outcome = match ask["method"].as_str() {
                Some("DELETE") => {
                    if let Some(object) =
                        objects.get_mut(&key).filter(|object| !object["metadata"]["finalizers"].is_null())
                    {
                        object["metadata"]["deletionTimestamp"] = json!(NOW);
                        object["metadata"]["deletionGracePeriodSeconds"] = json!(0);
                    }
                    continue;
                }
                Some("POST") if target.name.is_empty() && body.is_object() => create(&target, body),
                Some(method @ ("PUT" | "PATCH")) if matches!(target.sub.as_str(), "" | "status") => {
                    let Some(old) = objects.get(&key) else { continue };
                    let is_merge = ask["headers"]["Content-Type"] == "application/merge-patch+json";
                    if method == "PATCH" && !is_merge || !body.is_object() {
                        continue;
                    }
                    let mut object = old.clone();
                    if method == "PUT" {
                        object = body.clone();
                        object["apiVersion"] = json!(target.resource.api_version());
                        object["kind"] = json!(target.resource.kind);
                    } else {
                        merge(&mut object, body);
                    }
                    Ok(update(&target, object, old))
                }
                _ => continue,
            };
            let Ok((object, errors)) = outcome else { continue };
            let object_name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let mut found = Vec::new();
            if status == 200 || status == 201 {
                if is_seen {
                    served += 1;
                    differences(&see["body"], &object, "", &mut found);
                }
                found.extend(errors.iter().map(|error| format!("refused: {error}")));
                let key = format!("{}/{}/{object_name}", target.resource.qualified(), target.namespace);
                if !path.contains("dryRun") {
                    objects.insert(key, object);
                }
            } else if status == 422 && is_seen {
                let message = see["body"]["message"].as_str().unwrap_or_default();
                if OTHERS_REFUSALS.iter().any(|other| message.contains(other)) {
                    continue;
                }
                refused += 1;
                let got = refusal(&target, &object_name, &errors);
                let expect = json!({"message": message, "causes": see["body"]["details"]["causes"]});
                differences(&expect, &got, "", &mut found);
            }
            if !found.is_empty() {
                wrong.push(format!("{name} step {index} {} {path}:\n    {}", ask["method"], found.join("\n    ")));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {served} writes and {refused} refusals differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(served >= 115 && refused >= 50, "only {served} writes and {refused} refusals");
}
