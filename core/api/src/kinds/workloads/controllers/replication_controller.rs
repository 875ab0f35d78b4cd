//! Replication controllers.

use serde_json::Value;

use super::super::at::At;
use super::super::read::{entries, is_set, number, set};
use super::super::report::Report;
use super::super::spec::options::Options;
use super::super::spec::{self, defaults};
use super::super::{raise_generation, start};
use super::deployment::keep_all_but_status_and_metadata;
use super::{replica_set, template};
use crate::field::FieldErrors;
use crate::kinds::{Kind, keep_status};
use crate::object::{Object, is_empty, map_mut};

/// A replication controller.
pub(in super::super) struct ReplicationController;

impl Kind for ReplicationController {
    fn default(&self, object: &mut Object) {
        let labels = object.pointer("/spec/template/metadata/labels").filter(|labels| !is_empty(labels)).cloned();
        if let Some(labels) = labels {
            if is_empty(&object["spec"]["selector"]) {
                map_mut(object, "spec").insert("selector".to_owned(), labels.clone());
            }
            if is_empty(&object["metadata"]["labels"]) {
                map_mut(object, "metadata").insert("labels".to_owned(), labels);
            }
        }
        if let Some(template) = object.pointer_mut("/spec/template") {
            defaults::of_template(template);
        }
    }

    fn prepare_for_create(&self, object: &mut Object) {
        start(object);
        template::drop_disabled(object, &Value::Null, "/spec/template");
        set(object, "status", serde_json::json!({"replicas": 0}));
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
        report.into_errors()
    }

    fn validate_status_update(&self, object: &Object, _old: &Object) -> FieldErrors {
        let mut report = Report::default();
        replica_set::check_status(&object["status"], &mut report);
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

fn check(spec: &Value, options: &Options, report: &mut Report) {
    let at = At::root("spec");
    report.non_negative(&at.field("minReadySeconds"), number(spec, "minReadySeconds"));
    if is_empty(&spec["selector"]) {
        report.required(&at.field("selector"), "");
    }
    report.non_negative(&at.field("replicas"), number(spec, "replicas"));
    let (template, template_at) = (&spec["template"], at.field("template"));
    if !is_set(spec, "template") {
        report.required(&template_at, "");
        return;
    }
    let labels = &template["metadata"]["labels"];
    if !entries(spec, "selector").all(|(key, value)| &labels[key] == value) {
        let detail = "`selector` does not match template `labels`";
        report.invalid(&template_at.field("metadata").field("labels"), labels.clone(), detail);
    }
    spec::check_template(template, &template_at, options, report);
    template::check_endless(template, "ReplicationController", &template_at, report);
}
