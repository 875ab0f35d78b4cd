//! What a request asks for, read from its method, path and query as upstream's `RequestInfoFactory` does.

use std::borrow::Cow;

use http::Method;
use percent_encoding::percent_decode_str;

/// A request in Kubernetes' terms. For a path outside the API only `verb` and `path` are set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path names a resource below `/api/V/` or `/apis/G/V/`.
    pub is_resource: bool,
    /// The decoded path.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or the method in lower case.
    pub verb: String,
    /// The API group, empty for the core group.
    pub group: String,
    /// The API version.
    pub version: String,
    /// The namespace, empty for cluster scope; for `/namespaces/X` it is X.
    pub namespace: String,
    /// The plural resource name.
    pub resource: String,
    /// What follows the name.
    pub subresource: String,
    /// The name, also that of a list whose field selector asks for exactly one.
    pub name: String,
    /// Whether the name stands in the path.
    pub named_in_path: bool,
    /// What follows the subresource, as of `/pods/p/proxy/a/b`.
    pub rest: String,
    /// Whether it came in by the old `/watch/` paths.
    pub old_watch_path: bool,
    /// Whether the path has a namespace segment of its own (`/namespaces/X/pods`).
    pub namespace_in_path: bool,
}

/// The verb of a resource request by its method, before list, watch and collections are told apart.
fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// The first value of a query parameter, decoded.
pub fn query_value<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    form_urlencoded::parse(query?.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value)
}

/// All values of a query parameter, decoded.
pub fn query_values(query: Option<&str>, name: &str) -> Vec<String> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .filter(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
        .collect()
}

/// A boolean as upstream's query conversion reads it: present and neither `false` nor `0`.
pub fn query_flag(query: Option<&str>, name: &str) -> bool {
    query_value(query, name).is_some_and(|value| !matches!(value.to_ascii_lowercase().as_str(), "false" | "0"))
}

impl RequestInfo {
    /// Reads a request line.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Self {
        let decoded = percent_decode_str(path).decode_utf8_lossy().into_owned();
        let mut info = Self { verb: method.as_str().to_ascii_lowercase(), path: decoded, ..Self::default() };
        let trimmed = path.trim_matches('/');
        let segments: Vec<String> = if trimmed.is_empty() {
            Vec::new()
        } else {
            trimmed.split('/').map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned()).collect()
        };
        let mut parts: &[String] = &segments;
        if parts.len() < 3 {
            return info;
        }
        match parts[0].as_str() {
            "api" => parts = &parts[1..],
            "apis" => {
                parts = &parts[1..];
                if parts.len() < 3 {
                    return info;
                }
                info.group = parts[0].clone();
                parts = &parts[1..];
            }
            _ => return info,
        }
        info.is_resource = true;
        info.version = parts[0].clone();
        parts = &parts[1..];
        if matches!(parts[0].as_str(), "watch" | "proxy") && parts.len() >= 2 {
            info.verb = parts[0].clone();
            info.old_watch_path = parts[0] == "watch";
            parts = &parts[1..];
        } else {
            info.verb = verb_of(method).to_owned();
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            info.namespace = parts[1].clone();
            if parts.len() > 2 && !matches!(parts[2].as_str(), "status" | "finalize") {
                info.namespace_in_path = true;
                parts = &parts[2..];
            }
        }
        if let Some(resource) = parts.first() {
            info.resource = resource.clone();
        }
        if let Some(name) = parts.get(1) {
            info.name = name.clone();
            info.named_in_path = true;
        }
        if let Some(subresource) = parts.get(2).filter(|_| info.verb != "proxy") {
            info.subresource = subresource.clone();
            info.rest = parts[3..].join("/");
        }
        if info.name.is_empty() {
            match info.verb.as_str() {
                "get" | "watch" => {
                    if info.verb == "watch" || query_flag(query, "watch") {
                        info.verb = "watch".to_owned();
                    } else {
                        info.verb = "list".to_owned();
                    }
                    if let Some(name) = single_name(query) {
                        info.name = name;
                    }
                }
                "delete" => {
                    info.verb = "deletecollection".to_owned();
                    if let Some(name) = single_name(query) {
                        info.name = name;
                    }
                }
                _ => {}
            }
        }
        info
    }
}

/// The name that a field selector asks for, if it asks for exactly one.
fn single_name(query: Option<&str>) -> Option<String> {
    let selector = query_value(query, "fieldSelector")?;
    let name = selector.split(',').find_map(|term| {
        let value = term.strip_prefix("metadata.name=")?;
        Some(value.strip_prefix('=').unwrap_or(value).to_owned())
    })?;
    let is_segment = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%']);
    is_segment.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        // method, path, query -> verb, group, version, namespace, resource, subresource, name
        let cases = [
            ("GET", "/api/v1/namespaces", None, "list||v1||namespaces||"),
            ("GET", "/api/v1/namespaces/other", None, "get||v1|other|namespaces||other"),
            ("PUT", "/api/v1/namespaces/other/finalize", None, "update||v1|other|namespaces|finalize|other"),
            ("GET", "/api/v1/namespaces/other/pods", None, "list||v1|other|pods||"),
            ("GET", "/api/v1/namespaces/other/pods/foo/log", None, "get||v1|other|pods|log|foo"),
            ("HEAD", "/api/v1/namespaces/other/pods/foo", None, "get||v1|other|pods||foo"),
            ("GET", "/api/v1/pods", Some("watch=true"), "watch||v1||pods||"),
            ("GET", "/api/v1/pods", Some("watch=0"), "list||v1||pods||"),
            ("GET", "/api/v1/watch/namespaces/other/pods", None, "watch||v1|other|pods||"),
            ("GET", "/api/v1/watch/namespaces/other/pods/a", None, "watch||v1|other|pods||a"),
            ("GET", "/api/v1/pods", Some("fieldSelector=metadata.name%3Dfoo"), "list||v1||pods||foo"),
            ("DELETE", "/apis/apps/v1/namespaces/n/deployments", None, "deletecollection|apps|v1|n|deployments||"),
            ("PATCH", "/apis/apps/v1/namespaces/n/deployments/d/scale", None, "patch|apps|v1|n|deployments|scale|d"),
            ("GET", "/apis/apps/v1/namespaces/n/deployments/d", Some("watch=1"), "get|apps|v1|n|deployments||d"),
            ("GET", "/apis/apps/v1", None, "get||||||"),
            ("GET", "/api/v1", None, "get||||||"),
            ("POST", "/healthz", None, "post||||||"),
        ];
        for (method, path, query, expect) in cases {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let i = RequestInfo::parse(&method, path, query);
            let got = [i.verb, i.group, i.version, i.namespace, i.resource, i.subresource, i.name].join("|");
            assert_eq!(got, expect, "{method} {path}");
        }
    }
}
