//! PUT and PATCH: a new object from the old one, compared and swapped.

use std::sync::Arc;

use gantry_api::error::ApiError;
use gantry_api::field::{FieldError, FieldPath};
use gantry_api::kinds::{keep_all_but_status, kind_of};
use gantry_api::object::{Object, map_mut, str_at};
use gantry_api::schema::apply_defaults;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::validate::validate_update;
use super::{Call, Current, Registry, metadata, namespaces, pods};
use crate::admission::Operation;
use crate::cache::entry::Entry;

/// How often a write whose object was changed meanwhile is made again.
const CONFLICTS_MAX: usize = 16;

/// A new object made from the current one. It is called again when the object was changed meanwhile.
pub type Transform<'t> = dyn Fn(&Object) -> Result<Object, ApiError> + Send + Sync + 't;

/// What a write did.
pub struct Written {
    /// The object as it is now.
    pub entry: Arc<Entry>,
    /// Whether it was created.
    pub created: bool,
    /// For the client.
    pub warnings: Vec<String>,
}

/// Where an update comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The object itself.
    Main,
    /// A subresource that changes the status only.
    Status,
    /// One that decides by itself what of the object changes: its transform is the whole truth.
    Special,
}

impl Registry {
    /// PUT: replaces a call's object.
    pub async fn replace(&self, call: &Call<'_>, object: Object, door: Door) -> Result<Written, ApiError> {
        metadata::match_name(&object, call)?;
        let mut object = object;
        metadata::match_namespace(&mut object, call.resource, call.namespace)?;
        apply_defaults(call.resource, &mut object);
        let kind = kind_of(&call.resource.group, &call.resource.kind);
        if self.entry(call).await.is_err() && door == Door::Main && kind.allow_create_on_update() {
            let (entry, warnings) = self.create(call, object).await?;
            return Ok(Written { entry, created: true, warnings });
        }
        if str_at(&object, "metadata.resourceVersion").is_empty() && !kind.allow_unconditional_update() {
            // Only now: of what isn't there upstream says so first.
            self.entry(call).await?;
            let error =
                FieldError::invalid(&FieldPath::new("metadata.resourceVersion"), 0, "must be specified for an update");
            return Err(ApiError::invalid(call.resource, call.name, &[error]));
        }
        self.update(call, door, &|_| Ok(object.clone())).await
    }

    /// Changes a call's object by a function of what it is. The new object may carry a resourceVersion that it must
    /// be made of; without one it is made again when somebody else was faster.
    pub async fn update(&self, call: &Call<'_>, door: Door, transform: &Transform<'_>) -> Result<Written, ApiError> {
        self.catch_up().await?;
        let mut current = self.cached(call)?;
        for attempt in 0..CONFLICTS_MAX {
            if attempt > 0 {
                current = self.latest(call).await?;
            }
            let Some(old) = &current else {
                if attempt == 0 {
                    // The cache may be behind a store that others write.
                    current = self.latest(call).await?;
                    if current.is_some() {
                        continue;
                    }
                }
                return Err(call.not_found());
            };
            let mut warnings = Vec::new();
            let object = transform(&old.object)?;
            let conditional = check_preconditions(call, &object, old, &self.store_key(call)?)?;
            let object = self.prepare_update(call, door, object, &old.object, &mut warnings).await?;
            match self.commit_update(call, object, old).await? {
                Some(entry) => return Ok(Written { entry, created: false, warnings }),
                None if conditional => return Err(ApiError::modified(call.resource, call.name)),
                None => {}
            }
        }
        Err(ApiError::modified(call.resource, call.name))
    }

