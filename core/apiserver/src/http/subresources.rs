//! What lies below objects (status, scale, binding, eviction, …), and resources that aren't stored (reviews).

use std::sync::Arc;

use gantry_api::decode::{Decoded, Expected, decode_as};
use gantry_api::error::ApiError;
use gantry_api::object::{Object, map_mut};
use gantry_api::patch;
use gantry_api::resources::Verb;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::body::Body;
use super::negotiate::media_type;
use super::resources::{Input, one, patch_body, written};
use super::response;
use crate::registry::options::dry_run;
use crate::registry::update::{Door, success, without_version};
use crate::registry::{Call, namespaces, pods};
use crate::server::Inner;

fn verb_of(verb: &str) -> Option<Verb> {
    Verb::ALL.into_iter().find(|known| known.as_str() == verb)
}

/// Answers a request on a subresource or on a resource that isn't stored.
pub async fn serve(
    server: &Arc<Inner>,
    call: &Call<'_>,
    verb: &str,
    input: Input<'_>,
) -> Result<Response<Body>, ApiError> {
    let asked = verb_of(verb).ok_or_else(ApiError::no_such_method)?;
    if call.subresource.is_empty() {
        if !call.resource.allows(asked) {
            return Err(ApiError::no_such_method());
        }
        return unstored(server, call, asked, input).await;
    }
    let Some(sub) = call.resource.subresource(call.subresource) else { return Err(ApiError::no_such_resource()) };
    if !sub.verbs.contains(&asked) {
        return Err(ApiError::no_such_method());
    }
    let expected = Expected::of_subresource(call.resource, sub);
    match (call.resource.plural.as_str(), call.subresource) {
        (_, "status") => through(server, call, asked, Door::Status, input).await,
        (_, "scale") => scale(server, call, asked, expected, input).await,
        ("namespaces", "finalize") => finalize(server, call, input).await,
        ("pods", "ephemeralcontainers") => special(server, call, asked, input, &pods::with_ephemeral_containers).await,
        ("pods", "binding") => {
            let binding = body(&input, expected)?;
            bind(server, call, binding, &input).await
        }
        ("pods", "eviction") => evict(server, call, expected, input).await,
        ("certificatesigningrequests", "approval") => special(server, call, asked, input, &with_conditions).await,
        ("serviceaccounts", "token") => token(server, call, expected, input).await,
        _ => Err(ApiError::no_such_resource()),
    }
}

fn body(input: &Input<'_>, expected: Expected<'_>) -> Result<Decoded, ApiError> {
    decode_as(&input.body, input.media()?, expected, input.field_validation()?)
}

/// Whether a write is a dry run, by the options' kind that its verb has.
fn is_dry_run(input: &Input<'_>, verb: Verb) -> Result<bool, ApiError> {
    let kind = match verb {
        Verb::Patch => "PatchOptions",
        Verb::Update => "UpdateOptions",
        _ => "CreateOptions",
    };
    dry_run(input.query, kind)
}

/// Get, update and patch of the object itself, by another door.
async fn through(
    server: &Inner,
    call: &Call<'_>,
    verb: Verb,
    door: Door,
    input: Input<'_>,
) -> Result<Response<Body>, ApiError> {
    let call = Call { dry_run: is_dry_run(&input, verb)?, ..*call };
    let registry = &server.registry;
    match verb {
        Verb::Get => Ok(one(call.resource, StatusCode::OK, &*registry.entry(&call).await?, input.representation)),
        Verb::Update => {
            let (object, warnings) = input.object(call.resource)?;
            written(&call, registry.replace(&call, object, door).await, warnings, input.representation)
        }
        Verb::Patch => {
            let patch = patch_body(&input)?;
            written(&call, registry.patch(&call, &patch, door).await, Vec::new(), input.representation)
        }
        _ => Err(ApiError::no_such_method()),
    }
}

type Merge<'m> = dyn Fn(&Object, &Object) -> Object + Send + Sync + 'm;

/// Get, update and patch where only a part of the object counts: `merge` puts it into what is there.
async fn special(
    server: &Inner,
    call: &Call<'_>,
    verb: Verb,
    input: Input<'_>,
    merge: &Merge<'_>,
) -> Result<Response<Body>, ApiError> {
    let call = Call { dry_run: is_dry_run(&input, verb)?, ..*call };
    let registry = &server.registry;
    match verb {
        Verb::Get => through(server, &call, verb, Door::Special, input).await,
        Verb::Update => {
            let (mut object, warnings) = input.object(call.resource)?;
            crate::registry::metadata::match_name(&object, &call)?;
            gantry_api::schema::apply_defaults(call.resource, &mut object);
            let result = registry.update(&call, Door::Main, &|old| Ok(merge(old, &object))).await;
            written(&call, result, warnings, input.representation)
        }
        Verb::Patch => {
            let patch = patch_body(&input)?;
            let result = registry
                .update(&call, Door::Main, &|old| {
                    let (object, _) = registry.patched(&call, &patch, old)?;
                    Ok(merge(old, &object))
                })
                .await;
            written(&call, result, Vec::new(), input.representation)
        }
        _ => Err(ApiError::no_such_method()),
    }
}

