//! What keeps a number of pods running: one file a kind.

mod daemon_set;
mod deployment;
mod pod_template;
mod replica_set;
mod replication_controller;
mod rolling;
mod stateful_set;
mod template;

pub(super) use self::daemon_set::DaemonSet;
pub(super) use self::deployment::Deployment;
pub(super) use self::pod_template::PodTemplate;
pub(super) use self::replica_set::ReplicaSet;
pub(super) use self::replication_controller::ReplicationController;
pub(super) use self::stateful_set::StatefulSet;
pub(super) use self::template::{drop_disabled, matches_selector, name_warning, template_warnings};

use serde_json::Value;

use super::at::At;
use super::read::number;
use super::report::Report;

/// Fields that must not be negative.
fn non_negative(value: &Value, fields: &[&str], at: &At<'_>, report: &mut Report) {
    for field in fields {
        report.non_negative(&at.field(field), number(value, field));
    }
}

/// A count that must not be more than another.
fn not_above(value: &Value, field: &str, than: &str, detail: &str, at: &At<'_>, report: &mut Report) {
    let count = number(value, field);
    if count > number(value, than) {
        report.invalid(&at.field(field), count, detail);
    }
}

/// A count that must not go down.
fn not_decremented(new: &Value, old: &Value, field: &str, at: &At<'_>, report: &mut Report) {
    let Some(before) = old[field].as_i64() else { return };
    match new[field].as_i64() {
        None => report.invalid_nil(&at.field(field), "cannot be decremented"),
        Some(count) if count < before => report.invalid(&at.field(field), count, "cannot be decremented"),
        Some(_) => {}
    }
}
