//! Affinity to nodes and to other pods.

use serde_json::Value;

use super::super::at::At;
use super::super::read::{entries, is_set, items, number, text, texts};
use super::super::report::Report;
use super::options::Options;
use crate::names;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `spec.affinity`.
pub(super) fn check(affinity: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    node(&affinity["nodeAffinity"], &at.field("nodeAffinity"), options, report);
    for kind in ["podAffinity", "podAntiAffinity"] {
        pods(&affinity[kind], &at.field(kind), options, report);
    }
}

fn node(affinity: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    if is_set(affinity, REQUIRED) {
        let at = at.field(REQUIRED);
        node_selector(&affinity[REQUIRED], &at, options.invalid_label_values_in_node_affinity, report);
    }
    let preferred_at = at.field(PREFERRED);
    for (index, term) in items(affinity, PREFERRED).iter().enumerate() {
        let at = preferred_at.index(index);
        weight(term, &at, report);
        // Preferences have always been allowed values that no label can have.
        node_term(&term["preference"], &at.field("preference"), true, report);
    }
}

fn weight(term: &Value, at: &At<'_>, report: &mut Report) {
    let weight = number(term, "weight");
    if !(1..=100).contains(&weight) {
        report.invalid(&at.field("weight"), weight, "must be in the range 1-100");
    }
}

/// A `NodeSelector`.
fn node_selector(selector: &Value, at: &At<'_>, allow_invalid_values: bool, report: &mut Report) {
    let terms = items(selector, "nodeSelectorTerms");
    let terms_at = at.field("nodeSelectorTerms");
    if terms.is_empty() {
        return report.required(&terms_at, "must have at least one node selector term");
    }
    for (index, term) in terms.iter().enumerate() {
        node_term(term, &terms_at.index(index), allow_invalid_values, report);
    }
}

fn node_term(term: &Value, at: &At<'_>, allow_invalid_values: bool, report: &mut Report) {
    let expressions_at = at.field("matchExpressions");
    for (index, expression) in items(term, "matchExpressions").iter().enumerate() {
        node_expression(expression, &expressions_at.index(index), allow_invalid_values, report);
    }
    let fields_at = at.field("matchFields");
    for (index, expression) in items(term, "matchFields").iter().enumerate() {
        node_field(expression, &fields_at.index(index), report);
    }
}

fn node_expression(expression: &Value, at: &At<'_>, allow_invalid_values: bool, report: &mut Report) {
    let values = items(expression, "values");
    let values_at = at.field("values");
    match text(expression, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            report.required(&values_at, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            report.forbidden(&values_at, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if values.len() != 1 => {
            report.required(&values_at, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => report.invalid(&at.field("operator"), other, "not a valid selector operator"),
    }
    report.qualified_name(&at.field("key"), text(expression, "key"));
    if !allow_invalid_values {
        for (index, value) in texts(expression, "values").enumerate() {
            report.problems(&values_at.index(index), value, names::label_value(value));
        }
    }
}

fn node_field(expression: &Value, at: &At<'_>, report: &mut Report) {
    let values_at = at.field("values");
    match text(expression, "operator") {
        "In" | "NotIn" => {
            if items(expression, "values").len() != 1 {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                report.required(&values_at, detail);
            }
        }
        other => report.invalid(&at.field("operator"), other, "not a valid selector operator"),
    }
    let key = text(expression, "key");
    if key == "metadata.name" {
        for (index, value) in texts(expression, "values").enumerate() {
            report.dns_subdomain(&values_at.index(index), value);
        }
    } else {
        report.invalid(&at.field("key"), key, "not a valid field selector key");
    }
}

fn pods(affinity: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    let required_at = at.field(REQUIRED);
    for (index, term) in items(affinity, REQUIRED).iter().enumerate() {
        pod_term(term, &required_at.index(index), options, report);
    }
    let preferred_at = at.field(PREFERRED);
    for (index, weighted) in items(affinity, PREFERRED).iter().enumerate() {
        let at = preferred_at.index(index);
        weight(weighted, &at, report);
        pod_term(&weighted["podAffinityTerm"], &at.field("podAffinityTerm"), options, report);
    }
}

fn pod_term(term: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    for field in ["labelSelector", "namespaceSelector"] {
        report.label_selector(&at.field(field), &term[field], options.invalid_label_values_in_selectors);
    }
    for namespace in texts(term, "namespaces") {
        report.dns_label(&at.field("namespace"), namespace);
    }
    let (keys, mismatched) = (items(term, "matchLabelKeys"), items(term, "mismatchLabelKeys"));
    label_keys(keys, mismatched, &term["labelSelector"], at, report);
    let topology = text(term, "topologyKey");
    let topology_at = at.field("topologyKey");
    if topology.is_empty() {
        report.required(&topology_at, "can not be empty");
    }
    report.qualified_name(&topology_at, topology);
}

/// `matchLabelKeys` and `mismatchLabelKeys` (KEP-3633, KEP-3243). The selector has the keys' values merged in already.
pub(super) fn label_keys(keys: &[Value], mismatched: &[Value], selector: &Value, at: &At<'_>, report: &mut Report) {
    for (field, list) in [("matchLabelKeys", keys), ("mismatchLabelKeys", mismatched)] {
        let at = at.field(field);
        if list.is_empty() {
            continue;
        }
        if selector.is_null() {
            report.forbidden(&at, "must not be specified when labelSelector is not set");
            continue;
        }
        for (index, key) in list.iter().enumerate() {
            report.qualified_name(&at.index(index), key.as_str().unwrap_or_default());
        }
    }
    let mut selected: Vec<&str> = entries(selector, "matchLabels").map(|(key, _)| key).collect();
    for expression in items(selector, "matchExpressions") {
        let key = text(expression, "key");
        if selected.contains(&key)
            && let Some(index) = keys.iter().rposition(|other| other == key)
        {
            report.invalid(&at.index(index), key, "exists in both matchLabelKeys and labelSelector");
        }
        selected.push(key);
    }
    let keys_at = at.field("matchLabelKeys");
    for (index, key) in keys.iter().enumerate().filter(|(_, key)| mismatched.contains(key)) {
        let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
        report.invalid(&keys_at.index(index), key.clone(), detail);
    }
}

/// Whether [`label_keys`] has anything to say.
pub(super) fn has_invalid_label_keys(keys: &[Value], mismatched: &[Value], selector: &Value) -> bool {
    let mut report = Report::default();
    label_keys(keys, mismatched, selector, &At::root(""), &mut report);
    !report.is_empty()
}
