//! The Node object: how the agent registers its machine and keeps the status true. What the status says is pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::config::AgentConfig;
use crate::context::Context;
use crate::images::Image;
use crate::machine::{self, Free, Machine};
use crate::resources::{ResourceList, amount};

/// The version whose behaviour the agent has.
pub const KUBELET_VERSION: &str = "v1.36.3";
/// How often the agent looks whether the node is short of something.
const CHECK: Duration = Duration::from_secs(10);
/// A status without news is written again after this long; upstream's.
const REPORT: Duration = Duration::from_secs(300);
/// How many images are listed; upstream's `nodeStatusMaxImages`.
const IMAGES_MAX: usize = 50;
/// How many names of an image are listed; upstream's.
const IMAGE_NAMES_MAX: usize = 5;

/// What the machine has.
pub fn capacity(machine: &Machine, max_pods: u32) -> ResourceList {
    let kib = |bytes: u64| Quantity(format!("{}Ki", bytes / 1024));
    let mut list = ResourceList::from([
        ("cpu".to_owned(), Quantity(machine.cpus.to_string())),
        ("memory".to_owned(), kib(machine.memory_bytes)),
        ("ephemeral-storage".to_owned(), kib(machine.storage_bytes)),
        ("pods".to_owned(), Quantity(max_pods.to_string())),
    ]);
    for (size, bytes) in &machine.hugepages {
        let text = if *bytes == 0 { "0".to_owned() } else { format!("{}Mi", bytes >> 20) };
        list.insert(format!("hugepages-{size}"), Quantity(text));
    }
    list
}

/// What of it is for pods: less what is reserved and what must stay free.
pub fn allocatable(machine: &Machine, config: &AgentConfig) -> ResourceList {
    let mut list = capacity(machine, config.max_pods);
    let mut less = |name: &str, taken: gantry_api::quantity::Quantity| {
        if let Some(value) = list.get_mut(name) {
            let left = amount(value).minus(&taken);
            let left = if left.sign() < 0 { gantry_api::quantity::Quantity::from_i64(0) } else { left };
            *value = Quantity(left.to_string());
        }
    };
    for (name, quantity) in &config.reserved {
        less(name, amount(&Quantity(quantity.clone())));
    }
    let bytes = |value: u64| Quantity(value.to_string());
    less("memory", amount(&bytes(config.eviction.memory_available_bytes)));
    let kept = machine.storage_bytes / 100 * config.eviction.node_fs_available_percent;
    less("ephemeral-storage", amount(&bytes(kept)));
    list
}

/// What the node is short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Memory.
    pub memory: bool,
    /// Disk or inodes.
    pub disk: bool,
    /// Process ids.
    pub pid: bool,
}

/// Compares what is free with what must be.
pub fn pressure(free: &Free, config: &AgentConfig) -> Pressure {
    let below = |(free, all): (u64, u64), percent: u64| all > 0 && free * 100 < all * percent;
    let limits = &config.eviction;
    Pressure {
        memory: free.memory_bytes < limits.memory_available_bytes,
        disk: below(free.storage_bytes, limits.node_fs_available_percent)
            || below(free.inodes, limits.node_fs_inodes_free_percent),
        pid: below(free.pids, limits.pid_available_percent),
    }
}

/// A condition's type, whether it holds, reason and message.
type Said = (&'static str, bool, &'static str, String);

fn conditions(pressure: Pressure, not_ready: Option<&str>) -> Vec<Said> {
    let pick = |holds: bool, yes: (&'static str, &str), no: (&'static str, &str)| {
        let (reason, message) = if holds { yes } else { no };
        (holds, reason, message.to_owned())
    };
    let memory = pick(
        pressure.memory,
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    );
    let disk = pick(
        pressure.disk,
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    );
    let pid = pick(
        pressure.pid,
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    );
    let ready = match not_ready {
        None => (true, "KubeletReady", "kubelet is posting ready status".to_owned()),
        Some(why) => (false, "KubeletNotReady", why.to_owned()),
    };
    vec![
        ("MemoryPressure", memory.0, memory.1, memory.2),
        ("DiskPressure", disk.0, disk.1, disk.2),
        ("PIDPressure", pid.0, pid.1, pid.2),
        ("Ready", ready.0, ready.1, ready.2),
    ]
}

