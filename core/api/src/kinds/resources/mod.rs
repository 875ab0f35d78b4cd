//! All kinds without a pod template: one file a kind, or a family whose rules belong together.

mod admission;
mod autoscaling;
mod certificates;
mod checks;
mod claims;
mod cluster;
mod config;
mod devices;
mod difference;
mod endpoints;
mod events;
mod flowcontrol;
mod ingress;
mod limits;
mod namespaces;
mod network_policy;
mod nodes;
mod policy;
mod rbac;
mod service_warnings;
mod services;
mod storage;
mod volumes;

use super::Kind;

/// The hooks of a kind without a pod template.
pub(super) fn kind_of(group: &str, kind: &str) -> Option<&'static dyn Kind> {
    Some(match (group, kind) {
        ("", "ConfigMap") => &config::ConfigMap,
        ("", "Secret") => &config::Secret,
        ("", "ServiceAccount") => &config::ServiceAccount,
        ("", "Service") => &services::Service,
        ("", "Endpoints") => &endpoints::Endpoints,
        ("discovery.k8s.io", "EndpointSlice") => &endpoints::EndpointSlice,
        ("", "Namespace") => &namespaces::Namespace,
        ("", "Node") => &nodes::Node,
        ("", "Binding") => &nodes::Binding,
        ("", "PersistentVolume") => &volumes::PersistentVolume,
        ("", "PersistentVolumeClaim") => &claims::PersistentVolumeClaim,
        ("", "Event") => &events::CoreEvent,
        ("events.k8s.io", "Event") => &events::Event,
        ("", "LimitRange") => &limits::LimitRange,
        ("", "ResourceQuota") => &limits::ResourceQuota,
        ("autoscaling", "HorizontalPodAutoscaler") => &autoscaling::HorizontalPodAutoscaler,
        ("autoscaling", "Scale") => &autoscaling::Scale,
        ("rbac.authorization.k8s.io", "Role") => &rbac::Role,
        ("rbac.authorization.k8s.io", "ClusterRole") => &rbac::ClusterRole,
        ("rbac.authorization.k8s.io", "RoleBinding") => &rbac::RoleBinding,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => &rbac::ClusterRoleBinding,
        ("networking.k8s.io", "Ingress") => &ingress::Ingress,
        ("networking.k8s.io", "IngressClass") => &ingress::IngressClass,
        ("networking.k8s.io", "NetworkPolicy") => &network_policy::NetworkPolicy,
        ("networking.k8s.io", "IPAddress") => &cluster::IpAddress,
        ("networking.k8s.io", "ServiceCIDR") => &cluster::ServiceCidr,
        ("coordination.k8s.io", "Lease") => &cluster::Lease,
        ("scheduling.k8s.io", "PriorityClass") => &cluster::PriorityClass,
        ("node.k8s.io", "RuntimeClass") => &cluster::RuntimeClass,
        ("apiregistration.k8s.io", "APIService") => &cluster::ApiService,
        ("policy", "PodDisruptionBudget") => &policy::PodDisruptionBudget,
        ("certificates.k8s.io", "CertificateSigningRequest") => &certificates::CertificateSigningRequest,
        ("storage.k8s.io", "StorageClass") => &storage::StorageClass,
        ("storage.k8s.io", "VolumeAttachment") => &storage::VolumeAttachment,
        ("storage.k8s.io", "VolumeAttributesClass") => &storage::VolumeAttributesClass,
        ("storage.k8s.io", "CSIDriver") => &storage::CsiDriver,
        ("storage.k8s.io", "CSINode") => &storage::CsiNode,
        ("storage.k8s.io", "CSIStorageCapacity") => &storage::CsiStorageCapacity,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => &flowcontrol::FlowSchema,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => &flowcontrol::PriorityLevelConfiguration,
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration") => &admission::VALIDATING_WEBHOOKS,
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration") => &admission::MUTATING_WEBHOOKS,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => &admission::ValidatingAdmissionPolicy,
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => &admission::MutatingAdmissionPolicy,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding") => &admission::ValidatingBinding,
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding") => &admission::MutatingBinding,
        ("resource.k8s.io", "DeviceClass") => &devices::DeviceClass,
        ("resource.k8s.io", "ResourceClaim") => &devices::ResourceClaim,
        ("resource.k8s.io", "ResourceClaimTemplate") => &devices::ResourceClaimTemplate,
        ("resource.k8s.io", "ResourceSlice") => &devices::ResourceSlice,
        _ => return None,
    })
}
