//! What the agent, its launcher and the shims say to each other.
//!
//! The agent and the launcher run the same binary; a shim may be of an older one, from before the agent was replaced.
//! So shim messages are JSON lines whose fields are only ever added.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Longest line either side accepts, in bytes: error texts are the longest.
pub const LINE_LIMIT_BYTES: usize = 64 * 1024;

/// What the agent asks of the launcher. Comes as a memory file with descriptors beside it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LaunchRequest {
    /// Create a container and look after it. Descriptors: the control connection.
    Shim {
        /// Folder of the bundle.
        bundle: PathBuf,
    },
    /// Run a process in a container. Descriptors: the reply connection, then stdin, stdout and stderr, or the
    /// connection that receives the terminal.
    Exec(Box<ExecRequest>),
    /// Make a pid namespace and its init. Descriptors: the reply connection.
    PidNamespace,
}

/// A process to run in a container.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecRequest {
    /// The container's init.
    pub init_pid: u32,
    /// When the init started, as the kernel counts; guards against another process of that id.
    pub init_start_time: u64,
    /// An OCI `process` object.
    pub process: oci_spec::runtime::Process,
    /// The container's filter.
    pub seccomp: Option<oci_spec::runtime::LinuxSeccomp>,
}

/// What a launched exec or namespace helper answers.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LaunchReply {
    /// The program runs; its process id on the host.
    Started(u32),
    /// It could not be started.
    Failed(String),
    /// The exit code, or 128 + the signal.
    Exited(i32),
}

/// How the shim treats its container; `shim.json` in the bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShimConfig {
    /// The container.
    pub id: String,
    /// File in CRI's log format.
    pub log_path: Option<PathBuf>,
    /// The container reads its standard input.
    pub stdin: bool,
    /// The first client that leaves closes it.
    pub stdin_once: bool,
    /// The container has a terminal.
    pub tty: bool,
    /// Of the init; the shim keeps its own.
    pub oom_score_adj: Option<i32>,
    /// The user on the host that owns the standard streams.
    pub stream_owner: u32,
    /// Relative to the root of each hierarchy.
    pub cgroup_path: String,
    /// The container has a pid namespace of its own: the kernel ends all its processes with the init.
    pub own_pid_namespace: bool,
    /// Size at which the agent is told to rotate the log file.
    pub log_limit_bytes: u64,
}

/// What is known of a container's life; `state.json` in the bundle, written by the shim. Times in nanoseconds since
/// 1970, 0 for not yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// Of the init, on the host.
    pub pid: u32,
    /// When that process started, as the kernel counts.
    pub pid_start_time: u64,
    /// The container exists.
    pub created_at: i64,
    /// The program was started.
    pub started_at: i64,
    /// The program has ended.
    pub finished_at: i64,
    /// The exit code, or 128 + the signal.
    pub exit_code: i32,
    /// The kernel killed a process of it for want of memory.
    pub oom_killed: bool,
}

/// What a client asks of a shim.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ShimCommand {
    /// Start the program.
    Start,
    /// Send a signal to the init.
    Kill {
        /// Its number.
        signal: i32,
    },
    /// Open the log file anew.
    ReopenLog,
    /// Stop at once; the container is being deleted.
    Quit,
    /// Copy streams to and from the descriptors that come with the line, in the order of the fields.
    Attach {
        /// To read from.
        stdin: bool,
        /// To write to.
        stdout: bool,
        /// To write to.
        stderr: bool,
    },
    /// New size of the terminal.
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
}

/// A command with the number its reply will carry.
#[derive(Debug, Serialize, Deserialize)]
pub struct Numbered {
    /// Chosen by the client.
    pub seq: u64,
    /// What to do.
    pub command: ShimCommand,
}

/// What a shim says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ShimMessage {
    /// First message on the connection the shim was launched with.
    Created(Record),
    /// In its place: why there is no container.
    Failed(String),
    /// The answer to a command.
    Reply {
        /// Of the command.
        seq: u64,
        /// Why it failed.
        error: Option<String>,
        /// The record after it.
        record: Record,
    },
    /// The program has ended; the log is complete and the state file is written.
    Exited(Record),
    /// The log file has grown beyond its limit.
    LogFull,
}

/// The files of a bundle.
#[derive(Clone, Debug)]
pub struct BundleFiles(pub PathBuf);

impl BundleFiles {
    /// config.json as it was handed in.
    pub fn spec(&self) -> PathBuf {
        self.0.join("spec.json")
    }
    /// config.json as this host can run it.
    pub fn config(&self) -> PathBuf {
        self.0.join("config.json")
    }
    /// [`ShimConfig`].
    pub fn shim(&self) -> PathBuf {
        self.0.join("shim.json")
    }
    /// [`Record`].
    pub fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }
    /// The low-level runtime's folder.
    pub fn runtime(&self) -> PathBuf {
        self.0.join("runtime")
    }
    /// Where the shim listens. Too long for a socket's address: reached through a descriptor of the folder.
    pub const SOCKET: &str = "shim.sock";
}

/// Replaces a file as a whole.
pub fn write_whole(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    std::fs::write(&temporary, content)?;
    std::fs::rename(&temporary, path)
}

/// When a process started, in the kernel's ticks since boot; with the id it names a process for good. Field 22 of
/// proc_pid_stat(5), counted after the name, which may hold anything.
pub fn process_start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Now, in nanoseconds since 1970.
pub fn now_ns() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
