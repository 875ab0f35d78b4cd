//! Sessions over SPDY/3.1: the client opens a stream for each of standard input, output, error, the outcome and the
//! terminal's sizes, and says in the header `streamType` which one it is.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::client::{self, Channel, Client, Event, OutcomeForm};
use crate::container_io::Streams;
use crate::server::spdy::{Connection, Incoming, StreamWriter};

/// What is spoken, the best first.
pub const PROTOCOLS: &[&str] =
    &["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// How long a client may take to open its streams.
const OPEN_MAX: Duration = Duration::from_secs(30);
/// The longest message of the resize stream.
const RESIZE_BYTES_MAX: usize = 4096;

/// What differs between the protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    resizes: bool,
    form: OutcomeForm,
}

impl Version {
    /// The protocol of that name.
    pub fn named(name: &str) -> Self {
        let number = name.strip_prefix('v').and_then(|rest| rest.split('.').next()?.parse::<u8>().ok()).unwrap_or(1);
        Self { resizes: number >= 3, form: if number >= 4 { OutcomeForm::Status } else { OutcomeForm::Text } }
    }
}

/// Sizes in a stream of JSON objects without anything between them.
fn sizes(pending: &mut BytesMut, bytes: &[u8]) -> Vec<Event> {
    pending.extend_from_slice(bytes);
    let mut found = Vec::new();
    while let Some(end) = pending.iter().position(|byte| *byte == b'}') {
        found.extend(client::resize(&pending.split_to(end + 1)).map(Event::Resize));
    }
    if pending.len() > RESIZE_BYTES_MAX {
        pending.clear();
    }
    found
}

async fn read_stdin(mut stream: mpsc::Receiver<Bytes>, events: mpsc::Sender<Event>) {
    while let Some(bytes) = stream.recv().await {
        if events.send(Event::Stdin(bytes)).await.is_err() {
            return;
        }
    }
    let _ = events.send(Event::StdinClosed).await;
}

async fn read_sizes(mut stream: mpsc::Receiver<Bytes>, events: mpsc::Sender<Event>) {
    let mut pending = BytesMut::new();
    while let Some(bytes) = stream.recv().await {
        for event in sizes(&mut pending, &bytes) {
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
}

#[derive(Default)]
struct Opened {
    stdin: Option<Incoming>,
    stdout: Option<StreamWriter>,
    stderr: Option<StreamWriter>,
    error: Option<StreamWriter>,
    resize: Option<Incoming>,
}

async fn open(connection: &mut Connection, version: Version, wanted: Streams) -> Result<Opened, &'static str> {
    let mut opened = Opened::default();
    let resizes = wanted.tty && version.resizes;
    let complete = |opened: &Opened| {
        opened.error.is_some()
            && opened.stdin.is_some() >= wanted.stdin
            && opened.stdout.is_some() >= wanted.stdout
            && opened.stderr.is_some() >= wanted.stderr
            && opened.resize.is_some() >= resizes
    };
    while !complete(&opened) {
        let stream = connection.accept().await.ok_or("the client closed the connection")?;
        match stream.header("streamtype") {
            Some("stdin") => opened.stdin = Some(stream.into_incoming()),
            Some("resize") => opened.resize = Some(stream.into_incoming()),
            Some("stdout") => opened.stdout = Some(stream.writer()),
            Some("stderr") => opened.stderr = Some(stream.writer()),
            Some("error") => opened.error = Some(stream.writer()),
            _ => return Err("the client opened a stream of unknown type"),
        }
    }
    Ok(opened)
}

/// The client at the other end of a SPDY connection, once it has opened the streams.
pub async fn client<S>(io: S, version: Version, wanted: Streams) -> Result<Client, &'static str>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut connection = Connection::new(io);
    let opened = tokio::time::timeout(OPEN_MAX, open(&mut connection, version, wanted))
        .await
        .map_err(|_| "timed out waiting for client to create streams")??;
    let (event, events) = mpsc::channel(client::QUEUE_MAX);
    let (out, mut outgoing) = mpsc::channel::<(Channel, Bytes)>(client::QUEUE_MAX);
    let gone: CancellationToken = connection.closed();
    let reader = {
        let stdin = opened.stdin.map(|stream| read_stdin(stream.data, event.clone()).boxed());
        let resize = opened.resize.map(|stream| read_sizes(stream.data, event).boxed());
        tokio::spawn(async move {
            futures::future::join_all(stdin.into_iter().chain(resize)).await;
        })
    };
    let (stdout, stderr, error) = (opened.stdout, opened.stderr, opened.error);
    let writer = tokio::spawn(async move {
        while let Some((channel, bytes)) = outgoing.recv().await {
            let stream = match channel {
                Channel::Stdout => &stdout,
                Channel::Stderr => &stderr,
                Channel::Error => &error,
            };
            if let Some(stream) = stream {
                stream.send(bytes).await;
            }
        }
        for stream in [stdout, stderr, error].into_iter().flatten() {
            stream.finish().await;
        }
        connection.close().await;
    });
    Ok(Client {
        events,
        out,
        gone,
        form: version.form,
        writer: AbortOnDropHandle::new(writer),
        reader: AbortOnDropHandle::new(reader),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_io::TerminalSize;

    #[test]
    fn versions() {
        let cases = [
            ("v4.channel.k8s.io", true, OutcomeForm::Status),
            ("v3.channel.k8s.io", true, OutcomeForm::Text),
            ("v2.channel.k8s.io", false, OutcomeForm::Text),
            ("channel.k8s.io", false, OutcomeForm::Text),
        ];
        for (name, resizes, form) in cases {
            assert_eq!(Version::named(name), Version { resizes, form }, "{name}");
        }
    }

    #[test]
    fn sizes_in_pieces() {
        let mut pending = BytesMut::new();
        assert_eq!(sizes(&mut pending, b"{\"Width\":1,"), []);
        let size = |width, height| Event::Resize(TerminalSize { width, height });
        assert_eq!(sizes(&mut pending, b"\"Height\":2}\n{\"Width\":3,\"Height\":4}{"), [size(1, 2), size(3, 4)]);
    }
}
