//! What is written down about sandboxes and containers.

use std::collections::BTreeMap;

use gantry_plugin_sdk::{
    runtime::{ContainerConfig, Error, ErrorCode, NamespaceMode, Network, SandboxConfig, host::types::KeyValue},
    serde::{Deserialize, Serialize, de::DeserializeOwned},
    serde_json,
};

use crate::error;

/// Annotation of a bundle that holds its [`ContainerRecord`]; bundles without it are another runtime's.
pub const CONTAINER: &str = "oci.gantry.dev/container";

/// Whom a namespace belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "gantry_plugin_sdk::serde", rename_all = "lowercase")]
pub enum Mode {
    Pod,
    Container,
    Node,
}

impl From<NamespaceMode> for Mode {
    fn from(mode: NamespaceMode) -> Self {
        match mode {
            NamespaceMode::Pod => Self::Pod,
            NamespaceMode::Container => Self::Container,
            NamespaceMode::Node => Self::Node,
        }
    }
}

/// A range of user and group ids: first in the container, first on the host, how many.
pub type IdRange = (u32, u32, u32);

/// A sandbox, as its file in the folder `state` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(crate = "gantry_plugin_sdk::serde")]
pub struct SandboxRecord {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub attempt: u32,
    pub hostname: String,
    pub created_at: i64,
    pub cgroup_parent: String,
    pub network: Option<String>,
    pub pid: Mode,
    pub ipc: Mode,
    pub user_mapping: Vec<IdRange>,
    pub privileged: bool,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub stopped: bool,
}

impl From<&SandboxConfig> for SandboxRecord {
    fn from(config: &SandboxConfig) -> Self {
        Self {
            namespace: config.namespace.clone(),
            name: config.name.clone(),
            uid: config.uid.clone(),
            attempt: config.attempt,
            hostname: config.hostname.clone(),
            created_at: config.created_at,
            cgroup_parent: config.cgroup_parent.trim_matches('/').to_owned(),
            network: match &config.network {
                Network::Path(path) => Some(path.clone()),
                Network::Node => None,
            },
            pid: config.pid.into(),
            ipc: config.ipc.into(),
            user_mapping: config.user_mapping.iter().map(|map| (map.container_id, map.host_id, map.size)).collect(),
            privileged: config.privileged,
            labels: map(&config.labels),
            annotations: map(&config.annotations),
            stopped: false,
        }
    }
}

/// A container, as its bundle's annotation says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(crate = "gantry_plugin_sdk::serde")]
pub struct ContainerRecord {
    pub sandbox: String,
    pub name: String,
    pub attempt: u32,
    pub image: String,
    pub image_id: String,
    pub log_path: Option<String>,
    pub stop_signal: u32,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

impl ContainerRecord {
    pub fn new(sandbox: &str, config: &ContainerConfig, stop_signal: u32) -> Self {
        Self {
            sandbox: sandbox.to_owned(),
            name: config.name.clone(),
            attempt: config.attempt,
            image: config.image.reference.clone(),
            image_id: config.image.id.clone(),
            log_path: config.log_path.clone(),
            stop_signal,
            labels: map(&config.labels),
            annotations: map(&config.annotations),
        }
    }

    /// The record in a bundle's annotations; none when another runtime made the bundle.
    pub fn of(annotations: &[KeyValue]) -> Option<Result<Self, Error>> {
        let text = annotations.iter().find(|annotation| annotation.key == CONTAINER)?;
        Some(read(&text.value, CONTAINER))
    }
}

/// Reads a record.
pub fn read<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|reason| error(ErrorCode::Internal, format!("{what} can't be read: {reason}")))
}

/// Pairs as a map.
pub fn map(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    pairs.iter().map(|pair| (pair.key.clone(), pair.value.clone())).collect()
}

/// A map as pairs.
pub fn pairs(map: &BTreeMap<String, String>) -> Vec<KeyValue> {
    map.iter().map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() }).collect()
}
