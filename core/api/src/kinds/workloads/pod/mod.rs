//! Pods.
//!
//! - [`update`]: what may change in a pod's spec
//! - [`status`]: what may be said of a pod
//! - [`qos`]: its class of service
//! - [`label_keys`]: label keys that become selectors at creation

mod label_keys;
mod qos;
mod status;
mod update;

use serde_json::{Value, json};

use super::at::At;
use super::read::{flag, is_set, items, number, set, text};
use super::report::Report;
use super::spec::options::Options;
use super::spec::{self, annotations, containers, defaults, disabled, warnings};
use crate::field::FieldErrors;
use crate::kinds::Kind;
use crate::names;
use crate::object::{Object, map_mut};

/// A pod.
pub(super) struct Pod;

impl Kind for Pod {
    fn default(&self, object: &mut Object) {
        defaults::of_pod(object);
    }

    fn prepare_for_create(&self, object: &mut Object) {
        map_mut(object, "metadata").insert("generation".to_owned(), 1.into());
        let mut status = json!({"phase": "Pending", "qosClass": qos::class(&object["spec"])});
        if !items(&object["spec"], "schedulingGates").is_empty() {
            status["conditions"] = json!([{
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null,
                "lastTransitionTime": object["metadata"]["creationTimestamp"],
            }]);
        }
        set(object, "status", status);
        disabled::drop(map_mut_value(object), &Value::Null);
        label_keys::merge(object);
        annotations::copy_app_armor_to_fields(object);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        crate::kinds::keep_status(object, old);
        disabled::drop(map_mut_value(object), &old["spec"]);
        super::raise_generation(object, old, &["spec"]);
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        status::prepare(object, old);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let mut report = Report::default();
        let options = Options::for_create(true);
        check(object, &options, &mut report);
        let (spec, spec_at) = (&object["spec"], At::root("spec"));
        for field in ["containers", "initContainers"] {
            let list_at = spec_at.field(field);
            for (index, container) in items(spec, field).iter().enumerate() {
                containers::untrimmed_image(container, &list_at.index(index), &mut report);
            }
        }
        if !items(spec, "ephemeralContainers").is_empty() {
            report.forbidden(&spec_at.field("ephemeralContainers"), "cannot be set on create");
        }
        if !items(spec, "schedulingGates").is_empty() && !text(spec, "nodeName").is_empty() {
            let detail = "cannot be set until all schedulingGates have been cleared";
            report.forbidden(&spec_at.field("nodeName"), detail);
        }
        annotations::check_agreement(&object["metadata"], spec, &spec_at, &mut report);
        report.into_errors()
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut report = Report::default();
        let options = Options::for_update(true, &old["spec"], &old["metadata"]);
        check(object, &options, &mut report);
        update::check(object, old, &options, &mut report);
        report.into_errors()
    }

    fn validate_status_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut report = Report::default();
        let options = Options::for_update(true, &old["spec"], &old["metadata"]);
        status::check(object, old, &options, &mut report);
        report.into_errors()
    }

    fn validate_subresource_update(&self, subresource: &str, object: &Object, old: &Object) -> FieldErrors {
        if subresource != "ephemeralcontainers" {
            return self.validate_update(object, old);
        }
        let mut report = Report::default();
        let options = Options::for_update(true, &old["spec"], &old["metadata"]);
        check(object, &options, &mut report);
        update::ephemeral_containers(object, old, &mut report);
        report.into_errors()
    }

    fn warnings(&self, object: &Object, old: Option<&Object>) -> Vec<String> {
        if old.is_some() {
            return Vec::new();
        }
        let mut found = Vec::new();
        let problems = names::dns1123_label(text(&object["metadata"], "name"));
        if !problems.is_empty() {
            found.push(format!(
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is \
                 recommended: [{}]",
                problems.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(" ")
            ));
        }
        warnings::of_pod(object, &mut found);
        found
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let of = |value: &Value, field: &str| text(value, field).to_owned();
        vec![
            ("spec.nodeName", of(spec, "nodeName")),
            ("spec.restartPolicy", of(spec, "restartPolicy")),
            ("spec.schedulerName", of(spec, "schedulerName")),
            ("spec.serviceAccountName", of(spec, "serviceAccountName")),
            ("spec.hostNetwork", flag(spec, "hostNetwork").to_string()),
            ("status.phase", of(status, "phase")),
            ("status.podIP", of(&status["podIPs"][0], "ip")),
            ("status.nominatedNodeName", of(status, "nominatedNodeName")),
        ]
    }

    fn default_grace_period_seconds(&self, object: &Object) -> Option<i64> {
        Some(number(&object["spec"], "terminationGracePeriodSeconds"))
    }
}

/// The pod's spec, to change.
fn map_mut_value(object: &mut Object) -> &mut Value {
    map_mut(object, "spec");
    &mut object["spec"]
}

/// What must be true of every pod (upstream's `validatePodMetadataAndSpec`, without the metadata).
fn check(pod: &Value, options: &Options, report: &mut Report) {
    let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
    let (metadata_at, spec_at) = (At::root("metadata"), At::root("spec"));
    annotations::check(metadata, spec, &metadata_at.field("annotations"), options, report);
    spec::check(spec, metadata, &spec_at, options, report);
    if !text(spec, "serviceAccountName").is_empty() {
        return;
    }
    let volumes_at = spec_at.field("volumes");
    for (index, volume) in items(spec, "volumes").iter().enumerate() {
        let volume_at = volumes_at.index(index);
        let projected_at = volume_at.field("projected");
        let sources_at = projected_at.field("sources");
        for (index, source) in items(&volume["projected"], "sources").iter().enumerate() {
            if is_set(source, "serviceAccountToken") {
                let detail = "must not be specified when serviceAccountName is not set";
                report.forbidden(&sources_at.index(index).field("serviceAccountToken"), detail);
            }
        }
    }
}
