//! The service proxy of a node: Services and EndpointSlices in, nftables rules out.
//!
//! - `services`, `endpoints`: what the objects ask for
//! - `elements`: what that puts into maps and sets
//! - `handling`: the chains that connections go through
//! - `ruleset`: the tables without services
//! - `rules_state`: what differs from what the kernel has
//! - `health`: health check node ports

mod elements;
mod endpoints;
#[cfg(test)]
mod golden;
mod handling;
mod health;
mod rules_state;
mod ruleset;
mod services;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gantry_client::{Change, Informer, Informers, ObjectKey};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::elements::{NodeView, Plan};
use self::endpoints::Place;
use self::health::HealthChecks;
use self::rules_state::{Changes, RulesState, Tables};
use crate::conntrack::Conntrack;
use crate::error::NetworkError;
use crate::nftables;
use crate::service_slices::{BY_SERVICE, service_of, slices_by_service};

/// Where a node's zone is written.
const LABEL_ZONE: &str = "topology.kubernetes.io/zone";
/// How long to wait after a failure before everything is written anew.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// What the proxy needs to know.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The node's name.
    pub node_name: String,
    /// The node's own addresses, one of each family: node ports answer there.
    pub node_ips: Vec<IpAddr>,
    /// The cluster's pod ranges: what they send to a cluster IP keeps its source.
    pub cluster_cidrs: Vec<IpNet>,
    /// The cluster's service ranges; the families of these have a table.
    pub service_cidrs: Vec<IpNet>,
    /// The tables' name.
    pub table: String,
    /// Whether the rules go when the proxy ends. Where only the process is replaced, they should stay: connections go on
    /// working, and the next proxy takes over.
    pub remove_at_end: bool,
}

impl ProxyConfig {
    /// A proxy with tables named `gantry-proxy`, which go with it.
    pub fn new(
        node_name: impl Into<String>,
        node_ips: Vec<IpAddr>,
        cluster_cidrs: Vec<IpNet>,
        service_cidrs: Vec<IpNet>,
    ) -> Self {
        Self {
            node_name: node_name.into(),
            node_ips,
            cluster_cidrs,
            service_cidrs,
            table: "gantry-proxy".to_owned(),
            remove_at_end: true,
        }
    }
}

/// The service proxy of a node.
pub struct ServiceProxy {
    config: ProxyConfig,
    services: Arc<Informer<Service>>,
    slices: Arc<Informer<EndpointSlice>>,
    node: Arc<Informer<Node>>,
    synced: watch::Sender<bool>,
}

impl ServiceProxy {
    /// A proxy that watches through these informers; it does nothing yet.
    pub fn new(informers: &Informers, config: ProxyConfig) -> Self {
        let slices = informers.get::<EndpointSlice>();
        slices.add_index(BY_SERVICE, slices_by_service);
        let node = informers.with_fields::<Node>(format!("metadata.name={}", config.node_name));
        Self { config, services: informers.get(), slices, node, synced: watch::Sender::new(false) }
    }

    /// Becomes true when all services of the cluster have their rules.
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// Keeps the rules right until it is cancelled, then removes them if it is to.
    pub async fn run(&self, cancel: CancellationToken) -> Result<(), NetworkError> {
        let worked = tokio::select! {
            () = cancel.cancelled() => Ok(()),
            ended = self.work() => ended,
        };
        for four in self.tables().families.into_iter().filter(|_| self.config.remove_at_end) {
            nftables::remove_table(&ruleset::table(&self.config.table, four)).await?;
        }
        worked
    }

    fn tables(&self) -> Tables {
        Tables {
            name: self.config.table.clone(),
            families: rules_state::families(self.config.service_cidrs.iter().map(IpNet::addr)),
            pods: self.config.cluster_cidrs.clone(),
            services: self.config.service_cidrs.clone(),
        }
    }

    async fn work(&self) -> Result<(), NetworkError> {
        // Until everything is known nothing is touched: rules of an earlier process go on working.
        tokio::join!(self.services.synced(), self.slices.synced(), self.node.synced());
        let mut services = self.services.subscribe();
        let mut slices = self.slices.subscribe();
        let mut nodes = self.node.subscribe();
        let mut worker = Worker::new(self.tables(), self.node_view());
        loop {
            let mut dirty = HashSet::new();
            // One batch is what came while the last one was being written.
            while let Some(change) = services.try_next() {
                dirty.insert(ObjectKey::of(&**change.object()));
            }
            while let Some(change) = slices.try_next() {
                dirty.extend(services_of(&change));
            }
            let node_changed = std::iter::from_fn(|| nodes.try_next()).count() > 0;
            if node_changed {
                let view = self.node_view();
                if view.place != worker.node.place {
                    worker.node = view;
                    dirty.extend(self.services.list().iter().map(|service| ObjectKey::of(&**service)));
                }
            }
            let applied = worker.update(dirty, |key| {
                let service = self.services.get_key(key)?;
                Some((service, self.slices.by_index(BY_SERVICE, &key.to_string())))
            });
            match applied.await {
                Ok(()) => {
                    self.synced.send_replace(true);
                }
                Err(error) => tracing::error!(%error, "service rules not applied; all will be written anew"),
            }
            tokio::select! {
                change = services.next() => {
                    worker.waiting.insert(ObjectKey::of(&**change.object()));
                }
                change = slices.next() => worker.waiting.extend(services_of(&change)),
                _ = nodes.next() => {
                    let view = self.node_view();
                    if view.place != worker.node.place {
                        worker.node = view;
                        worker.waiting.extend(self.services.list().iter().map(|service| ObjectKey::of(&**service)));
                    }
                }
                () = tokio::time::sleep(RETRY_WAIT), if worker.broken => {}
            }
        }
    }

