//! Folders and files of a cgroup hierarchy, version 1 or 2.

use std::fs;
use std::path::{Path, PathBuf};

use gantry_plugin_host::contract::runtime::Resources;

/// Controllers of version 1 in which pods have a cgroup, where mounted.
const CONTROLLERS: [&str; 10] =
    ["cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "devices", "freezer", "hugetlb", "perf_event"];
/// Controllers of version 2 that are handed down to pods.
const HANDED_DOWN: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

/// Where the cgroup file systems are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// A folder for each controller.
    V1(Vec<(String, PathBuf)>),
    /// One folder for all.
    V2(PathBuf),
}

impl Hierarchy {
    /// What is mounted below `/sys/fs/cgroup`.
    pub fn detect() -> Self {
        let root = Path::new("/sys/fs/cgroup");
        if root.join("cgroup.controllers").exists() {
            return Self::V2(root.to_owned());
        }
        let mounted = CONTROLLERS
            .iter()
            .map(|name| ((*name).to_owned(), root.join(name)))
            .filter(|(_, path)| super::is_cgroup(path))
            .collect();
        Self::V1(mounted)
    }

    /// 1 or 2.
    pub fn version(&self) -> u8 {
        match self {
            Self::V1(_) => 1,
            Self::V2(_) => 2,
        }
    }

    fn folders(&self, path: &str) -> Vec<PathBuf> {
        match self {
            Self::V1(controllers) => controllers.iter().map(|(_, root)| root.join(path)).collect(),
            Self::V2(root) => vec![root.join(path)],
        }
    }

    /// Makes a cgroup and those above it.
    pub fn create(&self, path: &str) {
        match self {
            Self::V1(controllers) => {
                for (name, root) in controllers {
                    let folder = root.join(path);
                    if let Err(error) = fs::create_dir_all(&folder) {
                        tracing::debug!(path = %folder.display(), %error, "cgroup not made");
                        continue;
                    }
                    if name == "cpuset" {
                        inherit_cpuset(root, path);
                    }
                }
            }
            Self::V2(root) => {
                let folder = root.join(path);
                if let Err(error) = fs::create_dir_all(&folder) {
                    tracing::debug!(path = %folder.display(), %error, "cgroup not made");
                    return;
                }
                let mut above = root.clone();
                for part in Path::new(path).iter() {
                    for controller in HANDED_DOWN {
                        put(&above.join("cgroup.subtree_control"), &format!("+{controller}"));
                    }
                    above.push(part);
                }
                // Containers below need them, too.
                for controller in HANDED_DOWN {
                    put(&above.join("cgroup.subtree_control"), &format!("+{controller}"));
                }
            }
        }
    }

    /// Writes limits.
    pub fn apply(&self, path: &str, limits: &Resources) {
        for (controller, file, value) in self.settings(limits) {
            let folder = match self {
                Self::V1(controllers) => match controllers.iter().find(|(name, _)| name == controller) {
                    Some((_, root)) => root.join(path),
                    None => continue,
                },
                Self::V2(root) => root.join(path),
            };
            put(&folder.join(file), &value);
        }
    }

    /// Limits as controllers, files and values.
    fn settings(&self, limits: &Resources) -> Vec<(&'static str, &'static str, String)> {
        let mut out = Vec::new();
        let max = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
        match self {
            Self::V1(_) => {
                if let Some(shares) = limits.cpu_shares {
                    out.push(("cpu", "cpu.shares", shares.to_string()));
                }
                if let Some(period) = limits.cpu_period_microseconds {
                    out.push(("cpu", "cpu.cfs_period_us", period.to_string()));
                }
                if let Some(quota) = limits.cpu_quota_microseconds {
                    out.push(("cpu", "cpu.cfs_quota_us", quota.to_string()));
                }
                if let Some(bytes) = limits.memory_limit_bytes {
                    out.push(("memory", "memory.limit_in_bytes", bytes.to_string()));
                }
                if let Some(pids) = limits.pids_limit {
                    out.push(("pids", "pids.max", max(pids)));
                }
            }
            Self::V2(_) => {
                if let Some(shares) = limits.cpu_shares {
                    out.push(("cpu", "cpu.weight", cpu_weight(shares).to_string()));
                }
                if let (Some(quota), Some(period)) = (limits.cpu_quota_microseconds, limits.cpu_period_microseconds) {
                    out.push(("cpu", "cpu.max", format!("{} {period}", max(quota))));
                }
                if let Some(bytes) = limits.memory_limit_bytes {
                    out.push(("memory", "memory.max", max(bytes)));
                }
                if let Some(pids) = limits.pids_limit {
                    out.push(("pids", "pids.max", max(pids)));
                }
            }
        }
        out
    }

