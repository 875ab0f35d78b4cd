//! `gantry:volume@0.1.0`: storage for claims. The meaning of each call is in
//! `plugins/wit/volume/volume.wit`.

use async_trait::async_trait;

pub use crate::bindings::volume::gantry::volume::types::*;

use crate::PluginError;

/// A volume driver.
#[async_trait]
pub trait VolumeDriver: Send + Sync {
    /// The plugin's name: the provisioner of a StorageClass.
    fn name(&self) -> &str;
    /// What the driver said at `init` that it can do.
    async fn features(&self) -> Result<Features, PluginError>;
    /// Makes a volume, or returns the one of that name.
    async fn create(&self, request: &CreateRequest) -> Result<Volume, PluginError>;
    /// Deletes a volume.
    async fn delete(&self, volume_id: &str) -> Result<(), PluginError>;
    /// Makes a volume appear at a path of this node.
    async fn publish(&self, request: &PublishRequest) -> Result<(), PluginError>;
    /// Undoes `publish`.
    async fn unpublish(&self, volume_id: &str, target_path: &str) -> Result<(), PluginError>;
    /// Enlarges a volume; returns its new capacity in bytes.
    async fn expand(&self, volume_id: &str, required_bytes: u64) -> Result<u64, PluginError>;
    /// Takes a snapshot, or returns the one of that name.
    async fn create_snapshot(&self, name: &str, volume_id: &str) -> Result<Snapshot, PluginError>;
    /// Deletes a snapshot.
    async fn delete_snapshot(&self, snapshot_id: &str) -> Result<(), PluginError>;
    /// What is left for volumes of a class with these parameters.
    async fn get_capacity(&self, parameters: &[KeyValue]) -> Result<Capacity, PluginError>;
    /// What a published volume uses.
    async fn stats(&self, volume_id: &str, target_path: &str) -> Result<VolumeStats, PluginError>;
}
