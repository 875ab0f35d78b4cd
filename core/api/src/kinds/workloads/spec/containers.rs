//! Containers of all three sorts: regular ones, init containers with sidecars among them, and ephemeral ones.

use std::collections::HashSet;

use serde_json::Value;

use super::super::at::At;
use super::super::read::{flag, is_set, items, number, optional_flag, optional_text, text};
use super::super::report::Report;
use super::options::Options;
use super::resources::{self, Owner};
use super::volumes::Volumes;
use super::{env, mounts, probes, security};
use crate::names;
use crate::object::is_empty;

/// Most rules about restarts of one container, and most exit codes in one of them.
const RESTART_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];

/// What checks of a container look at beside it.
pub(super) struct Context<'a> {
    /// The pod's spec.
    pub spec: &'a Value,
    /// The volumes that may be mounted.
    pub volumes: &'a Volumes<'a>,
    /// The names of the pod's resource claims.
    pub claims: &'a [&'a str],
    /// What is tolerated.
    pub options: &'a Options,
}

/// `imagePullPolicy`, and that of an image volume.
pub(super) fn pull_policy(policy: &str, at: &At<'_>, report: &mut Report) {
    report.required_one_of(at, policy, &["Always", "IfNotPresent", "Never"]);
}

/// What all sorts of containers share.
fn shared(container: &Value, context: &Context<'_>, at: &At<'_>, report: &mut Report) {
    let name = text(container, "name");
    if name.is_empty() {
        report.required(&at.field("name"), "");
    } else {
        report.dns_label(&at.field("name"), name);
    }
    report.required_text(&at.field("image"), text(container, "image"));
    let policies = ["File", "FallbackToLogsOnError"];
    report.required_one_of(
        &at.field("terminationMessagePolicy"),
        text(container, "terminationMessagePolicy"),
        &policies,
    );
    ports(container, &at.field("ports"), report);
    env::variables(container, &at.field("env"), report);
    env::sources(container, &at.field("envFrom"), report);
    mounts::mounts(container, context.volumes, &at.field("volumeMounts"), report);
    mounts::devices(container, context.volumes, &at.field("volumeDevices"), report);
    pull_policy(text(container, "imagePullPolicy"), &at.field("imagePullPolicy"), report);
    let (resources, resources_at) = (&container["resources"], at.field("resources"));
    resources::requirements(resources, Owner::Container, context.claims, &resources_at, context.options, report);
    resources::resize_policies(container, context.spec, &at.field("resizePolicy"), report);
    let in_host_namespace = optional_flag(context.spec, "hostUsers").unwrap_or(true);
    security::of_container(&container["securityContext"], in_host_namespace, &at.field("securityContext"), report);
}

fn ports(container: &Value, at: &At<'_>, report: &mut Report) {
    let mut seen = HashSet::new();
    for (index, port) in items(container, "ports").iter().enumerate() {
        let at = at.index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            let problems = names::port_name(name);
            if !problems.is_empty() {
                report.problems(&at.field("name"), name, problems);
            } else if !seen.insert(name) {
                report.duplicate(&at.field("name"), name);
            }
        }
        match number(port, "containerPort") {
            0 => report.required(&at.field("containerPort"), ""),
            number => port_number(number, &at.field("containerPort"), report),
        }
        match number(port, "hostPort") {
            0 => {}
            number => port_number(number, &at.field("hostPort"), report),
        }
        let (protocol, protocol_at) = (text(port, "protocol"), at.field("protocol"));
        if protocol.is_empty() {
            report.required(&protocol_at, "");
        } else {
            report.one_of(&protocol_at, protocol, &["SCTP", "TCP", "UDP"]);
        }
    }
}

fn port_number(number: i64, at: &At<'_>, report: &mut Report) {
    for problem in names::port_number(number) {
        report.invalid(at, number, problem);
    }
}

/// Ports of the host that are taken twice.
fn host_port_conflicts(containers: &[Value], at: &At<'_>, report: &mut Report) {
    let mut taken = HashSet::new();
    for (index, container) in containers.iter().enumerate() {
        let item = at.index(index);
        let ports_at = item.field("ports");
        for (index, port) in items(container, "ports").iter().enumerate() {
            let number = number(port, "hostPort");
            if number != 0 {
                let key = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
                if taken.contains(&key) {
                    report.duplicate(&ports_at.index(index).field("hostPort"), key);
                } else {
                    taken.insert(key);
                }
            }
        }
    }
}

/// `spec.containers`.
pub(super) fn regular(context: &Context<'_>, at: &At<'_>, report: &mut Report) {
    let containers = items(context.spec, "containers");
    if containers.is_empty() {
        return report.required(at, "");
    }
    let mut seen = HashSet::new();
    for (index, container) in containers.iter().enumerate() {
        let at = at.index(index);
        shared(container, context, &at, report);
        if !seen.insert(text(container, "name")) {
            report.duplicate(&at.field("name"), text(container, "name"));
        }
        probes::all(container, context.spec, &at, report);
        restart_policy(container, &at, report);
    }
    host_port_conflicts(containers, at, report);
}

