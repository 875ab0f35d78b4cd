//! Objects as the rows that `kubectl get` prints: what a server answers to
//! `Accept: application/json;as=Table;v=v1;g=meta.k8s.io` (upstream's `pkg/printers/internalversion`).
//!
//! [`columns`] are data (`data/columns.toml`), [`row`] makes the cells that belong to them. Cells of columns with a
//! priority above 0 are always there: a client shows them in wide output only. Of a few kinds upstream gives more cells
//! than columns, and so does this. Custom resources aren't looked at here: their columns come from their definition.

pub mod age;
mod cells;
mod columns;
mod pods;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

pub use columns::Column;

use crate::object::{Object, str_at};
use crate::resources::Resource;

/// A row without its object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// One value a column: strings, whole numbers and booleans.
    pub cells: Vec<Value>,
    /// `Completed` conditions of pods that have ended, as in `TableRow.conditions`; empty (and then left out) for all else.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Value>,
}

/// The columns of a resource's table, serialised as `Table.columnDefinitions`. Name and creation time for kinds that
/// have no columns of their own.
pub fn columns(resource: &Resource) -> &'static [Column] {
    columns_of(&resource.group, &resource.kind)
}

/// The same by group and kind: for what a subresource answers with (`autoscaling`, `Scale`).
pub fn columns_of(group: &str, kind: &str) -> &'static [Column] {
    columns::of(group, kind)
}

/// The row of a resource's object. Ages are counted up to `now`; for a client that prints them later see [`age::since`].
pub fn row(resource: &Resource, object: &Object, now: Timestamp) -> Row {
    row_of(&resource.group, &resource.kind, object, now)
}

/// The same by group and kind.
pub fn row_of(group: &str, kind: &str, object: &Object, now: Timestamp) -> Row {
    let cells = match cells::maker(group, kind) {
        Some(make) => make(object, now),
        None => generic(object),
    };
    let conditions = if group.is_empty() && kind == "Pod" { pods::conditions(object) } else { Vec::new() };
    Row { cells, conditions }
}

/// Name and creation time.
fn generic(object: &Object) -> Vec<Value> {
    vec![json!(str_at(object, "metadata.name")), json!(str_at(object, "metadata.creationTimestamp"))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::ResourceTable;

    #[test]
    fn every_kind_has_cells_for_its_columns() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        for resource in ResourceTable::builtin().iter() {
            let columns = columns(resource);
            let row = row(resource, &json!({"metadata": {"name": "n"}}), now);
            // Upstream has forgotten the column of the age here.
            let forgotten = usize::from(resource.kind == "IPAddress");
            assert_eq!(row.cells.len(), columns.len() + forgotten, "{}", resource.qualified());
            assert!(columns.iter().any(|column| column.format == "name"), "{}", resource.qualified());
        }
    }

    #[test]
    fn what_has_no_printer_shows_name_and_creation() {
        let roles = ResourceTable::builtin().get("rbac.authorization.k8s.io", "v1", "roles").expect("a row");
        let names: Vec<&str> = columns(roles).iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["Name", "Created At"]);
        let role = json!({"metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"}});
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        assert_eq!(row(roles, &role, now).cells, [json!("r"), json!("2026-01-01T00:00:00Z")]);
    }
}