    fn node_view(&self) -> NodeView {
        let node = self.node.get("", &self.config.node_name);
        let labels = node.as_ref().and_then(|node| node.metadata.labels.as_ref());
        NodeView {
            place: Place {
                node: self.config.node_name.clone(),
                zone: labels.and_then(|labels| labels.get(LABEL_ZONE)).cloned(),
            },
            node_port_ips: self.config.node_ips.clone(),
        }
    }
}

/// The services that a changed slice belonged to and belongs to.
fn services_of(change: &Change<EndpointSlice>) -> impl Iterator<Item = ObjectKey> {
    let old = match change {
        Change::Applied { old, .. } => old.as_deref(),
        Change::Deleted(_) => None,
    };
    old.into_iter().chain(Some(&**change.object())).filter_map(service_of).collect::<Vec<_>>().into_iter()
}

/// What brings changes into the kernel.
struct Worker {
    state: RulesState,
    node: NodeView,
    health: HealthChecks,
    conntrack: Conntrack,
    /// Services to look at with the next batch.
    waiting: HashSet<ObjectKey>,
    /// Whether the kernel may not have what `state` says: at the start, and after a failure.
    broken: bool,
}

impl Worker {
    fn new(tables: Tables, node: NodeView) -> Self {
        Self {
            state: RulesState::new(tables),
            node,
            health: HealthChecks::default(),
            conntrack: Conntrack::default(),
            waiting: HashSet::new(),
            broken: true,
        }
    }

    /// Plans the dirty services anew and applies what differs. `lookup` gives a service with its slices, if it still
    /// exists. When the kernel refuses, the next call starts from nothing.
    async fn update(
        &mut self,
        dirty: HashSet<ObjectKey>,
        lookup: impl Fn(&ObjectKey) -> Option<(Arc<Service>, Vec<Arc<EndpointSlice>>)>,
    ) -> Result<(), NetworkError> {
        let mut changes = Changes::default();
        self.waiting.extend(dirty);
        for key in std::mem::take(&mut self.waiting) {
            let found = lookup(&key);
            let (plan, health) = match &found {
                Some((service, slices)) => self.plan(&key, service, slices),
                None => (Plan::default(), None),
            };
            self.health.set(&key, health).await;
            self.state.replace(&key, plan, &mut changes);
        }
        let script = if self.broken { self.state.whole_script() } else { self.state.script(&changes) };
        if !script.is_empty() {
            self.broken = true;
            nftables::apply("services", &script).await?;
        }
        self.broken = false;
        let flows = Arc::new(changes.udp);
        for four in rules_state::families(flows.keys().map(|frontend| frontend.ip)) {
            let flows = flows.clone();
            if let Err(error) = self.conntrack.forget(four, move |flow| rules_state::is_stale(&flows, flow)).await {
                tracing::warn!(%error, "UDP flows to endpoints that are gone may go on for a while");
            }
        }
        Ok(())
    }

    fn plan(&self, key: &ObjectKey, service: &Service, slices: &[Arc<EndpointSlice>]) -> (Plan, Option<(u16, usize)>) {
        let before = self.state.plan(key).map(|plan| &plan.places);
        let sides = services::families(service);
        let node = &self.node.place.node;
        let endpoints_of = |port: &services::ServicePort, four| {
            endpoints::of_port(slices.iter().map(|slice| &**slice), &port.name, &port.protocol, four, node)
        };
        let health = services::health_check_node_port(service).map(|port| {
            let mut local = HashSet::new();
            for side in &sides {
                for service_port in &side.ports {
                    let endpoints = endpoints_of(service_port, side.four);
                    local.extend(endpoints.iter().filter(|one| one.local && one.ready).map(|one| one.target.0));
                }
            }
            (port, local.len())
        });
        let none = elements::Places::new();
        let plan = elements::plan(&sides, endpoints_of, &self.node, before.unwrap_or(&none));
        (plan, health)
    }
}
