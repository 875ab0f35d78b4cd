//! Project automation: `cargo xtask up|test|plugins|check`.
//!
//! - [`packages`]: what of Debian's packages the build and the suites need
//! - [`toolchain`]: the toolchain and the target of the plugins
//! - [`suites`]: format, lint, tidy and every test
#![forbid(unsafe_code)]

mod packages;
mod suites;
mod toolchain;

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, run and test Gantry on a Debian machine")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing, build, and run a one-node cluster until Ctrl-C
    Up {
        /// Build with the release profile: slower to build, much faster to run
        #[arg(long)]
        release: bool,
        /// Passed on to `gantry up`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Install what is missing and run every suite
    Test,
    /// Install what building the plugins needs, and build them
    Plugins,
    /// Check format, lints and the map of the house
    Check,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    std::env::set_current_dir(root()).context("enter the project's folder")?;
    match task {
        Task::Up { release, args } => {
            packages::install(packages::RUN)?;
            toolchain::ensure_guest_target()?;
            let mut build = cargo();
            build.args(["run", "--package", "gantry"]);
            if release {
                build.arg("--release");
            }
            run_to_end(build.args(["--", "up"]).args(args))
        }
        Task::Test => {
            packages::install(packages::TEST)?;
            toolchain::ensure_guest_target()?;
            suites::check()?;
            suites::test()
        }
        Task::Plugins => {
            packages::install(packages::BUILD)?;
            toolchain::ensure_guest_target()?;
            run_to_end(cargo().args(["build", "--package", "gantry-plugin-host"]))
        }
        Task::Check => suites::check(),
    }
}

/// The project's folder.
fn root() -> &'static Path {
    // The crate sits one folder below it.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The cargo that runs us.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command with our own standard streams; an exit status other than 0 is an error.
fn run_to_end(command: &mut Command) -> Result<()> {
    let shown = show(command);
    eprintln!("+ {shown}");
    let status = command.status().with_context(|| format!("start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(())
}

fn show(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut words = vec![program.to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}
