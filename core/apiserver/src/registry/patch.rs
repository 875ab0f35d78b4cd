//! PATCH: JSON patch, merge patch and strategic merge patch, applied to the object in the version asked for.

use bytes::Bytes;
use gantry_api::decode::FieldValidation;
use gantry_api::error::ApiError;
use gantry_api::object::Object;
use gantry_api::patch::{self, PatchType};
use gantry_api::schema::apply_defaults;
use parking_lot::Mutex;

use super::update::{Door, Written, without_version};
use super::{Call, Registry, metadata};

/// A patch as it came.
pub struct PatchBody {
    /// What kind it is.
    pub patch_type: PatchType,
    /// Its text.
    pub body: Bytes,
    /// What to do about unknown fields.
    pub validation: FieldValidation,
}

impl Registry {
    /// Patches a call's object.
    pub async fn patch(&self, call: &Call<'_>, patch: &PatchBody, door: Door) -> Result<Written, ApiError> {
        let warnings = Mutex::new(Vec::new());
        let mut written = self
            .update(call, door, &|old| {
                let (object, found) = self.patched(call, patch, old)?;
                *warnings.lock() = found;
                Ok(object)
            })
            .await?;
        written.warnings.splice(0..0, warnings.into_inner());
        Ok(written)
    }

    /// The patched object, decoded like one that a client sent, with warnings.
    pub fn patched(&self, call: &Call<'_>, patch: &PatchBody, old: &Object) -> Result<(Object, Vec<String>), ApiError> {
        let decoded = patch::apply(patch.patch_type, call.resource, old, &patch.body, patch.validation)?;
        let mut object = decoded.object;
        metadata::match_name(&object, call)?;
        metadata::match_namespace(&mut object, call.resource, call.namespace)?;
        apply_defaults(call.resource, &mut object);
        // Only a resourceVersion that the patch itself names is a condition.
        if object["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"] && !names_version(patch) {
            object = without_version(object);
        }
        Ok((object, decoded.warnings))
    }
}

fn names_version(patch: &PatchBody) -> bool {
    const FIELD: &[u8] = b"resourceVersion";
    patch.body.windows(FIELD.len()).any(|part| part == FIELD)
}
