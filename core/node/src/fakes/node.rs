//! A runtime, images and a network in memory, with exits by the test's word.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use gantry_network::{Attachment, HostPort, NetworkError, PodNetwork};
use gantry_plugin_host::contract::runtime::*;
use gantry_plugin_host::contract::volume;
use gantry_plugin_host::{CapabilityError, ErrorCode, PluginError, Runtime, VolumeDriver};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::container_io::{ContainerExit, ContainerIo, Session, Streams, TerminalSize};
use crate::images::{Image, ImageConfig, ImageError, Images, RegistryCredentials};

fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).expect("a time")
}

fn refused(code: ErrorCode, message: &str) -> PluginError {
    PluginError::Refused { plugin: "oci".into(), call: "test", code, message: message.into() }
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, SandboxStatus>,
    containers: BTreeMap<String, (ContainerStatus, ContainerConfig)>,
    calls: Vec<String>,
    /// Container name to the error of its start.
    start_errors: HashMap<String, String>,
    /// Command to exit code and output.
    commands: HashMap<String, (i32, String)>,
}

/// A runtime whose containers run until they are told to exit or stopped.
#[derive(Clone)]
pub struct FakeRuntime {
    state: Arc<Mutex<State>>,
    exits: broadcast::Sender<ContainerExit>,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self { state: Arc::default(), exits: broadcast::channel(64).0 }
    }
}