/// Images as the status lists them, the largest first.
pub fn image_list(mut images: Vec<Image>) -> Vec<ContainerImage> {
    images.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.id.cmp(&b.id)));
    images.truncate(IMAGES_MAX);
    let list = images.into_iter().map(|image| {
        let names: Vec<String> = image.digests.into_iter().chain(image.tags).take(IMAGE_NAMES_MAX).collect();
        ContainerImage { names: Some(names), size_bytes: i64::try_from(image.size_bytes).ok() }
    });
    list.collect()
}

fn addresses(addresses: &[IpAddr], hostname: &str) -> Vec<NodeAddress> {
    let ips = addresses.iter().map(|ip| NodeAddress { address: ip.to_string(), type_: "InternalIP".to_owned() });
    ips.chain([NodeAddress { address: hostname.to_owned(), type_: "Hostname".to_owned() }]).collect()
}

/// What the status is made of.
pub struct StatusInputs<'a> {
    /// What the agent was told.
    pub config: &'a AgentConfig,
    /// What the machine has.
    pub machine: &'a Machine,
    /// What it is short of.
    pub pressure: Pressure,
    /// Why pods can't run; none: they can.
    pub not_ready: Option<&'a str>,
    /// Its images.
    pub images: Vec<ContainerImage>,
    /// Conditions as they were.
    pub old: &'a [NodeCondition],
    /// Now.
    pub now: Timestamp,
}

/// The status.
pub fn status(inputs: StatusInputs<'_>) -> NodeStatus {
    let config = inputs.config;
    let conditions =
        conditions(inputs.pressure, inputs.not_ready).into_iter().map(|(type_, holds, reason, message)| {
            let status = if holds { "True" } else { "False" };
            let before = inputs.old.iter().find(|known| known.type_ == type_ && known.status == status);
            NodeCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_heartbeat_time: Some(Time(inputs.now)),
                last_transition_time: before
                    .and_then(|before| before.last_transition_time.clone())
                    .or(Some(Time(inputs.now))),
            }
        });
    let mut info = inputs.machine.info.clone();
    info.kubelet_version = KUBELET_VERSION.to_owned();
    info.container_runtime_version = config.runtime_version.clone();
    NodeStatus {
        addresses: Some(addresses(&config.addresses, &config.hostname)),
        allocatable: Some(allocatable(inputs.machine, config)),
        capacity: Some(capacity(inputs.machine, config.max_pods)),
        conditions: Some(conditions.collect()),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(config.port) }),
        }),
        images: (!inputs.images.is_empty()).then_some(inputs.images),
        node_info: Some(info),
        ..NodeStatus::default()
    }
}

/// The labels that every node has.
pub fn labels(machine: &Machine, config: &AgentConfig) -> BTreeMap<String, String> {
    let arch = &machine.info.architecture;
    let own = [
        ("beta.kubernetes.io/arch", arch.as_str()),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("kubernetes.io/hostname", config.hostname.as_str()),
        ("kubernetes.io/os", "linux"),
    ];
    let own = own.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    own.chain(config.labels.clone()).collect()
}

fn new_node(machine: &Machine, config: &AgentConfig, status: NodeStatus) -> Node {
    let annotation = ("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned());
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels(machine, config)),
            annotations: Some(BTreeMap::from([annotation])),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            provider_id: config.provider_id.clone(),
            taints: (!config.taints.is_empty()).then(|| config.taints.clone()),
            ..NodeSpec::default()
        }),
        status: Some(status),
    }
}

/// Whether two statuses differ in more than their heartbeats.
fn differs(a: &NodeStatus, b: &NodeStatus) -> bool {
    let still = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    still(a) != still(b)
}

