//! Sandboxes: namespaces, a /dev/shm and a record.

use gantry_plugin_sdk::{
    runtime::{
        Error, ErrorCode, NamespaceMode, Network, SandboxConfig, SandboxState, SandboxStatus,
        host::{folder, mounts, namespaces, types::KeyValue},
    },
    serde_json,
};

use crate::{
    containers, error,
    record::{self, Mode, SandboxRecord, pairs},
};

const STATE: &str = "state";

fn file_of(id: &str) -> String {
    format!("sandboxes/{id}.json")
}

fn shm_of(id: &str) -> String {
    format!("shm/{id}")
}

/// Path of a sandbox's /dev/shm on the host.
pub fn shm_path(id: &str) -> Result<String, Error> {
    folder::path(STATE, &shm_of(id))
}

/// Sysctls by the namespace that they belong to.
#[derive(Debug, Default, PartialEq)]
struct Sysctls {
    network: Vec<KeyValue>,
    ipc: Vec<KeyValue>,
}

fn sort(config: &SandboxConfig) -> Result<Sysctls, Error> {
    let mut sorted = Sysctls::default();
    for sysctl in &config.sysctls {
        let name = sysctl.key.replace('/', ".");
        let pair = KeyValue { key: name.clone(), value: sysctl.value.clone() };
        let refused = |why: &str| Err(error(ErrorCode::Invalid, format!("sysctl {name} is not allowed: {why}")));
        if name.starts_with("net.") {
            if matches!(config.network, Network::Node) {
                return refused("the pod has the node's network");
            }
            sorted.network.push(pair);
        } else if ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix))
        {
            if matches!(config.ipc, NamespaceMode::Node) {
                return refused("the pod has the node's IPC");
            }
            sorted.ipc.push(pair);
        } else {
            return refused("it belongs to no namespace of the pod");
        }
    }
    Ok(sorted)
}

fn kinds(config: &SandboxConfig) -> Vec<namespaces::Kind> {
    let mut kinds = Vec::new();
    if config.ipc == NamespaceMode::Pod {
        kinds.push(namespaces::Kind::Ipc);
    }
    if !matches!(config.network, Network::Node) {
        kinds.push(namespaces::Kind::Uts);
    }
    if config.pid == NamespaceMode::Pod {
        kinds.push(namespaces::Kind::Pid);
    }
    kinds
}

pub fn run(id: &str, config: &SandboxConfig) -> Result<(), Error> {
    let sysctls = sort(config)?;
    let outcome = make(id, config, &sysctls);
    if outcome.is_err() {
        // The error that is told is the first one.
        let _ = release(id);
        let _ = folder::remove(STATE, &file_of(id));
    }
    outcome
}

fn make(id: &str, config: &SandboxConfig, sysctls: &Sysctls) -> Result<(), Error> {
    let kinds = kinds(config);
    if !kinds.is_empty() {
        namespaces::create(id, &kinds, &config.hostname, &sysctls.ipc)?;
    }
    if let (Network::Path(path), false) = (&config.network, sysctls.network.is_empty()) {
        namespaces::set_network_sysctls(path, &sysctls.network)?;
    }
    if config.ipc != NamespaceMode::Node {
        let shm = shm_of(id);
        folder::make(STATE, &shm, 0o1777)?;
        let target = folder::path(STATE, &shm)?;
        if !mounts::is_mounted(&target)? {
            let mut data = vec!["mode=1777".to_owned(), format!("size={}", config.shm_bytes)];
            if let Some(root) = config.user_mapping.iter().find(|map| map.container_id == 0) {
                data.extend([format!("uid={}", root.host_id), format!("gid={}", root.host_id)]);
            }
            let flags = ["nosuid", "nodev", "noexec"].map(str::to_owned).to_vec();
            mounts::mount("shm", &target, "tmpfs", &mounts::Options { read_only: false, flags, data })?;
        }
    }
    save(id, &config.into())
}

fn save(id: &str, record: &SandboxRecord) -> Result<(), Error> {
    let text = serde_json::to_vec(record).map_err(|reason| error(ErrorCode::Internal, reason.to_string()))?;
    folder::write(STATE, &file_of(id), &text)
}

/// The record of a sandbox.
pub fn load(id: &str) -> Result<SandboxRecord, Error> {
    let text = folder::read(STATE, &file_of(id)).map_err(|reason| match reason.code {
        ErrorCode::NotFound => error(ErrorCode::NotFound, format!("sandbox {id} does not exist")),
        _ => reason,
    })?;
    record::read(&String::from_utf8_lossy(&text), &format!("record of sandbox {id}"))
}

fn release(id: &str) -> Result<(), Error> {
    let shm = shm_of(id);
    mounts::unmount(&folder::path(STATE, &shm)?)?;
    folder::remove(STATE, &shm)?;
    namespaces::remove(id)
}

pub fn stop(id: &str) -> Result<(), Error> {
    let mut record = match load(id) {
        Err(reason) if reason.code == ErrorCode::NotFound => return Ok(()),
        record => record?,
    };
    for container in containers::of_sandbox(id)? {
        containers::stop(&container, 0)?;
    }
    release(id)?;
    if !record.stopped {
        record.stopped = true;
        save(id, &record)?;
    }
    Ok(())
}

pub fn remove(id: &str) -> Result<(), Error> {
    for container in containers::of_sandbox(id)? {
        containers::remove(&container)?;
    }
    release(id)?;
    folder::remove(STATE, &file_of(id))
}

pub fn inspect(id: &str) -> Result<SandboxStatus, Error> {
    let record = load(id)?;
    let state = if record.stopped || is_gone(id, &record)? { SandboxState::NotReady } else { SandboxState::Ready };
    Ok(status(id, record, state))
}

/// After the machine was started anew the record is all that is left.
fn is_gone(id: &str, record: &SandboxRecord) -> Result<bool, Error> {
    if record.ipc != Mode::Node {
        return Ok(!mounts::is_mounted(&shm_path(id)?)?);
    }
    if record.network.is_some() || record.pid == Mode::Pod {
        return Ok(namespaces::get(id)?.is_empty());
    }
    Ok(false)
}

fn status(id: &str, record: SandboxRecord, state: SandboxState) -> SandboxStatus {
    SandboxStatus {
        id: id.to_owned(),
        state,
        labels: pairs(&record.labels),
        annotations: pairs(&record.annotations),
        namespace: record.namespace,
        name: record.name,
        uid: record.uid,
        attempt: record.attempt,
        created_at: record.created_at,
        network_path: record.network,
    }
}

pub fn list() -> Result<Vec<SandboxStatus>, Error> {
    let entries = match folder::list(STATE, "sandboxes") {
        Err(reason) if reason.code == ErrorCode::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let Some(id) = entry.name.strip_suffix(".json") else { continue };
        match inspect(id) {
            Ok(status) => all.push(status),
            // Removed meanwhile.
            Err(reason) if reason.code == ErrorCode::NotFound => {}
            Err(reason) => return Err(reason),
        }
    }
    Ok(all)
}
