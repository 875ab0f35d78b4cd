//! What may be said of a pod (upstream's `ValidatePodStatusUpdate`).

use serde_json::Value;

use super::super::at::At;
use super::super::read::{is_set, items, items_mut, number, optional_number, optional_text, remove, replace, text};
use super::super::report::Report;
use super::super::spec::options::Options;
use super::super::spec::{annotations, defaults};
use super::qos;
use crate::addresses;
use crate::object::Object;

/// Keeps everything but the status and what a node may write beside it.
pub(super) fn prepare(object: &mut Object, old: &Object) {
    replace(object, old, "spec");
    if let Some(metadata) = object.get_mut("metadata") {
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "ownerReferences"] {
            replace(metadata, &old["metadata"], field);
        }
    }
    let class = match text(&old["status"], "qosClass") {
        "" => qos::class(&old["spec"]),
        class => class,
    };
    let class = class.to_owned();
    let status = crate::object::map_mut(object, "status");
    if status.get("qosClass").and_then(Value::as_str).unwrap_or_default().is_empty() {
        status.insert("qosClass".to_owned(), class.into());
    }
    let status = &mut object["status"];
    let before = &old["status"];
    if number(status, "observedGeneration") == 0 {
        replace(status, before, "observedGeneration");
    }
    for condition in items_mut(status, "conditions") {
        let kind = text(condition, "type").to_owned();
        if number(condition, "observedGeneration") == 0
            && let Some(old) = items(before, "conditions").iter().find(|old| text(old, "type") == kind)
        {
            replace(condition, old, "observedGeneration");
        }
    }
    let (old_ip, new_ip) = (text(before, "podIP"), text(status, "podIP").to_owned());
    let first = text(&status["podIPs"][0], "ip").to_owned();
    if new_ip.is_empty() && !old_ip.is_empty() && first == old_ip {
        // Cleared by a client that knows only `podIP`.
        remove(status, "podIPs");
    }
    defaults::addresses(status);
}

/// Adds what is wrong with a pod's status.
pub(super) fn check(pod: &Value, old: &Value, options: &Options, report: &mut Report) {
    annotations::check_update(pod, old, &At::root("metadata").field("annotations"), options, report);
    let (spec, status, before, at) = (&pod["spec"], &pod["status"], &old["status"], At::root("status"));
    conditions(status, &at.field("conditions"), report);
    nominated_node(pod, old, &at.field("nominatedNodeName"), report);
    if number(status, "observedGeneration") < 0 {
        let detail = "must be a non-negative integer";
        report.invalid(&at.field("observedGeneration"), number(status, "observedGeneration"), detail);
    }
    let class = text(before, "qosClass");
    if !class.is_empty() && text(status, "qosClass") != class {
        report.invalid(&at.field("qosClass"), text(status, "qosClass"), "field is immutable");
    }
    let rules = || items(spec, "containers").iter().chain(items(spec, "initContainers"));
    let restarts_all = rules().any(|container| {
        items(container, "restartPolicyRules").iter().any(|rule| text(rule, "action") == "RestartAllContainers")
    });
    if !restarts_all {
        for (field, containers) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
            transitions(status, before, spec, field, containers, &at.field(field), report);
        }
    }
    transitions_of_finished(
        status,
        before,
        "ephemeralContainerStatuses",
        &at.field("ephemeralContainerStatuses"),
        report,
    );
    claims(status, spec, &at.field("resourceClaimStatuses"), report);
    ips(status, before, &at, report);
    for field in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        users(status, spec, field, &at.field(field), report);
    }
}

fn conditions(status: &Value, at: &At<'_>, report: &mut Report) {
    for (index, condition) in items(status, "conditions").iter().enumerate() {
        let at = at.index(index);
        let generation = number(condition, "observedGeneration");
        if generation < 0 {
            report.invalid(&at.field("observedGeneration"), generation, "must be a non-negative integer");
        }
        let kind = text(condition, "type");
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            report.qualified_name(&at.field("Type"), kind);
        }
    }
}

fn nominated_node(pod: &Value, old: &Value, at: &At<'_>, report: &mut Report) {
    let (name, old_name) = (text(&pod["status"], "nominatedNodeName"), text(&old["status"], "nominatedNodeName"));
    if !name.is_empty() {
        report.dns_subdomain(at, name);
        if name != old_name && !text(&old["spec"], "nodeName").is_empty() {
            report.forbidden(at, "may not be set on pods that are already bound to a node");
        }
    }
}

/// A container that won't be restarted stays terminated.
fn transitions(
    status: &Value,
    before: &Value,
    spec: &Value,
    field: &str,
    containers: &str,
    at: &At<'_>,
    report: &mut Report,
) {
    let pod_policy = text(spec, "restartPolicy");
    if pod_policy == "Always" {
        return;
    }
    for old in items(before, field) {
        let Some(terminated) = old["state"].get("terminated").filter(|state| !state.is_null()) else { continue };
        let name = text(old, "name");
        let exit_code = number(terminated, "exitCode");
        let container = items(spec, containers).iter().find(|container| text(container, "name") == name);
        let may_restart = container.is_some_and(|container| may_restart(container, pod_policy, containers, exit_code));
        if may_restart
            || (containers == "containers" && exit_code != 0 && container.is_none() && pod_policy == "OnFailure")
        {
            continue;
        }
        not_restarted(status, name, field, at, report);
    }
}

