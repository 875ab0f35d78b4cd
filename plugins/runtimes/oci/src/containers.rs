//! Containers: bundles.

use gantry_plugin_sdk::{
    runtime::{
        ContainerConfig, ContainerState, ContainerStats, ContainerStatus, Error, ErrorCode, ExecPlan, ExecRequest,
        HostFacts, Resources,
        host::{
            namespaces,
            oci_bundle::{self, BundleState, Status},
            rootfs,
        },
    },
    serde_json::{self, Value},
};

use crate::{
    error,
    record::{ContainerRecord, pairs},
    sandboxes, signal,
    spec::{self, Inputs},
    user,
};

const SIGKILL: u32 = 9;
/// How long a killed container may take to be gone.
const KILL_MILLISECONDS: u32 = 30_000;
/// Largest /etc/passwd and /etc/group that are read.
const ACCOUNTS_BYTES_MAX: u32 = 1 << 20;

pub fn create(facts: &HostFacts, sandbox_id: &str, id: &str, config: &ContainerConfig) -> Result<(), Error> {
    let sandbox = sandboxes::load(sandbox_id)?;
    if sandbox.stopped {
        return Err(error(ErrorCode::Busy, format!("sandbox {sandbox_id} is not ready")));
    }
    let stop_signal = signal::number(&config.stop_signal)
        .or_else(|| signal::number(&config.image.stop_signal))
        .unwrap_or(signal::SIGTERM);
    let record = ContainerRecord::new(sandbox_id, config, stop_signal);
    let options = rootfs::Options { read_only: config.security.read_only_rootfs };
    let root = rootfs::prepare(id, &config.image.snapshot_key, options)?;
    let outcome = accounts(id).and_then(|(passwd, group)| {
        let user = user::resolve(&config.image.user, &config.security, &passwd, &group)?;
        let inputs = Inputs {
            facts,
            id,
            sandbox: &sandbox,
            namespaces: &namespaces::get(sandbox_id)?,
            shm: &sandboxes::shm_path(sandbox_id)?,
            config,
            record: &record,
            root: &root,
            user: &user,
        };
        oci_bundle::write(id, &spec::config(&inputs)?.to_string())?;
        let stdio = oci_bundle::Stdio {
            log_path: config.log_path.clone(),
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            tty: config.tty,
        };
        oci_bundle::create(id, &stdio).map(drop)
    });
    // One that exists already is not ours to remove.
    if outcome.as_ref().is_err_and(|reason| reason.code != ErrorCode::AlreadyExists) {
        // The error that is told is the first one.
        let _ = oci_bundle::delete(id, true);
        let _ = rootfs::remove(id);
    }
    outcome
}

/// The image's accounts; an image without them is no failure.
fn accounts(id: &str) -> Result<(String, String), Error> {
    let read = |path: &str| match rootfs::read_file(id, path, ACCOUNTS_BYTES_MAX) {
        Ok(content) => Ok(String::from_utf8_lossy(&content).into_owned()),
        Err(reason) if reason.code == ErrorCode::NotFound => Ok(String::new()),
        Err(reason) => Err(reason),
    };
    Ok((read("/etc/passwd")?, read("/etc/group")?))
}

/// State and record of a container of this runtime.
fn find(id: &str) -> Result<(BundleState, ContainerRecord), Error> {
    let state = oci_bundle::state(id)?;
    match ContainerRecord::of(&state.annotations) {
        Some(record) => Ok((state, record?)),
        None => Err(error(ErrorCode::NotFound, format!("container {id} is not one of this runtime"))),
    }
}

fn all() -> Result<Vec<(BundleState, ContainerRecord)>, Error> {
    let mut all = Vec::new();
    for state in oci_bundle::list()? {
        if let Some(record) = ContainerRecord::of(&state.annotations) {
            all.push((state, record?));
        }
    }
    Ok(all)
}

