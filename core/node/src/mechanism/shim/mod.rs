//! The shim: one small process a container, which outlives the agent.
//!
//! It creates the container, keeps its log, serves clients on a socket in the bundle, and writes down how the container
//! ended. Its only thread waits in one poll(2).

mod clients;
mod create;
mod log;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use self::clients::{Client, Clients};
use self::create::{Created, Streams};
use self::log::{Framer, LogFile, Stream};
use super::cgroup::{Cgroup, Hierarchies};
use super::launcher;
use super::protocol::{BundleFiles, Record, ShimCommand, ShimConfig, ShimMessage, now_ns, write_whole};

/// Bytes read from a stream at once; a shim stays small.
const READ_BYTES: usize = 16 * 1024;
/// How long clients may take to read the last output after the end.
const FAREWELL: Duration = Duration::from_secs(10);

/// Creates the container of a bundle and looks after it until it has ended.
pub fn run(bundle: &Path, control: OwnedFd) -> i32 {
    let _ = nix::sys::prctl::set_name(c"gantry-shim");
    let _ = nix::unistd::setsid();
    let _ = nix::sys::prctl::set_child_subreaper(true);
    let mut control = Client::new(UnixStream::from(control));
    match prepare(bundle) {
        Ok((mut shim, listener)) => {
            control.say(&ShimMessage::Created(shim.record.clone()));
            shim.clients.add(control);
            match shim.serve(&listener) {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("gantry shim {}: {error}", shim.config.id);
                    1
                }
            }
        }
        Err(reason) => {
            create::clean(bundle);
            control.say(&ShimMessage::Failed(reason));
            1
        }
    }
}

struct Shim {
    files: BundleFiles,
    config: ShimConfig,
    container: libcontainer::container::Container,
    streams: Streams,
    record: Record,
    log: Option<LogFile>,
    framers: [Framer; 2],
    clients: Clients,
    signals: SignalFd,
    buffer: Vec<u8>,
    /// When waiting for clients to read the last output ends.
    farewell_until: Option<Instant>,
}

fn prepare(bundle: &Path) -> Result<(Shim, UnixListener), String> {
    let files = BundleFiles(bundle.to_owned());
    let text = |doing: &str, error: &dyn std::fmt::Display| format!("{doing}: {error}");
    nix::unistd::chdir(bundle).map_err(|e| text("entering the bundle", &e.desc()))?;
    let config = std::fs::read(files.shim()).map_err(|e| text("reading shim.json", &e))?;
    let config: ShimConfig = serde_json::from_slice(&config).map_err(|e| text("reading shim.json", &e))?;
    let log = match &config.log_path {
        Some(path) => Some(
            LogFile::open(path, config.log_limit_bytes)
                .map_err(|e| format!("failed to create container log file {path:?}: {e}"))?,
        ),
        None => None,
    };
    let _ = std::fs::remove_file(BundleFiles::SOCKET);
    let listener = UnixListener::bind(BundleFiles::SOCKET).map_err(|e| text("listening", &e))?;
    listener.set_nonblocking(true).map_err(|e| text("listening", &e))?;
    let Created { container, streams, record } = create::create(&files, &config)?;
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    let signals = mask
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK))
        .map_err(|e| text("watching for signals", &e.desc()))?;
    let shim = Shim {
        files,
        config,
        container,
        streams,
        record,
        log,
        framers: [Framer::new(Stream::Stdout), Framer::new(Stream::Stderr)],
        clients: Clients::default(),
        signals,
        buffer: Vec::new(),
        farewell_until: None,
    };
    shim.save().map_err(|e| text("writing state.json", &e))?;
    Ok((shim, listener))
}

/// What a polled descriptor is.
#[derive(Clone, Copy)]
enum Source {
    Listener,
    Signals,
    Output(Stream),
    Stdin,
    Client(usize),
    ClientStdin(usize),
    ClientOutput(usize, Stream),
}

impl Shim {
    fn save(&self) -> std::io::Result<()> {
        write_whole(&self.files.state(), &serde_json::to_vec(&self.record)?)
    }

