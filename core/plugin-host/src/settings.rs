//! Settings of plugins and their schema: JSON Schema's keywords for shapes, and none of its logic. A schema that uses
//! another keyword is refused, so that none is silently ignored.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// Deepest nesting of a schema.
const DEPTH_MAX: usize = 16;

/// JSON's types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    String,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// `true` or `false`.
    Boolean,
}

/// The shape of a value.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Schema {
    /// Its type; at the top always an object.
    #[serde(rename = "type")]
    pub kind: Option<Type>,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// What is taken when it is missing.
    pub default: Option<Value>,
    /// Fields of an object.
    #[serde(default)]
    pub properties: BTreeMap<String, Schema>,
    /// Fields that must be there.
    #[serde(default)]
    pub required: Vec<String>,
    /// Shape of an object's other fields; without it there are none.
    pub additional_properties: Option<Box<Schema>>,
    /// Shape of a list's elements.
    pub items: Option<Box<Schema>>,
    /// Fewest elements.
    pub min_items: Option<usize>,
    /// Most elements.
    pub max_items: Option<usize>,
    /// The values that it may have.
    #[serde(rename = "enum", default)]
    pub values: Vec<Value>,
    /// Smallest number.
    pub minimum: Option<f64>,
    /// Largest number.
    pub maximum: Option<f64>,
    /// Fewest characters.
    pub min_length: Option<usize>,
    /// Most characters.
    pub max_length: Option<usize>,
}

impl Schema {
    /// Checks that the schema makes sense as the schema of settings.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !matches!(self.kind, None | Some(Type::Object)) {
            return Err("settings are an object".into());
        }
        self.check_below("settings", 0)
    }

    fn check_below(&self, place: &str, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err(format!("{place}: more than {DEPTH_MAX} levels"));
        }
        for name in &self.required {
            if !self.properties.contains_key(name) {
                return Err(format!("{place}: {name:?} is required and not among the properties"));
            }
        }
        if let Some(default) = &self.default {
            let mut value = default.clone();
            self.apply(&mut value, place).map_err(|reason| format!("the default does not fit: {reason}"))?;
        }
        for (name, schema) in &self.properties {
            schema.check_below(&format!("{place}.{name}"), depth + 1)?;
        }
        for schema in self.items.iter().chain(&self.additional_properties) {
            schema.check_below(&format!("{place}[]"), depth + 1)?;
        }
        Ok(())
    }

    /// Reads settings, checks them and fills the defaults in; the answer is the JSON text for the plugin.
    /// An empty text counts as no settings.
    pub fn complete(&self, settings: &str) -> Result<String, String> {
        let mut value = match settings.trim() {
            "" | "null" => Value::Object(Map::new()),
            text => serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?,
        };
        if !value.is_object() {
            return Err("not a JSON object".into());
        }
        self.apply(&mut value, "")?;
        Ok(value.to_string())
    }

    fn apply(&self, value: &mut Value, place: &str) -> Result<(), String> {
        let shown = if place.is_empty() { "settings" } else { place };
        if let Some(kind) = self.kind
            && !fits(kind, value)
        {
            return Err(format!("{shown}: {} expected, not {value}", name_of(kind)));
        }
        if !self.values.is_empty() && !self.values.contains(value) {
            let among: Vec<String> = self.values.iter().map(Value::to_string).collect();
            return Err(format!("{shown}: {value} is none of {}", among.join(", ")));
        }
        match value {
            Value::Object(fields) => self.apply_fields(fields, place, shown),
            Value::Array(elements) => {
                within(elements.len(), self.min_items, self.max_items)
                    .map_err(|limit| format!("{shown}: {} elements, {limit} expected", elements.len()))?;
                for (index, element) in elements.iter_mut().enumerate() {
                    if let Some(schema) = &self.items {
                        schema.apply(element, &format!("{shown}[{index}]"))?;
                    }
                }
                Ok(())
            }
            Value::String(text) => {
                let length = text.chars().count();
                within(length, self.min_length, self.max_length)
                    .map_err(|limit| format!("{shown}: {length} characters, {limit} expected"))
            }
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or(f64::NAN);
                within(number, self.minimum, self.maximum)
                    .map_err(|limit| format!("{shown}: {number}, {limit} expected"))
            }
            Value::Bool(_) | Value::Null => Ok(()),
        }
    }

    fn apply_fields(&self, fields: &mut Map<String, Value>, place: &str, shown: &str) -> Result<(), String> {
        let below = |name: &str| if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
        for (name, schema) in &self.properties {
            match fields.get_mut(name) {
                Some(value) => schema.apply(value, &below(name))?,
                None => {
                    if let Some(mut default) = schema.default.clone() {
                        schema.apply(&mut default, &below(name))?;
                        fields.insert(name.clone(), default);
                    } else if self.required.contains(name) {
                        return Err(format!("{shown}: {name:?} is missing"));
                    }
                }
            }
        }
        for (name, value) in fields.iter_mut() {
            if self.properties.contains_key(name) {
                continue;
            }
            match &self.additional_properties {
                Some(schema) => schema.apply(value, &below(name))?,
                None => return Err(format!("{shown}: there is no {name:?}")),
            }
        }
        Ok(())
    }
}

