//! Documents about the API itself: versions, groups, resources, OpenAPI, the keys of service account tokens.

use std::sync::Arc;

use gantry_api::discovery;
use gantry_api::error::ApiError;
use gantry_api::openapi;
use http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH, VARY};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::body::{Body, full};
use super::connection::{accepts_gzip, compress_if_large};
use super::negotiate::{IncludeObject, Offer, Shape, negotiate};
use super::request_info::RequestInfo;
use super::response;
use crate::server::Inner;

/// The version of Kubernetes whose API this is.
const MAJOR: &str = "1";
const MINOR: &str = "36";
const GIT_VERSION: &str = "v1.36.3";

/// Answers a request for a document; 404 for any other path.
pub fn serve(server: &Arc<Inner>, parts: &Parts, info: &RequestInfo) -> Result<Response<Body>, ApiError> {
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return if is_document(&info.path) { Err(ApiError::no_such_method()) } else { Ok(response::page_not_found()) };
    }
    let segments: Vec<&str> = info.path.trim_matches('/').split('/').collect();
    let table = server.table;
    match segments.as_slice() {
        [""] => plain(parts, paths(server)),
        ["version"] => plain(parts, version()),
        ["api"] => grouped(
            parts,
            || discovery::api_versions(&server.public_address()),
            |version| discovery::aggregated(table, true, version),
        ),
        ["apis"] => {
            grouped(parts, || discovery::group_list(table), |version| discovery::aggregated(table, false, version))
        }
        ["api", version] => resources(server, parts, "", version),
        ["apis", group] => match discovery::group(table, group) {
            Some(document) => plain(parts, document),
            None => Ok(response::page_not_found()),
        },
        ["apis", group, version] => resources(server, parts, group, version),
        ["openapi", "v3"] => {
            Ok(response::bytes(StatusCode::OK, "text/plain; charset=utf-8", openapi::root(table).to_string()))
        }
        ["openapi", "v3", path @ ..] => openapi_document(server, parts, &path.join("/")),
        ["openid", "v1", "jwks"] => {
            Ok(response::bytes(StatusCode::OK, "application/jwk-set+json", server.jwks().to_string()))
        }
        [".well-known", "openid-configuration"] => {
            Ok(response::bytes(StatusCode::OK, "application/json", server.openid_configuration().to_string()))
        }
        _ => Ok(response::page_not_found()),
    }
}

fn is_document(path: &str) -> bool {
    matches!(path.trim_matches('/').split('/').next(), Some("api" | "apis" | "version" | "openapi"))
}

fn plain(parts: &Parts, document: Value) -> Result<Response<Body>, ApiError> {
    let Some(representation) = negotiate(&parts.headers, Offer::Plain, IncludeObject::None) else {
        return Err(ApiError::not_acceptable(&super::resources::REPRESENTATIONS));
    };
    let mut response = response::object(StatusCode::OK, &document, representation.encoding);
    compress_if_large(&mut response, accepts_gzip(&parts.headers));
    Ok(response)
}

/// A document that also comes aggregated.
fn grouped(
    parts: &Parts,
    document: impl FnOnce() -> Value,
    aggregated: impl FnOnce(&str) -> Value,
) -> Result<Response<Body>, ApiError> {
    let Some(representation) = negotiate(&parts.headers, Offer::Discovery, IncludeObject::None) else {
        return Err(ApiError::not_acceptable(&super::resources::REPRESENTATIONS));
    };
    let Shape::AggregatedDiscovery(version) = representation.shape else {
        let mut response = response::object(StatusCode::OK, &document(), representation.encoding);
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
        return Ok(response);
    };
    let document = aggregated(version);
    let content = serde_json::to_vec(&document).unwrap_or_default();
    let tag = format!("\"{}\"", hex(&Sha256::digest(&content)).to_uppercase());
    if parts.headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()) == Some(tag.as_str()) {
        let mut response = Response::new(full(bytes::Bytes::new()));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let mut response = response::json(StatusCode::OK, content.into(), representation.encoding);
    let kind =
        format!("{};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList", representation.encoding.media_type());
    for (name, value) in [
        (http::header::CONTENT_TYPE, kind),
        (ETAG, tag),
        (CACHE_CONTROL, "public".to_owned()),
        (VARY, "Accept".to_owned()),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    compress_if_large(&mut response, accepts_gzip(&parts.headers));
    Ok(response)
}

/// A document of one group and version. Named with its hash it never changes, which clients and proxies may rely on.
fn openapi_document(server: &Inner, parts: &Parts, path: &str) -> Result<Response<Body>, ApiError> {
    let Some(document) = openapi::document(server.table, path) else { return Ok(response::page_not_found()) };
    let mut response = response::bytes(StatusCode::OK, "application/json", document);
    let asked = super::request_info::query_value(parts.uri.query(), "hash").unwrap_or_default();
    if !asked.is_empty() && openapi::hash(path) == asked {
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    compress_if_large(&mut response, accepts_gzip(&parts.headers));
    Ok(response)
}

fn resources(server: &Inner, parts: &Parts, group: &str, version: &str) -> Result<Response<Body>, ApiError> {
    match discovery::resource_list(server.table, group, version) {
        Some(document) => plain(parts, document),
        None if server.table.versions(group).is_empty() => Ok(response::page_not_found()),
        None => Err(ApiError::no_such_resource()),
    }
}

fn version() -> Value {
    json!({
        "major": MAJOR,
        "minor": MINOR,
        "emulationMajor": MAJOR,
        "emulationMinor": MINOR,
        "minCompatibilityMajor": MAJOR,
        "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "gantry",
        "platform": platform(),
    })
}

/// The platform in Go's words.
fn platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{arch}", std::env::consts::OS)
}

fn paths(server: &Inner) -> Value {
    let mut paths = vec![
        "/.well-known/openid-configuration".to_owned(),
        "/api".to_owned(),
        "/api/v1".to_owned(),
        "/apis".to_owned(),
    ];
    for group in server.table.groups().into_iter().filter(|group| !group.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(server.table.versions(group).into_iter().map(|version| format!("/apis/{group}/{version}")));
    }
    paths.extend(
        ["/healthz", "/livez", "/metrics", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"].map(str::to_owned),
    );
    json!({"paths": paths})
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
