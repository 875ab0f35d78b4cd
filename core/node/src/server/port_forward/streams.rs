//! Port forwarding over SPDY/3.1: for each connection the client opens an error and a data stream with the same
//! request id.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::connect::PodPorts;
use crate::server::spdy::{Connection, Stream};
use crate::server::upgrade::normal_closure;

/// Streams that wait for their other half.
const HALVES_MAX: usize = 256;
/// How much is read of a port at a time.
const CHUNK_BYTES: usize = 32 << 10;
/// What a tunnel holds in each direction.
const TUNNEL_BYTES: usize = 64 << 10;

/// What the headers of a stream say.
#[derive(Debug, PartialEq, Eq)]
struct Half {
    data: bool,
    port: u16,
}

fn half(kind: Option<&str>, port: Option<&str>) -> Result<Half, String> {
    let data = match kind {
        Some("data") => true,
        Some("error") => false,
        _ => return Err(format!("invalid stream type {:?}", kind.unwrap_or_default())),
    };
    let text = port.unwrap_or_default();
    match text.parse() {
        Ok(port) if port > 0 => Ok(Half { data, port }),
        _ => Err(format!("unable to parse {text:?} as a port")),
    }
}

async fn copy(stream: Stream, mut port: TcpStream) {
    let (writer, reset) = (stream.writer(), stream.reset());
    let mut incoming = stream.into_incoming();
    let (mut from, mut to) = port.split();
    let send = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK_BYTES);
            match from.read_buf(&mut buffer).await {
                Ok(count) if count > 0 => {
                    if !writer.send(buffer.split().freeze()).await {
                        return;
                    }
                }
                _ => break,
            }
        }
        writer.finish().await;
    };
    let receive = async {
        while let Some(bytes) = incoming.data.recv().await {
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
        // What the client says is not the end: the answer is still to come.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = send => {}
        () = receive => {}
        () = reset.cancelled() => {}
    }
}

/// Serves a pair of streams. Only what goes wrong is said on the error stream.
async fn forward(ports: PodPorts, port: u16, data: Stream, error: Stream) {
    let failed = error.writer();
    match ports.connect(port).await {
        Ok(connection) => {
            copy(data, connection).await;
            failed.finish().await;
        }
        Err(message) => {
            failed.send(Bytes::from(message)).await;
            failed.finish().await;
            data.writer().finish().await;
        }
    }
}

/// Forwards ports until the client hangs up.
pub async fn run<S: AsyncRead + AsyncWrite + Send + 'static>(io: S, ports: PodPorts) {
    let mut connection = Connection::new(io);
    let mut waiting: HashMap<String, Stream> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = connection.accept() => stream,
            Some(_) = tasks.join_next() => continue,
        };
        let Some(stream) = stream else { return };
        let found = match half(stream.header("streamtype"), stream.header("port")) {
            Ok(found) => found,
            Err(why) => {
                stream.writer().send(Bytes::from(why)).await;
                stream.writer().finish().await;
                continue;
            }
        };
        // Old clients name no request: they use one pair a port at a time.
        let request = stream.header("requestid").map_or_else(|| format!("port {}", found.port), str::to_owned);
        match waiting.remove(&request) {
            None if waiting.len() >= HALVES_MAX => return,
            None => {
                waiting.insert(request, stream);
            }
            Some(other) => {
                let (data, error) = if found.data { (stream, other) } else { (other, stream) };
                tasks.spawn(forward(ports.clone(), found.port, data, error));
            }
        }
    }
}

/// The same inside a WebSocket, whose binary messages are the bytes of a SPDY connection.
pub async fn run_tunnelled<S>(socket: WebSocketStream<S>, ports: PodPorts)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sink, mut source) = socket.split();
    let (here, there) = tokio::io::duplex(TUNNEL_BYTES);
    let (mut from, mut to) = tokio::io::split(there);
    let inward = async {
        while let Some(Ok(message)) = source.next().await {
            let done = match message {
                Message::Binary(bytes) => to.write_all(&bytes).await.is_err(),
                Message::Close(_) => true,
                _ => false,
            };
            if done {
                break;
            }
        }
    };
    let outward = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK_BYTES);
            match from.read_buf(&mut buffer).await {
                Ok(count) if count > 0 => {
                    if sink.send(Message::Binary(buffer.split().freeze())).await.is_err() {
                        return;
                    }
                }
                _ => {
                    let _ = sink.send(normal_closure()).await;
                    let _ = sink.close().await;
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
        () = run(here, ports) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::spdy::{Codec, Frame};
    use tokio_util::codec::Framed;

    #[tokio::test]
    async fn a_port_answers_through_a_pair_of_streams() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut question = [0; 4];
            stream.read_exact(&mut question).await.expect("read");
            stream.write_all(b"pong").await.expect("written");
            question
        });
        let (here, there) = tokio::io::duplex(4096);
        let forwarding = tokio::spawn(run(here, PodPorts { pod: "p".into(), namespace_path: None }));
        let mut peer = Framed::new(there, Codec::new());
        for (stream, kind) in [(1, "error"), (3, "data")] {
            let pairs = [("streamtype", kind.to_owned()), ("port", port.to_string()), ("requestid", "0".to_owned())];
            let headers = pairs.map(|(name, value)| (name.to_owned(), value)).to_vec();
            peer.send(Frame::SynStream { stream, fin: kind == "error", headers }).await.expect("sent");
        }
        peer.send(Frame::Data { stream: 3, fin: true, bytes: Bytes::from_static(b"ping") }).await.expect("sent");
        let (mut answer, mut finished) = (Vec::new(), Vec::new());
        while finished.len() < 2 {
            match peer.next().await.expect("open").expect("a frame") {
                Frame::Data { stream, fin, bytes } => {
                    answer.extend(bytes.iter().map(|byte| (stream, *byte)));
                    finished.extend(fin.then_some(stream));
                }
                Frame::SynReply { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(answer, b"pong".map(|byte| (3, byte)));
        assert_eq!(finished, [3, 1]);
        assert_eq!(&server.await.expect("served"), b"ping");
        drop(peer);
        forwarding.await.expect("ended");
    }

    #[test]
    fn halves() {
        let cases = [
            (Some("data"), Some("80"), Ok(Half { data: true, port: 80 })),
            (Some("error"), Some("80"), Ok(Half { data: false, port: 80 })),
            (Some("other"), Some("80"), Err("invalid stream type \"other\"")),
            (None, Some("80"), Err("invalid stream type \"\"")),
            (Some("data"), Some("0"), Err("unable to parse \"0\" as a port")),
            (Some("data"), None, Err("unable to parse \"\" as a port")),
        ];
        for (kind, port, expected) in cases {
            assert_eq!(half(kind, port), expected.map_err(str::to_owned), "{kind:?} {port:?}");
        }
    }
}
