//! Annotations that mean something to a pod: mirror pods, deletion cost, and the profiles that had no fields once.

use serde_json::Value;

use super::super::at::At;
use super::super::read::{entries, is_set, map, optional_text, text};
use super::super::report::Report;
use super::options::Options;
use super::{all_containers, deletion_cost};
use crate::error::quoted;

/// Marks the API's image of a pod that a node runs by itself.
pub(in super::super) const MIRROR: &str = "kubernetes.io/config.mirror";
/// AppArmor's profile of a container; its name follows.
pub(in super::super) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
/// Seccomp's profile of a pod, and of a container, whose name follows.
pub(in super::super) const SECCOMP: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub(in super::super) const SECCOMP_OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";

/// What is wrong with annotations (upstream's `ValidatePodSpecificAnnotations`).
pub(in super::super) fn check(metadata: &Value, spec: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    let Some(annotations) = map(metadata, "annotations").filter(|annotations| !annotations.is_empty()) else { return };
    if let Some(value) = annotations.get(MIRROR).filter(|_| text(spec, "nodeName").is_empty()) {
        report.invalid(&at.key(MIRROR), value.clone(), "must set spec.nodeName if mirror pod annotation is set");
    }
    if let Some(list) = annotations.get(TOLERATIONS).and_then(Value::as_str).filter(|list| !list.is_empty()) {
        match serde_json::from_str::<Value>(list) {
            Ok(list) if list.is_array() => {
                let spec = serde_json::json!({"tolerations": list});
                super::placement::tolerations(&spec, &at.field(TOLERATIONS), options, report);
            }
            Ok(_) => {
                let detail = "json: cannot unmarshal value into Go value of type []v1.Toleration";
                report.invalid(at, TOLERATIONS, detail);
            }
            Err(error) => report.invalid(at, TOLERATIONS, error.to_string()),
        }
    }
    if !options.invalid_deletion_cost
        && let Err(value) = deletion_cost(&metadata["annotations"])
    {
        report.invalid(&at.key(DELETION_COST), value, "must be a 32bit integer");
    }
    if let Some(profile) = annotations.get(SECCOMP).and_then(Value::as_str) {
        seccomp(profile, &at.field(SECCOMP), report);
    }
    for (key, profile) in entries(metadata, "annotations") {
        if key.starts_with(SECCOMP_OF_CONTAINER) {
            seccomp(profile.as_str().unwrap_or_default(), &at.field(key), report);
        }
    }
    for (key, profile) in entries(metadata, "annotations") {
        let Some(container) = key.strip_prefix(APP_ARMOR) else { continue };
        if !all_containers(spec).any(|(_, other)| text(other, "name") == container) {
            report.invalid(&at.key(key), container, "container not found");
        }
        let profile = profile.as_str().unwrap_or_default();
        if !matches!(profile, "" | "runtime/default" | "unconfined") && !profile.starts_with("localhost/") {
            let detail = format!("invalid AppArmor profile name: {}", quoted(profile));
            report.invalid(&at.key(key), profile, detail);
        }
    }
}

fn seccomp(profile: &str, at: &At<'_>, report: &mut Report) {
    if matches!(profile, "runtime/default" | "docker/default" | "unconfined") {
        return;
    }
    match profile.strip_prefix("localhost/") {
        Some(path) => report.descending_path(at, path),
        None => report.invalid(at, profile, "must be a valid seccomp profile"),
    }
}

/// What is wrong with a change of annotations (upstream's `ValidatePodSpecificAnnotationUpdates`).
pub(in super::super) fn check_update(pod: &Value, old: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    let (new_metadata, old_metadata) = (&pod["metadata"], &old["metadata"]);
    let (new, before) = (&new_metadata["annotations"], &old_metadata["annotations"]);
    for (key, value) in entries(old_metadata, "annotations") {
        if &new[key] == value {
            continue;
        }
        if key.starts_with(APP_ARMOR) {
            report.forbidden(&at.key(key), "may not remove or update AppArmor annotations");
        }
        if key == MIRROR {
            report.forbidden(&at.key(key), "may not remove or update mirror pod annotation");
        }
    }
    for (key, _) in entries(new_metadata, "annotations").filter(|(key, _)| before[key].is_null()) {
        if key.starts_with(APP_ARMOR) {
            report.forbidden(&at.key(key), "may not add AppArmor annotations");
        }
        if key == MIRROR {
            report.forbidden(&at.key(key), "may not add mirror pod annotation");
        }
    }
    check(new_metadata, &pod["spec"], at, options, report);
}

