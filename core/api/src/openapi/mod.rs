//! OpenAPI v3: an index and a document per group and version, as far as kubectl's validation and `explain` and generated
//! clients need them. Documents are put together on request, from the schema, the resource table and the compressed
//! descriptions, and not kept: they are large, and clients cache them by their hash.

pub(crate) mod descriptions;
mod paths;
mod schemas;

use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::resources::ResourceTable;

pub use descriptions::Descriptions;

/// `/openapi/v3`: where the documents are, each with a hash that changes with its content.
pub fn root(table: &ResourceTable) -> Value {
    let mut paths = Map::new();
    for group in table.groups() {
        for version in table.versions(group) {
            let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            let url = format!("/openapi/v3/{path}?hash={}", hash(&path));
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

/// A document by its path below `/openapi/v3/` (`api/v1`, `apis/apps/v1`), as JSON; `None` when there is none.
pub fn document(table: &ResourceTable, path: &str) -> Option<Vec<u8>> {
    let parts: Vec<&str> = path.split('/').collect();
    let (group, version) = match parts.as_slice() {
        ["api", version] => ("", *version),
        ["apis", group, version] if !group.is_empty() => (*group, *version),
        _ => return None,
    };
    table.of_version(group, version).next()?;
    let document = json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.3"},
        "paths": paths::paths(table, group, version),
        "components": {
            "schemas": schemas::components(table, group, version, &Descriptions::load()),
            "securitySchemes": {
                "BearerToken": {"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header"},
            },
        },
    });
    serde_json::to_vec(&document).ok()
}

/// A digest of all that a document is made of, and its path: the documents themselves needn't be made for it.
pub fn hash(path: &str) -> String {
    static DATA: LazyLock<[u8; 32]> = LazyLock::new(|| {
        let parts: [&[u8]; 5] = [
            include_bytes!("../../data/kubernetes-1.36-definitions.json"),
            include_bytes!("../../data/resources.toml"),
            descriptions::COMPRESSED,
            include_bytes!("paths.rs"),
            include_bytes!("schemas.rs"),
        ];
        parts.iter().fold(Sha256::new(), |digest, part| digest.chain_update(part)).finalize().into()
    });
    let digest = Sha256::new().chain_update(*DATA).chain_update(path).finalize();
    digest.iter().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(path: &str) -> Value {
        serde_json::from_slice(&document(ResourceTable::builtin(), path).expect(path)).expect("JSON")
    }

    #[test]
    fn the_index_leads_to_every_group_and_version() {
        let table = ResourceTable::builtin();
        let index = root(table);
        let paths = index["paths"].as_object().expect("paths");
        assert!(paths.contains_key("api/v1") && paths.contains_key("apis/autoscaling/v2"));
        for path in paths.keys() {
            assert!(document(table, path).is_some(), "{path}");
        }
        assert_eq!(document(table, "apis/none/v1"), None);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    for (key, value) in map {
                        match (key.as_str(), value.as_str()) {
                            ("$ref", Some(target)) => found.push(target.to_owned()),
                            _ => references(value, found),
                        }
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        for path in ["api/v1", "apis/apps/v1", "apis/apiextensions.k8s.io/v1"] {
            let document = parsed(path);
            let mut found = Vec::new();
            references(&document, &mut found);
            assert!(found.len() > 100);
            for target in found {
                let pointer = target.strip_prefix('#').expect("a local reference");
                assert!(document.pointer(pointer).is_some(), "{path}: {target}");
            }
        }
    }

    #[test]
    fn kubectl_finds_what_it_looks_for() {
        let document = parsed("apis/apps/v1");
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"],
            json!({"group": "apps", "version": "v1", "kind": "Deployment"})
        );
        assert!(
            patch["parameters"].as_array().is_some_and(|list| list.iter().any(|one| one["name"] == "fieldValidation"))
        );
        let replicas =
            &document["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["replicas"];
        assert_eq!((&replicas["type"], &replicas["format"]), (&json!("integer"), &json!("int32")));
        assert!(replicas["description"].as_str().is_some_and(|text| text.starts_with("Number of desired pods")));
    }
}
