//! `gantry:runtime@0.1.0`: sandboxes and containers. The meaning of each call is in
//! `plugins/wit/runtime/runtime.wit`.

use async_trait::async_trait;

pub use crate::bindings::runtime::gantry::runtime::types::*;

use crate::PluginError;

/// A runtime. Every call may fail by the plugin's own word ([`PluginError::Refused`]) or because
/// the plugin misbehaved; [`PluginError::code`] tells both apart for retries.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// The plugin's name: the handler of a RuntimeClass.
    fn name(&self) -> &str;
    /// Makes a sandbox; the id is the caller's.
    async fn run_sandbox(&self, id: &str, config: &SandboxConfig) -> Result<(), PluginError>;
    /// Stops what runs in a sandbox.
    async fn stop_sandbox(&self, id: &str) -> Result<(), PluginError>;
    /// Removes a sandbox and the containers left in it.
    async fn remove_sandbox(&self, id: &str) -> Result<(), PluginError>;
    /// One sandbox.
    async fn inspect_sandbox(&self, id: &str) -> Result<SandboxStatus, PluginError>;
    /// All sandboxes of this runtime.
    async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>, PluginError>;
    /// Creates a container in a sandbox; the id is the caller's.
    async fn create_container(&self, sandbox_id: &str, id: &str, config: &ContainerConfig) -> Result<(), PluginError>;
    /// Starts a created container.
    async fn start_container(&self, id: &str) -> Result<(), PluginError>;
    /// Stop signal, then, after the grace period, a kill.
    async fn stop_container(&self, id: &str, grace_ms: u32) -> Result<(), PluginError>;
    /// Removes a container, killing it first when it runs.
    async fn remove_container(&self, id: &str) -> Result<(), PluginError>;
    /// One container.
    async fn inspect_container(&self, id: &str) -> Result<ContainerStatus, PluginError>;
    /// All containers of this runtime.
    async fn list_containers(&self) -> Result<Vec<ContainerStatus>, PluginError>;
    /// How to run a command in a container.
    async fn exec_spec(&self, id: &str, request: &ExecRequest) -> Result<ExecPlan, PluginError>;
    /// Applies new limits.
    async fn update_resources(&self, id: &str, resources: &Resources) -> Result<(), PluginError>;
    /// Usage of a container.
    async fn stats(&self, id: &str) -> Result<ContainerStats, PluginError>;
}
