//! The spec of a pod, in a pod and in every template: what must be true of it (upstream's `ValidatePodSpec`).
//!
//! - [`options`]: what old objects may keep
//! - [`containers`], [`env`], [`mounts`], [`probes`], [`resources`]: containers and their parts
//! - [`volumes`], [`projected`], [`claim_template`], [`signers`]: volumes of every type
//! - [`security`], [`windows`]: security contexts, user namespaces, the operating system
//! - [`affinity`], [`placement`]: where it may run
//! - [`network`]: DNS and host names
//! - [`annotations`]: annotations that were fields before there were fields
//! - [`defaults`], [`image`]: what a client left out
//! - [`disabled`]: fields of features that 1.36 leaves off
//! - [`warnings`]: what is surely a mistake, though valid

pub(super) mod affinity;
pub(super) mod annotations;
mod claim_template;
pub(super) mod containers;
pub(super) mod defaults;
pub(super) mod disabled;
mod env;
mod image;
mod mounts;
mod network;
pub(super) mod options;
pub(super) mod placement;
mod probes;
mod projected;
pub(super) mod resources;
mod security;
mod signers;
pub(super) mod volumes;
pub(super) mod warnings;
mod windows;

use serde_json::Value;

use self::containers::Context;
use self::options::Options;
use super::at::At;
use super::internal;
use super::read::{is_set, items, items_mut, optional_number, optional_text, text};
use super::report::Report;
use crate::names;

/// The lists of containers, in the order in which upstream visits them.
const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// All containers of a spec with the field that lists them.
pub(super) fn all_containers(spec: &Value) -> impl Iterator<Item = (&'static str, &Value)> {
    CONTAINER_LISTS.into_iter().flat_map(|field| items(spec, field).iter().map(move |container| (field, container)))
}

/// Calls a function with every container and where it stands.
pub(super) fn visit_containers(spec: &Value, at: &At<'_>, visit: &mut dyn FnMut(&Value, &At<'_>)) {
    for field in CONTAINER_LISTS {
        let list_at = at.field(field);
        for (index, container) in items(spec, field).iter().enumerate() {
            visit(container, &list_at.index(index));
        }
    }
}

/// Calls a function with every container, to change it.
pub(super) fn visit_containers_mut(spec: &mut Value, visit: &mut dyn FnMut(&mut Value)) {
    for field in CONTAINER_LISTS {
        items_mut(spec, field).iter_mut().for_each(&mut *visit);
    }
}

/// The number in a `pod-deletion-cost` annotation, 0 when there is none; the text when it isn't a number.
pub(super) fn deletion_cost(annotations: &Value) -> Result<i32, String> {
    let Some(value) = optional_text(annotations, "controller.kubernetes.io/pod-deletion-cost") else { return Ok(0) };
    // Upstream takes neither a plus sign nor leading zeros.
    let digits = value.strip_prefix('-').unwrap_or(value);
    let canonical = digits == "0" && value == "0" || digits.starts_with(|c: char| ('1'..='9').contains(&c));
    value.parse().ok().filter(|_| canonical).ok_or_else(|| value.to_owned())
}

/// What is wrong with a pod's spec. `metadata` is the pod's own; null in a template.
pub(super) fn check(spec: &Value, metadata: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    if !is_set(spec, "terminationGracePeriodSeconds") {
        report.required(&at.field("terminationGracePeriodSeconds"), "");
    }
    let volumes = volumes::check(spec, text(metadata, "name"), &at.field("volumes"), options, report);
    let claims: Vec<&str> =
        items(spec, "resourceClaims").iter().map(|claim| text(claim, "name")).filter(|name| !name.is_empty()).collect();
    resource_claims(spec, metadata, &at.field("resourceClaims"), report);
    let context = Context { spec, volumes: &volumes, claims: &claims, options };
    containers::regular(&context, &at.field("containers"), report);
    containers::init(&context, &at.field("initContainers"), report);
    containers::ephemeral(&context, &at.field("ephemeralContainers"), report);
    resources::of_pod(spec, &claims, at, options, report);
    containers::host_network_ports(spec, at, options, report);
    report.required_one_of(&at.field("restartPolicy"), text(spec, "restartPolicy"), &["Always", "OnFailure", "Never"]);
    network::dns_policy(spec, &at.field("dnsPolicy"), report);
    report.labels(&at.field("nodeSelector"), spec["nodeSelector"].as_object());
    security::of_pod(spec, &at.field("securityContext"), options, report);
    affinity::check(&spec["affinity"], &at.field("affinity"), options, report);
    network::dns_config(spec, &at.field("dnsConfig"), report);
    placement::readiness_gates(spec, &at.field("readinessGates"), report);
    placement::scheduling_gates(spec, &at.field("schedulingGates"), report);
    placement::spread(spec, &at.field("topologySpreadConstraints"), options, report);
    windows::host_processes(spec, at, report);
    security::host_users(spec, at, options, report);
    network::hostname_override(spec, at, report);
    names_of_others(spec, at, report);
    placement::tolerations(spec, &at.field("tolerations"), options, report);
    network::host_aliases(spec, &at.field("hostAliases"), report);
    classes(spec, at, options, report);
    windows::system(spec, at, report);
    network::variables_in_files(spec, at, report);
}

