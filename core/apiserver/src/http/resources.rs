//! Verbs on resources: from the request's parts to the registry, and its answer in the asked shape.

use bytes::Bytes;
use gantry_api::decode::{FieldValidation, MediaType, decode};
use gantry_api::error::{ApiError, deleted_status};
use gantry_api::object::Object;
use gantry_api::patch::PatchType;
use gantry_api::resources::{Resource, Verb};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::body::{self, Body};
use super::listing::{ListWriter, list_metadata};
use super::negotiate::{Encoding, Representation, Shape, body_encoding, media_type};
use super::request_info::query_value;
use super::watching::{error_frame, frames};
use super::{response, tables};
use crate::cache::entry::Entry;
use crate::registry::convert;
use crate::registry::delete::Deleted;
use crate::registry::list::{ListError, Page};
use crate::registry::options::{DeleteOptions, ListOptions, dry_run};
use crate::registry::patch::PatchBody;
use crate::registry::update::{Door, Written};
use crate::registry::watch::WatchStart;
use crate::registry::{Call, Registry};

/// What this server can answer in, as upstream names it.
pub const REPRESENTATIONS: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// What a request brings along beside its call.
pub struct Input<'a> {
    /// The query.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The representation of the answer.
    pub representation: Representation,
    /// Ends watches when the server stops.
    pub shutdown: &'a tokio_util::sync::CancellationToken,
}

impl Input<'_> {
    /// The field validation that the client asks for.
    pub fn field_validation(&self) -> Result<FieldValidation, ApiError> {
        match query_value(self.query, "fieldValidation").as_deref() {
            None | Some("" | "Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(other) => {
                let path = gantry_api::field::FieldPath::new("fieldValidation");
                let error =
                    gantry_api::field::FieldError::not_supported(&path, other, &["", "Ignore", "Strict", "Warn"]);
                Err(ApiError::invalid(("meta.k8s.io", "CreateOptions"), "", &[error]))
            }
        }
    }

    /// The body as an object of a resource, with warnings.
    pub fn object(&self, resource: &Resource) -> Result<(Object, Vec<String>), ApiError> {
        let decoded = decode(&self.body, self.media()?, resource, self.field_validation()?)?;
        Ok((decoded.object, decoded.warnings))
    }

    /// The encoding of the body.
    pub fn media(&self) -> Result<MediaType, ApiError> {
        match body_encoding(self.headers) {
            Some(Encoding::Json) => Ok(MediaType::Json),
            Some(Encoding::Yaml) => Ok(MediaType::Yaml),
            None => Err(ApiError::unsupported_media_type(&REPRESENTATIONS)),
        }
    }
}

/// Answers a request on a resource itself (not on a subresource).
pub async fn serve(
    registry: &Registry,
    call: &Call<'_>,
    verb: &str,
    input: Input<'_>,
) -> Result<Response<Body>, ApiError> {
    let needed = match verb {
        "get" => Verb::Get,
        "list" => Verb::List,
        "watch" => Verb::Watch,
        "create" => Verb::Create,
        "update" => Verb::Update,
        "patch" => Verb::Patch,
        "delete" => Verb::Delete,
        "deletecollection" => Verb::DeleteCollection,
        _ => return Err(ApiError::no_such_method()),
    };
    if !call.resource.allows(needed) {
        return Err(ApiError::no_such_method());
    }
    match needed {
        Verb::Get => {
            let entry = registry.entry(call).await?;
            let version = query_value(input.query, "resourceVersion").unwrap_or_default();
            if let Ok(version) = crate::registry::options::parse_version(&version) {
                registry.wait_for(version).await?;
            }
            Ok(one(call.resource, StatusCode::OK, &entry, input.representation))
        }
        Verb::List => list(registry, call, &input).await,
        Verb::Watch => watch(registry, call, &input).await,
        Verb::Create => {
            let (object, mut warnings) = input.object(call.resource)?;
            let call = Call { dry_run: dry_run(input.query, "CreateOptions")?, ..*call };
            let result = registry.create(&call, object).await;
            finish(
                result.map(|(entry, more)| {
                    warnings.extend(more);
                    one(call.resource, StatusCode::CREATED, &entry, input.representation)
                }),
                &warnings,
            )
        }
        Verb::Update => {
            let (object, warnings) = input.object(call.resource)?;
            let call = Call { dry_run: dry_run(input.query, "UpdateOptions")?, ..*call };
            let result = registry.replace(&call, object, Door::Main).await;
            written(&call, result, warnings, input.representation)
        }
        Verb::Patch => {
            let call = Call { dry_run: dry_run(input.query, "PatchOptions")?, ..*call };
            let patch = patch_body(&input)?;
            let result = registry.patch(&call, &patch, Door::Main).await;
            written(&call, result, Vec::new(), input.representation)
        }
        Verb::Delete => delete(registry, call, &input).await,
        Verb::DeleteCollection => delete_collection(registry, call, &input).await,
    }
}

