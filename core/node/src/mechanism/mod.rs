//! Containers, root filesystems, namespaces and mounts of this host: what runtime and volume plugins are given as
//! capabilities, and the streams of containers for the agent.
//!
//! In the agent: `bundle` (containers), `container` (what is known of one), `streams` (exec and attach), `rotation` (of
//! log files), `rootfs`, `namespaces`, `mounts`, `host` (facts, and what this host can't grant), `launch` (asks the
//! launcher).
//!
//! In processes of their own: `launcher` forks `shim`, `exec_process` and `pid_namespace`; `program` runs a container's
//! program. `protocol` is what they say to each other, `descriptors` hands open files over.
//!
//! In both: `cgroup`, `limits`.
//!
//! Invariant: what runs goes on when the agent dies, and all that is needed to find it again is in the folder.

mod bundle;
mod cgroup;
mod container;
mod descriptors;
mod exec_process;
mod host;
mod launch;
mod launcher;
mod limits;
mod mounts;
mod namespaces;
mod pid_namespace;
mod program;
mod protocol;
mod rootfs;
mod rotation;
mod shim;
mod streams;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_plugin_host::capability::CapabilityResult;
use gantry_plugin_host::contract::runtime::HostFacts;
use gantry_plugin_host::{CapabilityError, ErrorCode};
use parking_lot::Mutex;
use tokio::sync::broadcast;

pub use self::launcher::run_internal_command;

use self::container::Container;
use crate::container_io::ContainerExit;

/// Exits kept for a receiver that is busy.
const EXITS_MAX: usize = 4096;
/// Longest id, in bytes: with a suffix it must be a file's name.
const ID_LIMIT_BYTES: usize = 200;

/// How a [`Mechanism`] works.
#[derive(Clone, Debug)]
pub struct MechanismOptions {
    /// The binary whose `main` calls [`run_internal_command`].
    pub executable: PathBuf,
    /// Folder of the [`ImageStore`](crate::images::ImageStore).
    pub images: PathBuf,
    /// Size at which a log file is rotated; the kubelet's `containerLogMaxSize`.
    pub log_limit_bytes: u64,
    /// Log files of a container, the current one included; the kubelet's `containerLogMaxFiles`.
    pub log_files_max: usize,
}

impl MechanismOptions {
    /// The kubelet's defaults, with this process's own binary.
    pub fn new(images: impl Into<PathBuf>) -> Self {
        Self {
            executable: PathBuf::from("/proc/self/exe"),
            images: images.into(),
            log_limit_bytes: 10 * 1024 * 1024,
            log_files_max: 5,
        }
    }
}

/// The mechanism of one node. Cheap to clone.
#[derive(Clone)]
pub struct Mechanism {
    inner: Arc<Inner>,
}

struct Inner {
    folder: PathBuf,
    options: MechanismOptions,
    launcher: launch::Launcher,
    hierarchies: cgroup::Hierarchies,
    facts: HostFacts,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    exits: broadcast::Sender<ContainerExit>,
    /// One at a time for an owner's namespaces and a container's root filesystem.
    gates: Gates,
}

impl Mechanism {
    /// Opens the folder, starts the launcher and adopts the containers of an earlier process.
    pub async fn open(folder: impl Into<PathBuf>, options: MechanismOptions) -> CapabilityResult<Self> {
        let folder = folder.into();
        for part in ["bundles", "rootfs", "namespaces"] {
            let path = folder.join(part);
            make_private(&path).map_err(|e| CapabilityError::io(format!("making {}", path.display()), &e))?;
        }
        // Mounts and sockets need its real name.
        let folder =
            folder.canonicalize().map_err(|e| CapabilityError::io(format!("opening {}", folder.display()), &e))?;
        let hierarchies =
            cgroup::Hierarchies::read().map_err(|e| CapabilityError::io("finding the cgroup hierarchies", &e))?;
        let facts = host::facts(hierarchies.version());
        let launcher = launch::Launcher::start(&options.executable)
            .map_err(|e| CapabilityError::io(format!("starting {}", options.executable.display()), &e))?;
        let inner = Inner {
            folder,
            options,
            launcher,
            hierarchies,
            facts,
            containers: Mutex::new(HashMap::new()),
            exits: broadcast::channel(EXITS_MAX).0,
            gates: Gates::default(),
        };
        let mechanism = Self { inner: Arc::new(inner) };
        mechanism.adopt().await?;
        Ok(mechanism)
    }

    /// Facts of this host for runtime plugins.
    pub fn host_facts(&self) -> HostFacts {
        self.inner.facts.clone()
    }

    /// Ends all containers and removes them with their cgroups, root filesystems and namespaces; what is gone already
    /// is no failure. The first failure is told after everything was tried.
    pub async fn remove_all(&self) -> CapabilityResult<()> {
        use gantry_plugin_host::capability::{Namespaces, OciBundle, Rootfs};
        let ids: Vec<String> = self.inner.containers.lock().keys().cloned().collect();
        let mut results: Vec<CapabilityResult<()>> =
            futures::future::join_all(ids.iter().map(|id| self.delete(id, true))).await;
        for id in self.inner.entries("rootfs") {
            results.push(Rootfs::remove(self, &id).await);
        }
        for owner in self.inner.entries("namespaces") {
            results.push(Namespaces::remove(self, &owner).await);
        }
        results.into_iter().collect()
    }
}

impl Inner {
    fn path(&self, part: &str, id: &str) -> PathBuf {
        self.folder.join(part).join(id)
    }

    /// Names in one of the folders.
    fn entries(&self, part: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.join(part)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

/// Locks by name.
#[derive(Default)]
struct Gates(Mutex<HashMap<String, std::sync::Weak<tokio::sync::Mutex<()>>>>);

impl Gates {
    async fn enter(&self, name: String) -> tokio::sync::OwnedMutexGuard<()> {
        let gate = {
            let mut gates = self.0.lock();
            let known = gates.get(&name).and_then(std::sync::Weak::upgrade);
            known.unwrap_or_else(|| {
                gates.retain(|_, gate| gate.strong_count() > 0);
                let gate = Arc::new(tokio::sync::Mutex::new(()));
                gates.insert(name, Arc::downgrade(&gate));
                gate
            })
        };
        gate.lock_owned().await
    }
}

/// An id that can be a file's name.
fn check_id(what: &str, id: &str) -> CapabilityResult<()> {
    let sound = !id.is_empty()
        && id.len() <= ID_LIMIT_BYTES
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if sound {
        return Ok(());
    }
    let rule = format!("letters, digits, '-', '_' and '.', at most {ID_LIMIT_BYTES}, not starting with '.'");
    Err(CapabilityError::new(ErrorCode::Invalid, format!("{id:?} can't be the id of a {what}: it must be {rule}")))
}

/// Makes a folder that only root can enter.
fn make_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(path)
}

/// Runs what blocks for milliseconds on a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> CapabilityResult<T> + Send + 'static,
) -> CapabilityResult<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(CapabilityError::new(ErrorCode::Internal, format!("a task failed: {error}"))),
    }
}
