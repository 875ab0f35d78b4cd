//! The format of snapshots: all keys at one revision, with a digest at the end.
//!
//! `gantry-snapshot 1\n`, the revision; then per key a byte 1, the key and the value (each after its length), the
//! revision that created it, the one that last wrote it, its version; at the end a byte 0, the number of keys and the
//! SHA-256 of everything before. Numbers are big-endian, lengths have 32 bits and the others 64. The format is every
//! engine's: a snapshot of one can be restored to another.

use bytes::{Buf, Bytes, BytesMut};
use sha2::{Digest, Sha256};

use crate::error::StoreError;
use crate::types::KeyValue;

const MAGIC: &[u8] = b"gantry-snapshot 1\n";
const DIGEST_BYTES: usize = 32;
/// The longest key or value that is believed.
const LENGTH_MAX: usize = 64 << 20;

/// Writes a snapshot, piece by piece.
pub struct SnapshotEncoder {
    buffer: Vec<u8>,
    digest: Sha256,
    keys: u64,
}

impl SnapshotEncoder {
    /// A snapshot of a revision.
    pub fn new(revision: i64) -> Self {
        let mut buffer = MAGIC.to_vec();
        buffer.extend(revision.to_be_bytes());
        Self { buffer, digest: Sha256::new(), keys: 0 }
    }

    /// Adds a key; keys come in order.
    pub fn push(&mut self, kv: &KeyValue) {
        self.buffer.push(1);
        for part in [&kv.key, &kv.value] {
            self.buffer.extend((part.len() as u32).to_be_bytes());
            self.buffer.extend_from_slice(part);
        }
        for number in [kv.create_revision, kv.mod_revision, kv.version] {
            self.buffer.extend(number.to_be_bytes());
        }
        self.keys += 1;
    }

    /// What has been written since the last call.
    pub fn take(&mut self) -> Bytes {
        let chunk = std::mem::take(&mut self.buffer);
        self.digest.update(&chunk);
        chunk.into()
    }

    /// The last piece.
    pub fn finish(mut self) -> Bytes {
        self.buffer.push(0);
        self.buffer.extend(self.keys.to_be_bytes());
        let body = self.take();
        let mut chunk = body.to_vec();
        chunk.extend_from_slice(&self.digest.finalize());
        chunk.into()
    }
}

/// Reads a snapshot, piece by piece.
#[derive(Default)]
pub struct SnapshotDecoder {
    buffer: BytesMut,
    digest: Sha256,
    revision: Option<i64>,
    keys: u64,
    /// Whether only the digest is left.
    ended: bool,
}

impl SnapshotDecoder {
    /// Before the first piece.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece; answers with the keys that it completed.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        self.buffer.extend_from_slice(chunk);
        let mut keys = Vec::new();
        if self.revision.is_none() {
            let header = MAGIC.len() + 8;
            if self.buffer.len() < header {
                return Ok(keys);
            }
            if !self.buffer.starts_with(MAGIC) {
                return Err(StoreError::BadSnapshot("it doesn't begin like one".to_owned()));
            }
            let header = self.consume(header);
            self.revision = Some((&header[MAGIC.len()..]).get_i64());
        }
        while !self.ended {
            match self.buffer.first() {
                Some(1) => match self.record()? {
                    Some(kv) => keys.push(kv),
                    None => break,
                },
                Some(0) if self.buffer.len() >= 9 => {
                    let end = self.consume(9);
                    let expected = (&end[1..]).get_u64();
                    if expected != self.keys {
                        let text = format!("it says that it holds {expected} keys, but holds {}", self.keys);
                        return Err(StoreError::BadSnapshot(text));
                    }
                    self.ended = true;
                }
                Some(0) | None => break,
                Some(tag) => return Err(StoreError::BadSnapshot(format!("it holds a record of unknown kind {tag}"))),
            }
        }
        Ok(keys)
    }

    /// Checks that it is whole; answers with its revision.
    pub fn finish(self) -> Result<i64, StoreError> {
        let revision = self.revision.filter(|_| self.ended && self.buffer.len() >= DIGEST_BYTES);
        let Some(revision) = revision else {
            return Err(StoreError::BadSnapshot("it ends too early".to_owned()));
        };
        if self.buffer.len() > DIGEST_BYTES {
            return Err(StoreError::BadSnapshot("something follows its end".to_owned()));
        }
        if self.digest.finalize().as_slice() != &self.buffer[..] {
            return Err(StoreError::BadSnapshot("its digest is wrong".to_owned()));
        }
        Ok(revision)
    }

    fn consume(&mut self, bytes: usize) -> Bytes {
        let part = self.buffer.split_to(bytes).freeze();
        self.digest.update(&part);
        part
    }

    fn record(&mut self) -> Result<Option<KeyValue>, StoreError> {
        let mut at = 1;
        let mut parts = [(0, 0); 2];
        for part in &mut parts {
            let Some(mut length) = self.buffer.get(at..at + 4) else { return Ok(None) };
            let length = length.get_u32() as usize;
            if length > LENGTH_MAX {
                return Err(StoreError::BadSnapshot(format!("it holds a key or value of {length} bytes")));
            }
            *part = (at + 4, length);
            at += 4 + length;
        }
        if self.buffer.len() < at + 24 {
            return Ok(None);
        }
        let record = self.consume(at + 24);
        let mut numbers = &record[at..];
        self.keys += 1;
        // Copies, so that one value doesn't keep a whole piece in memory.
        let [key, value] = parts.map(|(from, length)| Bytes::copy_from_slice(&record[from..from + length]));
        Ok(Some(KeyValue {
            key,
            value,
            create_revision: numbers.get_i64(),
            mod_revision: numbers.get_i64(),
            version: numbers.get_i64(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, value: &str) -> KeyValue {
        KeyValue {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            create_revision: 2,
            mod_revision: 7,
            version: 3,
        }
    }

    fn encoded(kvs: &[KeyValue]) -> Vec<u8> {
        let mut encoder = SnapshotEncoder::new(9);
        let mut bytes = Vec::new();
        for kv in kvs {
            encoder.push(kv);
            bytes.extend(encoder.take());
        }
        bytes.extend(encoder.finish());
        bytes
    }

    fn decode(bytes: &[u8], piece: usize) -> Result<(Vec<KeyValue>, i64), StoreError> {
        let mut decoder = SnapshotDecoder::new();
        let mut kvs = Vec::new();
        for chunk in bytes.chunks(piece) {
            kvs.extend(decoder.push(chunk)?);
        }
        Ok((kvs, decoder.finish()?))
    }

    #[test]
    fn comes_back_whatever_the_pieces() {
        let kvs = [kv("a", "1"), kv("b", ""), kv("c", &"x".repeat(1000))];
        let bytes = encoded(&kvs);
        for piece in [1, 7, 100, bytes.len()] {
            let (decoded, revision) = decode(&bytes, piece).expect("a good snapshot");
            assert_eq!((decoded.as_slice(), revision), (kvs.as_slice(), 9), "pieces of {piece}");
        }
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let bytes = encoded(&[kv("a", "1"), kv("b", "2")]);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            assert!(decode(&damaged, 50).is_err(), "byte {at} changed");
            assert!(decode(&bytes[..at], 50).is_err(), "cut at {at}");
        }
        let longer = [bytes.as_slice(), b"x"].concat();
        assert!(decode(&longer, 50).is_err());
    }
}
