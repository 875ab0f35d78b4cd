//! The node agent's capabilities, in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use async_trait::async_trait;
use gantry_plugin_host::{
    CapabilityError, ErrorCode,
    capability::{
        BundleState, BundleStats, BundleStatus, CapabilityResult, KeyValue, MountOptions, Mounts, Namespace,
        NamespaceKind, Namespaces, OciBundle, Rootfs, RootfsOptions, RootfsUsage, Stdio,
    },
    contract::runtime::{
        ContainerConfig, HostFacts, Image, NamespaceMode, Network, Resources, SandboxConfig, Seccomp, Security,
    },
};

/// Containers that run until they are killed.
#[derive(Default)]
pub struct Fakes {
    bundles: Mutex<BTreeMap<String, (String, BundleStatus, i32)>>,
    namespaces: Mutex<BTreeMap<String, Vec<Namespace>>>,
    mounts: Mutex<BTreeSet<String>>,
}

impl Fakes {
    pub fn config(&self, id: &str) -> String {
        self.bundles.lock().unwrap()[id].0.clone()
    }

    pub fn mounted(&self) -> Vec<String> {
        self.mounts.lock().unwrap().iter().cloned().collect()
    }

    fn set(&self, id: &str, status: BundleStatus, code: i32) -> CapabilityResult<()> {
        let mut bundles = self.bundles.lock().unwrap();
        let bundle = bundles.get_mut(id).ok_or_else(|| missing(id))?;
        (bundle.1, bundle.2) = (status, code);
        Ok(())
    }
}

fn missing(id: &str) -> CapabilityError {
    CapabilityError::new(ErrorCode::NotFound, format!("container {id} does not exist"))
}

fn state(id: &str, (config, status, exit_code): &(String, BundleStatus, i32)) -> BundleState {
    let config: serde_json::Value = serde_json::from_str(config).unwrap();
    let annotations = config["annotations"].as_object().unwrap().iter();
    BundleState {
        id: id.to_owned(),
        status: *status,
        pid: 0,
        created_at: 1,
        started_at: 0,
        finished_at: 0,
        exit_code: *exit_code,
        oom_killed: false,
        annotations: annotations
            .map(|(key, value)| KeyValue { key: key.clone(), value: value.as_str().unwrap().to_owned() })
            .collect(),
    }
}

#[async_trait]
impl OciBundle for Fakes {
    async fn write(&self, id: &str, config: &str) -> CapabilityResult<()> {
        self.bundles.lock().unwrap().insert(id.to_owned(), (config.to_owned(), BundleStatus::Written, 0));
        Ok(())
    }

    async fn read(&self, id: &str) -> CapabilityResult<String> {
        Ok(self.config(id))
    }

    async fn create(&self, id: &str, _: &Stdio) -> CapabilityResult<u32> {
        self.set(id, BundleStatus::Created, 0).map(|()| 1)
    }

    async fn start(&self, id: &str) -> CapabilityResult<()> {
        self.set(id, BundleStatus::Running, 0)
    }

    async fn kill(&self, id: &str, signal: u32, _: bool) -> CapabilityResult<()> {
        self.set(id, BundleStatus::Stopped, 128 + i32::try_from(signal).unwrap())
    }

    async fn wait(&self, id: &str, _: u32) -> CapabilityResult<Option<i32>> {
        let bundles = self.bundles.lock().unwrap();
        let (_, status, code) = bundles.get(id).ok_or_else(|| missing(id))?;
        Ok((*status == BundleStatus::Stopped).then_some(*code))
    }

    async fn delete(&self, id: &str, _: bool) -> CapabilityResult<()> {
        self.bundles.lock().unwrap().remove(id);
        Ok(())
    }

    async fn state(&self, id: &str) -> CapabilityResult<BundleState> {
        self.bundles.lock().unwrap().get(id).map(|bundle| state(id, bundle)).ok_or_else(|| missing(id))
    }

    async fn list(&self) -> CapabilityResult<Vec<BundleState>> {
        Ok(self.bundles.lock().unwrap().iter().map(|(id, bundle)| state(id, bundle)).collect())
    }

    async fn update(&self, id: &str, _: &str) -> CapabilityResult<()> {
        self.state(id).await.map(drop)
    }

    async fn stats(&self, id: &str) -> CapabilityResult<BundleStats> {
        Err(missing(id))
    }
}

#[async_trait]
impl Rootfs for Fakes {
    async fn prepare(&self, id: &str, _: &str, _: &RootfsOptions) -> CapabilityResult<String> {
        Ok(format!("/node/rootfs/{id}"))
    }

    async fn remove(&self, _: &str) -> CapabilityResult<()> {
        Ok(())
    }

