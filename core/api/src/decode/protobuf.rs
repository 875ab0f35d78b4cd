//! Bodies in the API's protobuf form, which kubectl and others send: turned into JSON, and from there on read like it.
//!
//! The form is `k8s\0` and a `runtime.Unknown` (upstream's `runtime/serializer/protobuf`). What its messages mean comes
//! from `data/protobuf.txt`, generated from the tags of upstream's types; a few types write themselves in their own way.
//! Answers are never in this form: who sends it reads JSON, too.

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::object::Object;
use crate::timestamp;

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Messages within messages; schemas of custom resources nest deepest.
const DEPTH_MAX: usize = 100;

const DATA: &str = include_str!("../../data/protobuf.txt");
const OPTIONS_PACKAGE: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Why a body can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// It doesn't begin with the form's four bytes.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Prefix,
    /// A message ends too early or holds what its type doesn't allow.
    #[error("the protobuf message is malformed: {0}")]
    Malformed(&'static str),
    /// Nobody knows the kind.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// Its version.
        api_version: String,
        /// Its name.
        kind: String,
    },
}

type Result<T> = std::result::Result<T, ProtobufError>;

/// How a field is encoded.
#[derive(Clone, Copy, Debug)]
enum Wire {
    Text,
    Bytes,
    Bool,
    Integer,
    Float,
    Message(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    One,
    List,
    Map,
    /// A map whose values are messages that hold a list.
    MapOfLists,
    /// A message that holds a list.
    Wrapped,
}

#[derive(Debug)]
struct Field {
    name: &'static str,
    zero_is_none: bool,
    shape: Shape,
    wire: Wire,
}

struct Tables {
    kinds: HashMap<(&'static str, &'static str), &'static str>,
    messages: HashMap<&'static str, HashMap<u64, Field>>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let mut tables = Tables { kinds: HashMap::new(), messages: HashMap::new() };
    for line in DATA.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let Some(name) = words.next() else { continue };
        if name == "=" {
            if let (Some(version), Some(kind), Some(definition)) = (words.next(), words.next(), words.next()) {
                tables.kinds.insert((version, kind), definition);
            }
            continue;
        }
        tables.messages.insert(name, words.filter_map(field).collect());
    }
    tables
});

fn field(word: &'static str) -> Option<(u64, Field)> {
    let mut parts = word.splitn(4, ':');
    let (name, number, flags, kind) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (shape, kind) = [
        ("{}()", Shape::MapOfLists),
        ("{}", Shape::Map),
        ("[]", Shape::List),
        ("()", Shape::Wrapped),
        ("", Shape::One),
    ]
    .into_iter()
    .find_map(|(prefix, shape)| Some((shape, kind.strip_prefix(prefix)?)))?;
    let wire = match kind {
        "s" => Wire::Text,
        "y" => Wire::Bytes,
        "b" => Wire::Bool,
        "i" => Wire::Integer,
        "f" => Wire::Float,
        message => Wire::Message(message.strip_prefix('m')?),
    };
    Some((number.parse().ok()?, Field { name, zero_is_none: flags.contains('z'), shape, wire }))
}

/// The object in a body.
pub fn decode(body: &[u8]) -> Result<Object> {
    let unknown = body.strip_prefix(MAGIC).ok_or(ProtobufError::Prefix)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for entry in Entries(unknown) {
        match entry? {
            (1, Item::Bytes(kind_and_version)) => {
                for entry in Entries(kind_and_version) {
                    match entry? {
                        (1, Item::Bytes(text)) => api_version = utf8(text)?,
                        (2, Item::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Item::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let options = format!("{OPTIONS_PACKAGE}{kind}");
    let definition = match TABLES.kinds.get(&(api_version.as_str(), kind.as_str())) {
        Some(definition) => definition,
        None if kind.ends_with("Options") && TABLES.messages.contains_key(options.as_str()) => options.as_str(),
        None => return Err(ProtobufError::UnknownKind { api_version, kind }),
    };
    let mut object = message(definition, raw, 0)?;
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), Value::from(api_version));
        map.insert("kind".to_owned(), Value::from(kind));
    }
    Ok(object)
}

/// A value on the wire.
enum Item<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

/// The fields of a message as they come: numbers and values.
struct Entries<'b>(&'b [u8]);

impl<'b> Entries<'b> {
    fn take(&mut self, bytes: usize) -> Result<&'b [u8]> {
        if bytes > self.0.len() {
            return Err(ProtobufError::Malformed("unexpected EOF"));
        }
        let (head, tail) = self.0.split_at(bytes);
        self.0 = tail;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Malformed("integer overflow"))
    }

    fn entry(&mut self) -> Result<(u64, Item<'b>)> {
        let tag = self.varint()?;
        let little_endian = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        let item = match tag & 7 {
            0 => Item::Number(self.varint()?),
            1 => Item::Number(little_endian(self.take(8)?)),
            2 => {
                let length =
                    usize::try_from(self.varint()?).map_err(|_| ProtobufError::Malformed("negative length"))?;
                Item::Bytes(self.take(length)?)
            }
            5 => Item::Number(little_endian(self.take(4)?)),
            _ => return Err(ProtobufError::Malformed("illegal wireType")),
        };
        Ok((tag >> 3, item))
    }
}

