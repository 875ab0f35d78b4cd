//! Reading a log file: its end first when only that is wanted, then as it grows, across rotations, until the container
//! has exited.

use std::io::{self, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_plugin_host::contract::runtime::ContainerState;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{broadcast, mpsc};

use super::cri;
use super::options::{LogOptions, Printer};
use crate::container_io::ContainerExit;
use crate::view::AgentView;

/// How much is read at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// A line longer than this is none of CRI's and is dropped.
const LINE_BYTES_MAX: usize = 1 << 20;
/// How long the word of an exit may go missing: an exit from before we listened that the view did not know yet.
const STATE_CHECK: Duration = Duration::from_secs(5);

/// Whose log it is, and how its end is known.
pub struct Source {
    pub path: PathBuf,
    pub container_id: String,
    pub view: Arc<dyn AgentView>,
    /// Namespace, pod and container.
    pub of: [String; 3],
    pub exits: broadcast::Receiver<ContainerExit>,
}

impl Source {
    /// Whether the container may still write.
    fn is_running(&self) -> bool {
        let [namespace, pod, container] = &self.of;
        self.view.container(namespace, pod, container, false).is_ok_and(|found| {
            found.container_id == self.container_id
                && matches!(found.state, ContainerState::Running | ContainerState::Created)
        })
    }
}

/// Where the last lines start, reading backwards from the end.
async fn tail_offset(file: &mut File, lines: usize) -> io::Result<u64> {
    let length = file.seek(SeekFrom::End(0)).await?;
    let (mut start, mut left) = (length, lines);
    let mut block = vec![0; CHUNK_BYTES];
    while start > 0 && left > 0 {
        let size = usize::try_from(start).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let from = start - size as u64;
        file.seek(SeekFrom::Start(from)).await?;
        file.read_exact(&mut block[..size]).await?;
        let content = &block[..size];
        // The end of the last line does not start another one.
        let content = if start == length { content.strip_suffix(b"\n").unwrap_or(content) } else { content };
        for (at, _) in content.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            left -= 1;
            if left == 0 {
                return Ok(from + at as u64 + 1);
            }
        }
        start = from;
    }
    Ok(if left == 0 { length } else { 0 })
}

/// Lines of one file after another.
struct Lines {
    printer: Printer,
    pending: Vec<u8>,
    /// Within a line that was too long.
    skipping: bool,
}

impl Lines {
    /// What the client gets of some more bytes.
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.pending.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(length) = self.pending[start..].iter().position(|byte| *byte == b'\n') {
            let line = &self.pending[start..start + length];
            start += length + 1;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if let Some(line) = cri::parse(line) {
                self.printer.print(&line, &mut out);
            }
            if self.printer.is_done() {
                break;
            }
        }
        self.pending.drain(..start);
        if self.pending.len() > LINE_BYTES_MAX {
            self.pending.clear();
            self.skipping = true;
        }
        out
    }

    /// Reads a file to its present end. False when nothing more is wanted.
    async fn drain(&mut self, file: &mut File, out: &mpsc::Sender<Bytes>) -> io::Result<bool> {
        let mut block = vec![0; CHUNK_BYTES];
        loop {
            let count = file.read(&mut block).await?;
            if count == 0 {
                return Ok(true);
            }
            let text = self.take(&block[..count]);
            if !text.is_empty() && out.send(Bytes::from(text)).await.is_err() || self.printer.is_done() {
                return Ok(false);
            }
        }
    }
}

/// A stream that something can be read from whenever a file of the folder changes.
fn watch(folder: &Path) -> io::Result<Receiver> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(folder, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)?;
    // Not a pipe, but a file descriptor that is read from and polled in the same way.
    Receiver::from_owned_fd_unchecked(OwnedFd::from(inotify))
}

/// Waits until the log may have grown. True when the container has exited.
async fn changed(source: &mut Source, watched: &mut Receiver) -> io::Result<bool> {
    let mut events = [0; 4096];
    loop {
        tokio::select! {
            read = watched.read(&mut events) => return read.map(|_| false),
            exit = source.exits.recv() => match exit {
                Ok(exit) if exit.container_id == source.container_id => return Ok(true),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => return Ok(!source.is_running()),
                Err(broadcast::error::RecvError::Closed) => return Ok(true),
            },
            () = tokio::time::sleep(STATE_CHECK) => return Ok(!source.is_running()),
        }
    }
}

/// Writes the log to `out`; with `follow` returns when the container has exited and all was read.
pub async fn read(mut source: Source, mut file: File, options: LogOptions, out: mpsc::Sender<Bytes>) -> io::Result<()> {
    // Before the first reading: no growth is missed.
    let mut watched = match (options.follow, source.path.parent()) {
        (true, Some(folder)) => Some(watch(folder)?),
        _ => None,
    };
    if let Some(lines) = options.tail_lines {
        let start = tail_offset(&mut file, lines).await?;
        file.seek(SeekFrom::Start(start)).await?;
    }
    let mut exited = !source.is_running();
    let mut lines = Lines { printer: Printer::new(options), pending: Vec::new(), skipping: false };
    loop {
        if !lines.drain(&mut file, &out).await? {
            return Ok(());
        }
        let Some(watched) = &mut watched else { return Ok(()) };
        // A rotated file is written to until its successor is there: what came in between is read first.
        if let Ok(successor) = File::open(&source.path).await
            && successor.metadata().await?.ino() != file.metadata().await?.ino()
        {
            if !lines.drain(&mut file, &out).await? {
                return Ok(());
            }
            lines.pending.clear();
            file = successor;
            continue;
        }
        if exited {
            return Ok(());
        }
        exited = changed(&mut source, watched).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tails_of_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("0.log");
        let long = format!("{}\nb\n", "a".repeat(CHUNK_BYTES + 10));
        let cases =
            [("", 3), ("a\nb\n", 0), ("a\nb\n", 1), ("a\nb\n", 2), ("a\nb\n", 9), ("a\nb", 1), (&long, 1), (&long, 2)];
        for (content, lines) in cases {
            std::fs::write(&path, content).expect("written");
            let mut file = File::open(&path).await.expect("opened");
            let found = tail_offset(&mut file, lines).await.expect("read");
            assert_eq!(found, cri::tail_start(content.as_bytes(), lines) as u64, "{} {lines}", content.len());
        }
    }

    #[test]
    fn lines_come_in_pieces() {
        let mut lines = Lines {
            printer: Printer::new(LogOptions { stdout: true, ..LogOptions::default() }),
            pending: Vec::new(),
            skipping: false,
        };
        assert_eq!(lines.take(b"2026-01-01T00:00:01Z stdo"), b"");
        assert_eq!(lines.take(b"ut F one\nnonsense\n2026-01-01T00:00:01Z stdout F two\n2026"), b"one\ntwo\n");
        lines.take(&vec![b'x'; LINE_BYTES_MAX + 1]);
        assert_eq!(lines.take(b"rest\n2026-01-01T00:00:01Z stdout F three\n"), b"three\n");
    }
}
