//! From a request's body to an object: JSON or YAML, of the right kind, pruned to the schema and in the form in which it
//! is stored. The common case parses once; only when something is odd is the body looked at again, in its own order, for
//! upstream's words (those of Go's `encoding/json` and `sigs.k8s.io/json`). [`protobuf`] turns that form into JSON.

mod explain;
mod gojson;
mod node;
pub mod protobuf;

use crate::error::{ApiError, quoted};
use crate::field::{FieldError, FieldPath};
use crate::object::{Object, map_mut};
use crate::resources::{Resource, Subresource, group_version, split_api_version};
use crate::schema::{DefinitionId, Oddities, Schema, conform};

use node::Node;

/// The form of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
}

impl MediaType {
    /// The form that a `Content-Type` names: JSON when there is none; `None` when it is another.
    pub fn from_content_type(header: Option<&str>) -> Option<Self> {
        let name = header.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        match name {
            "" | "application/json" => Some(Self::Json),
            "application/yaml" => Some(Self::Yaml),
            _ => None,
        }
    }
}

/// What to do with fields that the schema doesn't have, and with fields that stand twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them and say so in a warning: what upstream does unless it is asked otherwise.
    #[default]
    Warn,
    /// Refuse them.
    Strict,
}

impl FieldValidation {
    /// The value of the query parameter; `None` when it isn't one of the three.
    pub fn from_query(value: &str) -> Option<Self> {
        match value {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// The kind that a body must have.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// API group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Kind.
    pub kind: &'a str,
}

impl<'a> From<&'a Resource> for Expected<'a> {
    fn from(resource: &'a Resource) -> Self {
        Self { group: &resource.group, version: &resource.version, kind: &resource.kind }
    }
}

impl<'a> Expected<'a> {
    /// What a subresource takes.
    pub fn of_subresource(resource: &'a Resource, sub: &'a Subresource) -> Self {
        if sub.version.is_empty() {
            Self { group: &resource.group, version: &resource.version, kind: &sub.kind }
        } else {
            Self { group: &sub.group, version: &sub.version, kind: &sub.kind }
        }
    }

    /// `DeleteOptions`, which every group serves under its own version.
    pub fn delete_options() -> Self {
        Self { group: "", version: "v1", kind: "DeleteOptions" }
    }
}

/// An object from a body.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object, with `apiVersion` and `kind` set.
    pub object: Object,
    /// For the client: unknown and duplicate fields.
    pub warnings: Vec<String>,
}

/// Reads the body of a create or update.
pub fn decode(
    body: &[u8],
    media: MediaType,
    resource: &Resource,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    decode_as(body, media, Expected::from(resource), validation)
}

/// Reads a body of any kind in the schema.
pub fn decode_as(
    body: &[u8],
    media: MediaType,
    expected: Expected<'_>,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let schema = Schema::builtin();
    let (mut object, duplicates) = parse(body, media).map_err(|problem| unrecognized(expected, &problem, body))?;
    let found = kind_of(&object, expected).map_err(|problem| unrecognized(expected, &problem, body))?;
    let refused = |problem: &str| {
        let text = format!(
            "{} in version {} cannot be handled as a {}: {problem}",
            found.kind,
            quoted(&found.version),
            expected.kind
        );
        ApiError::bad_request(text)
    };
    let Some(id) = find_definition(schema, &found) else {
        let version = group_version(&found.group, &found.version);
        let problem = format!(
            "no kind {} is registered for version {} in scheme \"pkg/runtime/scheme.go:111\"",
            quoted(&found.kind),
            quoted(&version)
        );
        return Err(refused(&problem));
    };
    let Oddities { unknown_fields, wrong_types } = conform(schema, id, &mut object);
    let mut strict = Vec::new();
    if wrong_types || duplicates || (unknown_fields && validation != FieldValidation::Ignore) {
        let node = match media {
            MediaType::Json => Node::from_json(body),
            MediaType::Yaml => Node::from_yaml(body),
        };
        let node = node.map_err(|problem| unrecognized(expected, &problem, body))?;
        let findings = explain::explain(schema, id, &node);
        if let Some(problem) = findings.fatal {
            return Err(refused(&problem));
        }
        strict = findings.strict;
    }
    if found.kind != expected.kind {
        let problem = format!(
            "converting ({}) to ({}.{}): unknown conversion",
            schema.definition(id).go_type,
            internal_package(expected.group),
            expected.kind
        );
        return Err(refused(&problem));
    }
    let warnings = judge(strict, validation).map_err(|problem| refused(&problem))?;
    if (found.group.as_str(), found.version.as_str()) != (expected.group, expected.version)
        && expected.kind != "DeleteOptions"
    {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            group_version(&found.group, &found.version),
            group_version(expected.group, expected.version)
        )));
    }
    name_kind(&mut object, expected);
    Ok(Decoded { object, warnings })
}

