//! Walks a document in its own order along the schema and tells what upstream's decoder would: the first value of a wrong
//! type, unknown fields, fields that stand twice.

use serde_json::Value;

use super::node::Node;
use crate::error::quoted;
use crate::schema::{Definition, DefinitionId, Field, Misfit, Scalar, Schema, Shape, canonical};

/// Upstream stops counting strict errors here.
const STRICT_ERRORS_MAX: usize = 100;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Why the document can't be decoded at all.
    pub fatal: Option<String>,
    /// Unknown and duplicate fields.
    pub strict: Vec<String>,
}

/// Go's word for a JSON value in its type errors.
pub(super) fn go_word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

pub(super) fn explain(schema: &Schema, id: DefinitionId, node: &Node) -> Findings {
    let mut walk = Walk { schema, findings: Findings::default(), place: Place::default() };
    let abort = walk.fields(schema.definition(id), node, schema.definition(id).go_type);
    if let Err(problem) = abort {
        walk.findings.fatal = Some(problem);
    }
    walk.findings
}

/// Fields that stand twice anywhere in a document without a schema.
pub(super) fn duplicates(node: &Node) -> Vec<String> {
    fn walk(node: &Node, path: &str, found: &mut Vec<String>) {
        match node {
            Node::Fields(fields) => {
                for (index, (key, value)) in fields.iter().enumerate() {
                    let path = join(path, key);
                    if fields[..index].iter().any(|(known, _)| known == key) {
                        add(found, format!("duplicate field {}", quoted(&path)));
                    }
                    walk(value, &path, found);
                }
            }
            Node::Items(items) => {
                items.iter().enumerate().for_each(|(index, item)| walk(item, &format!("{path}[{index}]"), found));
            }
            Node::Leaf(_) => {}
        }
    }
    let mut found = Vec::new();
    walk(node, "", &mut found);
    found
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn add(found: &mut Vec<String>, message: String) {
    if found.len() < STRICT_ERRORS_MAX && !found.contains(&message) {
        found.push(message);
    }
}

/// Where the walk is: Go names the innermost struct and the fields on the way, strict errors also keys and indices.
#[derive(Clone, Debug, Default)]
struct Place {
    go_struct: &'static str,
    go_fields: Vec<&'static str>,
    path: String,
}

struct Walk<'a> {
    schema: &'a Schema,
    findings: Findings,
    place: Place,
}

