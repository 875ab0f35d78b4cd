//! What the definitions lack: unconditional defaults, from the files in `data/overlay/`.
//!
//! An overlay file is TOML. A table names a definition and gives defaults of its fields:
//!
//! ```toml
//! ["io.k8s.api.core.v1.Container"]
//! terminationMessagePath = "/dev/termination-log"
//! terminationMessagePolicy = "File"
//!
//! ["io.k8s.api.core.v1.PodSpec"]
//! securityContext = {}
//! ```
//!
//! A default is set wherever the definition is used and the field is absent. A field that Go holds by value counts as
//! absent when it is empty, one that it holds by pointer only when it is null. A default inside a struct applies when the
//! struct is there (structs by value always are); to have a pointer made, give it a default of its own (`{}` will do:
//! its inner defaults follow). What depends on other fields is code: [`crate::kinds::Kind::default`].

use std::collections::BTreeMap;

use serde_json::Value;

use super::Schema;
use super::load::LoadError;

/// The overlay files with their names.
const FILES: &[(&str, &str)] = &[
    ("meta.toml", include_str!("../../data/overlay/meta.toml")),
    ("workloads.toml", include_str!("../../data/overlay/workloads.toml")),
    ("rest.toml", include_str!("../../data/overlay/rest.toml")),
];

pub(super) fn apply(schema: &mut Schema) -> Result<(), LoadError> {
    for (file, text) in FILES {
        let problem = |problem: String| LoadError::Overlay { file, problem };
        let tables: BTreeMap<String, BTreeMap<String, Value>> =
            toml::from_str(text).map_err(|error| problem(error.to_string()))?;
        for (name, fields) in tables {
            let id = schema.by_name(&name).ok_or_else(|| problem(format!("no definition {name}")))?;
            let definition = &mut schema.definitions[id.0 as usize];
            for (field, value) in fields {
                let index = definition
                    .fields
                    .binary_search_by(|known| known.name.cmp(field.as_str()))
                    .map_err(|_| problem(format!("{name} has no field {field}")))?;
                definition.defaults.push((index as u16, value));
            }
        }
    }
    Ok(())
}
