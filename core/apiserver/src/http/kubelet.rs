//! Requests handed on to a node: exec, attach, port-forward, logs, proxy. The node's agent is reached over TLS with the
//! API server's client certificate; upgraded connections are copied both ways.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::error::ApiError;
use gantry_api::object::{Object, i64_at, items_at, str_at};
use http::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::body::{Body, BodyError, full};
use super::request_info::{RequestInfo, query_value};
use crate::admission::Operation;
use crate::registry::{Call, Current};
use crate::server::Inner;

/// How long a node may take to be reached.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// The port of node agents that name none.
const AGENT_PORT: u16 = 10250;

/// Whether a request is answered by a node.
pub fn serves(call: &Call<'_>) -> bool {
    matches!(
        (call.resource.group.as_str(), call.resource.plural.as_str(), call.subresource),
        ("", "pods", "exec" | "attach" | "portforward" | "log" | "proxy") | ("", "nodes" | "services", "proxy")
    )
}

/// Where a request goes.
struct Target {
    address: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    /// Path and query.
    path: String,
}

/// Hands a request on to the node (or pod, or service) that it is for.
pub async fn forward(
    server: &Arc<Inner>,
    call: &Call<'_>,
    info: &RequestInfo,
    parts: Parts,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    if call.subresource == "log" {
        check_log_options(parts.uri.query(), call.name)?;
    }
    let (base, port) = split_port(call.name);
    let named = if call.subresource == "proxy" { Call { name: base, ..*call } } else { *call };
    let current = server.registry.cached(&named)?.ok_or_else(|| named.not_found())?;
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let target = match (call.resource.plural.as_str(), call.subresource) {
        ("pods", "proxy") => pod_proxy(&current.object, port, &info.rest, &query)?,
        ("services", "proxy") => service_proxy(server, &current.object, port, &info.rest, &query)?,
        ("nodes", "proxy") => agent_of(server, &current.object, call.name, format!("/{}{query}", info.rest))?,
        (_, subresource) => {
            admit_connect(server, call, &current).await?;
            let pod = &current.object;
            let container = container_of(pod, call, parts.uri.query())?;
            let node = str_at(pod, "spec.nodeName");
            if node.is_empty() {
                return unscheduled(call);
            }
            let path = agent_path(pod, call, subresource, container.as_deref(), parts.uri.query());
            let nodes = server.table.get("", "v1", "nodes").ok_or_else(ApiError::no_such_resource)?;
            let node_call = Call { resource: nodes, namespace: "", name: node, ..*call };
            let node_object = server.registry.cached(&node_call)?.ok_or_else(|| node_call.not_found())?;
            agent_of(server, &node_object.object, node, path)?
        }
    };
    hand_on(target, parts, body).await
}

async fn admit_connect(server: &Inner, call: &Call<'_>, current: &Current) -> Result<(), ApiError> {
    let mut nothing = Object::Null;
    let registry = &server.registry;
    registry
        .admission
        .admit(&call.admission(Operation::Connect), &mut nothing, Some(&current.object), &*registry.caches)
        .await
        .map(|_| ())
}

/// A pod that runs nowhere has no log yet, and nothing to attach to.
fn unscheduled(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    if call.subresource == "log" {
        let mut response = Response::new(full(bytes::Bytes::new()));
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    Err(ApiError::bad_request(format!("pod {} does not have a host assigned", call.name)))
}

fn check_log_options(query: Option<&str>, name: &str) -> Result<(), ApiError> {
    use gantry_api::field::{FieldError, FieldPath};
    let number = |field: &str| query_value(query, field).and_then(|value| value.parse::<i64>().ok());
    let mut errors = Vec::new();
    if let Some(lines) = number("tailLines").filter(|lines| *lines < 0) {
        errors.push(FieldError::invalid(&FieldPath::new("tailLines"), lines, "must be greater than or equal to 0"));
    }
    if let Some(bytes) = number("limitBytes").filter(|bytes| *bytes < 1) {
        errors.push(FieldError::invalid(&FieldPath::new("limitBytes"), bytes, "must be greater than 0"));
    }
    if query_value(query, "sinceSeconds").is_some() && query_value(query, "sinceTime").is_some() {
        errors.push(FieldError::forbidden(
            &FieldPath::new(""),
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        ));
    } else if let Some(seconds) = number("sinceSeconds").filter(|seconds| *seconds < 1) {
        errors.push(FieldError::invalid(&FieldPath::new("sinceSeconds"), seconds, "must be greater than 0"));
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(("", "PodLogOptions"), name, &errors)) }
}