/// An approval changes the conditions of a request's status only.
fn with_conditions(old: &Object, wanted: &Object) -> Object {
    let mut next = without_version(old.clone());
    if let Some(version) = wanted.pointer("/metadata/resourceVersion") {
        map_mut(&mut next, "metadata").insert("resourceVersion".to_owned(), version.clone());
    }
    match wanted.pointer("/status/conditions") {
        Some(conditions) => map_mut(&mut next, "status").insert("conditions".to_owned(), conditions.clone()),
        None => map_mut(&mut next, "status").remove("conditions"),
    };
    next
}

async fn scale(
    server: &Inner,
    call: &Call<'_>,
    verb: Verb,
    expected: Expected<'_>,
    input: Input<'_>,
) -> Result<Response<Body>, ApiError> {
    let call = Call { dry_run: is_dry_run(&input, verb)?, ..*call };
    let registry = &server.registry;
    let scale = match verb {
        Verb::Get => registry.scale(&call).await?,
        Verb::Update => {
            let wanted = body(&input, expected)?.object;
            registry.rescale(&call, &|_| Ok(wanted.clone())).await?
        }
        Verb::Patch => {
            let kind = media_type(input.headers);
            registry
                .rescale(&call, &|before| match kind.as_deref() {
                    Some("application/json-patch+json") => patch::json_patch(&before, &input.body),
                    Some("application/merge-patch+json" | "application/strategic-merge-patch+json") => {
                        patch::merge_patch(&before, &input.body)
                    }
                    _ => Err(ApiError::unsupported_patch_type()),
                })
                .await?
        }
        _ => return Err(ApiError::no_such_method()),
    };
    Ok(response::object(StatusCode::OK, &scale, input.representation.encoding))
}

async fn finalize(server: &Inner, call: &Call<'_>, input: Input<'_>) -> Result<Response<Body>, ApiError> {
    let (object, warnings) = input.object(call.resource)?;
    let call = Call { dry_run: dry_run(input.query, "UpdateOptions")?, ..*call };
    debug_assert!(namespaces::is_namespace(call.resource));
    written(&call, server.registry.finalize(&call, object).await, warnings, input.representation)
}

async fn bind(
    server: &Inner,
    call: &Call<'_>,
    binding: Decoded,
    input: &Input<'_>,
) -> Result<Response<Body>, ApiError> {
    let call = Call { dry_run: dry_run(input.query, "CreateOptions")?, ..*call };
    server.registry.bind(&call, &binding.object).await?;
    let mut response = response::object(StatusCode::CREATED, &success(Some(201)), input.representation.encoding);
    response::add_warnings(&mut response, &binding.warnings);
    Ok(response)
}

async fn evict(
    server: &Inner,
    call: &Call<'_>,
    expected: Expected<'_>,
    input: Input<'_>,
) -> Result<Response<Body>, ApiError> {
    let eviction = body(&input, expected)?;
    let call = Call { dry_run: dry_run(input.query, "CreateOptions")?, ..*call };
    server.registry.evict(&call, &eviction.object).await?;
    Ok(response::object(StatusCode::CREATED, &success(Some(201)), input.representation.encoding))
}

async fn token(
    server: &Inner,
    call: &Call<'_>,
    expected: Expected<'_>,
    input: Input<'_>,
) -> Result<Response<Body>, ApiError> {
    let request = body(&input, expected)?.object;
    let answer = server.token_request(call, request)?;
    Ok(response::object(StatusCode::CREATED, &answer, input.representation.encoding))
}

async fn unstored(
    server: &Arc<Inner>,
    call: &Call<'_>,
    verb: Verb,
    input: Input<'_>,
) -> Result<Response<Body>, ApiError> {
    let resource = call.resource;
    match (resource.group.as_str(), resource.plural.as_str(), verb) {
        ("", "bindings", Verb::Create) => {
            let binding = body(&input, Expected::from(resource))?;
            let Some(pods) = server.table.get("", "v1", "pods") else { return Err(ApiError::no_such_resource()) };
            let name = gantry_api::object::str_at(&binding.object, "metadata.name").to_owned();
            let call = Call { resource: pods, name: &name, subresource: "binding", ..*call };
            bind(server, &call, binding, &input).await
        }
        ("", "componentstatuses", Verb::List) => {
            let list = json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": [component_status(server).await]});
            Ok(response::object(StatusCode::OK, &list, input.representation.encoding))
        }
        ("", "componentstatuses", Verb::Get) => {
            if call.name != STORE_COMPONENT {
                return Err(call.not_found());
            }
            let mut status = component_status(server).await;
            map_mut(&mut status, "")
                .extend([("kind".to_owned(), json!("ComponentStatus")), ("apiVersion".to_owned(), json!("v1"))]);
            Ok(response::object(StatusCode::OK, &status, input.representation.encoding))
        }
        ("authentication.k8s.io" | "authorization.k8s.io", _, Verb::Create) => {
            let review = body(&input, Expected::from(resource))?.object;
            let answer = server.reviewer.review(resource, call.namespace, call.user, review)?;
            Ok(response::object(StatusCode::CREATED, &answer, input.representation.encoding))
        }
        _ => Err(ApiError::no_such_method()),
    }
}

/// The one component whose state the server itself knows.
const STORE_COMPONENT: &str = "etcd-0";

async fn component_status(server: &Inner) -> Value {
    let condition = match server.registry.store.status().await {
        Ok(_) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(error) => json!({"type": "Healthy", "status": "False", "message": error.to_string()}),
    };
    json!({"metadata": {"name": STORE_COMPONENT}, "conditions": [condition]})
}
