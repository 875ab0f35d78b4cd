//! Connections to a shim: the agent's, and one for each attached client.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::log::Stream;
use crate::mechanism::descriptors;
use crate::mechanism::protocol::{LINE_LIMIT_BYTES, Numbered, ShimCommand, ShimMessage};

/// Output kept for a client that reads slowly, in bytes; beyond it the container waits, as it would for a terminal.
const OUTPUT_LIMIT_BYTES: usize = 256 * 1024;
/// Input kept for a container that reads slowly; beyond it its clients wait.
const INPUT_LIMIT_BYTES: usize = 64 * 1024;

/// A command, its number and the descriptors that came with it.
pub type Received = (u64, ShimCommand, Vec<OwnedFd>);

/// An attached client's end of an output stream.
struct Output {
    descriptor: std::fs::File,
    waiting: VecDeque<u8>,
    /// Nothing more will come.
    ending: bool,
}

/// One connection.
pub struct Client {
    connection: UnixStream,
    line: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    closed: bool,
    attached: bool,
    had_stdin: bool,
    stdin: Option<std::fs::File>,
    stdout: Option<Output>,
    stderr: Option<Output>,
}

impl Client {
    /// Of a fresh connection.
    pub fn new(connection: UnixStream) -> Self {
        let _ = connection.set_nonblocking(true);
        Self {
            connection,
            line: Vec::new(),
            descriptors: VecDeque::new(),
            closed: false,
            attached: false,
            had_stdin: false,
            stdin: None,
            stdout: None,
            stderr: None,
        }
    }

    /// Sends a message. A client that doesn't read its few short messages is given up.
    pub fn say(&mut self, message: &ShimMessage) {
        let mut line = serde_json::to_vec(message).unwrap_or_default();
        line.push(b'\n');
        self.closed |= self.connection.write_all(&line).is_err();
    }

    fn output(&mut self, stream: Stream) -> &mut Option<Output> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Reads what has arrived, up to the end of the connection.
    fn receive(&mut self) -> Vec<Received> {
        let mut commands = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match descriptors::receive(self.connection.as_fd(), &mut buffer) {
                Ok((0, _)) => self.closed = true,
                Ok((count, received)) => {
                    self.descriptors.extend(received);
                    self.line.extend_from_slice(&buffer[..count]);
                    while let Some(end) = self.line.iter().position(|&b| b == b'\n') {
                        let line: Vec<u8> = self.line.drain(..=end).collect();
                        match serde_json::from_slice::<Numbered>(&line) {
                            Ok(Numbered { seq, command }) => {
                                let count = match &command {
                                    ShimCommand::Attach { stdin, stdout, stderr } => {
                                        usize::from(*stdin) + usize::from(*stdout) + usize::from(*stderr)
                                    }
                                    _ => 0,
                                };
                                let count = count.min(self.descriptors.len());
                                commands.push((seq, command, self.descriptors.drain(..count).collect()));
                            }
                            Err(_) => self.closed = true,
                        }
                    }
                    self.closed |= self.line.len() > LINE_LIMIT_BYTES;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return commands,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => self.closed = true,
            }
            if self.closed {
                return commands;
            }
        }
    }
}

/// All connections, and what clients have typed.
#[derive(Default)]
pub struct Clients {
    list: Vec<Client>,
    /// Not yet written to the container.
    pub input: VecDeque<u8>,
    /// The container's standard input shall be closed once it has read what was typed.
    pub stdin_over: bool,
}

impl Clients {
    /// Takes a connection in.
    pub fn add(&mut self, client: Client) {
        self.list.push(client);
    }

    /// The connections, with their numbers.
    pub fn connections(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.list.iter().enumerate().map(|(index, client)| (index, client.connection.as_fd()))
    }

    /// Where input may come from; none while the container has enough to read.
    pub fn inputs(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let full = self.input.len() >= INPUT_LIMIT_BYTES;
        self.list.iter().enumerate().filter(move |_| !full).filter_map(|(i, c)| Some((i, c.stdin.as_ref()?.as_fd())))
    }

    /// Outputs with something left to write.
    pub fn outputs(&self) -> impl Iterator<Item = (usize, Stream, BorrowedFd<'_>)> {
        self.list.iter().enumerate().flat_map(|(index, client)| {
            [(Stream::Stdout, &client.stdout), (Stream::Stderr, &client.stderr)].into_iter().filter_map(
                move |(stream, output)| {
                    let output = output.as_ref().filter(|o| !o.waiting.is_empty())?;
                    Some((index, stream, output.descriptor.as_fd()))
                },
            )
        })
    }

