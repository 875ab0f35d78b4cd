//! What may change in a job's spec.

use serde_json::{Value, json};

use super::super::at::At;
use super::super::equality::equal;
use super::super::read::{flag, is_set, items, items_mut, replace, text};
use super::super::report::Report;
use super::super::spec::options::Options;
use super::job_spec;
use crate::object::Object;

/// Adds what is wrong with a change (upstream's `ValidateJobSpecUpdate`).
pub(super) fn check(object: &Object, old: &Object, options: &Options, report: &mut Report) {
    let (spec, old_spec, at) = (&object["spec"], &old["spec"], At::root("spec"));
    job_spec::check(spec, &at, options, report);
    completions(spec, old_spec, &at.field("completions"), report);
    immutable(spec, old_spec, "selector", &at, report);
    template(object, old, &at, report);
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        immutable(spec, old_spec, field, &at, report);
    }
}

fn immutable(spec: &Value, old: &Value, field: &str, at: &At<'_>, report: &mut Report) {
    report.immutable(&at.field(field), &spec[field], &old[field]);
}

/// An indexed job may grow and shrink, if as many pods run as must complete.
fn completions(spec: &Value, old: &Value, at: &At<'_>, report: &mut Report) {
    let (now, before) = (&spec["completions"], &old["completions"]);
    if text(spec, "completionMode") != "Indexed" {
        report.immutable(at, now, before);
        return;
    }
    if equal(now, before) {
        return;
    }
    let in_tandem = is_set(spec, "completions")
        && is_set(spec, "parallelism")
        && is_set(old, "completions")
        && is_set(old, "parallelism")
        && equal(now, &spec["parallelism"])
        && equal(before, &old["parallelism"]);
    if !in_tandem {
        let detail = "can only be modified in tandem with spec.parallelism";
        match now {
            Value::Null => report.invalid_nil(at, detail),
            now => report.invalid(at, now.clone(), detail),
        }
    }
}

/// A suspended job that hasn't started may be sent elsewhere and given other resources.
fn template(object: &Object, old: &Object, at: &At<'_>, report: &mut Report) {
    let suspended = flag(&old["spec"], "suspend");
    let never_started = !is_set(&old["status"], "startTime");
    let (new, mut kept) = (&object["spec"]["template"], old["spec"]["template"].clone());
    if suspended && (never_started || is_suspended(old)) {
        allow_scheduling(new, &mut kept);
    }
    if suspended && is_suspended_or_new(old) {
        for field in ["containers", "initContainers"] {
            let containers = items(&new["spec"], field);
            let Some(spec) = kept.get_mut("spec") else { continue };
            let old = items_mut(spec, field);
            if old.len() == containers.len() {
                for (old, new) in old.iter_mut().zip(containers) {
                    if text(old, "name") == text(new, "name") {
                        replace(old, new, "resources");
                    }
                }
            }
        }
        if !equal(&new["spec"], &kept["spec"]) {
            report.invalid_shown(&at.field("template.spec"), shown_spec(new), "field is immutable");
        }
    } else if !equal(new, &kept) {
        report.invalid_shown(&at.field("template"), shown_template(new), "field is immutable");
    }
}

fn is_suspended(job: &Object) -> bool {
    items(&job["status"], "conditions")
        .iter()
        .any(|condition| text(condition, "type") == "Suspended" && text(condition, "status") == "True")
}

fn is_suspended_or_new(job: &Object) -> bool {
    let active = job["status"]["active"].as_i64().unwrap_or_default();
    active == 0 && (is_suspended(job) || !is_set(&job["status"], "startTime"))
}

fn allow_scheduling(new: &Value, kept: &mut Value) {
    let affinity = &new["spec"]["affinity"];
    let Some(spec) = kept.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    match (affinity.is_object(), spec["affinity"].is_object()) {
        (false, true) => {
            if ["podAffinity", "podAntiAffinity"].iter().all(|field| spec["affinity"][*field].is_null()) {
                replace(spec, &Value::Null, "affinity");
            } else if let Some(old) = spec.get_mut("affinity") {
                replace(old, &Value::Null, "nodeAffinity");
            }
        }
        (true, false) => {
            let with_node_affinity = json!({"affinity": {"nodeAffinity": affinity["nodeAffinity"]}});
            replace(spec, &with_node_affinity, "affinity");
        }
        (true, true) => {
            if let Some(old) = spec.get_mut("affinity") {
                replace(old, affinity, "nodeAffinity");
            }
        }
        (false, false) => {}
    }
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        replace(spec, &new["spec"], field);
    }
    if let Some(metadata) = kept.get_mut("metadata") {
        for field in ["annotations", "labels"] {
            replace(metadata, &new["metadata"], field);
        }
    }
}

/// A template as upstream prints it: the metadata's fields by their tags, the spec by its name.
fn shown_template(template: &Value) -> String {
    let mut shown: Vec<String> =
        ["name", "generateName", "namespace", "labels", "annotations", "ownerReferences", "finalizers"]
            .iter()
            .filter(|field| !crate::object::is_empty(&template["metadata"][**field]))
            .map(|field| format!("{}:{}", Value::from(*field), template["metadata"][*field]))
            .collect();
    shown.push(format!("\"Spec\":{}", shown_spec(template)));
    format!("{{{}}}", shown.join(","))
}

fn shown_spec(template: &Value) -> String {
    super::super::internal::shown("PodSpec", &template["spec"])
}
