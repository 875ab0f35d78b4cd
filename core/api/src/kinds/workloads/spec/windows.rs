//! What concerns pods on Windows nodes: their options, and what they can't have; `spec.os` with it.

use serde_json::Value;

use super::super::at::At;
use super::super::read::{flag, is_set, items, optional_flag, optional_text, text};
use super::super::report::Report;
use crate::names;

/// Largest credential spec in KiB; longest domain and name of a user, in characters.
const CREDENTIAL_SPEC_KIB_MAX: usize = 64;
const DOMAIN_LENGTH_END: usize = 256;
const USER_LENGTH_MAX: usize = 104;

/// `windowsOptions` of a security context.
pub(super) fn options(options: &Value, at: &At<'_>, report: &mut Report) {
    if let Some(name) = optional_text(options, "gmsaCredentialSpecName") {
        report.problems(&at.field("gmsaCredentialSpecName"), name, names::dns1123_subdomain(name));
    }
    if let Some(spec) = optional_text(options, "gmsaCredentialSpec") {
        let at = at.field("gmsaCredentialSpec");
        if spec.is_empty() {
            report.invalid(&at, spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > CREDENTIAL_SPEC_KIB_MAX * 1024 {
            let detail = format!("gmsaCredentialSpec size must be under {CREDENTIAL_SPEC_KIB_MAX} KiB");
            report.invalid(&at, spec, detail);
        }
    }
    if let Some(name) = optional_text(options, "runAsUserName") {
        user_name(name, &at.field("runAsUserName"), report);
    }
}

fn is_net_bios(domain: &str) -> bool {
    let length = domain.chars().count();
    (1..=15).contains(&length) && !domain.starts_with('.') && !domain.chars().any(|c| "\\/:*?\"<>|".contains(c))
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes[0].is_ascii_alphanumeric()
            && bytes[bytes.len() - 1].is_ascii_alphanumeric()
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    })
}

fn user_name(name: &str, at: &At<'_>, report: &mut Report) {
    let parts: Vec<&str> = name.split('\\').collect();
    if name.is_empty() {
        return report.invalid(at, name, "runAsUserName cannot be an empty string");
    }
    if name.bytes().any(|byte| byte.is_ascii_control()) {
        return report.invalid(at, name, "runAsUserName cannot contain control characters");
    }
    let (domain, user) = match parts.as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return report.invalid(at, name, "runAsUserName cannot contain more than one backslash"),
    };
    if let Some(domain) = domain {
        if domain.len() >= DOMAIN_LENGTH_END {
            let detail = format!("runAsUserName's Domain length must be under {DOMAIN_LENGTH_END} characters");
            report.invalid(at, name, detail);
        }
        if !is_net_bios(domain) && !is_dns(domain) {
            report.invalid(at, name, "runAsUserName's Domain doesn't match the NetBios nor the DNS format");
        }
    }
    if user.is_empty() {
        report.invalid(at, name, "runAsUserName's User cannot be empty");
    } else if user.len() > USER_LENGTH_MAX {
        let detail = format!("runAsUserName's User length must not be longer than {USER_LENGTH_MAX} characters");
        report.invalid(at, name, detail);
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        report.invalid(at, name, "runAsUserName's User cannot contain only periods or spaces");
    }
    if user.chars().any(|c| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        let detail = "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]";
        report.invalid(at, name, detail);
    }
}

/// Containers that run as processes of the host: all of a pod or none.
pub(super) fn host_processes(spec: &Value, at: &At<'_>, report: &mut Report) {
    let of = |context: &Value| optional_flag(&context["windowsOptions"], "hostProcess");
    let pod = of(&spec["securityContext"]);
    let (mut all, mut on_host) = (0, 0);
    super::visit_containers(spec, at, &mut |container, at| {
        all += 1;
        let own = of(&container["securityContext"]);
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            let context_at = at.field("securityContext");
            let options_at = context_at.field("windowsOptions");
            let detail = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            report.invalid(&options_at.field("hostProcess"), own, detail);
        }
        if own.or(pod) == Some(true) {
            on_host += 1;
        }
    });
    if on_host == 0 {
        return;
    }
    if on_host != all {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        report.invalid(at, "", detail);
    }
    if !flag(spec, "hostNetwork") {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        report.invalid(&at.field("hostNetwork"), false, detail);
    }
}

