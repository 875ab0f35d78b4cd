//! Containers as OCI bundles.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gantry_plugin_host::capability::{
    BundleState, BundleStats, BundleStatus, CapabilityResult, KeyValue, OciBundle, Stdio,
};
use gantry_plugin_host::{CapabilityError, ErrorCode};
use nix::sys::signal::Signal;
use oci_spec::runtime::{LinuxResources, Spec};

use super::container::{Container, lines, next};
use super::protocol::{BundleFiles, LaunchRequest, Record, ShimCommand, ShimConfig, ShimMessage, now_ns, write_whole};
use super::{Mechanism, blocking, check_id, host, make_private, rootfs};

/// How long the kernel may take to end a killed container.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

fn not_found(id: &str) -> CapabilityError {
    CapabilityError::new(ErrorCode::NotFound, format!("container {id} does not exist"))
}

fn pairs(annotations: Option<&HashMap<String, String>>) -> Vec<KeyValue> {
    let mut pairs: Vec<_> =
        annotations.into_iter().flatten().map(|(k, v)| KeyValue { key: k.clone(), value: v.clone() }).collect();
    pairs.sort_by(|a, b| a.key.cmp(&b.key));
    pairs
}

impl Mechanism {
    pub(super) fn container(&self, id: &str) -> CapabilityResult<Arc<Container>> {
        self.inner.containers.lock().get(id).cloned().ok_or_else(|| not_found(id))
    }

    /// Finds the containers of an earlier process.
    pub(super) async fn adopt(&self) -> CapabilityResult<()> {
        for id in self.inner.entries("bundles") {
            let files = BundleFiles(self.inner.path("bundles", &id));
            let read = |path| std::fs::read(path).ok();
            let Some(spec) = read(files.spec()).and_then(|text| serde_json::from_slice::<Spec>(&text).ok()) else {
                // The agent died before the bundle was whole.
                let _ = std::fs::remove_dir_all(&files.0);
                continue;
            };
            let record: Option<Record> = read(files.state()).and_then(|text| serde_json::from_slice(&text).ok());
            let config: Option<ShimConfig> = read(files.shim()).and_then(|text| serde_json::from_slice(&text).ok());
            let container = Container::new(&id, files, pairs(spec.annotations().as_ref()), record.unwrap_or_default());
            let created = config.is_some();
            *container.config.lock() = config;
            let container = Arc::new(container);
            self.inner.containers.lock().insert(id, container.clone());
            if !created || container.status() == BundleStatus::Stopped {
                continue;
            }
            match container.connect().and_then(|stream| {
                stream.set_nonblocking(true)?;
                tokio::net::UnixStream::from_std(stream)
            }) {
                Ok(stream) => {
                    let (lines, writer) = lines(stream);
                    self.watch_over(&container, lines, writer);
                    // It may have grown beyond its limit while nobody listened.
                    let (mechanism, container) = (self.clone(), container.clone());
                    tokio::spawn(async move { mechanism.rotate_when_full(&container).await });
                }
                Err(_) => self.conclude(&container).await,
            }
        }
        Ok(())
    }

