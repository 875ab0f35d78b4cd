//! The `gantry` binary.
//!
//! - [`commands`]: one file per command
//! - [`cluster`]: the cluster that a command talks to, and what it names there
//! - [`output`]: what commands print
//! - [`parts`]: the parts of a cluster, put together
//! - [`complete`]: names completed out of the cluster
//! - [`error`]: what a command says when it fails
//!
//! Exit codes are kubectl's: 0, or 1 with a line that starts with `error:`.
#![forbid(unsafe_code)]

mod cluster;
mod commands;
mod complete;
mod error;
mod output;
mod parts;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::cluster::flags::ClusterFlags;
use crate::commands::Command;
use crate::error::CliError;

/// A Kubernetes-compatible cluster in one binary.
#[derive(Parser)]
#[command(name = "gantry", version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    cluster: ClusterFlags,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    // Before threads exist: this binary is its own containers' shim.
    if let Some(code) = gantry_node::mechanism::run_internal_command(std::env::args_os()) {
        return code;
    }
    clap_complete::CompleteEnv::with_factory(Cli::command).var(commands::completion::VARIABLE).complete();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    match commands::run(&cli.cluster, cli.command) {
        Ok(code) => code,
        Err(error) => match error.downcast_ref::<CliError>() {
            Some(CliError::Exit(code)) => ExitCode::from(*code),
            Some(error) => {
                eprintln!("{error}");
                ExitCode::from(error.exit_code())
            }
            None => {
                eprintln!("error: {}", told(&error));
                ExitCode::FAILURE
            }
        },
    }
}

/// Shows help where it was asked for, or else what is wrong with the command line, in kubectl's words.
fn refuse(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader of help that has gone away is no failure of ours.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    eprint!("{}", commands::usage_error(error));
    ExitCode::FAILURE
}

/// The error with its causes, each told once: some tell their cause themselves.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told {
        told if told.is_empty() => cause,
        told if told.contains(&cause) => told,
        told => format!("{told}: {cause}"),
    })
}