/// Fits an object that came out of a patch. `shown` is what the refusal prints: the patched object or the patch.
pub(crate) fn decode_patched(
    mut object: Object,
    resource: &Resource,
    validation: FieldValidation,
    mut strict: Vec<String>,
    shown: impl FnOnce() -> String,
) -> Result<Decoded, ApiError> {
    let schema = Schema::builtin();
    let expected = Expected::from(resource);
    if let Some(id) = schema.of(resource) {
        let before = object.clone();
        let Oddities { unknown_fields, wrong_types } = conform(schema, id, &mut object);
        if wrong_types || (unknown_fields && validation != FieldValidation::Ignore) {
            let findings = explain::explain(schema, id, &Node::from(&before));
            if let Some(problem) = findings.fatal {
                return Err(patch_refused(shown(), &problem));
            }
            strict.extend(findings.strict);
        }
    }
    let warnings = judge(strict, validation).map_err(|problem| patch_refused(shown(), &problem))?;
    name_kind(&mut object, expected);
    Ok(Decoded { object, warnings })
}

fn patch_refused(shown: String, problem: &str) -> ApiError {
    ApiError::invalid(("", ""), "", &[FieldError::invalid(&FieldPath::new("patch"), shown, problem)])
}

/// What a strict reading of JSON finds twice in a body without a schema, such as a patch; or why it can't be read.
pub(crate) fn duplicate_fields(body: &[u8]) -> Result<Vec<String>, String> {
    Ok(explain::duplicates(&Node::from_json(body)?))
}

/// Go's message for JSON that can't be read, `None` when it can.
pub(crate) fn syntax_error(body: &[u8]) -> Option<String> {
    gojson::syntax_error(body)
}

fn judge(strict: Vec<String>, validation: FieldValidation) -> Result<Vec<String>, String> {
    match validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(strict),
        FieldValidation::Strict if strict.is_empty() => Ok(strict),
        FieldValidation::Strict => Err(format!("strict decoding error: {}", strict.join(", "))),
    }
}

fn name_kind(object: &mut Object, expected: Expected<'_>) {
    let map = map_mut(object, "");
    map.insert("apiVersion".to_owned(), group_version(expected.group, expected.version).into());
    map.insert("kind".to_owned(), expected.kind.into());
}

/// The value of a body, and whether a field stands twice in it.
fn parse(body: &[u8], media: MediaType) -> Result<(Object, bool), String> {
    match media {
        MediaType::Json => node::parse_json(body).map_err(|error| {
            let text = gojson::syntax_error(body).unwrap_or_else(|| error.to_string());
            format!("couldn't get version/kind; json parse error: {text}")
        }),
        MediaType::Yaml => {
            let node = Node::from_yaml(body)?;
            let duplicates = !explain::duplicates(&node).is_empty();
            Ok((node.into_value(), duplicates))
        }
    }
}

struct Found {
    group: String,
    version: String,
    kind: String,
}

