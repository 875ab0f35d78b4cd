//! The commands.
//!
//! - [`apiserver`]: the API server alone
//! - [`scheduler`]: the scheduler alone

pub mod apiserver;
pub mod scheduler;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;

/// What `gantry` can do.
#[derive(Subcommand)]
pub enum Command {
    /// Run the API server alone
    Apiserver(apiserver::Args),
    /// Run the scheduler alone
    Scheduler(scheduler::Args),
}

/// Runs a command; the answer is the process's exit code.
pub fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Apiserver(args) => serve(apiserver::run(args)),
        Command::Scheduler(args) => serve(scheduler::run(args)),
    }
}

/// Runs a part of the cluster until it ends: with logs on standard error (`GANTRY_LOG` chooses which), and threads.
fn serve(part: impl Future<Output = Result<()>>) -> Result<ExitCode> {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("GANTRY_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(part)?;
    Ok(ExitCode::SUCCESS)
}
