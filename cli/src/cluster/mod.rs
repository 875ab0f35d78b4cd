//! The cluster that a command talks to.
//!
//! - [`flags`]: how it is chosen
//! - [`mapper`]: names of resources as users type them
//! - [`objects`]: finding the objects that a command line names
//! - [`manifests`]: objects in files

pub mod flags;
pub mod manifests;
pub mod mapper;
pub mod objects;

use std::collections::HashSet;
use std::sync::Mutex;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;

use crate::error::{CliError, CliResult};

/// Asks for printed tables; servers that can't make them answer with objects.
pub const TABLE: &str =
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
const JSON: &str = "application/json";

/// A patch's media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 7396.
    Merge,
    /// Kubernetes' own.
    Strategic,
}

impl PatchType {
    /// The content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
        }
    }
}

/// A connection to a cluster.
pub struct Cluster {
    client: kube::Client,
    server: String,
    /// The namespace of the command: from the flag, or else the context's.
    pub namespace: String,
    /// Whether the namespace was given on the command line.
    pub namespace_given: bool,
    warned: Mutex<HashSet<String>>,
}

impl Cluster {
    /// A connection from its parts.
    pub fn new(client: kube::Client, server: String, namespace: String, namespace_given: bool) -> Self {
        Self { client, server, namespace, namespace_given, warned: Mutex::default() }
    }

    /// The client, for what needs more than requests and answers.
    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    /// Sends a request; the answer's body is still to be read. Warnings are shown, each once.
    pub async fn send(&self, request: Request<Vec<u8>>) -> CliResult<Response<Body>> {
        let response =
            self.client.send(request.map(Body::from)).await.map_err(|error| self.connection_error(&error))?;
        self.show_warnings(response.headers());
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let body = self.read(response).await?;
        Err(CliError::from_status(code, &body))
    }

    async fn read(&self, response: Response<Body>) -> CliResult<Bytes> {
        let body = response.into_body().collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| self.connection_error(&error))
    }

    /// Says why there was no answer.
    pub fn connection_error(&self, error: &dyn std::error::Error) -> CliError {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            reason = inner.to_string();
            source = inner.source();
        }
        CliError::Connection { server: self.server.clone(), reason }
    }

    /// The header of RFC 9111: `299 - "TEXT"`.
    fn show_warnings(&self, headers: &HeaderMap) {
        for value in headers.get_all(http::header::WARNING) {
            let Ok(text) = value.to_str() else { continue };
            let Some(quoted) = text.splitn(3, ' ').nth(2) else { continue };
            let text = quoted.trim_start_matches('"').trim_end_matches('"').replace("\\\"", "\"");
            let new = self.warned.lock().map(|mut warned| warned.insert(text.clone())).unwrap_or(true);
            if new {
                eprintln!("Warning: {text}");
            }
        }
    }

    async fn request(&self, method: &str, path: &str, accept: &str, body: Option<(&str, Vec<u8>)>) -> CliResult<Value> {
        let mut request = Request::builder().method(method).uri(path).header("accept", accept);
        let mut bytes = Vec::new();
        if let Some((content_type, content)) = body {
            request = request.header("content-type", content_type);
            bytes = content;
        }
        let request = request.body(bytes).map_err(|error| CliError::usage(error.to_string()))?;
        let response = self.send(request).await?;
        let body = self.read(response).await?;
        serde_json::from_slice(&body)
            .map_err(|error| CliError::usage(format!("the server's answer to {method} {path} isn't JSON: {error}")))
    }

    /// GET; `path` with its query.
    pub async fn get(&self, path: &str) -> CliResult<Value> {
        self.request("GET", path, JSON, None).await
    }

    /// GET, as a printed table where the server can.
    pub async fn get_table(&self, path: &str) -> CliResult<Value> {
        self.request("GET", path, TABLE, None).await
    }

    /// GET with another `Accept`.
    pub async fn get_as(&self, path: &str, accept: &str) -> CliResult<Value> {
        self.request("GET", path, accept, None).await
    }

    /// GET of a text.
    pub async fn get_text(&self, path: &str) -> CliResult<String> {
        let request = Request::get(path).header("accept", "text/plain,*/*").body(Vec::new());
        let response = self.send(request.map_err(|error| CliError::usage(error.to_string()))?).await?;
        Ok(String::from_utf8_lossy(&self.read(response).await?).into_owned())
    }

    /// POST of an object.
    pub async fn post(&self, path: &str, object: &Value) -> CliResult<Value> {
        self.request("POST", path, JSON, Some((JSON, serde_json::to_vec(object)?))).await
    }

    /// PUT of an object.
    pub async fn put(&self, path: &str, object: &Value) -> CliResult<Value> {
        self.request("PUT", path, JSON, Some((JSON, serde_json::to_vec(object)?))).await
    }

    /// PATCH.
    pub async fn patch(&self, path: &str, kind: PatchType, patch: &Value) -> CliResult<Value> {
        self.request("PATCH", path, JSON, Some((kind.content_type(), serde_json::to_vec(patch)?))).await
    }

    /// DELETE with options.
    pub async fn delete(&self, path: &str, options: &Value) -> CliResult<Value> {
        self.request("DELETE", path, JSON, Some((JSON, serde_json::to_vec(options)?))).await
    }

    /// GET of a stream: lines of logs, events of a watch.
    pub async fn stream(&self, path: &str, accept: &str) -> CliResult<impl tokio::io::AsyncBufRead + Unpin + use<>> {
        use futures::TryStreamExt;
        let request = Request::get(path).header("accept", accept).body(Vec::new());
        let response = self.send(request.map_err(|error| CliError::usage(error.to_string()))?).await?;
        let chunks = response.into_body().into_data_stream().map_err(std::io::Error::other);
        Ok(tokio_util::io::StreamReader::new(Box::pin(chunks)))
    }
}

/// Joins query parameters that are there onto a path.
pub fn with_query<'a>(path: &str, parameters: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, &value);
        }
    }
    let query = query.finish();
    match (query.is_empty(), path.contains('?')) {
        (true, _) => path.to_owned(),
        (false, false) => format!("{path}?{query}"),
        (false, true) => format!("{path}&{query}"),
    }
}
