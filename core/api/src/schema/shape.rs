//! What the schema says of a definition and of a field.

use serde_json::Value;

/// Index of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DefinitionId(pub(super) u16);

/// A struct of the API.
#[derive(Debug)]
pub struct Definition {
    /// `io.k8s.api.core.v1.Pod`.
    pub name: &'static str,
    /// The Go type that decoding errors name, such as `v1.Pod`; empty when unknown.
    pub go_type: &'static str,
    /// The fields, sorted by name.
    pub fields: Vec<Field>,
    /// Whether strategic merge and apply replace it as a whole.
    pub atomic: bool,
    /// Unconditional defaults: index into `fields` and the value.
    pub defaults: Vec<(u16, Value)>,
    /// Whether it or anything below it has defaults: what has none isn't walked.
    pub defaults_below: bool,
    /// Indices of the fields that are served even when they were left out.
    pub fills: Vec<u16>,
    /// What it is when it isn't a struct (Quantity, Time, …).
    pub scalar: Option<Scalar>,
    /// Group, version and kind, for kinds.
    pub kinds: Vec<(&'static str, &'static str, &'static str)>,
}

impl Definition {
    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|field| field.name.cmp(name)).ok().map(|index| &self.fields[index])
    }

    /// The last part of the Go type: `DeploymentSpec`.
    pub fn go_name(&self) -> &'static str {
        self.go_type.rsplit('.').next().unwrap_or_default()
    }
}

/// How a field's presence in Go relates to its presence in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// A value with `omitempty`: an empty one counts as absent and isn't served.
    Value,
    /// A pointer with `omitempty`: an empty one is kept; only null counts as absent.
    Pointer,
    /// Always served; when absent, as the type's zero value (null for lists, maps and pointers).
    Always,
    /// A struct by value, served as `{}` (or its always-served fields) when absent; times as null.
    Struct,
}

/// One field of a definition.
#[derive(Debug)]
pub struct Field {
    /// Its JSON name.
    pub name: &'static str,
    /// Its type.
    pub shape: Shape,
    /// Whether OpenAPI lists it as required.
    pub required: bool,
    /// When it is served.
    pub presence: Presence,
    /// Whether Go holds it by pointer, so that null and an empty value differ.
    pub pointer: bool,
    /// The Go type that decoding errors name; empty when unknown.
    pub go_type: &'static str,
    /// The embedded Go structs that it comes out of, as decoding errors put them into the path: `VolumeSource`.
    pub embedded: &'static str,
    /// `x-kubernetes-patch-strategy` has `merge`.
    pub patch_merge: bool,
    /// `x-kubernetes-patch-strategy` has `retainKeys`.
    pub retain_keys: bool,
    /// `x-kubernetes-patch-merge-key`.
    pub merge_key: Option<&'static str>,
    /// `x-kubernetes-list-type`: atomic, set or map.
    pub list_type: Option<&'static str>,
    /// `x-kubernetes-list-map-keys`.
    pub list_map_keys: Vec<&'static str>,
    /// `x-kubernetes-map-type: atomic`, on the field.
    pub map_atomic: bool,
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Anything that isn't walked into.
    Scalar(Scalar),
    /// A definition with fields.
    Struct(DefinitionId),
    /// A list of one type.
    List(Box<Shape>),
    /// A map from strings to one type.
    Map(Box<Shape>),
}

/// A type without fields of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// Text.
    String,
    /// Base64.
    Bytes,
    /// true or false.
    Bool,
    /// 32 bit signed.
    Int32,
    /// 64 bit signed.
    Int64,
    /// 64 bit floating point.
    Double,
    /// `resource.Quantity`.
    Quantity,
    /// `metav1.Time`: RFC 3339, seconds.
    Time,
    /// `metav1.MicroTime`: RFC 3339, microseconds.
    MicroTime,
    /// `intstr.IntOrString`.
    IntOrString,
    /// Any JSON.
    Any,
}
