//! The commands.
//!
//! Of the cluster itself:
//! - [`up`]: all of it in one process
//! - [`apiserver`]: the API server alone
//! - [`scheduler`]: the scheduler alone
//!
//! Of its users, named and printed as kubectl's:
//! - [`get`], [`api_resources`], [`version`], [`completion`], [`config`], [`create`] (with [`create_data`] and
//!   [`create_role`]), [`apply`], [`delete`], [`scale`], [`rollout`], [`label`] (and annotate), [`logs`],
//!   [`exec`]; [`pods`] finds the pods of those two; [`change`] and [`three_way`] help those that change objects

pub mod api_resources;
pub mod apiserver;
pub mod apply;
pub mod change;
pub mod completion;
pub mod config;
pub mod create;
pub mod create_data;
pub mod create_role;
pub mod delete;
pub mod exec;
pub mod get;
pub mod label;
pub mod logs;
pub mod pods;
pub mod rollout;
pub mod scale;
pub mod scheduler;
pub mod three_way;
pub mod up;
pub mod version;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use clap::error::{ContextKind, ErrorKind};

use crate::cluster::flags::ClusterFlags;
use crate::error::CliResult;

/// What `gantry` can do.
#[derive(Subcommand)]
pub enum Command {
    /// Run a cluster of one node
    Up(up::Args),
    /// Run the API server alone
    Apiserver(apiserver::Args),
    /// Run the scheduler alone
    Scheduler(scheduler::Args),
    /// Display one or many resources
    Get(get::Args),
    /// Create a resource from a file or from stdin
    Create(create::Args),
    /// Apply a configuration to a resource by file name or stdin
    Apply(apply::Args),
    /// Delete resources by file names, stdin, resources and names, or by resources and label selector
    Delete(delete::Args),
    /// Print the logs for a container in a pod
    Logs(logs::Args),
    /// Execute a command in a container
    Exec(exec::Args),
    /// Set a new size for a deployment, replica set, or replication controller
    Scale(scale::Args),
    /// Manage the rollout of a resource
    Rollout(rollout::Args),
    /// Update the labels on a resource
    Label(label::Args),
    /// Update the annotations on a resource
    Annotate(label::Args),
    /// Print the supported API resources on the server
    ApiResources(api_resources::Args),
    /// Print the client and server version information
    Version(version::Args),
    /// Modify kubeconfig files
    Config(config::Args),
    /// Output shell completion code for the specified shell
    Completion(completion::Args),
}

/// Runs a command; the answer is the process's exit code.
pub fn run(flags: &ClusterFlags, command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(args) if args.detaches() => up::detach(&args).map(|()| ExitCode::SUCCESS),
        Command::Up(args) => serve(up::run(args)),
        Command::Apiserver(args) => serve(apiserver::run(args)),
        Command::Scheduler(args) => serve(scheduler::run(flags, args)),
        Command::Get(args) => ask(get::run(flags, args)),
        Command::Create(args) => ask(create::run(flags, args)),
        Command::Apply(args) => ask(apply::run(flags, args)),
        Command::Delete(args) => ask(delete::run(flags, args)),
        Command::Logs(args) => ask(logs::run(flags, args)),
        Command::Exec(args) => ask(exec::run(flags, args)),
        Command::Scale(args) => ask(scale::run(flags, args)),
        Command::Rollout(args) => ask(rollout::run(flags, args)),
        Command::Label(args) => ask(label::run(flags, args, label::Field::Labels)),
        Command::Annotate(args) => ask(label::run(flags, args, label::Field::Annotations)),
        Command::ApiResources(args) => ask(api_resources::run(flags, args)),
        Command::Version(args) => ask(version::run(flags, args)),
        Command::Config(args) => ask(config::run(flags, args)),
        Command::Completion(args) => {
            completion::run(&args)?;
            Ok(ExitCode::SUCCESS)
        }
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

/// Runs a user's command: one thread is enough.
fn ask(command: impl Future<Output = CliResult>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(command)?;
    Ok(ExitCode::SUCCESS)
}

/// What is wrong with a command line, as kubectl 1.36 says it.
pub fn usage_error(error: &clap::Error) -> String {
    let context = |kind: ContextKind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    let help = "See 'gantry --help' for usage.\n";
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            format!("error: unknown command \"{}\" for \"gantry\"\n", context(ContextKind::InvalidSubcommand))
        }
        ErrorKind::UnknownArgument => {
            let argument = context(ContextKind::InvalidArg);
            match argument.strip_prefix("--") {
                Some(name) => format!("error: unknown flag: --{name}\n{help}"),
                None if argument.starts_with('-') => format!("error: unknown shorthand flag: {argument}\n{help}"),
                None => format!("error: unexpected argument \"{argument}\"\n{help}"),
            }
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = context(ContextKind::InvalidArg);
            let flags: Vec<String> = missing
                .split(", ")
                .filter_map(|argument| argument.strip_prefix("--"))
                .map(|argument| format!("\"{}\"", argument.split([' ', '=']).next().unwrap_or_default()))
                .collect();
            if flags.is_empty() {
                format!("error: missing argument {missing}\n{help}")
            } else {
                format!("error: required flag(s) {} not set\n", flags.join(", "))
            }
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let argument = context(ContextKind::InvalidArg);
            let flag = argument.split(' ').next().unwrap_or_default();
            format!("error: invalid argument \"{}\" for \"{flag}\" flag\n{help}", context(ContextKind::InvalidValue))
        }
        _ => error.to_string(),
    }
}
