//! What may change in a pod's spec (upstream's `ValidatePodUpdate`).

use serde_json::Value;

use super::super::at::At;
use super::super::equality::equal;
use super::super::internal;
use super::super::read::{entries, items, items_mut, optional_number, replace, set, text};
use super::super::report::Report;
use super::super::spec::options::Options;
use super::super::spec::{annotations, placement};

const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Adds what is wrong with a change of a pod.
pub(super) fn check(pod: &Value, old: &Value, options: &Options, report: &mut Report) {
    annotations::check_update(pod, old, &At::root("metadata").field("annotations"), options, report);
    let (spec, old_spec, at) = (&pod["spec"], &old["spec"], At::root("spec"));
    for field in ["containers", "initContainers"] {
        let (list, list_at) = (items(spec, field), at.field(field));
        if list.len() != items(old_spec, field).len() {
            report.forbidden(&list_at, "pod updates may not add or remove containers");
            return;
        }
        for (index, container) in list.iter().enumerate() {
            images(container, &list_at.index(index), report);
        }
    }
    if !deadline(spec, old_spec, &at.field("activeDeadlineSeconds"), report) {
        return;
    }
    if !equal(&spec["tolerations"], &old_spec["tolerations"]) {
        tolerations(spec, old_spec, &at.field("tolerations"), options, report);
    }
    gates(spec, old_spec, &at.field("schedulingGates"), report);
    if equal(spec, old_spec) {
        return;
    }
    let mut munged = spec.clone();
    for field in ["containers", "initContainers"] {
        for (container, old) in items_mut(&mut munged, field).iter_mut().zip(items(old_spec, field)) {
            replace(container, old, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        replace(&mut munged, old_spec, field);
    }
    if optional_number(old_spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0)
        && optional_number(&munged, "terminationGracePeriodSeconds") == Some(1)
    {
        replace(&mut munged, old_spec, "terminationGracePeriodSeconds");
    }
    if !items(old_spec, "schedulingGates").is_empty() {
        gated(&mut munged, spec, old_spec, &at, report);
    }
    if !equal(&munged, old_spec) {
        let difference =
            internal::unified(&internal::indented("PodSpec", old_spec), &internal::indented("PodSpec", &munged));
        report.forbidden(&at, format!("{MUTABLE}\n{difference}"));
    }
}

/// Ephemeral containers are added and never changed (upstream's `ValidatePodEphemeralContainersUpdate`).
pub(super) fn ephemeral_containers(pod: &Value, old: &Value, report: &mut Report) {
    let at = At::root("spec");
    let at = at.field("ephemeralContainers");
    let now = items(&pod["spec"], "ephemeralContainers");
    for container in items(&old["spec"], "ephemeralContainers") {
        let name = text(container, "name");
        match now.iter().find(|other| text(other, "name") == name) {
            None => report.forbidden(&at, format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(other) if other != container => {
                report.forbidden(&at, format!("existing ephemeral containers {name:?} may not be changed\n"));
            }
            Some(_) => {}
        }
    }
}

fn images(container: &Value, at: &At<'_>, report: &mut Report) {
    let image = text(container, "image");
    if image.is_empty() {
        report.required(&at.field("image"), "");
    } else if image.trim() != image {
        report.invalid(&at.field("image"), image, "must not have leading or trailing whitespace");
    }
}

/// `activeDeadlineSeconds` may only come nearer; whether to go on.
fn deadline(spec: &Value, old: &Value, at: &At<'_>, report: &mut Report) -> bool {
    let before = optional_number(old, "activeDeadlineSeconds");
    match (optional_number(spec, "activeDeadlineSeconds"), before) {
        (Some(now), _) if !(0..=i64::from(i32::MAX)).contains(&now) => {
            report.invalid(at, now, format!("must be between 0 and {}, inclusive", i32::MAX));
            false
        }
        (Some(now), Some(before)) if before < now => {
            report.invalid(at, now, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            report.invalid_nil(at, "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

/// Tolerations are only added, or changed in how long they last.
fn tolerations(spec: &Value, old: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    let same = |a: &Value, b: &Value| ["key", "operator", "value", "effect"].iter().all(|field| a[*field] == b[*field]);
    let now = items(spec, "tolerations");
    if items(old, "tolerations").iter().any(|old| !now.iter().any(|new| same(old, new))) {
        report.forbidden(at, "existing toleration can not be modified except its tolerationSeconds");
    } else {
        placement::tolerations(spec, at, options, report);
    }
}

fn gates(spec: &Value, old: &Value, at: &At<'_>, report: &mut Report) {
    for (index, gate) in items(spec, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        if !items(old, "schedulingGates").iter().any(|old| text(old, "name") == name) {
            report.forbidden(
                &at.index(index).field("name"),
                format!("only deletion is allowed, but found new scheduling gate '{name}'"),
            );
        }
    }
}

/// A pod that may not be scheduled yet may be bound to fewer nodes.
fn gated(munged: &mut Value, spec: &Value, old: &Value, at: &At<'_>, report: &mut Report) {
    if !equal(&munged["nodeSelector"], &old["nodeSelector"]) {
        let kept = entries(old, "nodeSelector").all(|(key, value)| &spec["nodeSelector"][key] == value);
        if !kept {
            let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            report.invalid(&at.field("nodeSelector"), spec["nodeSelector"].clone(), detail);
        }
        replace(munged, old, "nodeSelector");
    }
    let (affinity, old_affinity) = (&spec["affinity"]["nodeAffinity"], &old["affinity"]["nodeAffinity"]);
    if equal(affinity, old_affinity) {
        return;
    }
    let affinity_at = at.field("affinity");
    node_affinity(affinity, old_affinity, &affinity_at.field("nodeAffinity"), report);
    // Whatever else there is must stay.
    let others = |affinity: &Value| ["podAffinity", "podAntiAffinity"].iter().all(|field| affinity[*field].is_null());
    if old["affinity"].is_null() && others(&munged["affinity"]) {
        replace(munged, old, "affinity");
    } else if old["affinity"].is_object() && munged["affinity"].is_null() {
        set(munged, "affinity", serde_json::json!({"nodeAffinity": old_affinity}));
    } else if let Some(affinity) = munged.get_mut("affinity") {
        replace(affinity, &old["affinity"], "nodeAffinity");
    }
}

fn node_affinity(affinity: &Value, old: &Value, at: &At<'_>, report: &mut Report) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let required_at = at.field(REQUIRED);
    let terms_at = required_at.field("nodeSelectorTerms");
    let (terms, old_terms) =
        (items(&affinity[REQUIRED], "nodeSelectorTerms"), items(&old[REQUIRED], "nodeSelectorTerms"));
    if old[REQUIRED].is_null() {
        return;
    }
    if !old_terms.is_empty() && terms.len() != old_terms.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        report.invalid(&terms_at, affinity[REQUIRED]["nodeSelectorTerms"].clone(), detail);
        return;
    }
    for (index, (term, old)) in terms.iter().zip(old_terms).enumerate() {
        let was_empty = items(old, "matchExpressions").is_empty() && items(old, "matchFields").is_empty();
        let kept = ["matchExpressions", "matchFields"].iter().all(|field| {
            let (new, old) = (items(term, field), items(old, field));
            new.len() >= old.len() && new.iter().zip(old).all(|(new, old)| equal(new, old))
        });
        if (was_empty && !equal(term, old)) || !kept {
            let detail = "only additions are allowed (no mutations or deletions)";
            report.invalid(&terms_at.index(index), term.clone(), detail);
        }
    }
}
