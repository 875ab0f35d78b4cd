//! Header blocks: name/value pairs, compressed over all frames of a direction (SPDY/3, section 2.6.10).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::dictionary::DICTIONARY;

/// How zlib streams name the dictionary.
pub const DICTIONARY_ADLER32: u32 = 0xe3c6_a7c2;
/// The longest block, uncompressed.
const BLOCK_BYTES_MAX: usize = 64 << 10;
/// The bit of zlib's second byte that says that a dictionary's name follows.
const FDICT: u8 = 0x20;

/// Names and values, in their order; names are in lower case.
pub type Headers = Vec<(String, String)>;

/// Reads the blocks of one direction.
pub struct Inflater {
    inflate: Decompress,
    started: bool,
}

impl Inflater {
    /// A reader of a connection's blocks.
    pub fn new() -> Self {
        Self { inflate: Decompress::new(false), started: false }
    }

    fn inflate(&mut self, mut block: &[u8], limit: usize) -> Result<Vec<u8>, &'static str> {
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
            self.inflate
                .decompress(block, &mut buffer, FlushDecompress::Sync)
                .map_err(|_| "a header block can't be uncompressed")?;
            let read = usize::try_from(self.inflate.total_in() - read).unwrap_or(usize::MAX);
            let written = usize::try_from(self.inflate.total_out() - written).unwrap_or(usize::MAX);
            text.extend_from_slice(&buffer[..written]);
            block = &block[read..];
            if text.len() > limit {
                return Err("a header block is too long");
            }
            if read == 0 && written == 0 || block.is_empty() && written < buffer.len() {
                return if block.is_empty() { Ok(text) } else { Err("a header block goes on after its end") };
            }
        }
    }

    /// Reads a block.
    pub fn read(&mut self, mut block: &[u8]) -> Result<Headers, &'static str> {
        if !self.started {
            self.started = true;
            let [_, flags, rest @ ..] = block else { return Err("a header block is too short") };
            block = rest;
            if flags & FDICT != 0 {
                let (name, rest) = block.split_first_chunk::<4>().ok_or("a header block is too short")?;
                if u32::from_be_bytes(*name) != DICTIONARY_ADLER32 {
                    return Err("a header block has an unknown dictionary");
                }
                block = rest;
                // A stored block puts the dictionary into the window, as not every backend can be given one.
                let length = DICTIONARY.len() as u16;
                let mut stored = vec![0];
                stored.extend_from_slice(&length.to_le_bytes());
                stored.extend_from_slice(&(!length).to_le_bytes());
                stored.extend_from_slice(DICTIONARY);
                self.inflate(&stored, DICTIONARY.len())?;
            }
        }
        let text = self.inflate(block, BLOCK_BYTES_MAX)?;
        parse(&text).ok_or("a header block is malformed")
    }
}

fn take<'a>(text: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = text.split_at_checked(count)?;
    *text = rest;
    Some(taken)
}

fn number(text: &mut &[u8]) -> Option<usize> {
    usize::try_from(u32::from_be_bytes(take(text, 4)?.try_into().ok()?)).ok()
}

fn parse(mut text: &[u8]) -> Option<Headers> {
    let count = number(&mut text)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let [name, value] = [(); 2].map(|()| {
            let length = number(&mut text)?;
            String::from_utf8(take(&mut text, length)?.to_vec()).ok()
        });
        headers.push((name?.to_ascii_lowercase(), value?));
    }
    Some(headers)
}

/// Writes the blocks of one direction. No dictionary is used: the stream says so, and every reader takes it.
pub struct Deflater(Compress);

impl Deflater {
    /// A writer of a connection's blocks.
    pub fn new() -> Self {
        Self(Compress::new(Compression::fast(), true))
    }

    /// Makes a block.
    pub fn write(&mut self, headers: &[(String, String)]) -> Result<Vec<u8>, &'static str> {
        let mut text = Vec::new();
        text.extend_from_slice(&(headers.len() as u32).to_be_bytes());
        for part in headers.iter().flat_map(|(name, value)| [name, value]) {
            text.extend_from_slice(&(part.len() as u32).to_be_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        let mut block = Vec::with_capacity(text.len() + 64);
        let mut rest = text.as_slice();
        loop {
            let before = self.0.total_in();
            self.0
                .compress_vec(rest, &mut block, FlushCompress::Sync)
                .map_err(|_| "a header block can't be compressed")?;
            rest = &rest[usize::try_from(self.0.total_in() - before).unwrap_or(usize::MAX)..];
            if rest.is_empty() && block.len() < block.capacity() {
                return Ok(block);
            }
            block.reserve(text.len() + 64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_with_the_dictionary() {
        // Two blocks of one stream, as zlib makes them with the dictionary.
        let blocks = [BLOCK_ONE, BLOCK_TWO];
        let mut inflater = Inflater::new();
        let read = blocks.map(|block| inflater.read(&hex::decode(block).expect("hex")).expect("a block"));
        let pairs = |pairs: &[(&str, &str)]| -> Headers {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(read[0], pairs(&[("streamtype", "error"), ("content-type", "text/plain")]));
        assert_eq!(read[1], pairs(&[("streamtype", "data"), ("port", "8080")]));
    }

    const BLOCK_ONE: &str = "78bbe3c6a7c202e50e50ca0a2e294a4dcc851625aca9a080c652c670211c07000000ffff";
    const BLOCK_TWO: &str = "82692c46d6082a831221c5791138e75818581800000000ffff";

    #[test]
    fn blocks_there_and_back() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        for count in [0, 1, 50] {
            let headers: Headers = (0..count).map(|n| (format!("name-{n}"), "value".repeat(n))).collect();
            let block = deflater.write(&headers).expect("a block");
            assert_eq!(inflater.read(&block).expect("read"), headers);
        }
    }

    #[test]
    fn malformed_blocks() {
        for block in [&b""[..], b"x", b"\x78\xbb\0\0\0\0", b"\x78\x01\xff\xff\xff"] {
            assert!(Inflater::new().read(block).is_err(), "{block:?}");
        }
        for text in [&b""[..], b"\0\0\0\x01", b"\0\0\0\x01\0\0\0\x02a", b"\xff\xff\xff\xff"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
