//! The spec of a job, in a job and in a cron job.

use serde_json::Value;

use super::super::at::At;
use super::super::controllers::matches_selector;
use super::super::read::{is_set, optional_number, optional_text, text};
use super::super::report::Report;
use super::super::spec;
use super::super::spec::options::Options;
use super::job_policies;
use crate::names;
use crate::selectors::LabelSelector;

/// The most pods at a time, and failed indexes, of an indexed job.
const INDEXED_MAX: i64 = 100_000;
/// Both, of one with more than [`INDEXED_MAX`] completions.
const HIGH_MAX: i64 = 10_000;
const MANAGER_LENGTH_MAX: usize = 63;

/// Counts that can't be negative.
const COUNTS: [&str; 7] = [
    "parallelism",
    "completions",
    "activeDeadlineSeconds",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
];

/// What must be true of a job's spec.
pub(super) fn check(spec: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    check_unselected(spec, at, options, report);
    let (selector, selector_at) = (&spec["selector"], at.field("selector"));
    if selector.is_null() {
        report.required(&selector_at, "");
    } else {
        report.label_selector(&selector_at, selector, options.invalid_label_values_in_selectors);
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let readable = selector.is_null() || LabelSelector::from_object(selector).is_ok();
    if readable && !matches_selector(selector, labels) {
        let detail = "`selector` does not match template `labels`";
        report.invalid(&at.field("template.metadata.labels"), labels.clone(), detail);
    }
}

/// The same without the selector, which a cron job's template doesn't have.
pub(super) fn check_unselected(spec: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    for field in COUNTS {
        if let Some(count) = optional_number(spec, field) {
            report.non_negative(&at.field(field), count);
        }
    }
    if is_set(spec, "maxFailedIndexes") && !is_set(spec, "backoffLimitPerIndex") {
        report.required(&at.field("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if let Some(manager) = optional_text(spec, "managedBy") {
        let manager_at = at.field("managedBy");
        prefixed_path(manager, &manager_at, report);
        if manager.len() > MANAGER_LENGTH_MAX {
            report.too_long(&manager_at, MANAGER_LENGTH_MAX);
        }
    }
    completion_mode(spec, at, report);
    if is_set(spec, "podFailurePolicy") {
        job_policies::failure(spec, &at.field("podFailurePolicy"), report);
    }
    if is_set(spec, "successPolicy") {
        job_policies::success(spec, &at.field("successPolicy"), report);
    }
    replacement(spec, &at.field("podReplacementPolicy"), report);
    spec::check_template(&spec["template"], &at.field("template"), options, report);
    let (policy, policy_at) =
        (text(&spec["template"]["spec"], "restartPolicy"), at.field("template.spec.restartPolicy"));
    match policy {
        "" | "Always" => report.required(&policy_at, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if is_set(spec, "podFailurePolicy") => {
            report.invalid(&policy_at, policy, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        other => report.not_supported_in_order(&policy_at, other, &["OnFailure", "Never"]),
    }
}

/// A domain and a path (upstream's `IsDomainPrefixedPath`).
fn prefixed_path(value: &str, at: &At<'_>, report: &mut Report) {
    if value.is_empty() {
        report.required(at, "");
        return;
    }
    match value.split_once('/') {
        Some((host, path)) if !host.is_empty() && !path.is_empty() => {
            for problem in names::dns1123_subdomain(host) {
                report.invalid(at, host, problem);
            }
            let valid = path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:@".contains(&byte));
            if !valid {
                let form = "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+";
                report.invalid(at, path, names::form_error("Invalid path", form, &[]));
            }
        }
        _ => report.invalid(at, value, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
}

fn completion_mode(spec: &Value, at: &At<'_>, report: &mut Report) {
    let mode = optional_text(spec, "completionMode");
    if let Some(mode) = mode.filter(|mode| !matches!(*mode, "NonIndexed" | "Indexed")) {
        report.not_supported_in_order(&at.field("completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    if mode == Some("Indexed") {
        indexed(spec, at, report);
    } else if matches!(mode, None | Some("NonIndexed")) {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(count) = optional_number(spec, field) {
                report.invalid(&at.field(field), count, "requires indexed completion mode");
            }
        }
    }
}

fn indexed(spec: &Value, at: &At<'_>, report: &mut Report) {
    let completions = optional_number(spec, "completions");
    let (parallelism, parallelism_at) = (optional_number(spec, "parallelism"), at.field("parallelism"));
    let (failed, failed_at) = (optional_number(spec, "maxFailedIndexes"), at.field("maxFailedIndexes"));
    if completions.is_none() {
        report.required(&at.field("completions"), "when completion mode is Indexed");
    }
    if let Some(count) = parallelism.filter(|count| *count > INDEXED_MAX) {
        let detail = format!("must be less than or equal to {INDEXED_MAX} when completion mode is Indexed");
        report.invalid(&parallelism_at, count, detail);
    }
    if let (Some(failed), Some(completions)) = (failed, completions)
        && failed > completions
    {
        report.invalid(&failed_at, failed, "must be less than or equal to completions");
    }
    if let Some(failed) = failed.filter(|failed| *failed > INDEXED_MAX) {
        report.invalid(&failed_at, failed, format!("must be less than or equal to {INDEXED_MAX}"));
    }
    if completions.is_none_or(|completions| completions <= INDEXED_MAX) || !is_set(spec, "backoffLimitPerIndex") {
        return;
    }
    if failed.is_none() {
        report.required(&failed_at, format!("must be specified when completions is above {INDEXED_MAX}"));
    }
    let detail = format!(
        "must be less than or equal to {HIGH_MAX} when completions are above {INDEXED_MAX} and used with backoff limit per \
         index"
    );
    for (count, at) in [(parallelism, &parallelism_at), (failed, &failed_at)] {
        if let Some(count) = count.filter(|count| *count > HIGH_MAX) {
            report.invalid(at, count, detail.as_str());
        }
    }
}

fn replacement(spec: &Value, at: &At<'_>, report: &mut Report) {
    let Some(policy) = optional_text(spec, "podReplacementPolicy") else { return };
    let supported: &[&str] =
        if is_set(spec, "podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    if !supported.contains(&policy) {
        report.not_supported_in_order(at, policy, supported);
    }
}
