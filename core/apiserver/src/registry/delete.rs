//! DELETE: preconditions, grace periods, finalizers, and at last the removal.

use std::sync::Arc;

use gantry_api::error::ApiError;
use gantry_api::kinds::kind_of;
use gantry_api::object::{Object, i64_at, map_mut, str_at};
use gantry_api::resources::Resource;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::options::{DeleteOptions, Propagation};
use super::{Call, Current, Registry, metadata, namespaces, pods, timestamp};
use crate::admission::Operation;
use crate::cache::entry::Entry;

/// Upstream's finalizers that the garbage collector serves.
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// How often a delete whose object was changed meanwhile is made again.
const CONFLICTS_MAX: usize = 16;

/// What a delete did.
pub enum Deleted {
    /// The object is still there, being deleted; or it is gone and the resource answers with it.
    Object(Arc<Entry>),
    /// The object is gone.
    Gone {
        /// Its uid.
        uid: String,
    },
}

/// What a delete does to the current object.
#[derive(Debug, PartialEq)]
enum Step {
    /// It has been told to go already: nothing to do.
    Pending,
    /// It is told to go, and stays until what holds it lets go.
    Mark(Object),
    /// It goes at once; the object is its last state.
    Remove(Object),
}

impl Registry {
    /// Deletes a call's object.
    pub async fn delete(&self, call: &Call<'_>, options: &DeleteOptions) -> Result<(Deleted, Vec<String>), ApiError> {
        self.catch_up().await?;
        let call = Call { dry_run: call.dry_run || options.dry_run, ..*call };
        let mut current = self.cached(&call)?;
        for attempt in 0..CONFLICTS_MAX {
            if attempt > 0 {
                current = self.latest(&call).await?;
            }
            let Some(old) = &current else { return Err(call.not_found()) };
            check_preconditions(call.resource, call.name, &old.object, options)?;
            let mut nothing = Value::Null;
            let warnings = self
                .admission
                .admit(&call.admission(Operation::Delete), &mut nothing, Some(&old.object), &*self.caches)
                .await?;
            self.admission
                .validate(&call.admission(Operation::Delete), &Value::Null, Some(&old.object), &*self.caches)
                .await?;
            if let Some(deleted) =
                self.take_step(&call, old, step(call.resource, &old.object, options, Timestamp::now())).await?
            {
                return Ok((deleted, warnings));
            }
            if options.resource_version.is_some() {
                return Err(ApiError::modified(call.resource, call.name));
            }
        }
        Err(ApiError::modified(call.resource, call.name))
    }

    async fn take_step(&self, call: &Call<'_>, old: &Current, step: Step) -> Result<Option<Deleted>, ApiError> {
        match step {
            Step::Pending => {
                let encoded = self.encode(call, &old.object)?;
                self.unsaved(encoded, old.revision).map(|entry| Some(Deleted::Object(entry)))
            }
            Step::Mark(object) => {
                let encoded = self.encode(call, &object)?;
                if call.dry_run {
                    return self.unsaved(encoded, old.revision).map(|entry| Some(Deleted::Object(entry)));
                }
                if encoded.value == self.encode(call, &old.object)?.value {
                    return self.unsaved(encoded, old.revision).map(|entry| Some(Deleted::Object(entry)));
                }
                Ok(self.put(encoded, old.revision, super::commit::Extra::default()).await?.map(Deleted::Object))
            }
            Step::Remove(object) => {
                let encoded = self.encode(call, &object)?;
                let revision = if call.dry_run {
                    Some(old.revision)
                } else {
                    let extra = self.services.release(call.resource, &old.object);
                    self.remove(self.store_key(call)?, old.revision, extra).await?
                };
                let Some(revision) = revision else { return Ok(None) };
                if answers_with_object(call.resource) {
                    let shown = if object == old.object { old.revision } else { revision };
                    return self.unsaved(encoded, shown).map(|entry| Some(Deleted::Object(entry)));
                }
                Ok(Some(Deleted::Gone { uid: metadata::uid(&object).to_owned() }))
            }
        }
    }
}

/// Kinds whose registry upstream tells to answer a delete with the object (`ReturnDeletedObject`).
fn answers_with_object(resource: &Resource) -> bool {
    matches!(
        (resource.group.as_str(), resource.plural.as_str()),
        (
            "",
            "pods"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "podtemplates"
                | "resourcequotas"
                | "serviceaccounts"
                | "services"
        ) | (
            "storage.k8s.io",
            "csidrivers" | "csinodes" | "storageclasses" | "volumeattachments" | "volumeattributesclasses"
        ) | ("resource.k8s.io", _)
    )
}

/// Kinds whose dependents stay unless a delete says otherwise.
fn orphans_by_default(resource: &Resource) -> bool {
    matches!((resource.group.as_str(), resource.plural.as_str()), ("", "replicationcontrollers") | ("batch", "jobs"))
}

