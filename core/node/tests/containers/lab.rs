//! A mechanism in a folder of its own, with an image made of busybox.

use std::future::Future;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_node::images::snapshots;
use gantry_node::mechanism::{Mechanism, MechanismOptions};
use gantry_plugin_host::capability::{OciBundle, Rootfs, RootfsOptions, Stdio};
use serde_json::{Value, json};

/// Longest time anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Snapshot key of the image.
pub const KEY: &str = "sha256:00000000000000000000000000000000000000000000000000000000000000aa";

/// The folder; its containers are removed with it.
pub struct Lab {
    pub folder: tempfile::TempDir,
    /// Name of this lab's cgroups.
    pub cgroup: String,
}

impl Lab {
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests run containers: they must run as root");
        let folder = tempfile::Builder::new().prefix("gantry-containers-").tempdir().unwrap();
        let images = folder.path().join("images");
        let diff_id = format!("sha256:{:064x}", 1);
        let base = snapshots::layers_folder(&images);
        let lower = base.join(snapshots::layer_name(&diff_id).unwrap());
        make_busybox(&lower);
        snapshots::record(&images, KEY, &[diff_id]).unwrap();
        let cgroup = format!("gantry-test-{}", folder.path().file_name().unwrap().to_str().unwrap());
        Self { folder, cgroup }
    }

    pub fn images(&self) -> PathBuf {
        self.folder.path().join("images")
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn log(&self, id: &str) -> PathBuf {
        self.folder.path().join(format!("logs/{id}.log"))
    }

    pub async fn open(&self) -> Mechanism {
        self.open_with(|_| {}).await
    }

    pub async fn open_with(&self, change: impl FnOnce(&mut MechanismOptions)) -> Mechanism {
        let mut options = MechanismOptions::new(self.images());
        options.executable = env!("CARGO_BIN_EXE_gantry-node-test-host").into();
        change(&mut options);
        Mechanism::open(self.state(), options).await.unwrap()
    }

    /// config.json of a container that runs a shell script.
    pub async fn config(&self, mechanism: &Mechanism, id: &str, script: &str) -> Value {
        let root = mechanism.prepare(id, KEY, &RootfsOptions { read_only: false }).await.unwrap();
        let capabilities = json!(["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"]);
        json!({
            "ociVersion": "1.2.0",
            "root": {"path": root},
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["/bin/sh", "-c", script],
                "env": ["PATH=/bin"],
                "cwd": "/work",
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities}
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=64k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}
            ],
            "annotations": {"lab": "yes"},
            "linux": {
                "cgroupsPath": format!("{}/{id}", self.cgroup),
                "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}],
                "resources": {"devices": [{"allow": false, "access": "rwm"}]}
            }
        })
    }

    pub fn stdio(&self, id: &str) -> Stdio {
        let log = self.log(id).to_str().unwrap().to_owned();
        Stdio { log_path: Some(log), stdin: false, stdin_once: false, tty: false }
    }

    /// Starts a container that runs a script.
    pub async fn run(&self, mechanism: &Mechanism, id: &str, script: &str) -> u32 {
        let config = self.config(mechanism, id, script).await;
        self.run_config(mechanism, id, &config, &self.stdio(id)).await
    }

    pub async fn run_config(&self, mechanism: &Mechanism, id: &str, config: &Value, stdio: &Stdio) -> u32 {
        mechanism.write(id, &config.to_string()).await.unwrap();
        let pid = mechanism.create(id, stdio).await.unwrap();
        mechanism.start(id).await.unwrap();
        pid
    }

    /// Messages of a log, with stream and tag.
    pub fn logged(&self, id: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.log(id)).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    /// Waits for a line of a log.
    pub async fn logged_line(&self, id: &str, line: &str) {
        until(line, || self.log(id).exists() && self.logged(id).iter().any(|logged| logged == line)).await;
    }

    /// Everything is gone again: cgroups, mounts, processes.
    pub async fn assert_nothing_left(&self, mechanism: &Mechanism) {
        mechanism.remove_all().await.unwrap();
        mechanism.remove_all().await.unwrap();
        self.assert_clean();
    }

    pub fn assert_clean(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let folder = self.folder.path().to_str().unwrap();
        let left: Vec<_> = mounts.lines().filter(|line| line.contains(folder)).collect();
        assert!(left.is_empty(), "mounts are left: {left:#?}");
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let group = hierarchy.path().join(&self.cgroup);
            if group.exists() {
                let below: Vec<_> =
                    std::fs::read_dir(&group).unwrap().flatten().filter(|e| e.path().is_dir()).collect();
                assert!(below.is_empty(), "cgroups are left: {below:?}");
                std::fs::remove_dir(&group).unwrap();
            }
        }
        assert!(std::fs::read_dir(self.state().join("bundles")).unwrap().next().is_none(), "bundles are left");
        for process in processes() {
            let at = std::fs::read_link(format!("/proc/{process}/cwd")).unwrap_or_default();
            assert!(!at.starts_with(self.folder.path()), "process {process} is left in {}", at.display());
        }
    }
}

/// Processes of this machine.
pub fn processes() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn make_busybox(root: &Path) {
    for folder in ["bin", "etc", "proc", "dev", "tmp"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for applet in [
        "sh", "cat", "echo", "sleep", "id", "true", "kill", "tty", "stty", "dd", "ps", "env", "pwd", "hostname",
        "head", "tail", "yes", "mknod", "readlink", "ls", "printf",
    ] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nseven:x:7:7::/home/seven:/bin/sh\n").unwrap();
    std::fs::write(root.join("etc/text"), "not a program\n").unwrap();
    symlink("/etc/passwd", root.join("etc/link")).unwrap();
    symlink("../../../../etc/hostname", root.join("etc/escape")).unwrap();
}

/// Fails when it takes too long.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(result) => result,
        Err(_) => panic!("{what} took longer than {PATIENCE:?}"),
    }
}

/// Waits until something is so that nothing tells of, such as a file's content.
pub async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(std::time::Instant::now() < end, "not after {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for the end of a container.
pub async fn exit_of(mechanism: &Mechanism, id: &str) -> i32 {
    let limit = u32::try_from(PATIENCE.as_millis()).unwrap();
    match mechanism.wait(id, limit).await.unwrap() {
        Some(code) => code,
        None => panic!("container {id} still runs after {PATIENCE:?}"),
    }
}
