//! Informers, queue and writes of the endpoint slice and endpoints controllers. Both look at the same pods, so they share
//! one queue.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_client::events::reference;
use gantry_client::{Change, Client, EventRecorder, Informer, Informers, ObjectKey, WorkQueue};
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::legacy;
use super::membership::{has_selector, selects_pod};
use super::slices::{self, CONTROLLER, MANAGED_BY, SERVICE_NAME};
use crate::error::{ControllerError, found, status};
use crate::replica_set::{is_namespace_terminating, message_of};
use crate::runner::{self, Reconciled};

/// How many services are worked on at once; upstream's `concurrent-service-endpoint-syncs`.
const WORKERS: usize = 5;
/// How long is waited for the informer to show what was made.
const UNSEEN_MAX: Duration = Duration::from_secs(10);
const BY_NAMESPACE: &str = "namespace";
const BY_SERVICE: &str = "service";

struct Controller {
    slices_client: Client,
    endpoints_client: Client,
    recorder: EventRecorder,
    services: Arc<Informer<Service>>,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    slices: Arc<Informer<EndpointSlice>>,
    endpoints: Arc<Informer<Endpoints>>,
    /// Names of slices that were made and haven't been seen, by service, and since when.
    unseen: Mutex<HashMap<ObjectKey, (Vec<String>, Instant)>>,
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    let name = labels.get(SERVICE_NAME).filter(|_| labels.get(MANAGED_BY).map(String::as_str) == Some(CONTROLLER))?;
    Some(ObjectKey::new(slice.metadata.namespace.clone().unwrap_or_default(), name.clone()))
}

