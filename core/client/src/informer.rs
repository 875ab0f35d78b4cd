//! One cached, watched view of a kind, shared by all of a process who need it (client-go's shared informers).

use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet};
use std::fmt::{self, Debug};
use std::hash::Hash;
use std::sync::{Arc, Weak};

use futures::StreamExt;
use indexmap::IndexMap;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What an informer can hold: any API type of `k8s-openapi`.
pub trait Watched: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static {}
impl<K> Watched for K where K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static {}

/// Namespace (empty for cluster-scoped kinds) and name of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl ObjectKey {
    /// The key of a namespace and a name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            out.write_str(&self.name)
        } else {
            write!(out, "{}/{}", self.namespace, self.name)
        }
    }
}

/// What happened to an object, as far as a view knows.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// It is new to the view (`old` is none) or has changed.
    Applied {
        /// What the view held before.
        old: Option<Arc<K>>,
        /// What it holds now.
        new: Arc<K>,
    },
    /// It is gone, or no longer selected; the last known state.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object after the change; of a deleted one, its last known state.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Applied { new, .. } => new,
            Self::Deleted(object) => object,
        }
    }
}

type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;
type IndexFn<K> = fn(&K) -> Vec<String>;

struct Index<K> {
    values_of: IndexFn<K>,
    keys: HashMap<String, HashSet<ObjectKey>>,
}

struct View<K> {
    objects: HashMap<ObjectKey, Arc<K>>,
    indexes: HashMap<&'static str, Index<K>>,
}

impl<K: Watched> View<K> {
    fn insert(&mut self, object: Arc<K>) -> Option<Arc<K>> {
        let key = ObjectKey::of(&*object);
        let old = self.objects.insert(key.clone(), object.clone());
        for index in self.indexes.values_mut() {
            if let Some(old) = &old {
                index.remove(old, &key);
            }
            for value in (index.values_of)(&object) {
                index.keys.entry(value).or_default().insert(key.clone());
            }
        }
        old
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        for index in self.indexes.values_mut() {
            index.remove(&old, key);
        }
        Some(old)
    }
}

impl<K> Index<K> {
    fn remove(&mut self, object: &K, key: &ObjectKey) {
        for value in (self.values_of)(object) {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}

/// A watched view of a kind. Reads never wait; the watch goes on as long as somebody holds the informer.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
    _stop: DropGuard,
}

struct Shared<K> {
    view: RwLock<View<K>>,
    /// Held while a change is stored and told, so that a new handler neither misses nor repeats one.
    handlers: Mutex<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

impl<K: Watched> Informer<K> {
    /// Starts to watch what `config` selects. `api` names the namespace, or all of them.
    pub fn start(api: Api<K>, config: watcher::Config) -> Self {
        let shared = Arc::new(Shared {
            view: RwLock::new(View { objects: HashMap::new(), indexes: HashMap::new() }),
            handlers: Mutex::new(Vec::new()),
            synced: watch::Sender::new(false),
        });
        let stop = CancellationToken::new();
        tokio::spawn(follow(api, config, shared.clone(), stop.clone()));
        Self { shared, _stop: stop.drop_guard() }
    }

    /// Resolves when the view has held everything there was at the start.
    pub async fn synced(&self) {
        // The sender lives in `self`, so the only way to end is with the value.
        let _ = self.shared.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Whether the view has held everything there was at the start.
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// An object by namespace (empty for cluster-scoped kinds) and name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get_key(&ObjectKey::new(namespace, name))
    }

    /// An object by key.
    pub fn get_key(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.shared.view.read().objects.get(key).cloned()
    }

    /// All objects, in no particular order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.view.read().objects.values().cloned().collect()
    }

