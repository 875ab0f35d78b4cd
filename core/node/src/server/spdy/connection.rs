//! The streams of a SPDY connection, on the side that does not open any.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, FramedWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::frame::{Codec, Frame, PROTOCOL_ERROR, REFUSED_STREAM};
use super::headers::Headers;

/// Open streams of a connection.
const STREAMS_MAX: usize = 1000;
/// Frames that wait to be sent, and chunks that wait in a stream.
const QUEUE_MAX: usize = 32;
/// How long the peer may take to hang up after we have.
const LINGER_MAX: Duration = Duration::from_secs(2);

struct Open {
    /// None when the peer has sent its last.
    data: Option<mpsc::Sender<Bytes>>,
    finished: bool,
    reset: CancellationToken,
}

type Streams = Arc<Mutex<HashMap<u32, Open>>>;

/// What comes in of a stream.
pub struct Incoming {
    /// The peer's bytes; ends with its last, or with the stream.
    pub data: mpsc::Receiver<Bytes>,
}

/// Writes to a stream.
#[derive(Clone)]
pub struct StreamWriter {
    stream: u32,
    out: mpsc::Sender<Frame>,
    streams: Streams,
}

impl StreamWriter {
    /// Sends bytes. False when the connection is lost.
    pub async fn send(&self, bytes: Bytes) -> bool {
        self.out.send(Frame::Data { stream: self.stream, fin: false, bytes }).await.is_ok()
    }

    /// Says that nothing more comes from this side.
    pub async fn finish(&self) {
        {
            let mut streams = self.streams.lock();
            if let Some(open) = streams.get_mut(&self.stream) {
                open.finished = true;
                if open.data.is_none() {
                    streams.remove(&self.stream);
                }
            }
        }
        let _ = self.out.send(Frame::Data { stream: self.stream, fin: true, bytes: Bytes::new() }).await;
    }
}

/// A stream that the peer has opened.
pub struct Stream {
    headers: Headers,
    incoming: Incoming,
    writer: StreamWriter,
    reset: CancellationToken,
}

impl Stream {
    /// The value of a header; its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// To write to it.
    pub fn writer(&self) -> StreamWriter {
        self.writer.clone()
    }

    /// Cancelled when the peer resets it.
    pub fn reset(&self) -> CancellationToken {
        self.reset.clone()
    }

    /// To read from it. What is not read is dropped with this.
    pub fn into_incoming(self) -> Incoming {
        self.incoming
    }
}

/// A connection. Dropping it breaks it off.
pub struct Connection {
    opened: mpsc::Receiver<Stream>,
    out: mpsc::Sender<Frame>,
    closed: CancellationToken,
    writer: AbortOnDropHandle<()>,
    _reader: AbortOnDropHandle<()>,
}

impl Connection {
    /// Starts to speak SPDY on a connection.
    pub fn new<S: AsyncRead + AsyncWrite + Send + 'static>(io: S) -> Self {
        let (read, write) = tokio::io::split(io);
        let (out, frames) = mpsc::channel(QUEUE_MAX);
        let (open, opened) = mpsc::channel(QUEUE_MAX);
        let closed = CancellationToken::new();
        let reader = tokio::spawn({
            let (out, closed) = (out.clone(), closed.clone());
            async move {
                let _closed = closed.drop_guard();
                if let Err(error) = read_frames(read, out, open).await {
                    tracing::debug!(%error, "a SPDY connection broke off");
                }
            }
        });
        let writer = tokio::spawn({
            let closed = closed.clone();
            async move {
                if let Err(error) = write_frames(write, frames).await {
                    tracing::debug!(%error, "a SPDY connection can't be written to");
                    closed.cancel();
                }
            }
        });
        Self { opened, out, closed, writer: AbortOnDropHandle::new(writer), _reader: AbortOnDropHandle::new(reader) }
    }

    /// The next stream that the peer opens; none when the connection has ended.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.opened.recv().await
    }

    /// Cancelled when the connection is lost.
    pub fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// Sends what is waiting and hangs up.
    pub async fn close(self) {
        let Self { out, closed, writer, opened, _reader } = self;
        drop(opened);
        if out.send(Frame::GoAway { last_stream: 0 }).await.is_ok() {
            let _ = writer.await;
            // Closing with unread input would lose the last output.
            let _ = tokio::time::timeout(LINGER_MAX, closed.cancelled()).await;
        }
    }
}

