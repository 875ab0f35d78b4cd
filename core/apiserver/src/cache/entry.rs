//! An object as it lies in the store and in the cache: its encoded bytes and what selectors look at.
//!
//! The layout of the bytes is fixed: `{"kind":K,"apiVersion":V,"metadata":{` and then the rest, without a
//! resourceVersion. So a get, an item of a list and a watch event are the same bytes with another head.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;

/// What precedes the body of the metadata in every encoded object.
const METADATA: &str = "\"metadata\":{";

/// An object with what the read path needs.
#[derive(Debug)]
pub struct Entry {
    /// The key below the resource's prefix: `namespace/name` or `name`.
    pub key: Arc<str>,
    /// The bytes as stored.
    pub value: Bytes,
    /// The store's revision that wrote it.
    pub revision: i64,
    /// Where the `"metadata":{` starts.
    head_bytes: u32,
    /// The labels, sorted by key, and the selectable fields.
    pub index: Arc<Index>,
}

/// What selectors look at.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Labels, sorted by key.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// Selectable fields beside name and namespace.
    pub fields: Vec<(&'static str, Arc<str>)>,
}

impl Index {
    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.binary_search_by(|(k, _)| (**k).cmp(key)).ok().map(|at| &*self.labels[at].1)
    }

    /// The value of a selectable field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| &**value)
    }
}

/// Encodes an object for the store: type first, then metadata without resourceVersion, then the rest.
pub fn encode(object: &Value, kind: &str, api_version: &str) -> Result<Bytes, serde_json::Error> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"{\"kind\":");
    serde_json::to_writer(&mut out, kind)?;
    out.extend_from_slice(b",\"apiVersion\":");
    serde_json::to_writer(&mut out, api_version)?;
    out.extend_from_slice(b",\"metadata\":{");
    let mut first = true;
    for (key, value) in object.get("metadata").and_then(Value::as_object).into_iter().flatten() {
        if key == "resourceVersion" || value.is_null() {
            continue;
        }
        field(&mut out, &mut first, key, value)?;
    }
    out.push(b'}');
    first = false;
    for (key, value) in object.as_object().into_iter().flatten() {
        if matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            continue;
        }
        field(&mut out, &mut first, key, value)?;
    }
    out.push(b'}');
    Ok(Bytes::from(out))
}

fn field(out: &mut Vec<u8>, first: &mut bool, key: &str, value: &Value) -> Result<(), serde_json::Error> {
    if !*first {
        out.push(b',');
    }
    *first = false;
    serde_json::to_writer(&mut *out, key)?;
    out.push(b':');
    serde_json::to_writer(&mut *out, value)
}

/// Where `"metadata":{` starts in bytes that [`encode`] made, `None` for others.
pub fn head_of(value: &[u8]) -> Option<u32> {
    // Kind and apiVersion hold no quotes or braces, so the first occurrence within the head is the one.
    let window = &value[..value.len().min(512)];
    if !window.starts_with(b"{\"kind\":\"") {
        return None;
    }
    let at = window.windows(METADATA.len()).position(|part| part == METADATA.as_bytes())?;
    (window[at - 1] == b',').then_some(u32::try_from(at).ok()?)
}

impl Entry {
    /// An entry of bytes in the stored layout.
    pub fn new(key: Arc<str>, value: Bytes, revision: i64, index: Arc<Index>) -> Option<Self> {
        let head_bytes = head_of(&value)?;
        Some(Self { key, value, revision, head_bytes, index })
    }

    /// The namespace, empty for cluster scope.
    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.key.split_once('/').map_or(&*self.key, |(_, name)| name)
    }

    fn tail(&self) -> &[u8] {
        &self.value[self.head_bytes as usize + METADATA.len()..]
    }

    /// Appends the whole object with a resourceVersion spliced in.
    pub fn write_object(&self, out: &mut BytesMut, revision: i64) {
        out.reserve(self.value.len() + 48);
        out.put_slice(&self.value[..self.head_bytes as usize]);
        self.write_metadata_and_rest(out, revision);
    }

    /// Appends the object as an item of a typed list: without kind and apiVersion.
    pub fn write_item(&self, out: &mut BytesMut) {
        out.reserve(self.value.len() + 48);
        out.put_u8(b'{');
        self.write_metadata_and_rest(out, self.revision);
    }

    fn write_metadata_and_rest(&self, out: &mut BytesMut, revision: i64) {
        out.put_slice(METADATA.as_bytes());
        let tail = self.tail();
        // What a dry run made was never stored and has no version.
        if revision > 0 {
            out.put_slice(b"\"resourceVersion\":\"");
            put_decimal(out, revision);
            out.put_u8(b'"');
            if tail.first() != Some(&b'}') {
                out.put_u8(b',');
            }
        }
        out.put_slice(tail);
    }

    /// The object as JSON text with its resourceVersion.
    pub fn object_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.write_object(&mut out, self.revision);
        out.freeze()
    }

    /// The decoded object, with the given resourceVersion.
    pub fn decode_at(&self, revision: i64) -> Result<Value, serde_json::Error> {
        decode_stored(&self.value, revision)
    }

    /// The decoded object.
    pub fn decode(&self) -> Result<Value, serde_json::Error> {
        self.decode_at(self.revision)
    }
}

/// The object in stored bytes, with its resourceVersion.
pub fn decode_stored(value: &[u8], revision: i64) -> Result<Value, serde_json::Error> {
    let mut object: Value = serde_json::from_slice(value)?;
    if revision > 0 {
        gantry_api::object::map_mut(&mut object, "metadata")
            .insert("resourceVersion".to_owned(), Value::String(revision.to_string()));
    }
    Ok(object)
}

fn put_decimal(out: &mut BytesMut, number: i64) {
    use std::fmt::Write;
    // Writing to a growable buffer can't fail.
    let _ = write!(out, "{number}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bytes_are_spliced_not_serialised() {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"},
            "metadata": {"name": "a", "namespace": "n", "resourceVersion": "9"},
        });
        let value = encode(&object, "ConfigMap", "v1").expect("encodes");
        let entry = Entry::new("n/a".into(), value, 12, Arc::default()).expect("own layout");
        assert_eq!((entry.namespace(), entry.name()), ("n", "a"));
        assert_eq!(
            &*entry.object_bytes(),
            br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"12","name":"a","namespace":"n"},"data":{"a":"1"}}"#
        );
        let mut item = BytesMut::new();
        entry.write_item(&mut item);
        assert_eq!(&*item, br#"{"metadata":{"resourceVersion":"12","name":"a","namespace":"n"},"data":{"a":"1"}}"#);
        let mut expect = object;
        expect["metadata"]["resourceVersion"] = json!("12");
        assert_eq!(entry.decode().expect("decodes"), expect);
    }

    #[test]
    fn foreign_bytes_are_told_apart() {
        for value in [&b"k8s\0\n"[..], br#"{"apiVersion":"v1","kind":"X","metadata":{}}"#, b"{}", b""] {
            assert_eq!(head_of(value), None);
        }
    }
}
