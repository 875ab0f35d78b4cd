//! A pod's sandbox, as a runtime is asked for it. Pure.

use gantry_plugin_host::capability::KeyValue;
use gantry_plugin_host::contract::runtime::{IdMapping, NamespaceMode, Network, SandboxConfig};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::observed::keys;
use crate::pod;

/// Bytes of a pod's `/dev/shm`; the runtimes' custom.
const SHM_BYTES: u64 = 64 << 20;

/// What a sandbox depends on besides the pod.
pub struct SandboxInputs<'a> {
    /// How many the pod had before.
    pub attempt: u32,
    /// The kernel's host name.
    pub hostname: &'a str,
    /// Path of the network namespace; none: the node's.
    pub netns_path: Option<&'a str>,
    /// The pod's cgroup.
    pub cgroup: String,
    /// Folder of its logs.
    pub log_dir: String,
    /// Its user namespace, if it has one.
    pub user_mapping: Vec<IdMapping>,
    /// Now.
    pub now: Timestamp,
}

/// Pairs for a runtime.
pub fn pairs<'a>(map: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<KeyValue> {
    map.into_iter().map(|(key, value)| KeyValue { key: key.to_owned(), value: value.to_owned() }).collect()
}

/// The sandbox to ask for.
pub fn sandbox_config(pod: &Pod, inputs: SandboxInputs<'_>) -> SandboxConfig {
    let spec = pod::spec(pod);
    let labels = pod.metadata.labels.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()));
    let own =
        [(keys::POD_NAME, pod::name(pod)), (keys::POD_NAMESPACE, pod::namespace(pod)), (keys::POD_UID, pod::uid(pod))];
    let annotations = pod.metadata.annotations.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()));
    let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    let pid = if spec.host_pid == Some(true) {
        NamespaceMode::Node
    } else if spec.share_process_namespace == Some(true) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    let privileged = pod::all_containers(pod)
        .any(|(_, container)| container.security_context.as_ref().and_then(|own| own.privileged) == Some(true));
    SandboxConfig {
        namespace: pod::namespace(pod).to_owned(),
        name: pod::name(pod).to_owned(),
        uid: pod::uid(pod).to_owned(),
        attempt: inputs.attempt,
        hostname: inputs.hostname.to_owned(),
        labels: pairs(labels.chain(own)),
        annotations: pairs(annotations),
        created_at: i64::try_from(inputs.now.as_nanosecond()).unwrap_or(i64::MAX),
        cgroup_parent: inputs.cgroup,
        network: inputs.netns_path.map_or(Network::Node, |path| Network::Path(path.to_owned())),
        pid,
        ipc: if spec.host_ipc == Some(true) { NamespaceMode::Node } else { NamespaceMode::Pod },
        user_mapping: inputs.user_mapping,
        sysctls: pairs(sysctls.map(|sysctl| (sysctl.name.as_str(), sysctl.value.as_str()))),
        shm_bytes: SHM_BYTES,
        privileged,
        log_directory: inputs.log_dir,
    }
}
