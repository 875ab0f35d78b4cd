//! Facts of the machine, from `/proc`, `/sys` and `/etc`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::NodeSystemInfo;

/// What the machine is and has.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// Processors.
    pub cpus: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of the file system with the agent's folder.
    pub storage_bytes: u64,
    /// Page size (`2Mi`, `1Gi`) to bytes reserved.
    pub hugepages: BTreeMap<String, u64>,
    /// `nodeInfo`, versions aside.
    pub info: NodeSystemInfo,
}

/// What is free at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Free {
    /// Bytes of memory that can be had.
    pub memory_bytes: u64,
    /// Bytes of the agent's file system: free, all.
    pub storage_bytes: (u64, u64),
    /// Its inodes: free, all.
    pub inodes: (u64, u64),
    /// Process ids: free, all.
    pub pids: (u64, u64),
}

fn text(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// A line of `/proc/meminfo`, in bytes.
fn meminfo(content: &str, name: &str) -> u64 {
    let line = content.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default()
        * 1024
}

/// The size of a list of ranges (`0-3,5`).
fn count_ranges(list: &str) -> u64 {
    let parts = list.trim().split(',').filter(|part| !part.is_empty());
    parts
        .map(|part| match part.split_once('-') {
            Some((first, last)) => match (first.parse::<u64>(), last.parse::<u64>()) {
                (Ok(first), Ok(last)) => (last + 1).saturating_sub(first),
                _ => 0,
            },
            None => 1,
        })
        .sum()
}

fn os_release(content: &str) -> String {
    let line = content.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |value| value.trim_matches('"').to_owned())
}

impl Machine {
    /// Reads what can be read; what can't is empty or zero.
    pub fn detect(root_dir: &Path) -> Self {
        let cpus = count_ranges(&text("/sys/devices/system/cpu/online")).max(1);
        let memory_bytes = meminfo(&text("/proc/meminfo"), "MemTotal");
        let storage_bytes =
            nix::sys::statvfs::statvfs(root_dir).map(|fs| fs.blocks() * fs.fragment_size()).unwrap_or_default();
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let kernel = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
        let machine_id = Some(text("/etc/machine-id")).filter(|id| !id.is_empty());
        let info = NodeSystemInfo {
            architecture: architecture.to_owned(),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            kernel_version: kernel.unwrap_or_default(),
            machine_id: machine_id.unwrap_or_else(|| text("/var/lib/dbus/machine-id")),
            operating_system: "linux".to_owned(),
            os_image: os_release(&text("/etc/os-release")),
            system_uuid: text("/sys/class/dmi/id/product_uuid"),
            ..NodeSystemInfo::default()
        };
        Self { cpus, memory_bytes, storage_bytes, hugepages: hugepages(), info }
    }
}

fn hugepages() -> BTreeMap<String, u64> {
    let mut out = BTreeMap::new();
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else { return out };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let size =
            name.to_str().and_then(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok());
        let Some(kib) = size else { continue };
        let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok();
        let count = count.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or_default();
        let name = match kib {
            k if k % (1 << 20) == 0 => format!("{}Gi", k >> 20),
            k if k % (1 << 10) == 0 => format!("{}Mi", k >> 10),
            k => format!("{k}Ki"),
        };
        out.insert(name, count * kib * 1024);
    }
    out
}

/// Looks at what is free.
pub fn free(root_dir: &Path) -> Free {
    let fs = nix::sys::statvfs::statvfs(root_dir).ok();
    let pid_max = text("/proc/sys/kernel/pid_max").parse().unwrap_or_default();
    // The fourth field of loadavg: running/all.
    let tasks = text("/proc/loadavg");
    let tasks: u64 = tasks
        .split_whitespace()
        .nth(3)
        .and_then(|field| field.split_once('/'))
        .and_then(|(_, all)| all.parse().ok())
        .unwrap_or_default();
    Free {
        memory_bytes: meminfo(&text("/proc/meminfo"), "MemAvailable"),
        storage_bytes: fs
            .map_or((0, 0), |fs| (fs.blocks_available() * fs.fragment_size(), fs.blocks() * fs.fragment_size())),
        inodes: fs.map_or((0, 0), |fs| (fs.files_available(), fs.files())),
        pids: (u64::saturating_sub(pid_max, tasks), pid_max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        assert_eq!(count_ranges("0-3,5\n"), 5);
        assert_eq!(count_ranges(""), 0);
        assert_eq!(meminfo("MemTotal:       2048 kB\nMemFree: 1 kB\n", "MemTotal"), 2 << 20);
        assert_eq!(os_release("A=1\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        let machine = Machine::detect(Path::new("/"));
        assert!(machine.cpus > 0 && machine.memory_bytes > 0 && !machine.info.kernel_version.is_empty());
    }
}
