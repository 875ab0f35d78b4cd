//! Daemon sets.

use serde_json::{Value, json};

use super::super::at::At;
use super::super::equality::equal;
use super::super::read::{number, optional_number, text};
use super::super::report::Report;
use super::super::spec::options::Options;
use super::super::spec::{self, defaults};
use super::super::{raise_generation, start};
use super::deployment::{keep_all_but_status_and_metadata, zero_if_null};
use super::{non_negative, not_decremented, rolling, template};
use crate::field::{FieldError, FieldErrors};
use crate::kinds::{Kind, keep_status};
use crate::object::{Object, map_mut, set_default};

/// Where clients of old find the template's generation.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// A daemon set.
pub(in super::super) struct DaemonSet;

impl Kind for DaemonSet {
    fn default(&self, object: &mut Object) {
        let Some(spec) = object.get_mut("spec") else { return };
        if let Some(template) = spec.get_mut("template") {
            defaults::of_template(template);
        }
        let Some(strategy) = spec.get_mut("updateStrategy").and_then(Value::as_object_mut) else { return };
        if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
            set_default(strategy, "rollingUpdate", json!({}));
            if let Some(rolling) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut) {
                set_default(rolling, "maxUnavailable", 1);
                set_default(rolling, "maxSurge", 0);
            }
        }
    }

    fn prepare_for_create(&self, object: &mut Object) {
        start(object);
        set_template_generation(object, 1);
        template::drop_disabled(object, &Value::Null, "/spec/template");
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_status(object, old);
        template::drop_disabled(object, old, "/spec/template");
        let before = template_generation(old);
        let changed = !equal(&object["spec"]["template"], &old["spec"]["template"]);
        set_template_generation(object, before + i64::from(changed));
        raise_generation(object, old, &["spec"]);
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        keep_all_but_status_and_metadata(object, old);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let mut report = Report::default();
        check(&object["spec"], &Options::for_template(None), &mut report);
        report.into_errors()
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut report = Report::default();
        let options = Options::for_template(Some(&old["spec"]["template"]));
        // Upstream checks the spec twice.
        check(&object["spec"], &options, &mut report);
        check(&object["spec"], &options, &mut report);
        report.immutable(&At::root("spec").field("selector"), &object["spec"]["selector"], &old["spec"]["selector"]);
        report.into_errors()
    }

    fn validate_status_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut report = Report::default();
        let (status, at) = (&object["status"], At::root("status"));
        let counts = [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
        ];
        non_negative(status, &counts, &at, &mut report);
        if let Some(count) = optional_number(status, "collisionCount") {
            report.non_negative(&at.field("collisionCount"), count);
        }
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

fn template_generation(object: &Object) -> i64 {
    let annotation = &object["metadata"]["annotations"][TEMPLATE_GENERATION];
    annotation.as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn set_template_generation(object: &mut Object, generation: i64) {
    let annotations = map_mut(object, "metadata.annotations");
    annotations.insert(TEMPLATE_GENERATION.to_owned(), generation.to_string().into());
}

fn check(spec: &Value, options: &Options, report: &mut Report) {
    let at = At::root("spec");
    let (selector, selector_at) = (&spec["selector"], at.field("selector"));
    let (template, template_at) = (&spec["template"], at.field("template"));
    report.label_selector(&selector_at, selector, false);
    if !selector.is_null() {
        template::check_match(selector, template, &template_at, report);
        if template::is_empty(selector) {
            report.invalid(&selector_at, selector.clone(), "empty selector is invalid for daemonset");
        }
    }
    spec::check_template(template, &template_at, options, report);
    template::check_endless(template, "DaemonSet", &template_at, report);
    report.non_negative(&at.field("minReadySeconds"), number(spec, "minReadySeconds"));
    strategy(&spec["updateStrategy"], &at.field("updateStrategy"), report);
    if let Some(limit) = optional_number(spec, "revisionHistoryLimit") {
        report.non_negative(&at.field("revisionHistoryLimit"), limit);
    }
}

fn strategy(strategy: &Value, at: &At<'_>, report: &mut Report) {
    let (rolling, rolling_at) = (&strategy["rollingUpdate"], at.field("rollingUpdate"));
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_null() => report.required(&rolling_at, ""),
        "RollingUpdate" => {
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            let (unavailable_at, surge_at) = (rolling_at.field("maxUnavailable"), rolling_at.field("maxSurge"));
            rolling::check_amount(unavailable, &unavailable_at, report);
            rolling::check_amount(surge, &surge_at, report);
            rolling::check_not_above_all(unavailable, &unavailable_at, report);
            rolling::check_not_above_all(surge, &surge_at, report);
            match (rolling::amount(unavailable) != 0, rolling::amount(surge) != 0) {
                (true, true) => {
                    report.invalid(&surge_at, surge.clone(), "may not be set when maxUnavailable is non-zero");
                }
                (false, false) => report.required(&unavailable_at, "cannot be 0 when maxSurge is 0"),
                _ => {}
            }
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
            report.push(FieldError::not_supported_shown(&at.path(), shown, &["RollingUpdate", "OnDelete"]));
        }
    }
}