impl FakeRuntime {
    /// What was called, in short: `stop c 1000`.
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    /// How many sandboxes and containers there are.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.sandboxes.len(), state.containers.len())
    }

    /// The configuration of the newest container of that name.
    pub fn config(&self, name: &str) -> Option<ContainerConfig> {
        let state = self.state.lock();
        let named = state.containers.values().filter(|(status, _)| status.name == name);
        named.max_by_key(|(status, _)| status.attempt).map(|(_, config)| config.clone())
    }

    /// Starts of a container fail from now on.
    pub fn fail_start(&self, name: &str, message: &str) {
        self.state.lock().start_errors.insert(name.into(), message.into());
    }

    /// What a command does.
    pub fn script(&self, command: &str, code: i32, output: &str) {
        self.state.lock().commands.insert(command.into(), (code, output.into()));
    }

    /// The running container of that name exits.
    pub fn exit(&self, name: &str, code: i32) {
        let id = {
            let state = self.state.lock();
            let running = state
                .containers
                .values()
                .find(|(status, _)| status.name == name && status.state == ContainerState::Running);
            running.map(|(status, _)| status.id.clone()).unwrap_or_else(|| panic!("{name} does not run"))
        };
        self.end(&id, code);
    }

    fn end(&self, id: &str, code: i32) {
        let mut state = self.state.lock();
        let Some((status, _)) = state.containers.get_mut(id) else { return };
        if status.state == ContainerState::Running {
            status.state = ContainerState::Exited;
            status.exit_code = code;
            status.finished_at = now();
            status.reason = if code == 0 { "Completed" } else { "Error" }.into();
            let exit = ContainerExit { container_id: id.into(), exit_code: code };
            drop(state);
            let _ = self.exits.send(exit);
        }
    }

    fn call(&self, text: String) {
        self.state.lock().calls.push(text);
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn name(&self) -> &str {
        "oci"
    }

    async fn run_sandbox(&self, id: &str, config: &SandboxConfig) -> Result<(), PluginError> {
        self.call(format!("run-sandbox {}", config.attempt));
        let network_path = match &config.network {
            Network::Path(path) => Some(path.clone()),
            Network::Node => None,
        };
        let status = SandboxStatus {
            id: id.into(),
            namespace: config.namespace.clone(),
            name: config.name.clone(),
            uid: config.uid.clone(),
            attempt: config.attempt,
            state: SandboxState::Ready,
            created_at: config.created_at,
            network_path,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        };
        self.state.lock().sandboxes.insert(id.into(), status);
        Ok(())
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), PluginError> {
        self.call("stop-sandbox".into());
        if let Some(status) = self.state.lock().sandboxes.get_mut(id) {
            status.state = SandboxState::NotReady;
        }
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), PluginError> {
        self.state.lock().sandboxes.remove(id);
        Ok(())
    }

    async fn inspect_sandbox(&self, id: &str) -> Result<SandboxStatus, PluginError> {
        self.state.lock().sandboxes.get(id).cloned().ok_or_else(|| refused(ErrorCode::NotFound, "no such sandbox"))
    }

    async fn list_sandboxes(&self) -> Result<Vec<SandboxStatus>, PluginError> {
        Ok(self.state.lock().sandboxes.values().cloned().collect())
    }

    async fn create_container(&self, sandbox: &str, id: &str, config: &ContainerConfig) -> Result<(), PluginError> {
        self.call(format!("create {} {}", config.name, config.attempt));
        let status = ContainerStatus {
            id: id.into(),
            sandbox_id: sandbox.into(),
            name: config.name.clone(),
            attempt: config.attempt,
            state: ContainerState::Created,
            pid: 0,
            created_at: now(),
            started_at: 0,
            finished_at: 0,
            exit_code: 0,
            reason: String::new(),
            image_reference: config.image.reference.clone(),
            image_id: config.image.id.clone(),
            log_path: config.log_path.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        };
        self.state.lock().containers.insert(id.into(), (status, config.clone()));
        Ok(())
    }

    async fn start_container(&self, id: &str) -> Result<(), PluginError> {
        let mut state = self.state.lock();
        let State { containers, start_errors, .. } = &mut *state;
        let (status, _) = containers.get_mut(id).ok_or_else(|| refused(ErrorCode::NotFound, "no such container"))?;
        if let Some(message) = start_errors.get(&status.name) {
            return Err(refused(ErrorCode::Invalid, message));
        }
        status.state = ContainerState::Running;
        status.started_at = now();
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace_ms: u32) -> Result<(), PluginError> {
        let name = self.state.lock().containers.get(id).map(|(status, _)| status.name.clone()).unwrap_or_default();
        // Tests compare seconds: some milliseconds of them have passed already.
        self.call(format!("stop {name} {}", grace_ms.div_ceil(1000)));
        self.end(id, 143);
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), PluginError> {
        self.state.lock().containers.remove(id);
        Ok(())
    }

    async fn inspect_container(&self, id: &str) -> Result<ContainerStatus, PluginError> {
        let state = self.state.lock();
        let found = state.containers.get(id).map(|(status, _)| status.clone());
        found.ok_or_else(|| refused(ErrorCode::NotFound, "no such container"))
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>, PluginError> {
        Ok(self.state.lock().containers.values().map(|(status, _)| status.clone()).collect())
    }

    async fn exec_spec(&self, _: &str, request: &ExecRequest) -> Result<ExecPlan, PluginError> {
        Ok(ExecPlan::OciProcess(request.command.join(" ")))
    }

    async fn update_resources(&self, _: &str, resources: &Resources) -> Result<(), PluginError> {
        self.call(format!("update {}", resources.cpu_shares.unwrap_or_default()));
        Ok(())
    }

    async fn stats(&self, _: &str) -> Result<ContainerStats, PluginError> {
        Err(refused(ErrorCode::Unsupported, "no stats"))
    }
}

#[async_trait]
impl ContainerIo for FakeRuntime {
    async fn exec(&self, _: &str, process: &str, _: Streams) -> Result<Session, CapabilityError> {
        self.call(format!("exec {process}"));
        let script = self.state.lock().commands.get(process).cloned();
        let (code, output) =
            script.ok_or_else(|| CapabilityError::new(ErrorCode::NotFound, format!("{process}: not found")))?;
        let (done, exit) = oneshot::channel();
        let _ = done.send(Ok(code));
        let resize: mpsc::Sender<TerminalSize> = mpsc::channel(1).0;
        let stdout = Box::new(std::io::Cursor::new(output.into_bytes()));
        Ok(Session { stdin: None, stdout: Some(stdout), stderr: None, resize, exit })
    }

    async fn attach(&self, _: &str, _: Streams) -> Result<Session, CapabilityError> {
        Err(CapabilityError::new(ErrorCode::Unsupported, "no attach"))
    }

    async fn reopen_log(&self, _: &str) -> Result<(), CapabilityError> {
        Ok(())
    }

    fn exits(&self) -> broadcast::Receiver<ContainerExit> {
        self.exits.subscribe()
    }
}

/// A volume driver that makes folders.
#[derive(Default)]
pub struct FakeDriver {
    calls: Mutex<Vec<String>>,
}

impl FakeDriver {
    /// What was called, in short.
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().clone()
    }

    fn call(&self, text: String) {
        self.calls.lock().push(text);
    }
}

#[async_trait]
impl VolumeDriver for FakeDriver {
    fn name(&self) -> &str {
        "folders"
    }

    async fn features(&self) -> Result<volume::Features, PluginError> {
        let access_modes = vec![volume::AccessMode::ReadWriteOnce];
        Ok(volume::Features { expand: true, snapshots: false, clone: false, block: false, group: false, access_modes })
    }

    async fn create(&self, request: &volume::CreateRequest) -> Result<volume::Volume, PluginError> {
        self.call(format!("create {} {}", request.name, request.required_bytes));
        Ok(volume::Volume {
            id: request.name.clone(),
            capacity_bytes: request.required_bytes,
            context: Vec::new(),
            nodes: vec![request.node.clone()],
        })
    }

