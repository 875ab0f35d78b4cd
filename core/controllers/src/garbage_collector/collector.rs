//! Watches of all resources, queue and writes of the garbage collector.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use gantry_client::{Client, WorkQueue};
use http::Request;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::decision::{Decision, OwnerState, Propagation, decide};
use super::graph::{FOREGROUND, Graph, Node, ORPHAN};
use crate::error::{ControllerError, status};
use crate::runner::{self, Reconciled};

/// How many objects are worked on at once; upstream's `concurrent-gc-syncs`.
const WORKERS: usize = 20;
/// How often is looked for resources that have come or gone since.
const REDISCOVERY: Duration = Duration::from_secs(30);

/// A resource that is watched.
#[derive(Clone, Debug, PartialEq)]
struct Watched {
    api_resource: ApiResource,
    namespaced: bool,
}

struct Collector {
    client: Client,
    graph: Mutex<Graph>,
    resources: Mutex<Vec<Watched>>,
    queue: WorkQueue<String>,
}

/// Runs the collector until `stop`. `client` must be allowed to list, watch, patch and delete everything.
pub async fn run(client: Client, stop: CancellationToken) {
    let queue = WorkQueue::new();
    let collector =
        Arc::new(Collector { client, graph: Mutex::default(), resources: Mutex::default(), queue: queue.clone() });
    let mut watches = JoinSet::new();
    collector.watch_new_resources(&mut watches, &stop).await;
    let working = collector.clone();
    let work = runner::run("generic-garbage-collector", queue, WORKERS, stop.clone(), move |uid: String| {
        let collector = working.clone();
        async move { collector.reconcile(&uid).await }
    });
    let rediscover = async {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(REDISCOVERY) => collector.watch_new_resources(&mut watches, &stop).await,
            }
        }
    };
    tokio::join!(work, rediscover);
}

