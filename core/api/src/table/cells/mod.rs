//! The cells of a kind's row, in the order of its columns.

mod autoscaling;
mod cluster;
mod config;
mod network;
mod storage;
mod workloads;

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::object::{Object, at, i64_at, items_at, map_at, str_at};
use crate::selectors::LabelSelector;

/// Makes the cells of an object.
pub(super) type Maker = fn(&Object, Timestamp) -> Vec<Value>;

/// What makes the cells of a kind; `None` where upstream has no printer.
pub(super) fn maker(group: &str, kind: &str) -> Option<Maker> {
    let maker: Maker = match (group, kind) {
        ("", "Pod") => super::pods::pod,
        ("", "PodTemplate") => workloads::pod_template,
        ("", "ReplicationController") => workloads::replication_controller,
        ("apps", "ReplicaSet") => workloads::replica_set,
        ("apps", "Deployment") => workloads::deployment,
        ("apps", "StatefulSet") => workloads::stateful_set,
        ("apps", "DaemonSet") => workloads::daemon_set,
        ("apps", "ControllerRevision") => workloads::controller_revision,
        ("batch", "Job") => workloads::job,
        ("batch", "CronJob") => workloads::cron_job,
        ("policy", "PodDisruptionBudget") => workloads::disruption_budget,
        ("autoscaling", "HorizontalPodAutoscaler") => autoscaling::autoscaler,
        ("autoscaling", "Scale") => autoscaling::scale,
        ("", "ConfigMap") => config::config_map,
        ("", "Secret") => config::secret,
        ("", "ServiceAccount") => name_and_age,
        ("", "ResourceQuota") => config::resource_quota,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => config::role_binding,
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => {
            config::webhooks
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => config::validating_policy,
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => config::mutating_policy,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding") => {
            config::policy_binding
        }
        ("", "Namespace") => cluster::namespace,
        ("", "Node") => cluster::node,
        ("", "ComponentStatus") => cluster::component_status,
        ("" | "events.k8s.io", "Event") => cluster::event,
        ("coordination.k8s.io", "Lease") => cluster::lease,
        ("certificates.k8s.io", "CertificateSigningRequest") => cluster::signing_request,
        ("scheduling.k8s.io", "PriorityClass") => cluster::priority_class,
        ("node.k8s.io", "RuntimeClass") => cluster::runtime_class,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => cluster::flow_schema,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => cluster::priority_level,
        ("apiregistration.k8s.io", "APIService") => cluster::api_service,
        ("", "Service") => network::service,
        ("", "Endpoints") => network::endpoints,
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slice,
        ("networking.k8s.io", "Ingress") => network::ingress,
        ("networking.k8s.io", "IngressClass") => network::ingress_class,
        ("networking.k8s.io", "NetworkPolicy") => network::network_policy,
        ("networking.k8s.io", "IPAddress") => network::ip_address,
        ("networking.k8s.io", "ServiceCIDR") => network::service_cidr,
        ("", "PersistentVolume") => storage::volume,
        ("", "PersistentVolumeClaim") => storage::claim,
        ("storage.k8s.io", "StorageClass") => storage::storage_class,
        ("storage.k8s.io", "VolumeAttributesClass") => storage::attributes_class,
        ("storage.k8s.io", "VolumeAttachment") => storage::attachment,
        ("storage.k8s.io", "CSINode") => storage::csi_node,
        ("storage.k8s.io", "CSIDriver") => storage::csi_driver,
        ("resource.k8s.io", "ResourceClaim") => storage::resource_claim,
        ("resource.k8s.io", "ResourceSlice") => storage::resource_slice,
        ("resource.k8s.io", "DeviceClass" | "ResourceClaimTemplate") => name_and_age,
        _ => return None,
    };
    Some(maker)
}

fn name_and_age(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

/// A cell of text.
pub(super) fn text<'a>(text: impl Into<Cow<'a, str>>) -> Value {
    Value::String(text.into().into_owned())
}

/// The text, or another one when it is empty.
pub(super) fn or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

/// The object's name.
pub(super) fn name(object: &Object) -> Value {
    text(str_at(object, "metadata.name"))
}

/// How long ago the object was made.
pub(super) fn age(object: &Object, now: Timestamp) -> Value {
    text(super::age::since(str_at(object, "metadata.creationTimestamp"), now))
}

/// The text at a path, or another one where there is none.
fn text_or(object: &Object, path: &str, other: &str) -> Value {
    text(or(str_at(object, path), other))
}

/// The whole number at a path, 0 where there is none.
fn number(object: &Object, path: &str) -> Value {
    json!(i64_at(object, path).unwrap_or_default())
}

/// The boolean at a path.
fn flag(object: &Object, path: &str, absent: bool) -> Value {
    json!(at(object, path).as_bool().unwrap_or(absent))
}

/// How many items the list at a path has.
fn count(object: &Object, path: &str) -> Value {
    json!(items_at(object, path).len())
}

/// A whole number or a text as text.
fn int_or_string(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// The texts of a list, with commas between.
fn joined(object: &Object, path: &str) -> String {
    let texts: Vec<&str> = items_at(object, path).iter().filter_map(Value::as_str).collect();
    texts.join(",")
}

/// A plain map of labels as text.
fn labels(labels: Option<&Map<String, Value>>) -> String {
    let pairs: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

fn labels_at(object: &Object, path: &str) -> Value {
    text(labels(map_at(object, path)))
}

/// A `LabelSelector` as text.
fn selector_at(object: &Object, path: &str) -> Value {
    match LabelSelector::from_object(at(object, path)) {
        Ok(selector) => {
            let words = selector.to_string();
            text(if words.is_empty() { "<none>".to_owned() } else { words })
        }
        Err(_) => text("<error>"),
    }
}

/// The first few of many, and how many more there are.
fn first_few(mut items: Vec<String>, max: usize, separator: &str, none: &str) -> String {
    let total = items.len();
    items.truncate(max);
    let shown = items.join(separator);
    match total.saturating_sub(max) {
        0 if shown.is_empty() => none.to_owned(),
        0 => shown,
        more => format!("{shown} + {more} more..."),
    }
}

/// Names and images of the containers at a path.
fn containers(object: &Object, path: &str) -> [Value; 2] {
    ["name", "image"].map(|field| {
        let words: Vec<&str> = items_at(object, path).iter().map(|container| str_at(container, field)).collect();
        text(words.join(","))
    })
}
