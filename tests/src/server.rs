//! An API server in a process and a folder of its own.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::binary::gantry;

/// How long a server may take to be ready.
const READY_MAX: Duration = Duration::from_secs(60);
/// The bearer token of an administrator.
const TOKEN: &str = "end-to-end";

/// A running server; killed when dropped.
pub struct ServerProcess {
    child: Child,
    address: SocketAddr,
    dir: TempDir,
}

impl ServerProcess {
    /// Starts a server on a fresh folder and a free loopback port, and waits until it is ready.
    pub fn start() -> Result<Self> {
        let dir = tempfile::tempdir().context("make a folder")?;
        std::fs::write(dir.path().join("tokens.csv"), format!("{TOKEN},admin,1,\"system:masters\"\n"))
            .context("write the token file")?;
        let (child, address) = run(dir.path(), SocketAddr::from(([127, 0, 0, 1], 0)))?;
        Ok(Self { child, address, dir })
    }

    /// Stops it, with SIGTERM or SIGKILL, and starts it again on the same folder and port.
    pub fn restart(&mut self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).context("signal the server")?;
        let status = self.child.wait().context("wait for the server")?;
        if signal == Signal::SIGTERM && !status.success() {
            bail!("the server ended with {status} when asked to stop");
        }
        (self.child, self.address) = run(self.dir.path(), self.address)?;
        Ok(())
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The bearer token of an administrator.
    pub fn token(&self) -> &'static str {
        TOKEN
    }

    /// The authority that signed its certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("data/pki/ca.crt")
    }

    /// A kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("data/admin.kubeconfig")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing to do about it here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(dir: &Path, listen: SocketAddr) -> Result<(Child, SocketAddr)> {
    let log = dir.join("server.log");
    let log_file = File::create(&log).context("make the log file")?;
    let mut child = Command::new(gantry()?)
        .arg("apiserver")
        .arg("--data-dir")
        .arg(dir.join("data"))
        .arg("--listen")
        .arg(listen.to_string())
        .arg("--token-auth-file")
        .arg(dir.join("tokens.csv"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log_file)
        .spawn()
        .context("start gantry apiserver")?;
    match ready(&mut child) {
        Ok(address) => Ok((child, address)),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            Err(error.context(format!("gantry apiserver said: {said}")))
        }
    }
}

/// Waits for the line that starts with `ready`; answers with the address in it.
fn ready(child: &mut Child) -> Result<SocketAddr> {
    let stdout = child.stdout.take().context("no standard output")?;
    let (sender, lines) = mpsc::channel();
    // The thread reads on until the server ends, so that the server never waits for a reader.
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    loop {
        let line = lines.recv_timeout(READY_MAX).map_err(|_| anyhow!("it ended or was not ready in time"))?;
        if line.starts_with("ready") {
            let url = line.split_whitespace().find_map(|word| word.strip_prefix("https://"));
            let address = url.context("the ready line names no address")?;
            return address.trim_end_matches(',').parse().with_context(|| format!("the address in {line:?}"));
        }
    }
}
