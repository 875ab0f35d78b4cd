//! Content negotiation: which encoding a client accepts, and which shape (`as=Table`, `as=PartialObjectMetadata`).

use gantry_api::decode::protobuf;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

/// An encoding of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
}

impl Encoding {
    /// The media type of an answer.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
        }
    }
}

/// Which parts of an object a table's rows carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// A `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

/// The shape of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// The object itself.
    Plain,
    /// A server-side table.
    Table(IncludeObject),
    /// Only type and metadata.
    PartialMetadata,
    /// The aggregated discovery document, of the given version (`v2` or `v2beta1`).
    AggregatedDiscovery(&'static str),
}

/// Encoding and shape of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Representation {
    /// The encoding.
    pub encoding: Encoding,
    /// The shape.
    pub shape: Shape,
}

impl Representation {
    /// A plain JSON answer.
    pub const JSON: Self = Self { encoding: Encoding::Json, shape: Shape::Plain };
}

/// One clause of an `Accept` header.
#[derive(Debug)]
struct Clause<'a> {
    kind: &'a str,
    params: Vec<(&'a str, &'a str)>,
    quality: f32,
}

fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = accept
        .split(',')
        .filter_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let kind = parts.next().filter(|kind| !kind.is_empty())?;
            let mut quality = 1.0;
            let mut params = Vec::new();
            for param in parts {
                let (key, value) = param.split_once('=').unwrap_or((param, ""));
                let value = value.trim_matches('"');
                if key == "q" {
                    quality = value.parse().unwrap_or(0.0);
                } else {
                    params.push((key, value));
                }
            }
            Some(Clause { kind, params, quality })
        })
        .collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    clauses
}

/// What may be asked for beside plain objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Objects and lists of a resource: tables and metadata, too.
    Resource,
    /// A discovery document, plain or aggregated.
    Discovery,
    /// Only what it is.
    Plain,
}

/// The representation of the answer, `None` when nothing acceptable is on offer (406).
pub fn negotiate(headers: &HeaderMap, offer: Offer, include: IncludeObject) -> Option<Representation> {
    let joined: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let accept = joined.join(",");
    if accept.trim().is_empty() {
        return Some(Representation::JSON);
    }
    for clause in clauses(&accept) {
        let encoding = match clause.kind {
            "application/json" | "*/*" | "application/*" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            _ => continue,
        };
        if let Some(shape) = shape_of(&clause.params, offer, include) {
            return Some(Representation { encoding, shape });
        }
    }
    None
}

fn shape_of(params: &[(&str, &str)], offer: Offer, include: IncludeObject) -> Option<Shape> {
    let value = |name: &str| params.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| *value);
    let (kind, group, version) = (value("as"), value("g"), value("v"));
    match kind {
        "" => Some(Shape::Plain),
        "Table" if offer == Offer::Resource && group == "meta.k8s.io" && matches!(version, "v1" | "v1beta1") => {
            Some(Shape::Table(include))
        }
        "PartialObjectMetadata" | "PartialObjectMetadataList"
            if offer == Offer::Resource && group == "meta.k8s.io" && matches!(version, "v1" | "v1beta1") =>
        {
            Some(Shape::PartialMetadata)
        }
        "APIGroupDiscoveryList" if offer == Offer::Discovery && group == "apidiscovery.k8s.io" => match version {
            "v2" => Some(Shape::AggregatedDiscovery("v2")),
            "v2beta1" => Some(Shape::AggregatedDiscovery("v2beta1")),
            _ => None,
        },
        _ => None,
    }
}

/// The encoding of a request's body; `None` for one we don't read (415). An absent header means JSON.
pub fn body_encoding(headers: &HeaderMap) -> Option<Encoding> {
    match media_type(headers).as_deref() {
        // Protobuf has been turned into JSON before anybody looks.
        None | Some("" | "application/json" | protobuf::MEDIA_TYPE) => Some(Encoding::Json),
        Some("application/yaml") => Some(Encoding::Yaml),
        Some(_) => None,
    }
}

/// The media type of a request's body without its parameters.
pub fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_acceptable_clause_wins() {
        let table = Representation { encoding: Encoding::Json, shape: Shape::Table(IncludeObject::Metadata) };
        let yaml = Representation { encoding: Encoding::Yaml, shape: Shape::Plain };
        let cases = [
            ("", Some(Representation::JSON)),
            ("*/*", Some(Representation::JSON)),
            ("text/html", None),
            ("application/vnd.kubernetes.protobuf,application/json", Some(Representation::JSON)),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Some(table)),
            ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", Some(Representation::JSON)),
            ("application/json;as=Other;v=v1;g=x", None),
            ("application/json;q=0.5, application/yaml", Some(yaml)),
        ];
        for (accept, expect) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().expect("a header value"));
            assert_eq!(negotiate(&headers, Offer::Resource, IncludeObject::Metadata), expect, "{accept}");
        }
    }
}
