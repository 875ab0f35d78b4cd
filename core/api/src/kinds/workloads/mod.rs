//! Pods and everything with a pod template.
//!
//! - [`spec`]: the spec of a pod, wherever it stands
//! - [`pod`]: pods themselves
//! - [`controllers`]: what keeps pods running
//! - [`batch`]: what runs pods to their end
//! - [`at`], [`read`], [`report`], [`equality`]: paths, fields, findings and equality of values
//! - [`internal`]: values as upstream prints them

mod at;
mod batch;
mod controllers;
mod equality;
mod internal;
mod pod;
mod read;
mod report;
mod spec;

use serde_json::Value;

use super::Kind;
use crate::object::{Object, i64_at, map_mut};

/// The hooks of a workload's kind.
pub(super) fn kind_of(group: &str, kind: &str) -> Option<&'static dyn Kind> {
    Some(match (group, kind) {
        ("", "Pod") => &pod::Pod,
        ("", "PodTemplate") => &controllers::PodTemplate,
        ("", "ReplicationController") => &controllers::ReplicationController,
        ("apps", "ReplicaSet") => &controllers::ReplicaSet,
        ("apps", "Deployment") => &controllers::Deployment,
        ("apps", "StatefulSet") => &controllers::StatefulSet,
        ("apps", "DaemonSet") => &controllers::DaemonSet,
        ("batch", "Job") => &batch::Job,
        ("batch", "CronJob") => &batch::CronJob,
        _ => return None,
    })
}

/// Raises `metadata.generation` when one of these parts differs from the old one in meaning.
fn raise_generation(object: &mut Object, old: &Object, parts: &[&str]) {
    let generation = i64_at(old, "metadata.generation").unwrap_or_default();
    let pointer = |part: &str| format!("/{}", part.replace('.', "/"));
    let changed = parts.iter().any(|part| {
        let of = |object: &Object| object.pointer(&pointer(part)).cloned().unwrap_or(Value::Null);
        !equality::equal(&of(object), &of(old))
    });
    map_mut(object, "metadata").insert("generation".to_owned(), (generation + i64::from(changed)).into());
}

/// A new object: its first generation, nothing said of it yet.
fn start(object: &mut Object) {
    map_mut(object, "metadata").insert("generation".to_owned(), 1.into());
    map_mut(object, "").insert("status".to_owned(), serde_json::json!({}));
}