/// A refusal keeps the warnings that came before it.
fn finish(result: Result<Response<Body>, ApiError>, warnings: &[String]) -> Result<Response<Body>, ApiError> {
    let mut response = match result {
        Ok(response) => response,
        Err(error) if warnings.is_empty() => return Err(error),
        Err(error) => response::error(&error, None),
    };
    response::add_warnings(&mut response, warnings);
    Ok(response)
}

/// The answer to an update or patch.
pub fn written(
    call: &Call<'_>,
    result: Result<Written, ApiError>,
    mut warnings: Vec<String>,
    representation: Representation,
) -> Result<Response<Body>, ApiError> {
    let response = result.map(|written| {
        warnings.extend(written.warnings);
        let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        one(call.resource, status, &written.entry, representation)
    });
    finish(response, &warnings)
}

/// The patch in a request's body.
pub fn patch_body(input: &Input<'_>) -> Result<PatchBody, ApiError> {
    let named = media_type(input.headers).unwrap_or_default();
    let patch_type = PatchType::from_content_type(&named).ok_or_else(ApiError::unsupported_patch_type)?;
    Ok(PatchBody { patch_type, body: input.body.clone(), validation: input.field_validation()? })
}

/// An answer with one stored object.
pub fn one(resource: &Resource, status: StatusCode, entry: &Entry, representation: Representation) -> Response<Body> {
    if representation.shape == Shape::Plain && !resource.is_converted() {
        return response::json(status, entry.object_bytes(), representation.encoding);
    }
    match decoded(resource, entry) {
        Ok(object) => {
            response::object(status, &shape_one(resource, object, representation.shape), representation.encoding)
        }
        Err(error) => response::error(&error, Some(representation)),
    }
}

/// An entry's object in the resource's version.
pub fn decoded(resource: &Resource, entry: &Entry) -> Result<Object, ApiError> {
    let mut object = entry.decode().map_err(ApiError::internal)?;
    if resource.is_converted() {
        convert::from_storage(resource, &mut object);
    }
    Ok(object)
}

/// An object in the asked shape.
pub fn shape_one(resource: &Resource, object: Object, shape: Shape) -> Value {
    match shape {
        Shape::Plain | Shape::AggregatedDiscovery(_) => object,
        Shape::PartialMetadata => partial_metadata(&object),
        Shape::Table(include) => tables::one(resource, object, include),
    }
}

/// Only type and metadata of an object.
pub fn partial_metadata(object: &Object) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

async fn list(registry: &Registry, call: &Call<'_>, input: &Input<'_>) -> Result<Response<Body>, ApiError> {
    let options = ListOptions::parse(input.query, false)?;
    let page = match registry.list(call, &options).await {
        Ok(page) => page,
        Err(ListError { error, continue_token: None }) => return Err(error),
        Err(ListError { error, continue_token }) => {
            let mut status = error.to_status();
            status["metadata"]["continue"] = json!(continue_token);
            return Ok(response::object(StatusCode::GONE, &status, input.representation.encoding));
        }
    };
    list_page(call.resource, page, input)
}