    /// Creates the container; runs to its end even when its caller has gone.
    async fn create_container(&self, container: Arc<Container>, stdio: Stdio) -> CapabilityResult<u32> {
        let _gate = container.gate.lock().await;
        let id = container.id.clone();
        if container.status() != BundleStatus::Written {
            return Err(CapabilityError::new(ErrorCode::AlreadyExists, format!("container {id} exists already")));
        }
        let doing = |what: &str| format!("creating container {id}: {what}");
        let (inner, kept) = (self.inner.clone(), container.clone());
        let failed = doing("preparing the bundle");
        let config = blocking(move || {
            let fail = |error: &std::io::Error| CapabilityError::io(&failed, error);
            let text = std::fs::read(kept.files.spec()).map_err(|e| fail(&e))?;
            let spec: Spec = serde_json::from_slice(&text).map_err(|e| fail(&e.into()))?;
            let root = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
            if let Some(process) = spec.process() {
                // As runc does: a working directory that the image lacks is made.
                rootfs::make_folder(&root, process.cwd());
            }
            let mut adapted = host::adapt(spec, &kept.id, &stdio, &inner.facts, &|uid| rootfs::home_of(&root, uid));
            adapted.shim.log_limit_bytes = inner.options.log_limit_bytes;
            write_whole(&kept.files.config(), &serde_json::to_vec(&adapted.spec).map_err(|e| fail(&e.into()))?)
                .map_err(|e| fail(&e))?;
            write_whole(&kept.files.shim(), &serde_json::to_vec(&adapted.shim).map_err(|e| fail(&e.into()))?)
                .map_err(|e| fail(&e))?;
            Ok(adapted.shim)
        })
        .await?;
        *container.config.lock() = Some(config);
        let io = |what: &str, error: &std::io::Error| CapabilityError::io(doing(what), error);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(|e| io("making a connection", &e))?;
        ours.set_nonblocking(true).map_err(|e| io("making a connection", &e))?;
        let ours = tokio::net::UnixStream::from_std(ours).map_err(|e| io("making a connection", &e))?;
        let request = LaunchRequest::Shim { bundle: container.files.0.clone() };
        self.inner.launcher.launch(&request, &[theirs.as_fd()]).map_err(|e| io("asking the launcher", &e))?;
        drop(theirs);
        let (mut lines, writer) = lines(ours);
        match next(&mut lines).await {
            Some(ShimMessage::Created(record)) => {
                let pid = record.pid;
                self.note(&container, record);
                self.watch_over(&container, lines, writer);
                Ok(pid)
            }
            Some(ShimMessage::Failed(reason)) => {
                let _ = std::fs::remove_file(container.files.shim());
                Err(CapabilityError::new(ErrorCode::Invalid, format!("OCI runtime create failed: {reason}")))
            }
            _ => {
                let text = doing("the shim ended without a word; see the agent's log");
                Err(CapabilityError::new(ErrorCode::Internal, text))
            }
        }
    }

    async fn delete_container(&self, container: Arc<Container>, force: bool) -> CapabilityResult<()> {
        let _gate = container.gate.lock().await;
        let id = container.id.clone();
        match container.status() {
            BundleStatus::Running if !force => {
                return Err(CapabilityError::new(ErrorCode::Busy, format!("container {id} is running")));
            }
            BundleStatus::Running | BundleStatus::Created => {
                // A failure means that it has ended by itself.
                let _ = container.ask(ShimCommand::Kill { signal: Signal::SIGKILL as i32 }).await;
                let mut record = container.record.subscribe();
                if tokio::time::timeout(KILL_TIMEOUT, record.wait_for(|r| r.finished_at != 0)).await.is_err() {
                    let text =
                        format!("deleting container {id}: its processes do not end, {KILL_TIMEOUT:?} after SIGKILL");
                    return Err(CapabilityError::new(ErrorCode::Busy, text));
                }
            }
            BundleStatus::Stopped | BundleStatus::Written => {}
        }
        container.dismiss().await;
        let (inner, kept) = (self.inner.clone(), container.clone());
        blocking(move || {
            if let Some(cgroup) = kept.cgroup(&inner) {
                cgroup.signal_all(Signal::SIGKILL);
                cgroup
                    .remove()
                    .map_err(|e| CapabilityError::io(format!("removing the cgroup of container {}", kept.id), &e))?;
            }
            match std::fs::remove_dir_all(&kept.files.0) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(CapabilityError::io(format!("removing the bundle of container {}", kept.id), &error))
                }
                _ => Ok(()),
            }
        })
        .await?;
        let mut containers = self.inner.containers.lock();
        if containers.get(&id).is_some_and(|known| Arc::ptr_eq(known, &container)) {
            containers.remove(&id);
        }
        Ok(())
    }

    /// What a plugin may not ask for.
    fn check_spec(&self, id: &str, spec: &Spec) -> CapabilityResult<()> {
        let refuse =
            |code, reason: &str| Err(CapabilityError::new(code, format!("config.json of container {id}: {reason}")));
        if spec.hooks().is_some() {
            return refuse(ErrorCode::Denied, "hooks would run programs on the host");
        }
        let (Some(root), Some(_), Some(linux)) = (spec.root(), spec.process(), spec.linux()) else {
            return refuse(ErrorCode::Invalid, "root, process and linux are required");
        };
        let plain = |path: &Path| path.components().all(|c| matches!(c, Component::Normal(_) | Component::RootDir));
        if !root.path().starts_with(self.inner.folder.join("rootfs")) || !plain(root.path()) {
            return refuse(ErrorCode::Denied, "root.path is not one that rootfs.prepare returned");
        }
        if linux.cgroups_path().as_ref().is_some_and(|path| !plain(path) || path.as_os_str().is_empty()) {
            return refuse(ErrorCode::Denied, "linux.cgroupsPath must be a plain path");
        }
        Ok(())
    }
}

