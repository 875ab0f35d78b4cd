//! The template in a controller, and the selector that must match it.

use serde_json::Value;

use super::super::at::At;
use super::super::read::{items, optional_number, text};
use super::super::report::Report;
use super::super::spec::options::Options;
use super::super::spec::{self, disabled, warnings};
use crate::names;
use crate::object::Object;
use crate::selectors::LabelSelector;

/// Whether labels satisfy a label selector; a null selector matches nothing, one that can't be read neither.
pub(in super::super) fn matches_selector(selector: &Value, labels: &Value) -> bool {
    let parsed = if selector.is_null() { return false } else { LabelSelector::from_object(selector) };
    parsed.is_ok_and(|selector| selector.matches(|key| labels[key].as_str()))
}

/// Whether a selector (null or not) selects everything.
pub(super) fn is_empty(selector: &Value) -> bool {
    items(selector, "matchExpressions").is_empty()
        && selector["matchLabels"].as_object().is_none_or(serde_json::Map::is_empty)
}

/// The selector of a controller of apps/v1: it must be there, say something, and be valid.
pub(super) fn check_selector(selector: &Value, kind: &str, at: &At<'_>, report: &mut Report) {
    if selector.is_null() {
        report.required(at, "");
        return;
    }
    report.label_selector(at, selector, false);
    if is_empty(selector) {
        report.invalid(at, selector.clone(), format!("empty selector is invalid for {kind}"));
    }
}

/// The selector must match the template's labels.
pub(super) fn check_match(selector: &Value, template: &Value, at: &At<'_>, report: &mut Report) {
    let labels = &template["metadata"]["labels"];
    let matches =
        if selector.is_object() && !selector["matchLabels"].is_object() && !selector["matchExpressions"].is_array() {
            true
        } else {
            matches_selector(selector, labels)
        };
    if !matches {
        let detail = "`selector` does not match template `labels`";
        report.invalid(&at.field("metadata").field("labels"), labels.clone(), detail);
    }
}

/// Pods of a controller that keeps them running never end of their own.
pub(super) fn check_endless(template: &Value, controller: &str, at: &At<'_>, report: &mut Report) {
    let (spec, spec_at) = (&template["spec"], at.field("spec"));
    let policy = text(spec, "restartPolicy");
    if policy != "Always" {
        report.not_supported_in_order(&spec_at.field("restartPolicy"), policy, &["Always"]);
    }
    if optional_number(spec, "activeDeadlineSeconds").is_some() {
        let detail = format!("activeDeadlineSeconds in {controller} is not Supported");
        report.forbidden(&spec_at.field("activeDeadlineSeconds"), detail);
    }
}

/// The template of a replica set or deployment (upstream's `ValidatePodTemplateSpecForReplicaSet`).
pub(super) fn check_for_replica_set(
    template: &Value,
    selector: &Value,
    at: &At<'_>,
    options: &Options,
    report: &mut Report,
) {
    check_match(selector, template, at, report);
    spec::check_template(template, at, options, report);
    check_endless(template, "ReplicaSet", at, report);
}

/// Drops fields of features that are off from the template at a pointer.
pub(in super::super) fn drop_disabled(object: &mut Object, old: &Value, pointer: &str) {
    let pointer = format!("{pointer}/spec");
    let null = Value::Null;
    if let Some(spec) = object.pointer_mut(&pointer) {
        disabled::drop(spec, old.pointer(&pointer).unwrap_or(&null));
    }
}

/// Warns of names that pods can't have as their host's.
pub(in super::super) fn name_warning(object: &Object, found: &mut Vec<String>) {
    let problems = names::dns1123_label(text(&object["metadata"], "name"));
    if !problems.is_empty() {
        found.push(format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is \
             recommended: [{}]",
            problems.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(" ")
        ));
    }
}

/// Warnings of a template, when the object is new or its generation went up.
pub(in super::super) fn template_warnings(object: &Object, old: Option<&Object>, path: &str, found: &mut Vec<String>) {
    if old.is_some_and(|old| old["metadata"]["generation"] == object["metadata"]["generation"]) {
        return;
    }
    let pointer = format!("/{}", path.replace('.', "/"));
    if let Some(template) = object.pointer(&pointer) {
        warnings::of_template(template, &At::root(path), found);
    }
}
