//! The store's watch fills the caches: history first, as far as the store still has it, then what comes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use gantry_store::{EventKind, KeyValue, RangeRequest, Store, StoreError, WatchProgress, WatchRequest, WatchStream};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::entry::{Entry, decode_stored, encode};
use super::event::Change;
use super::resource::Items;
use super::{Caches, Stored};
use crate::registry::keys::{NODE_PORTS, ROOT};

/// How many revisions before the first load the window tries to cover, so that watches survive a restart.
const HISTORY_REVISIONS_MAX: i64 = 1000;
/// How many keys one read of the first load asks for.
const LOAD_PAGE_KEYS: usize = 2000;
/// How long to wait before the store's watch is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// Keeps the caches up to date.
pub struct Feed {
    caches: Arc<Caches>,
    store: Arc<dyn Store>,
    progress: Mutex<Option<WatchProgress>>,
}

impl Feed {
    /// Loads everything; then [`Feed::run`] keeps it fresh.
    pub async fn load(caches: Arc<Caches>, store: Arc<dyn Store>) -> Result<(Arc<Self>, WatchStream), StoreError> {
        let feed = Arc::new(Self { caches, store, progress: Mutex::default() });
        let stream = feed.load_all().await?;
        Ok((feed, stream))
    }

    async fn load_all(&self) -> Result<WatchStream, StoreError> {
        let mut loaded: HashMap<String, Items> = HashMap::new();
        let mut request = RangeRequest::prefix(ROOT).limit(LOAD_PAGE_KEYS);
        let mut ports = HashSet::new();
        let mut revision = 0;
        loop {
            let page = self.store.range(request.clone()).await?;
            if revision == 0 {
                revision = page.revision;
                request.revision = revision;
            }
            let last = page.kvs.last().map(|kv| kv.key.clone());
            for kv in page.kvs {
                if let Some(port) = node_port_of(&kv.key) {
                    ports.insert(port);
                    continue;
                }
                if let Some((stored, entry)) = self.entry_of(&kv) {
                    loaded.entry(stored.prefix.clone()).or_default().insert(entry.key.clone(), entry);
                }
            }
            match last {
                Some(last) if page.more => {
                    let mut next = last.to_vec();
                    next.push(0);
                    request.key = next.into();
                }
                _ => break,
            }
        }
        *self.caches.node_ports.write() = ports;
        for stored in self.caches.iter() {
            let items = loaded.remove(&stored.prefix).unwrap_or_default();
            let entries: Vec<_> = items.values().cloned().collect();
            stored.cache.replace(items, revision);
            for sink in self.caches.sinks.read().iter() {
                sink.replaced(stored.resource, &entries);
            }
        }
        let stream = match self.recall(revision).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "history before the first load is not available");
                self.store.watch(WatchRequest::prefix(ROOT).from(revision + 1)).await?
            }
        };
        *self.progress.lock() = Some(stream.progress());
        self.caches.applied.advance(revision);
        Ok(stream)
    }

    /// Reads the history before `revision` into the windows; the stream goes on behind it.
    async fn recall(&self, revision: i64) -> Result<WatchStream, StoreError> {
        let compacted = self.store.status().await?.compact_revision;
        let start = (revision - HISTORY_REVISIONS_MAX).max(compacted).max(1) + 1;
        if start > revision {
            return self.store.watch(WatchRequest::prefix(ROOT).from(revision + 1)).await;
        }
        let mut history = self.store.watch(WatchRequest::prefix(ROOT).from(start).with_prev_kv()).await?;
        // A progress answer says that the past is complete, even if its last revisions lie outside our prefix.
        history.progress().request();
        let mut past: HashMap<String, Vec<Change>> = HashMap::new();
        while let Some(batch) = history.next().await {
            let batch = batch?;
            if batch.revision > revision {
                break;
            }
            for event in &batch.events {
                let before = event.prev_kv.as_ref().and_then(|kv| self.entry_of(kv));
                let now = if event.kind == EventKind::Put { self.entry_of(&event.kv) } else { None };
                let Some(prefix) = now.as_ref().or(before.as_ref()).map(|(stored, _)| stored.prefix.clone()) else {
                    continue;
                };
                let change = Change::new(batch.revision, before.map(|(_, entry)| entry), now.map(|(_, entry)| entry));
                past.entry(prefix).or_default().push(change);
            }
            if batch.revision >= revision {
                break;
            }
        }
        for stored in self.caches.iter() {
            stored.cache.remember(start - 1, past.remove(&stored.prefix).unwrap_or_default());
        }
        self.store.watch(WatchRequest::prefix(ROOT).from(revision + 1)).await
    }

    /// Asks the store how far the watch has come; the answer advances the applied revision.
    pub fn request_progress(&self) {
        if let Some(progress) = &*self.progress.lock() {
            progress.request();
        }
    }

    /// Applies what the store says until shutdown.
    pub async fn run(self: Arc<Self>, mut stream: WatchStream, shutdown: CancellationToken) {
        loop {
            let error = tokio::select! {
                () = shutdown.cancelled() => return,
                batch = stream.next() => match batch {
                    Some(Ok(batch)) => {
                        self.apply(batch.revision, batch.events);
                        continue;
                    }
                    Some(Err(error)) => Some(error),
                    None => None,
                },
            };
            if let Some(new) = self.reopen(error, &shutdown).await {
                stream = new;
            } else {
                return;
            }
        }
    }

    async fn reopen(&self, error: Option<StoreError>, shutdown: &CancellationToken) -> Option<WatchStream> {
        let mut compacted = error.as_ref().is_some_and(StoreError::is_compacted);
        if let Some(error) = error {
            tracing::warn!(%error, "the store's watch ended; opening it again");
        }
        loop {
            let opened = if compacted {
                self.load_all().await
            } else {
                self.store.watch(WatchRequest::prefix(ROOT).from(self.caches.applied.revision() + 1)).await
            };
            match opened {
                Ok(stream) => {
                    *self.progress.lock() = Some(stream.progress());
                    return Some(stream);
                }
                Err(error) => {
                    compacted |= error.is_compacted();
                    tracing::warn!(%error, "cannot open the store's watch");
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return None,
                () = tokio::time::sleep(RETRY_DELAY) => {}
            }
        }
    }

    fn apply(&self, revision: i64, events: Vec<gantry_store::Event>) {
        type Changes = Vec<(Arc<str>, Option<Arc<Entry>>)>;
        let mut by_resource: Vec<(&Arc<Stored>, Changes)> = Vec::new();
        for event in events {
            if let Some(port) = node_port_of(&event.kv.key) {
                let mut ports = self.caches.node_ports.write();
                if event.kind == EventKind::Put {
                    ports.insert(port)
                } else {
                    ports.remove(&port)
                };
                continue;
            }
            let Ok(key) = std::str::from_utf8(&event.kv.key) else { continue };
            let Some((stored, relative)) = self.caches.locate(key) else { continue };
            let change = match event.kind {
                EventKind::Put => match self.entry_of(&event.kv) {
                    Some((_, entry)) => (entry.key.clone(), Some(entry)),
                    None => continue,
                },
                EventKind::Delete => (Arc::from(relative), None),
            };
            match by_resource.iter_mut().find(|(other, _)| Arc::ptr_eq(other, stored)) {
                Some((_, changes)) => changes.push(change),
                None => by_resource.push((stored, vec![change])),
            }
        }
        for (stored, changes) in by_resource {
            let changes = stored.cache.apply(revision, changes);
            for sink in self.caches.sinks.read().iter() {
                for change in &changes {
                    sink.changed(stored.resource, change);
                }
            }
        }
        self.caches.applied.advance(revision);
    }

    /// The cache entry of a key and value of the store; `None` (and a line in the log) for what isn't ours.
    fn entry_of(&self, kv: &KeyValue) -> Option<(&Arc<Stored>, Arc<Entry>)> {
        let key = std::str::from_utf8(&kv.key).ok()?;
        let (stored, relative) = self.caches.locate(key)?;
        let prepared = self
            .caches
            .prepared
            .get(&kv.key)
            .filter(|prepared| prepared.0 == kv.value)
            .map(|prepared| (prepared.0.clone(), prepared.1.clone()));
        let (value, index) = match prepared {
            Some(prepared) => prepared,
            None => {
                let object = match decode_stored(&kv.value, kv.mod_revision) {
                    Ok(object) => object,
                    Err(error) => {
                        tracing::error!(key, %error, "the store holds something that is no object; it is left out");
                        return None;
                    }
                };
                let value = if super::entry::head_of(&kv.value).is_some() {
                    kv.value.clone()
                } else {
                    encode(&object, &stored.resource.kind, &stored.resource.api_version()).ok()?
                };
                (value, self.caches.index(stored.resource, &object))
            }
        };
        Some((stored, Arc::new(Entry::new(Arc::from(relative), value, kv.mod_revision, index)?)))
    }
}

/// The node port that a key holds, if it is one of those.
fn node_port_of(key: &[u8]) -> Option<u16> {
    std::str::from_utf8(key.strip_prefix(NODE_PORTS.as_bytes())?).ok()?.parse().ok()
}
