//! Frames of SPDY/3.1 and their codec (SPDY/3, section 2.2 and 2.6).

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::headers::{Deflater, Headers, Inflater};

/// The longest frame that is taken; clients send what they read, 32 KiB at a time.
const FRAME_BYTES_MAX: usize = 1 << 20;
const VERSION: u16 = 3;
const FIN: u8 = 1;

/// Why a stream is reset.
pub const PROTOCOL_ERROR: u32 = 1;
/// The stream is not taken.
pub const REFUSED_STREAM: u32 = 3;

/// A frame that says something here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of a stream; with `fin` the last ones.
    Data { stream: u32, fin: bool, bytes: Bytes },
    /// The peer opens a stream.
    SynStream { stream: u32, fin: bool, headers: Headers },
    /// The stream is taken.
    SynReply { stream: u32, headers: Headers },
    /// The stream ends at once.
    RstStream { stream: u32, status: u32 },
    /// To be sent back.
    Ping { id: u32 },
    /// No new streams.
    GoAway { last_stream: u32 },
    /// Settings, window updates, later headers and kinds that are not known.
    Other,
}

/// Reads and writes frames.
pub struct Codec {
    inflater: Inflater,
    deflater: Deflater,
}

impl Codec {
    /// The codec of a new connection.
    pub fn new() -> Self {
        Self { inflater: Inflater::new(), deflater: Deflater::new() }
    }
}

fn malformed(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn id(body: &mut Bytes) -> io::Result<u32> {
    body.try_get_u32().map(|id| id & 0x7fff_ffff).map_err(|_| malformed("a frame is too short"))
}

impl Decoder for Codec {
    type Item = Frame;
    type Error = io::Error;

    fn decode(&mut self, source: &mut BytesMut) -> io::Result<Option<Frame>> {
        let Some(head) = source.first_chunk::<8>() else { return Ok(None) };
        let [a, b, c, d, flags, lengths @ ..] = *head;
        let first = u32::from_be_bytes([a, b, c, d]);
        let length = u32::from_be_bytes([0, lengths[0], lengths[1], lengths[2]]) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(malformed("a frame is too long"));
        }
        if source.len() < 8 + length {
            source.reserve(8 + length - source.len());
            return Ok(None);
        }
        source.advance(8);
        let mut body = source.split_to(length).freeze();
        let fin = flags & FIN != 0;
        if first >> 31 == 0 {
            return Ok(Some(Frame::Data { stream: first, fin, bytes: body }));
        }
        if (first >> 16) as u16 & 0x7fff != VERSION {
            return Err(malformed("a frame is of another version of SPDY"));
        }
        let frame = match first as u16 {
            1 => {
                let stream = id(&mut body)?;
                // The associated stream, priority and slot say nothing here.
                let block = body.get(6..).ok_or_else(|| malformed("a frame is too short"))?;
                Frame::SynStream { stream, fin, headers: self.inflater.read(block).map_err(malformed)? }
            }
            2 => Frame::SynReply { stream: id(&mut body)?, headers: self.inflater.read(&body).map_err(malformed)? },
            3 => Frame::RstStream { stream: id(&mut body)?, status: id(&mut body)? },
            6 => Frame::Ping { id: body.try_get_u32().map_err(|_| malformed("a frame is too short"))? },
            7 => Frame::GoAway { last_stream: id(&mut body)? },
            8 => {
                id(&mut body)?;
                // Read all the same: later blocks build on it.
                self.inflater.read(&body).map_err(malformed)?;
                Frame::Other
            }
            _ => Frame::Other,
        };
        Ok(Some(frame))
    }
}

fn put_control(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u8(flags);
    out.put_uint(length as u64, 3);
}

impl Encoder<Frame> for Codec {
    type Error = io::Error;

    fn encode(&mut self, frame: Frame, out: &mut BytesMut) -> io::Result<()> {
        match frame {
            Frame::Data { stream, fin, bytes } => {
                if bytes.len() > FRAME_BYTES_MAX {
                    return Err(malformed("a frame would be too long"));
                }
                out.put_u32(stream);
                out.put_u8(if fin { FIN } else { 0 });
                out.put_uint(bytes.len() as u64, 3);
                out.put_slice(&bytes);
            }
            Frame::SynStream { stream, fin, headers } => {
                let block = self.deflater.write(&headers).map_err(malformed)?;
                put_control(out, 1, if fin { FIN } else { 0 }, block.len() + 10);
                out.put_u32(stream);
                out.put_bytes(0, 6);
                out.put_slice(&block);
            }
            Frame::SynReply { stream, headers } => {
                let block = self.deflater.write(&headers).map_err(malformed)?;
                put_control(out, 2, 0, block.len() + 4);
                out.put_u32(stream);
                out.put_slice(&block);
            }
            Frame::RstStream { stream, status } => {
                put_control(out, 3, 0, 8);
                out.put_u32(stream);
                out.put_u32(status);
            }
            Frame::Ping { id } => {
                put_control(out, 6, 0, 4);
                out.put_u32(id);
            }
            Frame::GoAway { last_stream } => {
                put_control(out, 7, 0, 8);
                out.put_u32(last_stream);
                out.put_u32(0);
            }
            Frame::Other => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_there_and_back() {
        let headers = vec![("streamtype".to_owned(), "data".to_owned())];
        let frames = [
            Frame::SynStream { stream: 1, fin: false, headers: headers.clone() },
            Frame::SynStream { stream: 3, fin: true, headers: headers.clone() },
            Frame::SynReply { stream: 1, headers },
            Frame::Data { stream: 1, fin: false, bytes: Bytes::from_static(b"hello") },
            Frame::Data { stream: 1, fin: true, bytes: Bytes::new() },
            Frame::RstStream { stream: 3, status: REFUSED_STREAM },
            Frame::Ping { id: 7 },
            Frame::GoAway { last_stream: 3 },
        ];
        let (mut writer, mut reader) = (Codec::new(), Codec::new());
        let mut wire = BytesMut::new();
        for frame in &frames {
            writer.encode(frame.clone(), &mut wire).expect("encoded");
        }
        // A byte at a time: nothing depends on how the bytes come in.
        let mut found = Vec::new();
        let mut pending = BytesMut::new();
        for byte in wire {
            pending.put_u8(byte);
            found.extend(reader.decode(&mut pending).expect("decoded"));
        }
        assert_eq!(found, frames);
    }

    #[test]
    fn frames_of_no_use() {
        for wire in [&b"\x80\x02\0\x01\0\0\0\0"[..], b"\0\0\0\x01\0\xff\xff\xff", b"\x80\x03\0\x06\0\0\0\x01x"] {
            assert!(Codec::new().decode(&mut BytesMut::from(wire)).is_err(), "{wire:?}");
        }
    }
}
