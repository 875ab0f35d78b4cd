//! Starts all controllers.

use std::sync::Arc;

use gantry_client::{Client, Informers};
use ipnet::IpNet;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    cluster_role_aggregation, deployment, endpoints, garbage_collector, namespace, node, pod_gc, replica_set, root_ca,
    service_account, volumes,
};

/// What the controllers need to know.
#[derive(Clone, Debug)]
pub struct ManagerConfig {
    /// The certificate with which pods check the API server, PEM.
    pub root_ca_pem: Arc<str>,
    /// The ranges that nodes' pod ranges come out of; empty: nodes get none.
    pub cluster_cidrs: Vec<IpNet>,
}

/// All controllers of a cluster.
pub struct ControllerManager {
    config: ManagerConfig,
    informers: Informers,
    client_of: Box<dyn Fn(&str) -> Client + Send>,
}

impl ControllerManager {
    /// `informers` watch for all of them. `client_of` gives each controller a client of its own, by the name of its
    /// service account in `kube-system` (`deployment-controller`): it can do no more than its role says.
    pub fn new(
        config: ManagerConfig,
        informers: Informers,
        client_of: impl Fn(&str) -> Client + Send + 'static,
    ) -> Self {
        Self { config, informers, client_of: Box::new(client_of) }
    }

    /// Runs them until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let Self { config, informers, client_of } = self;
        let mut tasks = JoinSet::new();
        macro_rules! start {
            ($run:path, $account:literal $(, $argument:expr)*) => {
                tasks.spawn($run(client_of($account), informers.clone() $(, $argument)*, stop.clone()))
            };
        }
        start!(namespace::run, "namespace-controller");
        start!(service_account::run, "service-account-controller");
        start!(root_ca::run, "root-ca-cert-publisher", config.root_ca_pem);
        start!(cluster_role_aggregation::run, "clusterrole-aggregation-controller");
        start!(deployment::run, "deployment-controller");
        start!(replica_set::run, "replicaset-controller");
        tasks.spawn(endpoints::run(
            client_of("endpointslice-controller"),
            client_of("endpoint-controller"),
            informers.clone(),
            stop.clone(),
        ));
        start!(pod_gc::run, "pod-garbage-collector");
        start!(node::lifecycle::run, "node-controller");
        start!(node::taint_eviction::run, "node-controller");
        if !config.cluster_cidrs.is_empty() {
            start!(node::ipam::run, "node-controller", config.cluster_cidrs);
        }
        start!(volumes::controller::run, "persistent-volume-binder");
        start!(volumes::protection::run_claims, "pvc-protection-controller");
        start!(volumes::protection::run_volumes, "pv-protection-controller");
        tasks.spawn(garbage_collector::run(client_of("generic-garbage-collector"), stop.clone()));
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a controller has ended");
            }
        }
    }
}