/// The container that is meant: the one named, or the only one.
fn container_of(pod: &Object, call: &Call<'_>, query: Option<&str>) -> Result<Option<String>, ApiError> {
    if call.subresource == "portforward" {
        return Ok(None);
    }
    let names = |field: &str| -> Vec<String> {
        items_at(pod, field).iter().map(|container| str_at(container, "name").to_owned()).collect()
    };
    let (containers, init, ephemeral) =
        (names("spec.containers"), names("spec.initContainers"), names("spec.ephemeralContainers"));
    let asked = query_value(query, "container").unwrap_or_default().into_owned();
    if asked.is_empty() {
        if let Some(default) = pod
            .pointer("/metadata/annotations/kubectl.kubernetes.io~1default-container")
            .and_then(serde_json::Value::as_str)
            && containers.iter().any(|name| name == default)
        {
            return Ok(Some(default.to_owned()));
        }
        return match containers.as_slice() {
            [one] => Ok(Some(one.clone())),
            [] => Err(ApiError::bad_request(format!("a container name must be specified for pod {}", call.name))),
            many => {
                let mut choices = format!(
                    "a container name must be specified for pod {}, choose one of: [{}]",
                    call.name,
                    many.join(" ")
                );
                if !init.is_empty() {
                    choices.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(ApiError::bad_request(choices))
            }
        };
    }
    if containers.iter().chain(&init).chain(&ephemeral).any(|name| *name == asked) {
        return Ok(Some(asked));
    }
    Err(ApiError::bad_request(format!("container {asked} is not valid for pod {}", call.name)))
}

/// The path of the node agent's own API, as upstream's kubelet has it.
fn agent_path(
    pod: &Object,
    call: &Call<'_>,
    subresource: &str,
    container: Option<&str>,
    query: Option<&str>,
) -> String {
    let (namespace, name, uid) = (call.namespace, call.name, str_at(pod, "metadata.uid"));
    let container = container.unwrap_or_default();
    let mut params = form_urlencoded::Serializer::new(String::new());
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        // The agent's API has its own names for the streams.
        let key = match (subresource, &*key) {
            (_, "container") => continue,
            ("exec" | "attach", "stdin") => "input",
            ("exec" | "attach", "stdout") => "output",
            ("exec" | "attach", "stderr") => "error",
            (_, key) => key,
        };
        let value = match (key, &*value) {
            ("input" | "output" | "error" | "tty", "true") => "1",
            ("input" | "output" | "error" | "tty", "false" | "0") => continue,
            (_, value) => value,
        };
        params.append_pair(key, value);
    }
    let params = params.finish();
    let query = if params.is_empty() { String::new() } else { format!("?{params}") };
    match subresource {
        "log" => format!("/containerLogs/{namespace}/{name}/{container}{query}"),
        "portforward" => format!("/portForward/{namespace}/{name}/{uid}{query}"),
        other => format!("/{other}/{namespace}/{name}/{uid}/{container}{query}"),
    }
}

/// The agent of a node: its address by the order of preference that upstream has.
fn agent_of(server: &Inner, node: &Object, name: &str, path: String) -> Result<Target, ApiError> {
    let addresses = items_at(node, "status.addresses");
    let address = ["InternalIP", "ExternalIP", "Hostname"]
        .into_iter()
        .find_map(|kind| addresses.iter().find(|address| address["type"] == kind))
        .map(|address| str_at(address, "address").to_owned())
        .ok_or_else(|| {
            ApiError::internal(format!("no preferred addresses found for node {name}; known addresses: []"))
        })?;
    let port = i64_at(node, "status.daemonEndpoints.kubeletEndpoint.Port")
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
        .unwrap_or(AGENT_PORT);
    Ok(Target { address, port, tls: Some(server.agent_tls.clone()), path })
}

/// `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
fn split_port(text: &str) -> (&str, Option<&str>) {
    let mut parts = text.split(':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("http" | "https" | ""), Some(name), port) => (name, port),
        (Some(name), port, None) => (name, port),
        _ => (text, None),
    }
}

fn pod_proxy(pod: &Object, port: Option<&str>, rest: &str, query: &str) -> Result<Target, ApiError> {
    let address = str_at(pod, "status.podIP");
    if address.is_empty() {
        return Err(ApiError::bad_request("address not allowed"));
    }
    let first = items_at(pod, "spec.containers")
        .iter()
        .flat_map(|container| items_at(container, "ports"))
        .find_map(|port| port["containerPort"].as_u64());
    let port = match port.filter(|port| !port.is_empty()) {
        Some(text) => text.parse().map_err(|_| ApiError::bad_request(format!("invalid pod request {text:?}")))?,
        None => first.and_then(|port| u16::try_from(port).ok()).unwrap_or(80),
    };
    Ok(Target { address: address.to_owned(), port, tls: None, path: format!("/{rest}{query}") })
}

