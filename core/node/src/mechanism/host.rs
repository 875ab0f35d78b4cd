//! Facts of this host, and specifications as this host can run them.

use gantry_plugin_host::capability::Stdio;
use gantry_plugin_host::contract::runtime::HostFacts;
use oci_spec::runtime::{LinuxCapabilities, LinuxIdMapping, LinuxNamespaceType, Process, Spec};

use super::protocol::ShimConfig;

/// Names of the capabilities, by number; linux/capability.h.
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Reads the facts.
pub fn facts(cgroup_version: u8) -> HostFacts {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = capabilities(&status);
    let may_raise_limits = capabilities.iter().any(|name| name == "CAP_SYS_RESOURCE");
    let own_score = std::fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|t| t.trim().parse().ok());
    let apparmor = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    HostFacts {
        cgroup_version,
        architecture: std::env::consts::ARCH.to_owned(),
        seccomp: std::path::Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
        apparmor: apparmor.starts_with('Y'),
        capabilities,
        oom_score_adj_floor: if may_raise_limits { -1000 } else { own_score.unwrap_or(0) },
        may_raise_limits,
    }
}

/// What a container can be given: what this process holds and may hand on.
fn capabilities(status: &str) -> Vec<String> {
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        u64::from_str_radix(line.trim(), 16).unwrap_or(0)
    };
    let held = set("CapPrm:") & set("CapBnd:");
    CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(bit, _)| held & (1 << bit) != 0)
        .map(|(_, &name)| name.to_owned())
        .collect()
}

/// A specification for this host, and what the shim is to know.
pub struct Adapted {
    pub spec: Spec,
    pub shim: ShimConfig,
}

/// Takes out of a specification what this host refuses and what the low-level runtime would do otherwise than runc.
/// `home` finds a user's home folder in the container's root filesystem.
pub fn adapt(
    mut spec: Spec,
    id: &str,
    stdio: &Stdio,
    facts: &HostFacts,
    home: &dyn Fn(u32) -> Option<String>,
) -> Adapted {
    let mut oom_score_adj = None;
    let mut user = 0;
    if let Some(process) = spec.process_mut() {
        oom_score_adj = process.oom_score_adj();
        user = process.user().uid();
        // The runtime would set the shim's own; the shim sets the container's.
        process.set_oom_score_adj(None);
        process.set_terminal(Some(stdio.tty));
        adapt_process(process, facts, home);
    }
    let mut own_pid_namespace = false;
    let mut cgroup_path = format!("/gantry/{id}");
    if let Some(linux) = spec.linux_mut() {
        let namespaces = linux.namespaces().as_deref().unwrap_or_default();
        own_pid_namespace = namespaces.iter().any(|n| n.typ() == LinuxNamespaceType::Pid && n.path().is_none());
        user = host_id(linux.uid_mappings().as_deref().unwrap_or_default(), user);
        if let Some(path) = linux.cgroups_path() {
            cgroup_path = format!("/{}", path.to_string_lossy().trim_matches('/'));
        }
        // Absolute, it means the cgroup file system whatever the host's init is.
        linux.set_cgroups_path(Some(cgroup_path.clone().into()));
    }
    let shim = ShimConfig {
        id: id.to_owned(),
        log_path: stdio.log_path.as_ref().map(Into::into),
        stdin: stdio.stdin,
        stdin_once: stdio.stdin_once,
        tty: stdio.tty,
        oom_score_adj,
        stream_owner: user,
        cgroup_path,
        own_pid_namespace,
        log_limit_bytes: 0,
    };
    Adapted { spec, shim }
}

/// The same for one process, of a container or run in it.
pub fn adapt_process(process: &mut Process, facts: &HostFacts, home: &dyn Fn(u32) -> Option<String>) {
    // The runtime takes "false" for a reason to load the filter when it may not any more.
    if process.no_new_privileges() == Some(false) {
        process.set_no_new_privileges(None);
    }
    if !facts.may_raise_limits
        && let Some(mut limits) = process.rlimits().clone()
    {
        limits.retain(|limit| {
            let hard =
                nix_resource(limit.typ()).and_then(|r| nix::sys::resource::getrlimit(r).ok()).map(|(_, hard)| hard);
            hard.is_none_or(|hard| limit.hard() <= hard)
        });
        process.set_rlimits(Some(limits).filter(|limits| !limits.is_empty()));
    }
    if let Some(mut capabilities) = process.capabilities().clone() {
        retain_held(&mut capabilities, facts);
        process.set_capabilities(Some(capabilities));
    }
    let uid = process.user().uid();
    let environment = process.env_mut().get_or_insert_default();
    if !environment.iter().any(|variable| variable.strip_prefix("HOME=").is_some_and(|home| !home.is_empty())) {
        environment.retain(|variable| !variable.starts_with("HOME="));
        environment.push(format!("HOME={}", home(uid).unwrap_or_else(|| "/".to_owned())));
    }
}

