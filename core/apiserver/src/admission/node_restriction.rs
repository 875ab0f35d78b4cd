//! `NodeRestriction`: a node changes only itself and its pods. The node authorizer allows creates and updates that it
//! can't judge without the object; here they are judged.

use std::collections::BTreeSet;

use gantry_api::error::ApiError;
use gantry_api::object::{Object, at, bool_at, is_empty, items_at, map_at, map_mut, str_at};

use super::{AdmissionRequest, ObjectReader, Operation};
use crate::auth::node::graph::{MIRROR_POD, config_map_names, secret_names};

pub(super) fn admit(
    request: &AdmissionRequest<'_>,
    object: &Object,
    old: Option<&Object>,
    reader: &dyn ObjectReader,
) -> Result<(), ApiError> {
    let Some(node) = request.user.node_identity() else { return Ok(()) };
    let refuse = |cause: String| Err(request.forbidden(object, cause));
    if node.is_empty() {
        return refuse(format!("could not determine node from user {:?}", request.user.name));
    }
    let verdict = match (request.resource.group.as_str(), request.resource.plural.as_str(), request.subresource) {
        ("", "pods", "") => pod(node, request, object, reader)?,
        ("", "pods", "status") => pod_status(node, request, object, old),
        ("", "pods", "eviction") => match reader.get("", "pods", request.namespace, request.name) {
            None => return Err(ApiError::not_found(request.resource, request.name)),
            Some(pod) => own(&pod, node, format!("node {node} can only evict pods with spec.nodeName set to itself")),
        },
        ("", "pods", other) => {
            Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
        }
        ("", "nodes", _) => node_object(node, request, object, old),
        ("", "persistentvolumeclaims", "status") => claim_status(node, request, object, old),
        ("", "persistentvolumeclaims", _) => Err("may only update PVC status".to_owned()),
        ("", "serviceaccounts", "token") => token(node, request, object, reader)?,
        ("coordination.k8s.io", "leases", _) => lease(node, request, object),
        ("storage.k8s.io", "csinodes", _) => {
            check(name_of(request, object) == node, "can only access CSINode with the same name as the requesting node")
        }
        ("resource.k8s.io", "resourceslices", "") => slice(node, request, object, old),
        _ => Ok(()),
    };
    verdict.or_else(refuse)
}

type Verdict = Result<(), String>;

fn check(good: bool, cause: impl Into<String>) -> Verdict {
    if good { Ok(()) } else { Err(cause.into()) }
}

fn own(pod: &Object, node: &str, cause: String) -> Verdict {
    check(str_at(pod, "spec.nodeName") == node, cause)
}

/// The name in the URL, or that of a new object.
fn name_of<'a>(request: &AdmissionRequest<'a>, object: &'a Object) -> &'a str {
    if request.operation == Operation::Create { str_at(object, "metadata.name") } else { request.name }
}

/// A node makes pods only as mirrors of its static pods, and deletes only its own. The outer error is a 404.
fn pod(
    node: &str,
    request: &AdmissionRequest<'_>,
    object: &Object,
    reader: &dyn ObjectReader,
) -> Result<Verdict, ApiError> {
    match request.operation {
        Operation::Create => mirror_pod(node, object, reader),
        Operation::Delete => {
            let pod = reader.get("", "pods", request.namespace, request.name);
            let pod = pod.ok_or_else(|| ApiError::not_found(request.resource, request.name))?;
            Ok(own(&pod, node, format!("node {node:?} can only delete pods with spec.nodeName set to itself")))
        }
        operation => Ok(Err(format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            operation.as_str()
        ))),
    }
}

