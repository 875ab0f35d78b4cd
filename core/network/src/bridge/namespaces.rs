//! Network namespaces that outlive the process, as files that are bind mounts of them (as `ip netns` makes them).
//!
//! A thread belongs to a network namespace. Each of these is made by a thread of its own, which ends with it: no
//! thread of the process ever runs other work in the wrong one.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use tokio::runtime::Handle as Runtime;
use tokio::sync::oneshot;

use crate::error::NetworkError;

/// A namespace that was just made.
pub(super) struct NewNamespace {
    /// The namespace, for passing it to the kernel.
    pub(super) file: File,
    /// Configures the links in it.
    pub(super) netlink: rtnetlink::Handle,
}

/// The folder that the namespaces' files lie in.
#[derive(Debug)]
pub(super) struct Namespaces {
    folder: PathBuf,
}

impl Namespaces {
    pub(super) fn open(folder: PathBuf) -> Result<Self, NetworkError> {
        fs::create_dir_all(&folder).map_err(NetworkError::system("create", folder.display()))?;
        Ok(Self { folder })
    }

    pub(super) fn path(&self, sandbox_id: &str) -> PathBuf {
        self.folder.join(sandbox_id)
    }

    /// Names of all files there, whether they are namespaces or not.
    pub(super) fn names(&self) -> Result<Vec<String>, NetworkError> {
        let failed = || NetworkError::system::<io::Error>("list", self.folder.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed())? {
            names.push(entry.map_err(failed())?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    /// Whether a sandbox has its namespace. After a restart of the machine the file is there, but only a file.
    pub(super) fn exists(&self, sandbox_id: &str) -> bool {
        statfs(&self.path(sandbox_id)).is_ok_and(|stat| stat.filesystem_type() == NSFS_MAGIC)
    }

    /// Makes one. What else is needed there is prepared by the same thread: files under `/proc/sys/net` belong to
    /// the namespace of whoever opens them.
    pub(super) async fn create(&self, sandbox_id: &str) -> Result<NewNamespace, NetworkError> {
        let path = self.path(sandbox_id);
        let object = path.display().to_string();
        let runtime = Runtime::current();
        let (sender, receiver) = oneshot::channel();
        thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || {
                let _ = sender.send(create_here(&path, &runtime));
            })
            .map_err(NetworkError::system("start a thread for network namespace", &object))?;
        receiver
            .await
            .unwrap_or_else(|_| Err(io::Error::other("its thread ended early")))
            .map_err(NetworkError::system("create network namespace", &object))
    }

    /// Removes one; nothing there is no failure. Processes that are still in it keep it alive, but not its name.
    pub(super) fn remove(&self, sandbox_id: &str) -> Result<(), NetworkError> {
        let path = self.path(sandbox_id);
        match umount2(&path, MntFlags::MNT_DETACH) {
            // Not there, or only a file.
            Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => {}
            Err(error) => return Err(NetworkError::system("unmount network namespace", path.display())(error)),
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(NetworkError::system("remove network namespace", path.display())(error))
            }
            _ => Ok(()),
        }
    }
}

fn create_here(path: &Path, runtime: &Runtime) -> io::Result<NewNamespace> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    // A pod's IPv6 addresses are ours to give: nobody else claims them, and routers don't configure a pod.
    write_if_there("/proc/sys/net/ipv6/conf/default/accept_dad", "0")?;
    write_if_there("/proc/sys/net/ipv6/conf/default/accept_ra", "0")?;
    File::create(path)?;
    let own = Path::new("/proc/thread-self/ns/net");
    mount(Some(own), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).inspect_err(|_| {
        let _ = fs::remove_file(path);
    })?;
    let guard = runtime.enter();
    let opened = File::open(own).and_then(|file| Ok((file, rtnetlink::new_connection()?)));
    let (file, (connection, netlink, _)) = opened.inspect_err(|_| {
        let _ = umount2(path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(path);
    })?;
    // The connection's socket stays in the namespace that it was opened in; it ends with its last handle.
    runtime.spawn(connection);
    drop(guard);
    Ok(NewNamespace { file, netlink })
}

/// Sets a kernel parameter, unless this kernel has none of that name.
pub(super) fn write_if_there(path: &str, value: &str) -> io::Result<()> {
    match fs::write(path, value) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
