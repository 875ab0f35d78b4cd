//! The columns, from `data/columns.toml`.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::openapi::descriptions::Descriptions;

/// A column of a printed table; serialised it is a `TableColumnDefinition` of `meta.k8s.io/v1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Column {
    /// The heading.
    pub name: String,
    /// An OpenAPI type: `string`, `integer`, `boolean`, `date`.
    #[serde(rename = "type")]
    pub kind: String,
    /// An OpenAPI format: `name` for the column that names the object, else empty.
    pub format: String,
    /// What it shows, in words.
    pub description: String,
    /// 0 is always shown, above only where there is room (`-o wide`).
    pub priority: i32,
}

#[derive(Deserialize)]
struct Table {
    columns: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(rename = "type", default = "string")]
    kind: String,
    #[serde(default)]
    format: String,
    #[serde(default)]
    priority: i32,
    about: String,
}

fn string() -> String {
    "string".to_owned()
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

struct Columns {
    by_kind: HashMap<String, Vec<Column>>,
    generic: Vec<Column>,
}

fn load() -> Columns {
    let tables: HashMap<String, Table> =
        toml::from_str(include_str!("../../data/columns.toml")).expect("data/columns.toml is checked by a test");
    // Descriptions are large and only a few are printed: those are copied, the rest goes.
    let texts = Descriptions::load();
    let about = |about: String| match about.split_once('#') {
        Some((definition, field)) if definition.starts_with("io.k8s.") => {
            texts.of(definition, field).unwrap_or_default().to_owned()
        }
        _ => about,
    };
    let column = |entry: Entry| Column {
        name: entry.name,
        kind: entry.kind,
        format: entry.format,
        description: about(entry.about),
        priority: entry.priority,
    };
    let generic = [("Name", "string", "name", "name"), ("Created At", "date", "", "creationTimestamp")]
        .map(|(name, kind, format, field)| Column {
            name: name.to_owned(),
            kind: kind.to_owned(),
            format: format.to_owned(),
            description: texts.of(META, field).unwrap_or_default().to_owned(),
            priority: 0,
        })
        .to_vec();
    let by_kind = tables.into_iter().map(|(kind, table)| (kind, table.columns.into_iter().map(column).collect()));
    Columns { by_kind: by_kind.collect(), generic }
}

/// The columns of a kind. Events are printed alike in both of their groups.
pub(super) fn of(group: &str, kind: &str) -> &'static [Column] {
    static COLUMNS: LazyLock<Columns> = LazyLock::new(load);
    let group = if kind == "Event" { "" } else { group };
    COLUMNS.by_kind.get(&format!("{group}/{kind}")).unwrap_or(&COLUMNS.generic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_found() {
        let columns = load();
        for (kind, columns) in &columns.by_kind {
            for column in columns {
                // Upstream has none here either: it looks for it in the wrong place.
                let none = kind == "node.k8s.io/RuntimeClass" && column.name == "Handler";
                assert_eq!(column.description.is_empty(), none, "{kind} {}", column.name);
            }
        }
        assert!(columns.generic.iter().all(|column| !column.description.is_empty()));
    }

    #[test]
    fn a_column_is_served_as_upstream_does() {
        let column = &of("", "Secret")[1];
        insta::assert_json_snapshot!(column, @r###"
        {
          "name": "Type",
          "type": "string",
          "format": "",
          "description": "Used to facilitate programmatic handling of secret data. More info: https://kubernetes.io/docs/concepts/configuration/secret/#secret-types",
          "priority": 0
        }
        "###);
    }
}
