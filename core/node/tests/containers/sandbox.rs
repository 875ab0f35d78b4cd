//! What a pod's containers share: namespaces, mounts, root filesystems.

use std::path::Path;

use gantry_plugin_host::ErrorCode;
use gantry_plugin_host::capability::{
    KeyValue, MountOptions, Mounts, NamespaceKind, Namespaces, OciBundle, Rootfs, RootfsOptions,
};
use serde_json::json;

use crate::lab::{KEY, Lab, exit_of};

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_shared_and_outlive_the_agent() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    let sysctls = [KeyValue { key: "kernel.shmmax".into(), value: "123456".into() }];
    let kinds = [NamespaceKind::Ipc, NamespaceKind::Uts, NamespaceKind::Pid];
    let made = Namespaces::create(&mechanism, "pod", &kinds, "pod-host", &sysctls).await.unwrap();
    assert_eq!(made.iter().map(|n| n.kind).collect::<Vec<_>>(), kinds);
    let again = Namespaces::create(&mechanism, "pod", &kinds, "other", &[]).await.unwrap();
    assert_eq!(again, made);
    drop(mechanism);
    let mechanism = lab.open().await;
    assert_eq!(Namespaces::get(&mechanism, "pod").await.unwrap(), made);
    let namespaces = json!([
        {"type": "ipc", "path": made[0].path}, {"type": "uts", "path": made[1].path},
        {"type": "pid", "path": made[2].path}, {"type": "mount"}, {"type": "network"}]);
    for (id, script, expect) in [
        (
            "a",
            "hostname; cat /proc/sys/kernel/shmmax; sleep 1000 & exit 1",
            vec!["stdout F pod-host", "stdout F 123456"],
        ),
        ("b", "echo $(cat /proc/1/comm)", vec!["stdout F gantry-init"]),
    ] {
        let mut config = lab.config(&mechanism, id, script).await;
        config["linux"]["namespaces"] = namespaces.clone();
        lab.run_config(&mechanism, id, &config, &lab.stdio(id)).await;
        exit_of(&mechanism, id).await;
        assert_eq!(lab.logged(id), expect);
    }
    // What a container started in a shared pid namespace ends with it.
    let group = format!("{}/a/cgroup.procs", lab.cgroup);
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let procs = std::fs::read_to_string(hierarchy.path().join(&group)).unwrap_or_default();
        assert_eq!(procs, "");
    }
    let user = Namespaces::create(&mechanism, "user", &[NamespaceKind::User], "", &[]).await.unwrap_err();
    assert_eq!(user.code, ErrorCode::Unsupported);
    let sysctls = [KeyValue { key: "kernel.panic".into(), value: "1".into() }];
    let denied = Namespaces::create(&mechanism, "x", &[NamespaceKind::Ipc], "", &sysctls).await.unwrap_err();
    assert_eq!(denied.code, ErrorCode::Denied);
    Namespaces::remove(&mechanism, "pod").await.unwrap();
    Namespaces::remove(&mechanism, "pod").await.unwrap();
    assert_eq!(Namespaces::get(&mechanism, "pod").await.unwrap(), []);
    lab.assert_nothing_left(&mechanism).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn root_filesystems() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    let options = RootfsOptions { read_only: false };
    let path = mechanism.prepare("r", KEY, &options).await.unwrap();
    std::fs::write(Path::new(&path).join("new"), vec![1; 100_000]).unwrap();
    drop(mechanism);
    let mechanism = lab.open().await;
    assert_eq!(mechanism.prepare("r", KEY, &options).await.unwrap(), path);
    assert_eq!(mechanism.read_file("r", "/new", 100_000).await.unwrap().len(), 100_000);
    assert_eq!(mechanism.read_file("r", "/new", 99_999).await.unwrap_err().code, ErrorCode::Exhausted);
    assert!(mechanism.read_file("r", "etc/link", 10_000).await.unwrap().starts_with(b"root:"));
    assert_eq!(mechanism.read_file("r", "etc/escape", 10_000).await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(mechanism.read_file("r", "/etc", 10_000).await.unwrap_err().code, ErrorCode::Invalid);
    let usage = Rootfs::usage(&mechanism, "r").await.unwrap();
    assert!(usage.used_bytes >= 100_000 && usage.used_inodes == 2, "{usage:?}");
    let other = format!("sha256:{:064x}", 5);
    assert_eq!(mechanism.prepare("s", &other, &options).await.unwrap_err().code, ErrorCode::NotFound);
    Rootfs::remove(&mechanism, "r").await.unwrap();
    Rootfs::remove(&mechanism, "r").await.unwrap();
    assert!(!Path::new(&path).exists());
    lab.assert_nothing_left(&mechanism).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    let at = |name: &str| lab.folder.path().join(name).to_str().unwrap().to_owned();
    let flags = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let options = MountOptions { read_only: false, flags: flags(&["nosuid"]), data: flags(&["size=1m", "mode=0700"]) };
    mechanism.mount("tmpfs", &at("t"), "tmpfs", &options).await.unwrap();
    assert!(mechanism.is_mounted(&at("t")).await.unwrap());
    std::fs::write(at("t/file"), "here").unwrap();
    let options = MountOptions { read_only: true, flags: flags(&["noexec"]), data: Vec::new() };
    mechanism.bind(&at("t/file"), &at("b/file"), &options).await.unwrap();
    mechanism.bind(&at("t"), &at("c"), &options).await.unwrap();
    assert!(mechanism.is_mounted(&at("b/file")).await.unwrap());
    assert!(!mechanism.is_mounted(&at("b")).await.unwrap());
    assert!(!mechanism.is_mounted(&at("none/there")).await.unwrap());
    assert_eq!(std::fs::read(at("b/file")).unwrap(), b"here");
    let refused = std::fs::write(at("c/file"), "no").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let open = std::fs::File::open(at("c/file")).unwrap();
    assert_eq!(mechanism.unmount(&at("c")).await.unwrap_err().code, ErrorCode::Busy);
    drop(open);
    for name in ["c", "b/file", "t", "t"] {
        mechanism.unmount(&at(name)).await.unwrap();
        assert!(!mechanism.is_mounted(&at(name)).await.unwrap());
    }
    lab.assert_nothing_left(&mechanism).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn facts() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    let facts = mechanism.host_facts();
    assert_eq!(facts.architecture, std::env::consts::ARCH);
    assert!(facts.seccomp && facts.capabilities.iter().any(|name| name == "CAP_SYS_ADMIN"));
    assert_eq!(facts.may_raise_limits, facts.capabilities.iter().any(|name| name == "CAP_SYS_RESOURCE"));
    assert!(mechanism.list().await.unwrap().is_empty());
    lab.assert_nothing_left(&mechanism).await;
}
