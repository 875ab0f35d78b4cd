//! The scheduler: chooses a node for each pod that has none.
//!
//! The core decides and does no I/O; what it decides depends on what it was told, on the time it was given and on its
//! seed.
//!
//! - [`interner`], [`resources`]: strings and resources as small numbers
//! - [`shape`]: what matters about a pod, parsed; pods of equal shape share all work
//! - [`cluster`]: nodes as columns, pods on rows, claims and volumes
//! - [`local`], [`volumes`]: filters and scores that look at one node by itself
//! - [`ranking`]: all nodes ranked for one shape, kept up to date by what changes
//! - [`plugin`], [`config`]: upstream's plugins by name, profiles, settings
//! - [`failure`]: why nodes are refused, in upstream's words
#![forbid(unsafe_code)]

pub mod cluster;
pub mod config;
pub mod failure;
pub mod interner;
pub mod local;
pub mod plugin;
pub mod ranking;
pub mod resources;
pub mod shape;
pub mod volumes;
