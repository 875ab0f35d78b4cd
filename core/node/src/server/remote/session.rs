//! Copying between a client and a process until the process has ended or the client is gone.

use std::future::pending;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gantry_plugin_host::CapabilityError;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::Kind;
use super::client::{Channel, Client, Event};
use super::outcome::Outcome;
use crate::container_io::{Session, TerminalSize};

/// How much is read of a process at a time.
const CHUNK_BYTES: usize = 32 << 10;
/// How long a client may take to accept the last words and hang up.
const FAREWELL_MAX: Duration = Duration::from_secs(10);

async fn copy_out(
    from: Option<Box<dyn AsyncRead + Send + Unpin>>,
    channel: Channel,
    out: &mpsc::Sender<(Channel, Bytes)>,
) {
    let Some(mut from) = from else { return };
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK_BYTES);
        match from.read_buf(&mut buffer).await {
            Ok(0) => return,
            Ok(_) if out.send((channel, buffer.split().freeze())).await.is_err() => return,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, ?channel, "output of a process ended");
                return;
            }
        }
    }
}

/// Never returns: the end of the process or the client ends a session.
async fn copy_in(
    events: &mut mpsc::Receiver<Event>,
    mut stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    resize: mpsc::Sender<TerminalSize>,
) {
    while let Some(event) = events.recv().await {
        match (event, &mut stdin) {
            (Event::Resize(size), _) => {
                // A process that has ended takes no more sizes.
                let _ = resize.send(size).await;
            }
            (Event::Stdin(bytes), Some(to)) => {
                if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
                    stdin = None;
                }
            }
            (Event::StdinClosed, Some(to)) => {
                let _ = to.shutdown().await;
                stdin = None;
            }
            (Event::Stdin(_) | Event::StdinClosed, None) => {}
        }
    }
    pending::<()>().await;
}

/// Runs a session to its end.
pub async fn run(kind: Kind, opened: Result<Session, CapabilityError>, client: Client) {
    let Client { mut events, out, gone, form, mut writer, mut reader } = client;
    let outcome = match opened {
        Err(error) => Outcome::Failure(match kind {
            Kind::Exec => format!("error executing command in container: {}", error.message),
            Kind::Attach => format!("error attaching to container: {}", error.message),
        }),
        Ok(session) => {
            let Session { stdin, stdout, stderr, resize, exit } = session;
            let output = async {
                let (_, _, exit) = tokio::join!(
                    copy_out(stdout, Channel::Stdout, &out),
                    copy_out(stderr, Channel::Stderr, &out),
                    exit
                );
                exit
            };
            let exit = tokio::select! {
                exit = output => exit,
                () = copy_in(&mut events, stdin, resize) => return,
                () = gone.cancelled() => return,
            };
            match (exit, kind) {
                // The exit code of an attached container is the pod's matter, not the client's.
                (Ok(Ok(_)), Kind::Attach) => Outcome::Exit(0),
                (Ok(Ok(code)), Kind::Exec) => Outcome::Exit(code),
                (Ok(Err(error)), _) => Outcome::Failure(error.message),
                (Err(_), _) => Outcome::Failure("the process was lost sight of".into()),
            }
        }
    };
    if let Some(message) = outcome.message(form) {
        let _ = out.send((Channel::Error, message)).await;
    }
    // What the client still says is read and dropped: a connection closed with unread input loses the last output.
    drop(events);
    drop(out);
    let farewell = async {
        let _ = (&mut writer).await;
        let _ = (&mut reader).await;
    };
    let _ = tokio::time::timeout(FAREWELL_MAX, farewell).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_io::Streams;
    use crate::server::remote::channels;
    use futures::{SinkExt, StreamExt};
    use tokio::sync::oneshot;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    #[tokio::test]
    async fn a_command_reads_answers_and_ends() {
        let (here, there) = tokio::io::duplex(4096);
        let (stdin, mut process_stdin) = tokio::io::duplex(64);
        let (mut process_stdout, stdout) = tokio::io::duplex(64);
        let (ended, exit) = oneshot::channel();
        let (resize, _sizes) = mpsc::channel(1);
        let session =
            Session { stdin: Some(Box::new(stdin)), stdout: Some(Box::new(stdout)), stderr: None, resize, exit };
        tokio::spawn(async move {
            let mut heard = Vec::new();
            process_stdin.read_to_end(&mut heard).await.expect("read");
            process_stdout.write_all(&heard).await.expect("written");
            ended.send(Ok(3)).expect("awaited");
        });
        let socket = WebSocketStream::from_raw_socket(here, Role::Server, None).await;
        let streams = Streams { stdin: true, stdout: true, stderr: false, tty: false };
        let client = channels::client(socket, channels::Protocol::named("v5.channel.k8s.io"), streams);
        let running = tokio::spawn(run(Kind::Exec, Ok(session), client));
        let mut peer = WebSocketStream::from_raw_socket(there, Role::Client, None).await;
        peer.send(Message::binary(&b"\0hello"[..])).await.expect("sent");
        peer.send(Message::binary(&b"\xff\0"[..])).await.expect("sent");
        let mut heard = Vec::new();
        while let Some(Ok(message)) = peer.next().await {
            if let Message::Binary(bytes) = message {
                heard.push(bytes);
            }
        }
        let outcome = Outcome::Exit(3).message(super::super::client::OutcomeForm::Status).expect("a message");
        let told = [&b"\x03"[..], &outcome].concat();
        assert_eq!(heard, [&b"\x01"[..], b"\x01hello", &told]);
        drop(peer);
        running.await.expect("ended");
    }
}