impl Collector {
    /// Starts to watch what isn't watched yet, and waits for the first view of it.
    async fn watch_new_resources(self: &Arc<Self>, watches: &mut JoinSet<()>, stop: &CancellationToken) {
        let found = match self.discover().await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "the garbage collector can't see which resources there are");
                return;
            }
        };
        let mut synced = Vec::new();
        for watched in found {
            let index = {
                let mut resources = self.resources.lock();
                if resources.contains(&watched) {
                    continue;
                }
                resources.push(watched.clone());
                resources.len() - 1
            };
            let (tell, told) = watch::channel(false);
            watches.spawn(self.clone().follow(index, watched, tell, stop.clone()));
            synced.push(told);
        }
        for mut told in synced {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = told.wait_for(|synced| *synced) => {}
            }
        }
    }

    /// All resources that can be listed, watched and deleted, in the preferred version of each group. Events own nothing
    /// and come by the thousands.
    async fn discover(&self) -> Result<Vec<Watched>, kube::Error> {
        let mut versions = vec![("/api/v1".to_owned(), String::new(), "v1".to_owned())];
        let groups = self.get("/apis").await?;
        for group in groups["groups"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let preferred = &group["preferredVersion"];
            let prefix = format!("/apis/{}", text(&preferred["groupVersion"]));
            versions.push((prefix, text(&group["name"]), text(&preferred["version"])));
        }
        let mut found = Vec::new();
        for (prefix, group, version) in versions {
            let list = match self.get(&prefix).await {
                Ok(list) => list,
                Err(error) => {
                    tracing::debug!(prefix, %error, "resources not discovered");
                    continue;
                }
            };
            found.extend(list["resources"].as_array().into_iter().flatten().filter_map(|resource| {
                let plural = resource["name"].as_str().filter(|name| !name.contains('/') && *name != "events")?;
                let verbs = resource["verbs"].as_array()?;
                let has = |wanted: &str| verbs.iter().any(|verb| verb == wanted);
                (has("list") && has("watch") && has("delete")).then(|| Watched {
                    api_resource: ApiResource {
                        group: group.clone(),
                        version: version.clone(),
                        api_version: if group.is_empty() { version.clone() } else { format!("{group}/{version}") },
                        kind: resource["kind"].as_str().unwrap_or_default().to_owned(),
                        plural: plural.to_owned(),
                    },
                    namespaced: resource["namespaced"] == true,
                })
            }));
        }
        Ok(found)
    }

    async fn get(&self, path: &str) -> Result<Value, kube::Error> {
        let request = Request::get(path).header("accept", "application/json").body(Vec::new());
        self.client.request(request.map_err(kube::Error::HttpError)?).await
    }

    async fn follow(
        self: Arc<Self>,
        index: usize,
        watched: Watched,
        synced: watch::Sender<bool>,
        stop: CancellationToken,
    ) {
        let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(self.client.clone(), &watched.api_resource);
        let mut events = std::pin::pin!(watcher(api, Config::default()).default_backoff());
        let mut listed = std::collections::HashSet::new();
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                None => return,
                Some(Err(error)) => {
                    tracing::debug!(resource = watched.api_resource.plural, %error, "watch interrupted");
                }
                Some(Ok(Event::Init)) => listed.clear(),
                Some(Ok(Event::InitApply(object))) => {
                    listed.extend(object.uid());
                    self.put(index, &object);
                }
                Some(Ok(Event::InitDone)) => {
                    let known = self.graph.lock().of_resource(index);
                    known.difference(&listed).for_each(|uid| self.remove(uid));
                    listed = std::collections::HashSet::new();
                    synced.send_replace(true);
                }
                Some(Ok(Event::Apply(object))) => self.put(index, &object),
                Some(Ok(Event::Delete(object))) => object.uid().iter().for_each(|uid| self.remove(uid)),
            }
        }
    }

    fn put(&self, index: usize, object: &PartialObjectMeta<DynamicObject>) {
        let Some(uid) = object.metadata.uid.as_deref() else { return };
        let node = Node::of(index, &object.metadata);
        let interesting = !node.owners.is_empty() || node.deleting && (node.foreground || node.orphan);
        let mut graph = self.graph.lock();
        let old = graph.put(uid, node.clone());
        if interesting && old.as_deref() != Some(&node) {
            self.queue.add(uid.to_owned());
        }
        // An owner that has begun to wait wants its dependents gone, and one may have been the last that it waited for.
        let waits = |node: &Node| node.waits_for_dependents();
        if waits(&node) && !old.as_deref().is_some_and(waits) {
            graph.dependents(uid).into_iter().for_each(|dependent| self.queue.add(dependent));
        }
        for owner in old.iter().flat_map(|old| &old.owners).filter(|owner| !node.owners.contains(owner)) {
            if graph.get(&owner.uid).is_some_and(|owner| owner.deleting) {
                self.queue.add(owner.uid.clone());
            }
        }
    }

    fn remove(&self, uid: &str) {
        let mut graph = self.graph.lock();
        let Some(old) = graph.remove(uid) else { return };
        graph.dependents(uid).into_iter().for_each(|dependent| self.queue.add(dependent));
        for owner in &old.owners {
            if graph.get(&owner.uid).is_some_and(|owner| owner.waits_for_dependents()) {
                self.queue.add(owner.uid.clone());
            }
        }
    }

    fn api(&self, index: usize, namespace: &str) -> Option<Api<DynamicObject>> {
        let watched = self.resources.lock().get(index).cloned()?;
        Some(if watched.namespaced {
            Api::namespaced_with(self.client.clone(), namespace, &watched.api_resource)
        } else {
            Api::all_with(self.client.clone(), &watched.api_resource)
        })
    }

    async fn reconcile(&self, uid: &str) -> Reconciled {
        let (node, dependents) = {
            let graph = self.graph.lock();
            let Some(node) = graph.get(uid).cloned() else { return Ok(None) };
            let dependents: HashMap<String, Arc<Node>> = graph
                .dependents(uid)
                .into_iter()
                .filter_map(|dependent| Some((dependent.clone(), graph.get(&dependent)?.clone())))
                .collect();
            (node, dependents)
        };
        let mut owners = Vec::new();
        for owner in &node.owners {
            owners.push((owner.clone(), self.owner_state(&node, owner).await?));
        }
        let blocks = |dependent: &Arc<Node>| {
            dependent.owners.iter().any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
        };
        let blocking: Vec<bool> = dependents.values().map(blocks).collect();
        let Some(api) = self.api(node.resource, &node.namespace) else { return Ok(None) };
        let shown = format!("{}/{}", node.namespace, node.name);
        match decide(&node, &owners, &blocking) {
            Decision::Keep => {}
            Decision::Delete(propagation) => {
                let params = DeleteParams {
                    propagation_policy: Some(match propagation {
                        Propagation::Background => PropagationPolicy::Background,
                        Propagation::Foreground => PropagationPolicy::Foreground,
                        Propagation::Orphan => PropagationPolicy::Orphan,
                    }),
                    preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
                    ..DeleteParams::default()
                };
                done(api.delete(&node.name, &params).await.map(drop), "delete", &shown)?;
            }
            Decision::Disown(uids) => {
                done(self.disown(&api, &node.name, uid, &uids).await, "take owners off", &shown)?;
            }
            Decision::Release => {
                done(self.drop_finalizer(&api, &node.name, uid, FOREGROUND).await, "release", &shown)?;
            }
            Decision::DeleteDependents => dependents.into_keys().for_each(|dependent| self.queue.add(dependent)),
            Decision::OrphanDependents => {
                for (dependent_uid, dependent) in &dependents {
                    let Some(api) = self.api(dependent.resource, &dependent.namespace) else { continue };
                    let shown = format!("{}/{}", dependent.namespace, dependent.name);
                    let disowned = self.disown(&api, &dependent.name, dependent_uid, &[uid.to_owned()]).await;
                    done(disowned, "take its owner off", &shown)?;
                }
                done(self.drop_finalizer(&api, &node.name, uid, ORPHAN).await, "release", &shown)?;
            }
        }
        Ok(None)
    }

    /// Looks an owner up: in the graph, and where it isn't there, at the API server, as the graph may be behind.
    async fn owner_state(&self, node: &Node, owner: &OwnerReference) -> Result<OwnerState, ControllerError> {
        if let Some(found) = self.graph.lock().get(&owner.uid) {
            // An owner in another namespace is none.
            if !found.namespace.is_empty() && found.namespace != node.namespace {
                return Ok(OwnerState::Absent);
            }
            return Ok(if found.waits_for_dependents() { OwnerState::Waiting } else { OwnerState::Solid });
        }
        let (group, _) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        let resource = self
            .resources
            .lock()
            .iter()
            .position(|watched| watched.api_resource.kind == owner.kind && watched.api_resource.group == group);
        // Of a kind that nobody serves: it may be served again, so nothing is deleted for its absence.
        let Some(api) = resource.and_then(|index| self.api(index, &node.namespace)) else {
            return Ok(OwnerState::Solid);
        };
        match api.get_metadata(&owner.name).await {
            Ok(found) if found.metadata.uid.as_deref() == Some(&owner.uid) => Ok(OwnerState::Solid),
            Ok(_) => Ok(OwnerState::Absent),
            Err(error) if status(&error) == Some(404) => Ok(OwnerState::Absent),
            Err(error) => Err(ControllerError::api("look up owner", &owner.name)(error)),
        }
    }

    /// Takes owners off an object.
    async fn disown(
        &self,
        api: &Api<DynamicObject>,
        name: &str,
        uid: &str,
        owners: &[String],
    ) -> Result<(), kube::Error> {
        let current = api.get_metadata(name).await?;
        if current.metadata.uid.as_deref() != Some(uid) {
            return Ok(());
        }
        let left: Vec<&OwnerReference> =
            current.metadata.owner_references.iter().flatten().filter(|owner| !owners.contains(&owner.uid)).collect();
        let patch = json!({"metadata": {
            "uid": uid, "resourceVersion": current.metadata.resource_version,
            "ownerReferences": if left.is_empty() { Value::Null } else { json!(left) },
        }});
        api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }

    async fn drop_finalizer(
        &self,
        api: &Api<DynamicObject>,
        name: &str,
        uid: &str,
        finalizer: &str,
    ) -> Result<(), kube::Error> {
        let current = api.get_metadata(name).await?;
        let finalizers = current.metadata.finalizers.clone().unwrap_or_default();
        if current.metadata.uid.as_deref() != Some(uid) || !finalizers.iter().any(|there| there == finalizer) {
            return Ok(());
        }
        let left: Vec<&String> = finalizers.iter().filter(|there| *there != finalizer).collect();
        let patch = json!({"metadata": {
            "uid": uid, "resourceVersion": current.metadata.resource_version,
            "finalizers": if left.is_empty() { Value::Null } else { json!(left) },
        }});
        api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }
}

/// An object that is gone needs nothing any more.
fn done(result: Result<(), kube::Error>, operation: &'static str, object: &str) -> Result<(), ControllerError> {
    match result {
        Err(error) if status(&error) == Some(404) => Ok(()),
        other => other.map_err(ControllerError::api(operation, object)),
    }
}