#[async_trait]
impl OciBundle for Mechanism {
    async fn write(&self, id: &str, config: &str) -> CapabilityResult<()> {
        check_id("container", id)?;
        let spec: Spec = serde_json::from_str(config).map_err(|error| {
            CapabilityError::new(ErrorCode::Invalid, format!("config.json of container {id}: {error}"))
        })?;
        self.check_spec(id, &spec)?;
        let files = BundleFiles(self.inner.path("bundles", id));
        let known = self.inner.containers.lock().get(id).cloned();
        let _gate = match &known {
            Some(container) => Some(container.gate.lock().await),
            None => None,
        };
        if known.as_ref().is_some_and(|container| container.status() != BundleStatus::Written) {
            return Err(CapabilityError::new(ErrorCode::AlreadyExists, format!("container {id} exists already")));
        }
        make_private(&files.0)
            .and_then(|()| write_whole(&files.spec(), config.as_bytes()))
            .map_err(|e| CapabilityError::io(format!("writing the bundle of container {id}"), &e))?;
        let container = Container::new(id, files, pairs(spec.annotations().as_ref()), Record::default());
        self.inner.containers.lock().insert(id.to_owned(), Arc::new(container));
        Ok(())
    }

    async fn read(&self, id: &str) -> CapabilityResult<String> {
        let container = self.container(id)?;
        std::fs::read_to_string(container.files.spec())
            .map_err(|e| CapabilityError::io(format!("reading config.json of container {id}"), &e))
    }

    async fn create(&self, id: &str, stdio: &Stdio) -> CapabilityResult<u32> {
        let (mechanism, container, stdio) = (self.clone(), self.container(id)?, stdio.clone());
        let task = tokio::spawn(async move { mechanism.create_container(container, stdio).await });
        match task.await {
            Ok(result) => result,
            Err(error) => Err(CapabilityError::new(ErrorCode::Internal, format!("creating container {id}: {error}"))),
        }
    }

    async fn start(&self, id: &str) -> CapabilityResult<()> {
        let container = self.container(id)?;
        let _gate = container.gate.lock().await;
        match container.status() {
            BundleStatus::Created => container.ask(ShimCommand::Start).await.map(drop),
            BundleStatus::Written => {
                Err(CapabilityError::new(ErrorCode::Busy, format!("container {id} has not been created")))
            }
            BundleStatus::Running | BundleStatus::Stopped => {
                Err(CapabilityError::new(ErrorCode::Busy, format!("container {id} has been started already")))
            }
        }
    }

