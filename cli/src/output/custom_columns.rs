//! `-o custom-columns=NAME:.metadata.name,…`.

use serde_json::Value;

use super::jsonpath::{Template, show};
use super::table::Table;
use crate::error::{CliError, CliResult};

/// Headers and expressions.
#[derive(Clone, Debug, PartialEq)]
pub struct CustomColumns {
    columns: Vec<(String, Template)>,
}

impl CustomColumns {
    /// Reads `HEADER:EXPRESSION,…`.
    pub fn parse(spec: &str) -> CliResult<Self> {
        let columns = spec.split(',').map(|part| {
            let (header, expression) = part.split_once(':').ok_or_else(|| {
                CliError::usage(format!("unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>"))
            })?;
            Ok((header.to_owned(), Template::parse(&relaxed(expression))?))
        });
        Ok(Self { columns: columns.collect::<CliResult<_>>()? })
    }

    /// Reads a file of two lines: headers and expressions.
    pub fn parse_file(text: &str) -> CliResult<Self> {
        let mut lines = text.lines();
        let headers: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
        let expressions: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
        if headers.is_empty() || headers.len() != expressions.len() {
            return Err(CliError::usage(format!(
                "number of headers ({}) and field specifications ({}) don't match",
                headers.len(),
                expressions.len()
            )));
        }
        let columns = headers.iter().zip(expressions);
        let columns = columns.map(|(header, path)| Ok(((*header).to_owned(), Template::parse(&relaxed(path))?)));
        Ok(Self { columns: columns.collect::<CliResult<_>>()? })
    }

    /// The table of an object or of a list's items.
    pub fn render(&self, object: &Value) -> String {
        let mut table = Table::new(self.columns.iter().map(|(header, _)| header.clone()));
        let items = match object["items"].as_array() {
            Some(items) => items.iter().collect(),
            None => vec![object],
        };
        for item in items {
            table.row(self.columns.iter().map(|(_, template)| {
                let values: Vec<String> = template.find(item).into_iter().map(shown).collect();
                if values.is_empty() { "<none>".to_owned() } else { values.join(",") }
            }));
        }
        table.render(true)
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        // As Go prints maps and lists.
        Value::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", shown(value))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        other => show(other),
    }
}

fn relaxed(expression: &str) -> String {
    let inner = expression.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(expression);
    if inner.starts_with(['.', '[', '$']) { format!("{{{inner}}}") } else { format!("{{.{inner}}}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_ones_own() {
        let list = json!({"items": [
            {"metadata": {"name": "a", "labels": {"x": "1"}}, "spec": {"images": ["p", "q"]}},
            {"metadata": {"name": "b"}, "spec": {}}]});
        let columns =
            CustomColumns::parse("NAME:.metadata.name,IMAGES:.spec.images[*],L:metadata.labels").expect("columns");
        assert_eq!(columns.render(&list), "NAME   IMAGES   L\na      p,q      map[x:1]\nb      <none>   <none>\n");
        assert!(CustomColumns::parse("NAME").is_err());
    }
}
