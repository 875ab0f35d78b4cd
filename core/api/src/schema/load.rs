//! Reads the files under `data/` into a [`Schema`].

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use super::shape::{Definition, DefinitionId, Field, Presence, Scalar, Shape};
use super::{Schema, overlay};

const DEFINITIONS: &str = include_str!("../../data/kubernetes-1.36-definitions.json");
const ENCODING: &str = include_str!("../../data/encoding.txt");
const REF_PREFIX: &str = "#/definitions/";

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    definitions: BTreeMap<&'a str, RawDefinition<'a>>,
}

#[derive(Deserialize)]
struct RawDefinition<'a> {
    #[serde(borrow, default)]
    properties: BTreeMap<&'a str, RawField<'a>>,
    #[serde(borrow, default)]
    required: Vec<&'a str>,
    #[serde(borrow, default, rename = "x-kubernetes-group-version-kind")]
    kinds: Vec<RawKind<'a>>,
    #[serde(borrow, default, rename = "x-kubernetes-map-type")]
    map_type: Option<&'a str>,
    #[serde(borrow, default)]
    r#type: Option<&'a str>,
    #[serde(borrow, default)]
    format: Option<&'a str>,
}

#[derive(Deserialize)]
struct RawKind<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
}

#[derive(Deserialize)]
struct RawField<'a> {
    #[serde(borrow, default, rename = "$ref")]
    reference: Option<&'a str>,
    #[serde(borrow, default)]
    r#type: Option<&'a str>,
    #[serde(borrow, default)]
    format: Option<&'a str>,
    #[serde(borrow, default)]
    items: Option<Box<RawField<'a>>>,
    #[serde(borrow, default, rename = "additionalProperties")]
    additional: Option<Box<RawField<'a>>>,
    #[serde(borrow, default, rename = "x-kubernetes-patch-strategy")]
    patch_strategy: Option<&'a str>,
    #[serde(borrow, default, rename = "x-kubernetes-patch-merge-key")]
    merge_key: Option<&'a str>,
    #[serde(borrow, default, rename = "x-kubernetes-list-type")]
    list_type: Option<&'a str>,
    #[serde(borrow, default, rename = "x-kubernetes-list-map-keys")]
    list_map_keys: Vec<&'a str>,
    #[serde(borrow, default, rename = "x-kubernetes-map-type")]
    map_type: Option<&'a str>,
}

/// Why the schema can't be put together: always a mistake in a file under `data/`.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("read data/kubernetes-1.36-definitions.json: {0}")]
    Definitions(#[from] serde_json::Error),
    #[error("read definition {definition}: reference to unknown {reference}")]
    Reference { definition: String, reference: String },
    #[error("read data/overlay/{file}: {problem}")]
    Overlay { file: &'static str, problem: String },
}

/// What `encoding.txt` says of a field.
struct Encoding {
    flags: &'static str,
    go_type: &'static str,
    embedded: &'static str,
}

struct TypeEncoding {
    go_type: &'static str,
    fields: HashMap<&'static str, Encoding>,
}

fn encodings() -> HashMap<&'static str, TypeEncoding> {
    ENCODING
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (name, go_type) = (words.next()?, words.next()?);
            let fields = words
                .filter_map(|word| {
                    let mut parts = word.splitn(4, ':');
                    let (name, flags, go_type) = (parts.next()?, parts.next()?, parts.next()?);
                    Some((name, Encoding { flags, go_type, embedded: parts.next().unwrap_or_default() }))
                })
                .collect();
            Some((name, TypeEncoding { go_type, fields }))
        })
        .collect()
}

pub(super) fn load() -> Result<Schema, LoadError> {
    let file: File<'static> = serde_json::from_str(DEFINITIONS)?;
    let by_name: HashMap<&'static str, DefinitionId> =
        file.definitions.keys().enumerate().map(|(index, name)| (*name, DefinitionId(index as u16))).collect();
    let scalars: HashMap<&'static str, Scalar> = file
        .definitions
        .iter()
        .filter_map(|(name, raw)| scalar_definition(name, raw).map(|scalar| (*name, scalar)))
        .collect();
    let encodings = encodings();
    let mut by_kind = HashMap::new();
    let mut definitions = Vec::with_capacity(file.definitions.len());
    for (name, raw) in file.definitions {
        let encoding = encodings.get(name);
        let mut fields = Vec::with_capacity(raw.properties.len());
        for (field_name, raw_field) in raw.properties {
            let shape = shape_of(name, &raw_field, &by_name, &scalars)?;
            let field_encoding = encoding.and_then(|encoding| encoding.fields.get(field_name));
            let required = raw.required.contains(&field_name);
            fields.push(field_of(field_name, raw_field, shape, required, field_encoding));
        }
        let kinds: Vec<_> = raw.kinds.iter().map(|kind| (kind.group, kind.version, kind.kind)).collect();
        for kind in &kinds {
            by_kind.insert(*kind, by_name[name]);
        }
        definitions.push(Definition {
            name,
            go_type: encoding.map_or("", |encoding| encoding.go_type),
            fills: (0u16..)
                .zip(&fields)
                .filter(|(_, field)| matches!(field.presence, Presence::Always | Presence::Struct))
                .map(|(index, _)| index)
                .collect(),
            fields,
            atomic: raw.map_type == Some("atomic"),
            defaults: Vec::new(),
            defaults_below: false,
            scalar: scalars.get(name).copied(),
            kinds,
        });
    }
    let mut schema = Schema { definitions, by_name, by_kind };
    overlay::apply(&mut schema)?;
    mark_defaults_below(&mut schema);
    Ok(schema)
}

