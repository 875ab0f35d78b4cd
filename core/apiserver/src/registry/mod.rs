//! The registry: what a verb does to an object, over the store's transactions and the watch cache.
//!
//! - [`keys`]: where objects lie in the store
//! - [`options`]: the options of verbs, read from query and body
//! - [`metadata`]: names, system fields and the checks that all kinds share
//! - [`create`], [`update`], [`patch`], [`delete`]: the writes; [`commit`]: how they reach the store
//! - [`list`]: lists, pages and the revisions they show; [`watch`]: streams of changes
//! - [`namespaces`], [`pods`], [`scale`], [`services`]: what single resources do beyond that
//! - [`system`]: what the server itself writes when it starts
//! - [`convert`]: resources that show objects stored in another version

pub mod commit;
pub mod convert;
pub mod create;
pub mod delete;
pub mod keys;
pub mod list;
pub mod metadata;
pub mod namespaces;
pub mod options;
pub mod patch;
pub mod pods;
pub mod scale;
pub mod services;
pub mod system;
pub mod update;
pub mod validate;
pub mod watch;

use std::sync::Arc;
use std::time::Duration;

use gantry_api::error::ApiError;
use gantry_api::object::Object;
use gantry_api::resources::{Resource, ResourceTable};
use gantry_store::{RangeRequest, Store, StoreError};

use crate::admission::{Admission, AdmissionRequest, ObjectReader, Operation};
use crate::auth::UserInfo;
use crate::cache::entry::{Entry, decode_stored};
use crate::cache::feed::Feed;
use crate::cache::{Caches, Stored};

/// How long a read waits for a revision that the cache hasn't seen yet.
const FRESH_WAIT_MAX: Duration = Duration::from_secs(3);

/// All resources of one server.
pub struct Registry {
    /// The resources.
    pub table: &'static ResourceTable,
    /// Their caches.
    pub caches: Arc<Caches>,
    /// Where they are stored.
    pub store: Arc<dyn Store>,
    /// What fills the caches.
    pub feed: Arc<Feed>,
    /// The admission chain.
    pub admission: Arc<Admission>,
    /// Service addresses and ports.
    pub services: services::Allocator,
    /// Whether others may write the store, too, so that the newest revision must be asked for.
    pub shared_store: bool,
}

/// One request on the registry: whose, on what.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The resource as asked for.
    pub resource: &'static Resource,
    /// Where; empty for cluster scope and all namespaces.
    pub namespace: &'a str,
    /// The name in the path; empty for collections.
    pub name: &'a str,
    /// The subresource; empty for the object itself.
    pub subresource: &'a str,
    /// Who asks.
    pub user: &'a UserInfo,
    /// Whether nothing is to be written.
    pub dry_run: bool,
}

impl<'a> Call<'a> {
    /// The same request on another subresource.
    pub fn on(self, subresource: &'a str) -> Self {
        Self { subresource, ..self }
    }

    /// The key below the resource's prefix.
    pub fn key(&self) -> String {
        keys::relative(self.resource.namespaced, self.namespace, self.name)
    }

    /// The 404 for its object.
    pub fn not_found(&self) -> ApiError {
        ApiError::not_found(self.resource, self.name)
    }

    /// What admission is asked.
    pub fn admission(&self, operation: Operation) -> AdmissionRequest<'a> {
        AdmissionRequest {
            operation,
            resource: self.resource,
            subresource: self.subresource,
            namespace: self.namespace,
            name: self.name,
            user: self.user,
            dry_run: self.dry_run,
        }
    }
}

/// An object in the store with its revision.
#[derive(Clone, Debug)]
pub struct Current {
    /// The object in the resource's version, with its resourceVersion.
    pub object: Object,
    /// The revision that wrote it.
    pub revision: i64,
}

impl Registry {
    /// The stored side of a resource.
    pub fn stored(&self, resource: &Resource) -> Result<&Arc<Stored>, ApiError> {
        self.caches.of(resource).ok_or_else(ApiError::no_such_resource)
    }

