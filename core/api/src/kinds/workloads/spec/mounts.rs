//! `volumeMounts` and `volumeDevices` of a container.

use serde_json::Value;

use super::super::at::At;
use super::super::read::{flag, is_set, items, optional_text, text};
use super::super::report::Report;
use super::volumes::Volumes;

/// `volumeMounts`.
pub(super) fn mounts(container: &Value, volumes: &Volumes<'_>, at: &At<'_>, report: &mut Report) {
    let (mounts, devices) = (items(container, "volumeMounts"), items(container, "volumeDevices"));
    for (index, mount) in mounts.iter().enumerate() {
        let item = at.index(index);
        let (name, path) = (text(mount, "name"), text(mount, "mountPath"));
        report.required_text(&item.field("name"), name);
        if volumes.get(name).is_none() {
            report.not_found(&item.field("name"), name);
        }
        report.required_text(&item.field("mountPath"), path);
        if mounts[..index].iter().any(|other| text(other, "mountPath") == path) {
            report.invalid(&item.field("mountPath"), path, "must be unique");
        }
        if devices.iter().any(|device| text(device, "name") == name) {
            report.invalid(&item.field("name"), name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|device| text(device, "devicePath") == path) {
            report.invalid(&item.field("mountPath"), path, "must not already exist as a path in volumeDevices");
        }
        // From here on upstream names the list, not the item.
        let (sub_path, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        if !sub_path.is_empty() {
            report.descending_path(&at.field("subPath"), sub_path);
        }
        if !expression.is_empty() {
            if !sub_path.is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                report.invalid(&item.field("subPathExpr"), expression, detail);
            }
            report.descending_path(&at.field("subPathExpr"), expression);
        }
        if let Some(propagation) = optional_text(mount, "mountPropagation") {
            propagated(propagation, container, &at.field("mountPropagation"), report);
        }
        recursive_read_only(mount, &at.field("recursiveReadOnly"), report);
    }
}

fn propagated(propagation: &str, container: &Value, at: &At<'_>, report: &mut Report) {
    report.one_of(at, propagation, &["Bidirectional", "HostToContainer", "None"]);
    if propagation == "Bidirectional" && !flag(&container["securityContext"], "privileged") {
        report.forbidden(at, "Bidirectional mount propagation is available only to privileged containers");
    }
}

fn recursive_read_only(mount: &Value, at: &At<'_>, report: &mut Report) {
    match optional_text(mount, "recursiveReadOnly") {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !flag(mount, "readOnly") {
                report.forbidden(at, "may only be specified when readOnly is true");
            }
            if is_set(mount, "mountPropagation") && text(mount, "mountPropagation") != "None" {
                report.forbidden(at, "may only be specified when mountPropagation is None or not specified");
            }
        }
        Some(other) => report.not_supported(at, other, &["Disabled", "IfPossible", "Enabled"]),
    }
}

/// `volumeDevices`.
pub(super) fn devices(container: &Value, volumes: &Volumes<'_>, at: &At<'_>, report: &mut Report) {
    let (mounts, devices) = (items(container, "volumeMounts"), items(container, "volumeDevices"));
    let steps_back = |path: &str| path.split('/').any(|part| part == "..");
    for (index, device) in devices.iter().enumerate() {
        let item = at.index(index);
        let (name, path) = (text(device, "name"), text(device, "devicePath"));
        let before = &devices[..index];
        let volume = volumes.get(name);
        report.required_text(&item.field("name"), name);
        if !name.is_empty() && before.iter().any(|other| text(other, "name") == name) {
            report.invalid(&item.field("name"), name, "must be unique");
        }
        match volume {
            Some(volume) if !is_set(volume, "persistentVolumeClaim") && !is_set(volume, "ephemeral") => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                report.invalid(&item.field("name"), name, detail);
            }
            Some(_) => {}
            None => report.not_found(&item.field("name"), name),
        }
        report.required_text(&item.field("devicePath"), path);
        if before.iter().any(|other| text(other, "devicePath") == path && !steps_back(path)) {
            report.invalid(&item.field("devicePath"), path, "must be unique");
        }
        if steps_back(path) {
            report.invalid(&item.field("devicePath"), path, "can not contain backsteps ('..')");
        }
        if mounts.iter().any(|mount| text(mount, "name") == name) {
            report.invalid(&item.field("name"), name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|mount| text(mount, "mountPath") == path) {
            report.invalid(&item.field("devicePath"), path, "must not already exist as a path in volumeMounts");
        }
    }
}