    async fn kill(&self, id: &str, signal: u32, all: bool) -> CapabilityResult<()> {
        let container = self.container(id)?;
        let number = i32::try_from(signal).ok().filter(|n| (1..=64).contains(n)).ok_or_else(|| {
            CapabilityError::new(ErrorCode::Invalid, format!("killing container {id}: there is no signal {signal}"))
        })?;
        match container.status() {
            BundleStatus::Written => {
                return Err(CapabilityError::new(ErrorCode::Busy, format!("container {id} has not been created")));
            }
            BundleStatus::Stopped if !all => return Ok(()),
            _ => {}
        }
        if all && let Some(cgroup) = container.cgroup(&self.inner) {
            let signal = Signal::try_from(number).map_err(|_| {
                CapabilityError::new(ErrorCode::Invalid, format!("killing container {id}: signal {number} has no name"))
            })?;
            return blocking(move || {
                cgroup.signal_all(signal);
                Ok(())
            })
            .await;
        }
        match container.ask(ShimCommand::Kill { signal: number }).await {
            // It has ended meanwhile.
            Err(error) if error.code == ErrorCode::Busy => Ok(()),
            other => other.map(drop),
        }
    }

    async fn wait(&self, id: &str, timeout_ms: u32) -> CapabilityResult<Option<i32>> {
        let container = self.container(id)?;
        let mut record = container.record.subscribe();
        let ended = record.wait_for(|record| record.finished_at != 0);
        match tokio::time::timeout(Duration::from_millis(timeout_ms.into()), ended).await {
            Ok(Ok(record)) => Ok(Some(record.exit_code)),
            Ok(Err(_)) => Err(not_found(id)),
            Err(_) => Ok(None),
        }
    }

    async fn delete(&self, id: &str, force: bool) -> CapabilityResult<()> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        let mechanism = self.clone();
        match tokio::spawn(async move { mechanism.delete_container(container, force).await }).await {
            Ok(result) => result,
            Err(error) => Err(CapabilityError::new(ErrorCode::Internal, format!("deleting container {id}: {error}"))),
        }
    }

    async fn state(&self, id: &str) -> CapabilityResult<BundleState> {
        Ok(self.container(id)?.state())
    }

    async fn list(&self) -> CapabilityResult<Vec<BundleState>> {
        let mut states: Vec<_> = self.inner.containers.lock().values().map(|container| container.state()).collect();
        states.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(states)
    }

    async fn update(&self, id: &str, resources: &str) -> CapabilityResult<()> {
        let container = self.container(id)?;
        let resources: LinuxResources = serde_json::from_str(resources).map_err(|error| {
            CapabilityError::new(ErrorCode::Invalid, format!("resources for container {id}: {error}"))
        })?;
        let running = matches!(container.status(), BundleStatus::Created | BundleStatus::Running);
        let Some(cgroup) = container.cgroup(&self.inner).filter(|_| running) else {
            return Err(CapabilityError::new(ErrorCode::Busy, format!("container {id} is not running")));
        };
        cgroup.update(&resources).map_err(|e| CapabilityError::io(format!("updating container {id}"), &e))
    }

    async fn stats(&self, id: &str) -> CapabilityResult<BundleStats> {
        let container = self.container(id)?;
        let running = matches!(container.status(), BundleStatus::Created | BundleStatus::Running);
        let Some(cgroup) = container.cgroup(&self.inner).filter(|_| running) else {
            return Err(CapabilityError::new(ErrorCode::Busy, format!("container {id} is not running")));
        };
        let usage = cgroup.usage().map_err(|e| CapabilityError::io(format!("usage of container {id}"), &e))?;
        Ok(BundleStats {
            timestamp: now_ns(),
            cpu_usage_nanoseconds: usage.cpu_ns,
            memory_usage_bytes: usage.memory_bytes,
            memory_working_set_bytes: usage.memory_bytes.saturating_sub(usage.inactive_file_bytes),
            memory_rss_bytes: usage.rss_bytes,
            page_faults: usage.faults,
            major_page_faults: usage.major_faults,
            pids: usage.pids,
        })
    }
}
