//! A pod range for each node, out of the cluster's (upstream's `pkg/controller/nodeipam`, range allocator).

use std::collections::HashSet;
use std::sync::Arc;

use gantry_client::events::reference;
use gantry_client::{Client, EventRecorder, Informer, Informers, ObjectKey, WorkQueue};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::error::{ControllerError, found};
use crate::runner::{self, Reconciled};

/// The prefix length of a node's range, for IPv4 and IPv6; upstream's defaults.
const NODE_PREFIX: (u8, u8) = (24, 64);

/// The first range of a node's size within `cluster` that nobody has.
pub fn next_free(cluster: IpNet, taken: &HashSet<IpNet>) -> Option<IpNet> {
    let wanted = if cluster.addr().is_ipv4() { NODE_PREFIX.0 } else { NODE_PREFIX.1 };
    let prefix = wanted.max(cluster.prefix_len());
    cluster.subnets(prefix).ok()?.find(|range| !taken.contains(range))
}

fn ranges(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref();
    let all = spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(spec.pod_cidr.as_ref()));
    all.filter_map(|range| range.parse().ok()).collect()
}

/// Runs the controller until `stop`. `cluster` holds one range of each family that pods get addresses of.
pub async fn run(client: Client, informers: Informers, cluster: Vec<IpNet>, stop: CancellationToken) {
    let nodes = informers.get::<Node>();
    if !runner::synced(&[&nodes], &stop).await {
        return;
    }
    let queue: WorkQueue<ObjectKey> = WorkQueue::new();
    runner::enqueue_all(&nodes, &queue);
    let recorder = EventRecorder::new(client.clone(), "cidrAllocator", "");
    // One worker, and its own memory of what it gave: views are behind.
    let given: Arc<tokio::sync::Mutex<Vec<(String, IpNet)>>> = Arc::default();
    runner::run("node-ipam-controller", queue, 1, stop, move |key| {
        let (client, recorder, nodes, cluster) = (client.clone(), recorder.clone(), nodes.clone(), cluster.clone());
        let given = given.clone();
        async move { assign(&client, &recorder, &nodes, &cluster, &mut *given.lock().await, &key.name).await }
    })
    .await;
}

async fn assign(
    client: &Client,
    recorder: &EventRecorder,
    nodes: &Arc<Informer<Node>>,
    cluster: &[IpNet],
    given: &mut Vec<(String, IpNet)>,
    name: &str,
) -> Reconciled {
    let uid = |node: &Node| node.metadata.uid.clone().unwrap_or_default();
    let there: HashSet<String> = nodes.list().iter().map(|node| uid(node)).collect();
    given.retain(|(owner, _)| there.contains(owner));
    let Some(node) = nodes.get("", name) else { return Ok(None) };
    if !ranges(&node).is_empty() {
        return Ok(None);
    }
    if given.iter().any(|(owner, _)| *owner == uid(&node)) {
        // It has one; the view is behind.
        return Ok(None);
    }
    let mut taken: HashSet<IpNet> = nodes.list().iter().flat_map(|node| ranges(node)).collect();
    taken.extend(given.iter().map(|(_, range)| *range));
    let chosen: Option<Vec<IpNet>> = cluster.iter().map(|cluster| next_free(*cluster, &taken)).collect();
    let Some(chosen) = chosen else {
        let message = format!("Node {name} status is now: CIDRNotAvailable");
        recorder.normal(&reference(&*node), "CIDRNotAvailable", message);
        return Err(ControllerError::NotYet(format!("no pod range left for node {name}")));
    };
    let texts: Vec<String> = chosen.iter().map(ToString::to_string).collect();
    let patch = json!({"metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": texts.first(), "podCIDRs": texts}});
    let api: Api<Node> = Api::all(client.clone());
    let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
    found(patched).map_err(ControllerError::api("give a pod range to node", name))?;
    given.extend(chosen.into_iter().map(|range| (uid(&node), range)));
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_given_once() {
        let net = |text: &str| text.parse::<IpNet>().expect("a network");
        let taken = HashSet::from([net("10.244.0.0/24"), net("10.244.2.0/24")]);
        let cases = [
            ("10.244.0.0/16", Some("10.244.1.0/24")),
            ("10.244.0.0/24", None),
            ("10.245.0.0/25", Some("10.245.0.0/25")),
            ("fd00::/48", Some("fd00::/64")),
        ];
        for (cluster, expected) in cases {
            assert_eq!(next_free(net(cluster), &taken), expected.map(net), "{cluster}");
        }
    }
}
