//! What runs of a pod, as its runtime and the pod network tell. Pure data.

use std::net::IpAddr;
use std::path::PathBuf;

use gantry_plugin_host::capability::KeyValue;
use gantry_plugin_host::contract::runtime::{ContainerState, ContainerStatus, SandboxState, SandboxStatus};
use jiff::Timestamp;

/// Labels and annotations on sandboxes and containers; the names are upstream's where it has one.
pub mod keys {
    /// Label: the pod's name.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// Label: the pod's namespace.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// Label: the pod's uid.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// Label: the container's name.
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// Annotation: the hash of what must not change while it runs.
    pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
    /// Annotation: how often it was started before.
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    /// Annotation: file on the node that the container's termination message is read from.
    pub const TERMINATION_FILE: &str = "io.gantry.container.terminationMessageFile";
    /// Annotation: `File` or `FallbackToLogsOnError`.
    pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    /// Annotation: the image's name to show.
    pub const IMAGE_NAME: &str = "io.gantry.container.imageName";
    /// Annotation: the image's id to show.
    pub const IMAGE_ID: &str = "io.gantry.container.imageID";
    /// Annotation: the pod's grace period when the container was made.
    pub const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
}

/// A container of the pod, running or not.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerRecord {
    /// Its id.
    pub id: String,
    /// Name in the pod.
    pub name: String,
    /// The sandbox it was made in.
    pub sandbox_id: String,
    /// How often the container had been started before.
    pub attempt: u32,
    /// What it does.
    pub state: ContainerState,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it exited.
    pub finished_at: Option<Timestamp>,
    /// Meaningful when it has exited.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError` …
    pub reason: String,
    /// The termination message, once read.
    pub message: String,
    /// The image's name to show.
    pub image: String,
    /// The image's id to show.
    pub image_id: String,
    /// [`keys::CONTAINER_HASH`].
    pub hash: String,
    /// Its log file.
    pub log_path: Option<PathBuf>,
    /// [`keys::TERMINATION_FILE`].
    pub termination_file: Option<PathBuf>,
    /// Whether the log's end is the message of a failure without one.
    pub fall_back_to_logs: bool,
}

impl ContainerRecord {
    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.state == ContainerState::Running
    }

    /// Whether it has exited.
    pub fn has_exited(&self) -> bool {
        self.state == ContainerState::Exited
    }

    /// From what the runtime says.
    pub fn from_runtime(status: &ContainerStatus) -> Self {
        let annotation = |key| value(&status.annotations, key).map(str::to_owned);
        let attempt = annotation(keys::RESTART_COUNT).and_then(|text| text.parse().ok()).unwrap_or(status.attempt);
        Self {
            id: status.id.clone(),
            name: status.name.clone(),
            sandbox_id: status.sandbox_id.clone(),
            attempt,
            state: status.state,
            created_at: time(status.created_at),
            started_at: time(status.started_at),
            finished_at: time(status.finished_at),
            exit_code: status.exit_code,
            reason: status.reason.clone(),
            message: String::new(),
            image: annotation(keys::IMAGE_NAME).unwrap_or_else(|| status.image_reference.clone()),
            image_id: annotation(keys::IMAGE_ID).unwrap_or_else(|| status.image_id.clone()),
            hash: annotation(keys::CONTAINER_HASH).unwrap_or_default(),
            log_path: status.log_path.as_ref().map(PathBuf::from),
            termination_file: annotation(keys::TERMINATION_FILE).map(PathBuf::from),
            fall_back_to_logs: annotation(keys::TERMINATION_POLICY).as_deref() == Some("FallbackToLogsOnError"),
        }
    }
}

/// A sandbox of the pod.
#[derive(Clone, Debug, PartialEq)]
pub struct SandboxRecord {
    /// Its id.
    pub id: String,
    /// How many the pod had before.
    pub attempt: u32,
    /// Whether it is as it was made.
    pub ready: bool,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// The pod's addresses in it; none with the node's network.
    pub ips: Vec<IpAddr>,
    /// Path of its network namespace.
    pub netns_path: Option<PathBuf>,
}

impl SandboxRecord {
    /// From what the runtime says; the addresses come from the pod network.
    pub fn from_runtime(status: &SandboxStatus, ips: Vec<IpAddr>) -> Self {
        Self {
            id: status.id.clone(),
            attempt: status.attempt,
            ready: status.state == SandboxState::Ready,
            created_at: time(status.created_at),
            ips,
            netns_path: status.network_path.as_ref().map(PathBuf::from),
        }
    }
}

/// What runs of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Its sandboxes, the newest first.
    pub sandboxes: Vec<SandboxRecord>,
    /// Its containers, the newest first.
    pub containers: Vec<ContainerRecord>,
}

impl Observed {
    /// The newest container of that name.
    pub fn newest(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The one before the newest.
    pub fn previous(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().filter(|container| container.name == name).nth(1)
    }

    /// The newest sandbox.
    pub fn sandbox(&self) -> Option<&SandboxRecord> {
        self.sandboxes.first()
    }

    /// A container by id.
    pub fn by_id(&self, id: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|container| container.id == id)
    }

    /// Adds or replaces a container, keeping a message that was read already.
    pub fn put_container(&mut self, mut record: ContainerRecord) {
        if let Some(at) = self.containers.iter().position(|known| known.id == record.id) {
            let known = self.containers.remove(at);
            if record.message.is_empty() {
                record.message = known.message;
            }
        }
        self.containers.push(record);
        self.sort();
    }

    /// Adds or replaces a sandbox.
    pub fn put_sandbox(&mut self, record: SandboxRecord) {
        self.sandboxes.retain(|known| known.id != record.id);
        self.sandboxes.push(record);
        self.sort();
    }

    fn sort(&mut self) {
        self.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.attempt, s.created_at)));
        self.containers.sort_by_key(|c| std::cmp::Reverse((c.attempt, c.created_at)));
    }

    /// Whether any container runs.
    pub fn any_running(&self) -> bool {
        self.containers.iter().any(ContainerRecord::is_running)
    }
}

/// The value of a key.
pub fn value<'a>(pairs: &'a [KeyValue], key: &str) -> Option<&'a str> {
    pairs.iter().find(|pair| pair.key == key).map(|pair| pair.value.as_str())
}

/// A runtime's Unix time in nanoseconds; 0 is none.
pub fn time(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds <= 0 { None } else { Timestamp::from_nanosecond(i128::from(nanoseconds)).ok() }
}
