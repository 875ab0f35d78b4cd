//! Loads, checks, grants, limits, runs and replaces plugins.
//!
//! - [`contract`]: what each kind of plugin does, as a Rust trait; callers know only these
//! - [`capability`]: what the host does for plugins, as Rust traits; the node agent implements them
//! - `host`: [`PluginHost`], the plugins of this process; `in_box`: those in the binary
//! - `manifest`, `settings`: [`Manifest`], a plugin's `plugin.toml`, and the schema of its settings
//! - `grant`, `limits`: what a plugin may reach ([`Grant`]) and take ([`Limits`])
//! - `plugin`: a plugin and its current code; `engine`: compiling it, and the clock of its calls
//! - `instance`: what runs: stores, imports, pools; `health`: when one that fails is left alone
//! - `adapter`: the contracts' traits over components; `nodes`: what a policy was told
//! - `bindings`: generated from `plugins/wit`
//! - `error`: [`PluginError`]

mod adapter;
pub mod bindings;
pub mod capability;
pub mod contract;
mod engine;
mod error;
mod grant;
mod health;
mod host;
mod in_box;
mod instance;
mod limits;
mod manifest;
mod nodes;
mod plugin;
mod settings;

pub use capability::{Capability, CapabilityError, ErrorCode, RuntimeCapabilities, VolumeCapabilities};
pub use contract::{runtime::Runtime, scheduler::Policy, volume::VolumeDriver};
pub use error::PluginError;
pub use grant::Grant;
pub use host::{HostOptions, PluginHost, PluginInfo, PluginOptions};
pub use limits::Limits;
pub use manifest::{Kind, Manifest};
pub use plugin::Source;
pub use settings::{Schema, Type};
