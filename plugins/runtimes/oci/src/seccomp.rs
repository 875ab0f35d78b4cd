//! The default seccomp profile: what containers may call, and what more with a capability.

use gantry_plugin_sdk::serde_json::{Value, json};

/// System calls that every container may make; one name a line.
const ALLOWED: &str = include_str!("../data/seccomp-allowed.txt");

/// System calls that a capability opens.
const BY_CAPABILITY: &[(&str, &[&str])] = &[
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    (
        "CAP_SYS_ADMIN",
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"]),
    ("CAP_SYS_RAWIO", &["iopl", "ioperm"]),
    ("CAP_SYS_TIME", &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("CAP_SYSLOG", &["syslog"]),
    ("CAP_BPF", &["bpf"]),
    ("CAP_PERFMON", &["perf_event_open"]),
];

const ENOSYS: u32 = 38;
const EPERM: u32 = 1;
/// CLONE_NEW* without CLONE_NEWTIME: a clone without the capability makes no namespaces.
const NEW_NAMESPACES: u64 = 0x7E02_0000;
/// Address families beyond these are a socket's common ones; AF_VSOCK reaches the hypervisor.
const AF_VSOCK: u64 = 40;

/// The profile as an OCI `linux.seccomp` object.
pub fn default(architecture: &str, capabilities: &[String]) -> Value {
    let has = |name: &str| capabilities.iter().any(|held| held == name);
    let mut names: Vec<&str> = ALLOWED.lines().filter(|line| !line.is_empty()).collect();
    let specific: &[&str] = match architecture {
        "x86_64" => &["arch_prctl", "modify_ldt"],
        "aarch64" | "arm" => {
            &["arm_fadvise64_64", "arm_sync_file_range", "breakpoint", "cacheflush", "set_tls", "sync_file_range2"]
        }
        "s390x" => &["s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr"],
        "riscv64" => &["riscv_flush_icache"],
        _ => &[],
    };
    names.extend(specific);
    for (capability, calls) in BY_CAPABILITY {
        if has(capability) {
            names.extend(*calls);
        }
    }
    names.sort_unstable();
    names.dedup();
    let mut rules = vec![json!({ "names": names, "action": "SCMP_ACT_ALLOW" })];
    rules.push(json!({
        "names": ["socket"],
        "action": "SCMP_ACT_ALLOW",
        "args": [{ "index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_NE" }],
    }));
    for value in [0x0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF_u64] {
        rules.push(json!({
            "names": ["personality"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{ "index": 0, "value": value, "op": "SCMP_CMP_EQ" }],
        }));
    }
    if !has("CAP_SYS_ADMIN") {
        // s390 has the flags second.
        let index = if architecture == "s390x" { 1 } else { 0 };
        rules.push(json!({
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{ "index": index, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }],
        }));
        // Its flags lie in memory, where no filter sees them: C libraries then take clone.
        rules.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }));
    }
    let mut profile = json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": EPERM, "syscalls": rules });
    let architectures: &[&str] = match architecture {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "s390x" => &["SCMP_ARCH_S390X", "SCMP_ARCH_S390"],
        "riscv64" => &["SCMP_ARCH_RISCV64"],
        _ => &[],
    };
    if !architectures.is_empty() {
        profile["architectures"] = json!(architectures);
    }
    profile
}