    /// Whether a client has yet to read output.
    pub fn have_output(&self) -> bool {
        self.outputs().next().is_some()
    }

    /// Whether a client is so far behind that the stream must wait.
    pub fn are_behind(&self, stream: Stream) -> bool {
        self.list.iter().any(|client| {
            let output = match stream {
                Stream::Stdout => &client.stdout,
                Stream::Stderr => &client.stderr,
            };
            output.as_ref().is_some_and(|o| o.waiting.len() >= OUTPUT_LIMIT_BYTES)
        })
    }

    /// Commands of a connection.
    pub fn receive(&mut self, index: usize) -> Vec<Received> {
        self.list.get_mut(index).map(Client::receive).unwrap_or_default()
    }

    /// Sends a message to one.
    pub fn say(&mut self, index: usize, message: &ShimMessage) {
        if let Some(client) = self.list.get_mut(index) {
            client.say(message);
        }
    }

    /// Sends a message to all.
    pub fn say_all(&mut self, message: &ShimMessage) {
        self.list.iter_mut().for_each(|client| client.say(message));
    }

    /// Sends a message to those that don't attach: the agent.
    pub fn say_agent(&mut self, message: &ShimMessage) {
        self.list.iter_mut().filter(|client| !client.attached).for_each(|client| client.say(message));
    }

    /// Makes a connection an attached client.
    pub fn attach(
        &mut self,
        index: usize,
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> std::io::Result<()> {
        for descriptor in [&stdin, &stdout, &stderr].into_iter().flatten() {
            descriptors::set_nonblocking(descriptor)?;
        }
        let Some(client) = self.list.get_mut(index) else { return Ok(()) };
        let output =
            |descriptor: OwnedFd| Output { descriptor: descriptor.into(), waiting: VecDeque::new(), ending: false };
        client.attached = true;
        client.had_stdin = stdin.is_some();
        client.stdin = stdin.map(Into::into);
        client.stdout = stdout.map(output);
        client.stderr = stderr.map(output);
        Ok(())
    }

    /// Hands output to those that are attached to the stream.
    pub fn spread(&mut self, stream: Stream, bytes: &[u8]) {
        for client in &mut self.list {
            if let Some(output) = client.output(stream).as_mut().filter(|o| !o.ending) {
                output.waiting.extend(bytes);
                Self::write(client.output(stream));
            }
        }
    }

    /// No more will come on the stream.
    pub fn end(&mut self, stream: Stream) {
        for client in &mut self.list {
            if let Some(output) = client.output(stream) {
                output.ending = true;
            }
            Self::write(client.output(stream));
        }
    }

    /// Goes on writing to a client.
    pub fn write_output(&mut self, index: usize, stream: Stream) {
        if let Some(client) = self.list.get_mut(index) {
            Self::write(client.output(stream));
        }
    }

    fn write(slot: &mut Option<Output>) {
        let Some(output) = slot else { return };
        while !output.waiting.is_empty() {
            match output.descriptor.write(output.waiting.as_slices().0) {
                Ok(count) => drop(output.waiting.drain(..count)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => {
                    // The reader has gone.
                    *slot = None;
                    return;
                }
            }
        }
        output.waiting.shrink_to(4096);
        if output.ending {
            *slot = None;
        }
    }

    /// Reads what a client has typed. At its end: `once` closes the container's standard input, else the client is
    /// detached, as containerd does.
    pub fn read_stdin(&mut self, index: usize, once: bool) {
        let Some(client) = self.list.get_mut(index) else { return };
        let Some(stdin) = &mut client.stdin else { return };
        let mut buffer = [0; 8192];
        match stdin.read(&mut buffer) {
            Ok(count @ 1..) => self.input.extend(&buffer[..count]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {}
            Ok(0) | Err(_) => {
                client.stdin = None;
                if once {
                    self.stdin_over = true;
                    return;
                }
                for stream in [Stream::Stdout, Stream::Stderr] {
                    if let Some(output) = client.output(stream) {
                        output.ending = true;
                    }
                    Self::write(client.output(stream));
                }
            }
        }
    }

    /// Forgets connections that are closed; whether one of them had standard input.
    pub fn drop_closed(&mut self) -> bool {
        let had_stdin = self.list.iter().any(|client| client.closed && client.had_stdin);
        self.list.retain(|client| !client.closed);
        had_stdin
    }
}
