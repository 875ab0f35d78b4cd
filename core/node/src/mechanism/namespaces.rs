//! Namespaces that outlive the process that made them: bound to files.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures::StreamExt;
use gantry_plugin_host::capability::{CapabilityResult, KeyValue, Namespace, NamespaceKind, Namespaces};
use gantry_plugin_host::{CapabilityError, ErrorCode};
use nix::mount::{MntFlags, MsFlags};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio_util::codec::{FramedRead, LinesCodec};

use super::protocol::{LINE_LIMIT_BYTES, LaunchReply, LaunchRequest, process_start_time, write_whole};
use super::{Mechanism, blocking, check_id, make_private, mounts};

/// Which process is the init of an owner's pid namespace.
#[derive(Serialize, Deserialize)]
struct Init {
    pid: u32,
    start_time: u64,
}

fn file_name(kind: NamespaceKind) -> &'static str {
    match kind {
        NamespaceKind::Ipc => "ipc",
        NamespaceKind::Uts => "uts",
        NamespaceKind::Pid => "pid",
        NamespaceKind::User => "user",
    }
}

const KINDS: [NamespaceKind; 4] = [NamespaceKind::Ipc, NamespaceKind::Uts, NamespaceKind::Pid, NamespaceKind::User];

fn existing(folder: &Path) -> io::Result<Vec<Namespace>> {
    let mut found = Vec::new();
    for kind in KINDS {
        let path = folder.join(file_name(kind));
        if mounts::is_mount_point(&path)? {
            found.push(Namespace { kind, path: path.to_string_lossy().into_owned() });
        }
    }
    Ok(found)
}