fn may_restart(container: &Value, pod_policy: &str, list: &str, exit_code: i64) -> bool {
    for rule in items(container, "restartPolicyRules") {
        let codes = &rule["exitCodes"];
        let listed = items(codes, "values").iter().any(|value| value.as_i64() == Some(exit_code));
        let matches = match text(codes, "operator") {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        if matches && text(rule, "action") == "Restart" {
            return true;
        }
    }
    let policy = optional_text(container, "restartPolicy").unwrap_or(match list {
        // Init containers are run again until they succeed, unless the pod is never restarted.
        "initContainers" if pod_policy == "Always" => "OnFailure",
        _ => pod_policy,
    });
    match policy {
        "Always" => true,
        "OnFailure" => exit_code != 0,
        _ => false,
    }
}

fn not_restarted(status: &Value, name: &str, field: &str, at: &At<'_>, report: &mut Report) {
    for (index, new) in items(status, field).iter().enumerate() {
        if text(new, "name") == name && !is_set(&new["state"], "terminated") {
            report.forbidden(&at.index(index).field("state"), "may not be transitioned to non-terminated state");
        }
    }
}

fn transitions_of_finished(status: &Value, before: &Value, field: &str, at: &At<'_>, report: &mut Report) {
    for old in items(before, field).iter().filter(|old| is_set(&old["state"], "terminated")) {
        not_restarted(status, text(old, "name"), field, at, report);
    }
}

fn claims(status: &Value, spec: &Value, at: &At<'_>, report: &mut Report) {
    let claims = items(status, "resourceClaimStatuses");
    for (index, claim) in claims.iter().enumerate() {
        let (name, at) = (text(claim, "name"), at.index(index));
        if !items(spec, "resourceClaims").iter().any(|known| text(known, "name") == name) {
            report.invalid(&at.field("name"), name, "must match the name of an entry in `spec.resourceClaims`");
        } else if claims[..index].iter().any(|other| text(other, "name") == name) {
            report.duplicate(&at.field("name"), name);
        }
        if let Some(generated) = optional_text(claim, "resourceClaimName") {
            report.dns_subdomain(&at.field("name"), generated);
        }
    }
}

fn ips(status: &Value, before: &Value, at: &At<'_>, report: &mut Report) {
    for (field, first_must_be) in [("podIPs", None), ("hostIPs", Some("hostIP"))] {
        let old: Vec<&str> = items(before, field).iter().map(|entry| text(entry, "ip")).collect();
        let (list, list_at) = (items(status, field), at.field(field));
        if let (Some(single), Some(first)) = (first_must_be, list.first())
            && text(first, "ip") != text(status, single)
        {
            let detail = format!("must be equal to `{single}`");
            report.invalid(&list_at.index(0).field("ip"), text(first, "ip"), detail);
        }
        let addresses: Vec<&str> = list.iter().map(|entry| text(entry, "ip")).collect();
        for (index, address) in addresses.iter().enumerate() {
            report.legacy_ip(&list_at.index(index), address, &old);
        }
        if addresses.len() < 2 {
            continue;
        }
        let is_v6: Vec<bool> =
            addresses.iter().filter_map(|address| addresses::parse_ip_sloppy(address)).map(|ip| ip.is_ipv6()).collect();
        let dual = is_v6.len() == addresses.len() && is_v6.contains(&true) && is_v6.contains(&false);
        if !dual || addresses.len() > 2 {
            let detail = "may specify no more than one IP for each IP family";
            report.invalid(&list_at, Value::from(list.to_vec()), detail);
        }
        for (index, address) in addresses.iter().enumerate() {
            if addresses[..index].contains(address) {
                report.duplicate(&list_at.index(index), *address);
            }
        }
    }
}

fn users(status: &Value, spec: &Value, field: &str, at: &At<'_>, report: &mut Report) {
    let is_windows = text(&spec["os"], "name") == "windows";
    for (index, container) in items(status, field).iter().enumerate() {
        let (linux, at) = (&container["user"]["linux"], at.index(index));
        if linux.is_null() {
            continue;
        }
        let linux_at = at.field("linux");
        if is_windows {
            report.forbidden(&linux_at, "cannot be set for a windows pod");
            continue;
        }
        report.user_or_group_id(&linux_at.field("uid"), optional_number(linux, "uid"));
        report.user_or_group_id(&linux_at.field("gid"), optional_number(linux, "gid"));
        let groups_at = linux_at.field("supplementalGroups");
        for (index, group) in items(linux, "supplementalGroups").iter().enumerate() {
            report.user_or_group_id(&groups_at.index(index), group.as_i64());
        }
    }
}
