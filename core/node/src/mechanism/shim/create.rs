//! Making the container with libcontainer.

use std::io::PipeReader;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;

use crate::mechanism::protocol::{BundleFiles, Record, ShimConfig, now_ns, process_start_time};
use crate::mechanism::{descriptors, program};

/// Where the container's terminal arrives, in the bundle.
const CONSOLE_SOCKET: &str = "console.sock";

/// Our ends of the container's standard streams.
pub struct Streams {
    /// To write what the container reads.
    pub stdin: Option<OwnedFd>,
    /// What it writes; with a terminal, all of it.
    pub stdout: Option<OwnedFd>,
    /// What it writes as errors.
    pub stderr: Option<OwnedFd>,
    /// The terminal, for its size.
    pub terminal: Option<OwnedFd>,
}

/// A created container.
pub struct Created {
    /// As libcontainer knows it.
    pub container: Container,
    /// Its streams.
    pub streams: Streams,
    /// Its record.
    pub record: Record,
}

/// Creates the container of the bundle in the current folder; the error is in runc's words.
pub fn create(files: &BundleFiles, config: &ShimConfig) -> Result<Created, String> {
    let text = |doing: &str, error: &dyn std::fmt::Display| format!("{doing}: {error}");
    // Whatever the agent was started with is no business of a container's.
    nix::unistd::setgroups(&[]).map_err(|e| text("dropping supplementary groups", &e.desc()))?;
    let mut builder = ContainerBuilder::new(config.id.clone(), SyscallType::default())
        .with_executor(program::Program)
        .with_root_path(files.runtime())
        .map_err(|e| text("preparing the container's folder", &e))?;
    let mut console = None;
    let mut streams = Streams { stdin: None, stdout: None, stderr: None, terminal: None };
    if config.tty {
        let _ = std::fs::remove_file(CONSOLE_SOCKET);
        let listener = UnixListener::bind(CONSOLE_SOCKET).map_err(|e| text("preparing the terminal", &e))?;
        builder = builder.with_console_socket(Some(files.0.join(CONSOLE_SOCKET)));
        console = Some(listener);
    } else {
        let pipe = || -> Result<(PipeReader, std::io::PipeWriter), String> {
            let (read, write) = std::io::pipe().map_err(|e| text("making a pipe", &e))?;
            // The program may open /dev/stdout and the like anew, so its user must own them.
            nix::unistd::fchown(&read, Some(config.stream_owner.into()), None)
                .map_err(|e| text("giving a pipe to the container's user", &e.desc()))?;
            Ok((read, write))
        };
        if config.stdin {
            let (read, write) = pipe()?;
            builder = builder.with_stdin(read);
            streams.stdin = Some(write.into());
        } else {
            builder = builder.with_stdin(std::fs::File::open("/dev/null").map_err(|e| text("/dev/null", &e))?);
        }
        let (read, write) = pipe()?;
        builder = builder.with_stdout(write);
        streams.stdout = Some(read.into());
        let (read, write) = pipe()?;
        builder = builder.with_stderr(write);
        streams.stderr = Some(read.into());
    }
    let container = builder
        .as_init(&files.0)
        .with_systemd(false)
        .build()
        .map_err(|error| format!("unable to start container process: {}", deepest(&error)))?;
    let pid = container.pid().map_or(0, |pid| pid.as_raw().unsigned_abs());
    let record =
        Record { pid, pid_start_time: process_start_time(pid).unwrap_or(0), created_at: now_ns(), ..Record::default() };
    if let Some(listener) = console {
        let terminal = receive_terminal(&listener).map_err(|e| text("receiving the terminal", &e))?;
        let _ = std::fs::remove_file(CONSOLE_SOCKET);
        let _ = nix::unistd::fchown(&terminal, Some(config.stream_owner.into()), None);
        let copy = || terminal.try_clone().map_err(|e| text("the terminal", &e));
        streams.stdin = config.stdin.then(copy).transpose()?;
        streams.stdout = Some(copy()?);
        streams.terminal = Some(terminal);
    }
    for stream in [&streams.stdin, &streams.stdout, &streams.stderr].into_iter().flatten() {
        descriptors::set_nonblocking(stream).map_err(|e| text("preparing the streams", &e))?;
    }
    if let Some(score) = config.oom_score_adj {
        // Lower than our own it may be refused, where the host lacks CAP_SYS_RESOURCE; then ours stays.
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string());
    }
    Ok(Created { container, streams, record })
}

fn receive_terminal(listener: &UnixListener) -> std::io::Result<OwnedFd> {
    let (connection, _) = listener.accept()?;
    let mut name = [0; 64];
    let (_, received) = descriptors::receive(connection.as_fd(), &mut name)?;
    received.into_iter().next().ok_or_else(|| std::io::Error::other("no descriptor came with it"))
}

/// The last of an error's causes, less the names of the layers it passed through.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut last = error;
    let mut texts = vec![last.to_string()];
    while let Some(source) = last.source() {
        last = source;
        texts.push(last.to_string());
    }
    match texts.iter().find_map(|text| text.find("exec: \"").map(|at| text[at..].to_owned())) {
        Some(words) => words,
        None => {
            texts.dedup();
            format!("error during container init: {}", texts.join(": "))
        }
    }
}

/// Takes what is left of a container that could not be created out of the bundle.
pub fn clean(bundle: &Path) {
    let _ = std::fs::remove_dir_all(BundleFiles(bundle.to_owned()).runtime());
    let _ = std::fs::remove_file(bundle.join(CONSOLE_SOCKET));
}