    /// Everything between the new object and its commit: strategy, admission, validation.
    async fn prepare_update(
        &self,
        call: &Call<'_>,
        door: Door,
        object: Object,
        old: &Object,
        warnings: &mut Vec<String>,
    ) -> Result<Object, ApiError> {
        let mut object = object;
        let kind = kind_of(&call.resource.group, &call.resource.kind);
        metadata::match_namespace(&mut object, call.resource, call.namespace)?;
        let resource_version = object.pointer("/metadata/resourceVersion").cloned();
        match door {
            Door::Main => {
                warnings.extend(
                    self.admission
                        .admit(&call.admission(Operation::Update), &mut object, Some(old), &*self.caches)
                        .await?,
                );
                metadata::fill_for_update(&mut object, old);
                kind.prepare_for_update(&mut object, old);
            }
            Door::Status => {
                metadata::fill_for_update(&mut object, old);
                kind.prepare_for_status_update(&mut object, old);
                warnings.extend(
                    self.admission
                        .admit(&call.admission(Operation::Update), &mut object, Some(old), &*self.caches)
                        .await?,
                );
            }
            Door::Special => {
                metadata::fill_for_update(&mut object, old);
                warnings.extend(
                    self.admission
                        .admit(&call.admission(Operation::Update), &mut object, Some(old), &*self.caches)
                        .await?,
                );
            }
        }
        kind.stamp(&mut object, Some(old), Timestamp::now());
        // One that names no version is made of whatever is there.
        let version = resource_version
            .filter(|version| !matches!(version.as_str(), Some("" | "0")))
            .or_else(|| old.pointer("/metadata/resourceVersion").cloned());
        if let Some(version) = version {
            map_mut(&mut object, "metadata").insert("resourceVersion".to_owned(), version);
        }
        let errors = match door {
            Door::Main => validate_update(call.resource, &object, old, call.subresource),
            Door::Status => validate_update(call.resource, &object, old, "status"),
            Door::Special => gantry_api::metadata::validate_update(&object, old),
        };
        if !errors.is_empty() {
            return Err(ApiError::invalid(call.resource, call.name, &errors));
        }
        if door == Door::Main {
            warnings.extend(kind.warnings(&object, Some(old)));
        }
        warnings.extend(
            self.admission.validate(&call.admission(Operation::Update), &object, Some(old), &*self.caches).await?,
        );
        Ok(object)
    }

    /// Writes the new object, or removes it when nothing holds it any more; `None` when somebody else was faster.
    async fn commit_update(
        &self,
        call: &Call<'_>,
        object: Object,
        old: &Current,
    ) -> Result<Option<Arc<Entry>>, ApiError> {
        let mut object = object;
        let reservation =
            self.services.reserve(&self.caches, call.resource, &object, Some(&old.object), call.dry_run)?;
        reservation.apply(&mut object);
        let before = self.encode(call, &old.object)?;
        let encoded = self.encode(call, &object)?;
        if call.dry_run {
            return self.unsaved(encoded, old.revision).map(Some);
        }
        if self.is_released(call, &object, &old.object) {
            let key = self.store_key(call)?;
            let extra = self.services.release(call.resource, &old.object);
            return match self.remove(key, old.revision, extra).await? {
                Some(revision) => self.unsaved(encoded, revision).map(Some),
                None => Ok(None),
            };
        }
        if before.value == encoded.value {
            // Nothing changed: nothing is written, and the resourceVersion stays.
            return self.unsaved(encoded, old.revision).map(Some);
        }
        self.put(encoded, old.revision, reservation.extra()).await
    }

    /// Whether an object that is being deleted is held by nothing any more.
    fn is_released(&self, call: &Call<'_>, object: &Object, old: &Object) -> bool {
        if !metadata::is_terminating(object) || !metadata::finalizers(object).is_empty() {
            return false;
        }
        if namespaces::is_namespace(call.resource) {
            return namespaces::finalizers(object).is_empty();
        }
        if pods::is_pod(call.resource) && object["metadata"]["deletionGracePeriodSeconds"].as_i64() != Some(0) {
            return false;
        }
        // Finalizers that were there have gone; without any there was nothing to wait for but the grace period.
        object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or_default() == 0
            || !metadata::finalizers(old).is_empty()
    }
}

/// Checks resourceVersion and uid of the new object against the current one. Answers whether a resourceVersion was given.
fn check_preconditions(call: &Call<'_>, object: &Object, old: &Current, key: &str) -> Result<bool, ApiError> {
    let given = str_at(object, "metadata.uid");
    let uid = metadata::uid(&old.object);
    if !given.is_empty() && given != uid {
        let text = format!(
            "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {given}, UID in object meta: {uid}"
        );
        return Err(ApiError::conflict(call.resource, call.name, &text));
    }
    let version = str_at(object, "metadata.resourceVersion");
    if version.is_empty() || version == "0" {
        return Ok(false);
    }
    let parsed = super::options::parse_version(version).map_err(|_| {
        ApiError::invalid(
            call.resource,
            call.name,
            &[FieldError::invalid(
                &FieldPath::new("metadata.resourceVersion"),
                version,
                "must be specified for an update",
            )],
        )
    })?;
    if parsed != old.revision {
        return Err(ApiError::modified(call.resource, call.name));
    }
    Ok(true)
}

/// A transform for `/status` of kinds without a rule of their own.
pub fn only_status(object: &Object, old: &Object) -> Object {
    let mut object = object.clone();
    keep_all_but_status(&mut object, old);
    object
}

/// The object with its resourceVersion taken away, so that it isn't a precondition.
pub fn without_version(mut object: Object) -> Object {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    object
}

/// A `Status` of success.
pub fn success(code: Option<u16>) -> Value {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if let Some(code) = code {
        status["code"] = json!(code);
    }
    status
}
