//! CRI's log format: `2016-10-06T00:17:09.669794202Z stdout F message`, a line each.
//!
//! <https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md>

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longest message; what is longer is cut into partial lines, as containerd does.
const MESSAGE_LIMIT_BYTES: usize = 16 * 1024;

/// The two streams of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Cuts one stream's bytes into log lines.
#[derive(Debug)]
pub struct Framer {
    stream: Stream,
    pending: Vec<u8>,
}

impl Framer {
    /// With nothing pending.
    pub fn new(stream: Stream) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// Appends to `out` what is complete after `bytes`.
    pub fn push(&mut self, mut bytes: &[u8], timestamp: &str, out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = MESSAGE_LIMIT_BYTES - self.pending.len();
            let newline = bytes.iter().take(room + 1).position(|&b| b == b'\n');
            match newline {
                Some(end) => {
                    self.write(&bytes[..end], 'F', timestamp, out);
                    bytes = &bytes[end + 1..];
                }
                // A newline may still follow a message of exactly the limit.
                None if bytes.len() > room => {
                    self.write(&bytes[..room], 'P', timestamp, out);
                    bytes = &bytes[room..];
                }
                None => {
                    self.pending.extend_from_slice(bytes);
                    return;
                }
            }
        }
    }

    /// Appends what is left at the end of the stream: a partial line.
    pub fn finish(&mut self, timestamp: &str, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.write(&[], 'P', timestamp, out);
        }
        self.pending = Vec::new();
    }

    fn write(&mut self, rest: &[u8], tag: char, timestamp: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(timestamp.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.stream.name().as_bytes());
        out.push(b' ');
        out.push(tag as u8);
        out.push(b' ');
        out.extend_from_slice(&self.pending);
        out.extend_from_slice(rest);
        out.push(b'\n');
        self.pending.clear();
    }
}

/// The log file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: Option<File>,
    size_bytes: u64,
    limit_bytes: u64,
    told: bool,
}

impl LogFile {
    /// Opens or makes the file and the folders above it.
    pub fn open(path: &Path, limit_bytes: u64) -> std::io::Result<Self> {
        let mut log = Self { path: path.to_owned(), file: None, size_bytes: 0, limit_bytes, told: false };
        log.reopen()?;
        Ok(log)
    }

    /// Opens the path anew, after the file was moved away.
    pub fn reopen(&mut self) -> std::io::Result<()> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path)?;
        self.size_bytes = file.metadata()?.len();
        self.file = Some(file);
        self.told = false;
        Ok(())
    }

    /// Appends whole lines. What can't be written is lost: a full disk must not stop the container.
    pub fn append(&mut self, lines: &[u8]) {
        if let Some(file) = &mut self.file
            && file.write_all(lines).is_ok()
        {
            self.size_bytes += lines.len() as u64;
        }
    }

    /// True once after the file has grown beyond its limit.
    pub fn has_become_full(&mut self) -> bool {
        let full = self.limit_bytes > 0 && self.size_bytes >= self.limit_bytes && !self.told;
        self.told |= full;
        full
    }
}

/// A point in time as the log has it: RFC 3339 with nine digits after the point.
pub fn timestamp(now_ns: i64) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(now_ns)) {
        Ok(time) => format!("{time:.9}"),
        Err(_) => "1970-01-01T00:00:00.000000000Z".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(pushes: &[&[u8]]) -> String {
        let mut framer = Framer::new(Stream::Stdout);
        let mut out = Vec::new();
        for bytes in pushes {
            framer.push(bytes, "T", &mut out);
        }
        framer.finish("E", &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines() {
        let cases: &[(&[&[u8]], &str)] = &[
            (&[], ""),
            (&[b"a\n"], "T stdout F a\n"),
            (&[b"a\nb\n\n"], "T stdout F a\nT stdout F b\nT stdout F \n"),
            (&[b"a", b"b\nc"], "T stdout F ab\nE stdout P c\n"),
            (&[b"a\r\n"], "T stdout F a\r\n"),
        ];
        for (pushes, expect) in cases {
            assert_eq!(frame(pushes), *expect);
        }
    }

    #[test]
    fn long_lines_are_cut() {
        let full = vec![b'x'; MESSAGE_LIMIT_BYTES];
        let x = "x".repeat(MESSAGE_LIMIT_BYTES);
        assert_eq!(frame(&[&full, b"\n"]), format!("T stdout F {x}\n"));
        assert_eq!(frame(&[&full, b"y\n"]), format!("T stdout P {x}\nT stdout F y\n"));
        assert_eq!(frame(&[&[full.as_slice(), &full, b"\n"].concat()]), format!("T stdout P {x}\nT stdout F {x}\n"));
    }

    proptest::proptest! {
        /// However a stream is cut into reads, its log says the same.
        #[test]
        fn reads_do_not_matter(text in "[ab\n]{0,200}", cuts in proptest::collection::vec(0usize..200, 0..5)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().filter(|&c| c <= bytes.len()).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            proptest::prop_assert_eq!(frame(&pieces), frame(&[bytes]));
        }
    }

    #[test]
    fn time_has_nine_digits() {
        assert_eq!(timestamp(1_475_713_029_669_794_202), "2016-10-06T00:17:09.669794202Z");
        assert_eq!(timestamp(1_475_713_029_000_000_000), "2016-10-06T00:17:09.000000000Z");
    }
}