    /// Names of the cgroups in one.
    pub fn children(&self, path: &str) -> Vec<String> {
        let mut names: Vec<String> = self.folders(path).iter().flat_map(|folder| subfolders(folder)).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Removes a cgroup and those in it; one with processes stays.
    pub fn remove(&self, path: &str) {
        for folder in self.folders(path) {
            remove_tree(&folder);
        }
    }
}

/// The weight of version 2 for shares of version 1 (KEP-2254's formula).
fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// An empty cpuset takes no processes: it starts as its parent's.
fn inherit_cpuset(root: &Path, path: &str) {
    let mut folder = root.to_owned();
    for part in Path::new(path).iter() {
        let parent = folder.clone();
        folder.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = fs::read_to_string(folder.join(file)).unwrap_or_default();
            if own.trim().is_empty()
                && let Ok(value) = fs::read_to_string(parent.join(file))
            {
                put(&folder.join(file), value.trim());
            }
        }
    }
}

fn put(file: &Path, value: &str) {
    if let Err(error) = fs::write(file, value) {
        tracing::debug!(file = %file.display(), value, %error, "cgroup setting refused");
    }
}

fn subfolders(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn remove_tree(folder: &Path) {
    for child in subfolders(folder) {
        remove_tree(&folder.join(child));
    }
    if let Err(error) = fs::remove_dir(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::debug!(path = %folder.display(), %error, "cgroup not removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Resources {
        Resources {
            cpu_shares: Some(512),
            cpu_quota_microseconds: Some(50_000),
            cpu_period_microseconds: Some(100_000),
            cpuset_cpus: None,
            cpuset_mems: None,
            memory_limit_bytes: Some(1 << 20),
            memory_swap_limit_bytes: None,
            pids_limit: Some(-1),
            hugepage_limits: Vec::new(),
            unified: Vec::new(),
        }
    }

    #[test]
    fn limits_become_files_of_either_version() {
        let show = |hierarchy: Hierarchy| {
            let all = hierarchy.settings(&limits());
            all.iter().map(|(_, file, value)| format!("{file}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            show(Hierarchy::V1(Vec::new())),
            "cpu.shares=512 cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000 memory.limit_in_bytes=1048576 pids.max=max"
        );
        assert_eq!(
            show(Hierarchy::V2(PathBuf::new())),
            "cpu.weight=20 cpu.max=50000 100000 memory.max=1048576 pids.max=max"
        );
    }

    #[test]
    fn cgroups_are_made_listed_and_removed() {
        let root = tempfile::tempdir().expect("a folder");
        let hierarchy = Hierarchy::V2(root.path().to_owned());
        hierarchy.create("kubepods/burstable/podu");
        assert_eq!(hierarchy.children("kubepods/burstable"), ["podu"]);
        // A plain folder keeps its files, which a cgroup's folder does not count.
        let _ = fs::remove_file(root.path().join("kubepods/burstable/podu/cgroup.subtree_control"));
        hierarchy.remove("kubepods/burstable/podu");
        assert_eq!(hierarchy.children("kubepods/burstable"), Vec::<String>::new());
    }

    #[test]
    fn shares_become_weights() {
        for (shares, weight) in [(2, 1), (1024, 39), (262_144, 10_000)] {
            assert_eq!(cpu_weight(shares), weight);
        }
    }
}