    async fn read_file(&self, _: &str, path: &str, _: u32) -> CapabilityResult<Vec<u8>> {
        match path {
            "/etc/passwd" => Ok(b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/sh\n".to_vec()),
            "/etc/group" => Ok(b"logs:x:40:web\n".to_vec()),
            path => Err(CapabilityError::new(ErrorCode::NotFound, format!("{path} does not exist"))),
        }
    }

    async fn usage(&self, _: &str) -> CapabilityResult<RootfsUsage> {
        Ok(RootfsUsage { used_bytes: 0, used_inodes: 0 })
    }
}

#[async_trait]
impl Namespaces for Fakes {
    async fn create(
        &self,
        owner: &str,
        kinds: &[NamespaceKind],
        _: &str,
        _: &[KeyValue],
    ) -> CapabilityResult<Vec<Namespace>> {
        let path = |kind| Namespace { kind, path: format!("/node/namespaces/{owner}/{kind:?}") };
        let made: Vec<Namespace> = kinds.iter().map(|kind| path(*kind)).collect();
        self.namespaces.lock().unwrap().insert(owner.to_owned(), made.clone());
        Ok(made)
    }

    async fn get(&self, owner: &str) -> CapabilityResult<Vec<Namespace>> {
        Ok(self.namespaces.lock().unwrap().get(owner).cloned().unwrap_or_default())
    }

    async fn remove(&self, owner: &str) -> CapabilityResult<()> {
        self.namespaces.lock().unwrap().remove(owner);
        Ok(())
    }

    async fn set_network_sysctls(&self, _: &str, _: &[KeyValue]) -> CapabilityResult<()> {
        Ok(())
    }
}

#[async_trait]
impl Mounts for Fakes {
    async fn bind(&self, _: &str, target: &str, _: &MountOptions) -> CapabilityResult<()> {
        self.mounts.lock().unwrap().insert(target.to_owned());
        Ok(())
    }

    async fn mount(&self, _: &str, target: &str, _: &str, _: &MountOptions) -> CapabilityResult<()> {
        self.mounts.lock().unwrap().insert(target.to_owned());
        Ok(())
    }

    async fn unmount(&self, target: &str) -> CapabilityResult<()> {
        self.mounts.lock().unwrap().remove(target);
        Ok(())
    }

    async fn is_mounted(&self, target: &str) -> CapabilityResult<bool> {
        Ok(self.mounts.lock().unwrap().contains(target))
    }
}

/// A full host with cgroup v2.
pub fn facts() -> HostFacts {
    HostFacts {
        cgroup_version: 2,
        architecture: "x86_64".into(),
        seccomp: true,
        apparmor: false,
        capabilities: ["CAP_CHOWN", "CAP_KILL", "CAP_NET_ADMIN"].map(str::to_owned).to_vec(),
        oom_score_adj_floor: -1000,
        may_raise_limits: true,
    }
}

pub fn sandbox() -> SandboxConfig {
    SandboxConfig {
        namespace: "default".into(),
        name: "p".into(),
        uid: "u".into(),
        attempt: 0,
        hostname: "p".into(),
        labels: vec![],
        annotations: vec![],
        created_at: 1,
        cgroup_parent: "/kubepods/pod1".into(),
        network: Network::Path("/run/netns/p".into()),
        pid: NamespaceMode::Container,
        ipc: NamespaceMode::Pod,
        user_mapping: vec![],
        sysctls: vec![KeyValue { key: "net.core.somaxconn".into(), value: "1024".into() }],
        shm_bytes: 64 << 20,
        privileged: false,
        log_directory: "/var/log/pods/p".into(),
    }
}

pub fn container() -> ContainerConfig {
    ContainerConfig {
        name: "web".into(),
        attempt: 0,
        image: Image {
            reference: "web:1".into(),
            id: "sha256:1".into(),
            snapshot_key: "1".into(),
            entrypoint: vec!["/bin/web".into()],
            command: vec!["--help".into()],
            environment: vec!["PATH=/bin".into(), "A=1".into()],
            user: "web".into(),
            working_directory: "/srv".into(),
            stop_signal: String::new(),
        },
        command: vec![],
        arguments: vec!["--port".into(), "80".into()],
        working_directory: String::new(),
        environment: vec![],
        labels: vec![],
        annotations: vec![],
        mounts: vec![],
        devices: vec![],
        security: Security {
            privileged: false,
            run_as_user: None,
            run_as_group: None,
            supplemental_groups: vec![],
            strict_groups: false,
            add_capabilities: vec![],
            drop_capabilities: vec![],
            read_only_rootfs: false,
            no_new_privileges: true,
            seccomp: Seccomp::RuntimeDefault,
            apparmor: String::new(),
            unmasked_proc: false,
        },
        resources: Resources {
            cpu_shares: Some(102),
            cpu_quota_microseconds: None,
            cpu_period_microseconds: None,
            cpuset_cpus: None,
            cpuset_mems: None,
            memory_limit_bytes: Some(64 << 20),
            memory_swap_limit_bytes: None,
            pids_limit: None,
            hugepage_limits: vec![],
            unified: vec![],
        },
        oom_score_adj: 1000,
        stop_signal: String::new(),
        log_path: None,
        stdin: false,
        stdin_once: false,
        tty: false,
    }
}
