//! The launcher: a process with one thread that forks shims and helpers.
//!
//! A process with threads can't fork safely, so the agent starts its own binary once more, as the launcher, before
//! anything else. A fork of the launcher is ready at once, where a new start of the binary would first have to be
//! loaded and relocated, and shares all its memory with the others: that is what makes a shim small. The launcher ends
//! with the agent; the shims go on.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use nix::sys::signal::{SigHandler, Signal};

use super::protocol::LaunchRequest;
use super::{descriptors, exec_process, pid_namespace, shim};

/// First argument of an internal start of the binary.
pub const INTERNAL_ARGUMENT: &str = "__gantry-launcher";

/// Runs as an internal process when the arguments (the program's name first) say so; none when they don't. The
/// binary's `main` calls it before it starts threads.
pub fn run_internal_command(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    if arguments.into_iter().nth(1)? != INTERNAL_ARGUMENT {
        return None;
    }
    Some(match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gantry launcher: {error}");
            ExitCode::FAILURE
        }
    })
}

/// Serves the connection that is standard input until the agent closes it.
fn run() -> std::io::Result<()> {
    let _ = nix::sys::prctl::set_name(c"gantry-launch");
    let connection = std::io::stdin().as_fd().try_clone_to_owned()?;
    // Descriptor 0 must not be the connection in what is forked.
    let null = std::fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    drop(null);
    nix::unistd::setsid().ok();
    nix::unistd::chdir("/")?;
    set_signal(Signal::SIGCHLD, SigHandler::SigIgn);
    let mut connection = Some(connection);
    loop {
        let Some(socket) = &connection else { return Ok(()) };
        let mut byte = [0; 1];
        let (count, received) = match descriptors::receive(socket.as_fd(), &mut byte) {
            Ok(received) => received,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if count == 0 {
            return Ok(());
        }
        // SAFETY: this process has one thread, so the child may do anything.
        match unsafe { nix::unistd::fork() } {
            Ok(nix::unistd::ForkResult::Parent { .. }) => {}
            Ok(nix::unistd::ForkResult::Child) => {
                drop(connection.take());
                let code = std::panic::catch_unwind(|| serve(received)).unwrap_or(101);
                std::process::exit(code);
            }
            // The requester sees its connection closed.
            Err(error) => eprintln!("gantry launcher: fork: {error}"),
        }
    }
}

/// Does what was asked, in a process of its own; returns its exit code.
fn serve(received: Vec<OwnedFd>) -> i32 {
    reset_signals();
    let mut received = received.into_iter();
    let Some(payload) = received.next() else { return 2 };
    let mut text = Vec::new();
    if let Err(error) = std::fs::File::from(payload).read_to_end(&mut text) {
        eprintln!("gantry launcher: reading a request: {error}");
        return 2;
    }
    let request: LaunchRequest = match serde_json::from_slice(&text) {
        Ok(request) => request,
        Err(error) => {
            eprintln!("gantry launcher: a request is malformed: {error}");
            return 2;
        }
    };
    let Some(connection) = received.next() else { return 2 };
    drop(text);
    match request {
        LaunchRequest::Shim { bundle } => shim::run(&bundle, connection),
        LaunchRequest::Exec(request) => exec_process::run(*request, connection, received.collect()),
        LaunchRequest::PidNamespace => pid_namespace::run(connection),
    }
}

/// All signals as a new program expects them. Rust ignores SIGPIPE, the launcher SIGCHLD, and what is ignored stays so
/// through execve(2).
pub fn reset_signals() {
    for signal in Signal::iterator() {
        if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            set_signal(signal, SigHandler::SigDfl);
        }
    }
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
}

fn set_signal(signal: Signal, handler: SigHandler) {
    // SAFETY: no handler of ours is installed, only the kernel's own two.
    let _ = unsafe { nix::sys::signal::signal(signal, handler) };
}

/// Waits for a child to end; its exit code, or 128 + the signal.
pub fn exit_code(status: nix::sys::wait::WaitStatus) -> Option<i32> {
    match status {
        nix::sys::wait::WaitStatus::Exited(_, code) => Some(code),
        nix::sys::wait::WaitStatus::Signaled(_, signal, _) => Some(128 + signal as i32),
        _ => None,
    }
}
