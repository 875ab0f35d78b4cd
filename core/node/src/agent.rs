//! The agent: registers its node, starts a worker for each of its pods, and tells the workers what happens.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gantry_client::informer::Change;
use gantry_client::{Informer, Informers};
use gantry_plugin_host::contract::runtime::{ExecPlan, ExecRequest};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use parking_lot::RwLock;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cgroups::PodCgroups;
use crate::config::{AgentConfig, AgentParts};
use crate::container_io::ContainerExit;
use crate::context::Context;
use crate::eviction;
use crate::lease;
use crate::machine::Machine;
use crate::node_status::{NodeKeeper, allocatable};
use crate::observed::{ContainerRecord, Observed, SandboxRecord, keys, value};
use crate::pod;
use crate::pod_worker::PodWorker;
use crate::pod_worker::inbox::Inbox;
use crate::provisioner;
use crate::references::References;
use crate::registry::{Entry, PodView, Registry};
use crate::static_pods;
use crate::view::{AgentView, ContainerLocation, ViewError, VolumeLocation};
use crate::volumes::{self, token::Tokens};

/// The waits between attempts to register.
const REGISTER_MIN: Duration = Duration::from_millis(100);
const REGISTER_MAX: Duration = Duration::from_secs(7);

/// Why the agent can't start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its folder can't be made.
    #[error("make the agent's folder {path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The node agent.
pub struct NodeAgent {
    context: Arc<Context>,
    registry: Arc<Registry>,
    pods: Arc<Informer<Pod>>,
}

impl NodeAgent {
    /// An agent that does nothing yet but watch.
    ///
    /// # Errors
    /// When its folder can't be made.
    pub fn new(config: AgentConfig, parts: AgentParts) -> Result<Self, AgentError> {
        for folder in [config.root_dir.join("pods"), config.log_dir.clone()] {
            fs::create_dir_all(&folder).map_err(|source| AgentError::Folder { path: folder, source })?;
        }
        let informers = Informers::new(parts.client.clone());
        let machine = Machine::detect(&config.root_dir);
        let context = Arc::new(Context {
            cgroups: PodCgroups::new(&config.cgroup_root, config.manage_cgroups, config.pod_pids_limit),
            references: References::new(parts.client.clone()),
            tokens: Tokens::new(parts.client.clone()),
            node: informers.with_fields(format!("metadata.name={}", config.node_name)),
            services: informers.get(),
            runtime_classes: informers.get(),
            allocatable: allocatable(&machine, &config),
            machine,
            started: Instant::now(),
            config,
            parts,
        });
        let pods = informers.with_fields(format!("spec.nodeName={}", context.config.node_name));
        Ok(Self { context, registry: Arc::default(), pods })
    }

    /// The agent as its server sees it.
    pub fn view(&self) -> Arc<dyn AgentView> {
        Arc::new(View { context: self.context.clone(), registry: self.registry.clone() })
    }

