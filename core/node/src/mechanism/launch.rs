//! The agent's side of the launcher.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use parking_lot::Mutex;

use super::descriptors;
use super::launcher::INTERNAL_ARGUMENT;
use super::protocol::LaunchRequest;

/// The launcher process; started again when it has died.
pub struct Launcher {
    executable: PathBuf,
    running: Mutex<Running>,
}

struct Running {
    connection: Option<OwnedFd>,
    process: Child,
}

impl Launcher {
    /// Starts it.
    pub fn start(executable: &Path) -> io::Result<Self> {
        Ok(Self { executable: executable.to_owned(), running: Mutex::new(Running::start(executable)?) })
    }

    /// Asks for a process. Whether it could be started is told by the connection among the descriptors.
    pub fn launch(&self, request: &LaunchRequest, handed: &[BorrowedFd<'_>]) -> io::Result<()> {
        let payload = descriptors::memory_file(&serde_json::to_vec(request)?)?;
        let mut all = vec![payload.as_fd()];
        all.extend_from_slice(handed);
        let mut running = self.running.lock();
        match running.send(&all) {
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                *running = Running::start(&self.executable)?;
                running.send(&all)
            }
            other => other,
        }
    }
}

impl Running {
    fn start(executable: &Path) -> io::Result<Self> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(io::Error::from)?;
        let process = Command::new(executable)
            .arg(INTERNAL_ARGUMENT)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { connection: Some(ours), process })
    }

    fn send(&self, all: &[BorrowedFd<'_>]) -> io::Result<()> {
        match &self.connection {
            Some(connection) => descriptors::send(connection.as_fd(), b"r", all).map(drop),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It ends with its connection.
        self.connection = None;
        let _ = self.process.wait();
    }
}
