//! PATCH: JSON patch, merge patch and strategic merge patch, applied to the object in the version asked for.

use bytes::Bytes;
use gantry_api::decode::{FieldValidation, decode_patched};
use gantry_api::error::ApiError;
use gantry_api::object::Object;
use gantry_api::patch;
use gantry_api::schema::apply_defaults;
use parking_lot::Mutex;

use super::update::{Door, Written, without_version};
use super::{Call, Registry, metadata};

/// How a patch says what changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Upstream's, which knows the keys of lists.
    Strategic,
}

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
        let patched = apply(call, patch, old)?;
        let decoded = decode_patched(patched, call.resource, patch.validation)?;
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

fn apply(call: &Call<'_>, patch: &PatchBody, old: &Object) -> Result<Object, ApiError> {
    match patch.patch_type {
        PatchType::Json => patch::json_patch(old, &patch.body),
        PatchType::Merge => patch::merge_patch(old, &patch.body),
        PatchType::Strategic => patch::strategic_merge(call.resource, old, &patch.body),
    }
}
