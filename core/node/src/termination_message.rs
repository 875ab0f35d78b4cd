//! What a container left to say at its end: its termination message file, or the end of its log.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Upstream's limit of a message file.
const FILE_BYTES_MAX: u64 = 4096;
/// Upstream's limits of a message from the log.
const LOG_BYTES_MAX: usize = 2048;
const LOG_LINES_MAX: usize = 80;
/// How much of a log's end is read to find those lines.
const LOG_TAIL_BYTES: u64 = 64 * 1024;

/// The message of a container that ended with that code.
pub fn read(file: Option<&Path>, log: Option<&Path>, fall_back_to_logs: bool, exit_code: i32) -> String {
    let own = file.map(read_file).unwrap_or_default();
    if !own.is_empty() || !fall_back_to_logs || exit_code == 0 {
        return own;
    }
    log.map(read_log).unwrap_or_default()
}

fn read_file(path: &Path) -> String {
    let Ok(file) = File::open(path) else { return String::new() };
    let mut bytes = Vec::new();
    if file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn read_log(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| log_tail(&String::from_utf8_lossy(&bytes))).unwrap_or_default()
}

/// The last lines of a log in CRI's format (`TIME STREAM TAGS TEXT`), without all but the text. Pure.
fn log_tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let first = lines.len().saturating_sub(LOG_LINES_MAX);
    let mut out = String::new();
    for line in &lines[first..] {
        let mut parts = line.splitn(4, ' ');
        let (Some(_), Some("stdout" | "stderr"), Some(tags), text) =
            (parts.next(), parts.next(), parts.next(), parts.next().unwrap_or_default())
        else {
            continue;
        };
        out.push_str(text);
        if tags != "P" {
            out.push('\n');
        }
    }
    let mut start = out.len().saturating_sub(LOG_BYTES_MAX);
    while !out.is_char_boundary(start) {
        start += 1;
    }
    out.split_off(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_comes_first_and_the_log_only_for_failures_that_ask() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, log) = (folder.path().join("message"), folder.path().join("0.log"));
        std::fs::write(&log, "2026-01-01T00:00:00Z stdout P a\n2026-01-01T00:00:00Z stderr F b c\n").expect("a log");
        std::fs::write(&file, "").expect("a file");
        assert_eq!(read(Some(&file), Some(&log), true, 1), "ab c\n");
        assert_eq!(read(Some(&file), Some(&log), true, 0), "");
        assert_eq!(read(Some(&file), Some(&log), false, 1), "");
        std::fs::write(&file, "reason\n").expect("a file");
        assert_eq!(read(Some(&file), Some(&log), true, 1), "reason\n");
        std::fs::write(&file, "x".repeat(5000)).expect("a file");
        assert_eq!(read(Some(&file), None, false, 1).len(), 4096);
    }

    #[test]
    fn a_long_log_is_cut_at_lines_and_bytes() {
        let line = |n: usize| format!("t stdout F {n}\n");
        let log: String = (0..200).map(line).collect();
        assert!(log_tail(&log).starts_with("120\n"));
        let log: String = (0..80).map(|_| format!("t stdout F {}\n", "é".repeat(50))).collect();
        assert!(log_tail(&log).len() <= LOG_BYTES_MAX);
    }
}
