//! Host capabilities: what a plugin may ask the host to do.
//!
//! The mechanisms that belong to the node agent are traits here and implemented there
//! ([`OciBundle`], [`Rootfs`], [`Namespaces`], [`Mounts`]); those that need nothing of it are
//! implemented here (`folder`, `process`). Which of them a plugin can reach is decided by its
//! [`Grant`](crate::Grant), before a call arrives at an implementation.
//!
//! - [`Capability`]: their names
//! - `powers`: a plugin's granted ones, and the checks of mounts
//! - `folder`, `process`, `log`: those that are implemented here

pub(crate) mod folder;
pub(crate) mod log;
mod name;
pub(crate) mod powers;
pub(crate) mod process;

use async_trait::async_trait;

pub use name::Capability;
pub(crate) use name::{is_name, is_plain_absolute};
pub(crate) use powers::Powers;

pub use crate::bindings::runtime::gantry::host::{
    mounts::Options as MountOptions,
    namespaces::{Kind as NamespaceKind, Namespace},
    oci_bundle::{BundleState, BundleStats, Status as BundleStatus, Stdio},
    rootfs::{Options as RootfsOptions, RootfsUsage},
    types::{Error as CapabilityError, ErrorCode, KeyValue},
};

/// Outcome of a capability's operation.
pub type CapabilityResult<T> = Result<T, CapabilityError>;

impl CapabilityError {
    /// An error of that code. The message names the operation and the object.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The code for an I/O error, its text after what was being done.
    pub fn io(doing: impl std::fmt::Display, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let code = match error.kind() {
            K::NotFound => ErrorCode::NotFound,
            K::AlreadyExists => ErrorCode::AlreadyExists,
            K::PermissionDenied => ErrorCode::Denied,
            K::InvalidInput | K::InvalidFilename | K::NotADirectory | K::IsADirectory => ErrorCode::Invalid,
            K::StorageFull | K::QuotaExceeded | K::OutOfMemory | K::FileTooLarge => ErrorCode::Exhausted,
            K::ResourceBusy | K::DirectoryNotEmpty | K::ExecutableFileBusy => ErrorCode::Busy,
            K::Unsupported => ErrorCode::Unsupported,
            K::Interrupted | K::TimedOut | K::WouldBlock => ErrorCode::Unavailable,
            _ => ErrorCode::Internal,
        };
        Self { code, message: format!("{doing}: {error}") }
    }
}

/// Containers as OCI bundles; the contract is `interface oci-bundle` in `plugins/wit/host`.
#[async_trait]
pub trait OciBundle: Send + Sync {
    /// Writes the bundle of a container that has not been created; `config` is config.json.
    async fn write(&self, id: &str, config: &str) -> CapabilityResult<()>;
    /// The text of config.json as written.
    async fn read(&self, id: &str) -> CapabilityResult<String>;
    /// Creates the container, returns the pid of its init, which waits for `start`.
    async fn create(&self, id: &str, stdio: &Stdio) -> CapabilityResult<u32>;
    /// Starts the program of a created container.
    async fn start(&self, id: &str) -> CapabilityResult<()>;
    /// Sends a signal to the init or to all; a container that has exited is no failure.
    async fn kill(&self, id: &str, signal: u32, all: bool) -> CapabilityResult<()>;
    /// Waits for the exit; `None` when it still runs after that time.
    async fn wait(&self, id: &str, timeout_ms: u32) -> CapabilityResult<Option<i32>>;
    /// Removes container, bundle and cgroup; what does not exist is no failure.
    async fn delete(&self, id: &str, force: bool) -> CapabilityResult<()>;
    /// What is known of one container.
    async fn state(&self, id: &str) -> CapabilityResult<BundleState>;
    /// What is known of all containers of this node.
    async fn list(&self) -> CapabilityResult<Vec<BundleState>>;
    /// Applies an OCI `linux.resources` object.
    async fn update(&self, id: &str, resources: &str) -> CapabilityResult<()>;
    /// Usage, from the container's cgroup.
    async fn stats(&self, id: &str) -> CapabilityResult<BundleStats>;
}

/// Root filesystems from unpacked images; `interface rootfs`.
#[async_trait]
pub trait Rootfs: Send + Sync {
    /// Mounts a root filesystem, returns its path; again for the same id: the same path.
    async fn prepare(&self, id: &str, snapshot_key: &str, options: &RootfsOptions) -> CapabilityResult<String>;
    /// Unmounts it and drops its writable layer; what does not exist is no failure.
    async fn remove(&self, id: &str) -> CapabilityResult<()>;
    /// Reads a file, following links only inside of the root filesystem.
    async fn read_file(&self, id: &str, path: &str, limit_bytes: u32) -> CapabilityResult<Vec<u8>>;
    /// What the writable layer occupies.
    async fn usage(&self, id: &str) -> CapabilityResult<RootfsUsage>;
}

/// Namespaces that outlive the process that made them; `interface namespaces`.
#[async_trait]
pub trait Namespaces: Send + Sync {
    /// Makes namespaces for an owner, or returns those it has.
    async fn create(
        &self,
        owner: &str,
        kinds: &[NamespaceKind],
        hostname: &str,
        sysctls: &[KeyValue],
    ) -> CapabilityResult<Vec<Namespace>>;
    /// Those that exist for an owner.
    async fn get(&self, owner: &str) -> CapabilityResult<Vec<Namespace>>;
    /// Removes an owner's namespaces; none is no failure.
    async fn remove(&self, owner: &str) -> CapabilityResult<()>;
    /// Writes `net.*` sysctls into the network namespace at that path.
    async fn set_network_sysctls(&self, path: &str, sysctls: &[KeyValue]) -> CapabilityResult<()>;
}

/// Mounts in the node's mount namespace; `interface mounts`. Source and target have been checked
/// against the plugin's grant when a call arrives here.
#[async_trait]
pub trait Mounts: Send + Sync {
    /// Binds a folder or file; makes the target when it is missing.
    async fn bind(&self, source: &str, target: &str, options: &MountOptions) -> CapabilityResult<()>;
    /// Mounts a file system; makes the target when it is missing.
    async fn mount(
        &self,
        source: &str,
        target: &str,
        file_system: &str,
        options: &MountOptions,
    ) -> CapabilityResult<()>;
    /// Unmounts all that is mounted at the target; nothing there is no failure.
    async fn unmount(&self, target: &str) -> CapabilityResult<()>;
    /// Whether something is mounted at the target.
    async fn is_mounted(&self, target: &str) -> CapabilityResult<bool>;
}

/// What the node agent hands in for runtime plugins.
pub trait RuntimeCapabilities: OciBundle + Rootfs + Namespaces + Mounts + 'static {}
impl<T: OciBundle + Rootfs + Namespaces + Mounts + 'static> RuntimeCapabilities for T {}

/// What the node agent hands in for volume plugins.
pub trait VolumeCapabilities: Mounts + 'static {}
impl<T: Mounts + 'static> VolumeCapabilities for T {}
