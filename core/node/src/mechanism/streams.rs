//! Exec and attach: streams between clients and processes.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use futures::StreamExt;
use gantry_plugin_host::capability::BundleStatus;
use gantry_plugin_host::{CapabilityError, ErrorCode};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use oci_spec::runtime::{Process, Spec};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::codec::{FramedRead, LinesCodec};

use super::container::{Container, encode, lines, next};
use super::protocol::{ExecRequest, LINE_LIMIT_BYTES, LaunchReply, LaunchRequest, ShimCommand, ShimMessage};
use super::{Mechanism, blocking, descriptors, host, rootfs};
use crate::container_io::{ContainerExit, ContainerIo, Session, Streams, TerminalSize};

/// New sizes that may wait for a terminal.
const RESIZES_MAX: usize = 8;

/// Closes a pipe when it is shut down, which a pipe's writer doesn't do by itself.
struct Closing(Option<pipe::Sender>);

impl AsyncWrite for Closing {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some(pipe) => Pin::new(pipe).poll_write(context, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

/// The master side of a terminal.
#[derive(Clone)]
struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let space = buffer.initialize_unfilled();
            match guard.try_io(|terminal| Ok(nix::unistd::read(terminal.get_ref(), space)?)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // What a terminal says when its last user has closed it.
                Ok(Err(error)) if error.raw_os_error() == Some(nix::libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => continue,
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            match guard.try_io(|terminal| Ok(nix::unistd::write(terminal.get_ref(), bytes)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => continue,
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// A terminal can't be closed on one side; its user types ^D.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Our ends of an exec's streams.
#[derive(Default)]
struct Ends {
    stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
}

/// Makes the three pipes of a process; what nobody wants is /dev/null.
fn pipes(streams: Streams) -> io::Result<(Ends, [OwnedFd; 3])> {
    let null =
        || -> io::Result<OwnedFd> { Ok(std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?.into()) };
    let mut ends = Ends::default();
    let reader = |wanted: bool| -> io::Result<(Option<Box<dyn AsyncRead + Send + Unpin>>, OwnedFd)> {
        if !wanted {
            return Ok((None, null()?));
        }
        let (read, write) = io::pipe()?;
        descriptors::set_nonblocking(&read)?;
        Ok((Some(Box::new(pipe::Receiver::from_owned_fd_unchecked(read.into())?)), write.into()))
    };
    let stdin = if streams.stdin {
        let (read, write) = io::pipe()?;
        descriptors::set_nonblocking(&write)?;
        ends.stdin = Some(Box::new(Closing(Some(pipe::Sender::from_owned_fd_unchecked(write.into())?))));
        read.into()
    } else {
        null()?
    };
    let (stdout, theirs_out) = reader(streams.stdout)?;
    let (stderr, theirs_err) = reader(streams.stderr)?;
    ends.stdout = stdout;
    ends.stderr = stderr;
    Ok((ends, [stdin, theirs_out, theirs_err]))
}

impl Mechanism {
    /// What to run, as the container's own specification and this host allow it.
    fn exec_request(&self, container: &Container, process: &str, tty: bool) -> Result<ExecRequest, CapabilityError> {
        let id = &container.id;
        let mut process: Process = serde_json::from_str(process).map_err(|error| {
            CapabilityError::new(ErrorCode::Invalid, format!("the process to run in container {id}: {error}"))
        })?;
        let text = std::fs::read(container.files.config())
            .map_err(|e| CapabilityError::io(format!("reading config.json of container {id}"), &e))?;
        let spec: Spec = serde_json::from_slice(&text).map_err(|error| {
            CapabilityError::new(ErrorCode::Internal, format!("config.json of container {id}: {error}"))
        })?;
        process.set_terminal(Some(tty));
        let root = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
        host::adapt_process(&mut process, &self.inner.facts, &|uid| rootfs::home_of(&root, uid));
        let record = container.record.borrow().clone();
        Ok(ExecRequest {
            init_pid: record.pid,
            init_start_time: record.pid_start_time,
            process,
            seccomp: spec.linux().as_ref().and_then(|linux| linux.seccomp().clone()),
        })
    }

    fn running(&self, container_id: &str) -> Result<Arc<Container>, CapabilityError> {
        let container = self.container(container_id)?;
        match container.status() {
            BundleStatus::Running => Ok(container),
            _ => Err(CapabilityError::new(ErrorCode::Busy, format!("container {container_id} is not running"))),
        }
    }
}

/// Passes on new sizes, the exit code and, once nobody waits for that any more, the hang-up.
async fn oversee_exec(
    mut replies: FramedRead<tokio::net::UnixStream, LinesCodec>,
    terminal: Option<Terminal>,
    mut resizes: mpsc::Receiver<TerminalSize>,
    mut exit: oneshot::Sender<Result<i32, CapabilityError>>,
    container_id: String,
) {
    let result = loop {
        tokio::select! {
            line = replies.next() => {
                let line = line.and_then(Result::ok);
                match line.as_deref().map(serde_json::from_str) {
                    Some(Ok(LaunchReply::Exited(code))) => break Ok(code),
                    Some(_) => {}
                    None => {
                        let text = format!("exec in container {container_id}: its helper was killed");
                        break Err(CapabilityError::new(ErrorCode::Internal, text));
                    }
                }
            }
            Some(size) = resizes.recv() => {
                if let Some(terminal) = &terminal {
                    let _ = descriptors::set_terminal_size(terminal.0.get_ref(), size.width, size.height);
                }
            }
            // The helper sees the connection closed and kills the process.
            () = exit.closed() => return,
        }
    };
    let _ = exit.send(result);
}

#[async_trait]
impl ContainerIo for Mechanism {
    /// The process is killed when the session's `exit` is dropped.
    async fn exec(&self, container_id: &str, process: &str, streams: Streams) -> Result<Session, CapabilityError> {
        let container = self.running(container_id)?;
        let request = self.exec_request(&container, process, streams.tty)?;
        let fail = |e: &io::Error| CapabilityError::io(format!("exec in container {container_id}"), e);
        let fail_nix = |e: nix::Error| fail(&e.into());
        let pair = || socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) = pair().map_err(fail_nix)?;
        descriptors::set_nonblocking(&ours).map_err(|e| fail(&e))?;
        let ours = tokio::net::UnixStream::from_std(ours.into()).map_err(|e| fail(&e))?;
        let mut replies = FramedRead::new(ours, LinesCodec::new_with_max_length(LINE_LIMIT_BYTES));
        let mut ends = Ends::default();
        let mut console = None;
        let mut handed = vec![theirs];
        if streams.tty {
            let (receives, sends) = pair().map_err(fail_nix)?;
            console = Some(receives);
            handed.push(sends);
        } else {
            let (made, theirs) = pipes(streams).map_err(|e| fail(&e))?;
            ends = made;
            handed.extend(theirs);
        }
        let borrowed: Vec<BorrowedFd<'_>> = handed.iter().map(AsFd::as_fd).collect();
        self.inner.launcher.launch(&LaunchRequest::Exec(Box::new(request)), &borrowed).map_err(|e| fail(&e))?;
        drop(handed);
        let line = replies.next().await.and_then(Result::ok);
        match line.as_deref().map(serde_json::from_str) {
            Some(Ok(LaunchReply::Started(_))) => {}
            Some(Ok(LaunchReply::Failed(reason))) => {
                let text = format!("OCI runtime exec failed: exec failed: unable to start container process: {reason}");
                return Err(CapabilityError::new(ErrorCode::Invalid, text));
            }
            _ => {
                let text = format!("exec in container {container_id}: the helper ended without a word");
                return Err(CapabilityError::new(ErrorCode::Internal, text));
            }
        }
        let mut terminal = None;
        if let Some(console) = console {
            // It was sent before the process started.
            let (_, received) = descriptors::receive(console.as_fd(), &mut [0; 64]).map_err(|e| fail(&e))?;
            let master = received.into_iter().next().ok_or_else(|| fail(&io::Error::other("no terminal arrived")))?;
            descriptors::set_nonblocking(&master).map_err(|e| fail(&e))?;
            // SAFETY: an owned descriptor is open, and stays the same one, for as long as its owner lives.
            let master = unsafe { AsyncFd::register(master) }.map_err(|e| fail(&e.into()))?;
            let master = Terminal(Arc::new(master));
            ends.stdin = streams.stdin.then(|| Box::new(master.clone()) as _);
            ends.stdout = streams.stdout.then(|| Box::new(master.clone()) as _);
            terminal = Some(master);
        }
        let (resize, resizes) = mpsc::channel(RESIZES_MAX);
        let (exit_sender, exit) = oneshot::channel();
        tokio::spawn(oversee_exec(replies, terminal, resizes, exit_sender, container_id.to_owned()));
        Ok(Session { stdin: ends.stdin, stdout: ends.stdout, stderr: ends.stderr, resize, exit })
    }

    /// The client is detached when the session's `exit` is dropped.
    async fn attach(&self, container_id: &str, streams: Streams) -> Result<Session, CapabilityError> {
        let container = self.running(container_id)?;
        let failed = format!("attaching to container {container_id}");
        let config = container.config.lock().clone();
        let tty = config.as_ref().is_some_and(|config| config.tty);
        let has_stdin = config.as_ref().is_some_and(|config| config.stdin);
        let (stdin, stdout, stderr) = (streams.stdin && has_stdin, streams.stdout, streams.stderr && !tty);
        let fail = |e: &io::Error| CapabilityError::io(&failed, e);
        let mut ours = Vec::new();
        let mut theirs: Vec<OwnedFd> = Vec::new();
        for wanted in [stdin, stdout, stderr] {
            let mut end = None;
            if wanted {
                let (us, them) = std::os::unix::net::UnixStream::pair().map_err(|e| fail(&e))?;
                us.set_nonblocking(true).map_err(|e| fail(&e))?;
                end = Some(tokio::net::UnixStream::from_std(us).map_err(|e| fail(&e))?);
                theirs.push(them.into());
            }
            ours.push(end);
        }
        let line = encode(1, ShimCommand::Attach { stdin, stdout, stderr }).map_err(|e| fail(&e))?;
        let (kept, doing) = (container.clone(), failed.clone());
        let connection = blocking(move || {
            let fail = |e: &io::Error| CapabilityError::io(&doing, e);
            let connection = kept.connect().map_err(|e| fail(&e))?;
            let borrowed: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
            descriptors::send(connection.as_fd(), &line, &borrowed).map_err(|e| fail(&e))?;
            connection.set_nonblocking(true).map_err(|e| fail(&e))?;
            Ok(connection)
        })
        .await?;
        let connection = tokio::net::UnixStream::from_std(connection).map_err(|e| fail(&e))?;
        let (mut messages, mut writer) = lines(connection);
        match next(&mut messages).await {
            Some(ShimMessage::Reply { error: None, .. }) => {}
            Some(ShimMessage::Reply { error: Some(reason), .. }) => {
                return Err(CapabilityError::new(ErrorCode::Internal, format!("{failed}: {reason}")));
            }
            _ => return Err(CapabilityError::new(ErrorCode::Busy, format!("container {container_id} is not running"))),
        }
        let (resize, mut resizes) = mpsc::channel::<TerminalSize>(RESIZES_MAX);
        let (mut exit_sender, exit) = oneshot::channel();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    message = next(&mut messages) => match message {
                        Some(ShimMessage::Exited(record)) => {
                            let _ = exit_sender.send(Ok(record.exit_code));
                            // The shim waits for its clients to read the last output, not for this connection.
                            while next(&mut messages).await.is_some() {}
                            return;
                        }
                        Some(_) => {}
                        None => {
                            let text = format!("{failed}: its shim was killed");
                            let _ = exit_sender.send(Err(CapabilityError::new(ErrorCode::Internal, text)));
                            return;
                        }
                    },
                    Some(TerminalSize { width, height }) = resizes.recv() => {
                        if let Ok(line) = encode(0, ShimCommand::Resize { width, height }) {
                            let _ = writer.write_all(&line).await;
                        }
                    }
                    () = exit_sender.closed() => return,
                }
            }
        });
        let mut ours = ours.into_iter();
        let mut end = || ours.next().flatten();
        Ok(Session {
            stdin: end().map(|stream| Box::new(stream) as _),
            stdout: end().map(|stream| Box::new(stream) as _),
            stderr: end().map(|stream| Box::new(stream) as _),
            resize,
            exit,
        })
    }

    async fn reopen_log(&self, container_id: &str) -> Result<(), CapabilityError> {
        self.container(container_id)?.ask(ShimCommand::ReopenLog).await.map(drop)
    }

    fn exits(&self) -> broadcast::Receiver<ContainerExit> {
        self.inner.exits.subscribe()
    }
}