async fn write_frames<W: AsyncWrite>(write: W, mut frames: mpsc::Receiver<Frame>) -> std::io::Result<()> {
    let mut sink = std::pin::pin!(FramedWrite::new(write, Codec::new()));
    while let Some(frame) = frames.recv().await {
        let last = matches!(frame, Frame::GoAway { .. });
        sink.feed(frame).await?;
        if last {
            break;
        }
        if frames.is_empty() {
            sink.flush().await?;
        }
    }
    sink.close().await
}

async fn read_frames<R: AsyncRead>(
    read: R,
    out: mpsc::Sender<Frame>,
    opened: mpsc::Sender<Stream>,
) -> std::io::Result<()> {
    let mut source = std::pin::pin!(FramedRead::new(read, Codec::new()));
    let streams = Streams::default();
    while let Some(frame) = source.next().await {
        let answer = match frame? {
            Frame::SynStream { stream, fin, headers } => {
                let refused = {
                    let open = streams.lock();
                    if open.contains_key(&stream) {
                        Some(PROTOCOL_ERROR)
                    } else {
                        (open.len() >= STREAMS_MAX).then_some(REFUSED_STREAM)
                    }
                };
                if let Some(status) = refused {
                    Some(Frame::RstStream { stream, status })
                } else {
                    let (data, incoming) = mpsc::channel(QUEUE_MAX);
                    let reset = CancellationToken::new();
                    let open = Open { data: (!fin).then_some(data), finished: false, reset: reset.clone() };
                    streams.lock().insert(stream, open);
                    let writer = StreamWriter { stream, out: out.clone(), streams: streams.clone() };
                    let reply = Frame::SynReply { stream, headers: Headers::new() };
                    // The reply is first, whatever the stream's owner writes.
                    if out.send(reply).await.is_err() {
                        return Ok(());
                    }
                    let incoming = Incoming { data: incoming };
                    // Nobody takes streams while the connection is being closed.
                    let _ = opened.send(Stream { headers, incoming, writer, reset }).await;
                    None
                }
            }
            Frame::Data { stream, fin, bytes } => {
                let data = streams.lock().get(&stream).and_then(|open| open.data.clone());
                if let Some(data) = data
                    && !bytes.is_empty()
                {
                    let _ = data.send(bytes).await;
                }
                if fin {
                    let mut streams = streams.lock();
                    if let Some(open) = streams.get_mut(&stream) {
                        open.data = None;
                        if open.finished {
                            streams.remove(&stream);
                        }
                    }
                }
                None
            }
            Frame::RstStream { stream, .. } => {
                if let Some(open) = streams.lock().remove(&stream) {
                    open.reset.cancel();
                }
                None
            }
            Frame::Ping { id } => Some(Frame::Ping { id }),
            Frame::GoAway { .. } | Frame::SynReply { .. } | Frame::Other => None,
        };
        if let Some(answer) = answer
            && out.send(answer).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_util::codec::Framed;

    #[tokio::test]
    async fn a_stream_echoes() {
        let (here, there) = tokio::io::duplex(1024);
        let mut connection = Connection::new(here);
        let mut peer = Framed::new(there, Codec::new());
        let headers = vec![("streamtype".to_owned(), "data".to_owned())];
        peer.send(Frame::SynStream { stream: 1, fin: false, headers }).await.expect("sent");
        peer.send(Frame::Ping { id: 9 }).await.expect("sent");
        peer.send(Frame::Data { stream: 1, fin: true, bytes: Bytes::from_static(b"hi") }).await.expect("sent");
        let stream = connection.accept().await.expect("a stream");
        assert_eq!(stream.header("streamtype"), Some("data"));
        let writer = stream.writer();
        let mut incoming = stream.into_incoming();
        let mut heard = Vec::new();
        while let Some(bytes) = incoming.data.recv().await {
            heard.extend_from_slice(&bytes);
        }
        assert!(writer.send(Bytes::from(heard)).await);
        writer.finish().await;
        let closing = tokio::spawn(connection.close());
        let mut said = Vec::new();
        while let Some(frame) = peer.next().await {
            said.push(frame.expect("a frame"));
        }
        let expected = [
            Frame::SynReply { stream: 1, headers: Headers::new() },
            Frame::Ping { id: 9 },
            Frame::Data { stream: 1, fin: false, bytes: Bytes::from_static(b"hi") },
            Frame::Data { stream: 1, fin: true, bytes: Bytes::new() },
            Frame::GoAway { last_stream: 0 },
        ];
        assert_eq!(said, expected);
        drop(peer);
        closing.await.expect("closed");
    }
}
