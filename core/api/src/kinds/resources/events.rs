//! Events of both groups. They are the same objects under other names for some fields.

use serde_json::Value;

use super::super::{Kind, NameRule};
use super::checks::{immutable, invalid, path, same};
use crate::field::{FieldError, FieldErrors};
use crate::names;
use crate::object::{Object, at, i64_at, is_empty, str_at};

const WORD_BYTES_MAX: usize = 128;
const NOTE_BYTES_MAX: usize = 1024;

/// What both groups call a field: in the core group, in `events.k8s.io`.
const INVOLVED: (&str, &str) = ("involvedObject", "regarding");
const MESSAGE: (&str, &str) = ("message", "note");
const SOURCE: (&str, &str) = ("source", "deprecatedSource");
const FIRST: (&str, &str) = ("firstTimestamp", "deprecatedFirstTimestamp");
const LAST: (&str, &str) = ("lastTimestamp", "deprecatedLastTimestamp");
const COUNT: (&str, &str) = ("count", "deprecatedCount");
const CONTROLLER: (&str, &str) = ("reportingComponent", "reportingController");

fn either<'a>(event: &'a Object, names: (&str, &str)) -> &'a Value {
    if event[names.0].is_null() { &event[names.1] } else { &event[names.0] }
}

/// The checks that both groups make.
fn common(event: &Object, controller_field: &str) -> FieldErrors {
    let namespace = str_at(event, "metadata.namespace");
    let involved = str_at(either(event, INVOLVED), "namespace");
    let mut errors = FieldErrors::new();
    let mismatch =
        || FieldError::invalid(&path("involvedObject.namespace"), involved, "does not match event.namespace");
    if str_at(event, "eventTime").is_empty() {
        let matches = if involved.is_empty() { matches!(namespace, "" | "default") } else { namespace == involved };
        if !matches {
            errors.push(mismatch());
        }
    } else {
        if involved.is_empty() && !matches!(namespace, "default" | "kube-system") {
            errors.push(mismatch());
        }
        let controller = either(event, CONTROLLER).as_str().unwrap_or_default();
        let at = path(controller_field);
        if controller.is_empty() {
            errors.push(FieldError::required(&at, ""));
        }
        errors.extend(invalid(&at, controller, names::qualified_name(controller)));
        for field in ["reportingInstance", "action", "reason"] {
            let text = str_at(event, field);
            if text.is_empty() {
                errors.push(FieldError::required(&path(field), ""));
            }
            errors.extend(over(field, text, WORD_BYTES_MAX));
        }
        errors.extend(over("message", either(event, MESSAGE).as_str().unwrap_or_default(), NOTE_BYTES_MAX));
    }
    errors.extend(invalid(&path("namespace"), namespace, names::dns1123_subdomain(namespace)));
    errors
}

fn over(field: &str, text: &str, max: usize) -> Option<FieldError> {
    let detail = || format!("can have at most {max} characters");
    (text.len() > max).then(|| FieldError::invalid(&path(field), "", detail()))
}

/// The fields by which events are selected.
fn selectable(event: &Object) -> Vec<(&'static str, String)> {
    let involved = either(event, INVOLVED);
    let text = |value: &Value, field: &str| str_at(value, field).to_owned();
    let controller = either(event, CONTROLLER).as_str().unwrap_or_default().to_owned();
    let component = str_at(either(event, SOURCE), "component").to_owned();
    vec![
        ("involvedObject.kind", text(involved, "kind")),
        ("involvedObject.namespace", text(involved, "namespace")),
        ("involvedObject.name", text(involved, "name")),
        ("involvedObject.uid", text(involved, "uid")),
        ("involvedObject.apiVersion", text(involved, "apiVersion")),
        ("involvedObject.resourceVersion", text(involved, "resourceVersion")),
        ("involvedObject.fieldPath", text(involved, "fieldPath")),
        ("reason", text(event, "reason")),
        ("source", if component.is_empty() { controller.clone() } else { component }),
        ("reportingComponent", controller),
        ("type", text(event, "type")),
    ]
}