    /// Works until it is told to stop. Containers go on without the agent; the next one on the same folder takes them
    /// over.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.work(stop.clone()) => {}
        }
    }

    async fn work(self, stop: CancellationToken) {
        let context = self.context.clone();
        let about = context.node_reference();
        context.parts.recorder.normal(&about, "Starting", "Starting kubelet.");
        context.cgroups.prepare();
        // From here on nothing that exits is missed.
        let mut exits = context.parts.io.exits();
        let mut adopted = self.find_running().await;
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_node(context.clone(), stop.clone()));
        let (manifests, mut statics) = mpsc::channel(1);
        if let Some(folder) = context.config.static_pod_dir.clone() {
            tasks.spawn(static_pods::follow(folder, context.config.node_name.clone(), manifests));
        } else {
            drop(manifests);
        }
        let mut workers = JoinSet::new();
        let mut static_known: BTreeMap<String, Pod> = BTreeMap::new();
        let mut following = context.config.static_pod_dir.is_some();
        let mut statics_known_once = !following;
        let synced = async {
            tokio::join!(
                context.node.synced(),
                context.services.synced(),
                context.runtime_classes.synced(),
                self.pods.synced()
            );
            // Pods are admitted by what the node says of itself.
            let mut nodes = context.node.subscribe();
            while context.node.get("", &context.config.node_name).is_none() {
                nodes.next().await;
            }
        };
        tokio::pin!(synced);
        // Static pods must not wait for an API server that may be one of them.
        loop {
            tokio::select! {
                _ = &mut synced => break,
                Some(now) = statics.recv(), if following => {
                    statics_known_once = true;
                    self.set_statics(&mut static_known, now, &mut adopted, &mut workers);
                }
                exit = exits.recv() => self.exited(exit),
                Some(done) = workers.join_next(), if !workers.is_empty() => {
                    worker_ended(done);
                    let now = static_known.clone();
                    self.set_statics(&mut static_known, now, &mut BTreeMap::new(), &mut workers);
                }
            }
        }
        tasks.spawn(provisioner::run(context.clone(), stop.clone()));
        tasks.spawn(eviction::run(context.clone(), self.registry.clone(), stop.clone()));
        let mut changes = self.pods.subscribe();
        while let Some(change) = changes.try_next() {
            self.told(change, &mut adopted, &mut workers);
        }
        if !statics_known_once && let Some(now) = statics.recv().await {
            self.set_statics(&mut static_known, now, &mut adopted, &mut workers);
        }
        self.remove_orphans(adopted).await;
        loop {
            tokio::select! {
                change = changes.next() => self.told(change, &mut BTreeMap::new(), &mut workers),
                now = statics.recv(), if following => match now {
                    Some(now) => self.set_statics(&mut static_known, now, &mut BTreeMap::new(), &mut workers),
                    None => following = false,
                },
                exit = exits.recv() => self.exited(exit),
                Some(done) = workers.join_next(), if !workers.is_empty() => {
                    worker_ended(done);
                    let now = static_known.clone();
                    self.set_statics(&mut static_known, now, &mut BTreeMap::new(), &mut workers);
                }
            }
        }
    }

    fn exited(&self, exit: Result<ContainerExit, RecvError>) {
        match exit {
            Ok(exit) => self.registry.exited(&exit.container_id),
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "exits were missed, looking at all containers");
                self.registry.look_again();
            }
            // Whoever sends lives as long as the agent's parts do.
            Err(RecvError::Closed) => {}
        }
    }

    /// Makes the static pods those of the manifests.
    fn set_statics(
        &self,
        known: &mut BTreeMap<String, Pod>,
        now: BTreeMap<String, Pod>,
        adopted: &mut BTreeMap<String, Observed>,
        workers: &mut JoinSet<()>,
    ) {
        for (uid, pod) in known.iter().filter(|(uid, _)| !now.contains_key(*uid)) {
            if let Some(entry) = self.registry.get(uid) {
                entry.inbox.gone(pod);
            }
        }
        for (uid, pod) in &now {
            // The earlier version ends before the next begins: they may want the same port.
            let same = |entry: &Entry| {
                let view = entry.view.read();
                static_pods::is_static(&view.pod)
                    && pod::name(&view.pod) == pod::name(pod)
                    && pod::namespace(&view.pod) == pod::namespace(pod)
            };
            if self.registry.get(uid).is_none() && !self.registry.all().iter().any(same) {
                self.add(Arc::new(pod.clone()), adopted, workers);
            }
        }
        *known = now;
    }

    /// Something happened to a mirror pod: it follows its static pod, not the other way round.
    fn mirror(&self, mirror: &Arc<Pod>, is_gone: bool) {
        let named = self.registry.all().into_iter().find(|entry| {
            let view = entry.view.read();
            static_pods::is_static(&view.pod)
                && pod::name(&view.pod) == pod::name(mirror)
                && pod::namespace(&view.pod) == pod::namespace(mirror)
        });
        match named {
            Some(entry) if is_gone => entry.inbox.mirror_gone(),
            Some(_) if !pod::is_deleted(mirror) => {}
            _ if is_gone => {}
            _ => {
                let api: Api<Pod> = Api::namespaced(self.context.parts.client.clone(), pod::namespace(mirror));
                let name = pod::name(mirror).to_owned();
                let precondition = Preconditions { uid: mirror.metadata.uid.clone(), resource_version: None };
                let params =
                    DeleteParams { preconditions: Some(precondition), ..DeleteParams::default().grace_period(0) };
                tokio::spawn(async move {
                    if let Err(error) = api.delete(&name, &params).await {
                        tracing::debug!(name, %error, "mirror pod not deleted");
                    }
                });
            }
        }
    }

    fn told(&self, change: Change<Pod>, adopted: &mut BTreeMap<String, Observed>, workers: &mut JoinSet<()>) {
        if static_pods::is_mirror(change.object()) {
            self.mirror(change.object(), matches!(change, Change::Deleted(_)));
            return;
        }
        match change {
            Change::Applied { old, new } => {
                if let Some(old) = old.filter(|old| old.metadata.uid != new.metadata.uid)
                    && let Some(entry) = self.registry.get(pod::uid(&old))
                {
                    entry.inbox.gone(&old);
                }
                match self.registry.get(pod::uid(&new)) {
                    Some(entry) => entry.inbox.pod(new),
                    None => self.add(new, adopted, workers),
                }
            }
            Change::Deleted(last) => {
                if let Some(entry) = self.registry.get(pod::uid(&last)) {
                    entry.inbox.gone(&last);
                }
            }
        }
    }

    fn add(&self, pod: Arc<Pod>, adopted: &mut BTreeMap<String, Observed>, workers: &mut JoinSet<()>) {
        let uid = pod::uid(&pod).to_owned();
        let observed = adopted.remove(&uid).unwrap_or_default();
        let inbox = Arc::new(Inbox::default());
        inbox.pod(pod.clone());
        let view = Arc::new(RwLock::new(PodView {
            status: pod.status.clone().filter(|status| status.start_time.is_some()),
            pod,
            observed: observed.clone(),
            mounted: BTreeMap::new(),
            runtime: None,
            is_over: false,
        }));
        self.registry.insert(&uid, Entry { inbox: inbox.clone(), view: view.clone() });
        let worker = PodWorker::new(self.context.clone(), self.registry.clone(), inbox, view, observed);
        workers.spawn(worker.run());
    }

    /// What runs already, by uid of the pod.
    async fn find_running(&self) -> BTreeMap<String, Observed> {
        let mut found: BTreeMap<String, Observed> = BTreeMap::new();
        for runtime in self.context.parts.runtimes.values() {
            match runtime.list_sandboxes().await {
                Ok(sandboxes) => {
                    for status in sandboxes {
                        let network = self.context.parts.network.get(&status.id).await;
                        let ips = network.ok().flatten().map(|attachment| attachment.ips).unwrap_or_default();
                        let record = SandboxRecord::from_runtime(&status, ips);
                        found.entry(status.uid).or_default().put_sandbox(record);
                    }
                }
                Err(error) => tracing::warn!(runtime = runtime.name(), %error, "sandboxes not listed"),
            }
            match runtime.list_containers().await {
                Ok(containers) => {
                    for status in containers {
                        let Some(uid) = value(&status.labels, keys::POD_UID) else { continue };
                        found.entry(uid.to_owned()).or_default().put_container(ContainerRecord::from_runtime(&status));
                    }
                }
                Err(error) => tracing::warn!(runtime = runtime.name(), %error, "containers not listed"),
            }
        }
        found
    }

    /// Removes what pods left that are gone.
    async fn remove_orphans(&self, orphans: BTreeMap<String, Observed>) {
        let known: HashSet<String> =
            self.registry.all().iter().map(|entry| pod::uid(&entry.view.read().pod).to_owned()).collect();
        for (uid, observed) in orphans {
            tracing::info!(uid, "removing what is left of a pod that is gone");
            for runtime in self.context.parts.runtimes.values() {
                for sandbox in &observed.sandboxes {
                    let _ = runtime.stop_sandbox(&sandbox.id).await;
                }
                for container in &observed.containers {
                    let _ = runtime.remove_container(&container.id).await;
                }
                for sandbox in &observed.sandboxes {
                    let _ = runtime.remove_sandbox(&sandbox.id).await;
                }
            }
        }
        if let Ok(entries) = fs::read_dir(self.context.config.root_dir.join("pods")) {
            for entry in entries.flatten() {
                let Ok(uid) = entry.file_name().into_string() else { continue };
                if known.contains(&uid) {
                    continue;
                }
                if let Err(why) = volumes::unmount_all(&self.context, &uid).await {
                    tracing::warn!(uid, why, "volumes of a pod that is gone are still there");
                    continue;
                }
                if let Err(error) = volumes::mounts::unmount_and_remove(&entry.path()) {
                    tracing::warn!(uid, %error, "the folder of a pod that is gone is still there");
                }
            }
        }
        if let Ok(entries) = fs::read_dir(&self.context.config.log_dir) {
            for entry in entries.flatten() {
                // NAMESPACE_NAME_UID
                let name = entry.file_name();
                let uid = name.to_str().and_then(|name| name.rsplit('_').next()).unwrap_or_default();
                if !known.contains(uid) {
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
        }
        self.context.cgroups.remove_orphans(|uid| known.contains(uid));
        if let Ok(attached) = self.context.parts.network.list().await {
            let kept: HashSet<String> = self
                .registry
                .all()
                .iter()
                .flat_map(|entry| {
                    let view = entry.view.read();
                    view.observed.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect::<Vec<_>>()
                })
                .collect();
            for id in attached.into_iter().filter(|id| !kept.contains(id)) {
                let _ = self.context.parts.network.detach(&id).await;
            }
        }
    }
}

fn worker_ended(done: Result<(), JoinError>) {
    if let Err(error) = done
        && error.is_panic()
    {
        tracing::error!(%error, "a pod's worker failed");
    }
}

/// Registers the node, then keeps its status and its lease.
async fn keep_node(context: Arc<Context>, stop: CancellationToken) {
    let mut keeper = NodeKeeper::new(context.clone());
    let mut wait = REGISTER_MIN;
    while let Err(error) = keeper.register().await {
        tracing::warn!(node = context.config.node_name, %error, "node not registered, will try again");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(REGISTER_MAX);
    }
    let name = context.config.node_name.clone();
    let node = context.node.clone();
    let uid_of = {
        let name = name.clone();
        move || lease::uid_of(node.get("", &name).as_deref())
    };
    tokio::join!(keeper.keep(stop.clone()), lease::keep(context.parts.client.clone(), name, uid_of, stop));
}

/// [`AgentView`] over the registry.
struct View {
    context: Arc<Context>,
    registry: Arc<Registry>,
}

impl View {
    fn find(&self, namespace: &str, name: &str) -> Result<Entry, ViewError> {
        let missing = || ViewError::PodNotFound { namespace: namespace.to_owned(), name: name.to_owned() };
        self.registry.find(namespace, name).ok_or_else(missing)
    }
}

fn shown(view: &PodView) -> Arc<Pod> {
    let mut pod = (*view.pod).clone();
    pod.status = view.status.clone().or(pod.status);
    Arc::new(pod)
}

#[async_trait]
impl AgentView for View {
    fn node_name(&self) -> &str {
        &self.context.config.node_name
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        self.registry.all().iter().map(|entry| shown(&entry.view.read())).collect()
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.registry.find(namespace, name).map(|entry| shown(&entry.view.read()))
    }

    fn container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        previous: bool,
    ) -> Result<ContainerLocation, ViewError> {
        let entry = self.find(namespace, pod)?;
        let view = entry.view.read();
        let (pod, container) = (pod.to_owned(), container.to_owned());
        if pod::find_container(&view.pod, &container).is_none() {
            return Err(ViewError::ContainerNotFound { pod, container });
        }
        let (found, what) = if previous {
            (view.observed.previous(&container), "previous terminated")
        } else {
            (view.observed.newest(&container), "current")
        };
        let (Some(record), Some(runtime)) = (found, &view.runtime) else {
            return Err(ViewError::NotStarted { what, pod, container });
        };
        Ok(ContainerLocation {
            pod_uid: pod::uid(&view.pod).to_owned(),
            sandbox_id: record.sandbox_id.clone(),
            container_id: record.id.clone(),
            runtime: runtime.clone(),
            state: record.state,
            attempt: record.attempt,
            log_path: record.log_path.clone(),
        })
    }

    fn network_namespace(&self, namespace: &str, pod: &str) -> Result<Option<PathBuf>, ViewError> {
        let entry = self.find(namespace, pod)?;
        let view = entry.view.read();
        Ok(view.observed.sandbox().and_then(|sandbox| sandbox.netns_path.clone()))
    }

    async fn exec_process(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        command: &[String],
        tty: bool,
    ) -> Result<(String, String), ViewError> {
        let location = self.container(namespace, pod, container, false)?;
        let request = ExecRequest { command: command.to_vec(), tty };
        match location.runtime.exec_spec(&location.container_id, &request).await {
            Ok(ExecPlan::OciProcess(text)) => Ok((text, location.container_id)),
            Err(source) => Err(ViewError::Runtime {
                pod: pod.to_owned(),
                container: container.to_owned(),
                source: Box::new(source),
            }),
        }
    }

    fn volumes(&self, namespace: &str, pod: &str) -> Vec<VolumeLocation> {
        let Ok(entry) = self.find(namespace, pod) else { return Vec::new() };
        let view = entry.view.read();
        let spec = pod::spec(&view.pod);
        let volumes = spec.volumes.iter().flatten().filter_map(|volume| {
            let mounted = view.mounted.get(&volume.name)?;
            let claim = volume.persistent_volume_claim.as_ref().map(|source| source.claim_name.clone());
            let ephemeral = volume.ephemeral.as_ref().map(|_| format!("{}-{}", pod::name(&view.pod), volume.name));
            Some(VolumeLocation { name: volume.name.clone(), path: mounted.path.clone(), claim: claim.or(ephemeral) })
        });
        volumes.collect()
    }

    fn pod_cgroup(&self, namespace: &str, pod: &str) -> Option<String> {
        let entry = self.find(namespace, pod).ok()?;
        let view = entry.view.read();
        Some(self.context.cgroups.path(&view.pod))
    }

    fn log_dir(&self) -> PathBuf {
        self.context.config.log_dir.clone()
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