/// The patch that brings a status to the API server; conditions of others stay.
fn patch(status: &NodeStatus) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    if let Some(list) = value.get_mut("addresses").and_then(Value::as_array_mut) {
        list.insert(0, json!({"$patch": "replace"}));
    }
    json!({"status": value})
}

/// Registers the node and keeps its status.
pub struct NodeKeeper {
    context: Arc<Context>,
    api: Api<Node>,
    last: Option<(NodeStatus, Timestamp)>,
}

impl NodeKeeper {
    /// For the node of that context.
    pub fn new(context: Arc<Context>) -> Self {
        Self { api: Api::all(context.parts.client.clone()), context, last: None }
    }

    async fn current(&self) -> NodeStatus {
        let context = &self.context;
        let images = context.parts.images.list().await.unwrap_or_default();
        let known = context.node.get("", &context.config.node_name);
        let old = self
            .last
            .as_ref()
            .and_then(|(status, _)| status.conditions.clone())
            .or_else(|| known.as_ref().and_then(|node| node.status.as_ref()?.conditions.clone()))
            .unwrap_or_default();
        let no_runtime = context.parts.runtimes.is_empty().then_some("container runtime is down");
        status(StatusInputs {
            config: &context.config,
            machine: &context.machine,
            pressure: pressure(&machine::free(&context.config.root_dir), &context.config),
            not_ready: no_runtime,
            images: image_list(images),
            old: &old,
            now: Timestamp::now(),
        })
    }

