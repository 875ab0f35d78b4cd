//! What may be said of a job (upstream's `ValidateJobStatusUpdate`). What an old status already got wrong may stay.

use serde_json::Value;

use super::super::at::At;
use super::super::equality::equal;
use super::super::read::{flag, is_set, items, number, optional_text, text};
use super::super::report::Report;
use super::job_policies::parse_indexes;
use crate::object::Object;

/// A status with what is asked of it often.
struct Status<'a> {
    value: &'a Value,
    complete: bool,
    failed: bool,
    failure_target: bool,
    success_criteria_met: bool,
}

impl<'a> Status<'a> {
    fn of(job: &'a Object) -> Self {
        let value = &job["status"];
        let has = |kind: &str| {
            items(value, "conditions")
                .iter()
                .any(|condition| text(condition, "type") == kind && text(condition, "status") == "True")
        };
        Self {
            value,
            complete: has("Complete"),
            failed: has("Failed"),
            failure_target: has("FailureTarget"),
            success_criteria_met: has("SuccessCriteriaMet"),
        }
    }

    fn finished(&self) -> bool {
        self.complete || self.failed
    }

    fn changed(&self, old: &Status<'_>, field: &str) -> bool {
        !equal(&self.value[field], &old.value[field])
    }

    fn has_uncounted(&self) -> bool {
        let uncounted = &self.value["uncountedTerminatedPods"];
        !items(uncounted, "succeeded").is_empty() || !items(uncounted, "failed").is_empty()
    }
}

