//! How a write reaches the store: encoded once, compared and swapped, and visible in the cache before it is answered.

use std::sync::Arc;

use bytes::Bytes;
use gantry_api::error::ApiError;
use gantry_api::object::Object;
use gantry_store::{Compare, Op, Txn};

use super::{Call, Registry, convert, store_error};
use crate::cache::entry::{Entry, encode};

/// The largest object, encoded: what upstream's etcd takes by default.
const OBJECT_BYTES_MAX: usize = 1_572_864;

/// An object encoded for the store.
pub struct Encoded {
    /// Its key there.
    pub key: Bytes,
    /// The key below the resource's prefix.
    pub relative: Arc<str>,
    /// Its bytes.
    pub value: Bytes,
    index: Arc<crate::cache::entry::Index>,
}

/// What else a transaction changes beside the object.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// Conditions.
    pub compares: Vec<Compare>,
    /// Writes.
    pub ops: Vec<Op>,
}

impl Registry {
    /// Encodes a call's object as it will be stored.
    pub fn encode(&self, call: &Call<'_>, object: &Object) -> Result<Encoded, ApiError> {
        let stored = self.stored(call.resource)?;
        let converted;
        let object = if call.resource.is_converted() {
            let mut copy = object.clone();
            convert::to_storage(call.resource, &mut copy);
            converted = copy;
            &converted
        } else {
            object
        };
        let value =
            encode(object, &stored.resource.kind, &stored.resource.api_version()).map_err(ApiError::internal)?;
        if value.len() > OBJECT_BYTES_MAX {
            return Err(ApiError::request_entity_too_large(format_args!("limit is {OBJECT_BYTES_MAX}")));
        }
        let relative = call.key();
        let key = format!("{}{relative}", stored.prefix);
        Ok(Encoded {
            key: key.into(),
            relative: relative.into(),
            value,
            index: self.caches.index(stored.resource, object),
        })
    }

    /// An entry that isn't in the store: what a dry run answers with.
    pub fn unsaved(&self, encoded: Encoded, revision: i64) -> Result<Arc<Entry>, ApiError> {
        Entry::new(encoded.relative, encoded.value, revision, encoded.index)
            .map(Arc::new)
            .ok_or_else(|| ApiError::internal("an encoded object is not in the stored layout"))
    }

    /// Writes an object that was last written at `revision` (0: that doesn't exist); `None` when that isn't so.
    pub async fn put(&self, encoded: Encoded, revision: i64, extra: Extra) -> Result<Option<Arc<Entry>>, ApiError> {
        let mut txn = Txn { compares: vec![Compare::mod_revision(encoded.key.clone(), revision)], ..Txn::default() };
        txn.success.push(Op::put(encoded.key.clone(), encoded.value.clone()));
        txn.compares.extend(extra.compares);
        txn.success.extend(extra.ops);
        self.caches.prepare(encoded.key.clone(), encoded.value.clone(), encoded.index.clone());
        let answer = self.store.txn(txn).await;
        let written = match answer {
            Ok(answer) if answer.succeeded => {
                self.caches.applied.wait_for(answer.revision).await;
                Some(answer.revision)
            }
            Ok(_) => None,
            Err(error) => {
                self.caches.unprepare(&encoded.key, &encoded.value);
                return Err(store_error(error));
            }
        };
        self.caches.unprepare(&encoded.key, &encoded.value);
        match written {
            Some(revision) => self.unsaved(encoded, revision).map(Some),
            None => Ok(None),
        }
    }

    /// Deletes an object that was last written at `revision`; answers with the revision that did, or `None`.
    pub async fn remove(&self, key: String, revision: i64, extra: Extra) -> Result<Option<i64>, ApiError> {
        let key = Bytes::from(key);
        let mut txn = Txn {
            compares: vec![Compare::mod_revision(key.clone(), revision)],
            success: vec![Op::delete(key)],
            failure: Vec::new(),
        };
        txn.compares.extend(extra.compares);
        txn.success.extend(extra.ops);
        let answer = self.store.txn(txn).await.map_err(store_error)?;
        if !answer.succeeded {
            return Ok(None);
        }
        self.caches.applied.wait_for(answer.revision).await;
        Ok(Some(answer.revision))
    }
}
