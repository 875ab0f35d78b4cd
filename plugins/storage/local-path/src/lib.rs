//! Volumes as folders of one node: a folder in `volumes`, bound into the pod.
//!
//! A folder has no limit of its own: a volume can use what its file system has.

use gantry_plugin_sdk::{
    export_volume_driver,
    volume::{
        AccessMode, Capacity, CreateRequest, Error, ErrorCode, Features, Guest, PublishRequest, Snapshot, Volume,
        VolumeMode, VolumeStats,
        host::{folder, mounts, types::KeyValue},
    },
};
use std::sync::OnceLock;

/// Name of the granted folder.
const VOLUMES: &str = "volumes";
/// Anyone may write: the pod's user isn't known when the volume is made, and `fsGroup` is applied by the node agent.
const MODE: u32 = 0o777;

static NODE: OnceLock<String> = OnceLock::new();

struct LocalPath;

fn error(code: ErrorCode, message: impl Into<String>) -> Error {
    Error { code, message: message.into() }
}

/// A volume's id is `NODE/NAME`; its folder has the name.
fn folder_of(id: &str) -> Result<&str, Error> {
    let name = id.rsplit_once('/').map_or(id, |(_, name)| name);
    if name.is_empty() || name == "." || name == ".." || name.contains('\0') {
        return Err(error(ErrorCode::Invalid, format!("volume id {id:?} is none of this driver's")));
    }
    Ok(name)
}

/// The node in a volume's id.
fn node_of(id: &str) -> &str {
    id.rsplit_once('/').map_or("", |(node, _)| node)
}

fn here() -> &'static str {
    NODE.get().map_or("", String::as_str)
}

/// Whether a volume's folder is on the node where this instance runs.
fn check_here(id: &str) -> Result<(), Error> {
    let node = node_of(id);
    if node == here() {
        return Ok(());
    }
    Err(error(ErrorCode::Unavailable, format!("volume {id} is on node {node}, not on {}", here())))
}

fn check(request: &CreateRequest, here: &str) -> Result<(), Error> {
    if request.mode == VolumeMode::Block {
        return Err(error(ErrorCode::Unsupported, "local-path serves file systems, no block devices"));
    }
    if request.source.is_some() {
        return Err(error(ErrorCode::Unsupported, "local-path makes empty volumes only"));
    }
    if let Some(mode) = request.access_modes.iter().find(|mode| !MODES.contains(mode)) {
        return Err(error(
            ErrorCode::Unsupported,
            format!("local-path does not serve {mode:?}: one node has the folder"),
        ));
    }
    if let Some(parameter) = request.parameters.first() {
        return Err(error(ErrorCode::Invalid, format!("local-path knows no parameter {:?}", parameter.key)));
    }
    if request.node.is_empty() {
        let message = "local-path needs a node: set the class's volumeBindingMode to WaitForFirstConsumer";
        return Err(error(ErrorCode::Invalid, message));
    }
    if request.node != here {
        let message = format!("volume {} is for node {}, not for {here}", request.name, request.node);
        return Err(error(ErrorCode::Unavailable, message));
    }
    Ok(())
}

const MODES: &[AccessMode] = &[AccessMode::ReadWriteOnce, AccessMode::ReadWriteOncePod];

impl Guest for LocalPath {
    fn init(_settings: String, node: String) -> Result<Features, Error> {
        NODE.get_or_init(|| node);
        Ok(Features {
            // A folder is as large as its file system: there is nothing to enlarge but the number.
            expand: true,
            snapshots: false,
            clone: false,
            block: false,
            group: false,
            access_modes: MODES.to_vec(),
        })
    }

    fn create(request: CreateRequest) -> Result<Volume, Error> {
        check(&request, here())?;
        let id = format!("{}/{}", request.node, request.name);
        let name = folder_of(&id)?;
        if !folder::exists(VOLUMES, name)? {
            let space = folder::usage(VOLUMES)?;
            if request.required_bytes > space.total_bytes {
                let message = format!(
                    "volume {} of {} bytes: the file system has {} bytes",
                    request.name, request.required_bytes, space.total_bytes
                );
                return Err(error(ErrorCode::Exhausted, message));
            }
            folder::make(VOLUMES, name, MODE)?;
        }
        Ok(Volume { id, capacity_bytes: request.required_bytes, context: Vec::new(), nodes: vec![request.node] })
    }

    fn delete(volume_id: String) -> Result<(), Error> {
        check_here(&volume_id)?;
        folder::remove(VOLUMES, folder_of(&volume_id)?)
    }

    fn publish(request: PublishRequest) -> Result<(), Error> {
        check_here(&request.volume_id)?;
        if mounts::is_mounted(&request.target_path)? {
            return Ok(());
        }
        let source = folder::path(VOLUMES, folder_of(&request.volume_id)?)?;
        let options = mounts::Options { read_only: request.read_only, flags: request.mount_options, data: Vec::new() };
        mounts::bind(&source, &request.target_path, &options)
    }

    fn unpublish(_volume_id: String, target_path: String) -> Result<(), Error> {
        mounts::unmount(&target_path)
    }

    fn expand(volume_id: String, required_bytes: u64) -> Result<u64, Error> {
        check_here(&volume_id)?;
        let name = folder_of(&volume_id)?;
        if !folder::exists(VOLUMES, name)? {
            return Err(error(ErrorCode::NotFound, format!("volume {volume_id} does not exist")));
        }
        Ok(required_bytes)
    }

    fn create_snapshot(_name: String, _volume_id: String) -> Result<Snapshot, Error> {
        Err(error(ErrorCode::Unsupported, "local-path takes no snapshots"))
    }

    fn delete_snapshot(_snapshot_id: String) -> Result<(), Error> {
        Err(error(ErrorCode::Unsupported, "local-path takes no snapshots"))
    }

    fn get_capacity(_parameters: Vec<KeyValue>) -> Result<Capacity, Error> {
        let space = folder::usage(VOLUMES)?;
        Ok(Capacity { available_bytes: space.available_bytes, largest_bytes: space.total_bytes })
    }

    fn stats(volume_id: String, _target_path: String) -> Result<VolumeStats, Error> {
        check_here(&volume_id)?;
        let used = folder::size(VOLUMES, folder_of(&volume_id)?)?;
        let space = folder::usage(VOLUMES)?;
        Ok(VolumeStats {
            total_bytes: space.total_bytes,
            used_bytes: used.bytes,
            available_bytes: space.available_bytes,
            total_inodes: space.total_inodes,
            used_inodes: used.inodes,
            available_inodes: space.available_inodes,
        })
    }
}

export_volume_driver!(LocalPath);