/// `spec.os`, and what a pod of that system can't have.
pub(super) fn system(spec: &Value, at: &At<'_>, report: &mut Report) {
    if spec["os"].is_null() {
        return;
    }
    let os_at = at.field("os");
    match text(&spec["os"], "name") {
        "" => report.required(&os_at.field("name"), "cannot be empty"),
        "linux" => linux(spec, at, report),
        "windows" => windows(spec, at, report),
        other => report.not_supported(&os_at, other, &["linux", "windows"]),
    }
}

fn linux(spec: &Value, at: &At<'_>, report: &mut Report) {
    let detail = "windows options cannot be set for a linux pod";
    if is_set(&spec["securityContext"], "windowsOptions") {
        report.forbidden(&at.field("securityContext").field("windowsOptions"), detail);
    }
    super::visit_containers(spec, at, &mut |container, at| {
        if is_set(&container["securityContext"], "windowsOptions") {
            report.forbidden(&at.field("securityContext").field("windowsOptions"), detail);
        }
    });
}

fn windows(spec: &Value, at: &At<'_>, report: &mut Report) {
    let detail = "cannot be set for a windows pod";
    let context = &spec["securityContext"];
    let context_at = at.field("securityContext");
    for field in ["appArmorProfile", "seLinuxOptions"] {
        if is_set(context, field) {
            report.forbidden(&context_at.field(field), detail);
        }
    }
    if is_set(spec, "hostUsers") {
        report.forbidden(&at.field("hostUsers"), detail);
    }
    for field in ["hostPID", "hostIPC"] {
        if flag(spec, field) {
            report.forbidden(&at.field(field), detail);
        }
    }
    for field in ["seccompProfile", "fsGroup", "fsGroupChangePolicy"] {
        if is_set(context, field) {
            report.forbidden(&context_at.field(field), detail);
        }
    }
    if !items(context, "sysctls").is_empty() {
        report.forbidden(&context_at.field("sysctls"), detail);
    }
    if is_set(spec, "shareProcessNamespace") {
        report.forbidden(&at.field("shareProcessNamespace"), detail);
    }
    for field in ["runAsUser", "runAsGroup", "supplementalGroups", "supplementalGroupsPolicy", "seLinuxChangePolicy"] {
        if is_set(context, field) {
            report.forbidden(&context_at.field(field), detail);
        }
    }
    super::visit_containers(spec, at, &mut |container, at| {
        let (context, context_at) = (&container["securityContext"], at.field("securityContext"));
        for field in [
            "appArmorProfile",
            "seLinuxOptions",
            "seccompProfile",
            "capabilities",
            "readOnlyRootFilesystem",
            "privileged",
            "allowPrivilegeEscalation",
            "procMount",
            "runAsUser",
            "runAsGroup",
        ] {
            if is_set(context, field) {
                report.forbidden(&context_at.field(field), detail);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_are_checked() {
        let cases: &[(&str, &[&str])] = &[
            ("ContainerUser", &[]),
            ("NT AUTHORITY\\NETWORK SERVICE", &[]),
            ("", &["runAsUserName cannot be an empty string"]),
            ("a\\b\\c", &["runAsUserName cannot contain more than one backslash"]),
            (
                ".x\\",
                &[
                    "runAsUserName's Domain doesn't match the NetBios nor the DNS format",
                    "runAsUserName's User cannot be empty",
                ],
            ),
            ("..", &["runAsUserName's User cannot contain only periods or spaces"]),
        ];
        for (name, expect) in cases {
            let mut report = Report::default();
            user_name(name, &At::root("u"), &mut report);
            let details: Vec<String> = report.into_errors().into_iter().map(|error| error.detail).collect();
            assert_eq!(details, *expect, "{name}");
        }
    }
}
