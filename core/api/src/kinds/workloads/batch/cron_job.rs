//! Cron jobs.

use serde_json::Value;

use super::super::at::At;
use super::super::controllers::{drop_disabled, name_warning, template_warnings};
use super::super::read::{flag, is_set, optional_flag, optional_number, optional_text, text};
use super::super::report::Report;
use super::super::spec::options::Options;
use super::super::{raise_generation, start};
use super::{job, job_spec, schedule};
use crate::field::FieldErrors;
use crate::kinds::{Kind, keep_all_but_status, keep_status};
use crate::names;
use crate::object::Object;

/// The controller appends the time to the name: 11 of a label's 63 characters.
const NAME_LENGTH_MAX: usize = 63 - 11;

/// A cron job.
pub(in super::super) struct CronJob;

impl Kind for CronJob {
    fn default(&self, object: &mut Object) {
        if let Some(spec) = object.pointer_mut("/spec/jobTemplate/spec") {
            job::default_spec(spec);
        }
    }

    fn prepare_for_create(&self, object: &mut Object) {
        start(object);
        drop_disabled(object, &Value::Null, "/spec/jobTemplate/spec/template");
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_status(object, old);
        drop_disabled(object, old, "/spec/jobTemplate/spec/template");
        raise_generation(object, old, &["spec"]);
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        let metadata = object.get("metadata").cloned();
        keep_all_but_status(object, old);
        if let Some(metadata) = metadata {
            super::super::read::set(object, "metadata", metadata);
        }
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let mut report = Report::default();
        check(&object["spec"], None, &Options::for_template(None), &mut report);
        let name = text(&object["metadata"], "name");
        if name.len() > NAME_LENGTH_MAX {
            report.invalid(&At::root("metadata").field("name"), name, names::max_len_error(NAME_LENGTH_MAX));
        }
        report.into_errors()
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut report = Report::default();
        let options = Options::for_template(Some(&old["spec"]["jobTemplate"]["spec"]["template"]));
        check(&object["spec"], Some(&old["spec"]), &options, &mut report);
        report.into_errors()
    }

    fn warnings(&self, object: &Object, old: Option<&Object>) -> Vec<String> {
        let mut found = Vec::new();
        if old.is_none() {
            name_warning(object, &mut found);
        }
        template_warnings(object, old, "spec.jobTemplate.spec.template", &mut found);
        if text(&object["spec"], "schedule").contains("TZ") {
            found.push(
                "CRON_TZ or TZ used in spec.schedule is not officially supported, see \
                 https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                    .to_owned(),
            );
        }
        found
    }
}

fn check(spec: &Value, old: Option<&Value>, options: &Options, report: &mut Report) {
    let at = At::root("spec");
    let (timetable, timetable_at) = (text(spec, "schedule"), at.field("schedule"));
    let zone = optional_text(spec, "timeZone");
    if timetable.is_empty() {
        report.required(&timetable_at, "");
    } else {
        if let Err(problem) = schedule::parse(timetable) {
            report.invalid(&timetable_at, timetable, problem);
        }
        let had_zone = old.is_some_and(|old| text(old, "schedule").contains("TZ"));
        match (timetable.contains("TZ"), had_zone) {
            (true, true) if zone.is_some() => {
                let detail = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
                report.invalid(&timetable_at, timetable, detail);
            }
            (true, false) => {
                let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
                report.invalid(&timetable_at, timetable, detail);
            }
            _ => {}
        }
    }
    if let Some(seconds) = optional_number(spec, "startingDeadlineSeconds") {
        report.non_negative(&at.field("startingDeadlineSeconds"), seconds);
    }
    if let Some(zone) = zone.filter(|zone| old.is_none_or(|old| optional_text(old, "timeZone") != Some(*zone))) {
        time_zone(zone, &at.field("timeZone"), report);
    }
    report.required_one_of(
        &at.field("concurrencyPolicy"),
        text(spec, "concurrencyPolicy"),
        &["Allow", "Forbid", "Replace"],
    );
    job_template(&spec["jobTemplate"], &at.field("jobTemplate"), options, report);
    for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        if let Some(limit) = optional_number(spec, field) {
            report.non_negative(&at.field(field), limit);
        }
    }
}

fn job_template(template: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    let (spec, spec_at) = (&template["spec"], at.field("spec"));
    job_spec::check_unselected(spec, &spec_at, options, report);
    if is_set(spec, "selector") {
        report.invalid(&spec_at.field("selector"), spec["selector"].clone(), "`selector` will be auto-generated");
    }
    if optional_flag(spec, "manualSelector").is_some() && flag(spec, "manualSelector") {
        report.not_supported_in_order(&spec_at.field("manualSelector"), true, &["nil", "false"]);
    }
}

/// Parts of letters, digits and little else; which zones there are is the business of whoever reckons with them.
fn time_zone(zone: &str, at: &At<'_>, report: &mut Report) {
    if zone.is_empty() {
        report.invalid(at, zone, "timeZone must be nil or non-empty string");
        return;
    }
    let is_part = |part: &str| {
        !matches!(part, "." | "..")
            && !part.starts_with('-')
            && (1..=14).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte))
    };
    if !zone.split('/').all(is_part) {
        report.invalid(at, zone, format!("unknown time zone {zone}"));
        return;
    }
    if zone.eq_ignore_ascii_case("Local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        report.invalid(at, zone, detail);
    }
    if !schedule::is_known_zone(zone) {
        report.invalid(at, zone, format!("unknown time zone {zone}"));
    }
}