/// Adds what is wrong with a change of a job's status.
pub(super) fn check(job: &Object, old: &Object, report: &mut Report) {
    let (status, before, spec, at) = (Status::of(job), Status::of(old), &job["spec"], At::root("status"));
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        report.non_negative(&at.field(field), number(status.value, field));
    }
    uncounted(&status.value["uncountedTerminatedPods"], &at.field("uncountedTerminatedPods"), report);
    end(&status, &before, &at, report);
    finished(&status, &before, &at, report);
    indexes(&status, &before, spec, &at, report);
    let conditions = at.field("conditions");
    if status.success_criteria_met && status.failed {
        report.invalid_omitted(&conditions, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    }
    if status.success_criteria_met && status.failure_target {
        report.invalid_omitted(&conditions, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    }
    if is_set(spec, "successPolicy") && !status.success_criteria_met && status.complete {
        let detail = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
        report.invalid_omitted(&conditions, detail);
    }
    transitions(&status, &before, spec, &at, report);
}

fn uncounted(pods: &Value, at: &At<'_>, report: &mut Report) {
    let mut seen = Vec::new();
    for field in ["succeeded", "failed"] {
        let list_at = at.field(field);
        for (index, uid) in items(pods, field).iter().enumerate() {
            let (uid, at) = (uid.as_str().unwrap_or_default(), list_at.index(index));
            if uid.is_empty() {
                report.invalid(&at, uid, "must not be empty");
            } else if seen.contains(&uid) {
                report.duplicate(&at, uid);
            } else {
                seen.push(uid);
            }
        }
    }
}

/// How a job ends.
fn end(status: &Status<'_>, old: &Status<'_>, at: &At<'_>, report: &mut Report) {
    let conditions = at.field("conditions");
    let completes = status.complete && !old.complete;
    let fails = status.failed && !old.failed;
    let (completion, completion_at) = (&status.value["completionTime"], at.field("completionTime"));
    let start = &status.value["startTime"];
    if status.complete && status.failed && (completes || fails) {
        report.invalid_omitted(&conditions, "cannot set Complete=True and Failed=true conditions");
    }
    if status.complete && status.failure_target && (completes || !old.failure_target) {
        report.invalid_omitted(&conditions, "cannot set Complete=True and FailureTarget=true conditions");
    }
    let time_changed = status.changed(old, "completionTime");
    if (time_changed || status.complete != old.complete) && !completion.is_null() && !status.complete {
        let detail = "cannot set completionTime when there is no Complete=True condition";
        report.invalid(&completion_at, completion.clone(), detail);
    }
    if (time_changed || completes) && completion.is_null() && status.complete {
        report.required(&completion_at, "completionTime is required for Complete jobs");
    }
    if (time_changed || status.changed(old, "startTime"))
        && let (Some(start), Some(completion)) = (start.as_str(), completion.as_str())
        && completion < start
    {
        report.invalid(&completion_at, completion, "must be equal to or after `startTime`");
    }
    if fails && !status.failure_target {
        let detail = "cannot set Failed=True condition without the FailureTarget=true condition";
        report.invalid_omitted(&conditions, detail);
    }
    if completes && !status.success_criteria_met {
        let detail = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        report.invalid_omitted(&conditions, detail);
    }
}

/// What a finished job no longer has.
fn finished(status: &Status<'_>, old: &Status<'_>, at: &At<'_>, report: &mut Report) {
    let finishes = status.finished() && !old.finished();
    let changed = |field: &str| finishes || status.changed(old, field);
    if !status.finished() {
        return;
    }
    let active = number(status.value, "active");
    if active > 0 && changed("active") {
        report.invalid(&at.field("active"), active, "active>0 is invalid for finished job");
    }
    if !is_set(status.value, "startTime") && changed("startTime") {
        report.required(&at.field("startTime"), "startTime is required for finished job");
    }
    if status.has_uncounted() && changed("uncountedTerminatedPods") {
        let pods = &status.value["uncountedTerminatedPods"];
        let shown = format!(r#"{{"Succeeded":{},"Failed":{}}}"#, pods["succeeded"], pods["failed"]);
        report.invalid_shown(&at.field("uncountedTerminatedPods"), shown, "must be empty for finished job");
    }
}

fn indexes(status: &Status<'_>, old: &Status<'_>, spec: &Value, at: &At<'_>, report: &mut Report) {
    let indexed = text(spec, "completionMode") == "Indexed";
    let (completed, failed) = (text(status.value, "completedIndexes"), optional_text(status.value, "failedIndexes"));
    let (completed_at, failed_at) = (at.field("completedIndexes"), at.field("failedIndexes"));
    let completed_changed = status.changed(old, "completedIndexes");
    let failed_changed = status.changed(old, "failedIndexes");
    let completions = spec["completions"].as_i64();
    let per_index = is_set(spec, "backoffLimitPerIndex");
    if let Some(completions) = completions {
        if completed_changed
            && indexed
            && let Err(problem) = parse_indexes(completed, completions)
        {
            report.invalid(&completed_at, completed, format!("error parsing completedIndexes: {problem}"));
        }
        if failed_changed
            && per_index
            && let Some(failed) = failed
            && let Err(problem) = parse_indexes(failed, completions)
        {
            report.invalid(&failed_at, failed, format!("error parsing failedIndexes: {problem}"));
        }
    }
    if completed_changed && !completed.is_empty() && !indexed {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        report.invalid(&completed_at, completed, detail);
    }
    if let Some(failed) = failed.filter(|_| failed_changed && !per_index) {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        report.invalid(&failed_at, failed, detail);
    }
    if let (Some(failed), Some(completions)) = (failed, completions)
        && (failed_changed || completed_changed)
        && let (Ok(failed_intervals), Ok(completed_intervals)) =
            (parse_indexes(failed, completions), parse_indexes(completed, completions))
        && let Some(both) = overlap(&failed_intervals, &completed_intervals)
    {
        report.invalid(&failed_at, failed, format!("failedIndexes and completedIndexes overlap at index: {both}"));
    }
    let finishes = status.finished() && !old.finished();
    let terminating = number(status.value, "terminating");
    if terminating > 0 && status.finished() && (finishes || status.changed(old, "terminating")) {
        report.invalid(&at.field("terminating"), terminating, "terminating>0 is invalid for finished job");
    }
    let (ready, active) = (number(status.value, "ready"), number(status.value, "active"));
    if ready > active && (status.changed(old, "ready") || status.changed(old, "active")) {
        report.invalid(&at.field("ready"), ready, "cannot set more ready pods than active");
    }
}

fn overlap(a: &[(i64, i64)], b: &[(i64, i64)]) -> Option<i64> {
    a.iter()
        .flat_map(|(first, last)| {
            b.iter().map(move |(other_first, other_last)| (first.max(other_first), last.min(other_last)))
        })
        .find(|(first, last)| first <= last)
        .map(|(first, _)| *first)
}

fn transitions(status: &Status<'_>, old: &Status<'_>, spec: &Value, at: &At<'_>, report: &mut Report) {
    let conditions = at.field("conditions");
    for (kind, now, before) in [
        ("Failed", status.failed, old.failed),
        ("Complete", status.complete, old.complete),
        ("FailureTarget", status.failure_target, old.failure_target),
    ] {
        if before && !now {
            report.invalid_omitted(&conditions, format!("cannot disable the terminal {kind}=True condition"));
        }
    }
    for (field, detail) in
        [("failed", "cannot decrease the failed counter"), ("succeeded", "cannot decrease the succeeded counter")]
    {
        let count = number(status.value, field);
        if count < number(old.value, field) {
            report.invalid(&at.field(field), count, detail);
        }
    }
    let (completion, before) = (&status.value["completionTime"], &old.value["completionTime"]);
    if !completion.is_null() && !before.is_null() && completion != before {
        report.invalid(&at.field("completionTime"), completion.clone(), "field is immutable");
    }
    let started = &old.value["startTime"];
    if !started.is_null() && started != &status.value["startTime"] && !flag(spec, "suspend") {
        report.required(&at.field("startTime"), "startTime cannot be removed for unsuspended job");
    }
    if old.success_criteria_met && !status.success_criteria_met {
        report.invalid_omitted(&conditions, "cannot disable the SuccessCriteriaMet=True condition");
    }
    if old.complete && !old.success_criteria_met && status.success_criteria_met {
        let detail = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        report.invalid_omitted(&conditions, detail);
    }
}