fn retain_held(capabilities: &mut LinuxCapabilities, facts: &HostFacts) {
    let keep = |set: &Option<oci_spec::runtime::Capabilities>| {
        set.as_ref().map(|set| {
            let held = |c: &&oci_spec::runtime::Capability| {
                let name = c.to_string().to_uppercase();
                let name = if name.starts_with("CAP_") { name } else { format!("CAP_{name}") };
                facts.capabilities.contains(&name)
            };
            set.iter().filter(held).copied().collect::<oci_spec::runtime::Capabilities>()
        })
    };
    let (bounding, effective, inheritable, permitted, ambient) = (
        keep(capabilities.bounding()),
        keep(capabilities.effective()),
        keep(capabilities.inheritable()),
        keep(capabilities.permitted()),
        keep(capabilities.ambient()),
    );
    capabilities
        .set_bounding(bounding)
        .set_effective(effective)
        .set_inheritable(inheritable)
        .set_permitted(permitted)
        .set_ambient(ambient);
}

/// The user on the host that a container's user is.
fn host_id(mappings: &[LinuxIdMapping], id: u32) -> u32 {
    if mappings.is_empty() {
        return id;
    }
    let range = mappings.iter().find(|m| id >= m.container_id() && id - m.container_id() < m.size());
    range.map_or(id, |m| m.host_id() + (id - m.container_id()))
}

fn nix_resource(kind: oci_spec::runtime::PosixRlimitType) -> Option<nix::sys::resource::Resource> {
    use nix::sys::resource::Resource as R;
    use oci_spec::runtime::PosixRlimitType as T;
    Some(match kind {
        T::RlimitCpu => R::RLIMIT_CPU,
        T::RlimitFsize => R::RLIMIT_FSIZE,
        T::RlimitData => R::RLIMIT_DATA,
        T::RlimitStack => R::RLIMIT_STACK,
        T::RlimitCore => R::RLIMIT_CORE,
        T::RlimitRss => R::RLIMIT_RSS,
        T::RlimitNproc => R::RLIMIT_NPROC,
        T::RlimitNofile => R::RLIMIT_NOFILE,
        T::RlimitMemlock => R::RLIMIT_MEMLOCK,
        T::RlimitAs => R::RLIMIT_AS,
        T::RlimitLocks => R::RLIMIT_LOCKS,
        T::RlimitSigpending => R::RLIMIT_SIGPENDING,
        T::RlimitMsgqueue => R::RLIMIT_MSGQUEUE,
        T::RlimitNice => R::RLIMIT_NICE,
        T::RlimitRtprio => R::RLIMIT_RTPRIO,
        T::RlimitRttime => R::RLIMIT_RTTIME,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(may_raise_limits: bool) -> HostFacts {
        HostFacts {
            cgroup_version: 1,
            architecture: "x86_64".into(),
            seccomp: true,
            apparmor: false,
            capabilities: vec!["CAP_CHOWN".into(), "CAP_NET_RAW".into()],
            oom_score_adj_floor: 0,
            may_raise_limits,
        }
    }

    fn adapted(spec: serde_json::Value, tty: bool) -> (serde_json::Value, ShimConfig) {
        let stdio = Stdio { log_path: Some("/log".into()), stdin: true, stdin_once: false, tty };
        let spec = serde_json::from_value(spec).unwrap();
        let home = |uid| (uid == 7).then(|| "/home/seven".to_owned());
        let adapted = adapt(spec, "c", &stdio, &facts(false), &home);
        (serde_json::to_value(adapted.spec).unwrap(), adapted.shim)
    }

    #[test]
    fn what_changes() {
        let (spec, shim) = adapted(
            serde_json::json!({
                "ociVersion": "1.2.0",
                "root": {"path": "/r"},
                "process": {
                    "user": {"uid": 7, "gid": 0}, "cwd": "/", "args": ["a"], "noNewPrivileges": false,
                    "oomScoreAdj": -997, "env": ["PATH=/bin"],
                    "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": u64::MAX - 1}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
                    "capabilities": {"bounding": ["CAP_CHOWN", "CAP_SYS_TIME"]}
                },
                "linux": {
                    "cgroupsPath": "pods/c", "namespaces": [{"type": "pid"}],
                    "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}]
                }
            }),
            true,
        );
        let process = &spec["process"];
        assert_eq!(process["terminal"], true);
        assert_eq!(process.get("noNewPrivileges"), None);
        assert_eq!(process.get("oomScoreAdj"), None);
        assert_eq!(process["env"], serde_json::json!(["PATH=/bin", "HOME=/home/seven"]));
        assert_eq!(process["rlimits"].as_array().unwrap().len(), 1);
        assert_eq!(process["capabilities"]["bounding"], serde_json::json!(["CAP_CHOWN"]));
        assert_eq!(spec["linux"]["cgroupsPath"], "/pods/c");
        assert_eq!(shim.oom_score_adj, Some(-997));
        assert_eq!(shim.stream_owner, 1007);
        assert!(shim.own_pid_namespace && shim.tty && shim.stdin);
    }

    #[test]
    fn capabilities_by_name() {
        let status = "CapInh:\t0000000000000000\nCapPrm:\t000001fffeffffff\nCapBnd:\t0000000000002021\n";
        assert_eq!(capabilities(status), ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"]);
    }
}
