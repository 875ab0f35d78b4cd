//! Every namespace has a service account `default` (upstream's `serviceaccounts_controller.go`).

use std::sync::Arc;

use gantry_client::{Client, Informer, Informers, ObjectKey, WorkQueue};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use tokio_util::sync::CancellationToken;

use crate::error::{ControllerError, status};
use crate::namespace::is_active;
use crate::replica_set::is_namespace_terminating;
use crate::runner::{self, Reconciled};

const NAME: &str = "default";

/// Runs the controller until `stop`.
pub async fn run(client: Client, informers: Informers, stop: CancellationToken) {
    let (namespaces, accounts) = (informers.get::<Namespace>(), informers.get::<ServiceAccount>());
    if !runner::synced(&[&namespaces, &accounts], &stop).await {
        return;
    }
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    runner::enqueue_all(&namespaces, &queue);
    let keys = queue.clone();
    accounts.on_change(move |change| {
        if let gantry_client::Change::Deleted(account) = change
            && account.metadata.name.as_deref() == Some(NAME)
        {
            keys.add(ObjectKey::new("", account.metadata.namespace.clone().unwrap_or_default()));
        }
    });
    runner::run("serviceaccount", queue, 1, stop, move |key| {
        let (client, namespaces, accounts) = (client.clone(), namespaces.clone(), accounts.clone());
        async move { reconcile(&client, &namespaces, &accounts, &key.name).await }
    })
    .await;
}

async fn reconcile(
    client: &Client,
    namespaces: &Arc<Informer<Namespace>>,
    accounts: &Arc<Informer<ServiceAccount>>,
    namespace: &str,
) -> Reconciled {
    if !namespaces.get("", namespace).is_some_and(|namespace| is_active(&namespace))
        || accounts.get(namespace, NAME).is_some()
    {
        return Ok(None);
    }
    let account = ServiceAccount {
        metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
        ..ServiceAccount::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    match api.create(&PostParams::default(), &account).await {
        Ok(_) => Ok(None),
        Err(error) if status(&error) == Some(409) || is_namespace_terminating(&error) => Ok(None),
        Err(error) => Err(ControllerError::api("create service account default in", namespace)(error)),
    }
}
