//! Jobs.

use serde_json::{Value, json};

use super::super::at::At;
use super::super::controllers::{drop_disabled, name_warning, template_warnings};
use super::super::read::{flag, is_set, number, set, text};
use super::super::report::Report;
use super::super::spec::defaults;
use super::super::spec::options::Options;
use super::super::{raise_generation, start};
use super::{job_spec, job_status, job_update};
use crate::field::FieldErrors;
use crate::kinds::{Kind, keep_all_but_status, keep_status};
use crate::names;
use crate::object::{Object, is_empty, map_mut, set_default};
use crate::selectors::LabelSelector;

/// Labels of a job's pods: its name, its UID, and both as they once were called.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const OLD_JOB_NAME: &str = "job-name";
const OLD_CONTROLLER_UID: &str = "controller-uid";

/// A job.
pub(in super::super) struct Job;

impl Kind for Job {
    fn default(&self, object: &mut Object) {
        if let Some(spec) = object.get_mut("spec") {
            default_spec(spec);
        }
        labels_of_template(object);
    }

    fn prepare_for_create(&self, object: &mut Object) {
        generate_selector(object);
        start(object);
        drop_disabled(object, &Value::Null, "/spec/template");
        labels_of_template(object);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_status(object, old);
        drop_disabled(object, old, "/spec/template");
        raise_generation(object, old, &["spec"]);
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        let metadata = object.get("metadata").cloned();
        keep_all_but_status(object, old);
        if let Some(metadata) = metadata {
            set(object, "metadata", metadata);
        }
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let mut report = Report::default();
        check(object, &Options::for_template(None), &mut report);
        report.into_errors()
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut report = Report::default();
        let options = Options::for_template(Some(&old["spec"]["template"]));
        check(object, &options, &mut report);
        job_update::check(object, old, &options, &mut report);
        report.into_errors()
    }

    fn validate_status_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut report = Report::default();
        job_status::check(object, old, &mut report);
        report.into_errors()
    }

    fn warnings(&self, object: &Object, old: Option<&Object>) -> Vec<String> {
        let mut found = Vec::new();
        if old.is_none() {
            name_warning(object, &mut found);
        }
        template_warnings(object, old, "spec.template", &mut found);
        let spec = &object["spec"];
        if old.is_none() && text(spec, "completionMode") == "Indexed" && is_set(spec, "completions") {
            let (completions, parallelism) = (number(spec, "completions"), number(spec, "parallelism"));
            if completions > 100_000 && parallelism > 10_000 {
                found.push(
                    "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
                     Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
                        .to_owned(),
                );
            }
        }
        found
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        vec![("status.successful", number(&object["status"], "succeeded").to_string())]
    }
}

/// The defaults of a job's spec, here and in a cron job.
pub(super) fn default_spec(spec: &mut Value) {
    if let Some(template) = spec.get_mut("template") {
        defaults::of_template(template);
    }
    let Some(spec) = spec.as_object_mut() else { return };
    let is_set =
        |spec: &serde_json::Map<String, Value>, field: &str| spec.get(field).is_some_and(|value| !value.is_null());
    if !is_set(spec, "completions") && !is_set(spec, "parallelism") {
        set_default(spec, "completions", 1);
    }
    set_default(spec, "parallelism", 1);
    let limit = if is_set(spec, "backoffLimitPerIndex") { i32::MAX } else { 6 };
    set_default(spec, "backoffLimit", limit);
    set_default(spec, "completionMode", "NonIndexed");
    set_default(spec, "suspend", false);
    set_default(spec, "manualSelector", false);
    let policy = if is_set(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    set_default(spec, "podReplacementPolicy", policy);
}

/// A job without labels takes its template's.
fn labels_of_template(object: &mut Object) {
    if !is_empty(&object["metadata"]["labels"]) {
        return;
    }
    let labels = object.pointer("/spec/template/metadata/labels").filter(|labels| !is_empty(labels)).cloned();
    if let Some(labels) = labels {
        map_mut(object, "metadata").insert("labels".to_owned(), labels);
    }
}

/// The labels by which a job finds its pods, and the selector for them.
fn generate_selector(object: &mut Object) {
    if flag(&object["spec"], "manualSelector") {
        return;
    }
    let name = text(&object["metadata"], "name").to_owned();
    let uid = text(&object["metadata"], "uid").to_owned();
    let labels = map_mut(object, "spec.template.metadata.labels");
    let wanted = [(OLD_JOB_NAME, &name), (JOB_NAME, &name), (OLD_CONTROLLER_UID, &uid), (CONTROLLER_UID, &uid)];
    for (label, value) in wanted {
        labels.entry(label).or_insert_with(|| value.clone().into());
    }
    let selector = map_mut(object, "spec.selector.matchLabels");
    selector.entry(CONTROLLER_UID).or_insert_with(|| uid.into());
}

/// What must be true of every job (upstream's `ValidateJob`, without the metadata).
fn check(object: &Object, options: &Options, report: &mut Report) {
    let spec = &object["spec"];
    let name = text(&object["metadata"], "name");
    generated_selector(object, name, report);
    job_spec::check(spec, &At::root("spec"), options, report);
    let completions = number(spec, "completions");
    if text(spec, "completionMode") == "Indexed" && completions > 0 {
        let last = format!("{name}-{}", completions - 1);
        if !names::dns1123_label(&last).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {last}");
            report.invalid(&At::root("metadata").field("name"), name, detail);
        }
    }
}

fn generated_selector(object: &Object, name: &str, report: &mut Report) {
    let (spec, uid) = (&object["spec"], text(&object["metadata"], "uid"));
    if flag(spec, "manualSelector") || spec["selector"].is_null() {
        return;
    }
    if uid.is_empty() {
        report.required(&At::root("metadata").field("uid"), "");
    }
    let at = At::root("spec.template.metadata");
    let (labels, labels_at) = (&spec["template"]["metadata"]["labels"], at.field("labels"));
    let wanted = [(OLD_CONTROLLER_UID, uid), (OLD_JOB_NAME, name), (CONTROLLER_UID, uid), (JOB_NAME, name)];
    for (label, value) in wanted {
        match labels[label].as_str() {
            None => report.required(&labels_at.key(label), format!("must be '{value}'")),
            Some(other) if other != value => {
                report.invalid(&labels_at.key(label), labels.clone(), format!("must be '{value}'"));
            }
            Some(_) => {}
        }
    }
    let expected: serde_json::Map<String, Value> =
        wanted.iter().map(|(label, value)| ((*label).to_owned(), json!(value))).collect();
    if let Ok(selector) = LabelSelector::from_object(&spec["selector"])
        && !selector.matches(|label| expected.get(label).and_then(Value::as_str))
    {
        report.invalid(&At::root("spec").field("selector"), spec["selector"].clone(), "`selector` not auto-generated");
    }
}