/// `spec.resourceClaims` (KEP-3063).
fn resource_claims(spec: &Value, metadata: &Value, at: &At<'_>, report: &mut Report) {
    let claims = items(spec, "resourceClaims");
    let is_static = is_set(&metadata["annotations"], annotations::MIRROR);
    for (index, claim) in claims.iter().enumerate() {
        if is_static {
            report.forbidden(&At::root(""), "static pods do not support resource claims");
            continue;
        }
        let at = at.index(index);
        let (name, name_at) = (text(claim, "name"), at.field("name"));
        if name.is_empty() {
            report.required(&name_at, "");
        } else if claims[..index].iter().any(|other| text(other, "name") == name) {
            report.duplicate(&name_at, name);
        } else {
            report.dns_label(&name_at, name);
        }
        let (direct, template) =
            (optional_text(claim, "resourceClaimName"), optional_text(claim, "resourceClaimTemplateName"));
        let shown = || internal::shown("PodResourceClaim", claim);
        match (direct, template) {
            (Some(_), Some(_)) => {
                let detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                report.invalid_shown(&at, shown(), detail);
            }
            (None, None) => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                report.invalid_shown(&at, shown(), detail);
            }
            _ => {}
        }
        for (field, name) in [("resourceClaimName", direct), ("resourceClaimTemplateName", template)] {
            if let Some(name) = name {
                report.dns_subdomain(&at.field(field), name);
            }
        }
    }
}

/// Names of other objects, and of the pod's host.
fn names_of_others(spec: &Value, at: &At<'_>, report: &mut Report) {
    for field in ["serviceAccountName", "nodeName"] {
        let name = text(spec, field);
        if !name.is_empty() {
            report.dns_subdomain(&at.field(field), name);
        }
    }
    if let Some(seconds) = optional_number(spec, "activeDeadlineSeconds") {
        for problem in names::in_range(seconds, 1, i64::from(i32::MAX)) {
            report.invalid(&at.field("activeDeadlineSeconds"), seconds, problem);
        }
    }
    for field in ["hostname", "subdomain"] {
        let name = text(spec, field);
        if !name.is_empty() {
            report.dns_label(&at.field(field), name);
        }
    }
}

/// Priority, runtime and what they bring along.
fn classes(spec: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    let priority = text(spec, "priorityClassName");
    if !priority.is_empty() {
        report.dns_subdomain(&at.field("priorityClassName"), priority);
    }
    if let Some(name) = optional_text(spec, "runtimeClassName") {
        report.dns_subdomain(&at.field("runtimeClassName"), name);
    }
    if let Some(policy) = optional_text(spec, "preemptionPolicy") {
        report.required_one_of(&at.field("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
    }
    if is_set(spec, "overhead") {
        // Upstream checks it as if these were limits, and says so.
        let as_limits = serde_json::json!({"limits": spec["overhead"]});
        resources::requirements(&as_limits, resources::Owner::Container, &[], &at.field("overhead"), options, report);
    }
}

/// What is wrong with a pod template (upstream's `ValidatePodTemplateSpec`).
pub(super) fn check_template(template: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    let metadata = &template["metadata"];
    let (spec, spec_at) = (&template["spec"], at.field("spec"));
    report.labels(&at.field("labels"), metadata["labels"].as_object());
    report.annotations(&at.field("annotations"), metadata["annotations"].as_object());
    annotations::check(metadata, spec, &at.field("annotations"), options, report);
    check(spec, &Value::Null, &spec_at, options, report);
    annotations::check_agreement(metadata, spec, &spec_at, report);
    if !items(spec, "ephemeralContainers").is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        report.forbidden(&spec_at.field("ephemeralContainers"), detail);
    }
}
