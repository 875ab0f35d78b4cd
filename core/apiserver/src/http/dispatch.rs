//! The one way in: every request is authenticated, may impersonate, and is authorized before anything else happens.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;
use gantry_api::decode::protobuf;
use gantry_api::error::ApiError;
use http::request::Parts;
use http::{Method, Request, Response};
use rustls::pki_types::CertificateDer;

use super::body::{Body, collect};
use super::negotiate::{IncludeObject, Offer, Representation, media_type, negotiate};
use super::request_info::{RequestInfo, query_value};
use super::resources::{self, Input, REPRESENTATIONS};
use super::{documents, health, kubelet, response, subresources};
use crate::auth::impersonate::impersonate;
use crate::auth::{Attributes, Authorizer, UserInfo};
use crate::registry::Call;
use crate::server::Inner;

/// Where a request comes from.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A connection; with the certificates that its client showed, if it did.
    Peer(Option<Arc<Vec<CertificateDer<'static>>>>),
    /// This process, on behalf of a user.
    InProcess(Arc<UserInfo>),
}

/// Answers a request. A panic on the way fails this one request and nothing else.
pub async fn handle(server: &Arc<Inner>, request: Request<Body>, caller: Caller) -> Response<Body> {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let info = RequestInfo::parse(&parts.method, parts.uri.path(), parts.uri.query());
    let counted = server.metrics.start(&info);
    let answered = AssertUnwindSafe(guarded(server, parts, body, caller, &info)).catch_unwind().await;
    let response = match answered {
        Ok(Ok(response)) => response,
        Ok(Err((error, representation))) => response::error(&error, representation),
        Err(_) => {
            tracing::error!(path = info.path, verb = info.verb, "a request panicked");
            response::text(
                http::StatusCode::INTERNAL_SERVER_ERROR,
                "This request caused apiserver to panic. Look in the logs for details.\n",
            )
        }
    };
    counted.finish(response.status(), started.elapsed());
    response
}

type Refusal = (ApiError, Option<Representation>);

fn plain(error: ApiError) -> Refusal {
    (error, None)
}

async fn guarded(
    server: &Arc<Inner>,
    mut parts: Parts,
    body: Body,
    caller: Caller,
    info: &RequestInfo,
) -> Result<Response<Body>, Refusal> {
    let user = authenticate(server, &mut parts, &caller, info).map_err(plain)?;
    let query = parts.uri.query().map(str::to_owned);
    let (labels, fields) = selectors(info, query.as_deref());
    server.authorization.check(&attributes(&user, info, &labels, &fields)).map_err(plain)?;
    if info.is_resource {
        let answer = resource_request(server, parts, body, info, &user).await;
        match server.table.get(&info.group, &info.version, &info.resource) {
            Some(resource) if !resource.deprecation.is_empty() => {
                let mut response = answer.unwrap_or_else(|(error, shown)| response::error(&error, shown));
                response::warn_first(&mut response, &resource.deprecation);
                Ok(response)
            }
            _ => answer,
        }
    } else {
        other_request(server, &parts, info, &user).map_err(plain)
    }
}

fn authenticate(server: &Inner, parts: &mut Parts, caller: &Caller, info: &RequestInfo) -> Result<UserInfo, ApiError> {
    let user = match caller {
        Caller::InProcess(user) => UserInfo::clone(user),
        Caller::Peer(certificates) => {
            server.authenticator.authenticate(parts, certificates.as_deref().map(Vec::as_slice))?
        }
    };
    let query = parts.uri.query().map(str::to_owned);
    let (labels, fields) = selectors(info, query.as_deref());
    let attributes = attributes(&user, info, &labels, &fields);
    match impersonate(&mut parts.headers, &attributes, &*server.authorization)? {
        Some(other) => Ok(other),
        None => Ok(user),
    }
}

fn selectors(info: &RequestInfo, query: Option<&str>) -> (String, String) {
    if !matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") {
        return Default::default();
    }
    let text = |name: &str| query_value(query, name).map(|value| value.into_owned()).unwrap_or_default();
    (text("labelSelector"), text("fieldSelector"))
}

fn attributes<'a>(user: &'a UserInfo, info: &'a RequestInfo, labels: &'a str, fields: &'a str) -> Attributes<'a> {
    if !info.is_resource {
        return Attributes::non_resource(user, &info.verb, &info.path);
    }
    Attributes {
        version: &info.version,
        subresource: &info.subresource,
        name: &info.name,
        namespace: &info.namespace,
        path: &info.path,
        field_selector: fields,
        label_selector: labels,
        ..Attributes::resource(user, &info.verb, &info.group, &info.resource)
    }
}