fn check_preconditions(
    resource: &Resource,
    name: &str,
    object: &Object,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let subject = (resource.group.as_str(), resource.kind.as_str());
    let check = |what: &str, noun: &str, wanted: &Option<String>, actual: &str| match wanted {
        Some(wanted) if wanted != actual => Err(ApiError::conflict(
            subject,
            name,
            &format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({actual}). The object might have been {noun}"
            ),
        )),
        _ => Ok(()),
    };
    check("UID", "deleted and then recreated", &options.uid, metadata::uid(object))?;
    check("ResourceVersion", "modified", &options.resource_version, str_at(object, "metadata.resourceVersion"))
}

/// The next step of a delete, by what the object is (upstream's `rest.BeforeDelete` and `Store.Delete`).
fn step(resource: &Resource, old: &Object, options: &DeleteOptions, now: Timestamp) -> Step {
    if namespaces::is_namespace(resource) {
        return namespace_step(old, options, now);
    }
    let mut object = old.clone();
    let finalizers = finalizers_for(resource, old, options);
    metadata::set_finalizers(&mut object, &finalizers);
    let grace = grace_seconds(resource, old, options);
    if metadata::is_terminating(old) {
        return match (grace, i64_at(old, "metadata.deletionGracePeriodSeconds")) {
            // Only a shorter grace period is news.
            (Some(_), Some(before)) => match options.grace_period_seconds.map(|asked| asked.max(0)) {
                Some(asked) if asked < before => {
                    shorten(&mut object, before, asked);
                    if asked == 0 && finalizers.is_empty() { Step::Remove(object) } else { Step::Mark(object) }
                }
                _ if before == 0 && finalizers.is_empty() => Step::Remove(object),
                _ => Step::Pending,
            },
            _ if finalizers.is_empty() => Step::Remove(object),
            _ => Step::Mark(object),
        };
    }
    match grace {
        Some(seconds) => {
            mark(&mut object, now, seconds);
            if seconds == 0 && finalizers.is_empty() { Step::Remove(object) } else { Step::Mark(object) }
        }
        None if finalizers.is_empty() => Step::Remove(old.clone()),
        None => {
            mark(&mut object, now, 0);
            Step::Mark(object)
        }
    }
}

/// Namespaces have finalizers of their own in `spec`, and no grace period.
fn namespace_step(old: &Object, options: &DeleteOptions, now: Timestamp) -> Step {
    let mut object = old.clone();
    if namespaces::finalizers(old).is_empty() && metadata::finalizers(old).is_empty() {
        return Step::Remove(object);
    }
    if metadata::is_terminating(old) {
        return Step::Pending;
    }
    let _ = options;
    map_mut(&mut object, "metadata").insert("deletionTimestamp".to_owned(), json!(timestamp(now)));
    map_mut(&mut object, "status").insert("phase".to_owned(), json!("Terminating"));
    Step::Mark(object)
}

/// The grace period in seconds; `None` for kinds that have none.
fn grace_seconds(resource: &Resource, object: &Object, options: &DeleteOptions) -> Option<i64> {
    let default = kind_of(&resource.group, &resource.kind).default_grace_period_seconds(object)?;
    let asked = match options.grace_period_seconds {
        Some(seconds) if seconds < 0 => 1,
        Some(seconds) => seconds,
        None => default,
    };
    if pods::is_pod(resource) && pods::goes_at_once(object) { Some(0) } else { Some(asked) }
}

fn mark(object: &mut Object, now: Timestamp, seconds: i64) {
    let until = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    let metadata = map_mut(object, "metadata");
    metadata.insert("deletionTimestamp".to_owned(), json!(timestamp(until)));
    metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(seconds));
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64).filter(|generation| *generation > 0) {
        metadata.insert("generation".to_owned(), json!(generation + 1));
    }
}

fn shorten(object: &mut Object, before: i64, asked: i64) {
    let until: Option<Timestamp> = str_at(object, "metadata.deletionTimestamp").parse().ok();
    let metadata = map_mut(object, "metadata");
    metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(asked));
    if let Some(until) = until.and_then(|until| until.checked_sub(SignedDuration::from_secs(before - asked)).ok()) {
        metadata.insert("deletionTimestamp".to_owned(), json!(timestamp(until)));
    }
}

/// The finalizers that a delete leaves on the object (upstream's `deletionFinalizersForGarbageCollection`).
fn finalizers_for(resource: &Resource, object: &Object, options: &DeleteOptions) -> Vec<String> {
    let before = metadata::finalizers(object);
    let had = |name: &str| before.iter().any(|finalizer| finalizer == name);
    let (orphan, foreground) = match (options.orphan_dependents, options.propagation) {
        (Some(orphan), _) => (orphan, false),
        (None, Some(Propagation::Orphan)) => (true, false),
        (None, Some(Propagation::Foreground)) => (false, true),
        (None, Some(Propagation::Background)) => (false, false),
        (None, None) if had(ORPHAN) || had(FOREGROUND) => (had(ORPHAN), had(FOREGROUND)),
        (None, None) => (orphans_by_default(resource), false),
    };
    let mut after: Vec<String> =
        before.iter().filter(|finalizer| *finalizer != ORPHAN && *finalizer != FOREGROUND).cloned().collect();
    if orphan {
        after.push(ORPHAN.to_owned());
    }
    if foreground {
        after.push(FOREGROUND.to_owned());
    }
    after
}
