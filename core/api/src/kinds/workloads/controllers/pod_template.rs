//! Pod templates.

use serde_json::Value;

use super::super::at::At;
use super::super::raise_generation;
use super::super::report::Report;
use super::super::spec::options::Options;
use super::super::spec::{self, defaults, warnings};
use super::template;
use crate::field::FieldErrors;
use crate::kinds::Kind;
use crate::object::{Object, map_mut};

/// A template that stands by itself.
pub(in super::super) struct PodTemplate;

impl Kind for PodTemplate {
    fn default(&self, object: &mut Object) {
        if let Some(template) = object.get_mut("template") {
            defaults::of_template(template);
        }
    }

    fn prepare_for_create(&self, object: &mut Object) {
        map_mut(object, "metadata").insert("generation".to_owned(), 1.into());
        template::drop_disabled(object, &Value::Null, "/template");
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        template::drop_disabled(object, old, "/template");
        raise_generation(object, old, &["template"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let mut report = Report::default();
        spec::check_template(&object["template"], &At::root("template"), &Options::for_template(None), &mut report);
        report.into_errors()
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut report = Report::default();
        let options = Options::for_template(Some(&old["template"]));
        spec::check_template(&object["template"], &At::root("template"), &options, &mut report);
        report.into_errors()
    }

    fn warnings(&self, object: &Object, old: Option<&Object>) -> Vec<String> {
        let mut found = Vec::new();
        if old.is_none() {
            warnings::of_template(&object["template"], &At::root("template"), &mut found);
        } else {
            template::template_warnings(object, old, "template", &mut found);
        }
        found
    }
}
