//! What the API says when it refuses: upstream's `Status` object, with the messages of `apimachinery/pkg/api/errors`.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::field::FieldError;
use crate::object::Object;
use crate::resources::Resource;

/// Upstream's `StatusReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No reason is given; the field is left out.
    Unknown,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 409, the name is taken.
    AlreadyExists,
    /// 409, the object has changed meanwhile.
    Conflict,
    /// 410, the object is gone.
    Gone,
    /// 410, the resource version is too old.
    Expired,
    /// 422.
    Invalid,
    /// 500, try again.
    ServerTimeout,
    /// 504.
    Timeout,
    /// 429.
    TooManyRequests,
    /// 400.
    BadRequest,
    /// 405.
    MethodNotAllowed,
    /// 406.
    NotAcceptable,
    /// 413.
    RequestEntityTooLarge,
    /// 415.
    UnsupportedMediaType,
    /// 500.
    InternalError,
    /// 503.
    ServiceUnavailable,
    /// 507, the store is full.
    StorageReadError,
}

impl Reason {
    /// The word in `Status.reason`, empty when there is none.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Gone => "Gone",
            Self::Expired => "Expired",
            Self::Invalid => "Invalid",
            Self::ServerTimeout => "ServerTimeout",
            Self::Timeout => "Timeout",
            Self::TooManyRequests => "TooManyRequests",
            Self::BadRequest => "BadRequest",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::InternalError => "InternalError",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::StorageReadError => "StorageReadError",
        }
    }
}

/// One of `Status.details.causes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// A word for programs.
    pub reason: String,
    /// In words.
    pub message: String,
    /// The path of the field, if there is one.
    pub field: String,
}

/// `Status.details`. Empty parts are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The object's name.
    pub name: String,
    /// The group of `kind`.
    pub group: String,
    /// The resource (plural) or, for invalid objects, the kind.
    pub kind: String,
    /// The object's uid.
    pub uid: String,
    /// What was wrong, one by one.
    pub causes: Vec<Cause>,
    /// When to try again.
    pub retry_after_seconds: u32,
}

impl Details {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            if !text.is_empty() {
                map.insert(key.to_owned(), json!(text));
            }
        }
        if !self.causes.is_empty() {
            map.insert("causes".to_owned(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after_seconds != 0 {
            map.insert("retryAfterSeconds".to_owned(), json!(self.retry_after_seconds));
        }
        Value::Object(map)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, text) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)] {
            if !text.is_empty() {
                map.insert(key.to_owned(), json!(text));
            }
        }
        Value::Object(map)
    }
}

/// A group and the plural name of a resource in it.
#[derive(Clone, Copy, Debug)]
pub struct GroupResource<'a> {
    /// API group; empty for the core group.
    pub group: &'a str,
    /// Plural name.
    pub resource: &'a str,
}

/// A group and a kind in it.
#[derive(Clone, Copy, Debug)]
pub struct GroupKind<'a> {
    /// API group; empty for the core group.
    pub group: &'a str,
    /// Kind.
    pub kind: &'a str,
}

impl<'a> From<&'a Resource> for GroupResource<'a> {
    fn from(resource: &'a Resource) -> Self {
        Self { group: &resource.group, resource: &resource.plural }
    }
}

impl<'a> From<(&'a str, &'a str)> for GroupResource<'a> {
    fn from((group, resource): (&'a str, &'a str)) -> Self {
        Self { group, resource }
    }
}

impl<'a> From<&'a Resource> for GroupKind<'a> {
    fn from(resource: &'a Resource) -> Self {
        Self { group: &resource.group, kind: &resource.kind }
    }
}

impl<'a> From<(&'a str, &'a str)> for GroupKind<'a> {
    fn from((group, kind): (&'a str, &'a str)) -> Self {
        Self { group, kind }
    }
}

fn dotted(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

impl fmt::Display for GroupResource<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&dotted(self.resource, self.group))
    }
}

impl fmt::Display for GroupKind<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&dotted(self.kind, self.group))
    }
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub message: String,
    /// On what; some refusals have none, some an empty one.
    pub details: Option<Box<Details>>,
}

impl ApiError {
    /// A refusal without details.
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn on(code: u16, reason: Reason, message: String, of: GroupResource<'_>, name: &str) -> Self {
        let details = Details {
            name: name.to_owned(),
            group: of.group.to_owned(),
            kind: of.resource.to_owned(),
            ..Details::default()
        };
        Self { code, reason, message, details: Some(Box::new(details)) }
    }

    /// Upstream's `NewGenericServerResponse` for a request that no handler takes: its details are there, but empty.
    fn generic(code: u16, reason: Reason, message: &str) -> Self {
        Self { code, reason, message: message.to_owned(), details: Some(Box::default()) }
    }

