//! Loads, checks, grants, limits, runs and replaces plugins.
//!
//! - [`contract`]: what each kind of plugin does, as a Rust trait; callers know only these
//! - [`capability`]: what the host does for plugins, as Rust traits; the node agent implements them
//! - `bindings`: generated from `plugins/wit`
//! - `error`: [`PluginError`]

pub mod bindings;
pub mod capability;
pub mod contract;
mod error;

pub use capability::{CapabilityError, ErrorCode, RuntimeCapabilities, VolumeCapabilities};
pub use contract::{runtime::Runtime, scheduler::Policy, volume::VolumeDriver};
pub use error::PluginError;
