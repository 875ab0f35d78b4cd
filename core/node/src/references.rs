//! ConfigMaps and Secrets that the node's pods refer to, each watched by its name as long as a pod does (upstream's
//! watching object manager): the Node authorizer lets the agent see no others.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use gantry_client::{Client, Informer, ObjectKey, informer::Watched};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, VolumeProjection};
use kube::{Api, Resource, runtime::watcher};
use parking_lot::Mutex;

use crate::pod;

/// How long a pod waits for the first answer about an object.
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);

/// Names that a pod refers to, in its namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Secrets.
    pub secrets: BTreeSet<String>,
}

/// What a pod refers to. Pure.
pub fn names(pod: &Pod) -> Names {
    let mut names = Names::default();
    let spec = pod::spec(pod);
    for (_, container) in pod::all_containers(pod) {
        for source in container.env_from.iter().flatten() {
            names.config_maps.extend(source.config_map_ref.as_ref().map(|r| r.name.clone()));
            names.secrets.extend(source.secret_ref.as_ref().map(|r| r.name.clone()));
        }
        for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            names.config_maps.extend(from.config_map_key_ref.as_ref().map(|r| r.name.clone()));
            names.secrets.extend(from.secret_key_ref.as_ref().map(|r| r.name.clone()));
        }
    }
    names.secrets.extend(spec.image_pull_secrets.iter().flatten().map(|r| r.name.clone()));
    let mut project = |source: &VolumeProjection| {
        names.config_maps.extend(source.config_map.as_ref().map(|r| r.name.clone()));
        names.secrets.extend(source.secret.as_ref().map(|r| r.name.clone()));
    };
    for volume in spec.volumes.iter().flatten() {
        let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        projected.for_each(&mut project);
    }
    for volume in spec.volumes.iter().flatten() {
        names.config_maps.extend(volume.config_map.as_ref().map(|r| r.name.clone()));
        names.secrets.extend(volume.secret.as_ref().and_then(|r| r.secret_name.clone()));
    }
    names.config_maps.remove("");
    names.secrets.remove("");
    names
}

type Shared<K> = Mutex<HashMap<ObjectKey, Weak<Informer<K>>>>;

/// The watched objects of a node.
pub struct References {
    client: Client,
    config_maps: Shared<ConfigMap>,
    secrets: Shared<Secret>,
}

/// The watched objects of a pod; dropping it ends the watches that no other pod needs.
#[derive(Default)]
pub struct Held {
    names: Names,
    config_maps: HashMap<String, Arc<Informer<ConfigMap>>>,
    secrets: HashMap<String, Arc<Informer<Secret>>>,
}

impl References {
    /// Nothing watched yet.
    pub fn new(client: Client) -> Self {
        Self { client, config_maps: Mutex::default(), secrets: Mutex::default() }
    }

    /// Watches what a pod refers to; `changed` is called from then on when one of these objects changes.
    pub fn hold(&self, pod: &Pod, before: &Held, changed: impl Fn() + Clone + Send + Sync + 'static) -> Held {
        let names = names(pod);
        let namespace = pod::namespace(pod);
        let mut held = Held::default();
        for name in &names.config_maps {
            let informer = match before.config_maps.get(name) {
                Some(known) => known.clone(),
                None => watch(&self.client, &self.config_maps, namespace, name, changed.clone()),
            };
            held.config_maps.insert(name.clone(), informer);
        }
        for name in &names.secrets {
            let informer = match before.secrets.get(name) {
                Some(known) => known.clone(),
                None => watch(&self.client, &self.secrets, namespace, name, changed.clone()),
            };
            held.secrets.insert(name.clone(), informer);
        }
        held.names = names;
        held
    }
}

fn watch<K>(
    client: &Client,
    shared: &Shared<K>,
    namespace: &str,
    name: &str,
    changed: impl Fn() + Send + Sync + 'static,
) -> Arc<Informer<K>>
where
    K: Watched + Resource<Scope = NamespaceResourceScope>,
{
    let mut shared = shared.lock();
    shared.retain(|_, informer| informer.strong_count() > 0);
    let key = ObjectKey::new(namespace, name);
    let informer = match shared.get(&key).and_then(Weak::upgrade) {
        Some(known) => known,
        None => {
            let api: Api<K> = Api::namespaced(client.clone(), namespace);
            let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
            let started = Arc::new(Informer::start(api, config));
            shared.insert(key, Arc::downgrade(&started));
            started
        }
    };
    informer.on_change(move |_| changed());
    informer
}

impl Held {
    /// Waits until all that is referred to has been looked at once.
    ///
    /// # Errors
    /// Upstream's message when the API server does not answer in time.
    pub async fn synced(&self) -> Result<(), String> {
        let all = async {
            for informer in self.config_maps.values() {
                informer.synced().await;
            }
            for informer in self.secrets.values() {
                informer.synced().await;
            }
        };
        match tokio::time::timeout(SYNC_TIMEOUT, all).await {
            Ok(()) => Ok(()),
            Err(_) => {
                let map = self.config_maps.values().any(|informer| !informer.is_synced());
                let kind = if map { "configmap" } else { "secret" };
                Err(format!("failed to sync {kind} cache: timed out waiting for the condition"))
            }
        }
    }

    /// Whether the pod still refers to the same.
    pub fn fits(&self, pod: &Pod) -> bool {
        self.names == names(pod)
    }

    /// A ConfigMap by name.
    pub fn config_map(&self, namespace: &str, name: &str) -> Option<Arc<ConfigMap>> {
        self.config_maps.get(name)?.get(namespace, name)
    }

    /// A Secret by name.
    pub fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Secret>> {
        self.secrets.get(name)?.get(namespace, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_places_that_name_an_object_are_found() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "imagePullSecrets": [{"name": "s1"}],
            "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "c1"}}, {"secretRef": {"name": "s2"}}]}],
            "containers": [{"name": "c", "env": [
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c2", "key": "k"}}},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "k"}}},
            ]}],
            "volumes": [
                {"name": "v", "configMap": {"name": "c3"}},
                {"name": "w", "secret": {"secretName": "s4"}},
                {"name": "x", "projected": {"sources": [{"configMap": {"name": "c4"}}, {"secret": {"name": "s5"}}]}},
            ],
        }}))
        .expect("a pod");
        let names = names(&pod);
        assert_eq!(names.config_maps.iter().map(String::as_str).collect::<Vec<_>>(), ["c1", "c2", "c3", "c4"]);
        assert_eq!(names.secrets.iter().map(String::as_str).collect::<Vec<_>>(), ["s1", "s2", "s3", "s4", "s5"]);
    }
}
