//! Sessions over a WebSocket: the first byte of each message is its channel (KEP-4006, upstream's
//! `remotecommand` subprotocols).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::client::{self, Channel, Client, Event, OutcomeForm};
use crate::container_io::Streams;
use crate::server::upgrade::normal_closure;

/// What is spoken, the best first.
pub const PROTOCOLS: &[&str] =
    &["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];

const STDIN: u8 = 0;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// What differs between the protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Messages are base64 in text, their channel a digit.
    base64: bool,
    /// The client can close standard input.
    closes: bool,
    form: OutcomeForm,
}

impl Protocol {
    /// The protocol of that name; an unnamed one is the first version.
    pub fn named(name: &str) -> Self {
        let newer = name.starts_with('v');
        Self {
            base64: name.contains("base64"),
            closes: name.starts_with("v5"),
            form: if newer { OutcomeForm::Status } else { OutcomeForm::Text },
        }
    }

    /// What a message of the client says.
    fn event(self, message: &Bytes) -> Option<Event> {
        let (channel, content) = if self.base64 {
            let (channel, content) = message.split_first()?;
            (channel.checked_sub(b'0')?, Bytes::from(STANDARD.decode(content).ok()?))
        } else {
            (*message.first()?, message.slice(1..))
        };
        match channel {
            STDIN => (!content.is_empty()).then_some(Event::Stdin(content)),
            RESIZE => client::resize(&content).map(Event::Resize),
            CLOSE if self.closes && content.first() == Some(&STDIN) => Some(Event::StdinClosed),
            _ => None,
        }
    }

    fn message(self, channel: Channel, content: &[u8]) -> Message {
        let number = match channel {
            Channel::Stdout => 1,
            Channel::Stderr => 2,
            Channel::Error => 3,
        };
        if self.base64 {
            return Message::text(format!("{number}{}", STANDARD.encode(content)));
        }
        let mut message = BytesMut::with_capacity(content.len() + 1);
        message.put_u8(number);
        message.put_slice(content);
        Message::Binary(message.freeze())
    }
}

/// The client at the other end of a WebSocket.
pub fn client<S>(socket: WebSocketStream<S>, protocol: Protocol, streams: Streams) -> Client
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sink, mut source) = socket.split();
    let (event, events) = mpsc::channel(client::QUEUE_MAX);
    let (out, mut outgoing) = mpsc::channel::<(Channel, Bytes)>(client::QUEUE_MAX);
    let gone = CancellationToken::new();
    let lost = gone.clone().drop_guard();
    let reader = tokio::spawn(async move {
        let _lost = lost;
        while let Some(Ok(message)) = source.next().await {
            let content = match message {
                Message::Binary(content) => content,
                Message::Text(content) => Bytes::from(content),
                Message::Close(_) => return,
                _ => continue,
            };
            if let Some(said) = protocol.event(&content) {
                // After the end nobody listens; the rest is read all the same, up to the client's close.
                let _ = event.send(said).await;
            }
        }
    });
    let lost = gone.clone();
    let first = match streams {
        Streams { stdout: true, .. } => Channel::Stdout,
        Streams { stderr: true, .. } => Channel::Stderr,
        _ => Channel::Error,
    };
    let writer = tokio::spawn(async move {
        // Tells the client that the streams are there, as upstream does.
        let mut result = sink.send(protocol.message(first, &[])).await;
        while result.is_ok()
            && let Some((channel, content)) = outgoing.recv().await
        {
            result = sink.send(protocol.message(channel, &content)).await;
        }
        match result {
            Ok(()) => {
                let _ = sink.send(normal_closure()).await;
                let _ = sink.close().await;
            }
            Err(_) => lost.cancel(),
        }
    });
    Client {
        events,
        out,
        gone,
        form: protocol.form,
        writer: AbortOnDropHandle::new(writer),
        reader: AbortOnDropHandle::new(reader),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_io::TerminalSize;

    #[test]
    fn messages_of_clients() {
        let size = Some(Event::Resize(TerminalSize { width: 8, height: 2 }));
        let cases: [(&str, &[u8], Option<Event>); 9] = [
            ("v5.channel.k8s.io", b"\0abc", Some(Event::Stdin(Bytes::from_static(b"abc")))),
            ("v5.channel.k8s.io", b"\0", None),
            ("v5.channel.k8s.io", b"", None),
            ("v5.channel.k8s.io", b"\xff\0", Some(Event::StdinClosed)),
            ("v4.channel.k8s.io", b"\xff\0", None),
            ("v4.channel.k8s.io", b"\x04{\"Width\":8,\"Height\":2}", size.clone()),
            ("v4.base64.channel.k8s.io", b"0YWJj", Some(Event::Stdin(Bytes::from_static(b"abc")))),
            ("base64.channel.k8s.io", b"0!", None),
            ("v4.channel.k8s.io", b"\x01abc", None),
        ];
        for (protocol, message, expected) in cases {
            let found = Protocol::named(protocol).event(&Bytes::from_static(message));
            assert_eq!(found, expected, "{protocol} {message:?}");
        }
    }

    #[test]
    fn messages_to_clients() {
        let plain = Protocol::named("v4.channel.k8s.io").message(Channel::Stderr, b"x");
        assert_eq!(plain, Message::Binary(Bytes::from_static(b"\x02x")));
        let text = Protocol::named("base64.channel.k8s.io").message(Channel::Stdout, b"abc");
        assert_eq!(text, Message::text("1YWJj"));
    }
}
