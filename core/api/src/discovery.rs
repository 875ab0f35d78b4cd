//! Discovery: which groups, versions and resources there are, plain and aggregated (KEP-3352), from the resource table.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::resources::{Resource, ResourceTable, Subresource, Verb, group_version};

/// `/api`: the core group's versions, and where the server can be reached from anywhere (`host:port`).
pub fn api_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

/// `/apis`: all groups but the core group.
pub fn group_list(table: &ResourceTable) -> Value {
    let groups: Vec<Value> =
        table.groups().into_iter().filter(|group| !group.is_empty()).map(|group| group_value(table, group)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`; `None` for a group that isn't there.
pub fn group(table: &ResourceTable, group: &str) -> Option<Value> {
    if group.is_empty() || table.versions(group).is_empty() {
        return None;
    }
    let mut value = group_value(table, group);
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    Some(value)
}

fn group_value(table: &ResourceTable, group: &str) -> Value {
    let version = |version: &&str| json!({"groupVersion": group_version(group, version), "version": version});
    let versions: Vec<Value> = table.versions(group).iter().map(version).collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

/// `/api/v1` and `/apis/GROUP/VERSION`; `None` for one that isn't there.
pub fn resource_list(table: &ResourceTable, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for resource in table.of_version(group, version) {
        resources.push(plain_resource(resource));
        resources.extend(resource.subresources.iter().map(|sub| plain_subresource(resource, sub)));
    }
    if resources.is_empty() {
        return None;
    }
    let mut list =
        json!({"kind": "APIResourceList", "groupVersion": group_version(group, version), "resources": resources});
    // The core group's document predates its own version field.
    if !group.is_empty() {
        list["apiVersion"] = json!("v1");
    }
    Some(list)
}

fn verbs(verbs: &[Verb]) -> Value {
    verbs.iter().map(|verb| verb.as_str()).collect()
}

/// The names that a client may use, as far as there are any.
fn add_names(map: &mut Map<String, Value>, resource: &Resource) {
    for (field, names) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
        if !names.is_empty() {
            map.insert(field.to_owned(), json!(names));
        }
    }
}

fn plain_resource(resource: &Resource) -> Value {
    let mut map = Map::new();
    map.insert("name".to_owned(), json!(resource.plural));
    map.insert("singularName".to_owned(), json!(resource.singular));
    map.insert("namespaced".to_owned(), json!(resource.namespaced));
    map.insert("kind".to_owned(), json!(resource.kind));
    map.insert("verbs".to_owned(), verbs(&resource.verbs));
    add_names(&mut map, resource);
    if resource.is_stored() {
        map.insert("storageVersionHash".to_owned(), json!(storage_version_hash(resource)));
    }
    Value::Object(map)
}

fn plain_subresource(resource: &Resource, sub: &Subresource) -> Value {
    let mut value = json!({
        "name": format!("{}/{}", resource.plural, sub.name),
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": sub.kind,
        "verbs": verbs(&sub.verbs),
    });
    if !sub.version.is_empty() {
        value["group"] = json!(sub.group);
        value["version"] = json!(sub.version);
    }
    value
}

/// Upstream's `StorageVersionHash`: clients see by it when the stored version changes.
fn storage_version_hash(resource: &Resource) -> String {
    let digest = Sha256::digest(format!("{}/{}/{}", resource.storage.group, resource.storage.version, resource.kind));
    STANDARD.encode(&digest[..8])
}

/// `/api` (the core group) or `/apis` (all others) in one document, of `apidiscovery.k8s.io`'s version `v2` or `v2beta1`.
pub fn aggregated(table: &ResourceTable, core: bool, version: &str) -> Value {
    let mut groups: Vec<&str> = table.groups().into_iter().filter(|group| group.is_empty() == core).collect();
    groups.sort_unstable();
    let items: Vec<Value> = groups.into_iter().map(|group| aggregated_group(table, group)).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items})
}

fn aggregated_group(table: &ResourceTable, group: &str) -> Value {
    let version = |version: &&str| {
        let resources: Vec<Value> = table.of_version(group, version).map(aggregated_resource).collect();
        json!({"version": version, "resources": resources, "freshness": "Current"})
    };
    let versions: Vec<Value> = table.versions(group).iter().map(version).collect();
    let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut map = Map::new();
    map.insert("resource".to_owned(), json!(resource.plural));
    map.insert("responseKind".to_owned(), kind("", "", &resource.kind));
    map.insert("scope".to_owned(), json!(if resource.namespaced { "Namespaced" } else { "Cluster" }));
    map.insert("singularResource".to_owned(), json!(resource.singular));
    map.insert("verbs".to_owned(), verbs(&resource.verbs));
    add_names(&mut map, resource);
    if !resource.subresources.is_empty() {
        let sub = |sub: &Subresource| json!({"subresource": sub.name, "responseKind": kind(&sub.group, &sub.version, &sub.kind), "verbs": verbs(&sub.verbs)});
        map.insert("subresources".to_owned(), resource.subresources.iter().map(sub).collect());
    }
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The documents as upstream served them.
    const RECORDED: &str = include_str!("../../../tests/corpus/a-discovery.json");

    fn masked(mut value: Value) -> Value {
        match &mut value {
            Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    *value = if key == "storageVersionHash" { json!("<rv>") } else { masked(value.take()) };
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| *item = masked(item.take())),
            _ => {}
        }
        value
    }

    fn sorted(mut value: Value, list: &str) -> Value {
        if let Value::Array(items) = &mut value[list] {
            items.sort_by_key(ToString::to_string);
        }
        value
    }

    #[test]
    fn documents_are_upstreams() {
        let table = ResourceTable::builtin();
        let recorded: Value = serde_json::from_str(RECORDED).expect("the recording");
        let mut compared = 0;
        for step in recorded["steps"].as_array().expect("steps") {
            let aggregate =
                step["do"]["headers"]["Accept"].as_str().is_some_and(|accept| accept.contains("APIGroupDiscoveryList"));
            let path = step["do"]["path"].as_str().unwrap_or_default();
            let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
            if step["do"].get("anonymous").is_some() || step["see"]["status"] != 200 {
                continue;
            }
            let (found, list) = match (parts.as_slice(), aggregate) {
                (["api"], true) => (aggregated(table, true, "v2"), "items"),
                (["apis"], true) => (aggregated(table, false, "v2"), "items"),
                (["api"], false) => (api_versions("<any>"), ""),
                (["apis"], false) => (group_list(table), ""),
                (["apis", name], _) => (group(table, name).expect("a group"), ""),
                (["api", version], _) => (resource_list(table, "", version).expect("a version"), "resources"),
                (["apis", group, version], _) => {
                    (resource_list(table, group, version).expect("a version"), "resources")
                }
                _ => continue,
            };
            let expect = &step["see"]["body"];
            if list.is_empty() {
                assert_eq!(&masked(found), expect, "{path}");
            } else {
                assert_eq!(sorted(masked(found), list), sorted(expect.clone(), list), "{path}");
            }
            compared += 1;
        }
        assert_eq!(compared, 11);
        assert_eq!((group(table, "none"), resource_list(table, "apps", "v9")), (None, None));
    }

    #[test]
    fn the_storage_hash_is_upstreams() {
        let pods = ResourceTable::builtin().get("", "v1", "pods").expect("pods");
        assert_eq!(storage_version_hash(pods), "xPOwRZ+Yhw8=");
    }
}
