//! The watch cache: what the store holds, ready to be served.
//!
//! - [`entry`]: an object as bytes, with what selectors look at
//! - [`selection`]: scopes and selectors
//! - [`event`]: a change and its shared frames
//! - [`resource`]: the map, window and watchers of one resource
//! - [`applied`]: how far it has come
//! - [`feed`]: the store's watch that fills it
//! - [`intern`]: shared strings
//!
//! Invariant: only [`feed`] changes a cache, and it follows the store's watch; a write waits until its revision has
//! been applied, so that everybody reads their own writes.

pub mod applied;
pub mod entry;
pub mod event;
pub mod feed;
pub mod intern;
pub mod resource;
pub mod selection;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use dashmap::DashMap;
use gantry_api::kinds::kind_of;
use gantry_api::resources::{Resource, ResourceTable};
use serde_json::Value;

use self::applied::Applied;
use self::entry::{Entry, Index};
use self::event::Change;
use self::intern::Interner;
use self::resource::ResourceCache;
use crate::registry::keys;

/// Told of every change in the order of revisions, before the write that made it is answered.
pub trait ChangeSink: Send + Sync + 'static {
    /// A stored object of `resource` (its storage version) was created, changed or deleted.
    fn changed(&self, resource: &Resource, change: &Change);
    /// Everything was loaded anew: `entries` is all there is of `resource`.
    fn replaced(&self, resource: &Resource, entries: &[Arc<Entry>]);
}

/// The caches of all stored resources.
pub struct Caches {
    by_prefix: HashMap<String, Arc<Stored>>,
    by_name: HashMap<&'static str, HashMap<&'static str, String>>,
    /// How far they have come.
    pub applied: Applied,
    /// The node ports that services hold.
    pub node_ports: parking_lot::RwLock<HashSet<u16>>,
    interner: Interner,
    /// Indexes that writers made of what they are about to commit, so that the feed needn't decode it again.
    prepared: DashMap<Bytes, (Bytes, Arc<Index>)>,
    sinks: parking_lot::RwLock<Vec<Arc<dyn ChangeSink>>>,
}

/// A stored resource with its cache.
pub struct Stored {
    /// The resource in its storage version.
    pub resource: &'static Resource,
    /// The prefix of its keys, with the slash.
    pub prefix: String,
    /// Its objects.
    pub cache: ResourceCache,
}

impl Caches {
    /// Empty caches for every stored resource of the table.
    pub fn new(table: &'static ResourceTable) -> Self {
        let mut by_name: HashMap<&'static str, HashMap<&'static str, String>> = HashMap::new();
        for resource in table.iter().filter(|resource| resource.is_stored()) {
            by_name.entry(&resource.group).or_default().insert(&resource.plural, keys::prefix(resource));
        }
        let by_prefix = table
            .iter()
            .filter(|resource| resource.is_stored())
            .map(|resource| {
                let resource = table.storage_of(resource);
                let prefix = keys::prefix(resource);
                (prefix.clone(), Arc::new(Stored { resource, prefix, cache: ResourceCache::default() }))
            })
            .collect();
        Self {
            by_prefix,
            by_name,
            applied: Applied::default(),
            node_ports: parking_lot::RwLock::default(),
            interner: Interner::default(),
            prepared: DashMap::new(),
            sinks: parking_lot::RwLock::default(),
        }
    }

    /// The cache of a resource's stored objects.
    pub fn of(&self, resource: &Resource) -> Option<&Arc<Stored>> {
        self.by_prefix.get(&keys::prefix(resource))
    }

    /// The cache of a resource in whatever version it is stored.
    pub fn named(&self, group: &str, plural: &str) -> Option<&Arc<Stored>> {
        self.by_name.get(group)?.get(plural).and_then(|prefix| self.by_prefix.get(prefix))
    }

    /// All caches.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.by_prefix.values()
    }

    /// Adds someone who is told of all changes.
    pub fn add_sink(&self, sink: Arc<dyn ChangeSink>) {
        self.sinks.write().push(sink);
    }

    /// The cache and the relative key of a store key.
    fn locate<'k>(&self, key: &'k str) -> Option<(&Arc<Stored>, &'k str)> {
        // Prefixes have two or three segments: /registry/pods/, /registry/services/specs/.
        let mut slashes = key.match_indices('/').map(|(at, _)| at).skip(2);
        let (two, three) = (slashes.next()?, slashes.next());
        for at in [three, Some(two)].into_iter().flatten() {
            if let Some(stored) = self.by_prefix.get(&key[..=at]) {
                return Some((stored, &key[at + 1..]));
            }
        }
        None
    }

    /// What selectors look at in an object of the storage version.
    pub fn index(&self, resource: &Resource, object: &Value) -> Arc<Index> {
        let mut labels: Vec<_> = gantry_api::object::map_at(object, "metadata.labels")
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((self.interner.get(key), self.interner.get(value.as_str()?))))
            .collect();
        labels.sort();
        let fields = kind_of(&resource.group, &resource.kind)
            .selectable_fields(object)
            .into_iter()
            .map(|(field, value)| (field, self.interner.get(&value)))
            .collect();
        Arc::new(Index { labels, fields })
    }

    /// Leaves the index of a value that is about to be committed under a store key.
    pub fn prepare(&self, key: Bytes, value: Bytes, index: Arc<Index>) {
        self.prepared.insert(key, (value, index));
    }

    /// Takes it back once the commit is done, one way or the other.
    pub fn unprepare(&self, key: &Bytes, value: &Bytes) {
        self.prepared.remove_if(key, |_, (prepared, _)| prepared.as_ptr() == value.as_ptr());
    }
}
