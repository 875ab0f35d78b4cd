//! The claims that pods bring along: of ephemeral volumes, and of a stateful set's templates.

use serde_json::Value;

use super::super::at::At;
use super::super::read::{is_set, items, optional_text, quantity, quantity_text, text, texts};
use super::super::report::Report;
use crate::object::is_empty;

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const METADATA: [&str; 13] = [
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "ownerReferences",
    "finalizers",
    "managedFields",
];

/// An `ephemeral` volume.
pub(super) fn ephemeral(source: &Value, at: &At<'_>, report: &mut Report) {
    let template_at = at.field("volumeClaimTemplate");
    let template = &source["volumeClaimTemplate"];
    if template.is_null() {
        return report.required(&template_at, "");
    }
    let (metadata, metadata_at) = (&template["metadata"], template_at.field("metadata"));
    report.annotations(&metadata_at.field("annotations"), metadata["annotations"].as_object());
    report.labels(&metadata_at.field("labels"), metadata["labels"].as_object());
    for field in METADATA {
        if !is_empty(&metadata[field]) {
            report.forbidden(&metadata_at.field(field), "cannot be set");
        }
    }
    spec(&template["spec"], &template_at.field("spec"), report);
}

/// The spec of a claim (upstream's `ValidatePersistentVolumeClaimSpec`).
fn spec(spec: &Value, at: &At<'_>, report: &mut Report) {
    let modes_at = at.field("accessModes");
    if items(spec, "accessModes").is_empty() {
        report.required(&modes_at, "at least 1 access mode is required");
    }
    report.label_selector(&at.field("selector"), &spec["selector"], false);
    let (mut single, mut shared) = (false, false);
    for mode in texts(spec, "accessModes") {
        report.one_of(&modes_at, mode, &ACCESS_MODES);
        single |= mode == "ReadWriteOncePod";
        shared |= mode != "ReadWriteOncePod" && ACCESS_MODES.contains(&mode);
    }
    if single && shared {
        report.forbidden(&modes_at, "may not use ReadWriteOncePod with other access modes");
    }
    let storage = &spec["resources"]["requests"]["storage"];
    let resources_at = at.field("resources");
    let storage_at = resources_at.key("storage");
    if storage.is_null() {
        report.required(&storage_at, "");
    } else if quantity(storage).sign() <= 0 {
        report.invalid(&storage_at, quantity_text(storage), "must be greater than zero");
    }
    if let Some(class) = optional_text(spec, "storageClassName").filter(|class| !class.is_empty()) {
        report.dns_subdomain(&at.field("storageClassName"), class);
    }
    if let Some(mode) = optional_text(spec, "volumeMode") {
        report.one_of(&at.field("volumeMode"), mode, &["Block", "Filesystem"]);
    }
    for field in ["dataSource", "dataSourceRef"] {
        if is_set(spec, field) {
            data_source(&spec[field], &at.field(field), report);
        }
    }
    if let Some(class) = optional_text(spec, "volumeAttributesClassName").filter(|class| !class.is_empty()) {
        report.dns_subdomain(&at.field("volumeAttributesClassName"), class);
    }
}

fn data_source(source: &Value, at: &At<'_>, report: &mut Report) {
    for field in ["name", "kind"] {
        report.required_text(&at.field(field), text(source, field));
    }
    let (group, kind) = (text(source, "apiGroup"), text(source, "kind"));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        report.invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
    }
    if !group.is_empty() {
        report.dns_subdomain(&at.field("apiGroup"), group);
    }
}