/// Ids of a sandbox's containers.
pub fn of_sandbox(sandbox: &str) -> Result<Vec<String>, Error> {
    let all = all()?.into_iter().filter(|(_, record)| record.sandbox == sandbox);
    Ok(all.map(|(state, _)| state.id).collect())
}

pub fn stop(id: &str, grace_milliseconds: u32) -> Result<(), Error> {
    let (state, record) = match find(id) {
        Err(reason) if reason.code == ErrorCode::NotFound => return Ok(()),
        found => found?,
    };
    if !matches!(state.status, Status::Running | Status::Created) {
        return Ok(());
    }
    if grace_milliseconds > 0 && state.status == Status::Running {
        oci_bundle::kill(id, record.stop_signal, false)?;
        if oci_bundle::wait(id, grace_milliseconds)?.is_some() {
            return Ok(());
        }
    }
    oci_bundle::kill(id, SIGKILL, true)?;
    match oci_bundle::wait(id, KILL_MILLISECONDS)? {
        Some(_) => Ok(()),
        None => Err(error(ErrorCode::Unavailable, format!("container {id} still runs after it was killed"))),
    }
}

pub fn remove(id: &str) -> Result<(), Error> {
    oci_bundle::delete(id, true)?;
    rootfs::remove(id)
}

pub fn inspect(id: &str) -> Result<ContainerStatus, Error> {
    let (state, record) = find(id)?;
    Ok(status(state, record))
}

pub fn list() -> Result<Vec<ContainerStatus>, Error> {
    Ok(all()?.into_iter().map(|(state, record)| status(state, record)).collect())
}

fn status(state: BundleState, record: ContainerRecord) -> ContainerStatus {
    let exited = state.status == Status::Stopped;
    let reason = match (exited, state.oom_killed, state.exit_code) {
        (false, _, _) => "",
        (true, true, _) => "OOMKilled",
        (true, false, 0) => "Completed",
        (true, false, _) => "Error",
    };
    ContainerStatus {
        state: match state.status {
            Status::Written | Status::Created => ContainerState::Created,
            Status::Running => ContainerState::Running,
            Status::Stopped => ContainerState::Exited,
        },
        id: state.id,
        sandbox_id: record.sandbox,
        name: record.name,
        attempt: record.attempt,
        pid: state.pid,
        created_at: state.created_at,
        started_at: state.started_at,
        finished_at: state.finished_at,
        exit_code: if exited { state.exit_code } else { 0 },
        reason: reason.to_owned(),
        image_reference: record.image,
        image_id: record.image_id,
        log_path: record.log_path,
        labels: pairs(&record.labels),
        annotations: pairs(&record.annotations),
    }
}

pub fn exec(id: &str, request: &ExecRequest) -> Result<ExecPlan, Error> {
    let text = oci_bundle::read(id)?;
    let config: Value = serde_json::from_str(&text)
        .map_err(|reason| error(ErrorCode::Internal, format!("config.json of container {id}: {reason}")))?;
    let process = spec::exec_process(&config["process"], request)?;
    Ok(ExecPlan::OciProcess(process.to_string()))
}

pub fn update(id: &str, resources: &Resources) -> Result<(), Error> {
    oci_bundle::update(id, &spec::resources(resources).to_string())
}

pub fn stats(id: &str) -> Result<ContainerStats, Error> {
    let of = oci_bundle::stats(id)?;
    let files = rootfs::usage(id)?;
    Ok(ContainerStats {
        timestamp: of.timestamp,
        cpu_usage_nanoseconds: of.cpu_usage_nanoseconds,
        memory_usage_bytes: of.memory_usage_bytes,
        memory_working_set_bytes: of.memory_working_set_bytes,
        memory_rss_bytes: of.memory_rss_bytes,
        page_faults: of.page_faults,
        major_page_faults: of.major_page_faults,
        pids: of.pids,
        rootfs_used_bytes: files.used_bytes,
        rootfs_used_inodes: files.used_inodes,
    })
}
