//! The scheduler: chooses a node for each pod that has none.
//!
//! The core decides and does no I/O; what it decides depends on what it was told, on the time it was given and on its
//! seed. [`Scheduler`] is the thin shell around it.
//!
//! - [`interner`], [`resources`]: strings and resources as small numbers
//! - [`shape`]: what matters about a pod, parsed; pods of equal shape share all work
//! - [`cluster`]: nodes as columns, pods on rows, claims and volumes
//! - [`local`], [`volumes`]: filters and scores that look at one node by itself
//! - [`ranking`]: all nodes ranked for one shape, kept up to date by what changes
//! - [`plugin`], [`config`]: upstream's plugins by name, profiles, settings
//! - [`failure`]: why nodes are refused, in upstream's words
//! - [`queue`], [`hints`]: pods that wait, and which event can help which
//! - [`preemption`]: making room for more important pods
//! - [`policy`]: policy plugins
//! - [`engine`]: the decision maker over all of these
//! - [`run`]: watching, binding and writing conditions; the only part with I/O
#![forbid(unsafe_code)]

pub mod cluster;
pub mod config;
pub mod engine;
pub mod failure;
pub mod hints;
pub mod interner;
pub mod local;
pub mod plugin;
pub mod policy;
pub mod preemption;
pub mod queue;
pub mod ranking;
pub mod resources;
pub mod run;
pub mod shape;
pub mod volumes;

#[cfg(test)]
mod decision_tests;
#[cfg(test)]
mod simulation;

pub use config::{PolicyConfig, SchedulerConfig};
pub use policy::PolicyProvider;
pub use run::Scheduler;