    /// All objects of a namespace, in no particular order. With many namespaces an index on the namespace is cheaper.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let view = self.shared.view.read();
        view.objects.iter().filter(|(key, _)| key.namespace == namespace).map(|(_, object)| object.clone()).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.shared.view.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an index: for each object the values under which [`Informer::by_index`] finds it. Adding one of the same
    /// name again does nothing.
    pub fn add_index(&self, name: &'static str, values_of: IndexFn<K>) {
        let mut view = self.shared.view.write();
        if view.indexes.contains_key(name) {
            return;
        }
        let mut keys: HashMap<String, HashSet<ObjectKey>> = HashMap::new();
        for (key, object) in &view.objects {
            for value in values_of(object) {
                keys.entry(value).or_default().insert(key.clone());
            }
        }
        view.indexes.insert(name, Index { values_of, keys });
    }

    /// The objects that an index lists under a value; none when the index was never added.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let view = self.shared.view.read();
        let keys = view.indexes.get(name).and_then(|index| index.keys.get(value));
        keys.into_iter().flatten().filter_map(|key| view.objects.get(key).cloned()).collect()
    }

    /// Calls `handler` for every object there is and for every change from now on, in order, from the watching task:
    /// it must not block (put a key on a [`crate::WorkQueue`], say).
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut handlers = self.shared.handlers.lock();
        for object in self.list() {
            handler(&Change::Applied { old: None, new: object });
        }
        handlers.push(Box::new(handler));
    }

    /// The same as a stream. Changes of one object that wait to be read are merged into one, so what waits is bounded
    /// by the number of objects.
    pub fn subscribe(&self) -> Subscription<K> {
        let pending = Arc::new(Pending { changes: Mutex::new(IndexMap::new()), arrived: Notify::new() });
        let weak: Weak<Pending<K>> = Arc::downgrade(&pending);
        self.on_change(move |change| {
            if let Some(pending) = weak.upgrade() {
                pending.push(change);
            }
        });
        Subscription { pending }
    }
}

struct Pending<K> {
    changes: Mutex<IndexMap<ObjectKey, Change<K>>>,
    arrived: Notify,
}

impl<K: Watched> Pending<K> {
    fn push(&self, change: &Change<K>) {
        let key = ObjectKey::of(&**change.object());
        let mut changes = self.changes.lock();
        match changes.shift_remove(&key) {
            None => {
                changes.insert(key, change.clone());
            }
            Some(earlier) => {
                if let Some(merged) = merge(earlier, change.clone()) {
                    changes.insert(key, merged);
                }
            }
        }
        self.arrived.notify_one();
    }
}

/// Two changes of one object as one; none when it came and went unseen.
fn merge<K>(earlier: Change<K>, later: Change<K>) -> Option<Change<K>> {
    match (earlier, later) {
        (Change::Applied { old, .. }, Change::Applied { new, .. }) => Some(Change::Applied { old, new }),
        (Change::Applied { old: None, .. }, Change::Deleted(_)) => None,
        (Change::Applied { .. } | Change::Deleted(_), Change::Deleted(object)) => Some(Change::Deleted(object)),
        (Change::Deleted(old), Change::Applied { new, .. }) => Some(Change::Applied { old: Some(old), new }),
    }
}

/// A stream of changes; see [`Informer::subscribe`].
pub struct Subscription<K> {
    pending: Arc<Pending<K>>,
}

impl<K> Subscription<K> {
    /// Waits for the next change. Cancel-safe.
    pub async fn next(&mut self) -> Change<K> {
        loop {
            if let Some(change) = self.try_next() {
                return change;
            }
            self.pending.arrived.notified().await;
        }
    }

    /// The next change, if one waits.
    pub fn try_next(&mut self) -> Option<Change<K>> {
        self.pending.changes.lock().shift_remove_index(0).map(|(_, change)| change)
    }
}

