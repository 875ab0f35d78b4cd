//! The DNS service as the cluster sees it: a Service without a selector, and for each node an EndpointSlice.

use std::net::IpAddr;

use gantry_client::Client;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::error::NetworkError;
use crate::service_slices::LABEL_SERVICE_NAME;

pub(super) const NAMESPACE: &str = "kube-system";
/// The service's name, as upstream's add-on has it.
pub(super) const SERVICE: &str = "kube-dns";
/// Who looks after the slices: the slice controllers leave them alone.
const MANAGED_BY: &str = "cluster-dns.gantry.dev";

/// What a node registers.
#[derive(Clone, Debug)]
pub(super) struct Registration {
    pub(super) node: String,
    pub(super) cluster_ip: IpAddr,
    /// Where this node's pods reach it.
    pub(super) listen: Vec<IpAddr>,
}

impl Registration {
    /// The slice's name.
    pub(super) fn slice_name(&self) -> String {
        format!("{SERVICE}-{}", self.node)
    }

    /// The address of the service's family; the service has one family.
    fn address(&self) -> Option<IpAddr> {
        self.listen.iter().find(|ip| ip.is_ipv4() == self.cluster_ip.is_ipv4()).copied()
    }

    fn service(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": SERVICE, "namespace": NAMESPACE,
                "labels": {
                    "k8s-app": "kube-dns",
                    "kubernetes.io/cluster-service": "true",
                    "kubernetes.io/name": "CoreDNS",
                },
            },
            "spec": {
                "clusterIP": self.cluster_ip,
                "clusterIPs": [self.cluster_ip],
                "trafficDistribution": "PreferSameNode",
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
                ],
            },
        })
    }

    fn slice(&self, address: IpAddr, node_uid: Option<String>) -> Value {
        let mut slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": self.slice_name(), "namespace": NAMESPACE,
                "labels": {
                    LABEL_SERVICE_NAME: SERVICE,
                    "endpointslice.kubernetes.io/managed-by": MANAGED_BY,
                    "k8s-app": "kube-dns",
                },
            },
            "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
            // Each node answers its own pods.
            "endpoints": [{
                "addresses": [address],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": self.node,
                "hints": {"forNodes": [{"name": self.node}]},
            }],
        });
        if let Some(uid) = node_uid {
            // Gone with the node.
            slice["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "Node", "name": self.node, "uid": uid}]);
        }
        slice
    }

    /// Makes the service, if there is none, and the node's slice as it should be.
    pub(super) async fn register(&self, client: &Client) -> Result<(), NetworkError> {
        let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
        let service = format!("service {NAMESPACE}/{SERVICE}");
        if services.get_opt(SERVICE).await.map_err(failed("get", &service))?.is_none() {
            match services.create(&PostParams::default(), &object(self.service(), &service)?).await {
                // Another node was faster.
                Err(kube::Error::Api(status)) if status.is_already_exists() => {}
                created => {
                    created.map_err(failed("create", &service))?;
                }
            }
        }
        let Some(address) = self.address() else { return Ok(()) };
        let nodes: Api<Node> = Api::all(client.clone());
        let node = nodes.get_opt(&self.node).await.map_err(failed("get node", &self.node))?;
        let name = self.slice_name();
        let described = format!("endpoint slice {NAMESPACE}/{name}");
        let mut slice: EndpointSlice =
            object(self.slice(address, node.and_then(|node| node.metadata.uid)), &described)?;
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
        match slices.get_opt(&name).await.map_err(failed("get", &described))? {
            None => {
                slices.create(&PostParams::default(), &slice).await.map_err(failed("create", &described))?;
            }
            Some(found) if is_right(&found, &slice) => {}
            Some(found) => {
                slice.metadata.resource_version = found.metadata.resource_version;
                let replaced = slices.replace(&name, &PostParams::default(), &slice).await;
                replaced.map_err(failed("update", &described))?;
            }
        }
        Ok(())
    }

    /// Takes the node's slice away, so that nobody asks it any more.
    pub(super) async fn withdraw(&self, client: &Client) -> Result<(), NetworkError> {
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
        let name = self.slice_name();
        match slices.delete(&name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            deleted => {
                deleted.map_err(failed("delete", &format!("endpoint slice {NAMESPACE}/{name}")))?;
                Ok(())
            }
        }
    }
}

/// Whether a slice says what it should; who else owns it doesn't matter.
pub(super) fn is_right(found: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    found.endpoints == wanted.endpoints
        && found.address_type == wanted.address_type
        && found.metadata.labels == wanted.metadata.labels
        && found.ports.as_ref().map(Vec::len) == wanted.ports.as_ref().map(Vec::len)
        && found.metadata.owner_references == wanted.metadata.owner_references
}

fn object<K: serde::de::DeserializeOwned>(value: Value, described: &str) -> Result<K, NetworkError> {
    serde_json::from_value(value).map_err(|source| NetworkError::Record { path: described.to_owned(), source })
}

fn failed(operation: &'static str, object: &str) -> impl FnOnce(kube::Error) -> NetworkError {
    let object = object.to_owned();
    move |source| NetworkError::Cluster { operation, object, source: Box::new(source) }
}