    /// Adds a cause.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Self {
        let cause = Cause { reason: reason.to_owned(), message: message.into(), field: field.to_owned() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn with_retry_after_seconds(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// 404, no such object.
    pub fn not_found<'a>(of: impl Into<GroupResource<'a>>, name: &str) -> Self {
        let of = of.into();
        Self::on(404, Reason::NotFound, format!("{of} {} not found", quoted(name)), of, name)
    }

    /// 404, no such path under a served group and version.
    pub fn no_such_resource() -> Self {
        Self::generic(404, Reason::NotFound, "the server could not find the requested resource")
    }

    /// 409, the name is taken.
    pub fn already_exists<'a>(of: impl Into<GroupResource<'a>>, name: &str) -> Self {
        let of = of.into();
        Self::on(409, Reason::AlreadyExists, format!("{of} {} already exists", quoted(name)), of, name)
    }

    /// 409, no free name was found for a `generateName`.
    pub fn generate_name_conflict<'a>(of: impl Into<GroupResource<'a>>, name: &str, retry_after_seconds: u32) -> Self {
        let of = of.into();
        let message = format!(
            "{of} {} already exists, the server was not able to generate a unique name for the object",
            quoted(name)
        );
        Self::on(409, Reason::AlreadyExists, message, of, name).with_retry_after_seconds(retry_after_seconds)
    }

    /// 409, with upstream's sentence around the cause.
    pub fn conflict<'a>(of: impl Into<GroupResource<'a>>, name: &str, cause: &str) -> Self {
        let of = of.into();
        Self::on(
            409,
            Reason::Conflict,
            format!("Operation cannot be fulfilled on {of} {}: {cause}", quoted(name)),
            of,
            name,
        )
    }

    /// 409, a stale `resourceVersion`.
    pub fn modified<'a>(of: impl Into<GroupResource<'a>>, name: &str) -> Self {
        Self::conflict(
            of,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 422, with a cause per field error.
    pub fn invalid<'a>(of: impl Into<GroupKind<'a>>, name: &str, errors: &[FieldError]) -> Self {
        let of = of.into();
        let causes = errors
            .iter()
            .map(|error| Cause {
                reason: error.kind.reason().to_owned(),
                message: error.body(),
                field: error.field.to_string(),
            })
            .collect();
        let mut message = format!("{of} {} is invalid", quoted(name));
        if !errors.is_empty() {
            message.push_str(": ");
            message.push_str(&aggregate(errors.iter().map(ToString::to_string)));
        }
        let details = Details {
            name: name.to_owned(),
            group: of.group.to_owned(),
            kind: of.kind.to_owned(),
            causes,
            ..Details::default()
        };
        Self { code: 422, reason: Reason::Invalid, message, details: Some(Box::new(details)) }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, message)
    }

    /// 401.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new(401, Reason::Unauthorized, if message.is_empty() { "Unauthorized".to_owned() } else { message })
    }

    /// 403, with upstream's sentence around the cause.
    pub fn forbidden<'a>(of: impl Into<GroupResource<'a>>, name: &str, cause: impl fmt::Display) -> Self {
        let of = of.into();
        let message = match (of.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {cause}"),
            (false, true) => format!("{of} is forbidden: {cause}"),
            (false, false) => format!("{of} {} is forbidden: {cause}", quoted(name)),
        };
        Self::on(403, Reason::Forbidden, message, of, name)
    }

    /// 405, the HTTP method has no meaning on this path.
    pub fn no_such_method() -> Self {
        Self::generic(405, Reason::MethodNotAllowed, "the server does not allow this method on the requested resource")
    }

    /// 405, the resource has no such verb.
    pub fn method_not_supported<'a>(of: impl Into<GroupResource<'a>>, action: &str) -> Self {
        let of = of.into();
        let mut error = Self::on(
            405,
            Reason::MethodNotAllowed,
            format!("{action} is not supported on resources of kind \"{of}\""),
            of,
            "",
        );
        if let Some(details) = &mut error.details {
            details.name.clear();
        }
        error
    }

    /// 406, nothing that the client accepts can be served.
    pub fn not_acceptable(available: &[&str]) -> Self {
        let message = format!("406: Not Acceptable\n\nAvailable representations: {}", available.join(", "));
        Self::generic(406, Reason::NotAcceptable, &message)
    }

    /// 415, a body in a format that this request can't have.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {list}");
        Self::new(415, Reason::UnsupportedMediaType, message)
    }

    /// 415, a patch type that this resource doesn't take.
    pub fn unsupported_patch_type() -> Self {
        Self::generic(415, Reason::UnsupportedMediaType, "415: Unsupported Media Type")
    }

    /// 410, the resource version or the continue token is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, message)
    }

    /// 410, the watch's start has been compacted away.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Gone, message)
    }

    /// 413.
    pub fn request_entity_too_large(message: impl fmt::Display) -> Self {
        Self::new(413, Reason::RequestEntityTooLarge, format!("Request entity too large: {message}"))
    }

    /// 504.
    pub fn timeout(message: impl fmt::Display, retry_after_seconds: u32) -> Self {
        let details = Details { retry_after_seconds, ..Details::default() };
        let message = format!("Timeout: {message}");
        Self { code: 504, reason: Reason::Timeout, message, details: Some(Box::new(details)) }
    }

    /// 504, with upstream's cause, for a read from a revision that the server hasn't seen yet.
    pub fn too_large_resource_version(minimum: u64, current: u64, retry_after_seconds: u32) -> Self {
        Self::timeout(format_args!("Too large resource version: {minimum}, current: {current}"), retry_after_seconds)
            .with_cause("ResourceVersionTooLarge", "Too large resource version", "")
    }

    /// 429.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let details = Details { retry_after_seconds, ..Details::default() };
        Self { code: 429, reason: Reason::TooManyRequests, message: message.into(), details: Some(Box::new(details)) }
    }

    /// 500, with upstream's sentence and cause.
    pub fn internal(error: impl fmt::Display) -> Self {
        let text = error.to_string();
        Self::new(500, Reason::InternalError, format!("Internal error occurred: {text}")).with_cause("", text, "")
    }

    /// 500 for an error that upstream returns as it is: no reason, no details.
    pub fn plain(message: impl Into<String>) -> Self {
        Self::new(500, Reason::Unknown, message)
    }

    /// 503.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, Reason::ServiceUnavailable, message)
    }

    /// The `Status` object of the answer.
    pub fn to_status(&self) -> Object {
        let mut status = Map::new();
        let mut put = |key: &str, value: Value| status.insert(key.to_owned(), value);
        put("kind", json!("Status"));
        put("apiVersion", json!("v1"));
        put("metadata", json!({}));
        put("status", json!("Failure"));
        put("code", json!(self.code));
        if !self.message.is_empty() {
            put("message", json!(self.message));
        }
        if self.reason != Reason::Unknown {
            put("reason", json!(self.reason.as_str()));
        }
        if let Some(details) = &self.details {
            put("details", details.to_value());
        }
        Value::Object(status)
    }
}

