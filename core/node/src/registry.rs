//! The pods of the node and their workers: who is told what.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use gantry_plugin_host::Runtime;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::{Mutex, RwLock};

use crate::observed::Observed;
use crate::pod;
use crate::pod_worker::inbox::Inbox;
use crate::volumes::Mounted;

/// What a worker shows of its pod.
pub struct PodView {
    /// The pod as last told.
    pub pod: Arc<Pod>,
    /// The status as last found.
    pub status: Option<PodStatus>,
    /// What runs.
    pub observed: Observed,
    /// Its volumes.
    pub mounted: Mounted,
    /// Its runtime.
    pub runtime: Option<Arc<dyn Runtime>>,
    /// Nothing of it runs and nothing will: it uses no resources.
    pub is_over: bool,
}

/// A pod of the node.
#[derive(Clone)]
pub struct Entry {
    /// Where its worker is told.
    pub inbox: Arc<Inbox>,
    /// What its worker shows.
    pub view: Arc<RwLock<PodView>>,
}

/// The pods of the node.
#[derive(Default)]
pub struct Registry {
    pods: RwLock<HashMap<String, Entry>>,
    containers: Mutex<HashMap<String, Weak<Inbox>>>,
}

impl Registry {
    /// A pod by uid.
    pub fn get(&self, uid: &str) -> Option<Entry> {
        self.pods.read().get(uid).cloned()
    }

    /// Adds a pod.
    pub fn insert(&self, uid: &str, entry: Entry) {
        self.pods.write().insert(uid.to_owned(), entry);
    }

    /// Forgets a pod and its containers.
    pub fn remove(&self, uid: &str) {
        self.pods.write().remove(uid);
        self.containers.lock().retain(|_, inbox| inbox.strong_count() > 0);
    }

    /// All pods.
    pub fn all(&self) -> Vec<Entry> {
        self.pods.read().values().cloned().collect()
    }

    /// A pod by name: of several (one of them ending), the newest.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Entry> {
        let pods = self.pods.read();
        let named = pods.values().filter(|entry| {
            let view = entry.view.read();
            pod::namespace(&view.pod) == namespace && pod::name(&view.pod) == name
        });
        named.max_by_key(|entry| entry.view.read().pod.metadata.creation_timestamp.clone()).cloned()
    }

    /// Exits of a container go to that inbox.
    pub fn add_container(&self, id: &str, inbox: &Arc<Inbox>) {
        self.containers.lock().insert(id.to_owned(), Arc::downgrade(inbox));
    }

    /// Forgets a container.
    pub fn remove_container(&self, id: &str) {
        self.containers.lock().remove(id);
    }

    /// Tells of an exit.
    pub fn exited(&self, id: &str) {
        let inbox = self.containers.lock().get(id).and_then(Weak::upgrade);
        if let Some(inbox) = inbox {
            inbox.exited(id);
        }
    }

    /// Tells all that exits may have been missed.
    pub fn look_again(&self) {
        for entry in self.all() {
            entry.inbox.look_again();
        }
    }
}