    /// Registers the node: a new one with all it is, one that exists with its labels brought up to date.
    ///
    /// # Errors
    /// When the API server can't be reached or refuses.
    pub async fn register(&mut self) -> Result<(), kube::Error> {
        let context = self.context.clone();
        let status = self.current().await;
        let node = new_node(&context.machine, &context.config, status.clone());
        match self.api.create(&PostParams::default(), &node).await {
            Ok(_) => {}
            Err(kube::Error::Api(answer)) if answer.code == 409 => {
                let labels = labels(&context.machine, &context.config);
                let meta = json!({"metadata": {"labels": labels}});
                let name = &context.config.node_name;
                self.api.patch(name, &PatchParams::default(), &Patch::Merge(&meta)).await?;
            }
            Err(error) => return Err(error),
        }
        let name = &context.config.node_name;
        self.api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch(&status))).await?;
        self.tell(None, &status);
        self.last = Some((status, Timestamp::now()));
        Ok(())
    }

    /// Events about conditions that changed.
    fn tell(&self, before: Option<&NodeStatus>, status: &NodeStatus) {
        let about = self.context.node_reference();
        let name = &self.context.config.node_name;
        for condition in status.conditions.iter().flatten() {
            let known = before
                .and_then(|status| status.conditions.iter().flatten().find(|known| known.type_ == condition.type_));
            if known.is_some_and(|known| known.status == condition.status) {
                continue;
            }
            let holds = condition.status == "True";
            let reason = match (condition.type_.as_str(), holds) {
                ("MemoryPressure", true) => "NodeHasInsufficientMemory",
                ("MemoryPressure", false) => "NodeHasSufficientMemory",
                ("DiskPressure", true) => "NodeHasDiskPressure",
                ("DiskPressure", false) => "NodeHasNoDiskPressure",
                ("PIDPressure", true) => "NodeHasInsufficientPID",
                ("PIDPressure", false) => "NodeHasSufficientPID",
                ("Ready", true) => "NodeReady",
                ("Ready", false) => "NodeNotReady",
                _ => continue,
            };
            self.context.parts.recorder.normal(&about, reason, format!("Node {name} status is now: {reason}"));
        }
    }

    /// Writes the status when it changes, and now and then without a change.
    pub async fn keep(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(CHECK) => {}
            }
            let status = self.current().await;
            let now = Timestamp::now();
            let due = self.last.as_ref().is_none_or(|(last, at)| {
                differs(last, &status) || Duration::try_from(now.duration_since(*at)).unwrap_or_default() >= REPORT
            });
            if !due {
                continue;
            }
            let name = self.context.config.node_name.clone();
            let written =
                self.api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch(&status))).await;
            match written {
                Ok(_) => {
                    self.tell(self.last.as_ref().map(|(last, _)| last), &status);
                    self.last = Some((status, now));
                }
                Err(kube::Error::Api(answer)) if answer.code == 404 => {
                    // Somebody deleted the node while it lives.
                    if let Err(error) = self.register().await {
                        tracing::warn!(node = name, %error, "node not registered anew");
                    }
                }
                Err(error) => tracing::warn!(node = name, %error, "node status not written"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::NodeSystemInfo;

    fn machine() -> Machine {
        Machine {
            cpus: 2,
            memory_bytes: 4 << 30,
            storage_bytes: 100 << 30,
            hugepages: BTreeMap::from([("2Mi".to_owned(), 0)]),
            info: NodeSystemInfo { architecture: "amd64".into(), ..NodeSystemInfo::default() },
        }
    }

    #[test]
    fn pods_get_what_is_not_reserved() {
        let mut config = AgentConfig::new("n1", "/x");
        config.reserved = BTreeMap::from([("cpu".to_owned(), "500m".to_owned())]);
        let show = |list: ResourceList| serde_json::to_string(&list).expect("text");
        insta::assert_snapshot!(show(capacity(&machine(), 110)), @r#"{"cpu":"2","ephemeral-storage":"104857600Ki","hugepages-2Mi":"0","memory":"4194304Ki","pods":"110"}"#);
        insta::assert_snapshot!(show(allocatable(&machine(), &config)), @r#"{"cpu":"1500m","ephemeral-storage":"90Gi","hugepages-2Mi":"0","memory":"3996Mi","pods":"110"}"#);
    }

    #[test]
    fn pressure_is_what_falls_below_its_limit() {
        let config = AgentConfig::new("n1", "/x");
        let plenty = Free { memory_bytes: 1 << 30, storage_bytes: (50, 100), inodes: (50, 100), pids: (50, 100) };
        assert_eq!(pressure(&plenty, &config), Pressure::default());
        let short = Free { memory_bytes: 1 << 20, storage_bytes: (9, 100), ..plenty };
        assert_eq!(pressure(&short, &config), Pressure { memory: true, disk: true, pid: false });
        assert!(pressure(&Free { inodes: (4, 100), ..plenty }, &config).disk);
    }

    #[test]
    fn conditions_read_as_upstreams_and_keep_their_times() {
        let config = AgentConfig::new("n1", "/x");
        let at = |seconds| Timestamp::from_second(seconds).expect("a time");
        let make = |old: &[NodeCondition], pressure, now| {
            status(StatusInputs {
                config: &config,
                machine: &machine(),
                pressure,
                not_ready: None,
                images: Vec::new(),
                old,
                now,
            })
        };
        let first = make(&[], Pressure::default(), at(1));
        let old = first.conditions.clone().expect("conditions");
        let next = make(&old, Pressure { disk: true, ..Pressure::default() }, at(2));
        let show = |status: &NodeStatus| {
            let list = status.conditions.iter().flatten().map(|c| {
                let since = c.last_transition_time.as_ref().map(|time| time.0.as_second()).unwrap_or_default();
                format!("{} {} {} {since}", c.type_, c.status, c.reason.as_deref().unwrap_or_default())
            });
            list.collect::<Vec<_>>().join("\n")
        };
        insta::assert_snapshot!(show(&next), @r"
        MemoryPressure False KubeletHasSufficientMemory 1
        DiskPressure True KubeletHasDiskPressure 2
        PIDPressure False KubeletHasSufficientPID 1
        Ready True KubeletReady 1
        ");
        assert!(differs(&first, &next));
        assert!(!differs(&first, &make(&old, Pressure::default(), at(9))));
    }
}
