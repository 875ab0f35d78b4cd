//! `GET /containerLogs/{namespace}/{pod}/{container}`: a container's log file as the client wants it.
//!
//! - [`cri`]: lines of log files
//! - [`options`]: what the client wants, and what it gets of a line
//! - [`reader`]: reading the file, also while it grows and is rotated

mod cri;
mod options;
mod reader;

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::request::{Body, Query, Refusal, full};
use crate::container_io::ContainerIo;
use crate::view::{AgentView, ContainerLocation, ViewError};
use options::LogOptions;

/// Chunks that wait for a slow client.
const CHUNKS_MAX: usize = 4;

fn status_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    all.into_iter().flatten().flatten().find(|status| status.name == container)
}

/// Why a container that has no instance has no log.
fn waiting(pod: Option<&Pod>, name: &str, container: &str) -> String {
    let status = pod.and_then(|pod| status_of(pod, container));
    let waiting = status.and_then(|status| status.state.as_ref()?.waiting.as_ref());
    let why = match waiting.and_then(|waiting| waiting.reason.as_deref()) {
        Some("ErrImagePull") => "image can't be pulled",
        Some("ImagePullBackOff") => "trying and failing to pull image",
        Some(reason) => reason,
        None => return format!("container {container:?} in pod {name:?} is not available"),
    };
    format!("container {container:?} in pod {name:?} is waiting to start: {why}")
}

fn refusal(error: ViewError, view: &dyn AgentView, namespace: &str, options: &LogOptions) -> Refusal {
    match error {
        ViewError::PodNotFound { .. } => Refusal::not_found(error.to_string()),
        ViewError::ContainerNotFound { pod, container } => {
            Refusal::not_found(format!("container {container:?} not found in pod {pod:?}"))
        }
        ViewError::NotStarted { pod, container, .. } if options.previous => {
            Refusal::bad_request(format!("previous terminated container {container:?} in pod {pod:?} not found"))
        }
        ViewError::NotStarted { pod, container, .. } => {
            Refusal::bad_request(waiting(view.pod(namespace, &pod).as_deref(), &pod, &container))
        }
        ViewError::Runtime { .. } => Refusal::internal(error.to_string()),
    }
}

fn locate(
    view: &dyn AgentView,
    namespace: &str,
    pod: &str,
    container: &str,
    options: &LogOptions,
) -> Result<ContainerLocation, Refusal> {
    use gantry_plugin_host::contract::runtime::ContainerState;
    let newest = view.container(namespace, pod, container, options.previous);
    match newest {
        // What has not started has written nothing: the instance before it speaks for the container, as upstream.
        Ok(found) if !options.previous && found.state == ContainerState::Created => {
            match view.container(namespace, pod, container, true) {
                Ok(before) => Ok(before),
                Err(_) => Err(Refusal::bad_request(waiting(view.pod(namespace, pod).as_deref(), pod, container))),
            }
        }
        Ok(found) => Ok(found),
        Err(error) => Err(refusal(error, view, namespace, options)),
    }
}

/// Answers a request for a log.
pub async fn answer(
    view: Arc<dyn AgentView>,
    io: Arc<dyn ContainerIo>,
    stop: CancellationToken,
    (namespace, pod, container): (&str, &str, &str),
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let options = LogOptions::parse(query, jiff::Timestamp::now()).map_err(Refusal::bad_request)?;
    // Before the state is looked at: no exit is missed.
    let exits = io.exits();
    let location = locate(&*view, namespace, pod, container, &options)?;
    let path = location
        .log_path
        .clone()
        .ok_or_else(|| Refusal::internal(format!("container {container:?} in pod {pod:?} has no log file")))?;
    let file = match tokio::fs::File::open(&path).await {
        Ok(file) => file,
        Err(error) => {
            let message = format!("failed to open log file {:?}: {error}", path.display().to_string());
            return Err(Refusal::internal(message));
        }
    };
    let (out, chunks) = mpsc::channel::<Bytes>(CHUNKS_MAX);
    let source = reader::Source {
        path,
        container_id: location.container_id,
        view,
        of: [namespace.to_owned(), pod.to_owned(), container.to_owned()],
        exits,
    };
    tokio::spawn(async move {
        let closed = out.clone();
        tokio::select! {
            result = reader::read(source, file, options, out) => {
                if let Err(error) = result {
                    tracing::warn!(%error, "a log can't be read to its end");
                }
            }
            () = closed.closed() => {}
            () = stop.cancelled() => {}
        }
    });
    let chunks = ReceiverStream::new(chunks).map(|chunk| Ok(Frame::data(chunk)));
    let mut response = Response::new(full(Bytes::new()));
    *response.body_mut() = StreamBody::new(chunks).boxed_unsync();
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    Ok(response)
}
