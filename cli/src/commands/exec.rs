//! `gantry exec`: a command in a running container.

use std::io::Read;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Api, AttachParams};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::cluster::Cluster;
use crate::cluster::flags::ClusterFlags;
use crate::commands::pods::{default_container, of_target};
use crate::error::{CliError, CliResult};

/// Bytes that are passed on at once.
const BLOCK: usize = 16 * 1024;

/// Execute a command in a container.
#[derive(clap::Args)]
pub struct Args {
    /// POD or TYPE/NAME
    #[arg(value_name = "POD|TYPE/NAME", add = crate::complete::pods())]
    target: String,
    /// Container name
    #[arg(short, long)]
    container: Option<String>,
    /// Pass stdin to the container
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Stdin is a TTY
    #[arg(short = 't', long)]
    tty: bool,
    /// Only print output from the remote session
    #[arg(short, long)]
    quiet: bool,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs it; the exit code is the command's.
pub async fn run(flags: &ClusterFlags, args: Args) -> CliResult {
    let cluster = flags.connect().await?;
    let pod = of_target(&cluster, &args.target).await?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return Err(CliError::usage(format!(
            "cannot exec into a container in a completed pod; current phase is {}",
            pod["status"]["phase"].as_str().unwrap_or_default()
        )));
    }
    let container = default_container(&pod, args.container.as_deref())?;
    let on_terminal = std::io::IsTerminal::is_terminal(&std::io::stdin());
    if args.tty && !(args.stdin && on_terminal) && !args.quiet {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    let tty = args.tty && args.stdin && on_terminal;
    let parameters = AttachParams::default().container(container).stdin(args.stdin).stdout(true).stderr(!tty).tty(tty);
    // From here until the end keys go to the other side.
    let raw = if tty { Some(RawTerminal::enter()?) } else { None };
    let outcome = attached(&cluster, name, &args.command, &parameters).await;
    drop(raw);
    finish(outcome?)
}

async fn attached(
    cluster: &Cluster,
    pod: &str,
    command: &[String],
    parameters: &AttachParams,
) -> CliResult<Option<Status>> {
    let pods: Api<Pod> = Api::namespaced(cluster.client().clone(), &cluster.namespace);
    let mut process = pods.exec(pod, command, parameters).await.map_err(|error| match error {
        kube::Error::Api(status) => CliError::usage(status.message.clone()),
        other => cluster.connection_error(&other),
    })?;
    let status = process.take_status();
    if let Some(mut input) = process.stdin() {
        let mut blocks = read_stdin();
        tokio::spawn(async move {
            while let Some(block) = blocks.recv().await {
                if input.write_all(&block).await.is_err() {
                    return;
                }
            }
            // The other side sees the end; when that fails it is gone already.
            let _ = input.shutdown().await;
        });
    }
    let out = pass(process.stdout(), std::io::stdout());
    let err = pass(process.stderr(), std::io::stderr());
    futures::try_join!(out, err)?;
    match status {
        Some(status) => Ok(status.await),
        None => Ok(None),
    }
}

/// Standard input in blocks. A thread of its own reads: one that waits for a key doesn't keep the process from ending.
fn read_stdin() -> tokio::sync::mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    std::thread::spawn(move || {
        let mut block = vec![0; BLOCK];
        let mut input = std::io::stdin().lock();
        while let Ok(length @ 1..) = input.read(&mut block) {
            if sender.blocking_send(block[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

async fn pass(from: Option<impl AsyncRead + Unpin>, mut to: impl std::io::Write) -> CliResult {
    let Some(mut from) = from else { return Ok(()) };
    let mut block = vec![0; BLOCK];
    loop {
        let length = from.read(&mut block).await?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&block[..length])?;
        to.flush()?;
    }
}

/// What the command's end means for this process.
fn finish(status: Option<Status>) -> CliResult {
    let Some(status) = status else {
        return Err(CliError::usage("the connection ended before the command's exit code came"));
    };
    if status.status.as_deref() == Some("Success") {
        return Ok(());
    }
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    let code = causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    match code.and_then(|cause| cause.message.as_deref()).and_then(|code| code.parse::<u8>().ok()) {
        Some(code) if status.reason.as_deref() == Some("NonZeroExitCode") => {
            eprintln!("command terminated with exit code {code}");
            Err(CliError::Exit(code))
        }
        _ => Err(CliError::usage(format!(
            "Internal error occurred: {}",
            status.message.unwrap_or_else(|| "the command failed without a reason".to_owned())
        ))),
    }
}

/// The terminal without line editing and signals; as before when dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> CliResult<Self> {
        let failed = |error: nix::Error| CliError::usage(format!("unable to use the terminal: {error}"));
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that has gone away needs no repair.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn exit_codes() {
        let status = |value| serde_json::from_value::<Status>(value).expect("a status");
        let failed = status(json!({"status": "Failure", "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}}));
        let broken = status(json!({"status": "Failure", "message": "no such file"}));
        assert!(finish(Some(status(json!({"status": "Success"})))).is_ok());
        assert_eq!(finish(Some(failed)).expect_err("failed").exit_code(), 3);
        assert_eq!(
            finish(Some(broken)).expect_err("broken").to_string(),
            "error: Internal error occurred: no such file"
        );
        assert!(finish(None).is_err());
    }
}