    fn serve(&mut self, listener: &UnixListener) -> std::io::Result<()> {
        // The container may have ended before its signals were watched.
        self.reap();
        loop {
            if self.farewell_until.is_some() && !self.clients.have_output() {
                return Ok(());
            }
            let timeout = match self.farewell_until {
                None => PollTimeout::NONE,
                Some(until) => match until.checked_duration_since(Instant::now()) {
                    None => return Ok(()),
                    Some(left) => PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
                },
            };
            for source in self.wait(listener, timeout)? {
                match source {
                    Source::Listener => {
                        if let Ok((connection, _)) = listener.accept() {
                            self.clients.add(Client::new(connection));
                        }
                    }
                    Source::Signals => {
                        while let Ok(Some(_)) = self.signals.read_signal() {}
                        self.reap();
                    }
                    Source::Output(stream) => {
                        self.pump(stream);
                    }
                    Source::Stdin => self.feed(),
                    Source::Client(index) => {
                        for (seq, command, received) in self.clients.receive(index) {
                            if matches!(command, ShimCommand::Quit) {
                                return Ok(());
                            }
                            let error = self.execute(index, command, received).err();
                            self.clients.say(index, &ShimMessage::Reply { seq, error, record: self.record.clone() });
                        }
                    }
                    Source::ClientStdin(index) => {
                        self.clients.read_stdin(index, self.config.stdin_once && !self.config.tty);
                        self.feed();
                    }
                    Source::ClientOutput(index, stream) => self.clients.write_output(index, stream),
                }
            }
            if self.clients.drop_closed() && self.config.stdin_once && !self.config.tty {
                self.clients.stdin_over = true;
            }
            self.feed();
        }
    }