fn field_of(
    name: &'static str,
    raw: RawField<'static>,
    shape: Shape,
    required: bool,
    encoding: Option<&Encoding>,
) -> Field {
    let flags = encoding.map_or("", |encoding| encoding.flags);
    let (pointer, always, by_value, omit_zero) =
        (flags.contains('p'), flags.contains('a'), flags.contains('s'), flags.contains('z'));
    let presence = match (always, pointer, by_value && !omit_zero) {
        (_, false, true) => Presence::Struct,
        (true, _, _) => Presence::Always,
        (false, true, _) => Presence::Pointer,
        (false, false, false) => Presence::Value,
    };
    let strategy = raw.patch_strategy.unwrap_or_default();
    Field {
        name,
        shape,
        required,
        presence,
        pointer,
        go_type: encoding.map_or("", |encoding| encoding.go_type),
        embedded: encoding.map_or("", |encoding| encoding.embedded),
        patch_merge: strategy.split(',').any(|word| word == "merge"),
        retain_keys: strategy.split(',').any(|word| word == "retainKeys"),
        merge_key: raw.merge_key,
        list_type: raw.list_type,
        list_map_keys: raw.list_map_keys,
        map_atomic: raw.map_type == Some("atomic"),
    }
}

fn scalar_definition(name: &str, raw: &RawDefinition<'_>) -> Option<Scalar> {
    match name {
        "io.k8s.apimachinery.pkg.api.resource.Quantity" => Some(Scalar::Quantity),
        "io.k8s.apimachinery.pkg.apis.meta.v1.Time" => Some(Scalar::Time),
        "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime" => Some(Scalar::MicroTime),
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => Some(Scalar::IntOrString),
        "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1" | "io.k8s.apimachinery.pkg.runtime.RawExtension" => {
            Some(Scalar::Any)
        }
        _ if raw.properties.is_empty() && raw.r#type.is_none() => Some(Scalar::Any),
        _ if raw.properties.is_empty() && raw.r#type != Some("object") => scalar_of(raw.r#type, raw.format),
        _ => None,
    }
}

fn scalar_of(kind: Option<&str>, format: Option<&str>) -> Option<Scalar> {
    Some(match (kind?, format) {
        ("string", Some("byte")) => Scalar::Bytes,
        ("string", _) => Scalar::String,
        ("boolean", _) => Scalar::Bool,
        ("integer", Some("int64")) => Scalar::Int64,
        ("integer", _) => Scalar::Int32,
        ("number", _) => Scalar::Double,
        _ => return None,
    })
}

fn shape_of(
    definition: &str,
    raw: &RawField<'_>,
    by_name: &HashMap<&'static str, DefinitionId>,
    scalars: &HashMap<&'static str, Scalar>,
) -> Result<Shape, LoadError> {
    if let Some(reference) = raw.reference {
        let name = reference.strip_prefix(REF_PREFIX).unwrap_or(reference);
        if let Some(scalar) = scalars.get(name) {
            return Ok(Shape::Scalar(*scalar));
        }
        return by_name.get(name).map(|id| Shape::Struct(*id)).ok_or_else(|| LoadError::Reference {
            definition: definition.to_owned(),
            reference: reference.to_owned(),
        });
    }
    if let Some(items) = &raw.items {
        return Ok(Shape::List(Box::new(shape_of(definition, items, by_name, scalars)?)));
    }
    if let Some(values) = &raw.additional {
        return Ok(Shape::Map(Box::new(shape_of(definition, values, by_name, scalars)?)));
    }
    Ok(Shape::Scalar(scalar_of(raw.r#type, raw.format).unwrap_or(Scalar::Any)))
}

/// Marks every definition below which a default can be found, by passing the mark up until nothing changes.
fn mark_defaults_below(schema: &mut Schema) {
    fn leads_to_defaults(shape: &Shape, definitions: &[Definition]) -> bool {
        match shape {
            Shape::Scalar(_) => false,
            Shape::Struct(id) => definitions[id.0 as usize].defaults_below,
            Shape::List(inner) | Shape::Map(inner) => leads_to_defaults(inner, definitions),
        }
    }
    loop {
        let marks: Vec<bool> = schema
            .definitions
            .iter()
            .map(|definition| {
                !definition.defaults.is_empty()
                    || definition.fields.iter().any(|field| leads_to_defaults(&field.shape, &schema.definitions))
            })
            .collect();
        let mut changed = false;
        for (definition, mark) in schema.definitions.iter_mut().zip(marks) {
            changed |= definition.defaults_below != mark;
            definition.defaults_below = mark;
        }
        if !changed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_under_data_fit_together() {
        let schema = load().expect("data/");
        let pod = schema.definition(schema.by_kind("", "v1", "Pod").expect("a pod"));
        assert_eq!((pod.name, pod.go_name()), ("io.k8s.api.core.v1.Pod", "Pod"));
        let spec = schema.definition(schema.by_name("io.k8s.api.core.v1.PodSpec").expect("a spec"));
        let containers = spec.field("containers").expect("containers");
        assert_eq!(
            (containers.merge_key, containers.patch_merge, containers.presence),
            (Some("name"), true, Presence::Always)
        );
        assert_eq!(spec.field("enableServiceLinks").map(|field| field.presence), Some(Presence::Pointer));
        assert_eq!(spec.field("hostNetwork").map(|field| field.presence), Some(Presence::Value));
        let volume = schema.definition(schema.by_name("io.k8s.api.core.v1.Volume").expect("a volume"));
        assert_eq!(volume.field("emptyDir").map(|field| field.embedded), Some("VolumeSource"));
        let meta =
            schema.definition(schema.by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("metadata"));
        assert_eq!(meta.field("creationTimestamp").map(|field| field.presence), Some(Presence::Value));
    }
}
