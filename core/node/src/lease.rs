//! The node's lease in `kube-node-lease`: the sign of life that is renewed every ten seconds (KEP-589).

use std::time::Duration;

use gantry_client::Client;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::PostParams;
use tokio_util::sync::CancellationToken;

/// Upstream's namespace of node leases.
const NAMESPACE: &str = "kube-node-lease";
/// Upstream's duration, in seconds.
const DURATION_SECONDS: i32 = 40;
/// A quarter of it.
const RENEWAL: Duration = Duration::from_secs(10);
/// The first wait after a renewal that failed.
const RETRY_MIN: Duration = Duration::from_millis(200);
/// The longest wait; upstream's.
const RETRY_MAX: Duration = Duration::from_secs(7);

/// The lease to write, from what there is. Pure.
pub fn renewed(known: Option<Lease>, node: &str, node_uid: Option<&str>, now: Timestamp) -> Lease {
    let mut lease = known.unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        ..Lease::default()
    });
    if lease.metadata.owner_references.as_ref().is_none_or(Vec::is_empty)
        && let Some(uid) = node_uid
    {
        lease.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: node.to_owned(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        }]);
    }
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(node.to_owned());
    spec.lease_duration_seconds = Some(DURATION_SECONDS);
    spec.renew_time = Some(MicroTime(now));
    lease
}

/// Renews the lease until it is told to stop.
pub async fn keep(client: Client, node: String, node_uid: impl Fn() -> Option<String>, stop: CancellationToken) {
    let api: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let mut known: Option<Lease> = None;
    let mut wait = RETRY_MIN;
    loop {
        let next = match renew(&api, known.take(), &node, node_uid().as_deref()).await {
            Ok(lease) => {
                known = Some(lease);
                wait = RETRY_MIN;
                RENEWAL
            }
            Err(error) => {
                tracing::warn!(node, %error, "lease not renewed");
                let next = wait;
                wait = (wait * 2).min(RETRY_MAX);
                next
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(next) => {}
        }
    }
}

async fn renew(
    api: &Api<Lease>,
    known: Option<Lease>,
    node: &str,
    node_uid: Option<&str>,
) -> Result<Lease, kube::Error> {
    let known = match known {
        Some(known) => Some(known),
        None => api.get_opt(node).await?,
    };
    let exists = known.is_some();
    let lease = renewed(known, node, node_uid, Timestamp::now());
    if exists {
        api.replace(node, &PostParams::default(), &lease).await
    } else {
        api.create(&PostParams::default(), &lease).await
    }
}

/// The uid of a node as the API server knows it.
pub fn uid_of(node: Option<&Node>) -> Option<String> {
    node.and_then(|node| node.metadata.uid.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_made_and_kept() {
        let first = renewed(None, "n1", Some("u"), Timestamp::UNIX_EPOCH);
        insta::assert_snapshot!(serde_json::to_string(&first).expect("text"), @r#"{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"n1","namespace":"kube-node-lease","ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n1","uid":"u"}]},"spec":{"holderIdentity":"n1","leaseDurationSeconds":40,"renewTime":"1970-01-01T00:00:00.000000Z"}}"#);
        let later = Timestamp::from_second(10).expect("a time");
        let next = renewed(Some(first.clone()), "n1", Some("u"), later);
        assert_eq!(next.metadata, first.metadata);
        assert_eq!(next.spec.and_then(|spec| spec.renew_time), Some(MicroTime(later)));
    }
}
