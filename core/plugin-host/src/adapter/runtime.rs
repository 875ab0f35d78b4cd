//! [`Runtime`] over a component.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use wasmtime::{Store, component::InstancePre};

use crate::{
    PluginError, Runtime, RuntimeCapabilities,
    bindings::runtime::{RuntimePlugin, RuntimePluginPre},
    capability::Powers,
    contract::runtime::{
        ContainerConfig, ContainerStats, ContainerStatus, ExecPlan, ExecRequest, HostFacts, Network, Resources,
        SandboxConfig, SandboxStatus,
    },
    host::FolderPlan,
    instance::{
        InstanceState,
        pool::{Pool, Started, World, call_in_pool},
    },
    plugin::Code,
};

/// The runtime contract.
pub(crate) struct RuntimeWorld {
    pub facts: HostFacts,
    pub capabilities: Arc<dyn RuntimeCapabilities>,
    pub folders: FolderPlan,
}

impl World for RuntimeWorld {
    type Exports = RuntimePlugin;
    type Ready = ();

    fn powers(&self, code: &Code) -> std::io::Result<Powers> {
        let folder_of = |folder: &str| self.folders.path(&code.manifest.name, &code.grant, folder);
        Powers::of_runtime(&code.grant, folder_of, self.capabilities.clone())
    }

    async fn start(
        &self,
        pre: &InstancePre<InstanceState>,
        store: &mut Store<InstanceState>,
        settings: &str,
    ) -> wasmtime::Result<Started<Self>> {
        let exports = RuntimePluginPre::new(pre.clone())?.instantiate_async(&mut *store).await?;
        let ready = exports.gantry_runtime_runtime().call_init(store, settings, &self.facts).await?;
        Ok(ready.map(|()| (exports, ())))
    }
}

/// A runtime plugin.
pub(crate) struct WasmRuntime(pub Pool<RuntimeWorld>);

macro_rules! call {
    ($self:ident, $($call:tt)*) => { call_in_pool!($self.0, $($call)*) };
}

#[async_trait]
impl Runtime for WasmRuntime {
    fn name(&self) -> &str {
        self.0.name()
    }

    async fn run_sandbox(&self, id: &str, config: &SandboxConfig) -> Result<(), PluginError> {
        let paths: Vec<PathBuf> = match &config.network {
            Network::Path(path) => vec![path.into()],
            Network::Node => Vec::new(),
        };
        call!(self, "run-sandbox", Duration::ZERO, paths, gantry_runtime_runtime.call_run_sandbox(id, config))
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), PluginError> {
        call!(self, "stop-sandbox", gantry_runtime_runtime.call_stop_sandbox(id))
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), PluginError> {
        call!(self, "remove-sandbox", gantry_runtime_runtime.call_remove_sandbox(id))
    }

    async fn inspect_sandbox(&self, id: &str) -> Result<SandboxStatus, PluginError> {
        call!(self, "inspect-sandbox", gantry_runtime_runtime.call_inspect_sandbox(id))
    }

    async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>, PluginError> {
        call!(self, "list-sandboxes", gantry_runtime_runtime.call_list_sandboxes())
    }

    async fn create_container(&self, sandbox_id: &str, id: &str, config: &ContainerConfig) -> Result<(), PluginError> {
        call!(self, "create-container", gantry_runtime_runtime.call_create_container(sandbox_id, id, config))
    }

    async fn start_container(&self, id: &str) -> Result<(), PluginError> {
        call!(self, "start-container", gantry_runtime_runtime.call_start_container(id))
    }

    async fn stop_container(&self, id: &str, grace_ms: u32) -> Result<(), PluginError> {
        let grace = Duration::from_millis(grace_ms.into());
        call!(self, "stop-container", grace, Vec::new(), gantry_runtime_runtime.call_stop_container(id, grace_ms))
    }

    async fn remove_container(&self, id: &str) -> Result<(), PluginError> {
        call!(self, "remove-container", gantry_runtime_runtime.call_remove_container(id))
    }

    async fn inspect_container(&self, id: &str) -> Result<ContainerStatus, PluginError> {
        call!(self, "inspect-container", gantry_runtime_runtime.call_inspect_container(id))
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>, PluginError> {
        call!(self, "list-containers", gantry_runtime_runtime.call_list_containers())
    }

    async fn exec_spec(&self, id: &str, request: &ExecRequest) -> Result<ExecPlan, PluginError> {
        call!(self, "exec-spec", gantry_runtime_runtime.call_exec_spec(id, request))
    }

    async fn update_resources(&self, id: &str, resources: &Resources) -> Result<(), PluginError> {
        call!(self, "update-resources", gantry_runtime_runtime.call_update_resources(id, resources))
    }

    async fn stats(&self, id: &str) -> Result<ContainerStats, PluginError> {
        call!(self, "stats", gantry_runtime_runtime.call_stats(id))
    }
}
