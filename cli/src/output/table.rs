//! kubectl's tables: columns of text, three spaces apart, no lines. comfy-table computes the widths.

use comfy_table::Table as Layout;
use serde_json::Value;

/// Rows of text under headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    headers: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headers.
    pub fn new<S: Into<String>>(headers: impl IntoIterator<Item = S>) -> Self {
        Self { headers: headers.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The same with another column in front, the same in every row.
    pub fn with_first_column(&self, header: &str, cell: &str) -> Self {
        let prepend =
            |first: &str, rest: &[String]| std::iter::once(first.to_owned()).chain(rest.iter().cloned()).collect();
        Self { headers: prepend(header, &self.headers), rows: self.rows.iter().map(|row| prepend(cell, row)).collect() }
    }

    /// The text, each line ended. A last column is as wide as its text.
    pub fn render(&self, with_headers: bool) -> String {
        self.render_widths(with_headers, &mut Vec::new())
    }

    /// The same with columns at least as wide as `widths`, which grow: rows of a watch stay in line.
    pub fn render_widths(&self, with_headers: bool, widths: &mut Vec<usize>) -> String {
        let lines: Vec<Vec<String>> = with_headers
            .then_some(&self.headers)
            .into_iter()
            .chain(&self.rows)
            .map(|line| line.iter().map(|cell| one_line(cell)).collect())
            .collect();
        let mut layout = Layout::new();
        for line in &lines {
            layout.add_row(line);
        }
        let content = layout.column_max_content_widths();
        widths.resize(content.len().max(widths.len()), 0);
        for (width, content) in widths.iter_mut().zip(content) {
            *width = (*width).max(usize::from(content));
        }
        let mut text = String::new();
        for line in &lines {
            let last = line.len().saturating_sub(1);
            for (index, cell) in line.iter().enumerate() {
                text.push_str(cell);
                // The last one isn't padded, as Go's tabwriter doesn't.
                if index < last {
                    text.extend(std::iter::repeat_n(' ', widths[index].saturating_sub(cell.chars().count()) + 3));
                }
            }
            text.push('\n');
        }
        text
    }
}

/// What would break the line is cut, as kubectl does.
fn one_line(cell: &str) -> String {
    match cell.find(['\n', '\r', '\u{c}']) {
        Some(end) => format!("{}...", &cell[..end]),
        None => cell.to_owned(),
    }
}

/// What to show of a table that the server made.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerTable<'a> {
    /// Columns of a lower priority, too.
    pub wide: bool,
    /// A first column with the namespace.
    pub with_namespace: bool,
    /// Names as `TYPE/NAME`.
    pub with_kind: Option<&'a str>,
    /// A last column with all labels.
    pub show_labels: bool,
    /// Columns for these labels.
    pub label_columns: &'a [String],
}

impl ServerTable<'_> {
    /// The rows of a `Table`.
    pub fn convert(&self, table: &Value) -> Table {
        let columns: Vec<(usize, &Value)> = table["columnDefinitions"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
            .filter(|(_, column)| self.wide || column["priority"].as_i64().unwrap_or_default() == 0)
            .collect();
        let mut headers: Vec<String> = Vec::new();
        if self.with_namespace {
            headers.push("NAMESPACE".to_owned());
        }
        headers.extend(columns.iter().map(|(_, column)| column["name"].as_str().unwrap_or_default().to_uppercase()));
        headers
            .extend(self.label_columns.iter().map(|label| label.rsplit('/').next().unwrap_or_default().to_uppercase()));
        if self.show_labels {
            headers.push("LABELS".to_owned());
        }
        let mut converted = Table::new(headers);
        for row in table["rows"].as_array().into_iter().flatten() {
            let metadata = &row["object"]["metadata"];
            let mut cells = Vec::new();
            if self.with_namespace {
                cells.push(metadata["namespace"].as_str().unwrap_or_default().to_owned());
            }
            for (position, (index, column)) in columns.iter().enumerate() {
                let text = cell(&row["cells"][*index]);
                let is_name = column["format"] == "name" || position == 0 && column["name"] == "Name";
                cells.push(match self.with_kind {
                    Some(kind) if is_name => format!("{kind}/{text}"),
                    _ => text,
                });
            }
            for label in self.label_columns {
                cells.push(metadata["labels"][label.as_str()].as_str().unwrap_or_default().to_owned());
            }
            if self.show_labels {
                cells.push(labels(&metadata["labels"]));
            }
            converted.row(cells);
        }
        converted
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `a=1,b=2`, or `<none>`.
pub fn labels(map: &Value) -> String {
    let pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_are_kubectls() {
        let table = json!({
            "columnDefinitions": [
                {"name": "Name", "format": "name", "priority": 0}, {"name": "Ready", "priority": 0},
                {"name": "IP", "priority": 1}],
            "rows": [
                {"cells": ["web-1", "1/1", "10.0.0.1"], "object": {"metadata": {"namespace": "ns", "labels": {"a": "1"}}}},
                {"cells": ["w", 0, null], "object": {"metadata": {"namespace": "default"}}}],
        });
        let plain = ServerTable::default().convert(&table).render(true);
        assert_eq!(plain, "NAME    READY\nweb-1   1/1\nw       0\n");
        let full = ServerTable {
            wide: true,
            with_namespace: true,
            with_kind: Some("pod"),
            show_labels: true,
            label_columns: &["example.com/a".to_owned()],
        };
        insta::assert_snapshot!(full.convert(&table).render(true), @r"
        NAMESPACE   NAME        READY   IP         A   LABELS
        ns          pod/web-1   1/1     10.0.0.1       a=1
        default     pod/w       0                      <none>
        ");
    }
}
