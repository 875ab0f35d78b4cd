//! Answers: objects, entries and refusals in the representation that the client asked for.

use bytes::Bytes;
use gantry_api::error::ApiError;
use gantry_api::object::Object;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WARNING};
use http::{HeaderValue, Response, StatusCode};

use super::body::{Body, full};
use super::negotiate::{Encoding, Representation, Shape};

/// What a warning header may hold of one warning, in bytes.
const WARNING_BYTES_MAX: usize = 4096;

/// An answer of bytes.
pub fn bytes(status: StatusCode, media_type: &'static str, content: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(content));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// An answer of plain text.
pub fn text(status: StatusCode, content: impl Into<Bytes>) -> Response<Body> {
    bytes(status, "text/plain; charset=utf-8", content)
}

/// Upstream's answer for a path that nothing serves.
pub fn page_not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// JSON or YAML of a JSON text.
pub fn encode(json: Bytes, encoding: Encoding) -> Bytes {
    match encoding {
        Encoding::Json => json,
        Encoding::Yaml => {
            let value: serde_json::Value = serde_json::from_slice(&json).unwrap_or_default();
            serde_yaml_ng::to_string(&value).map(Bytes::from).unwrap_or(json)
        }
    }
}

/// An answer with an object as it is.
pub fn object(status: StatusCode, object: &Object, encoding: Encoding) -> Response<Body> {
    let json = serde_json::to_vec(object).unwrap_or_default();
    bytes(status, encoding.media_type(), encode(json.into(), encoding))
}

/// An answer with the JSON text of an object.
pub fn json(status: StatusCode, json: Bytes, encoding: Encoding) -> Response<Body> {
    bytes(status, encoding.media_type(), encode(json, encoding))
}

/// A refusal.
pub fn error(error: &ApiError, representation: Option<Representation>) -> Response<Body> {
    let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let encoding = match representation {
        Some(Representation { encoding, shape: Shape::Plain }) => encoding,
        _ => Encoding::Json,
    };
    let mut response = object(status, &error.to_status(), encoding);
    if let Some(seconds) =
        error.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0)
    {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds a warning before those that are there.
pub fn warn_first(response: &mut Response<Body>, warning: &str) {
    let others: Vec<HeaderValue> = response.headers().get_all(WARNING).iter().cloned().collect();
    response.headers_mut().remove(WARNING);
    add_warnings(response, &[warning.to_owned()]);
    for other in others {
        response.headers_mut().append(WARNING, other);
    }
}

/// Adds warnings for the client, each once.
pub fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    let mut seen: Vec<&String> = Vec::new();
    for warning in warnings {
        if seen.contains(&warning) {
            continue;
        }
        seen.push(warning);
        let mut quoted = String::with_capacity(warning.len() + 8);
        for character in warning.chars().take(WARNING_BYTES_MAX) {
            match character {
                '"' | '\\' => {
                    quoted.push('\\');
                    quoted.push(character);
                }
                character if character.is_control() => quoted.push(' '),
                character => quoted.push(character),
            }
        }
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}