fn include_object(query: Option<&str>) -> IncludeObject {
    match query_value(query, "includeObject").as_deref() {
        Some("None") => IncludeObject::None,
        Some("Object") => IncludeObject::Object,
        _ => IncludeObject::Metadata,
    }
}

async fn resource_request(
    server: &Arc<Inner>,
    parts: Parts,
    body: Body,
    info: &RequestInfo,
    user: &UserInfo,
) -> Result<Response<Body>, Refusal> {
    let Some(resource) = server.table.get(&info.group, &info.version, &info.resource) else {
        return unknown_resource(server, info).map_err(plain);
    };
    let is_namespaces = resource.plural == "namespaces" && resource.group.is_empty();
    // A namespaced resource is found in a namespace, or listed across all; the others never are.
    let misplaced = if resource.namespaced {
        !info.namespace_in_path && info.named_in_path
    } else {
        info.namespace_in_path && !is_namespaces
    };
    if misplaced {
        return Err(plain(ApiError::no_such_resource()));
    }
    let namespace = if resource.namespaced { info.namespace.as_str() } else { "" };
    let call = Call {
        resource,
        namespace,
        name: if info.named_in_path { &info.name } else { "" },
        subresource: &info.subresource,
        user,
        dry_run: false,
    };
    if !info.subresource.is_empty() && resource.subresource(&info.subresource).is_none() {
        return Err(plain(ApiError::no_such_resource()));
    }
    if kubelet::serves(&call) {
        return kubelet::forward(server, &call, info, parts, body).await.map_err(plain);
    }
    check_route(info, resource.namespaced, &parts.method).map_err(plain)?;
    let query = parts.uri.query();
    let Some(representation) = negotiate(&parts.headers, Offer::Resource, include_object(query)) else {
        return Err(plain(ApiError::not_acceptable(&REPRESENTATIONS)));
    };
    let body = collect(body).await.map_err(|error| (error, Some(representation)))?;
    let body = if media_type(&parts.headers).as_deref() == Some(protobuf::MEDIA_TYPE) && !body.is_empty() {
        let object = protobuf::decode(&body);
        let object = object.map_err(|error| (ApiError::bad_request(error.to_string()), Some(representation)))?;
        object.to_string().into()
    } else {
        body
    };
    let input = Input { query, headers: &parts.headers, body, representation, shutdown: &server.shutdown };
    let answer = if !info.subresource.is_empty() || !resource.is_stored() {
        subresources::serve(server, &call, &info.verb, input).await
    } else {
        resources::serve(&server.registry, &call, &info.verb, input).await
    };
    answer.map_err(|error| (error, Some(representation)))
}

/// Methods that a path doesn't have: POST on an object, PUT on a collection, changes across all namespaces.
fn check_route(info: &RequestInfo, namespaced: bool, method: &Method) -> Result<(), ApiError> {
    let across = namespaced && info.namespace.is_empty();
    let fits = match info.verb.as_str() {
        "create" => (!info.named_in_path || !info.subresource.is_empty()) && !across,
        "update" | "patch" | "delete" => info.named_in_path,
        "get" => *method == Method::GET && info.named_in_path,
        "list" => *method == Method::GET,
        "watch" => *method == Method::GET,
        "deletecollection" => !across,
        _ => false,
    };
    // Cluster-wide resources that are only created, reviews say, have no namespace to be across.
    if fits { Ok(()) } else { Err(ApiError::no_such_method()) }
}

fn unknown_resource(server: &Inner, info: &RequestInfo) -> Result<Response<Body>, ApiError> {
    if server.table.versions(&info.group).is_empty() {
        Ok(response::page_not_found())
    } else {
        Err(ApiError::no_such_resource())
    }
}

fn other_request(
    server: &Arc<Inner>,
    parts: &Parts,
    info: &RequestInfo,
    user: &UserInfo,
) -> Result<Response<Body>, ApiError> {
    let _ = user;
    if let Some(response) = health::serve(server, &info.path, parts.uri.query()) {
        return Ok(response);
    }
    if info.path == "/metrics" {
        return Ok(server.metrics.page(server));
    }
    documents::serve(server, parts, info)
}
