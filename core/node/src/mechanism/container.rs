//! What the agent knows of one container, and its connection to the shim.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use futures::StreamExt;
use gantry_plugin_host::capability::{BundleState, BundleStatus, CapabilityResult, KeyValue};
use gantry_plugin_host::{CapabilityError, ErrorCode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::codec::{FramedRead, LinesCodec};

use super::cgroup::Cgroup;
use super::protocol::{
    BundleFiles, LINE_LIMIT_BYTES, Numbered, Record, ShimCommand, ShimConfig, ShimMessage, now_ns, process_start_time,
    write_whole,
};
use super::{Inner, Mechanism};
use crate::container_io::ContainerExit;

/// Commands that may wait for a shim.
const COMMANDS_MAX: usize = 16;
/// Exit code of a container whose shim was lost, as containerd has it: killed.
const LOST_EXIT_CODE: i32 = 137;

type Request = (ShimCommand, oneshot::Sender<Result<Record, String>>);
type Lines = FramedRead<tokio::net::unix::OwnedReadHalf, LinesCodec>;

/// One container.
pub struct Container {
    pub id: String,
    pub files: BundleFiles,
    pub annotations: Vec<KeyValue>,
    /// One operation on it at a time.
    pub gate: tokio::sync::Mutex<()>,
    /// Set before it is created.
    pub config: Mutex<Option<ShimConfig>>,
    pub record: watch::Sender<Record>,
    shim: watch::Sender<Option<mpsc::Sender<Request>>>,
}

impl Container {
    pub fn new(id: &str, files: BundleFiles, annotations: Vec<KeyValue>, record: Record) -> Self {
        Self {
            id: id.to_owned(),
            files,
            annotations,
            gate: tokio::sync::Mutex::new(()),
            config: Mutex::new(None),
            record: watch::Sender::new(record),
            shim: watch::Sender::new(None),
        }
    }

    pub fn status(&self) -> BundleStatus {
        let record = self.record.borrow();
        if record.finished_at != 0 {
            BundleStatus::Stopped
        } else if record.started_at != 0 {
            BundleStatus::Running
        } else if record.created_at != 0 {
            BundleStatus::Created
        } else {
            BundleStatus::Written
        }
    }

    pub fn state(&self) -> BundleState {
        let status = self.status();
        let record = self.record.borrow();
        BundleState {
            id: self.id.clone(),
            status,
            pid: if status == BundleStatus::Stopped { 0 } else { record.pid },
            created_at: record.created_at,
            started_at: record.started_at,
            finished_at: record.finished_at,
            exit_code: record.exit_code,
            oom_killed: record.oom_killed,
            annotations: self.annotations.clone(),
        }
    }

    /// Has the shim do something; waits for its answer.
    pub async fn ask(&self, command: ShimCommand) -> CapabilityResult<Record> {
        let gone = || CapabilityError::new(ErrorCode::Busy, format!("container {} is not running", self.id));
        let shim = self.shim.borrow().clone().ok_or_else(gone)?;
        let (answer, answered) = oneshot::channel();
        shim.send((command, answer)).await.map_err(|_| gone())?;
        match answered.await {
            Ok(Ok(record)) => Ok(record),
            Ok(Err(reason)) => {
                Err(CapabilityError::new(ErrorCode::Internal, format!("container {}: {reason}", self.id)))
            }
            Err(_) => Err(gone()),
        }
    }

    /// Ends the shim and waits until it is gone; a container that still runs is lost with it.
    pub async fn dismiss(&self) {
        let shim = self.shim.borrow().clone();
        if let Some(shim) = shim {
            let (answer, _) = oneshot::channel();
            let _ = shim.send((ShimCommand::Quit, answer)).await;
            let _ = self.shim.subscribe().wait_for(Option::is_none).await;
        }
    }

    /// Connects to the shim's socket.
    pub fn connect(&self) -> std::io::Result<std::os::unix::net::UnixStream> {
        // Through the folder's descriptor: the path may be longer than a socket's address.
        let folder = File::open(&self.files.0)?;
        let path = format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), BundleFiles::SOCKET);
        std::os::unix::net::UnixStream::connect(path)
    }

    pub fn cgroup(&self, inner: &Inner) -> Option<Cgroup> {
        self.config.lock().as_ref().map(|config| Cgroup::new(&inner.hierarchies, &config.cgroup_path))
    }
}

