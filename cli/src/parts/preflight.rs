//! What a machine must have before it can be a node. Everything that is missing is told at once, and before anything is
//! touched.

use std::path::Path;

use anyhow::{Result, bail};

/// A thing that is needed, and what to do when it is missing.
struct Need {
    what: &'static str,
    met: bool,
    remedy: &'static str,
}

fn program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|folder| folder.join(name).exists())
}

fn file_system(name: &str) -> bool {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    known.lines().any(|line| line.split_whitespace().last() == Some(name))
        || Path::new("/lib/modules").exists() && module_loads(name)
}

/// A module that isn't loaded yet can be.
fn module_loads(name: &str) -> bool {
    std::process::Command::new("modprobe").arg("--quiet").arg(name).status().is_ok_and(|status| status.success())
}

/// Checks this machine.
pub fn check() -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("a node runs containers, mounts and network links: run this as root (sudo gantry …)");
    }
    let cgroups =
        Path::new("/sys/fs/cgroup/cgroup.controllers").exists() || Path::new("/sys/fs/cgroup/memory").exists();
    let needs = [
        Need { what: "overlayfs", met: file_system("overlay"), remedy: "load the kernel module overlay" },
        Need { what: "cgroups", met: cgroups, remedy: "mount the cgroup file systems below /sys/fs/cgroup" },
        Need { what: "the program nft", met: program("nft"), remedy: "install the package nftables" },
    ];
    let missing: Vec<String> =
        needs.iter().filter(|need| !need.met).map(|need| format!("  {}: {}", need.what, need.remedy)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this machine can't be a node yet; it lacks\n{}", missing.join("\n"))
}
