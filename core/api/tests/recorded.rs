//! The recorded conversations, as far as they concern the form of objects alone: what upstream served is already in the
//! form in which this crate would serve it, and what it accepted can be read.

use std::path::Path;

use gantry_api::decode::{FieldValidation, MediaType, decode};
use gantry_api::resources::{Resource, ResourceTable, split_api_version};
use gantry_api::schema::{Schema, conform};
use serde_json::Value;

fn conversations() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("tests/corpus").filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    files
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a file");
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            (name, serde_json::from_str(&text).expect("a conversation"))
        })
        .collect()
}

/// Gives masked values back a form that can be read.
fn unmask(value: &mut Value, key: &str) {
    match value {
        Value::Object(map) => map.iter_mut().for_each(|(key, value)| unmask(value, key)),
        Value::Array(items) => items.iter_mut().for_each(|item| unmask(item, key)),
        Value::String(text) if text == "<time>" => {
            let micros = ["eventTime", "renewTime", "acquireTime", "lastObservedTime"].contains(&key);
            *text = if micros { "2026-01-01T00:00:00.000000Z" } else { "2026-01-01T00:00:00Z" }.to_owned();
        }
        _ => {}
    }
}

fn resource_of(object: &Value) -> Option<&'static Resource> {
    let (group, version) = split_api_version(object["apiVersion"].as_str()?);
    ResourceTable::builtin().by_kind(group, version, object["kind"].as_str()?)
}

/// The objects in an answer: itself, a list's items, a watch's events.
fn objects(body: &Value) -> Vec<Value> {
    match body {
        Value::Array(events) => events.iter().map(|event| event["object"].clone()).collect(),
        Value::Object(map) if map.contains_key("items") => {
            let kind = body["kind"].as_str().unwrap_or_default().trim_end_matches("List");
            let mut items = body["items"].as_array().cloned().unwrap_or_default();
            for item in &mut items {
                item["kind"] = kind.into();
                item["apiVersion"] = body["apiVersion"].clone();
            }
            items
        }
        other => vec![other.clone()],
    }
}

#[test]
fn what_upstream_served_is_in_its_form() {
    let schema = Schema::builtin();
    let mut compared = 0;
    let mut wrong = Vec::new();
    for (name, conversation) in conversations() {
        for (index, step) in conversation["steps"].as_array().into_iter().flatten().enumerate() {
            if step.get("pick").is_some() {
                continue;
            }
            for mut object in objects(&step["see"]["body"]) {
                let Some(resource) = resource_of(&object).filter(|resource| resource.is_stored()) else { continue };
                // Stored credentials and tokens may be masked where a form is demanded.
                if object["metadata"].get("name").is_none() || object.to_string().contains("\"<any>\"") {
                    continue;
                }
                unmask(&mut object, "");
                let before = object.clone();
                let oddities = conform(schema, schema.of(resource).expect("a definition"), &mut object);
                compared += 1;
                if object != before || oddities != Default::default() {
                    wrong.push(format!("{name} step {index} {oddities:?}\n  {before}\n  {object}"));
                }
            }
        }
    }
    assert!(compared > 400, "only {compared} objects");
    assert!(wrong.is_empty(), "{} of {compared} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_upstream_created_can_be_read() {
    let table = ResourceTable::builtin();
    let mut read = 0;
    for (name, conversation) in conversations() {
        for (index, step) in conversation["steps"].as_array().into_iter().flatten().enumerate() {
            let (path, body) = (step["do"]["path"].as_str().unwrap_or_default(), &step["do"]["body"]);
            if step["do"]["method"] != "POST"
                || step["see"]["status"] != 201
                || path.contains("${") && path.contains("/token")
            {
                continue;
            }
            let parts: Vec<&str> = path.split('?').next().unwrap_or_default().trim_matches('/').split('/').collect();
            let (group, version, rest) = match parts.as_slice() {
                ["api", version, rest @ ..] => ("", *version, rest),
                ["apis", group, version, rest @ ..] => (*group, *version, rest),
                _ => continue,
            };
            let plural = match rest {
                ["namespaces", _, plural] | [plural] => *plural,
                _ => continue,
            };
            let Some(resource) = table.get(group, version, plural) else { continue };
            let decoded = decode(body.to_string().as_bytes(), MediaType::Json, resource, FieldValidation::Warn);
            let decoded = decoded.unwrap_or_else(|error| panic!("{name} step {index}: {error}"));
            let warned = step["see"]["warnings"].to_string();
            for warning in decoded.warnings {
                assert!(
                    warned.contains(&warning.replace('"', "\\\\\\\"")),
                    "{name} step {index}: {warning} not in {warned}"
                );
            }
            read += 1;
        }
    }
    assert!(read > 100, "only {read} bodies");
}
