//! The printed tables of the recorded conversations: columns and cells are what upstream served.

use std::collections::HashMap;
use std::path::Path;

use gantry_api::resources::{Resource, ResourceTable};
use gantry_api::table;
use jiff::Timestamp;
use regex::Regex;
use serde_json::{Value, json};

const TIME: &str = "2026-01-01T00:00:00Z";
const UID: &str = "7d3a1c5e-0b1f-4a57-9a52-1f0c4f7b1c11";

fn scenarios() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("tests/corpus").filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    files
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a file").replace("<time>", TIME).replace("<uid>", UID);
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            (name, serde_json::from_str(&text).expect("a conversation"))
        })
        .collect()
}

/// The resource of a request's path.
fn resource_at(path: &str) -> Option<&'static Resource> {
    let parts: Vec<&str> = path.split('?').next()?.trim_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let plural = match rest {
        ["namespaces", _, plural] | ["namespaces", _, plural, _] => plural,
        [plural] | [plural, _] => plural,
        _ => return None,
    };
    ResourceTable::builtin().get(group, version, plural)
}

fn key(kind: &str, object: &Value) -> (String, String) {
    (kind.to_owned(), object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn tables_are_those_of_upstream() {
    let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("a time");
    let age = Regex::new(r"^\d+(ms|s|m|h|d)(\d+s)?$").expect("a pattern");
    let (mut rows_seen, mut kinds) = (0, std::collections::BTreeSet::new());
    let mut wrong = Vec::new();
    for (name, scenario) in scenarios() {
        let mut latest: HashMap<(String, String), Value> = HashMap::new();
        for (index, step) in scenario["steps"].as_array().into_iter().flatten().enumerate() {
            let body = &step["see"]["body"];
            if step.get("pick").is_some() {
                continue;
            }
            if body["kind"] != "Table" {
                let kind = body["kind"].as_str().unwrap_or_default();
                if body["metadata"].get("name").is_some() {
                    latest.insert(key(kind, body), body.clone());
                }
                for item in body["items"].as_array().into_iter().flatten() {
                    latest.insert(key(kind.trim_end_matches("List"), item), item.clone());
                }
                continue;
            }
            let Some(resource) = resource_at(step["do"]["path"].as_str().unwrap_or_default()) else { continue };
            kinds.insert(resource.kind.clone());
            let columns = serde_json::to_value(table::columns(resource)).expect("columns");
            if columns != body["columnDefinitions"] {
                wrong.push(format!("{name} step {index}: columns\n  {}\n  {columns}", body["columnDefinitions"]));
            }
            for expect in body["rows"].as_array().into_iter().flatten() {
                let Some(object) = latest.get(&key(&resource.kind, &expect["object"])) else { continue };
                let row = table::row(resource, object, now);
                let cells: Vec<Value> = row
                    .cells
                    .into_iter()
                    .map(
                        |cell| if cell.as_str().is_some_and(|text| age.is_match(text)) { json!("<age>") } else { cell },
                    )
                    .collect();
                rows_seen += 1;
                if json!(cells) != expect["cells"] {
                    wrong.push(format!("{name} step {index}:\n  {}\n  {}", expect["cells"], json!(cells)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(rows_seen > 100 && kinds.len() >= 40, "only {rows_seen} rows of {} kinds", kinds.len());
}
