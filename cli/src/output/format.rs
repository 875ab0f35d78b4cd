//! `-o` and its values.

use std::path::Path;

use serde_json::{Value, json};

use super::custom_columns::CustomColumns;
use super::jsonpath::Template;
use super::yaml;
use crate::cluster::mapper::ResourceInfo;
use crate::error::{CliError, CliResult};

/// The flag.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct OutputFlags {
    /// Output format: json, yaml, name, wide, jsonpath=TEMPLATE, jsonpath-file=FILE, jsonpath-as-json=TEMPLATE, custom-columns=SPEC, custom-columns-file=FILE
    #[arg(short = 'o', long, value_name = "FORMAT")]
    pub output: Option<String>,
    /// If true, keep the managedFields when printing objects in JSON or YAML format
    #[arg(long)]
    pub show_managed_fields: bool,
}

/// How to print.
#[derive(Clone, Debug)]
pub enum OutputFormat {
    /// A table; with all columns when wide.
    Table {
        /// Whether columns of a lower priority are shown, too.
        wide: bool,
    },
    /// JSON, indented.
    Json,
    /// YAML.
    Yaml,
    /// `TYPE/NAME`.
    Name,
    /// kubectl's templates.
    JsonPath(Template),
    /// The same, its results as JSON.
    JsonPathAsJson(Template),
    /// A table of one's own.
    CustomColumns(CustomColumns),
}

impl OutputFlags {
    /// Reads the flag.
    pub fn format(&self) -> CliResult<OutputFormat> {
        let Some(text) = self.output.as_deref() else { return Ok(OutputFormat::Table { wide: false }) };
        let (kind, argument) = match text.split_once('=') {
            Some((kind, argument)) => (kind, Some(argument)),
            None => (text, None),
        };
        let needed = || {
            argument
                .filter(|argument| !argument.is_empty())
                .ok_or_else(|| CliError::usage("template format specified but no template given"))
        };
        Ok(match kind {
            "" => OutputFormat::Table { wide: false },
            "wide" => OutputFormat::Table { wide: true },
            "json" => OutputFormat::Json,
            "yaml" => OutputFormat::Yaml,
            "name" => OutputFormat::Name,
            "jsonpath" => OutputFormat::JsonPath(Template::parse(needed()?)?),
            "jsonpath-file" => OutputFormat::JsonPath(Template::parse(&read(needed()?)?)?),
            "jsonpath-as-json" => OutputFormat::JsonPathAsJson(Template::parse(needed()?)?),
            "custom-columns" => {
                let spec = argument
                    .filter(|spec| !spec.is_empty())
                    .ok_or_else(|| CliError::usage("custom-columns format specified but no custom columns given"))?;
                OutputFormat::CustomColumns(CustomColumns::parse(spec)?)
            }
            "custom-columns-file" => OutputFormat::CustomColumns(CustomColumns::parse_file(&read(needed()?)?)?),
            _ => {
                return Err(CliError::usage(format!(
                    "unable to match a printer suitable for the output format \"{text}\", allowed formats are: \
                     custom-columns,custom-columns-file,json,jsonpath,jsonpath-as-json,jsonpath-file,name,wide,yaml"
                )));
            }
        })
    }
}

fn read(path: &str) -> CliResult<String> {
    std::fs::read_to_string(Path::new(path))
        .map_err(|error| CliError::usage(format!("error reading template {path}, {error}")))
}

impl OutputFormat {
    /// Whether tables are printed, which the server makes.
    pub fn is_table(&self) -> bool {
        matches!(self, Self::Table { .. })
    }

    /// The text of one object or list; tables are somebody else's business and come out as names.
    pub fn render(&self, resource: Option<&ResourceInfo>, object: &Value) -> CliResult<String> {
        Ok(match self {
            Self::Json => format!("{}\n", go_json(object)),
            Self::Yaml => yaml::render(object),
            Self::Name | Self::Table { .. } => {
                let items = match object["items"].as_array() {
                    Some(items) => items.iter().collect(),
                    None => vec![object],
                };
                items.into_iter().map(|item| format!("{}\n", name_of(resource, item))).collect()
            }
            Self::JsonPath(template) => template.render(object)?,
            Self::JsonPathAsJson(template) => format!("{}\n", go_json(&Value::Array(template.values(object)?))),
            Self::CustomColumns(columns) => columns.render(object),
        })
    }
}

/// `pod/web`, `deployment.apps/web`.
pub fn name_of(resource: Option<&ResourceInfo>, object: &Value) -> String {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    match resource {
        Some(resource) => format!("{}/{name}", resource.shown()),
        None => {
            let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
            let group =
                object["apiVersion"].as_str().and_then(|version| version.split_once('/')).map(|(group, _)| group);
            match group {
                Some(group) => format!("{kind}.{group}/{name}"),
                None => format!("{kind}/{name}"),
            }
        }
    }
}

/// JSON as Go's encoder indents it: four spaces, empty lists and maps on one line.
pub fn go_json(value: &Value) -> String {
    use serde::Serialize;
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    // Writing a value into memory can't fail.
    let _ = value.serialize(&mut serializer);
    String::from_utf8_lossy(&bytes).replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

/// Takes `metadata.managedFields` out, of a list's items as well.
pub fn strip_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        strip_managed_fields(item);
    }
}

/// Several objects as one list, as kubectl makes it of what it got from several requests.
pub fn list_of(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_fields_go_and_nothing_comes() {
        let mut object = json!({"metadata": {"name": "a", "managedFields": []}});
        strip_managed_fields(&mut object);
        assert_eq!(object, json!({"metadata": {"name": "a"}}));
        let mut list = json!({"items": [{"metadata": {"managedFields": []}}]});
        strip_managed_fields(&mut list);
        assert_eq!(list, json!({"items": [{"metadata": {}}]}));
    }
}