fn list_page(resource: &Resource, page: Page, input: &Input<'_>) -> Result<Response<Body>, ApiError> {
    let representation = input.representation;
    let gzip = super::connection::accepts_gzip(input.headers);
    if representation.shape == Shape::Plain && !resource.is_converted() && representation.encoding == Encoding::Json {
        let (content, compressed) = ListWriter::new(resource, page).into_body(gzip);
        let mut response = Response::new(content);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(representation.encoding.media_type()));
        if compressed {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        return Ok(response);
    }
    if representation.shape == Shape::Plain && !resource.is_converted() {
        return Ok(response::json(StatusCode::OK, ListWriter::new(resource, page).collect(), representation.encoding));
    }
    let objects: Result<Vec<Object>, ApiError> = page.entries().iter().map(|entry| decoded(resource, entry)).collect();
    let objects = objects?;
    let metadata = list_metadata(&page);
    let answer = match representation.shape {
        Shape::PartialMetadata => {
            let items: Vec<Value> = objects.iter().map(partial_metadata).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items})
        }
        Shape::Table(include) => tables::table(resource, metadata, objects, include),
        Shape::Plain | Shape::AggregatedDiscovery(_) => list_object(resource, metadata, objects),
    };
    let mut response = response::object(StatusCode::OK, &answer, representation.encoding);
    super::connection::compress_if_large(&mut response, gzip);
    Ok(response)
}

/// A typed list of objects, whose items go without kind and apiVersion.
fn list_object(resource: &Resource, metadata: Value, objects: Vec<Object>) -> Value {
    let items: Vec<Value> = objects
        .into_iter()
        .map(|mut object| {
            if let Some(map) = object.as_object_mut() {
                map.remove("kind");
                map.remove("apiVersion");
            }
            object
        })
        .collect();
    json!({"kind": resource.list_kind, "apiVersion": resource.api_version(), "metadata": metadata, "items": items})
}

async fn watch(registry: &Registry, call: &Call<'_>, input: &Input<'_>) -> Result<Response<Body>, ApiError> {
    if input.representation.encoding == Encoding::Yaml {
        return Err(ApiError::not_acceptable(&[
            "application/json",
            "application/vnd.kubernetes.protobuf;stream=watch",
        ]));
    }
    let options = ListOptions::parse(input.query, true)?;
    let content = match registry.watch(call, &options).await? {
        WatchStart::Running(watch) => {
            body::stream(frames(call.resource, input.representation.shape, watch, input.shutdown.clone()))
        }
        WatchStart::Expired(error) => body::full(error_frame(&error)),
    };
    let mut response = Response::new(content);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The options in the body of a delete; `None` when there is no body.
fn delete_options(input: &Input<'_>) -> Result<DeleteOptions, ApiError> {
    if input.body.is_empty() {
        return DeleteOptions::parse(input.query, None);
    }
    let options: Value = match input.media()? {
        MediaType::Json => {
            serde_json::from_slice(&input.body).map_err(|error| ApiError::bad_request(error.to_string()))?
        }
        MediaType::Yaml => {
            serde_yaml_ng::from_slice(&input.body).map_err(|error| ApiError::bad_request(error.to_string()))?
        }
    };
    if !matches!(options["kind"].as_str(), None | Some("" | "DeleteOptions")) {
        let kind = options["kind"].as_str().unwrap_or_default();
        return Err(ApiError::bad_request(format!("decoded object cannot be converted to DeleteOptions: {kind}")));
    }
    DeleteOptions::parse(input.query, Some(&options))
}

async fn delete(registry: &Registry, call: &Call<'_>, input: &Input<'_>) -> Result<Response<Body>, ApiError> {
    let options = delete_options(input)?;
    let mut warnings = options.warnings(call.resource);
    let result = registry.delete(call, &options).await.map(|(deleted, more)| {
        warnings.extend(more);
        match deleted {
            Deleted::Object(entry) => one(call.resource, StatusCode::OK, &entry, input.representation),
            Deleted::Gone { uid } => response::object(
                StatusCode::OK,
                &deleted_status(call.resource, call.name, &uid),
                input.representation.encoding,
            ),
        }
    });
    finish(result, &warnings)
}

async fn delete_collection(
    registry: &Registry,
    call: &Call<'_>,
    input: &Input<'_>,
) -> Result<Response<Body>, ApiError> {
    let options = delete_options(input)?;
    let selection = ListOptions::parse(input.query, false)?;
    let page = registry.list(call, &selection).await.map_err(|refused| refused.error)?;
    for entry in page.entries() {
        let one = Call { name: entry.name(), namespace: entry.namespace(), ..*call };
        match registry.delete(&one, &options).await {
            Ok(_) => {}
            // Somebody else was faster.
            Err(error) if error.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    finish(list_page(call.resource, page, input), &options.warnings(call.resource))
}
