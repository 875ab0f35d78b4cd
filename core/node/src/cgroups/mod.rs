//! The cgroups of pods: `kubepods/{burstable,besteffort}/podUID`, of both versions.
//!
//! The agent makes a pod's cgroup with the pod's limits; the runtime makes those of containers below it. What the
//! kernel or an outer container refuses is logged and gone without, as a pod without a limit is better than none.

mod hierarchy;

use std::path::Path;

use gantry_plugin_host::contract::runtime::Resources;
use k8s_openapi::api::core::v1::Pod;

pub use hierarchy::Hierarchy;

use crate::pod;
use crate::resources::{pod_cgroup_resources, qos_class};

/// The cgroup of all pods.
const ROOT: &str = "kubepods";

/// The cgroups of the node's pods.
#[derive(Clone, Debug)]
pub struct PodCgroups {
    hierarchy: Option<Hierarchy>,
    root: String,
    pids_limit: Option<i64>,
}

impl PodCgroups {
    /// Cgroups below `root` (relative to the root of the hierarchy); with `manage` false none are made.
    pub fn new(root: &str, manage: bool, pids_limit: Option<i64>) -> Self {
        Self::with_hierarchy(root, manage.then(Hierarchy::detect), pids_limit)
    }

    /// The same in a hierarchy of the caller's.
    pub fn with_hierarchy(root: &str, hierarchy: Option<Hierarchy>, pids_limit: Option<i64>) -> Self {
        let root = root.trim_matches('/');
        let root = if root.is_empty() { ROOT.to_owned() } else { format!("{root}/{ROOT}") };
        Self { hierarchy, root, pids_limit }
    }

    /// 1 or 2.
    pub fn version(&self) -> u8 {
        self.hierarchy.as_ref().map_or(2, Hierarchy::version)
    }

    /// A pod's cgroup, relative to the root of the hierarchy.
    pub fn path(&self, pod: &Pod) -> String {
        let uid = pod::uid(pod);
        match qos_class(pod) {
            "Guaranteed" => format!("{}/pod{uid}", self.root),
            "Burstable" => format!("{}/burstable/pod{uid}", self.root),
            _ => format!("{}/besteffort/pod{uid}", self.root),
        }
    }

    /// Makes the cgroups of all pods and of the classes.
    pub fn prepare(&self) {
        let Some(hierarchy) = &self.hierarchy else { return };
        for path in [self.root.clone(), format!("{}/burstable", self.root), format!("{}/besteffort", self.root)] {
            hierarchy.create(&path);
        }
        // Who asks for nothing gets what others leave.
        let least = Resources { cpu_shares: Some(2), ..unlimited() };
        hierarchy.apply(&format!("{}/besteffort", self.root), &least);
    }

    /// Makes or updates a pod's cgroup.
    pub fn ensure(&self, pod: &Pod) {
        let Some(hierarchy) = &self.hierarchy else { return };
        let path = self.path(pod);
        hierarchy.create(&path);
        hierarchy.apply(&path, &pod_cgroup_resources(pod, self.pids_limit));
    }

    /// Sets the processor share of a class to what its pods ask for together, in thousandths.
    pub fn share_burstable(&self, milli: i64) {
        let Some(hierarchy) = &self.hierarchy else { return };
        let shares = Resources { cpu_shares: Some(crate::resources::cpu_shares(milli)), ..unlimited() };
        hierarchy.apply(&format!("{}/burstable", self.root), &shares);
    }

    /// Removes a pod's cgroup and those left in it.
    pub fn remove(&self, pod: &Pod) {
        if let Some(hierarchy) = &self.hierarchy {
            hierarchy.remove(&self.path(pod));
        }
    }

    /// Removes the cgroups of pods that `is_known` does not know.
    pub fn remove_orphans(&self, is_known: impl Fn(&str) -> bool) {
        let Some(hierarchy) = &self.hierarchy else { return };
        for class in [self.root.clone(), format!("{}/burstable", self.root), format!("{}/besteffort", self.root)] {
            for name in hierarchy.children(&class) {
                if let Some(uid) = name.strip_prefix("pod")
                    && !is_known(uid)
                {
                    hierarchy.remove(&format!("{class}/{name}"));
                }
            }
        }
    }
}

fn unlimited() -> Resources {
    Resources {
        cpu_shares: None,
        cpu_quota_microseconds: None,
        cpu_period_microseconds: None,
        cpuset_cpus: None,
        cpuset_mems: None,
        memory_limit_bytes: None,
        memory_swap_limit_bytes: None,
        pids_limit: None,
        hugepage_limits: Vec::new(),
        unified: Vec::new(),
    }
}

/// Whether a path is on a cgroup file system.
pub fn is_cgroup(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|found| {
        let kind = found.filesystem_type();
        kind == nix::sys::statfs::CGROUP_SUPER_MAGIC || kind == nix::sys::statfs::CGROUP2_SUPER_MAGIC
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_gets_a_cgroup_of_this_host_with_its_limits() {
        let name = format!("gantry-test-{:08x}", rand::random::<u32>());
        let cgroups = PodCgroups::new(&name, true, Some(100));
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "64Mi", "cpu": "1"}}}]}}))
        .expect("a pod");
        cgroups.prepare();
        cgroups.ensure(&pod);
        let path = cgroups.path(&pod);
        assert_eq!(path, format!("{name}/kubepods/burstable/podu"));
        let root = Path::new("/sys/fs/cgroup");
        let (memory, shares) = match cgroups.version() {
            1 => (
                root.join("memory").join(&path).join("memory.limit_in_bytes"),
                root.join("cpu").join(&path).join("cpu.shares"),
            ),
            _ => (root.join(&path).join("memory.max"), root.join(&path).join("cpu.weight")),
        };
        let read = |file: &Path| std::fs::read_to_string(file).map(|text| text.trim().to_owned()).ok();
        let found = (read(&memory), read(&shares));
        cgroups.remove_orphans(|_| false);
        let gone = !memory.exists();
        if let Some(hierarchy) = &cgroups.hierarchy {
            hierarchy.remove(&name);
        }
        let shares = if cgroups.version() == 1 { "512" } else { "20" };
        assert_eq!(found, (Some("67108864".to_owned()), Some(shares.to_owned())), "these tests need root");
        assert!(gone);
    }
}