    async fn delete(&self, volume_id: &str) -> Result<(), PluginError> {
        self.call(format!("delete {volume_id}"));
        Ok(())
    }

    async fn publish(&self, request: &volume::PublishRequest) -> Result<(), PluginError> {
        self.call(format!("publish {}", request.volume_id));
        std::fs::create_dir_all(&request.target_path).map_err(|error| refused(ErrorCode::Internal, &error.to_string()))
    }

    async fn unpublish(&self, volume_id: &str, _: &str) -> Result<(), PluginError> {
        self.call(format!("unpublish {volume_id}"));
        Ok(())
    }

    async fn expand(&self, volume_id: &str, required_bytes: u64) -> Result<u64, PluginError> {
        self.call(format!("expand {volume_id} {required_bytes}"));
        Ok(required_bytes)
    }

    async fn create_snapshot(&self, _: &str, _: &str) -> Result<volume::Snapshot, PluginError> {
        Err(refused(ErrorCode::Unsupported, "no snapshots"))
    }

    async fn delete_snapshot(&self, _: &str) -> Result<(), PluginError> {
        Err(refused(ErrorCode::Unsupported, "no snapshots"))
    }

    async fn get_capacity(&self, _: &[volume::KeyValue]) -> Result<volume::Capacity, PluginError> {
        Ok(volume::Capacity { available_bytes: 0, largest_bytes: 0 })
    }

    async fn stats(&self, _: &str, _: &str) -> Result<volume::VolumeStats, PluginError> {
        Err(refused(ErrorCode::Unsupported, "no stats"))
    }
}

/// Images: `missing/…` are refused by the registry, `bad name` is no name, `remote/…` must be pulled.
#[derive(Default)]
pub struct FakeImages {
    pulled: Mutex<Vec<String>>,
}

impl FakeImages {
    fn image(reference: &str) -> Image {
        Image {
            id: format!("sha256:{}", "1".repeat(64)),
            tags: vec![reference.to_owned()],
            digests: Vec::new(),
            size_bytes: 4096,
            config: ImageConfig {
                reference: reference.to_owned(),
                id: format!("sha256:{}", "1".repeat(64)),
                snapshot_key: "k".into(),
                entrypoint: Vec::new(),
                command: vec!["sh".into()],
                environment: Vec::new(),
                user: String::new(),
                working_directory: String::new(),
                stop_signal: String::new(),
            },
        }
    }
}

#[async_trait]
impl Images for FakeImages {
    async fn get(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        if reference.contains(' ') {
            let reason = "invalid reference format".to_owned();
            return Err(ImageError::InvalidName { reference: reference.to_owned(), reason });
        }
        let away = reference.starts_with("missing/")
            || reference.starts_with("remote/") && !self.pulled.lock().iter().any(|known| known == reference);
        Ok((!away).then(|| Self::image(reference)))
    }

    async fn pull(&self, reference: &str, _: &[RegistryCredentials]) -> Result<Image, ImageError> {
        if reference.starts_with("missing/") {
            let reason = "not found".to_owned();
            return Err(ImageError::Refused { reference: reference.to_owned(), reason });
        }
        self.pulled.lock().push(reference.to_owned());
        Ok(Self::image(reference))
    }

    async fn list(&self) -> Result<Vec<Image>, ImageError> {
        Ok(vec![Self::image("busybox:1")])
    }

    async fn remove(&self, _: &str) -> Result<(), ImageError> {
        Ok(())
    }
}

/// A network that hands out one address after the other.
#[derive(Default)]
pub struct FakeNetwork {
    attached: Mutex<BTreeMap<String, Attachment>>,
}

#[async_trait]
impl PodNetwork for FakeNetwork {
    async fn attach(&self, sandbox_id: &str, _: &[HostPort]) -> Result<Attachment, NetworkError> {
        let mut attached = self.attached.lock();
        let last = u8::try_from(attached.len() + 2).expect("few sandboxes");
        let made = Attachment { netns_path: PathBuf::from("/run/netns/x"), ips: vec![IpAddr::from([10, 1, 0, last])] };
        Ok(attached.entry(sandbox_id.to_owned()).or_insert(made).clone())
    }

    async fn get(&self, sandbox_id: &str) -> Result<Option<Attachment>, NetworkError> {
        Ok(self.attached.lock().get(sandbox_id).cloned())
    }

    async fn detach(&self, sandbox_id: &str) -> Result<(), NetworkError> {
        self.attached.lock().remove(sandbox_id);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<String>, NetworkError> {
        Ok(self.attached.lock().keys().cloned().collect())
    }
}