/// Reads the messages of a shim.
pub fn lines(stream: UnixStream) -> (Lines, tokio::net::unix::OwnedWriteHalf) {
    let (read, write) = stream.into_split();
    (FramedRead::new(read, LinesCodec::new_with_max_length(LINE_LIMIT_BYTES)), write)
}

/// The next message; none at the end of the connection.
pub async fn next(lines: &mut Lines) -> Option<ShimMessage> {
    loop {
        match lines.next().await? {
            // A message of a newer kind is none for us.
            Ok(line) => match serde_json::from_str(&line) {
                Ok(message) => return Some(message),
                Err(_) => continue,
            },
            Err(_) => return None,
        }
    }
}

/// Writes a command in its line.
pub fn encode(seq: u64, command: ShimCommand) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&Numbered { seq, command })?;
    line.push(b'\n');
    Ok(line)
}

impl Mechanism {
    /// Keeps the connection to a container's shim until it ends.
    pub(super) fn watch_over(
        &self,
        container: &Arc<Container>,
        lines: Lines,
        writer: tokio::net::unix::OwnedWriteHalf,
    ) {
        let (requests, received) = mpsc::channel(COMMANDS_MAX);
        container.shim.send_replace(Some(requests));
        let (mechanism, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            mechanism.converse(&container, lines, writer, received).await;
            mechanism.conclude(&container).await;
            container.shim.send_replace(None);
        });
    }

    async fn converse(
        &self,
        container: &Arc<Container>,
        mut lines: Lines,
        mut writer: tokio::net::unix::OwnedWriteHalf,
        mut requests: mpsc::Receiver<Request>,
    ) {
        let mut waiting = HashMap::new();
        let mut seq = 0u64;
        loop {
            tokio::select! {
                message = next(&mut lines) => match message {
                    Some(ShimMessage::Reply { seq, error, record }) => {
                        self.note(container, record.clone());
                        if let Some(answer) = waiting.remove(&seq) {
                            let answer: oneshot::Sender<Result<Record, String>> = answer;
                            let _ = answer.send(error.map_or(Ok(record), Err));
                        }
                    }
                    Some(ShimMessage::Exited(record)) => self.note(container, record),
                    Some(ShimMessage::LogFull) => {
                        let (mechanism, container) = (self.clone(), container.clone());
                        tokio::spawn(async move { mechanism.rotate(&container).await });
                    }
                    Some(ShimMessage::Created(_) | ShimMessage::Failed(_)) => {}
                    None => return,
                },
                Some((command, answer)) = requests.recv() => {
                    seq += 1;
                    let Ok(line) = encode(seq, command) else { continue };
                    waiting.insert(seq, answer);
                    if writer.write_all(&line).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Takes a newer record over; tells of the exit once.
    pub(super) fn note(&self, container: &Container, record: Record) {
        let mut exited = false;
        container.record.send_if_modified(|known| {
            if known.finished_at != 0 || *known == record {
                return false;
            }
            exited = record.finished_at != 0;
            *known = record;
            true
        });
        if exited {
            let exit_code = container.record.borrow().exit_code;
            // Nobody may be listening.
            let _ = self.inner.exits.send(ContainerExit { container_id: container.id.clone(), exit_code });
        }
    }

    /// The shim is gone: its last word is in the state file. Without one the shim was killed, and what it looked after
    /// can't be any longer.
    pub(super) async fn conclude(&self, container: &Arc<Container>) {
        if container.record.borrow().finished_at != 0 {
            return;
        }
        let (inner, kept) = (self.inner.clone(), container.clone());
        let record = tokio::task::spawn_blocking(move || {
            let written = std::fs::read(kept.files.state()).ok();
            let mut record: Record = written.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
            if record.finished_at != 0 {
                return record;
            }
            if record.pid != 0 && process_start_time(record.pid) == Some(record.pid_start_time) {
                let _ = kill(Pid::from_raw(record.pid as i32), Signal::SIGKILL);
            }
            if let Some(cgroup) = kept.cgroup(&inner) {
                cgroup.signal_all(Signal::SIGKILL);
                record.oom_killed = cgroup.oom_kills() > 0;
            }
            record.exit_code = LOST_EXIT_CODE;
            record.finished_at = now_ns();
            // Deleted meanwhile: nothing to write.
            let _ = serde_json::to_vec(&record).map(|text| write_whole(&kept.files.state(), &text));
            record
        })
        .await;
        if let Ok(record) = record {
            self.note(container, record);
        }
    }
}