pub(super) struct CoreEvent;

impl Kind for CoreEvent {
    fn validate_create(&self, object: &Object) -> FieldErrors {
        common(object, "reportingComponent")
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        selectable(object)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

pub(super) struct Event;

impl Kind for Event {
    fn validate_create(&self, object: &Object) -> FieldErrors {
        let mut errors = common(object, "reportingController");
        errors.extend(series(object));
        if str_at(object, "eventTime").is_empty() {
            errors.push(FieldError::required(&path("eventTime"), ""));
        }
        let kind = str_at(object, "type");
        if !matches!(kind, "Normal" | "Warning") {
            errors.push(FieldError::invalid(&path("type"), "", format!("has invalid value: {kind}")));
        }
        for names in [FIRST, LAST, COUNT] {
            if !is_empty(either(object, names)) {
                errors.push(FieldError::invalid(&path(names.0), "", "needs to be unset"));
            }
        }
        let source = either(object, SOURCE);
        if !str_at(source, "component").is_empty() || !str_at(source, "host").is_empty() {
            errors.push(FieldError::invalid(&path("source"), "", "needs to be unset"));
        }
        errors
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = common(object, "reportingController");
        if !same(&object["series"], &old["series"]) {
            errors.extend(series(object));
        }
        let alike = |name: &'static str| (name, name);
        let fields = [
            INVOLVED,
            alike("reason"),
            MESSAGE,
            SOURCE,
            FIRST,
            LAST,
            COUNT,
            alike("reason"),
            alike("type"),
            alike("eventTime"),
            alike("action"),
            alike("related"),
            ("reportingController", "reportingController"),
            alike("reportingInstance"),
        ];
        for names in fields {
            errors.extend(immutable(&path(names.0), either(object, names), either(old, names)));
        }
        errors
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        selectable(object)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

fn series(event: &Object) -> FieldErrors {
    let mut errors = FieldErrors::new();
    if event["series"].is_null() {
        return errors;
    }
    if i64_at(event, "series.count").unwrap_or_default() < 2 {
        errors.push(FieldError::invalid(&path("series.count"), "", "should be at least 2"));
    }
    if at(event, "series.lastObservedTime").is_null() {
        errors.push(FieldError::required(&path("series.lastObservedTime"), ""));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(errors: FieldErrors, expect: &[&str]) {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, expect);
    }

    #[test]
    fn new_events_say_who_reports_what() {
        let event = json!({
            "metadata": {"namespace": "n"},
            "regarding": {"namespace": "n"},
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "type": "Normal",
            "reason": "R",
            "action": "A",
            "reportingController": "example.org/c",
            "reportingInstance": "i",
        });
        check(Event.validate_create(&event), &[]);
        let mut wrong = event.clone();
        wrong["type"] = json!("X");
        wrong["series"] = json!({"count": 1});
        wrong["action"] = json!("");
        wrong["deprecatedCount"] = json!(3);
        check(
            Event.validate_create(&wrong),
            &[
                "action: Required value",
                "series.count: Invalid value: \"\": should be at least 2",
                "series.lastObservedTime: Required value",
                "type: Invalid value: \"\": has invalid value: X",
                "count: Invalid value: \"\": needs to be unset",
            ],
        );
        let mut changed = event.clone();
        changed["note"] = json!("m");
        check(Event.validate_update(&changed, &event), &["message: Invalid value: \"m\": field is immutable"]);
    }

    #[test]
    fn old_events_stay_in_their_namespace() {
        check(CoreEvent.validate_create(&json!({"metadata": {"namespace": "default"}})), &[]);
        check(
            CoreEvent.validate_create(&json!({"metadata": {"namespace": "n"}, "involvedObject": {"namespace": "m"}})),
            &["involvedObject.namespace: Invalid value: \"m\": does not match event.namespace"],
        );
    }
}