    /// The key of a call's object in the store.
    pub fn store_key(&self, call: &Call<'_>) -> Result<String, ApiError> {
        Ok(format!("{}{}", self.stored(call.resource)?.prefix, call.key()))
    }

    /// The entry of a call's object, fresh.
    pub async fn entry(&self, call: &Call<'_>) -> Result<Arc<Entry>, ApiError> {
        self.catch_up().await?;
        self.stored(call.resource)?.cache.get(&call.key()).ok_or_else(|| call.not_found())
    }

    /// The object of a call as the cache has it: good to start a compare-and-swap from.
    pub fn cached(&self, call: &Call<'_>) -> Result<Option<Current>, ApiError> {
        let Some(entry) = self.stored(call.resource)?.cache.get(&call.key()) else { return Ok(None) };
        self.current_of(call.resource, &entry.value, entry.revision).map(Some)
    }

    /// The object of a call as the store has it.
    pub async fn latest(&self, call: &Call<'_>) -> Result<Option<Current>, ApiError> {
        let key = self.store_key(call)?;
        let answer = self.store.range(RangeRequest::one(key)).await.map_err(store_error)?;
        match answer.kvs.first() {
            Some(kv) => self.current_of(call.resource, &kv.value, kv.mod_revision).map(Some),
            None => Ok(None),
        }
    }

    /// Stored bytes as an object in a resource's version.
    pub fn current_of(&self, resource: &Resource, value: &[u8], revision: i64) -> Result<Current, ApiError> {
        let mut object = decode_stored(value, revision).map_err(ApiError::internal)?;
        if resource.is_converted() {
            convert::from_storage(resource, &mut object);
        }
        Ok(Current { object, revision })
    }

    /// Waits until the caches show everything that was acknowledged before this call.
    pub async fn catch_up(&self) -> Result<(), ApiError> {
        if !self.shared_store {
            // All writes are our own, and none is acknowledged before the caches show it.
            return Ok(());
        }
        let revision = self.store.status().await.map_err(store_error)?.revision;
        self.wait_for(revision).await
    }

    /// Waits until the caches show a revision.
    pub async fn wait_for(&self, revision: i64) -> Result<(), ApiError> {
        let applied = &self.caches.applied;
        if applied.revision() >= revision {
            return Ok(());
        }
        self.feed.request_progress();
        if tokio::time::timeout(FRESH_WAIT_MAX, applied.wait_for(revision)).await.is_err() {
            let (minimum, current) = (revision.unsigned_abs(), applied.revision().unsigned_abs());
            return Err(ApiError::too_large_resource_version(minimum, current, 1));
        }
        Ok(())
    }
}

impl ObjectReader for Caches {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let stored = self.named(group, resource)?;
        let entry = stored.cache.get(&keys::relative(stored.resource.namespaced, namespace, name))?;
        entry.decode().ok().map(Arc::new)
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Object>> {
        use crate::cache::selection::Scope;
        let Some(stored) = self.named(group, resource) else { return Vec::new() };
        let scope = if namespace.is_empty() { Scope::All } else { Scope::Namespace(namespace.to_owned()) };
        stored
            .cache
            .snapshot(self.applied.revision())
            .range(&scope, None)
            .filter_map(|entry| entry.decode().ok().map(Arc::new))
            .collect()
    }
}

/// The API's word for a failure of the store.
pub fn store_error(error: StoreError) -> ApiError {
    match error {
        StoreError::TooLarge { size_bytes, limit_bytes, .. } => ApiError::request_entity_too_large(format_args!(
            "limit is {limit_bytes}, the object has {size_bytes} bytes"
        )),
        error @ (StoreError::Unavailable { .. } | StoreError::Closed | StoreError::NoSpace { .. }) => {
            ApiError::service_unavailable(error.to_string())
        }
        error => ApiError::internal(error),
    }
}

pub use gantry_api::timestamp::format as timestamp;