/// The kind that the body names, with what it leaves out filled in from what is expected.
fn kind_of(object: &Object, expected: Expected<'_>) -> Result<Found, String> {
    const GO_STRUCT: &str = "struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }";
    let parse_error = |text: String| format!("couldn't get version/kind; json parse error: {text}");
    let map = match object {
        Object::Object(map) => Some(map),
        Object::Null => None,
        other => {
            let text = format!("json: cannot unmarshal {} into Go value of type {GO_STRUCT}", explain::go_word(other));
            return Err(parse_error(text));
        }
    };
    let text = |field: &str| match map.and_then(|map| map.get(field)) {
        None | Some(Object::Null) => Ok(""),
        Some(Object::String(text)) => Ok(text.as_str()),
        Some(other) => Err(parse_error(format!(
            "json: cannot unmarshal {} into Go struct field .{field} of type string",
            explain::go_word(other)
        ))),
    };
    let (api_version, kind) = (text("apiVersion")?, text("kind")?);
    if api_version.matches('/').count() > 1 {
        return Err(format!("unexpected GroupVersion string: {api_version}"));
    }
    let (mut group, mut version) = split_api_version(api_version);
    if version.is_empty() && (group.is_empty() || group == expected.group) {
        (group, version) = (expected.group, expected.version);
    }
    let kind = if kind.is_empty() { expected.kind } else { kind };
    if version.is_empty() {
        return Err(format!("Object 'apiVersion' is missing in '{object}'"));
    }
    Ok(Found { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() })
}

fn find_definition(schema: &Schema, found: &Found) -> Option<DefinitionId> {
    schema.by_kind(&found.group, &found.version, &found.kind)
}

/// The Go package of a group's internal types.
fn internal_package(group: &str) -> &str {
    match group.split('.').next() {
        None | Some("" | "events") => "core",
        Some(first) => first,
    }
}

fn unrecognized(expected: Expected<'_>, problem: &str, body: &[u8]) -> ApiError {
    ApiError::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): {problem} ({})",
        expected.kind,
        summary(body)
    ))
}