fn service_proxy(
    server: &Inner,
    service: &Object,
    port: Option<&str>,
    rest: &str,
    query: &str,
) -> Result<Target, ApiError> {
    use crate::admission::ObjectReader;
    let (namespace, name) = (str_at(service, "metadata.namespace"), str_at(service, "metadata.name"));
    let ports = items_at(service, "spec.ports");
    let wanted = match port.filter(|port| !port.is_empty()) {
        Some(text) => ports.iter().find(|port| {
            port["name"] == text || port["port"].as_u64().is_some_and(|number| number.to_string() == text)
        }),
        None => ports.first(),
    };
    let no_port = || {
        ApiError::service_unavailable(format!(
            "no service port {:?} found for service {name:?}",
            port.unwrap_or_default()
        ))
    };
    let wanted = wanted.ok_or_else(no_port)?;
    let endpoints = server.registry.caches.get("", "endpoints", namespace, name);
    let no_endpoints = || ApiError::service_unavailable(format!("no endpoints available for service {name:?}"));
    let endpoints = endpoints.ok_or_else(no_endpoints)?;
    for subset in items_at(&endpoints, "subsets") {
        let port =
            items_at(subset, "ports").iter().find(|candidate| str_at(candidate, "name") == str_at(wanted, "name"));
        let port = port.and_then(|port| u16::try_from(port["port"].as_u64()?).ok());
        if let (Some(port), Some(address)) = (port, items_at(subset, "addresses").first()) {
            return Ok(Target {
                address: str_at(address, "ip").to_owned(),
                port,
                tls: None,
                path: format!("/{rest}{query}"),
            });
        }
    }
    Err(no_endpoints())
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for S {}

async fn connect(target: &Target) -> Result<Box<dyn Stream>, BodyError> {
    let stream =
        tokio::time::timeout(CONNECT_MAX, TcpStream::connect((target.address.as_str(), target.port))).await??;
    stream.set_nodelay(true)?;
    let Some(tls) = &target.tls else { return Ok(Box::new(stream)) };
    let name = match target.address.parse::<IpAddr>() {
        Ok(address) => ServerName::IpAddress(address.into()),
        Err(_) => ServerName::try_from(target.address.clone())?,
    };
    Ok(Box::new(tokio::time::timeout(CONNECT_MAX, TlsConnector::from(tls.clone()).connect(name, stream)).await??))
}

async fn hand_on(target: Target, mut parts: Parts, body: Body) -> Result<Response<Body>, ApiError> {
    let unreachable = |error: BodyError| ApiError::internal(format!("error dialing backend: {error}"));
    let stream = connect(&target).await.map_err(unreachable)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(error.into()))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a node ended");
        }
    });
    let upgrade = parts.headers.contains_key(UPGRADE).then(|| parts.extensions.remove::<OnUpgrade>()).flatten();
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = target.path.parse::<Uri>().map_err(|error| ApiError::bad_request(error.to_string()))?;
    *request.headers_mut() = parts.headers;
    // The client's credentials are for this server, not for the node.
    request.headers_mut().remove(AUTHORIZATION);
    if upgrade.is_none() {
        request.headers_mut().remove(CONNECTION);
        request.headers_mut().remove(UPGRADE);
    }
    let host = format!("{}:{}", target.address, target.port);
    request
        .headers_mut()
        .insert(HOST, HeaderValue::from_str(&host).map_err(|error| ApiError::internal(error.to_string()))?);
    let mut answer = sender.send_request(request).await.map_err(|error| unreachable(error.into()))?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = upgrade
    {
        let node = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            let (Ok(client), Ok(node)) = tokio::join!(client, node) else { return };
            let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
            if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut node).await {
                tracing::debug!(%error, "upgraded connection ended");
            }
        });
    }
    let (mut head, content) = answer.into_parts();
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        head.headers.remove(CONNECTION);
        head.headers.remove(http::header::TRANSFER_ENCODING);
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Response::from_parts(head, full(bytes::Bytes::new())));
    }
    Ok(Response::from_parts(head, content.map_err(Into::into).boxed_unsync()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxied_names_carry_ports() {
        let cases =
            [("p", "p", None), ("p:80", "p", Some("80")), ("http:p:80", "p", Some("80")), ("https:p:", "p", Some(""))];
        for (text, name, port) in cases {
            assert_eq!(split_port(text), (name, port), "{text}");
        }
    }
}