impl Walk<'_> {
    fn strict(&mut self, kind: &str, key: &str) {
        let message = format!("{kind} field {}", quoted(&join(&self.place.path, key)));
        add(&mut self.findings.strict, message);
    }

    /// Notes a type error, of which Go reports the first.
    fn mismatch(&mut self, word: &str, go_type: &str) {
        let message = self.mismatch_text(word, go_type);
        self.findings.fatal.get_or_insert(message);
    }

    fn mismatch_text(&self, word: &str, go_type: &str) -> String {
        if self.place.go_fields.is_empty() {
            return format!("json: cannot unmarshal {word} into Go value of type {go_type}");
        }
        let fields = self.place.go_fields.join(".");
        format!(
            "json: cannot unmarshal {word} into Go struct field {}.{fields} of type {go_type}",
            self.place.go_struct
        )
    }

    /// An error ends the walk at once: that of a value which reads itself.
    fn fields(&mut self, definition: &Definition, node: &Node, go_type: &str) -> Result<(), String> {
        let fields = match node {
            Node::Fields(fields) => fields,
            Node::Leaf(Value::Null) => return Ok(()),
            other => {
                self.mismatch(word_of(other), go_type);
                return Ok(());
            }
        };
        for (index, (key, value)) in fields.iter().enumerate() {
            let Some(field) = definition.field(key) else {
                self.strict("unknown", key);
                continue;
            };
            if fields[..index].iter().any(|(known, _)| known == key) {
                self.strict("duplicate", key);
            }
            let outer = self.place.clone();
            self.place.go_struct = definition.go_name();
            self.place.go_fields.extend(field.embedded.split(':').filter(|part| !part.is_empty()));
            self.place.go_fields.push(field.name);
            self.place.path = join(&outer.path, key);
            self.value(&field.shape, value, go_type_of(field))?;
            self.place = outer;
        }
        Ok(())
    }

    fn value(&mut self, shape: &Shape, node: &Node, go_type: &str) -> Result<(), String> {
        match (shape, node) {
            (Shape::Scalar(scalar), node) => self.scalar(*scalar, node, go_type),
            (_, Node::Leaf(Value::Null)) => Ok(()),
            (Shape::Struct(id), node) => self.fields(self.schema.definition(*id), node, go_type),
            (Shape::List(inner), Node::Items(items)) => {
                let element = go_type.strip_prefix("[]").unwrap_or(go_type);
                let path = self.place.path.clone();
                for (index, item) in items.iter().enumerate() {
                    self.place.path = format!("{path}[{index}]");
                    self.value(inner, item, element.trim_start_matches('*'))?;
                }
                self.place.path = path;
                Ok(())
            }
            (Shape::Map(inner), Node::Fields(fields)) => {
                let element = go_type.split_once(']').map_or(go_type, |(_, element)| element);
                let path = self.place.path.clone();
                for (index, (key, value)) in fields.iter().enumerate() {
                    if fields[..index].iter().any(|(known, _)| known == key) {
                        self.strict("duplicate", key);
                    }
                    self.place.path = join(&path, key);
                    self.value(inner, value, map_element(element))?;
                    self.place.path.clone_from(&path);
                }
                Ok(())
            }
            (_, node) => {
                self.mismatch(word_of(node), go_type);
                Ok(())
            }
        }
    }

    fn scalar(&mut self, scalar: Scalar, node: &Node, go_type: &str) -> Result<(), String> {
        let value = match node {
            Node::Leaf(Value::Null) => return Ok(()),
            Node::Leaf(value) => value.clone(),
            other => other.clone().into_value(),
        };
        match canonical(scalar, &value) {
            Ok(_) => Ok(()),
            Err(Misfit::Content(problem)) if scalar == Scalar::Bytes => {
                self.findings.fatal.get_or_insert(problem);
                Ok(())
            }
            Err(Misfit::Content(problem)) => Err(problem),
            Err(Misfit::Type) => {
                // A number that doesn't fit an integer is shown.
                let word = match (scalar, &value) {
                    (Scalar::Int32 | Scalar::Int64 | Scalar::IntOrString, Value::Number(number)) => {
                        format!("number {number}")
                    }
                    (_, value) => go_word(value).to_owned(),
                };
                match scalar {
                    // These read themselves, as an int32 or a string.
                    Scalar::IntOrString => Err(self.mismatch_text(&word, "int32")),
                    Scalar::Time | Scalar::MicroTime => Err(self.mismatch_text(&word, "string")),
                    _ => {
                        self.mismatch(&word, go_type);
                        Ok(())
                    }
                }
            }
        }
    }
}

/// A map's values may be named types or lists; aliases such as `v1.ResourceList` hide theirs, which then read themselves.
fn map_element(element: &str) -> &str {
    element.trim_start_matches('*')
}

fn word_of(node: &Node) -> &'static str {
    match node {
        Node::Fields(_) => "object",
        Node::Items(_) => "array",
        Node::Leaf(value) => go_word(value),
    }
}

fn go_type_of(field: &Field) -> &'static str {
    match (&field.shape, field.go_type) {
        (Shape::Scalar(scalar), "") => match scalar {
            Scalar::Bool => "bool",
            Scalar::Int32 => "int32",
            Scalar::Int64 => "int64",
            Scalar::Double => "float64",
            _ => "string",
        },
        (_, go_type) => go_type,
    }
}
