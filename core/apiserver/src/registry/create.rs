//! POST on a collection.

use std::sync::Arc;

use gantry_api::error::ApiError;
use gantry_api::kinds::kind_of;
use gantry_api::object::{Object, str_at};
use gantry_api::schema::{apply_defaults, normalize};
use jiff::Timestamp;

use super::services::Reservation;
use super::validate::validate_create;
use super::{Call, Registry, metadata};
use crate::admission::Operation;
use crate::cache::entry::Entry;

/// How often a generated name that is taken is drawn again.
const GENERATED_NAMES_MAX: usize = 8;

impl Registry {
    /// Creates an object; answers with its entry and warnings.
    pub async fn create(&self, call: &Call<'_>, object: Object) -> Result<(Arc<Entry>, Vec<String>), ApiError> {
        if !str_at(&object, "metadata.resourceVersion").is_empty() {
            return Err(ApiError::plain("resourceVersion should not be set on objects to be created"));
        }
        let mut object = object;
        metadata::match_namespace(&mut object, call.resource, call.namespace)?;
        apply_defaults(call.resource, &mut object);
        let mut warnings = Vec::new();
        let given_name = str_at(&object, "metadata.name").to_owned();
        warnings
            .extend(self.admission.admit(&call.admission(Operation::Create), &mut object, None, &*self.caches).await?);
        for attempt in 1.. {
            let mut candidate = object.clone();
            let generated = given_name.is_empty();
            match self.create_once(call, &mut candidate, &mut warnings).await {
                Err(error) if generated && error.reason == gantry_api::error::Reason::AlreadyExists => {
                    if attempt >= GENERATED_NAMES_MAX {
                        return Err(ApiError::generate_name_conflict(
                            call.resource,
                            str_at(&candidate, "metadata.name"),
                            1,
                        ));
                    }
                }
                Err(error) => return Err(error),
                Ok(entry) => return Ok((entry, warnings)),
            }
        }
        Err(ApiError::internal("no name was free"))
    }

    async fn create_once(
        &self,
        call: &Call<'_>,
        object: &mut Object,
        warnings: &mut Vec<String>,
    ) -> Result<Arc<Entry>, ApiError> {
        let resource = call.resource;
        let kind = kind_of(&resource.group, &resource.kind);
        let now = Timestamp::now();
        metadata::fill_for_create(object, now);
        kind.prepare_for_create(object);
        if object.get("status").is_some() {
            // An emptied status is written with the fields that Go always writes.
            normalize(resource, object);
        }
        kind.stamp(object, None, now);
        let name = str_at(object, "metadata.name").to_owned();
        let call = Call { name: &name, ..*call };
        let errors = validate_create(resource, object);
        if !errors.is_empty() {
            return Err(ApiError::invalid(resource, &name, &errors));
        }
        warnings.extend(kind.warnings(object, None));
        warnings.extend(
            self.admission
                .validate(&Call { name: "", ..call }.admission(Operation::Create), object, None, &*self.caches)
                .await?,
        );
        let reservation = self.services.reserve(&self.caches, resource, object, None, call.dry_run)?;
        self.create_reserved(&call, object, &reservation).await
    }

    async fn create_reserved(
        &self,
        call: &Call<'_>,
        object: &mut Object,
        reservation: &Reservation<'_>,
    ) -> Result<Arc<Entry>, ApiError> {
        reservation.apply(object);
        let encoded = self.encode(call, object)?;
        if self.stored(call.resource)?.cache.get(&encoded.relative).is_some() {
            return Err(ApiError::already_exists(call.resource, call.name));
        }
        if call.dry_run {
            return self.unsaved(encoded, 0);
        }
        let extra = reservation.extra();
        let has_extra = !extra.compares.is_empty();
        match self.put(encoded, 0, extra).await? {
            Some(entry) => Ok(entry),
            // Either the name is taken, or what goes along with it.
            None if has_extra && self.latest(call).await?.is_none() => {
                Err(ApiError::internal("an address of the service was taken meanwhile; please try again"))
            }
            None => Err(ApiError::already_exists(call.resource, call.name)),
        }
    }
}
