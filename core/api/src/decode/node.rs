//! JSON and YAML read into a tree that keeps the order of fields and those that stand twice, for telling what is wrong; and
//! the quick way into a plain value that only notices that a field stands twice.

use std::cell::Cell;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// A document's value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    /// Fields in order, with repetitions.
    Fields(Vec<(String, Node)>),
    /// A list.
    Items(Vec<Node>),
    /// Anything else.
    Leaf(Value),
}

impl Node {
    pub(super) fn from_json(body: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(body)
            .map_err(|error| super::gojson::syntax_error(body).unwrap_or_else(|| error.to_string()))
    }

    pub(super) fn from_yaml(body: &[u8]) -> Result<Self, String> {
        serde_yaml_ng::from_slice(body).map_err(|error| format!("yaml: {error}"))
    }

    pub(super) fn into_value(self) -> Value {
        match self {
            Self::Fields(fields) => {
                Value::Object(fields.into_iter().map(|(key, node)| (key, node.into_value())).collect())
            }
            Self::Items(items) => Value::Array(items.into_iter().map(Self::into_value).collect()),
            Self::Leaf(value) => value,
        }
    }
}

impl From<&Value> for Node {
    fn from(value: &Value) -> Self {
        match value {
            Value::Object(map) => {
                Self::Fields(map.iter().map(|(key, value)| (key.clone(), Self::from(value))).collect())
            }
            Value::Array(items) => Self::Items(items.iter().map(Self::from).collect()),
            other => Self::Leaf(other.clone()),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;
        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a value")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Leaf(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Leaf(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Leaf(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Leaf(Number::from_f64(value).map_or(Value::Null, Value::Number)))
            }

            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Leaf(value.into()))
            }

            fn visit_string<E>(self, value: String) -> Result<Node, E> {
                Ok(Node::Leaf(value.into()))
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Leaf(Value::Null))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = access.next_element()? {
                    items.push(item);
                }
                Ok(Node::Items(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
                let mut fields = Vec::new();
                while let Some((key, value)) = access.next_entry::<Node, Node>()? {
                    // YAML's keys may be numbers or booleans; they count as the text they were written as.
                    let key = match key {
                        Node::Leaf(Value::String(text)) => text,
                        Node::Leaf(other) => other.to_string(),
                        _ => return Err(serde::de::Error::custom("a key must be a scalar")),
                    };
                    fields.push((key, value));
                }
                Ok(Node::Fields(fields))
            }
        }
        deserializer.deserialize_any(NodeVisitor)
    }
}

/// Reads JSON into a value, the last of repeated fields winning; says whether there were any.
pub(super) fn parse_json(body: &[u8]) -> Result<(Value, bool), serde_json::Error> {
    let repeated = Cell::new(false);
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = Quick(&repeated).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, repeated.get()))
}

#[derive(Clone, Copy)]
struct Quick<'a>(&'a Cell<bool>);

impl<'de> DeserializeSeed<'de> for Quick<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Quick<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let value = access.next_value_seed(self)?;
            if map.insert(key, value).is_some() {
                self.0.set(true);
            }
        }
        Ok(Value::Object(map))
    }
}
