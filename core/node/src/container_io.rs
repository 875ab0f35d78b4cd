//! The standard streams and exits of containers, as pod workers and the agent's server need them.

use async_trait::async_trait;
use gantry_plugin_host::CapabilityError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{broadcast, mpsc, oneshot};

/// Which streams a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; with a terminal it is part of standard output.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

/// The size of a client's terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A running command or an attached client. Dropping it hangs up: an exec's process is killed, an attached container
/// goes on.
pub struct Session {
    /// Shutting it down closes the process's standard input.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Ends with the process.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Ends with the process.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// New sizes for the terminal.
    pub resize: mpsc::Sender<TerminalSize>,
    /// The exit code, or 128 + the signal; of an attached container, when it exits.
    pub exit: oneshot::Receiver<Result<i32, CapabilityError>>,
}

/// Word that a container has exited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerExit {
    /// The container.
    pub container_id: String,
    /// The exit code, or 128 + the signal.
    pub exit_code: i32,
}

/// Streams of running containers.
#[async_trait]
pub trait ContainerIo: Send + Sync {
    /// Runs a command in a container; `process` is the text of an OCI `process` object.
    async fn exec(&self, container_id: &str, process: &str, streams: Streams) -> Result<Session, CapabilityError>;
    /// Attaches to a container's own streams.
    async fn attach(&self, container_id: &str, streams: Streams) -> Result<Session, CapabilityError>;
    /// Starts the container's log file anew after it was moved away.
    async fn reopen_log(&self, container_id: &str) -> Result<(), CapabilityError>;
    /// Containers that exit from now on, those of an earlier process of ours included. A receiver that lags must look
    /// at all containers again.
    fn exits(&self) -> broadcast::Receiver<ContainerExit>;
}
