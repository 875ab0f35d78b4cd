//! The schema of every built-in kind: one compact, interned table that defaulting, pruning, type checks, strategic merge
//! and OpenAPI all read.
//!
//! It is put together on first use from three sources under `data/`:
//! - `kubernetes-1.36-definitions.json`: names, types, references and merge facts of all fields;
//! - `encoding.txt` (generated): what Go's encoding adds to it, such as which fields are served even when empty;
//! - `overlay/*.toml`: unconditional defaults (see [`overlay`]).

mod conform;
mod defaults;
mod load;
pub mod overlay;
mod shape;

use std::collections::HashMap;
use std::sync::LazyLock;

pub(crate) use conform::{Misfit, canonical};
pub use conform::{Oddities, conform};
pub use shape::{Definition, DefinitionId, Field, Presence, Scalar, Shape};

use crate::object::Object;
use crate::resources::Resource;

/// All definitions.
#[derive(Debug)]
pub struct Schema {
    definitions: Vec<Definition>,
    by_name: HashMap<&'static str, DefinitionId>,
    by_kind: HashMap<(&'static str, &'static str, &'static str), DefinitionId>,
}

impl Schema {
    /// The definitions of the built-in kinds.
    pub fn builtin() -> &'static Schema {
        static SCHEMA: LazyLock<Schema> =
            LazyLock::new(|| load::load().expect("the files under data/ are checked by a test"));
        &SCHEMA
    }

    /// A definition.
    pub fn definition(&self, id: DefinitionId) -> &Definition {
        &self.definitions[id.0 as usize]
    }

    /// The definition of this name, such as `io.k8s.api.core.v1.Pod`.
    pub fn by_name(&self, name: &str) -> Option<DefinitionId> {
        self.by_name.get(name).copied()
    }

    /// The definition of a kind.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<DefinitionId> {
        self.by_kind.get(&(group, version, kind)).copied()
    }

    /// The definition of a resource's kind; `None` for custom resources.
    pub fn of(&self, resource: &Resource) -> Option<DefinitionId> {
        self.by_name(&resource.definition)
    }

    /// All definitions.
    pub fn iter(&self) -> impl Iterator<Item = &Definition> {
        self.definitions.iter()
    }
}

/// The name of a kind's definition.
pub fn definition_of(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    let schema = Schema::builtin();
    schema.by_kind(group, version, kind).map(|id| schema.definition(id).name)
}

/// Fills in what a client left out: the schema's unconditional defaults, then the kind's own. Idempotent.
pub fn apply_defaults(resource: &Resource, object: &mut Object) {
    let schema = Schema::builtin();
    if let Some(id) = schema.of(resource) {
        defaults::fill(schema, id, object);
    }
    crate::kinds::kind_of(&resource.group, &resource.kind).default(object);
}

/// Brings an object into the form in which upstream serves it: nulls and empty fields that Go leaves out go away, those
/// that it always writes appear, quantities and times are written canonically. What doesn't fit its type stays as it is.
pub fn normalize(resource: &Resource, object: &mut Object) {
    let schema = Schema::builtin();
    if let Some(id) = schema.of(resource) {
        conform(schema, id, object);
    }
}