/// Runs both controllers until `stop`. Slices and endpoints are written by clients of their own.
pub async fn run(slices_client: Client, endpoints_client: Client, informers: Informers, stop: CancellationToken) {
    let controller = Arc::new(Controller {
        recorder: EventRecorder::new(slices_client.clone(), "endpoint-slice-controller", ""),
        slices_client,
        endpoints_client,
        services: informers.get(),
        pods: informers.get(),
        nodes: informers.get(),
        slices: informers.get(),
        endpoints: informers.get(),
        unseen: Mutex::default(),
    });
    controller.pods.add_index(BY_NAMESPACE, |pod| pod.metadata.namespace.clone().into_iter().collect());
    controller.services.add_index(BY_NAMESPACE, |service| service.metadata.namespace.clone().into_iter().collect());
    controller.slices.add_index(BY_SERVICE, |slice| service_of(slice).map(|key| key.to_string()).into_iter().collect());
    let all = (&controller.services, &controller.pods, &controller.nodes, &controller.slices, &controller.endpoints);
    if !runner::synced(&[all.0, all.1, all.2, all.3, all.4], &stop).await {
        return;
    }
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    runner::enqueue_all(&controller.services, &queue);
    let (keys, watched) = (queue.clone(), controller.clone());
    controller.pods.on_change(move |change| watched.pod_changed(change, &keys));
    let keys = queue.clone();
    controller.slices.on_change(move |change| service_of(change.object()).into_iter().for_each(|key| keys.add(key)));
    let keys = queue.clone();
    controller.endpoints.on_change(move |change| keys.add(ObjectKey::of(&**change.object())));
    runner::run("endpoints", queue, WORKERS, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
    .await;
}

impl Controller {
    fn pod_changed(&self, change: &Change<Pod>, queue: &WorkQueue<ObjectKey>) {
        let new = change.object();
        let old = match change {
            Change::Applied { old, .. } => old.as_ref(),
            Change::Deleted(_) => None,
        };
        if old.is_some_and(|old| matters(old) == matters(new)) {
            return;
        }
        for service in self.services.by_index(BY_NAMESPACE, new.metadata.namespace.as_deref().unwrap_or_default()) {
            if has_selector(&service)
                && (selects_pod(&service, new) || old.is_some_and(|old| selects_pod(&service, old)))
            {
                queue.add(ObjectKey::of(&*service));
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Reconciled {
        // Slices and endpoints of a service that is gone are the garbage collector's, by their owner and by name.
        let Some(service) = self.services.get_key(key) else { return self.remove_endpoints(key).await };
        if !has_selector(&service) || service.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let pods: Vec<Arc<Pod>> = self
            .pods
            .by_index(BY_NAMESPACE, &key.namespace)
            .into_iter()
            .filter(|pod| selects_pod(&service, pod))
            .collect();
        let written = self.write_slices(key, &service, &pods).await;
        let written = match written {
            Ok(()) => self.write_endpoints(key, &service, &pods).await,
            other => other,
        };
        match written {
            Ok(()) => Ok(None),
            Err(ControllerError::Api { source, .. }) if is_namespace_terminating(&source) => Ok(None),
            Err(error) => {
                if let ControllerError::Api { source, .. } = &error
                    && status(source) != Some(409)
                {
                    let message = format!("Error updating Endpoint Slices for Service {key}: {}", message_of(source));
                    self.recorder.warning(&reference(&*service), "FailedToUpdateEndpointSlices", message);
                }
                Err(error)
            }
        }
    }

    async fn write_slices(&self, key: &ObjectKey, service: &Service, pods: &[Arc<Pod>]) -> Result<(), ControllerError> {
        let existing = self.slices.by_index(BY_SERVICE, &key.to_string());
        if self.is_behind(key, &existing) {
            return Err(ControllerError::NotYet(format!("endpoint slices of service {key} haven't been seen yet")));
        }
        let nodes = |name: &str| self.nodes.get("", name);
        let changes = slices::reconcile(service, pods, &nodes, &existing);
        let api: Api<EndpointSlice> = Api::namespaced(self.slices_client.clone(), &key.namespace);
        let params = PostParams::default();
        let mut created = Vec::new();
        for slice in &changes.create {
            let made = api.create(&params, slice).await;
            let made = made.map_err(ControllerError::api("create an endpoint slice of service", key))?;
            created.extend(made.metadata.name);
        }
        for slice in &changes.update {
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            api.replace(name, &params, slice).await.map_err(ControllerError::api("update endpoint slice", name))?;
        }
        for name in &changes.delete {
            let deleted = api.delete(name, &DeleteParams::default()).await;
            found(deleted).map_err(ControllerError::api("delete endpoint slice", name))?;
        }
        if !created.is_empty() {
            self.unseen.lock().insert(key.clone(), (created, Instant::now()));
        }
        Ok(())
    }

    /// Whether slices that were made for a service haven't been seen yet: the next pass would make them again.
    fn is_behind(&self, key: &ObjectKey, existing: &[Arc<EndpointSlice>]) -> bool {
        let mut unseen = self.unseen.lock();
        let Some((names, since)) = unseen.get_mut(key) else { return false };
        names.retain(|name| !existing.iter().any(|slice| slice.metadata.name.as_ref() == Some(name)));
        let behind = !names.is_empty() && since.elapsed() < UNSEEN_MAX;
        if !behind {
            unseen.remove(key);
        }
        behind
    }

    async fn write_endpoints(
        &self,
        key: &ObjectKey,
        service: &Service,
        pods: &[Arc<Pod>],
    ) -> Result<(), ControllerError> {
        let existing = self.endpoints.get_key(key);
        let Some(wanted) = legacy::reconcile(service, pods, existing.as_deref()) else { return Ok(()) };
        let api: Api<Endpoints> = Api::namespaced(self.endpoints_client.clone(), &key.namespace);
        let written = match existing {
            None => api.create(&PostParams::default(), &wanted).await,
            Some(_) => api.replace(&key.name, &PostParams::default(), &wanted).await,
        };
        written.map(drop).map_err(ControllerError::api("write endpoints", key))
    }

    async fn remove_endpoints(&self, key: &ObjectKey) -> Reconciled {
        let managed = self.endpoints.get_key(key).filter(|endpoints| {
            let labels = endpoints.metadata.labels.as_ref();
            labels.is_some_and(|labels| labels.contains_key("endpoints.kubernetes.io/managed-by"))
        });
        if managed.is_some() {
            let api: Api<Endpoints> = Api::namespaced(self.endpoints_client.clone(), &key.namespace);
            let deleted = api.delete(&key.name, &DeleteParams::default()).await;
            found(deleted).map_err(ControllerError::api("delete endpoints", key))?;
        }
        Ok(None)
    }
}

/// What of a pod endpoints depend on.
fn matters(pod: &Pod) -> impl PartialEq + '_ {
    let status = pod.status.as_ref();
    let spec = pod.spec.as_ref();
    (
        (pod.metadata.labels.as_ref(), pod.metadata.deletion_timestamp.is_some()),
        (crate::pods::is_ready(pod), crate::pods::is_terminal(pod)),
        status.map(|status| (status.pod_ip.as_ref(), status.pod_ips.as_ref())),
        spec.map(|spec| (spec.node_name.as_ref(), spec.hostname.as_ref(), spec.subdomain.as_ref())),
    )
}