/// The `Status` object that answers a delete which left nothing to show.
pub fn deleted_status<'a>(of: impl Into<GroupResource<'a>>, name: &str, uid: &str) -> Object {
    let of = of.into();
    let details = Details {
        name: name.to_owned(),
        group: of.group.to_owned(),
        kind: of.resource.to_owned(),
        uid: uid.to_owned(),
        ..Details::default()
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details.to_value()})
}

/// Upstream's `utilerrors.Aggregate`: equal messages once; one alone as it is, more in brackets.
pub fn aggregate(messages: impl IntoIterator<Item = String>) -> String {
    let mut seen: Vec<String> = Vec::new();
    for message in messages {
        if !seen.contains(&message) {
            seen.push(message);
        }
    }
    match seen.len() {
        1 => seen.remove(0),
        _ => format!("[{}]", seen.join(", ")),
    }
}

/// Go's `%q`.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::FieldPath;

    #[test]
    fn messages_are_upstreams() {
        let deployments = ("apps", "deployments");
        let pods = ("", "pods");
        let name = FieldPath::new("metadata.name");
        let cases = [
            (ApiError::not_found(deployments, "a"), "deployments.apps \"a\" not found"),
            (ApiError::already_exists(pods, "a"), "pods \"a\" already exists"),
            (ApiError::forbidden(pods, "", "no"), "pods is forbidden: no"),
            (ApiError::forbidden(pods, "a", "no"), "pods \"a\" is forbidden: no"),
            (ApiError::forbidden(("", ""), "", "no"), "forbidden: no"),
            (
                ApiError::invalid(("", "Pod"), "", &[FieldError::required(&name, "name or generateName is required")]),
                "Pod \"\" is invalid: metadata.name: Required value: name or generateName is required",
            ),
            (
                ApiError::invalid(
                    ("apps", "Deployment"),
                    "a",
                    &[
                        FieldError::required(&name, ""),
                        FieldError::forbidden(&name, "no"),
                        FieldError::required(&name, ""),
                    ],
                ),
                "Deployment.apps \"a\" is invalid: [metadata.name: Required value, metadata.name: Forbidden: no]",
            ),
            (ApiError::internal("boom"), "Internal error occurred: boom"),
            (ApiError::request_entity_too_large("limit is 3145728"), "Request entity too large: limit is 3145728"),
        ];
        for (error, expect) in cases {
            assert_eq!(error.to_string(), expect);
        }
    }

    #[test]
    fn a_status_leaves_out_what_is_empty() {
        insta::assert_snapshot!(ApiError::bad_request("no").to_status(), @r#"{"apiVersion":"v1","code":400,"kind":"Status","message":"no","metadata":{},"reason":"BadRequest","status":"Failure"}"#);
        insta::assert_snapshot!(ApiError::no_such_resource().to_status(), @r#"{"apiVersion":"v1","code":404,"details":{},"kind":"Status","message":"the server could not find the requested resource","metadata":{},"reason":"NotFound","status":"Failure"}"#);
        insta::assert_snapshot!(ApiError::plain("odd").to_status(), @r#"{"apiVersion":"v1","code":500,"kind":"Status","message":"odd","metadata":{},"status":"Failure"}"#);
        insta::assert_snapshot!(ApiError::not_found(("apps", "deployments"), "a").to_status(), @r#"{"apiVersion":"v1","code":404,"details":{"group":"apps","kind":"deployments","name":"a"},"kind":"Status","message":"deployments.apps \"a\" not found","metadata":{},"reason":"NotFound","status":"Failure"}"#);
    }
}