async fn follow<K: Watched>(api: Api<K>, config: watcher::Config, shared: Arc<Shared<K>>, stop: CancellationToken) {
    let kind = K::kind(&()).into_owned();
    let mut stream = std::pin::pin!(watcher(api, config).default_backoff());
    let mut listed: HashSet<ObjectKey> = HashSet::new();
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = stream.next() => event,
        };
        match event {
            None => return,
            Some(Err(error)) => tracing::warn!(kind, error = &error as &dyn std::error::Error, "watch interrupted"),
            Some(Ok(Event::Init)) => listed.clear(),
            Some(Ok(Event::InitApply(object))) => {
                listed.insert(ObjectKey::of(&object));
                shared.apply(object);
            }
            Some(Ok(Event::InitDone)) => {
                shared.retain(&listed);
                listed = HashSet::new();
                shared.synced.send_replace(true);
            }
            Some(Ok(Event::Apply(object))) => shared.apply(object),
            Some(Ok(Event::Delete(object))) => shared.delete(object),
        }
    }
}

impl<K: Watched> Shared<K> {
    fn apply(&self, object: K) {
        let handlers = self.handlers.lock();
        let new = Arc::new(object);
        let old = self.view.write().insert(new.clone());
        // A list after an interruption repeats what is known already.
        if old
            .as_ref()
            .is_some_and(|old| old.resource_version().is_some() && old.resource_version() == new.resource_version())
        {
            return;
        }
        let change = Change::Applied { old, new };
        handlers.iter().for_each(|handler| handler(&change));
    }

    fn delete(&self, object: K) {
        let handlers = self.handlers.lock();
        if self.view.write().remove(&ObjectKey::of(&object)).is_some() {
            let change = Change::Deleted(Arc::new(object));
            handlers.iter().for_each(|handler| handler(&change));
        }
    }

    /// Drops what a new list no longer holds.
    fn retain(&self, listed: &HashSet<ObjectKey>) {
        let handlers = self.handlers.lock();
        let gone: Vec<ObjectKey> =
            self.view.read().objects.keys().filter(|key| !listed.contains(key)).cloned().collect();
        for key in gone {
            let removed = self.view.write().remove(&key);
            if let Some(object) = removed {
                let change = Change::Deleted(object);
                handlers.iter().for_each(|handler| handler(&change));
            }
        }
    }
}

/// An informer of whatever kind, as long as somebody holds it.
type AnyInformer = Weak<dyn Any + Send + Sync>;

/// The informers of a process: one a kind and selection, started when first asked for, stopped when nobody holds it.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    started: Arc<Mutex<HashMap<(TypeId, Selection), AnyInformer>>>,
}

/// What of a kind is watched. One namespace is the field selector `metadata.namespace=NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selection {
    /// A label selector.
    pub labels: Option<String>,
    /// A field selector, such as `spec.nodeName=n1`.
    pub fields: Option<String>,
}

impl Informers {
    /// No informers yet.
    pub fn new(client: Client) -> Self {
        Self { client, started: Arc::default() }
    }

    /// The client that the informers watch through.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The informer of all objects of a kind.
    pub fn get<K>(&self) -> Arc<Informer<K>>
    where
        K: Watched,
    {
        self.select(Selection::default())
    }

    /// The informer of a kind's objects that a field selector picks.
    pub fn with_fields<K: Watched>(&self, fields: impl Into<String>) -> Arc<Informer<K>> {
        self.select(Selection { fields: Some(fields.into()), ..Selection::default() })
    }

    /// The informer of a selection of a kind's objects.
    pub fn select<K: Watched>(&self, selection: Selection) -> Arc<Informer<K>> {
        let mut started = self.started.lock();
        let slot = (TypeId::of::<K>(), selection);
        if let Some(informer) = started.get(&slot).and_then(Weak::upgrade).and_then(|any| any.downcast().ok()) {
            return informer;
        }
        let selection = &slot.1;
        let config = watcher::Config {
            label_selector: selection.labels.clone(),
            field_selector: selection.fields.clone(),
            ..watcher::Config::default()
        };
        let informer = Arc::new(Informer::start(Api::all(self.client.clone()), config));
        let any: Arc<dyn Any + Send + Sync> = informer.clone();
        started.insert(slot, Arc::downgrade(&any));
        informer
    }
}
