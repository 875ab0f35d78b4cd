//! What the node and its pods use: `/stats/summary` and `/metrics/resource`.
//!
//! - [`collect`]: asking the runtimes and the kernel
//! - [`render`]: the answers, from what was found

mod collect;
mod render;

use http::{Response, StatusCode};

use super::request::{Body, with_type};
use crate::view::AgentView;

/// Answers with a Summary of the kubelet's stats API.
pub async fn summary(view: &dyn AgentView) -> Response<Body> {
    let usage = collect::usage(view).await;
    with_type(StatusCode::OK, "application/json", render::summary(&usage).to_string())
}

/// Answers with the resource metrics (KEP-727) in Prometheus' text format.
pub async fn resource_metrics(view: &dyn AgentView) -> Response<Body> {
    let usage = collect::usage(view).await;
    with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", render::metrics(&usage))
}
