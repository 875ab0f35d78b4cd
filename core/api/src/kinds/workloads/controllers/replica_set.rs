//! Replica sets.

use serde_json::Value;

use super::super::at::At;
use super::super::read::number;
use super::super::report::Report;
use super::super::spec::defaults;
use super::super::spec::options::Options;
use super::super::{raise_generation, start};
use super::deployment::keep_all_but_status_and_metadata;
use super::{non_negative, not_above, template};
use crate::field::FieldErrors;
use crate::kinds::{Kind, keep_status};
use crate::object::Object;
use crate::selectors::LabelSelector;

/// A replica set.
pub(in super::super) struct ReplicaSet;

impl Kind for ReplicaSet {
    fn default(&self, object: &mut Object) {
        if let Some(template) = object.pointer_mut("/spec/template") {
            defaults::of_template(template);
        }
    }

    fn prepare_for_create(&self, object: &mut Object) {
        start(object);
        template::drop_disabled(object, &Value::Null, "/spec/template");
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_status(object, old);
        template::drop_disabled(object, old, "/spec/template");
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

    fn validate_status_update(&self, object: &Object, _old: &Object) -> FieldErrors {
        let mut report = Report::default();
        check_status(&object["status"], &mut report);
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

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        vec![("status.replicas", number(&object["status"], "replicas").to_string())]
    }
}

/// The counts of a replica set or replication controller.
pub(super) fn check_status(status: &Value, report: &mut Report) {
    let at = At::root("status");
    let counts = ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
    non_negative(status, &counts, &at, report);
    for field in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        not_above(status, field, "replicas", "cannot be greater than status.replicas", &at, report);
    }
    not_above(status, "availableReplicas", "readyReplicas", "cannot be greater than readyReplicas", &at, report);
}

fn check(spec: &Value, options: &Options, report: &mut Report) {
    let at = At::root("spec");
    report.non_negative(&at.field("replicas"), number(spec, "replicas"));
    report.non_negative(&at.field("minReadySeconds"), number(spec, "minReadySeconds"));
    let (selector, selector_at) = (&spec["selector"], at.field("selector"));
    template::check_selector(selector, "deployment", &selector_at, report);
    if !selector.is_null() && LabelSelector::from_object(selector).is_err() {
        report.invalid(&selector_at, selector.clone(), "invalid label selector");
    } else {
        template::check_for_replica_set(&spec["template"], selector, &at.field("template"), options, report);
    }
}