impl<'b> Iterator for Entries<'b> {
    type Item = Result<(u64, Item<'b>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let entry = self.entry();
        if entry.is_err() {
            self.0 = &[];
        }
        Some(entry)
    }
}

fn utf8(bytes: &[u8]) -> Result<String> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| ProtobufError::Malformed("a string is not UTF-8"))
}

fn parsed(bytes: &[u8]) -> Result<Value> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    if bytes.starts_with(MAGIC) {
        return decode(bytes);
    }
    serde_json::from_slice(bytes).map_err(|_| ProtobufError::Malformed("embedded JSON cannot be parsed"))
}

/// The numbers and byte strings of a message whose fields occur once.
fn simple(bytes: &[u8]) -> Result<([u64; 4], [&[u8]; 4])> {
    let (mut numbers, mut texts) = ([0; 4], [&[][..]; 4]);
    for entry in Entries(bytes) {
        match entry? {
            (at @ 0..4, Item::Number(number)) => numbers[at as usize] = number,
            (at @ 0..4, Item::Bytes(text)) => texts[at as usize] = text,
            _ => {}
        }
    }
    Ok((numbers, texts))
}

/// A message as JSON.
fn message(definition: &str, bytes: &[u8], depth: usize) -> Result<Value> {
    if depth > DEPTH_MAX {
        return Err(ProtobufError::Malformed("it nests too deep"));
    }
    if let Some(value) = special(definition, bytes, depth) {
        return value;
    }
    let Some(fields) = TABLES.messages.get(definition) else {
        return Err(ProtobufError::Malformed("it holds a message of unknown type"));
    };
    let mut map = Map::new();
    for entry in Entries(bytes) {
        let (number, item) = entry?;
        // Fields of later versions are dropped, as unknown ones in JSON are.
        let Some(field) = fields.get(&number) else { continue };
        insert(&mut map, field, item, depth)?;
    }
    for field in fields.values().filter(|field| field.zero_is_none) {
        if map.get(field.name).is_some_and(is_zero) {
            map.remove(field.name);
        }
    }
    Ok(Value::Object(map))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn insert(map: &mut Map<String, Value>, field: &Field, item: Item<'_>, depth: usize) -> Result<()> {
    match (field.shape, item) {
        (Shape::One, item) => {
            let value = one(field.wire, item, depth)?;
            match value {
                Value::Object(inner) if field.name == "@" => map.extend(inner),
                value => {
                    map.insert(field.name.to_owned(), value);
                }
            }
        }
        (Shape::List, Item::Bytes(packed)) if matches!(field.wire, Wire::Integer | Wire::Bool) => {
            let mut entries = Entries(packed);
            while !entries.0.is_empty() {
                let number = entries.varint()?;
                push(map, field.name, one(field.wire, Item::Number(number), depth)?);
            }
        }
        (Shape::List, item) => {
            let value = one(field.wire, item, depth)?;
            push(map, field.name, value);
        }
        (Shape::Wrapped, Item::Bytes(bytes)) => {
            let items = wrapped(field.wire, bytes, depth)?;
            map.insert(field.name.to_owned(), items);
        }
        (Shape::Map | Shape::MapOfLists, Item::Bytes(bytes)) => {
            let mut key = String::new();
            let mut value = None;
            for entry in Entries(bytes) {
                match entry? {
                    (1, Item::Bytes(text)) => key = utf8(text)?,
                    (2, Item::Bytes(bytes)) if field.shape == Shape::MapOfLists => {
                        value = Some(wrapped(field.wire, bytes, depth)?);
                    }
                    (2, item) => value = Some(one(field.wire, item, depth)?),
                    _ => {}
                }
            }
            let value = value.unwrap_or_else(|| match field.wire {
                Wire::Text | Wire::Bytes => Value::from(""),
                _ => Value::Null,
            });
            let entries = map.entry(field.name).or_insert_with(|| json!({}));
            if let Some(entries) = entries.as_object_mut() {
                entries.insert(key, value);
            }
        }
        (_, Item::Number(_)) => return Err(ProtobufError::Malformed("wrong wireType")),
    }
    Ok(())
}

fn push(map: &mut Map<String, Value>, name: &str, value: Value) {
    match map.get_mut(name) {
        Some(Value::Array(items)) => items.push(value),
        _ => {
            map.insert(name.to_owned(), json!([value]));
        }
    }
}

fn wrapped(wire: Wire, bytes: &[u8], depth: usize) -> Result<Value> {
    let mut items = Vec::new();
    for entry in Entries(bytes) {
        if let (1, item) = entry? {
            items.push(one(wire, item, depth)?);
        }
    }
    Ok(Value::Array(items))
}

fn one(wire: Wire, item: Item<'_>, depth: usize) -> Result<Value> {
    Ok(match (wire, item) {
        (Wire::Text, Item::Bytes(bytes)) => Value::from(utf8(bytes)?),
        (Wire::Bytes, Item::Bytes(bytes)) => Value::from(STANDARD.encode(bytes)),
        (Wire::Bool, Item::Number(number)) => Value::from(number != 0),
        (Wire::Integer, Item::Number(number)) => Value::from(number.cast_signed()),
        (Wire::Float, Item::Number(bits)) => json!(f64::from_bits(bits)),
        (Wire::Message(definition), Item::Bytes(bytes)) => message(definition, bytes, depth + 1)?,
        _ => return Err(ProtobufError::Malformed("wrong wireType")),
    })
}

/// Types that have a JSON form of their own.
fn special(definition: &str, bytes: &[u8], depth: usize) -> Option<Result<Value>> {
    const SCHEMA: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    let name = definition.rsplit('.').next().unwrap_or_default();
    let custom = match name {
        "Quantity" | "Time" | "MicroTime" | "IntOrString" | "RawExtension" | "FieldsV1" => {
            definition.starts_with("io.k8s.apimachinery.")
        }
        "JSON" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrStringArray" => true,
        _ => false,
    };
    if !custom {
        return None;
    }
    let value = || {
        let (numbers, texts) = simple(bytes)?;
        let repeated = |at: u64| {
            let chosen = Entries(bytes).filter_map(move |entry| match entry {
                Ok((number, Item::Bytes(bytes))) if number == at => Some(Ok(bytes)),
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            });
            chosen.collect::<Result<Vec<_>>>()
        };
        Ok(match name {
            "Quantity" => Value::from(utf8(texts[1])?),
            // The zero time is an empty message, and null in JSON.
            "Time" | "MicroTime" if bytes.is_empty() => Value::Null,
            "Time" | "MicroTime" => time(numbers[1].cast_signed(), numbers[2].cast_signed(), name == "MicroTime")?,
            "IntOrString" if numbers[1] == 0 => Value::from(numbers[2].cast_signed()),
            "IntOrString" => Value::from(utf8(texts[3])?),
            "RawExtension" | "FieldsV1" | "JSON" => parsed(texts[1])?,
            "JSONSchemaPropsOrBool" if texts[2].is_empty() => Value::from(numbers[1] != 0),
            "JSONSchemaPropsOrBool" => message(SCHEMA, texts[2], depth + 1)?,
            "JSONSchemaPropsOrStringArray" if texts[1].is_empty() => {
                Value::from(repeated(2)?.into_iter().map(utf8).collect::<Result<Vec<_>>>()?)
            }
            "JSONSchemaPropsOrArray" if texts[1].is_empty() => {
                let schemas = repeated(2)?.into_iter().map(|bytes| message(SCHEMA, bytes, depth + 1));
                Value::from(schemas.collect::<Result<Vec<_>>>()?)
            }
            _ => message(SCHEMA, texts[1], depth + 1)?,
        })
    };
    Some(value())
}

fn time(seconds: i64, nanoseconds: i64, micro: bool) -> Result<Value> {
    let nanoseconds = i32::try_from(nanoseconds).unwrap_or_default();
    let time = Timestamp::new(seconds, if micro { nanoseconds } else { 0 })
        .map_err(|_| ProtobufError::Malformed("a time is out of range"))?;
    Ok(Value::from(if micro { timestamp::format_micro(time) } else { timestamp::format(time) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes length-delimited fields and numbers.
    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).expect("short")];
        out.extend_from_slice(content);
        out
    }

    fn number(number: u8, value: u8) -> Vec<u8> {
        vec![number << 3, value]
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes(1, &meta), bytes(2, raw), bytes(3, b""), bytes(4, b"")].concat()
    }

    #[test]
    fn a_config_map() {
        let labels = [bytes(1, b"a"), bytes(2, b"b")].concat();
        let metadata =
            [bytes(1, b"n"), bytes(2, b""), bytes(3, b"ns"), number(7, 0), bytes(8, b""), bytes(11, &labels)].concat();
        let data = [bytes(1, b"k"), bytes(2, b"v")].concat();
        let binary = [bytes(1, b"x"), bytes(2, &[0, 255])].concat();
        let raw = [bytes(1, &metadata), bytes(2, &data), bytes(3, &binary), number(4, 1)].concat();
        let expected = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "n", "namespace": "ns", "labels": {"a": "b"}},
            "data": {"k": "v"}, "binaryData": {"x": "AP8="}, "immutable": true,
        });
        assert_eq!(decode(&body("v1", "ConfigMap", &raw)), Ok(expected));
    }

    #[test]
    fn what_writes_itself_in_its_own_way() {
        let port = |target: &[u8]| [bytes(1, b""), number(3, 80), bytes(4, target)].concat();
        let spec = [
            bytes(1, &port(&[number(1, 0), number(2, 81), bytes(3, b"")].concat())),
            bytes(1, &port(&[number(1, 1), number(2, 0), bytes(3, b"web")].concat())),
        ];
        let service = body("v1", "Service", &bytes(2, &spec.concat()));
        let expected = json!({
            "apiVersion": "v1", "kind": "Service",
            "spec": {"ports": [{"port": 80, "targetPort": 81}, {"port": 80, "targetPort": "web"}]},
        });
        assert_eq!(decode(&service), Ok(expected));
        // A volume's source is a message of its own here, and its fields are the volume's in JSON.
        let volume = [bytes(1, b"v"), bytes(2, &bytes(2, &bytes(2, &bytes(1, b"1Gi"))))].concat();
        let pod = body("v1", "Pod", &bytes(2, &bytes(1, &volume)));
        let expected = json!({
            "apiVersion": "v1", "kind": "Pod",
            "spec": {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}], "containers": null},
        });
        let mut decoded = decode(&pod).expect("a pod");
        decoded["spec"]["containers"] = Value::Null;
        assert_eq!(decoded, expected);
        let lease =
            body("coordination.k8s.io/v1", "Lease", &bytes(2, &bytes(3, &[number(1, 1), number(2, 0)].concat())));
        assert_eq!(decode(&lease).expect("a lease")["spec"]["acquireTime"], "1970-01-01T00:00:01.000000Z");
    }

    #[test]
    fn options_are_served_under_every_version() {
        let options = body("apps/v1", "DeleteOptions", &number(1, 5));
        let expected = json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 5});
        assert_eq!(decode(&options), Ok(expected));
    }

    #[test]
    fn damage_is_an_error() {
        let good = body("v1", "ConfigMap", &bytes(1, &bytes(1, b"name")));
        assert!(decode(&good).is_ok());
        assert_eq!(decode(b"{}"), Err(ProtobufError::Prefix));
        for cut in 4..good.len() {
            // Where fields end the rest may be missing; nothing may panic.
            let _ = decode(&good[..cut]);
        }
        assert!(matches!(decode(&body("v1", "Nothing", b"")), Err(ProtobufError::UnknownKind { .. })));
        assert!(matches!(decode(&body("v1", "Pod", &number(2, 1))), Err(ProtobufError::Malformed(_))));
        assert!(matches!(decode(&body("v1", "Pod", &[0x12, 0xff])), Err(ProtobufError::Malformed(_))));
    }

    #[test]
    fn every_line_of_the_data_is_understood() {
        let tables = &*TABLES;
        for (name, fields) in &tables.messages {
            for field in fields.values() {
                if let Wire::Message(inner) = field.wire {
                    assert!(tables.messages.contains_key(inner), "{name}: {} is a {inner}", field.name);
                }
            }
        }
        let fields: usize = tables.messages.values().map(HashMap::len).sum();
        let words: usize =
            DATA.lines().filter(|line| line.starts_with("io.")).map(|line| line.split(' ').count() - 1).sum();
        assert_eq!(fields, words);
        assert_eq!(tables.kinds.get(&("v1", "Pod")), Some(&"io.k8s.api.core.v1.Pod"));
    }
}
