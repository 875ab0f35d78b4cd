//! What the scheduler watches, and how the engine is told.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;

use futures::future::join_all;
use gantry_client::informer::Watched;
use gantry_client::{Change, Informer, Informers};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::cluster::owners::controller_selector;
use crate::cluster::uid_of;
use crate::engine::Engine;
use crate::hints::ClusterEvent;

/// Something to tell the engine, at a time in milliseconds.
pub type Update = Box<dyn FnOnce(&mut Engine, u64) + Send>;

#[derive(Default)]
struct Waiting {
    /// In order; taken all at once by the scheduler, which never waits longer than a few decisions.
    updates: Mutex<Vec<Update>>,
    arrived: Notify,
}

/// Resolves when an informer has held all that there was at the start.
type Synced = Box<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The watches of a scheduler; they end with it.
pub struct Watching {
    waiting: Arc<Waiting>,
    synced: Vec<Synced>,
    _informers: Vec<Arc<dyn Any + Send + Sync>>,
}

impl Watching {
    /// Watches all that a decision depends on. `own`: pods that have ended are left out.
    pub fn start(informers: &Informers, own: bool) -> Self {
        let mut watching = Self { waiting: Arc::default(), synced: Vec::new(), _informers: Vec::new() };
        // Nodes first, so that pods find theirs.
        watching.follow::<Node>(informers.get(), |change| match change {
            Change::Applied { new, .. } => Box::new(move |engine, now_ms| engine.apply_node(&new, now_ms)),
            Change::Deleted(node) => Box::new(move |engine, now_ms| {
                engine.remove_node(node.metadata.name.as_deref().unwrap_or_default(), now_ms);
            }),
        });
        let pods = if own {
            informers.with_fields::<Pod>("status.phase!=Succeeded,status.phase!=Failed")
        } else {
            informers.get::<Pod>()
        };
        watching.follow::<Pod>(pods, |change| match change {
            Change::Applied { old, new } => Box::new(move |engine, now_ms| {
                if let Some(old) = old.map(|old| uid_of(&old)).filter(|old| *old != uid_of(&new)) {
                    engine.remove_pod(&old, now_ms);
                }
                engine.apply_pod(new, now_ms);
            }),
            Change::Deleted(pod) => Box::new(move |engine, now_ms| engine.remove_pod(&uid_of(&pod), now_ms)),
        });
        watching.storage(informers);
        watching.owners(informers);
        watching.follow::<Namespace>(informers.get(), |change| match change {
            Change::Applied { new, .. } => Box::new(move |engine, now_ms| {
                engine.cluster.apply_namespace(&new);
                engine.event(&ClusterEvent::Namespace, now_ms);
            }),
            Change::Deleted(gone) => Box::new(move |engine, _| {
                engine.cluster.remove_namespace(gone.metadata.name.as_deref().unwrap_or_default());
            }),
        });
        watching.follow::<PodDisruptionBudget>(informers.get(), |change| match change {
            Change::Applied { new, .. } => Box::new(move |engine, _| engine.budgets.apply(&new)),
            Change::Deleted(gone) => Box::new(move |engine, _| {
                let (namespace, name) = names(&gone.metadata);
                engine.budgets.remove(namespace, name);
            }),
        });
        watching
    }

