//! Security contexts of pods and containers.

use std::collections::HashSet;

use serde_json::Value;

use super::super::at::At;
use super::super::internal;
use super::super::read::{flag, items, optional_flag, optional_number, optional_text, text, texts};
use super::super::report::Report;
use super::options::Options;
use super::windows;

/// Longest path of a profile on the node: PATH_MAX less the end.
const PROFILE_BYTES_MAX: usize = 4095;
/// Longest name of a sysctl, in bytes.
const SYSCTL_BYTES_MAX: usize = 253;
const SYSCTL_FORM: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// A container's `securityContext`.
pub(super) fn of_container(context: &Value, in_host_users: bool, at: &At<'_>, report: &mut Report) {
    if context.is_null() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        report.user_or_group_id(&at.field(field), optional_number(context, field));
    }
    if let Some(kind) = optional_text(context, "procMount") {
        let at = at.field("procMount");
        if !matches!(kind, "Default" | "Unmasked") {
            report.not_supported_in_order(&at, kind, &["Default", "Unmasked"]);
        }
        if in_host_users && kind == "Unmasked" {
            report.invalid(&at, kind, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    seccomp(&context["seccompProfile"], &at.field("seccompProfile"), report);
    if optional_flag(context, "allowPrivilegeEscalation") == Some(false) {
        let shown = || internal::shown("SecurityContext", context);
        if flag(context, "privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            report.invalid_shown(at, shown(), detail);
        }
        for _ in texts(&context["capabilities"], "add").filter(|capability| *capability == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            report.invalid_shown(at, shown(), detail);
        }
    }
    windows::options(&context["windowsOptions"], &at.field("windowsOptions"), report);
    app_armor(&context["appArmorProfile"], &at.field("appArmorProfile"), report);
}

/// A pod's `securityContext`.
pub(super) fn of_pod(spec: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    let context = &spec["securityContext"];
    if context.is_null() {
        return;
    }
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        report.user_or_group_id(&at.field(field), optional_number(context, field));
    }
    let groups_at = at.field("supplementalGroups");
    for (index, group) in items(context, "supplementalGroups").iter().enumerate() {
        report.user_or_group_id(&groups_at.index(index), group.as_i64());
    }
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        report.invalid(&at.field("shareProcessNamespace"), true, detail);
    }
    sysctls(spec, &at.field("sysctls"), options, report);
    if let Some(policy) = optional_text(context, "fsGroupChangePolicy") {
        report.one_of(&at.field("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    }
    seccomp(&context["seccompProfile"], &at.field("seccompProfile"), report);
    windows::options(&context["windowsOptions"], &at.field("windowsOptions"), report);
    app_armor(&context["appArmorProfile"], &at.field("appArmorProfile"), report);
    if let Some(policy) = optional_text(context, "supplementalGroupsPolicy") {
        report.one_of(&at.field("supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    }
    if let Some(policy) = optional_text(context, "seLinuxChangePolicy") {
        report.one_of(&at.field("seLinuxChangePolicy"), policy, &["MountOption", "Recursive"]);
    }
}

fn seccomp(profile: &Value, at: &At<'_>, report: &mut Report) {
    if profile.is_null() {
        return;
    }
    let kind = text(profile, "type");
    let types = ["Localhost", "RuntimeDefault", "Unconfined"];
    if kind.is_empty() {
        report.required(&at.field("type"), "type is required when seccompProfile is set");
    } else if !types.contains(&kind) {
        report.not_supported_in_order(&at.field("type"), kind, &types);
    }
    let path_at = at.field("localhostProfile");
    match (kind, optional_text(profile, "localhostProfile")) {
        ("Localhost", None) => report.required(&path_at, "must be set when seccomp type is Localhost"),
        ("Localhost", Some(path)) => report.descending_path(&path_at, path),
        (_, Some(_)) => {
            let shown = internal::shown("SeccompProfile", profile);
            report.invalid_shown(&path_at, shown, "can only be set when seccomp type is Localhost");
        }
        (_, None) => {}
    }
}

/// An AppArmor profile; public to the admission of its annotations.
pub(super) fn app_armor(profile: &Value, at: &At<'_>, report: &mut Report) {
    if profile.is_null() {
        return;
    }
    let name_at = at.field("localhostProfile");
    let name = optional_text(profile, "localhostProfile");
    match text(profile, "type") {
        "Localhost" => {
            let missing = "must be set when AppArmor type is Localhost";
            let Some(name) = name else { return report.required(&name_at, missing) };
            if name.trim() != name {
                report.invalid(&name_at, name, "must not be padded with whitespace");
            } else if name.is_empty() {
                report.required(&name_at, missing);
            }
            if name.len() > PROFILE_BYTES_MAX {
                report.too_long(&name_at, PROFILE_BYTES_MAX);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if let Some(name) = name {
                report.invalid(&name_at, name, "can only be set when AppArmor type is Localhost");
            }
        }
        "" => report.required(&at.field("type"), "type is required when appArmorProfile is set"),
        other => {
            let types = ["Localhost", "RuntimeDefault", "Unconfined"];
            report.not_supported_in_order(&at.field("type"), other, &types);
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let segment = |part: &str| match part.as_bytes() {
        [] => false,
        bytes => {
            edge(bytes[0])
                && edge(bytes[bytes.len() - 1])
                && bytes.iter().all(|byte| edge(*byte) || matches!(byte, b'-' | b'_'))
        }
    };
    name.len() <= SYSCTL_BYTES_MAX && name.split(['.', '/']).all(segment)
}

fn sysctls(spec: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    let mut seen = HashSet::new();
    for (index, sysctl) in items(&spec["securityContext"], "sysctls").iter().enumerate() {
        let item = at.index(index);
        let (name, at) = (text(sysctl, "name"), item.field("name"));
        if name.is_empty() {
            report.required(&at, "");
        } else if !is_sysctl(name) {
            let detail = format!("must have at most {SYSCTL_BYTES_MAX} characters and match regex {SYSCTL_FORM}");
            report.invalid(&at, name, detail);
        } else if seen.contains(name) {
            report.duplicate(&at, name);
        }
        if !options.host_namespace_sysctls
            && let Some(problem) = host_namespace_problem(name, spec)
        {
            report.invalid(&at, name, problem);
        }
        seen.insert(name);
    }
}

/// Why a pod can't set a sysctl: its namespace is the host's.
pub(super) fn host_namespace_problem(sysctl: &str, spec: &Value) -> Option<&'static str> {
    const IPC: [&str; 13] = [
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "fs.mqueue.queues_max",
        "fs.mqueue.msg_max",
        "fs.mqueue.msgsize_max",
        "fs.mqueue.msg_default",
        "fs.mqueue.msgsize_default",
    ];
    // A name may be written with slashes, which then stand for dots and dots for slashes.
    let dotted = match sysctl.find(['.', '/']) {
        Some(index) if sysctl[index..].starts_with('/') => sysctl
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => sysctl.to_owned(),
    };
    if flag(spec, "hostNetwork") && dotted.starts_with("net.") {
        return Some("may not be specified when 'hostNetwork' is true");
    }
    let is_ipc = IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") || dotted.starts_with("kernel.shm");
    (flag(spec, "hostIPC") && is_ipc).then_some("may not be specified when 'hostIPC' is true")
}

/// A pod in a user namespace of its own shares no other namespace with the host (KEP-127).
pub(super) fn host_users(spec: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    if optional_flag(spec, "hostUsers") != Some(false) {
        return;
    }
    let detail = "when `hostUsers` is false";
    if flag(spec, "hostNetwork") && !options.host_network_in_user_namespace {
        report.forbidden(&at.field("hostNetwork"), detail);
    }
    // Upstream spells these two with a capital.
    for (field, name) in [("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if flag(spec, field) {
            report.forbidden(&at.field(name), detail);
        }
    }
    if !options.volume_devices_in_user_namespace {
        super::visit_containers(spec, at, &mut |container, at| {
            if !items(container, "volumeDevices").is_empty() {
                report.forbidden(&at.field("volumeDevices"), detail);
            }
        });
    }
}
