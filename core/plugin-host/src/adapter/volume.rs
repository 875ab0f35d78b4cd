//! [`VolumeDriver`] over a component.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use wasmtime::{Store, component::InstancePre};

use crate::{
    PluginError, VolumeCapabilities, VolumeDriver,
    bindings::volume::{VolumePlugin, VolumePluginPre},
    capability::{KeyValue, Powers},
    contract::volume::{Capacity, CreateRequest, Features, PublishRequest, Snapshot, Volume, VolumeStats},
    host::FolderPlan,
    instance::{
        InstanceState,
        pool::{Pool, Started, World, call_in_pool},
    },
    plugin::Code,
};

/// Longest id of a volume.
const ID_BYTES_MAX: usize = 128;

/// The volume contract.
pub(crate) struct VolumeWorld {
    pub node: String,
    pub capabilities: Arc<dyn VolumeCapabilities>,
    pub folders: FolderPlan,
}

impl World for VolumeWorld {
    type Exports = VolumePlugin;
    type Ready = Features;

    fn powers(&self, code: &Code) -> std::io::Result<Powers> {
        let folder_of = |folder: &str| self.folders.path(&code.manifest.name, &code.grant, folder);
        Powers::of_volume_driver(&code.grant, folder_of, self.capabilities.clone())
    }

    async fn start(
        &self,
        pre: &InstancePre<InstanceState>,
        store: &mut Store<InstanceState>,
        settings: &str,
    ) -> wasmtime::Result<Started<Self>> {
        let exports = VolumePluginPre::new(pre.clone())?.instantiate_async(&mut *store).await?;
        let features = exports.gantry_volume_driver().call_init(store, settings, &self.node).await?;
        Ok(features.map(|features| (exports, features)))
    }
}

/// A volume plugin.
pub(crate) struct WasmVolumeDriver(pub Pool<VolumeWorld>);

macro_rules! call {
    ($self:ident, $($call:tt)*) => { call_in_pool!($self.0, $($call)*) };
}

#[async_trait]
impl VolumeDriver for WasmVolumeDriver {
    fn name(&self) -> &str {
        self.0.name()
    }

    async fn features(&self) -> Result<Features, PluginError> {
        let lease = self.0.checkout("init").await?;
        let features = lease.ready();
        lease.finish(Ok(Ok(
            features.ok_or_else(|| crate::CapabilityError::new(crate::ErrorCode::Internal, "the instance is gone"))
        )))
    }

    async fn create(&self, request: &CreateRequest) -> Result<Volume, PluginError> {
        let volume = call!(self, "create", gantry_volume_driver.call_create(request))?;
        if volume.id.is_empty() || volume.id.len() > ID_BYTES_MAX {
            return Err(PluginError::BadAnswer {
                plugin: self.name().to_owned(),
                call: "create",
                reason: format!("a volume's id of {} bytes; it has 1 to {ID_BYTES_MAX}", volume.id.len()),
            });
        }
        Ok(volume)
    }

    async fn delete(&self, volume_id: &str) -> Result<(), PluginError> {
        call!(self, "delete", gantry_volume_driver.call_delete(volume_id))
    }

    async fn publish(&self, request: &PublishRequest) -> Result<(), PluginError> {
        let paths = vec![request.target_path.clone().into()];
        call!(self, "publish", Duration::ZERO, paths, gantry_volume_driver.call_publish(request))
    }

    async fn unpublish(&self, volume_id: &str, target_path: &str) -> Result<(), PluginError> {
        let paths = vec![target_path.into()];
        call!(self, "unpublish", Duration::ZERO, paths, gantry_volume_driver.call_unpublish(volume_id, target_path))
    }

    async fn expand(&self, volume_id: &str, required_bytes: u64) -> Result<u64, PluginError> {
        call!(self, "expand", gantry_volume_driver.call_expand(volume_id, required_bytes))
    }

    async fn create_snapshot(&self, name: &str, volume_id: &str) -> Result<Snapshot, PluginError> {
        call!(self, "create-snapshot", gantry_volume_driver.call_create_snapshot(name, volume_id))
    }

    async fn delete_snapshot(&self, snapshot_id: &str) -> Result<(), PluginError> {
        call!(self, "delete-snapshot", gantry_volume_driver.call_delete_snapshot(snapshot_id))
    }

    async fn get_capacity(&self, parameters: &[KeyValue]) -> Result<Capacity, PluginError> {
        call!(self, "get-capacity", gantry_volume_driver.call_get_capacity(parameters))
    }

    async fn stats(&self, volume_id: &str, target_path: &str) -> Result<VolumeStats, PluginError> {
        let paths = vec![target_path.into()];
        call!(self, "stats", Duration::ZERO, paths, gantry_volume_driver.call_stats(volume_id, target_path))
    }
}