fn fits(kind: Type, value: &Value) -> bool {
    match kind {
        Type::Object => value.is_object(),
        Type::Array => value.is_array(),
        Type::String => value.is_string(),
        Type::Integer => value.is_i64() || value.is_u64(),
        Type::Number => value.is_number(),
        Type::Boolean => value.is_boolean(),
    }
}

fn name_of(kind: Type) -> &'static str {
    match kind {
        Type::Object => "an object",
        Type::Array => "a list",
        Type::String => "a string",
        Type::Integer => "a whole number",
        Type::Number => "a number",
        Type::Boolean => "true or false",
    }
}

fn within<T: PartialOrd + std::fmt::Display>(value: T, minimum: Option<T>, maximum: Option<T>) -> Result<(), String> {
    match (minimum, maximum) {
        (Some(minimum), _) if value < minimum => Err(format!("at least {minimum}")),
        (_, Some(maximum)) if value > maximum => Err(format!("at most {maximum}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r#"
        required = ["mode"]
        [properties.mode]
        type = "string"
        enum = ["fast", "safe"]
        [properties.depth]
        type = "integer"
        default = 3
        minimum = 1
        maximum = 9
        [properties.weights]
        type = "object"
        additionalProperties = { type = "number", minimum = 0 }
        [properties.shape]
        type = "array"
        minItems = 2
        items = { type = "object", required = ["x"], properties = { x = { type = "number" } } }
    "#;

    #[test]
    fn settings_are_checked_and_completed() {
        let schema: Schema = toml::from_str(SCHEMA).unwrap();
        schema.check().unwrap();
        for (settings, expect) in [
            (r#"{"mode":"fast"}"#, Ok(r#"{"depth":3,"mode":"fast"}"#)),
            (
                r#"{"mode":"safe","depth":9,"weights":{"cpu":0.5}}"#,
                Ok(r#"{"depth":9,"mode":"safe","weights":{"cpu":0.5}}"#),
            ),
            ("", Err("settings: \"mode\" is missing")),
            ("[]", Err("not a JSON object")),
            (r#"{"mode":"slow"}"#, Err(r#"mode: "slow" is none of "fast", "safe""#)),
            (r#"{"mode":"fast","depth":0}"#, Err("depth: 0, at least 1 expected")),
            (r#"{"mode":"fast","depth":2.5}"#, Err("depth: a whole number expected, not 2.5")),
            (r#"{"mode":"fast","weights":{"cpu":-1}}"#, Err("weights.cpu: -1, at least 0 expected")),
            (r#"{"mode":"fast","shape":[{"x":1}]}"#, Err("shape: 1 elements, at least 2 expected")),
            (r#"{"mode":"fast","shape":[{"x":1},{}]}"#, Err("shape[1]: \"x\" is missing")),
            (r#"{"mode":"fast","colour":1}"#, Err("settings: there is no \"colour\"")),
        ] {
            assert_eq!(schema.complete(settings), expect.map(str::to_owned).map_err(str::to_owned), "{settings}");
        }
    }

    #[test]
    fn a_schema_that_makes_no_sense_is_refused() {
        for (text, expect) in [
            ("type = \"string\"", "settings are an object"),
            ("required = [\"a\"]", "\"a\" is required"),
            ("[properties.a]\ntype = \"integer\"\ndefault = \"x\"", "the default does not fit"),
        ] {
            let schema: Schema = toml::from_str(text).unwrap();
            assert!(schema.check().unwrap_err().contains(expect), "{text}");
        }
        assert!(toml::from_str::<Schema>("allOf = []").is_err());
    }
}