fn bind(namespace: &str, path: &Path) -> io::Result<()> {
    OpenOptions::new().create(true).append(true).open(path)?;
    Ok(nix::mount::mount(Some(namespace), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// Runs on a thread of its own, which may change its namespaces as it ends with that.
fn on_own_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let thread = std::thread::Builder::new().name("namespaces".into()).spawn(work)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

/// Writes a sysctl; its name has dots or slashes, as sysctl(8) takes them.
fn write_sysctl(sysctl: &KeyValue) -> io::Result<()> {
    let path = sysctl_path(&sysctl.key)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{:?} is no sysctl", sysctl.key)))?;
    std::fs::write(&path, &sysctl.value).map_err(|error| {
        io::Error::new(error.kind(), format!("setting sysctl {}={}: {error}", sysctl.key, sysctl.value))
    })
}

fn sysctl_path(key: &str) -> Option<PathBuf> {
    // The first separator decides: with slashes a dot is part of a name, and the other way round.
    let separator = key.find(['.', '/']).map_or('.', |at| if key.as_bytes()[at] == b'/' { '/' } else { '.' });
    let swapped = |c| match c {
        '.' if separator == '.' => '/',
        '/' if separator == '.' => '.',
        c => c,
    };
    let path: String = key.chars().map(swapped).collect();
    let sound = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    sound.then(|| Path::new("/proc/sys").join(path))
}

fn is_ipc_sysctl(key: &str) -> bool {
    let key = key.replace('/', ".");
    matches!(key.as_str(), "kernel.sem" | "kernel.msgmax" | "kernel.msgmnb" | "kernel.msgmni")
        || key.starts_with("kernel.shm")
        || key.starts_with("fs.mqueue.")
}

/// Makes those that a thread can make.
fn make_on_thread(
    folder: PathBuf,
    kinds: Vec<NamespaceKind>,
    hostname: String,
    sysctls: Vec<KeyValue>,
) -> io::Result<()> {
    on_own_thread(move || {
        let flags = kinds.iter().fold(CloneFlags::empty(), |flags, kind| {
            flags
                | match kind {
                    NamespaceKind::Ipc => CloneFlags::CLONE_NEWIPC,
                    NamespaceKind::Uts => CloneFlags::CLONE_NEWUTS,
                    NamespaceKind::Pid | NamespaceKind::User => CloneFlags::empty(),
                }
        });
        unshare(flags)?;
        if kinds.contains(&NamespaceKind::Uts) && !hostname.is_empty() {
            nix::unistd::sethostname(&hostname)?;
        }
        sysctls.iter().try_for_each(write_sysctl)?;
        for kind in kinds {
            let name = file_name(kind);
            bind(&format!("/proc/thread-self/ns/{name}"), &folder.join(name))?;
        }
        Ok(())
    })
}

fn remove(folder: &Path) -> io::Result<()> {
    let init = std::fs::read(folder.join("init.json")).ok();
    if let Some(init) = init.and_then(|text| serde_json::from_slice::<Init>(&text).ok())
        && process_start_time(init.pid) == Some(init.start_time)
    {
        // With it the kernel ends all that is in the namespace.
        let _ = kill(Pid::from_raw(init.pid as i32), Signal::SIGKILL);
    }
    for kind in KINDS {
        match nix::mount::umount2(&folder.join(file_name(kind)), MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Mechanism {
    async fn make_pid_namespace(&self, folder: &Path) -> io::Result<()> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let ours = tokio::net::UnixStream::from_std(ours)?;
        self.inner.launcher.launch(&LaunchRequest::PidNamespace, &[theirs.as_fd()])?;
        drop(theirs);
        let mut lines = FramedRead::new(ours, LinesCodec::new_with_max_length(LINE_LIMIT_BYTES));
        let answer = lines.next().await.and_then(Result::ok).and_then(|line| serde_json::from_str(&line).ok());
        let pid = match answer {
            Some(LaunchReply::Started(pid)) => pid,
            Some(LaunchReply::Failed(reason)) => return Err(io::Error::other(reason)),
            _ => return Err(io::Error::other("the helper ended without a word")),
        };
        let start_time = process_start_time(pid).ok_or_else(|| io::Error::other("the namespace's init has ended"))?;
        write_whole(&folder.join("init.json"), &serde_json::to_vec(&Init { pid, start_time })?)?;
        bind(&format!("/proc/{pid}/ns/pid"), &folder.join("pid"))
    }
}

#[async_trait]
impl Namespaces for Mechanism {
    async fn create(
        &self,
        owner: &str,
        kinds: &[NamespaceKind],
        hostname: &str,
        sysctls: &[KeyValue],
    ) -> CapabilityResult<Vec<Namespace>> {
        check_id("namespaces' owner", owner)?;
        let refuse =
            |code, reason: &str| Err(CapabilityError::new(code, format!("making namespaces for {owner}: {reason}")));
        if kinds.contains(&NamespaceKind::User) {
            return refuse(
                ErrorCode::Unsupported,
                "a user namespace needs a mapping, which this call has not; give it in config.json",
            );
        }
        if let Some(sysctl) = sysctls.iter().find(|s| !is_ipc_sysctl(&s.key) || !kinds.contains(&NamespaceKind::Ipc)) {
            let reason = format!("sysctl {} doesn't belong to one of them", sysctl.key);
            return refuse(ErrorCode::Denied, &reason);
        }
        let _gate = self.inner.gates.enter(format!("namespaces {owner}")).await;
        let folder = self.inner.path("namespaces", owner);
        let fail = |error: &io::Error| CapabilityError::io(format!("making namespaces for {owner}"), error);
        let have = existing(&folder).map_err(|e| fail(&e))?;
        let missing: Vec<_> = kinds.iter().copied().filter(|kind| !have.iter().any(|n| n.kind == *kind)).collect();
        if missing.is_empty() {
            return Ok(have);
        }
        make_private(&folder).map_err(|e| fail(&e))?;
        let on_thread: Vec<_> = missing.iter().copied().filter(|kind| *kind != NamespaceKind::Pid).collect();
        let made = async {
            if !on_thread.is_empty() {
                let (folder, hostname, sysctls) = (folder.clone(), hostname.to_owned(), sysctls.to_vec());
                let failed = format!("making namespaces for {owner}");
                blocking(move || {
                    make_on_thread(folder, on_thread, hostname, sysctls).map_err(|e| CapabilityError::io(failed, &e))
                })
                .await?;
            }
            if missing.contains(&NamespaceKind::Pid) {
                self.make_pid_namespace(&folder).await.map_err(|e| fail(&e))?;
            }
            existing(&folder).map_err(|e| fail(&e))
        }
        .await;
        if made.is_err() && have.is_empty() {
            let _ = remove(&folder);
        }
        made
    }

    async fn get(&self, owner: &str) -> CapabilityResult<Vec<Namespace>> {
        check_id("namespaces' owner", owner)?;
        existing(&self.inner.path("namespaces", owner))
            .map_err(|e| CapabilityError::io(format!("looking for the namespaces of {owner}"), &e))
    }

    async fn remove(&self, owner: &str) -> CapabilityResult<()> {
        check_id("namespaces' owner", owner)?;
        let _gate = self.inner.gates.enter(format!("namespaces {owner}")).await;
        let (folder, owner) = (self.inner.path("namespaces", owner), owner.to_owned());
        blocking(move || {
            remove(&folder).map_err(|e| CapabilityError::io(format!("removing the namespaces of {owner}"), &e))
        })
        .await
    }

    async fn set_network_sysctls(&self, path: &str, sysctls: &[KeyValue]) -> CapabilityResult<()> {
        if let Some(sysctl) = sysctls.iter().find(|s| !s.key.replace('/', ".").starts_with("net.")) {
            let text = format!("setting sysctl {}: it doesn't belong to a network namespace", sysctl.key);
            return Err(CapabilityError::new(ErrorCode::Denied, text));
        }
        let (path, sysctls) = (path.to_owned(), sysctls.to_vec());
        blocking(move || {
            let failed = format!("setting sysctls in the network namespace {path}");
            on_own_thread(move || {
                setns(std::fs::File::open(&path)?, CloneFlags::CLONE_NEWNET)?;
                sysctls.iter().try_for_each(write_sysctl)
            })
            .map_err(|e| CapabilityError::io(failed, &e))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sysctls() {
        let cases = [
            ("kernel.shmmax", Some("/proc/sys/kernel/shmmax")),
            ("kernel/shmmax", Some("/proc/sys/kernel/shmmax")),
            ("net/ipv4/conf/eth0.1/rp_filter", Some("/proc/sys/net/ipv4/conf/eth0.1/rp_filter")),
            ("net.ipv4.conf.eth0/1.rp_filter", Some("/proc/sys/net/ipv4/conf/eth0.1/rp_filter")),
            ("../kernel", None),
            ("net/../kernel/x", None),
            ("", None),
        ];
        for (key, expect) in cases {
            assert_eq!(sysctl_path(key), expect.map(PathBuf::from), "{key}");
        }
    }
}
