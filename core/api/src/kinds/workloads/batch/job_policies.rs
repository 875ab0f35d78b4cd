//! When a job's failures count, and when it has succeeded.

use serde_json::Value;

use super::super::at::At;
use super::super::read::{is_set, items, number, optional_number, optional_text, text};
use super::super::report::Report;

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const CONDITIONS_MAX: usize = 20;
const INDEXES_LENGTH_MAX: usize = 64 * 1024;

/// `podFailurePolicy`.
pub(super) fn failure(spec: &Value, at: &At<'_>, report: &mut Report) {
    let (rules, rules_at) = (items(&spec["podFailurePolicy"], "rules"), at.field("rules"));
    if rules.len() > RULES_MAX {
        report.too_many(&rules_at, rules.len(), RULES_MAX);
    }
    for (index, rule) in rules.iter().enumerate() {
        failure_rule(spec, rule, &rules_at.index(index), report);
    }
}

fn failure_rule(spec: &Value, rule: &Value, at: &At<'_>, report: &mut Report) {
    let (action, action_at) = (text(rule, "action"), at.field("action"));
    match action {
        "FailIndex" if !is_set(spec, "backoffLimitPerIndex") => {
            report.invalid(&action_at, action, "requires the backoffLimitPerIndex to be set");
        }
        _ => known(action, &["Count", "FailIndex", "FailJob", "Ignore"], &action_at, report),
    }
    let (codes, conditions) = (&rule["onExitCodes"], items(rule, "onPodConditions"));
    if !codes.is_null() {
        exit_codes(spec, codes, &at.field("onExitCodes"), report);
    }
    pod_conditions(conditions, &at.field("onPodConditions"), report);
    match (codes.is_null(), conditions.is_empty()) {
        (false, false) => {
            report.invalid_omitted(at, "specifying both OnExitCodes and OnPodConditions is not supported");
        }
        (true, true) => report.invalid_omitted(at, "specifying one of OnExitCodes and OnPodConditions is required"),
        _ => {}
    }
}

fn pod_conditions(conditions: &[Value], at: &At<'_>, report: &mut Report) {
    if conditions.len() > CONDITIONS_MAX {
        report.too_many(at, conditions.len(), CONDITIONS_MAX);
    }
    for (index, pattern) in conditions.iter().enumerate() {
        let at = at.index(index);
        report.qualified_name(&at.field("type"), text(pattern, "type"));
        known(text(pattern, "status"), &["False", "True", "Unknown"], &at.field("status"), report);
    }
}

/// One of a list, which is named when there is none.
fn known(value: &str, supported: &[&str], at: &At<'_>, report: &mut Report) {
    if value.is_empty() {
        let list: Vec<String> = supported.iter().map(|value| format!("\"{value}\"")).collect();
        report.required(at, format!("valid values: [{}]", list.join(" ")));
    } else if !supported.contains(&value) {
        report.not_supported_in_order(at, value, supported);
    }
}

fn exit_codes(spec: &Value, codes: &Value, at: &At<'_>, report: &mut Report) {
    let operator = text(codes, "operator");
    known(operator, &["In", "NotIn"], &at.field("operator"), report);
    if let Some(name) = optional_text(codes, "containerName") {
        let template = &spec["template"]["spec"];
        let mut containers = items(template, "containers").iter().chain(items(template, "initContainers"));
        if !containers.any(|container| text(container, "name") == name) {
            let detail = "must be one of the container or initContainer names in the pod template";
            report.invalid(&at.field("containerName"), name, detail);
        }
    }
    let (values, values_at) = (items(codes, "values"), at.field("values"));
    if values.is_empty() {
        report.invalid(&values_at, codes["values"].clone(), "at least one value is required");
    } else if values.len() > EXIT_CODES_MAX {
        report.too_many(&values_at, values.len(), EXIT_CODES_MAX);
    }
    let numbers: Vec<i64> = values.iter().map(|value| value.as_i64().unwrap_or_default()).collect();
    for (index, value) in numbers.iter().enumerate() {
        let at = values_at.index(index);
        if operator == "In" && *value == 0 {
            report.invalid(&at, *value, "must not be 0 for the In operator");
        }
        if numbers[..index].contains(value) {
            report.duplicate(&at, *value);
        }
    }
    if !numbers.is_sorted() {
        report.invalid(&values_at, codes["values"].clone(), "must be ordered");
    }
}