/// `restartPolicy` and `restartPolicyRules` (KEP-5307).
fn restart_policy(container: &Value, at: &At<'_>, report: &mut Report) {
    let rules = items(container, "restartPolicyRules");
    match optional_text(container, "restartPolicy") {
        None if rules.is_empty() => return,
        None => report.required(&at.field("restartPolicy"), "must specify restartPolicy when restart rules are used"),
        Some(policy) => report.one_of(&at.field("restartPolicy"), policy, &RESTART_POLICIES),
    }
    let rules_at = at.field("restartPolicyRules");
    if rules.len() > RESTART_RULES_MAX {
        report.too_many(&rules_at, rules.len(), RESTART_RULES_MAX);
    }
    for (index, rule) in rules.iter().enumerate() {
        let at = rules_at.index(index);
        report.one_of(&at.field("action"), text(rule, "action"), &["Restart", "RestartAllContainers"]);
        let (codes, codes_at) = (&rule["exitCodes"], at.field("exitCodes"));
        if codes.is_null() {
            report.required(&codes_at, "must be specified");
            continue;
        }
        report.one_of(&codes_at.field("operator"), text(codes, "operator"), &["In", "NotIn"]);
        let values = items(codes, "values").len();
        if values > EXIT_CODES_MAX {
            report.too_many(&codes_at.field("values"), values, EXIT_CODES_MAX);
        }
    }
}

/// `spec.initContainers`.
pub(super) fn init(context: &Context<'_>, at: &At<'_>, report: &mut Report) {
    let mut seen: HashSet<&str> = items(context.spec, "containers").iter().map(|other| text(other, "name")).collect();
    for (index, container) in items(context.spec, "initContainers").iter().enumerate() {
        let item = at.index(index);
        shared(container, context, &item, report);
        restart_policy(container, &item, report);
        let name = text(container, "name");
        if seen.contains(name) {
            report.duplicate(&item.field("name"), name);
        } else if !name.is_empty() {
            seen.insert(name);
        }
        // Init containers run one by one, so that each is checked alone; upstream names the first.
        host_port_conflicts(std::slice::from_ref(container), at, report);
        let is_sidecar = text(container, "restartPolicy") == "Always";
        if is_sidecar {
            probes::all(container, context.spec, &item, report);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if is_set(container, field) {
                    let detail = "may not be set for init containers without restartPolicy=Always";
                    report.forbidden(&item.field(field), detail);
                }
            }
        }
        if !is_sidecar && !context.options.restart_on_resize_of_init_containers {
            let policies_at = item.field("resizePolicy");
            for (index, policy) in items(container, "resizePolicy").iter().enumerate() {
                if text(policy, "restartPolicy") == "RestartContainer" {
                    let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                    report.invalid(&policies_at.index(index).field("restartPolicy"), "RestartContainer", detail);
                }
            }
        }
    }
}

/// Fields that an ephemeral container can't have, in the order of Go's struct.
const NOT_EPHEMERAL: [&str; 9] = [
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

/// `spec.ephemeralContainers`.
pub(super) fn ephemeral(context: &Context<'_>, at: &At<'_>, report: &mut Report) {
    let others: Vec<&str> = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|field| items(context.spec, field))
        .map(|container| text(container, "name"))
        .collect();
    let mut seen: HashSet<&str> = others.iter().copied().collect();
    for (index, container) in items(context.spec, "ephemeralContainers").iter().enumerate() {
        let at = at.index(index);
        shared(container, context, &at, report);
        untrimmed_image(container, &at, report);
        if !seen.insert(text(container, "name")) {
            report.duplicate(&at.field("name"), text(container, "name"));
        }
        let target = text(container, "targetContainerName");
        if !target.is_empty() && !others.contains(&target) {
            report.not_found(&at.field("targetContainerName"), target);
        }
        for field in NOT_EPHEMERAL {
            if !is_empty(&container[field]) {
                report.forbidden(&at.field(field), "cannot be set for an Ephemeral Container");
            }
        }
        let mounts_at = at.field("volumeMounts");
        for (index, mount) in items(container, "volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !text(mount, field).is_empty() {
                    let at = mounts_at.index(index);
                    report.forbidden(&at.field(field), "cannot be set for an Ephemeral Container");
                }
            }
        }
    }
}

/// An image's name with space around it: old templates may have it, pods may not.
pub(in super::super) fn untrimmed_image(container: &Value, at: &At<'_>, report: &mut Report) {
    let image = text(container, "image");
    if image.trim().len() != image.len() {
        report.invalid(&at.field("image"), image, "must not have leading or trailing whitespace");
    }
}

/// Ports of the host in a pod that has the host's network: they are the container's own.
pub(super) fn host_network_ports(spec: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    if !flag(spec, "hostNetwork") {
        return;
    }
    let containers_at = at.field("containers");
    for (index, container) in items(spec, "containers").iter().enumerate() {
        let item = containers_at.index(index);
        let ports_at = item.field("ports");
        for (index, port) in items(container, "ports").iter().enumerate() {
            let (host, own) = (number(port, "hostPort"), number(port, "containerPort"));
            if (options.is_pod || host != 0) && host != own {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                report.invalid(&ports_at.index(index).field("hostPort"), host, detail);
            }
        }
    }
}
