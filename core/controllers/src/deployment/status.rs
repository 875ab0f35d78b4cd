//! The status of a deployment and its conditions. Source: `sync.go`, `progress.go` and `deployment_util.go`.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::rollout::{max_unavailable, replicas, total_available};
use crate::pods::elapsed;

/// A condition of a status.
pub fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Sets a condition. Its transition time stays when only the reason or message changes; nothing happens when neither
/// status nor reason do.
pub fn set_condition(
    status: &mut DeploymentStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions.iter().find(|condition| condition.type_ == kind);
    if old.is_some_and(|old| old.status == value && old.reason.as_deref() == Some(reason)) {
        return;
    }
    let transition =
        old.filter(|old| old.status == value).and_then(|old| old.last_transition_time.clone()).unwrap_or(Time(now));
    conditions.retain(|condition| condition.type_ != kind);
    conditions.push(DeploymentCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(transition),
    });
}

/// Removes a condition.
pub fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = status.conditions.as_mut() {
        conditions.retain(|condition| condition.type_ != kind);
    }
}

fn sum(sets: &[ReplicaSet], count: impl Fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32) -> i32 {
    sets.iter().filter_map(|set| set.status.as_ref()).map(count).sum()
}

/// The counts and the condition Available, on top of the conditions in `old`.
pub fn calculate(
    deployment: &Deployment,
    all: &[ReplicaSet],
    new_set: Option<&ReplicaSet>,
    old: &DeploymentStatus,
    now: Timestamp,
) -> DeploymentStatus {
    let available = total_available(all);
    let total = all.iter().map(super::rollout::set_replicas).sum::<i32>();
    let some = |count: i32| (count > 0).then_some(count);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sum(all, |status| status.replicas)),
        updated_replicas: some(
            new_set.and_then(|set| set.status.as_ref()).map(|status| status.replicas).unwrap_or_default(),
        ),
        ready_replicas: some(sum(all, |status| status.ready_replicas.unwrap_or_default())),
        available_replicas: some(available),
        unavailable_replicas: some(total - available),
        terminating_replicas: Some(sum(all, |status| status.terminating_replicas.unwrap_or_default())),
        collision_count: old.collision_count,
        conditions: old.conditions.clone(),
    };
    let (value, reason, message) = if available >= replicas(deployment) - max_unavailable(deployment) {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set_condition(&mut status, "Available", value, reason, message.to_owned(), now);
    status
}

/// Whether all that was asked for is there and nothing else.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = replicas(deployment);
    status.updated_replicas.unwrap_or_default() == wanted
        && status.replicas.unwrap_or_default() == wanted
        && status.available_replicas.unwrap_or_default() == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn is_progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let count = |value: Option<i32>| value.unwrap_or_default();
    let old_old = count(old.replicas) - count(old.updated_replicas);
    let new_old = count(new.replicas) - count(new.updated_replicas);
    count(new.updated_replicas) > count(old.updated_replicas)
        || new_old < old_old
        || count(new.ready_replicas) > count(old.ready_replicas)
        || count(new.available_replicas) > count(old.available_replicas)
}

/// The time a rollout may stand still; none when there is no limit (`MaxInt32`, or none given).
fn deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    (seconds != i32::MAX).then(|| Duration::from_secs(seconds.max(0) as u64))
}

/// Whether the deployment has a deadline for its progress.
pub fn has_deadline(deployment: &Deployment) -> bool {
    deadline(deployment).is_some()
}

fn timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let Some(progressing) = condition(status, "Progressing") else { return false };
    match progressing.reason.as_deref() {
        // Complete ones don't time out; they start again with the next rollout.
        Some("NewReplicaSetAvailable") => return false,
        Some("ProgressDeadlineExceeded") => return true,
        _ => {}
    }
    let (Some(limit), Some(since)) = (deadline(deployment), progressing.last_update_time.as_ref()) else {
        return false;
    };
    elapsed(since.0, now) > limit
}

/// The status after a step of a rollout, and when to look at it again for the sake of its deadline. `old` are the sets
/// that aren't current.
pub fn rollout_status(
    deployment: &Deployment,
    all: &[ReplicaSet],
    new_set: Option<&ReplicaSet>,
    old_status: &DeploymentStatus,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let mut status = calculate(deployment, all, new_set, old_status, now);
    if !has_deadline(deployment) {
        remove_condition(&mut status, "Progressing");
    }
    let current = condition(old_status, "Progressing").cloned();
    let is_complete_again = status.replicas == status.updated_replicas
        && current.as_ref().is_some_and(|current| current.reason.as_deref() == Some("NewReplicaSetAvailable"));
    if has_deadline(deployment) && !is_complete_again {
        let subject = match new_set {
            Some(set) => format!("ReplicaSet \"{}\"", set.metadata.name.as_deref().unwrap_or_default()),
            None => format!("Deployment \"{}\"", deployment.metadata.name.as_deref().unwrap_or_default()),
        };
        if is_complete(deployment, &status) {
            let message = format!("{subject} has successfully progressed.");
            set_condition(&mut status, "Progressing", "True", "NewReplicaSetAvailable", message, now);
        } else if is_progressing(deployment.status.as_ref().unwrap_or(&DeploymentStatus::default()), &status) {
            let message = format!("{subject} is progressing.");
            let unchanged = current.as_ref().is_some_and(|current| {
                current.status == "True" && current.reason.as_deref() == Some("ReplicaSetUpdated")
            });
            if unchanged {
                // Progress moves the deadline, though nothing else changes.
                for condition in status.conditions.iter_mut().flatten() {
                    if condition.type_ == "Progressing" {
                        condition.last_update_time = Some(Time(now));
                        condition.message = Some(message.clone());
                    }
                }
            } else {
                let transition = current.filter(|old| old.status == "True").and_then(|old| old.last_transition_time);
                remove_condition(&mut status, "Progressing");
                set_condition(&mut status, "Progressing", "True", "ReplicaSetUpdated", message, now);
                if let (Some(transition), Some(last)) = (transition, status.conditions.iter_mut().flatten().last()) {
                    last.last_transition_time = Some(transition);
                }
            }
        } else if timed_out(deployment, &status, now) {
            let message = format!("{subject} has timed out progressing.");
            set_condition(&mut status, "Progressing", "False", "ProgressDeadlineExceeded", message, now);
        }
    }
    match replica_failure(all, new_set) {
        Some(failure) => set_condition(
            &mut status,
            "ReplicaFailure",
            &failure.status,
            &failure.reason.unwrap_or_default(),
            failure.message.unwrap_or_default(),
            now,
        ),
        None => remove_condition(&mut status, "ReplicaFailure"),
    }
    let again = stuck_check(deployment, &status, now);
    (status, again)
}

fn replica_failure(
    all: &[ReplicaSet],
    new_set: Option<&ReplicaSet>,
) -> Option<k8s_openapi::api::apps::v1::ReplicaSetCondition> {
    let failure = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == "ReplicaFailure").cloned()
    };
    new_set.and_then(failure).or_else(|| all.iter().find_map(failure))
}

/// When a rollout that stands still passes its deadline.
fn stuck_check(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let limit = deadline(deployment)?;
    let progressing = condition(status, "Progressing")?;
    if is_complete(deployment, status)
        || matches!(progressing.reason.as_deref(), Some("NewReplicaSetAvailable" | "ProgressDeadlineExceeded"))
    {
        return None;
    }
    let since = progressing.last_update_time.as_ref()?.0;
    // A second more, so that it surely has passed then.
    Some(limit.saturating_sub(elapsed(since, now)) + Duration::from_secs(1))
}