/// The start of a body, as upstream shows it.
fn summary(body: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 30;
    let (head, rest) = body.split_at(body.len().min(SHOWN_BYTES_MAX));
    let shown = match head {
        [] => return "<empty>".to_owned(),
        [b'{', ..] => String::from_utf8_lossy(head).into_owned(),
        _ => head.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    if rest.is_empty() { shown } else { format!("{shown} ...") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resources::ResourceTable;

    fn resource(group: &str, plural: &str) -> &'static Resource {
        ResourceTable::builtin().get(group, "v1", plural).expect("a resource")
    }

    fn refusal(resource: &Resource, body: &str) -> String {
        decode(body.as_bytes(), MediaType::Json, resource, FieldValidation::Strict).expect_err(body).message
    }

    #[test]
    fn bodies_that_are_no_objects_are_refused_in_upstreams_words() {
        let namespaces = resource("", "namespaces");
        let cases = [
            (
                "{nope",
                "the object provided is unrecognized (must be of type Namespace): couldn't get version/kind; json parse error: invalid character 'n' looking for beginning of object key string ({nope)",
            ),
            (
                "",
                "the object provided is unrecognized (must be of type Namespace): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)",
            ),
            (
                "[1]",
                "the object provided is unrecognized (must be of type Namespace): couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" } (5b315d)",
            ),
            (
                r#"{"kind":"Wrong","apiVersion":"v1"}"#,
                "Wrong in version \"v1\" cannot be handled as a Namespace: no kind \"Wrong\" is registered for version \"v1\" in scheme \"pkg/runtime/scheme.go:111\"",
            ),
            (
                r#"{"kind":"Deployment","apiVersion":"apps/v1"}"#,
                "Deployment in version \"v1\" cannot be handled as a Namespace: converting (v1.Deployment) to (core.Namespace): unknown conversion",
            ),
            (
                r#"{"kind":1}"#,
                "the object provided is unrecognized (must be of type Namespace): couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .kind of type string ({\"kind\":1})",
            ),
        ];
        for (body, expect) in cases {
            assert_eq!(refusal(namespaces, body), expect);
        }
    }

    #[test]
    fn what_does_not_fit_is_told_in_the_documents_order() {
        let deployments = resource("apps", "deployments");
        let head = "Deployment in version \"v1\" cannot be handled as a Deployment: ";
        let cases = [
            (
                r#"{"spec":{"replicas":"2"}}"#,
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                r#"{"spec":{"replicas":2.5}}"#,
                "json: cannot unmarshal number 2.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                r#"{"metadata":{"labels":{"a":1}}}"#,
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            (
                r#"{"spec":{"template":{"spec":{"containers":{}}}}}"#,
                "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
            ),
            (
                r#"{"spec":{"template":{"spec":{"containers":[{"resources":{"limits":{"cpu":"x"}}}]}}}}"#,
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
            (
                r#"{"spec":{"strategy":{"rollingUpdate":{"maxSurge":true}}}}"#,
                "json: cannot unmarshal bool into Go struct field RollingUpdateDeployment.spec.strategy.rollingUpdate.maxSurge of type int32",
            ),
            (
                r#"{"z":1,"spec":{"a":1,"replicas":1,"replicas":2},"metadata":{"labels":{"x":"1","x":"2"}}}"#,
                "strict decoding error: unknown field \"z\", unknown field \"spec.a\", duplicate field \"spec.replicas\", duplicate field \"metadata.labels.x\"",
            ),
            (
                r#"{"spec":{"template":{"spec":{"volumes":[{"name":"v","emptyDir":1}]}}}}"#,
                "json: cannot unmarshal number into Go struct field Volume.spec.template.spec.volumes.VolumeSource.emptyDir of type v1.EmptyDirVolumeSource",
            ),
            (
                r#"{"spec":{"template":{"spec":{"containers":[{"bogus":1}]}}}}"#,
                "strict decoding error: unknown field \"spec.template.spec.containers[0].bogus\"",
            ),
        ];
        for (body, expect) in cases {
            assert_eq!(refusal(deployments, body), format!("{head}{expect}"));
        }
        let secret = r#"{"data":{"a":"***"}}"#;
        assert_eq!(
            refusal(resource("", "secrets"), secret),
            "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 0"
        );
        let time = r#"{"metadata":{"creationTimestamp":"now"}}"#;
        assert_eq!(
            refusal(resource("", "secrets"), time),
            "Secret in version \"v1\" cannot be handled as a Secret: parsing time \"now\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"now\" as \"2006\""
        );
    }

    #[test]
    fn odd_fields_are_dropped_with_a_warning_or_without() {
        let config_maps = resource("", "configmaps");
        let body = br#"{"metadata":{"name":"a","bogus2":"x"},"data":{"a":"1"},"bogus":1}"#;
        let decoded = decode(body, MediaType::Json, config_maps, FieldValidation::Warn).expect("decodes");
        assert_eq!(
            decoded.object,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "1"}})
        );
        assert_eq!(decoded.warnings, ["unknown field \"metadata.bogus2\"", "unknown field \"bogus\""]);
        let decoded = decode(body, MediaType::Json, config_maps, FieldValidation::Ignore).expect("decodes");
        assert!(decoded.warnings.is_empty());
    }

    #[test]
    fn yaml_is_read_as_json_is() {
        let body = b"kind: ConfigMap\ndata:\n  a: \"1\"\n  1: b\nmetadata: {name: x}\n";
        let decoded =
            decode(body, MediaType::Yaml, resource("", "configmaps"), FieldValidation::Strict).expect("decodes");
        assert_eq!(decoded.object["data"], json!({"a": "1", "1": "b"}));
    }

    #[test]
    fn the_version_must_be_the_paths() {
        let body = r#"{"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler"}"#;
        assert_eq!(
            refusal(resource("autoscaling", "horizontalpodautoscalers"), body),
            "the API version in the data (autoscaling/v2) does not match the expected API version (autoscaling/v1)"
        );
    }
}