/// `successPolicy`.
pub(super) fn success(spec: &Value, at: &At<'_>, report: &mut Report) {
    if text(spec, "completionMode") != "Indexed" {
        report.invalid_shown(at, success_shown(&spec["successPolicy"]), "requires indexed completion mode");
        return;
    }
    let (rules, rules_at) = (items(&spec["successPolicy"], "rules"), at.field("rules"));
    if rules.is_empty() {
        report.required(&rules_at, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > RULES_MAX {
        report.too_many(&rules_at, rules.len(), RULES_MAX);
    }
    for (index, rule) in rules.iter().enumerate() {
        success_rule(rule, number(spec, "completions"), &rules_at.index(index), report);
    }
}

fn success_shown(policy: &Value) -> String {
    let rules: Vec<String> = items(policy, "rules")
        .iter()
        .map(|rule| {
            format!(
                r#"{{"SucceededIndexes":{},"SucceededCount":{}}}"#,
                rule["succeededIndexes"], rule["succeededCount"]
            )
        })
        .collect();
    match policy["rules"] {
        Value::Null => r#"{"Rules":null}"#.to_owned(),
        _ => format!(r#"{{"Rules":[{}]}}"#, rules.join(",")),
    }
}

fn success_rule(rule: &Value, completions: i64, at: &At<'_>, report: &mut Report) {
    let (indexes, count) = (optional_text(rule, "succeededIndexes"), optional_number(rule, "succeededCount"));
    if indexes.is_none() && count.is_none() {
        report.required(at, "at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut total = 0;
    if let Some(indexes) = indexes {
        let at = at.field("succeededIndexes");
        if indexes.len() > INDEXES_LENGTH_MAX {
            report.too_long(&at, INDEXES_LENGTH_MAX);
        }
        match parse_indexes(indexes, completions) {
            Ok(intervals) => total = intervals.iter().map(|(first, last)| last - first + 1).sum(),
            Err(problem) => report.invalid(&at, indexes, format!("error parsing succeededIndexes: {problem}")),
        }
    }
    let Some(count) = count else { return };
    let at = at.field("succeededCount");
    report.non_negative(&at, count);
    if count > completions {
        let detail = format!("must be less than or equal to {completions} (the number of specified completions)");
        report.invalid(&at, count, detail);
    }
    if indexes.is_some() && count > total {
        let detail = format!(
            "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        );
        report.invalid(&at, count, detail);
    }
}

/// Indexes as a job writes them: `1,3-5,7`, increasing.
pub(super) fn parse_indexes(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut intervals: Vec<(i64, i64)> = Vec::new();
    if text.is_empty() {
        return Ok(intervals);
    }
    for part in text.split(',') {
        let limits: Vec<&str> = part.split('-').collect();
        if limits.len() > 2 {
            return Err(format!(
                "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let first = parse_index(limits[0], completions)?;
        let last = match limits.get(1) {
            Some(last) => {
                let last = parse_index(last, completions)?;
                if first >= last {
                    return Err(format!("non-increasing order, previous: {first}, current: {last}"));
                }
                last
            }
            None => first,
        };
        if let Some((_, previous)) = intervals.last()
            && *previous >= first
        {
            return Err(format!("non-increasing order, previous: {previous}, current: {first}"));
        }
        intervals.push((first, last));
    }
    Ok(intervals)
}

fn parse_index(text: &str, completions: i64) -> Result<i64, String> {
    let valid = text.strip_prefix(['-', '+']).unwrap_or(text);
    if valid.is_empty() || !valid.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("cannot convert string to integer for index: {text:?}"));
    }
    match text.parse::<i64>() {
        Ok(index) if index >= completions => Err(format!("too large index: {text:?}")),
        Ok(index) => Ok(index),
        Err(_) => Err(format!("cannot convert string to integer for index: {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_increasing_intervals() {
        assert_eq!(parse_indexes("", 5), Ok(vec![]));
        assert_eq!(parse_indexes("0,2-4", 5), Ok(vec![(0, 0), (2, 4)]));
        for text in ["5", "1,1", "2-1", "a", "1-2-3", "1,", "-"] {
            assert!(parse_indexes(text, 5).is_err(), "{text}");
        }
    }
}