/// Annotations of profiles and the fields that replaced them say the same.
pub(in super::super) fn check_agreement(metadata: &Value, spec: &Value, at: &At<'_>, report: &mut Report) {
    let annotations = &metadata["annotations"];
    if annotations.is_null() {
        return;
    }
    let pod = &spec["securityContext"];
    if let Some(annotation) = optional_text(annotations, SECCOMP) {
        seccomp_agrees(
            annotation,
            &pod["seccompProfile"],
            &at.field("securityContext").field("seccompProfile"),
            report,
        );
    }
    super::visit_containers(spec, at, &mut |container, at| {
        let key = format!("{SECCOMP_OF_CONTAINER}{}", text(container, "name"));
        if let Some(annotation) = optional_text(annotations, &key) {
            let profile = &container["securityContext"]["seccompProfile"];
            seccomp_agrees(annotation, profile, &at.field("securityContext").field("seccompProfile"), report);
        }
    });
    if text(&spec["os"], "name") == "windows" {
        return;
    }
    super::visit_containers(spec, at, &mut |container, at| {
        let own = &container["securityContext"]["appArmorProfile"];
        let profile = if own.is_null() { &pod["appArmorProfile"] } else { own };
        let key = format!("{APP_ARMOR}{}", text(container, "name"));
        if let Some(annotation) = optional_text(annotations, &key) {
            let context_at = at.field("securityContext");
            app_armor_agrees(annotation, profile, &context_at.field("appArmorProfile"), report);
        }
    });
}

fn seccomp_agrees(annotation: &str, profile: &Value, at: &At<'_>, report: &mut Report) {
    let types = "seccomp type in annotation and field must match";
    match text(profile, "type") {
        "Unconfined" if annotation != "unconfined" => report.forbidden(&at.field("type"), types),
        "RuntimeDefault" if !matches!(annotation, "runtime/default" | "docker/default") => {
            report.forbidden(&at.field("type"), types);
        }
        "Localhost" => match annotation.strip_prefix("localhost/") {
            None => report.forbidden(&at.field("type"), types),
            Some(path) if optional_text(profile, "localhostProfile") != Some(path) => {
                let detail = "seccomp profile in annotation and field must match";
                report.forbidden(&at.field("localhostProfile"), detail);
            }
            Some(_) => {}
        },
        _ => {}
    }
}

fn app_armor_agrees(annotation: &str, profile: &Value, at: &At<'_>, report: &mut Report) {
    let types = "apparmor type in annotation and field must match";
    match text(profile, "type") {
        "Unconfined" if annotation != "unconfined" => report.forbidden(&at.field("type"), types),
        "RuntimeDefault" if annotation != "runtime/default" => report.forbidden(&at.field("type"), types),
        "Localhost" => match annotation.strip_prefix("localhost/") {
            None => report.forbidden(&at.field("type"), types),
            Some(name) if optional_text(profile, "localhostProfile") != Some(name) => {
                let detail = "apparmor profile in annotation and field must match";
                report.forbidden(&at.field("localhostProfile"), detail);
            }
            Some(_) => {}
        },
        _ => {}
    }
}

/// The field that an AppArmor annotation means; null when it means none (upstream's `ApparmorFieldForAnnotation`).
fn app_armor_field(annotation: &str) -> Value {
    match annotation {
        "unconfined" => serde_json::json!({"type": "Unconfined"}),
        "runtime/default" => serde_json::json!({"type": "RuntimeDefault"}),
        _ => match annotation.strip_prefix("localhost/").filter(|name| !name.is_empty()) {
            Some(name) => serde_json::json!({"type": "Localhost", "localhostProfile": name}),
            None => Value::Null,
        },
    }
}

/// Copies AppArmor annotations of a new pod into the fields (KEP-24).
pub(in super::super) fn copy_app_armor_to_fields(pod: &mut Value) {
    if !entries(&pod["metadata"], "annotations").any(|(key, _)| key.starts_with(APP_ARMOR))
        || text(&pod["spec"]["os"], "name") == "windows"
    {
        return;
    }
    let annotations = pod["metadata"]["annotations"].clone();
    let of_pod = pod["spec"]["securityContext"]["appArmorProfile"].clone();
    super::visit_containers_mut(&mut pod["spec"], &mut |container| {
        let key = format!("{APP_ARMOR}{}", text(container, "name"));
        let Some(annotation) = optional_text(&annotations, &key) else { return };
        if is_set(&container["securityContext"], "appArmorProfile") {
            return;
        }
        let field = app_armor_field(annotation);
        if !field.is_null() && field != of_pod {
            crate::object::map_mut(container, "securityContext").insert("appArmorProfile".to_owned(), field);
        }
    });
}
