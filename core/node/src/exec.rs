//! Running a command in a container to its end, for probes and hooks.

use std::sync::Arc;
use std::time::Duration;

use gantry_plugin_host::Runtime;
use gantry_plugin_host::contract::runtime::{ExecPlan, ExecRequest};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::container_io::{ContainerIo, Streams};

/// How much of a command's output is kept; upstream's limit.
const OUTPUT_BYTES_MAX: usize = 10 * 1024;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandEnd {
    /// By itself: its exit code, and the beginning of what it wrote.
    Exited {
        /// Exit code, or 128 + the signal.
        code: i32,
        /// Standard output, then standard error.
        output: String,
    },
    /// It was killed for taking too long.
    TimedOut,
    /// It could not be run.
    Failed(String),
}

/// Runs a command in a container.
pub async fn run(
    runtime: &Arc<dyn Runtime>,
    io: &Arc<dyn ContainerIo>,
    container_id: &str,
    command: &[String],
    timeout: Duration,
) -> CommandEnd {
    match tokio::time::timeout(timeout, run_unlimited(runtime, io, container_id, command)).await {
        Ok(end) => end,
        Err(_) => CommandEnd::TimedOut,
    }
}

async fn run_unlimited(
    runtime: &Arc<dyn Runtime>,
    io: &Arc<dyn ContainerIo>,
    container_id: &str,
    command: &[String],
) -> CommandEnd {
    let request = ExecRequest { command: command.to_vec(), tty: false };
    let process = match runtime.exec_spec(container_id, &request).await {
        Ok(ExecPlan::OciProcess(text)) => text,
        Err(error) => return CommandEnd::Failed(error.to_string()),
    };
    let streams = Streams { stdin: false, stdout: true, stderr: true, tty: false };
    let session = match io.exec(container_id, &process, streams).await {
        Ok(session) => session,
        Err(error) => return CommandEnd::Failed(error.message),
    };
    let (out, err, exit) = tokio::join!(read(session.stdout), read(session.stderr), session.exit);
    match exit {
        Ok(Ok(code)) => {
            let mut output = out;
            output.extend_from_slice(&err);
            output.truncate(OUTPUT_BYTES_MAX);
            CommandEnd::Exited { code, output: String::from_utf8_lossy(&output).into_owned() }
        }
        Ok(Err(error)) => CommandEnd::Failed(error.message),
        Err(_) => CommandEnd::Failed("the command's end was not told".to_owned()),
    }
}

/// Reads to the end and keeps the beginning.
async fn read(stream: Option<Box<dyn AsyncRead + Send + Unpin>>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else { return kept };
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut chunk).await {
        let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len()).min(count);
        kept.extend_from_slice(&chunk[..room]);
    }
    kept
}
