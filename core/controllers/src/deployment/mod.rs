//! Deployments (upstream's `pkg/controller/deployment`).
//!
//! - [`plan`]: what one pass does, and the order of things
//! - [`rollout`]: how many replicas each set gets
//! - [`revision`]: revisions, annotations and names of replica sets
//! - [`status`]: the status and its conditions
//! - [`controller`]: informers, queue and writes

pub mod controller;
pub mod plan;
pub mod revision;
pub mod rollout;
pub mod status;

#[cfg(test)]
mod tests;

pub use controller::run;