    /// Waits until something can be done; what.
    fn wait(&self, listener: &UnixListener, timeout: PollTimeout) -> std::io::Result<Vec<Source>> {
        let mut wanted: Vec<(BorrowedFd<'_>, PollFlags, Source)> = Vec::with_capacity(8);
        wanted.push((self.signals.as_fd(), PollFlags::POLLIN, Source::Signals));
        wanted.push((listener.as_fd(), PollFlags::POLLIN, Source::Listener));
        for (stream, output) in [(Stream::Stdout, &self.streams.stdout), (Stream::Stderr, &self.streams.stderr)] {
            if let Some(output) = output.as_ref().filter(|_| !self.clients.are_behind(stream)) {
                wanted.push((output.as_fd(), PollFlags::POLLIN, Source::Output(stream)));
            }
        }
        if let Some(stdin) = self.streams.stdin.as_ref().filter(|_| !self.clients.input.is_empty()) {
            wanted.push((stdin.as_fd(), PollFlags::POLLOUT, Source::Stdin));
        }
        let clients = self.clients.connections().map(|(i, d)| (d, PollFlags::POLLIN, Source::Client(i)));
        wanted.extend(clients);
        wanted.extend(self.clients.inputs().map(|(i, d)| (d, PollFlags::POLLIN, Source::ClientStdin(i))));
        wanted.extend(self.clients.outputs().map(|(i, s, d)| (d, PollFlags::POLLOUT, Source::ClientOutput(i, s))));
        let mut polled: Vec<_> = wanted.iter().map(|(d, flags, _)| PollFd::new(*d, *flags)).collect();
        match poll(&mut polled, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = polled.iter().zip(&wanted).filter(|(p, _)| p.any() == Some(true));
        Ok(ready.map(|(_, (_, _, source))| *source).collect())
    }

    fn execute(&mut self, index: usize, command: ShimCommand, received: Vec<OwnedFd>) -> Result<(), String> {
        let ended = self.record.finished_at != 0;
        match command {
            ShimCommand::Start => {
                if ended || self.record.started_at != 0 {
                    return Err("the container has been started already".to_owned());
                }
                self.container.start().map_err(|error| error.to_string())?;
                self.record.started_at = now_ns();
                self.save().map_err(|error| format!("writing state.json: {error}"))
            }
            ShimCommand::Kill { signal } => {
                if ended {
                    return Ok(());
                }
                let signal = match signal {
                    // Nix knows no real-time signals by name, the kernel does by number.
                    number if number > 31 => return self.kill_by_number(number),
                    number => Signal::try_from(number).map_err(|_| format!("there is no signal {number}"))?,
                };
                // Not reaped yet: its id is still its own.
                match kill(Pid::from_raw(self.record.pid as i32), signal) {
                    Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
                    Err(error) => Err(format!("sending {signal}: {}", error.desc())),
                }
            }
            ShimCommand::ReopenLog => match &mut self.log {
                Some(log) => log.reopen().map_err(|error| format!("reopening the log file: {error}")),
                None => Ok(()),
            },
            ShimCommand::Attach { stdin, stdout, stderr } => {
                let mut received = received.into_iter();
                let mut take = |wanted: bool| if wanted { received.next() } else { None };
                let (stdin, stdout, stderr) = (take(stdin), take(stdout), take(stderr));
                self.clients
                    .attach(index, stdin, stdout, stderr)
                    .map_err(|error| format!("preparing the client's streams: {error}"))?;
                if self.streams.stdout.is_none() {
                    self.clients.end(Stream::Stdout);
                }
                if self.streams.stderr.is_none() {
                    self.clients.end(Stream::Stderr);
                }
                Ok(())
            }
            ShimCommand::Resize { width, height } => match &self.streams.terminal {
                Some(terminal) => super::descriptors::set_terminal_size(terminal, width, height)
                    .map_err(|error| format!("resizing the terminal: {error}")),
                None => Ok(()),
            },
            ShimCommand::Quit => Ok(()),
        }
    }

    fn kill_by_number(&self, number: i32) -> Result<(), String> {
        super::descriptors::signal_by_number(self.record.pid, number)
            .map_err(|error| format!("sending signal {number}: {error}"))
    }

    /// Copies what one read gives of a stream to the log and to clients; whether it gave something. At its end the
    /// stream is closed.
    fn pump(&mut self, stream: Stream) -> bool {
        let slot = match stream {
            Stream::Stdout => &mut self.streams.stdout,
            Stream::Stderr => &mut self.streams.stderr,
        };
        let Some(descriptor) = slot else { return false };
        self.buffer.resize(READ_BYTES, 0);
        match nix::unistd::read(&*descriptor, &mut self.buffer) {
            Ok(count @ 1..) => {
                let bytes = &self.buffer[..count];
                if let Some(log) = &mut self.log {
                    let mut lines = Vec::with_capacity(count + 256);
                    self.framers[stream as usize].push(bytes, &log::timestamp(now_ns()), &mut lines);
                    log.append(&lines);
                    if log.has_become_full() {
                        self.clients.say_agent(&ShimMessage::LogFull);
                    }
                }
                self.clients.spread(stream, bytes);
                true
            }
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => false,
            // A terminal says EIO when its last user has closed it.
            Ok(0) | Err(_) => {
                *slot = None;
                self.end(stream);
                false
            }
        }
    }

    /// Nothing more will come on a stream.
    fn end(&mut self, stream: Stream) {
        if let Some(log) = &mut self.log {
            let mut lines = Vec::new();
            self.framers[stream as usize].finish(&log::timestamp(now_ns()), &mut lines);
            log.append(&lines);
        }
        self.clients.end(stream);
    }

    /// Writes to the container what clients have typed.
    fn feed(&mut self) {
        while let Some(stdin) = self.streams.stdin.as_ref().filter(|_| !self.clients.input.is_empty()) {
            match nix::unistd::write(stdin, self.clients.input.as_slices().0) {
                Ok(count) => drop(self.clients.input.drain(..count)),
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => return,
                // Nobody will read it any more.
                Err(_) => self.streams.stdin = None,
            }
        }
        if self.streams.stdin.is_none() {
            self.clients.input.clear();
        }
        if self.clients.stdin_over {
            self.streams.stdin = None;
        }
    }

    /// Reaps what has ended; notes the container's end.
    fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(status) => {
                    let pid = status.pid().map_or(0, |pid| pid.as_raw().unsigned_abs());
                    if pid == self.record.pid
                        && let Some(code) = launcher::exit_code(status)
                    {
                        self.finish(code);
                    }
                }
            }
        }
    }

    /// The container has ended: completes its log, writes its record, tells everybody.
    fn finish(&mut self, exit_code: i32) {
        let cgroup = Hierarchies::read().ok().map(|h| Cgroup::new(&h, &self.config.cgroup_path));
        if let Some(cgroup) = cgroup.as_ref().filter(|_| !self.config.own_pid_namespace) {
            // The kernel ends the rest only of a pid namespace.
            cgroup.signal_all(Signal::SIGKILL);
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.pump(stream) {}
            let slot = match stream {
                Stream::Stdout => &mut self.streams.stdout,
                Stream::Stderr => &mut self.streams.stderr,
            };
            if slot.take().is_some() {
                self.end(stream);
            }
        }
        self.streams.stdin = None;
        self.record.exit_code = exit_code;
        self.record.oom_killed = cgroup.is_some_and(|cgroup| cgroup.oom_kills() > 0);
        self.record.finished_at = now_ns();
        if let Err(error) = self.save() {
            eprintln!("gantry shim {}: writing state.json: {error}", self.config.id);
        }
        self.clients.say_all(&ShimMessage::Exited(self.record.clone()));
        self.farewell_until = Some(Instant::now() + FAREWELL);
    }
}
