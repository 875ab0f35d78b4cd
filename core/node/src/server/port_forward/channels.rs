//! Port forwarding over a WebSocket: two channels for each port that the query names, its data and its errors. The
//! first message of each channel is the port, two bytes with the lower one first.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::connect::PodPorts;
use crate::server::request::Query;
use crate::server::upgrade::normal_closure;

/// What is spoken.
pub const PROTOCOLS: &[&str] = &["v4.channel.k8s.io"];

/// Ports of a request: a channel's number is a byte.
const PORTS_MAX: usize = 127;
/// Messages that wait.
const QUEUE_MAX: usize = 16;
/// How much is read of a port at a time.
const CHUNK_BYTES: usize = 32 << 10;

/// The ports that a query names. The error is a message for the client.
pub fn ports_of(query: &Query) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for text in query.all("port").chain(query.all("ports")).flat_map(|list| list.split(',')) {
        match text.parse() {
            Ok(port) if port > 0 => ports.push(port),
            _ => return Err(format!("unable to parse {text:?} as a port")),
        }
    }
    match ports.len() {
        0 => Err("query parameter \"port\" is required".into()),
        1..=PORTS_MAX => Ok(ports),
        _ => Err(format!("no more than {PORTS_MAX} ports can be forwarded at a time")),
    }
}

fn message(channel: u8, content: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(content.len() + 1);
    message.put_u8(channel);
    message.put_slice(content);
    Message::Binary(message.freeze())
}

async fn forward(
    ports: PodPorts,
    port: u16,
    channel: u8,
    mut incoming: mpsc::Receiver<Bytes>,
    out: mpsc::Sender<(u8, Bytes)>,
) {
    let number = Bytes::copy_from_slice(&port.to_le_bytes());
    for channel in [channel, channel + 1] {
        if out.send((channel, number.clone())).await.is_err() {
            return;
        }
    }
    let mut connection = match ports.connect(port).await {
        Ok(connection) => connection,
        Err(message) => {
            let _ = out.send((channel + 1, Bytes::from(message))).await;
            return;
        }
    };
    let (mut from, mut to) = connection.split();
    let send = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK_BYTES);
            match from.read_buf(&mut buffer).await {
                Ok(count) if count > 0 && out.send((channel, buffer.split().freeze())).await.is_ok() => {}
                _ => return,
            }
        }
    };
    let receive = async {
        while let Some(bytes) = incoming.recv().await {
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = send => {}
        () = receive => {}
    }
}

/// Forwards the ports until all connections have ended or the client hangs up.
pub async fn run<S>(socket: WebSocketStream<S>, asked: Vec<u16>, ports: PodPorts)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sink, mut source) = socket.split();
    let (out, mut outgoing) = mpsc::channel::<(u8, Bytes)>(QUEUE_MAX);
    let mut inputs = HashMap::new();
    let mut tasks = JoinSet::new();
    for (channel, port) in (0u8..).step_by(2).zip(asked) {
        let (input, incoming) = mpsc::channel(QUEUE_MAX);
        inputs.insert(channel, input);
        tasks.spawn(forward(ports.clone(), port, channel, incoming, out.clone()));
    }
    drop(out);
    let inward = async {
        while let Some(Ok(message)) = source.next().await {
            let content = match message {
                Message::Binary(content) => content,
                Message::Close(_) => return,
                _ => continue,
            };
            if let Some(input) = content.first().and_then(|channel| inputs.get(channel)) {
                // The port may have hung up.
                let _ = input.send(content.slice(1..)).await;
            }
        }
    };
    let outward = async {
        while let Some((channel, bytes)) = outgoing.recv().await {
            if sink.send(message(channel, &bytes)).await.is_err() {
                return;
            }
        }
        let _ = sink.send(normal_closure()).await;
        let _ = sink.close().await;
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_queries() {
        let cases = [
            ("ports=80", Some(vec![80])),
            ("port=80&port=81", Some(vec![80, 81])),
            ("ports=80,443", Some(vec![80, 443])),
            ("ports=0", None),
            ("ports=x", None),
            ("", None),
        ];
        for (query, expected) in cases {
            assert_eq!(ports_of(&Query::parse(Some(query))).ok(), expected, "{query}");
        }
    }
}
