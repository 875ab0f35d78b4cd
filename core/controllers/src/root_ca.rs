//! Every namespace has the config map `kube-root-ca.crt`, with which pods check the API server (upstream's
//! `rootcacertpublisher`).

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_client::{Client, Informer, Informers, ObjectKey, WorkQueue};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use tokio_util::sync::CancellationToken;

use crate::error::{ControllerError, status};
use crate::namespace::is_active;
use crate::replica_set::is_namespace_terminating;
use crate::runner::{self, Reconciled};

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// Runs the controller until `stop`. `ca_pem` is the certificate that signed the API server's.
pub async fn run(client: Client, informers: Informers, ca_pem: Arc<str>, stop: CancellationToken) {
    let namespaces = informers.get::<Namespace>();
    // Of all config maps only these: the others may be many and large.
    let maps = informers.with_fields::<ConfigMap>(format!("metadata.name={NAME}"));
    if !runner::synced(&[&namespaces, &maps], &stop).await {
        return;
    }
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    runner::enqueue_all(&namespaces, &queue);
    let keys = queue.clone();
    maps.on_change(move |change| {
        keys.add(ObjectKey::new("", change.object().metadata.namespace.clone().unwrap_or_default()));
    });
    runner::run("root-ca-certificate-publisher", queue, 1, stop, move |key| {
        let (client, namespaces, maps, ca_pem) = (client.clone(), namespaces.clone(), maps.clone(), ca_pem.clone());
        async move { reconcile(&client, &namespaces, &maps, &ca_pem, &key.name).await }
    })
    .await;
}

/// The map as it shall be; none when it is so already.
fn wanted(there: Option<&ConfigMap>, ca_pem: &str) -> Option<ConfigMap> {
    let data = BTreeMap::from([("ca.crt".to_owned(), ca_pem.to_owned())]);
    let annotation = ("kubernetes.io/description".to_owned(), DESCRIPTION.to_owned());
    let Some(there) = there else {
        return Some(ConfigMap {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                annotations: Some(BTreeMap::from([annotation])),
                ..ObjectMeta::default()
            },
            data: Some(data),
            ..ConfigMap::default()
        });
    };
    let annotated = there.metadata.annotations.as_ref().and_then(|map| map.get(&annotation.0)) == Some(&annotation.1);
    if there.data.as_ref() == Some(&data) && annotated {
        return None;
    }
    let mut changed = there.clone();
    changed.data = Some(data);
    changed.metadata.annotations.get_or_insert_default().insert(annotation.0, annotation.1);
    Some(changed)
}

async fn reconcile(
    client: &Client,
    namespaces: &Arc<Informer<Namespace>>,
    maps: &Arc<Informer<ConfigMap>>,
    ca_pem: &str,
    namespace: &str,
) -> Reconciled {
    if !namespaces.get("", namespace).is_some_and(|namespace| is_active(&namespace)) {
        return Ok(None);
    }
    let there = maps.get(namespace, NAME);
    let Some(map) = wanted(there.as_deref(), ca_pem) else { return Ok(None) };
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let written = match there {
        None => api.create(&PostParams::default(), &map).await,
        Some(_) => api.replace(NAME, &PostParams::default(), &map).await,
    };
    match written {
        Ok(_) => Ok(None),
        Err(error) if status(&error) == Some(409) || is_namespace_terminating(&error) => Ok(None),
        Err(error) => Err(ControllerError::api("write config map kube-root-ca.crt in", namespace)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_made_mended_and_then_left_alone() {
        let made = wanted(None, "PEM").expect("a new map");
        assert_eq!(wanted(Some(&made), "PEM"), None);
        let renewed = wanted(Some(&made), "NEW").expect("a change");
        assert_eq!(renewed.data.expect("data")["ca.crt"], "NEW");
    }
}
