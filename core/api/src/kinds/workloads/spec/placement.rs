//! Tolerations, spread constraints and scheduling gates.

use serde_json::Value;

use super::super::at::At;
use super::super::read::{is_set, items, number, optional_number, optional_text, text};
use super::super::report::Report;
use super::affinity;
use super::options::Options;
use crate::names;

/// `spec.tolerations`.
pub(in super::super) fn tolerations(spec: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    for (index, toleration) in items(spec, "tolerations").iter().enumerate() {
        let at = at.index(index);
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        let (value, effect) = (text(toleration, "value"), text(toleration, "effect"));
        if !key.is_empty() {
            report.qualified_name(&at.field("key"), key);
        }
        let operator_at = at.field("operator");
        if key.is_empty() && operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            report.invalid(&operator_at, operator, detail);
        }
        if is_set(toleration, "tolerationSeconds") && effect != "NoExecute" {
            report.invalid(&at.field("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator {
            "Equal" | "" => {
                let problems = names::label_value(value);
                if !problems.is_empty() {
                    report.invalid(&operator_at, value, problems.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                report.invalid(&operator_at, value, "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            "Lt" | "Gt" if options.comparing_tolerations => compared(value, &at.field("value"), report),
            "Lt" | "Gt" => {
                report.not_supported_in_order(&operator_at, operator, &["Equal", "Exists", "Lt", "Gt"]);
            }
            other => report.not_supported_in_order(&operator_at, other, &["Equal", "Exists"]),
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if !effect.is_empty() && !effects.contains(&effect) {
            report.not_supported_in_order(&at.field("effect"), effect, &effects);
        }
    }
}

/// A number that a taint's value is compared with (KEP-5471).
fn compared(value: &str, at: &At<'_>, report: &mut Report) {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let canonical = !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && (digits == "0" && value == "0" || !digits.starts_with('0'));
    if !canonical {
        let detail = "must be a valid decimal integer in canonical form";
        report.invalid(at, value, detail);
    }
    if value.parse::<i64>().is_err() {
        report.invalid(at, value, format!("strconv.ParseInt: parsing {}: invalid syntax", crate::error::quoted(value)));
    }
}

/// `spec.topologySpreadConstraints`.
pub(super) fn spread(spec: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    let constraints = items(spec, "topologySpreadConstraints");
    for (index, constraint) in constraints.iter().enumerate() {
        let at = at.index(index);
        let skew = number(constraint, "maxSkew");
        if skew <= 0 {
            report.invalid(&at.field("maxSkew"), skew, "must be greater than zero");
        }
        let (key, action) = (text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
        if key.is_empty() {
            report.required(&at.field("topologyKey"), "can not be empty");
        }
        report.one_of(&at.field("whenUnsatisfiable"), action, &["DoNotSchedule", "ScheduleAnyway"]);
        let same = |other: &Value| text(other, "topologyKey") == key && text(other, "whenUnsatisfiable") == action;
        if constraints[index + 1..].iter().any(same) {
            report.duplicate(&at.field("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {action}}}"));
        }
        if let Some(domains) = optional_number(constraint, "minDomains") {
            let at = at.field("minDomains");
            if domains <= 0 {
                report.invalid(&at, domains, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                report.invalid(&at, domains, detail);
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if let Some(policy) = optional_text(constraint, field) {
                report.one_of(&at.field(field), policy, &["Honor", "Ignore"]);
            }
        }
        let selector = &constraint["labelSelector"];
        if !options.invalid_spread_label_keys {
            affinity::label_keys(items(constraint, "matchLabelKeys"), &[], selector, &at, report);
        }
        if !options.invalid_spread_selectors {
            report.label_selector(&at.field("labelSelector"), selector, false);
        }
    }
}

/// `spec.readinessGates` and `spec.schedulingGates`.
pub(super) fn readiness_gates(spec: &Value, at: &At<'_>, report: &mut Report) {
    for (index, gate) in items(spec, "readinessGates").iter().enumerate() {
        report.qualified_name(&at.index(index).field("conditionType"), text(gate, "conditionType"));
    }
}

/// `spec.schedulingGates` (KEP-3521).
pub(super) fn scheduling_gates(spec: &Value, at: &At<'_>, report: &mut Report) {
    let gates = items(spec, "schedulingGates");
    for (index, gate) in gates.iter().enumerate() {
        let (at, name) = (at.index(index), text(gate, "name"));
        report.qualified_name(&at, name);
        if gates[..index].iter().any(|other| text(other, "name") == name) {
            report.duplicate(&at, name);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tolerations_are_checked() {
        let spec = json!({"tolerations": [
            {"key": "k", "operator": "Exists"},
            {"operator": "Equal", "value": "v"},
            {"key": "k", "operator": "Gt", "value": "1"},
            {"key": "k", "value": "-", "effect": "Never", "tolerationSeconds": 1},
        ]});
        let mut report = Report::default();
        tolerations(&spec, &At::root("t"), &Options::default(), &mut report);
        let texts: Vec<String> = report.into_errors().iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "t[1].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
                "t[2].operator: Unsupported value: \"Gt\": supported values: \"Equal\", \"Exists\", \"Lt\", \"Gt\"",
                "t[3].effect: Invalid value: \"Never\": effect must be 'NoExecute' when `tolerationSeconds` is set",
                "t[3].operator: Invalid value: \"-\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                "t[3].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ]
        );
    }

    #[test]
    fn constraints_are_checked() {
        let spec = json!({"topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 0},
            {"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway", "matchLabelKeys": ["a"]},
        ]});
        let mut report = Report::default();
        spread(&spec, &At::root("s"), &Options::default(), &mut report);
        let texts: Vec<String> = report.into_errors().iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "s[0].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{z, ScheduleAnyway}\"",
                "s[0].minDomains: Invalid value: 0: must be greater than zero",
                "s[0].minDomains: Invalid value: 0: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
                "s[1].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
            ]
        );
    }
}
