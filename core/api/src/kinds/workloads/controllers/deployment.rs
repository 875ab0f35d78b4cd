//! Deployments.

use serde_json::{Value, json};

use super::super::at::At;
use super::super::read::{is_set, number, optional_number, replace, set, text};
use super::super::report::Report;
use super::super::spec::defaults;
use super::super::spec::options::Options;
use super::super::{raise_generation, start};
use super::{non_negative, not_above, not_decremented, rolling, template};
use crate::field::{FieldError, FieldErrors};
use crate::kinds::{Kind, keep_all_but_status, keep_status};
use crate::object::{Object, set_default};
use crate::selectors::LabelSelector;

/// A deployment.
pub(in super::super) struct Deployment;

impl Kind for Deployment {
    fn default(&self, object: &mut Object) {
        let Some(spec) = object.get_mut("spec") else { return };
        if let Some(template) = spec.get_mut("template") {
            defaults::of_template(template);
        }
        let Some(strategy) = spec.get_mut("strategy").and_then(Value::as_object_mut) else { return };
        if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
            set_default(strategy, "rollingUpdate", json!({}));
            if let Some(rolling) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut) {
                set_default(rolling, "maxUnavailable", "25%");
                set_default(rolling, "maxSurge", "25%");
            }
        }
    }

    fn prepare_for_create(&self, object: &mut Object) {
        start(object);
        template::drop_disabled(object, &Value::Null, "/spec/template");
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_status(object, old);
        template::drop_disabled(object, old, "/spec/template");
        raise_generation(object, old, &["spec", "metadata.annotations"]);
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        keep_all_but_status_and_metadata(object, old);
        if let Some(metadata) = object.get_mut("metadata") {
            replace(metadata, &old["metadata"], "labels");
        }
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let mut report = Report::default();
        check(&object["spec"], &Options::for_template(None), &mut report);
        report.into_errors()
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut report = Report::default();
        check(&object["spec"], &Options::for_template(Some(&old["spec"]["template"])), &mut report);
        report.immutable(&At::root("spec").field("selector"), &object["spec"]["selector"], &old["spec"]["selector"]);
        report.into_errors()
    }

    fn validate_status_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut report = Report::default();
        let (status, at) = (&object["status"], At::root("status"));
        let counts = [
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "collisionCount",
        ];
        non_negative(status, &counts, &at, &mut report);
        for field in ["updatedReplicas", "readyReplicas", "availableReplicas"] {
            not_above(status, field, "replicas", "cannot be greater than status.replicas", &at, &mut report);
        }
        let detail = "cannot be greater than readyReplicas";
        not_above(status, "availableReplicas", "readyReplicas", detail, &at, &mut report);
        not_decremented(status, &old["status"], "collisionCount", &at, &mut report);
        report.into_errors()
    }

    fn warnings(&self, object: &Object, old: Option<&Object>) -> Vec<String> {
        let mut found = Vec::new();
        if old.is_none() {
            template::name_warning(object, &mut found);
        }
        template::template_warnings(object, old, "spec.template", &mut found);
        found
    }
}

/// Keeps the spec and nothing else: upstream lets `/status` change the metadata of most workloads.
pub(super) fn keep_all_but_status_and_metadata(object: &mut Object, old: &Object) {
    let metadata = object.get("metadata").cloned();
    keep_all_but_status(object, old);
    if let Some(metadata) = metadata {
        set(object, "metadata", metadata);
    }
}

fn check(spec: &Value, options: &Options, report: &mut Report) {
    let at = At::root("spec");
    let selector_at = at.field("selector");
    report.non_negative(&at.field("replicas"), number(spec, "replicas"));
    let selector = &spec["selector"];
    template::check_selector(selector, "deployment", &selector_at, report);
    if !selector.is_null() && LabelSelector::from_object(selector).is_err() {
        report.invalid(&selector_at, selector.clone(), "invalid label selector");
    } else {
        template::check_for_replica_set(&spec["template"], selector, &at.field("template"), options, report);
    }
    strategy(&spec["strategy"], &at.field("strategy"), report);
    let seconds = number(spec, "minReadySeconds");
    report.non_negative(&at.field("minReadySeconds"), seconds);
    if let Some(limit) = optional_number(spec, "revisionHistoryLimit") {
        report.non_negative(&at.field("revisionHistoryLimit"), limit);
    }
    if let Some(deadline) = optional_number(spec, "progressDeadlineSeconds") {
        let at = at.field("progressDeadlineSeconds");
        report.non_negative(&at, deadline);
        if deadline <= seconds {
            report.invalid(&at, deadline, "must be greater than minReadySeconds");
        }
    }
}

fn strategy(strategy: &Value, at: &At<'_>, report: &mut Report) {
    let rolling_at = at.field("rollingUpdate");
    let rolling = &strategy["rollingUpdate"];
    match text(strategy, "type") {
        "Recreate" => {
            if is_set(strategy, "rollingUpdate") {
                report.forbidden(&rolling_at, "may not be specified when strategy `type` is 'Recreate'");
            }
        }
        "RollingUpdate" => {
            if rolling.is_null() {
                report.required(&rolling_at, "this should be defaulted and never be nil");
                return;
            }
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            let unavailable_at = rolling_at.field("maxUnavailable");
            rolling::check_amount(unavailable, &unavailable_at, report);
            rolling::check_amount(surge, &rolling_at.field("maxSurge"), report);
            if rolling::amount(unavailable) == 0 && rolling::amount(surge) == 0 {
                report.invalid(&unavailable_at, zero_if_null(unavailable), "may not be 0 when `maxSurge` is 0");
            }
            rolling::check_not_above_all(unavailable, &unavailable_at, report);
        }
        kind => {
            let rolling = match rolling {
                Value::Null => "null".to_owned(),
                rolling => format!(
                    r#"{{"MaxUnavailable":{},"MaxSurge":{}}}"#,
                    zero_if_null(&rolling["maxUnavailable"]),
                    zero_if_null(&rolling["maxSurge"])
                ),
            };
            let shown = format!(r#"{{"Type":{},"RollingUpdate":{rolling}}}"#, Value::from(kind));
            report.push(FieldError::not_supported_shown(&at.path(), shown, &["Recreate", "RollingUpdate"]));
        }
    }
}

/// What Go holds by value where v1 holds a pointer.
pub(super) fn zero_if_null(value: &Value) -> Value {
    if value.is_null() { Value::from(0) } else { value.clone() }
}