    fn storage(&mut self, informers: &Informers) {
        self.follow::<StorageClass>(informers.get(), |change| match change {
            Change::Applied { new, .. } => Box::new(move |engine, now_ms| {
                engine.cluster.storage.apply_class(&new, &mut engine.cluster.atoms);
                engine.event(&ClusterEvent::Storage, now_ms);
            }),
            Change::Deleted(gone) => Box::new(move |engine, _| {
                engine.cluster.storage.remove_class(names(&gone.metadata).1);
            }),
        });
        self.follow::<PersistentVolume>(informers.get(), |change| match change {
            Change::Applied { new, .. } => Box::new(move |engine, now_ms| {
                engine.cluster.storage.apply_volume(new, &mut engine.cluster.atoms);
                engine.event(&ClusterEvent::Storage, now_ms);
            }),
            Change::Deleted(gone) => Box::new(move |engine, _| {
                engine.cluster.storage.remove_volume(names(&gone.metadata).1);
            }),
        });
        self.follow::<PersistentVolumeClaim>(informers.get(), |change| match change {
            Change::Applied { new, .. } => Box::new(move |engine, now_ms| {
                let (namespace, name) = names(&new.metadata);
                let event = ClusterEvent::Claim(namespace.to_owned(), name.to_owned());
                engine.cluster.storage.apply_claim(new);
                engine.event(&event, now_ms);
            }),
            Change::Deleted(gone) => Box::new(move |engine, _| {
                let (namespace, name) = names(&gone.metadata);
                engine.cluster.storage.remove_claim(namespace, name);
            }),
        });
        self.follow::<CSINode>(informers.get(), |change| match change {
            Change::Applied { new, .. } => Box::new(move |engine, now_ms| {
                engine.cluster.storage.apply_csi_node(&new);
                engine.event(&ClusterEvent::Storage, now_ms);
            }),
            Change::Deleted(gone) => Box::new(move |engine, _| {
                engine.cluster.storage.remove_csi_node(names(&gone.metadata).1);
            }),
        });
        self.follow::<CSIDriver>(informers.get(), |change| match change {
            Change::Applied { new, .. } => Box::new(move |engine, now_ms| {
                engine.cluster.storage.apply_driver(&new);
                engine.event(&ClusterEvent::Storage, now_ms);
            }),
            Change::Deleted(gone) => Box::new(move |engine, _| {
                engine.cluster.storage.remove_driver(names(&gone.metadata).1);
            }),
        });
        self.follow::<CSIStorageCapacity>(informers.get(), |change| match change {
            Change::Applied { new, .. } => Box::new(move |engine, now_ms| {
                engine.cluster.storage.apply_capacity(&new);
                engine.event(&ClusterEvent::Storage, now_ms);
            }),
            Change::Deleted(gone) => Box::new(move |engine, _| {
                let (namespace, name) = names(&gone.metadata);
                engine.cluster.storage.remove_capacity(namespace, name);
            }),
        });
    }

    fn owners(&mut self, informers: &Informers) {
        self.follow::<Service>(informers.get(), |change| {
            let gone = matches!(change, Change::Deleted(_));
            let service = change.object().clone();
            Box::new(move |engine, _| {
                let (namespace, name) = names(&service.metadata);
                let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|_| !gone);
                engine.cluster.owners.apply_service(namespace, name, selector);
            })
        });
        self.follow::<ReplicationController>(informers.get(), |change| {
            let gone = matches!(change, Change::Deleted(_));
            let owner = change.object().clone();
            Box::new(move |engine, _| {
                let (namespace, name) = names(&owner.metadata);
                let map = owner.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|_| !gone);
                let selector = map.map(|map| {
                    let pairs = map.iter().map(|(key, value)| (key.as_str(), value.as_str()));
                    gantry_api::selectors::LabelSelector::from_map(pairs)
                });
                engine.cluster.owners.apply_controller("ReplicationController", namespace, name, selector);
            })
        });
        self.follow::<ReplicaSet>(informers.get(), |change| {
            let gone = matches!(change, Change::Deleted(_));
            let owner = change.object().clone();
            Box::new(move |engine, _| {
                let (namespace, name) = names(&owner.metadata);
                let selector = owner.spec.as_ref().filter(|_| !gone).map(|spec| controller_selector(&spec.selector));
                engine.cluster.owners.apply_controller("ReplicaSet", namespace, name, selector);
            })
        });
        self.follow::<StatefulSet>(informers.get(), |change| {
            let gone = matches!(change, Change::Deleted(_));
            let owner = change.object().clone();
            Box::new(move |engine, _| {
                let (namespace, name) = names(&owner.metadata);
                let selector = owner.spec.as_ref().filter(|_| !gone).map(|spec| controller_selector(&spec.selector));
                engine.cluster.owners.apply_controller("StatefulSet", namespace, name, selector);
            })
        });
    }

    fn follow<K: Watched>(&mut self, informer: Arc<Informer<K>>, tell: fn(Change<K>) -> Update) {
        // Shared informers outlive a scheduler: what they tell one that has ended is not kept.
        let waiting = Arc::downgrade(&self.waiting);
        informer.on_change(move |change| {
            if let Some(waiting) = waiting.upgrade() {
                waiting.updates.lock().push(tell(change.clone()));
                waiting.arrived.notify_one();
            }
        });
        let watched = informer.clone();
        self.synced.push(Box::new(move || {
            let watched = watched.clone();
            Box::pin(async move { watched.synced().await })
        }));
        self._informers.push(informer);
    }

    /// Resolves when all that there was at the start has been seen.
    pub async fn synced(&self) {
        join_all(self.synced.iter().map(|synced| synced())).await;
    }

    /// What is to be told, in order.
    pub fn take(&self) -> Vec<Update> {
        std::mem::take(&mut *self.waiting.updates.lock())
    }

    /// Resolves when there is something to tell.
    pub async fn changed(&self) {
        self.waiting.arrived.notified().await;
    }
}

fn names(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> (&str, &str) {
    (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}