fn mirror_pod(node: &str, pod: &Object, reader: &dyn ObjectReader) -> Result<Verdict, ApiError> {
    if at(pod, "metadata.annotations")[MIRROR_POD].is_null() {
        return Ok(Err(format!(
            "pod does not have {MIRROR_POD:?} annotation, node {node:?} can only create mirror pods"
        )));
    }
    if str_at(pod, "spec.nodeName") != node {
        return Ok(Err(format!("node {node:?} can only create pods with spec.nodeName set to itself")));
    }
    let owner = match items_at(pod, "metadata.ownerReferences") {
        [owner] if owner["apiVersion"] == "v1" && owner["kind"] == "Node" && owner["name"] == node => owner,
        [] | [_] => {
            return Ok(Err(format!("node {node:?} can only create pods with an owner reference set to itself")));
        }
        _ => return Ok(Err(format!("node {node:?} can only create pods with a single owner reference set to itself"))),
    };
    if !bool_at(owner, "controller") {
        return Ok(Err(format!("node {node:?} can only create pods with a controller owner reference set to itself")));
    }
    if bool_at(owner, "blockOwnerDeletion") {
        return Ok(Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference")));
    }
    let live = reader.get("", "nodes", "", node).ok_or_else(|| ApiError::not_found(("", "nodes"), node))?;
    let (expect, seen) = (str_at(owner, "uid"), str_at(&live, "metadata.uid"));
    if expect != seen {
        return Ok(Err(format!("node {node} UID mismatch: expected {expect} got {seen}")));
    }
    Ok(refers_to_nothing(node, pod))
}

/// A mirror pod that referred to other objects would give its node rights to them.
fn refers_to_nothing(node: &str, pod: &Object) -> Verdict {
    let refuse = |what: &str| Err(format!("node {node:?} can not create pods that reference {what}"));
    if !str_at(pod, "spec.serviceAccountName").is_empty() {
        return refuse("a service account");
    }
    let (mut secrets, mut config_maps) = (false, false);
    secret_names(pod, |_| secrets = true);
    config_map_names(pod, |_| config_maps = true);
    if secrets {
        return refuse("secrets");
    }
    if config_maps {
        return refuse("configmaps");
    }
    let volumes = items_at(pod, "spec.volumes");
    let projects = |field: &str| {
        volumes
            .iter()
            .flat_map(|volume| items_at(volume, "projected.sources"))
            .any(|source| source.get(field).is_some())
    };
    if projects("clusterTrustBundle") {
        return refuse("clustertrustbundles");
    }
    if volumes.iter().any(|volume| volume.get("persistentVolumeClaim").is_some()) {
        return refuse("persistentvolumeclaims");
    }
    if !items_at(pod, "spec.resourceClaims").is_empty() {
        return refuse("resourceclaims");
    }
    Ok(())
}

fn pod_status(node: &str, request: &AdmissionRequest<'_>, object: &Object, old: Option<&Object>) -> Verdict {
    let Some(old) = old.filter(|_| request.operation == Operation::Update) else {
        return Err(format!("unexpected operation {:?}", request.operation.as_str()));
    };
    own(old, node, format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"))?;
    let same =
        |path: &str| at(old, path) == at(object, path) || (is_empty(at(old, path)) && is_empty(at(object, path)));
    check(same("metadata.labels"), format!("node {node:?} cannot update labels through pod status"))?;
    check(same("status.resourceClaimStatuses"), format!("node {node:?} cannot update resource claim statues"))?;
    check(
        same("status.extendedResourceClaimStatus"),
        format!("node {node:?} cannot update extended resource claim status"),
    )
}

fn claim_status(node: &str, request: &AdmissionRequest<'_>, object: &Object, old: Option<&Object>) -> Verdict {
    let Some(old) = old.filter(|_| request.operation == Operation::Update) else {
        return Err(format!("unexpected operation {:?}", request.operation.as_str()));
    };
    let without = |claim: &Object| {
        let mut copy = claim.clone();
        for (path, fields) in [
            ("metadata", ["resourceVersion", "managedFields", "", ""]),
            ("status", ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"]),
        ] {
            let map = map_mut(&mut copy, path);
            for field in fields {
                map.remove(field);
            }
        }
        copy
    };
    check(
        without(object) == without(old),
        format!("node {node:?} is not allowed to update fields other than status.quota and status.conditions"),
    )
}

fn node_object(node: &str, request: &AdmissionRequest<'_>, object: &Object, old: Option<&Object>) -> Verdict {
    // On a create the name stands in the object only.
    let requested = name_of(request, object);
    check(requested == node, format!("node {node:?} is not allowed to modify node {requested:?}"))?;
    match (request.operation, old) {
        (Operation::Create, _) => {
            let forbidden = forbidden_labels(object, None);
            check(
                forbidden.is_empty(),
                format!("node {node:?} is not allowed to set the following labels: {}", join(&forbidden)),
            )
        }
        (Operation::Update, Some(old)) => {
            let (taints, old_taints) = (at(object, "spec.taints"), at(old, "spec.taints"));
            let same = taints == old_taints || (is_empty(taints) && is_empty(old_taints));
            check(same, format!("node {node:?} is not allowed to modify taints"))?;
            let forbidden = forbidden_labels(object, Some(old));
            check(forbidden.is_empty(), format!("is not allowed to modify labels: {}", join(&forbidden)))
        }
        _ => Ok(()),
    }
}

fn join(labels: &BTreeSet<String>) -> String {
    labels.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Labels that a node changes though they steer pods, or belong to Kubernetes and not to node agents.
fn forbidden_labels(object: &Object, old: Option<&Object>) -> BTreeSet<String> {
    let new = map_at(object, "metadata.labels");
    let old = old.and_then(|old| map_at(old, "metadata.labels"));
    let keys = new.into_iter().chain(old).flat_map(|labels| labels.keys());
    let changed = keys.filter(|key| new.and_then(|labels| labels.get(*key)) != old.and_then(|labels| labels.get(*key)));
    changed.filter(|key| is_forbidden(key)).cloned().collect()
}

fn is_forbidden(label: &str) -> bool {
    const AGENTS: [&str; 13] = [
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "node.kubernetes.io/instance-type",
        "beta.kubernetes.io/instance-type",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "node.kubernetes.io/windows-build",
        "node.kubernetes.io/exclude-from-external-load-balancers",
    ];
    let Some((domain, _)) = label.split_once('/') else { return false };
    let within = |zone: &str| domain == zone || domain.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.'));
    if within("node-restriction.kubernetes.io") {
        return true;
    }
    let of_kubernetes = within("kubernetes.io") || within("k8s.io");
    let of_agents = AGENTS.contains(&label) || within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    of_kubernetes && !of_agents
}

/// Only tokens for pods of the node. The outer error is a 404.
fn token(
    node: &str,
    request: &AdmissionRequest<'_>,
    object: &Object,
    reader: &dyn ObjectReader,
) -> Result<Verdict, ApiError> {
    if request.operation != Operation::Create {
        return Ok(Ok(()));
    }
    let bound = at(object, "spec.boundObjectRef");
    let (name, uid) = (str_at(bound, "name"), str_at(bound, "uid"));
    if bound["apiVersion"] != "v1" || bound["kind"] != "Pod" || name.is_empty() {
        return Ok(Err("node requested token not bound to a pod".to_owned()));
    }
    if uid.is_empty() {
        return Ok(Err("node requested token with a pod binding without a uid".to_owned()));
    }
    let pod = reader.get("", "pods", request.namespace, name).ok_or_else(|| ApiError::not_found(("", "pods"), name))?;
    if str_at(&pod, "metadata.uid") != uid {
        return Ok(Err(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        )));
    }
    Ok(own(&pod, node, "node requested token bound to a pod scheduled on a different node".to_owned()))
}

fn lease(node: &str, request: &AdmissionRequest<'_>, object: &Object) -> Verdict {
    check(
        request.namespace == "kube-node-lease",
        "can only access leases in the \"kube-node-lease\" system namespace",
    )?;
    check(name_of(request, object) == node, "can only access node lease with the same name as the requesting node")
}

fn slice(node: &str, request: &AdmissionRequest<'_>, object: &Object, old: Option<&Object>) -> Verdict {
    match (request.operation, old) {
        (Operation::Create, _) => check(
            str_at(object, "spec.nodeName") == node,
            "can only create ResourceSlice with the same NodeName as the requesting node",
        ),
        (Operation::Delete, Some(old)) => check(
            str_at(old, "spec.nodeName") == node,
            "can only delete ResourceSlice with the same NodeName as the requesting node",
        ),
        _ => Ok(()),
    }
}
