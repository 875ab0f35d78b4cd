//! Starting a container: image, configuration, creation, start, `postStart` hook; with upstream's events.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_plugin_host::contract::runtime::{ContainerState, Device, Mount, Propagation};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Secret, Service};
use tokio::time::Instant;

use super::PodWorker;
use super::kill::{Killer, Order};
use super::resize::with_allocated;
use super::sandbox::new_id;
use crate::actions::KillReason;
use crate::container_config::{ContainerInputs, container_config, propagation};
use crate::env::{self, EnvInputs, Lookup};
use crate::hooks::{self, HookTarget};
use crate::image_pull;
use crate::images::Image;
use crate::observed::ContainerRecord;
use crate::pod::{self, ContainerKind, container_reference, go_duration};
use crate::status::Waiting;
use crate::volumes::{Mounted, subpath};

fn waiting(reason: &str, message: impl Into<String>) -> Waiting {
    Waiting { reason: reason.to_owned(), message: message.into() }
}

/// What the values of variables are looked up in.
struct PodLookup<'a> {
    worker: &'a PodWorker,
}

impl Lookup for PodLookup<'_> {
    fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
        self.worker.held.config_map(pod::namespace(&self.worker.pod), name)
    }

    fn secret(&self, name: &str) -> Option<Arc<Secret>> {
        self.worker.held.secret(pod::namespace(&self.worker.pod), name)
    }

    fn file_key(&self, volume: &str, path: &str, key: &str) -> Result<Option<String>, String> {
        let mounted = self.worker.mounted.as_ref().and_then(|mounted| mounted.get(volume));
        let root = mounted.ok_or_else(|| format!("cannot find the volume {volume:?} referenced by FileKeyRef"))?;
        crate::volumes::atomic_writer::check_path(path)?;
        let file = root.path.join(path);
        // Nothing a container put there may lead out of the volume.
        let real = file.canonicalize().map_err(|error| format!("failed to read file {path:?}: {error}"))?;
        let root = root.path.canonicalize().map_err(|error| format!("failed to read file {path:?}: {error}"))?;
        if !real.starts_with(root) {
            return Err(format!("failed to read file {path:?}: it is not in the volume"));
        }
        let text = fs::read_to_string(real).map_err(|error| format!("failed to read file {path:?}: {error}"))?;
        Ok(env::env_file_key(&text, key))
    }
}

impl PodWorker {
    /// Starts a container of the pod, or notes why it waits. Tells whether it runs.
    pub(super) async fn start_container(&mut self, kind: ContainerKind, container: &Container) -> bool {
        let name = container.name.clone();
        if let Some(waiting) = self.crash_backoff(kind, container) {
            self.waiting.insert(name, waiting);
            return false;
        }
        if self.inbox.ending.is_cancelled() {
            return false;
        }
        match self.try_start(kind, container).await {
            Ok(()) => {
                self.waiting.remove(&name);
                true
            }
            Err(why) => {
                self.waiting.insert(name, why);
                false
            }
        }
    }

    /// A container that exited is started again only after its back-off.
    fn crash_backoff(&mut self, kind: ContainerKind, container: &Container) -> Option<Waiting> {
        let name = &container.name;
        let newest = self.observed.newest(name)?;
        if !newest.has_exited() {
            return None;
        }
        let since = newest.finished_at.or(newest.created_at).unwrap_or_else(Timestamp::now);
        let now = Timestamp::now();
        let key = format!("{name}/{}", pod::container_hash(container));
        let Some(wait) = self.crashes.waiting(&key, since, now) else {
            self.crashes.next(&key, since, now);
            return None;
        };
        let long = pod::long_name(&self.pod);
        let about = container_reference(&self.pod, kind, name);
        let recorder = &self.context.parts.recorder;
        recorder.warning(&about, "BackOff", format!("Back-off restarting failed container {name} in pod {long}"));
        self.wake_at(since.checked_add(wait).unwrap_or(now));
        let message = format!("back-off {} restarting failed container={name} pod={long}", go_duration(wait));
        Some(waiting("CrashLoopBackOff", message))
    }

    async fn try_start(&mut self, kind: ContainerKind, container: &Container) -> Result<(), Waiting> {
        let context = self.context.clone();
        let recorder = &context.parts.recorder;
        let pod = self.pod.clone();
        let about = container_reference(&pod, kind, &container.name);
        let failed = |text: &str| recorder.warning(&about, "Failed", format!("Error: {text}"));
        if image_pull::is_slow(&context, container).await {
            // It takes its time; let people see what is known so far.
            self.publish(false);
        }
        let ending = self.inbox.ending.clone();
        let pulled = image_pull::ensure(&context, &pod, container, &about, &self.held, &mut self.pulls, &ending).await;
        let image = match pulled {
            Ok(image) => image,
            Err(why) => {
                if why.reason != "ContainerCreating" {
                    failed(&why.reason);
                }
                if why.reason == "ErrImagePull" {
                    // The next look shows that it waits.
                    self.wake_after(super::RETRY_MIN);
                } else if let Some(at) = self.pulls.retry_at(container.image.as_deref().unwrap_or_default()) {
                    self.wake_at(at);
                }
                return Err(why);
            }
        };
        let runtime = self.runtime().map_err(|why| waiting("CreateContainerError", why))?;
        let attempt = self.next_attempt(container);
        let sandbox = match self.observed.sandbox() {
            Some(sandbox) => sandbox.clone(),
            None => return Err(waiting("ContainerCreating", "")),
        };
        let prepared = self.prepare(container, attempt, &image, &sandbox.ips);
        let config = match prepared {
            Ok(config) => config,
            Err(why) => {
                failed(&why);
                self.retry_soon();
                return Err(waiting("CreateContainerConfigError", why));
            }
        };
        let id = new_id();
        self.register(&id);
        if let Err(error) = runtime.create_container(&sandbox.id, &id, &config).await {
            let text = error.to_string();
            failed(&text);
            let _ = runtime.remove_container(&id).await;
            self.retry_soon();
            return Err(waiting("CreateContainerError", text));
        }
        recorder.normal(&about, "Created", "Container created");
        let started = runtime.start_container(&id).await;
        self.look_at(&id).await;
        if let Err(error) = started {
            let text = error.to_string();
            failed(&text);
            self.note_failed_start(&id, container, attempt, &sandbox.id, &image, &text);
            self.retry_soon();
            return Err(waiting("RunContainerError", text));
        }
        recorder.normal(&about, "Started", "Container started");
        self.link_log(&container.name, &id);
        self.prune(&container.name).await;
        let post_start = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
        if let Some(handler) = post_start {
            self.publish(false);
            let ip = sandbox.ips.first().copied().or_else(|| context.host_ips().first().copied());
            let target =
                HookTarget { context: &context, runtime: &runtime, pod: &pod, container, container_id: &id, ip };
            let ran = tokio::select! {
                ran = hooks::run(handler, &target) => ran,
                () = ending.cancelled() => return Ok(()),
            };
            if let Err(why) = ran {
                recorder.warning(&about, "FailedPostStartHook", "PostStartHook failed");
                if let Some(record) = self.observed.by_id(&id) {
                    let killer = Killer { context: &context, runtime: &runtime, pod: &pod, observed: &self.observed };
                    let order = Order { message: "FailedPostStartHook", reason: KillReason::Restart, grace: None };
                    killer.one(record, order, Instant::now()).await;
                }
                self.look_at(&id).await;
                self.retry_soon();
                return Err(waiting("PostStartHookError", why));
            }
        }
        Ok(())
    }

    /// Where a container's log is found by log collectors.
    pub(super) fn log_link(&self, name: &str, id: &str) -> Option<PathBuf> {
        let folder = self.context.config.container_log_dir.as_ref()?;
        Some(folder.join(format!("{}_{}_{name}-{id}.log", pod::name(&self.pod), pod::namespace(&self.pod))))
    }

    fn link_log(&self, name: &str, id: &str) {
        let log = self.observed.by_id(id).and_then(|record| record.log_path.as_ref());
        let (Some(link), Some(log)) = (self.log_link(name, id), log) else { return };
        let made = link.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| symlink(log, &link));
        if let Err(error) = made {
            tracing::warn!(link = %link.display(), %error, "a container's log is not linked");
        }
    }

    /// How often a container has been started before, by what is left of it or by what the API remembers.
    fn next_attempt(&self, container: &Container) -> u32 {
        if let Some(newest) = self.observed.newest(&container.name) {
            return newest.attempt + 1;
        }
        let status = self.pod.status.as_ref();
        let lists =
            status.map(|s| [&s.init_container_statuses, &s.container_statuses, &s.ephemeral_container_statuses]);
        let before = lists
            .iter()
            .flatten()
            .filter_map(|list| pod::find_status(list.as_deref().unwrap_or_default(), &container.name))
            .find(|status| status.container_id.is_some());
        before.map_or(0, |status| u32::try_from(status.restart_count).unwrap_or_default() + 1)
    }

    /// A container whose program can't be started has exited, whatever the runtime kept of it.
    fn note_failed_start(
        &mut self,
        id: &str,
        container: &Container,
        attempt: u32,
        sandbox_id: &str,
        image: &Image,
        text: &str,
    ) {
        let now = Timestamp::now();
        let known = self.observed.by_id(id).cloned();
        let record = ContainerRecord {
            id: id.to_owned(),
            name: container.name.clone(),
            sandbox_id: sandbox_id.to_owned(),
            attempt,
            state: ContainerState::Exited,
            created_at: known.as_ref().and_then(|known| known.created_at).or(Some(now)),
            started_at: None,
            finished_at: Some(now),
            exit_code: 128,
            reason: "StartError".to_owned(),
            message: text.to_owned(),
            image: known.as_ref().map_or_else(|| container.image.clone().unwrap_or_default(), |k| k.image.clone()),
            image_id: known.as_ref().map_or_else(|| image.id.clone(), |known| known.image_id.clone()),
            hash: pod::container_hash(container),
            log_path: known.and_then(|known| known.log_path),
            termination_file: None,
            fall_back_to_logs: false,
        };
        self.failed_starts.insert(id.to_owned(), record.clone());
        self.observed.put_container(record);
    }

    /// Files, mounts, environment and configuration of a container.
    fn prepare(
        &self,
        container: &Container,
        attempt: u32,
        image: &Image,
        ips: &[IpAddr],
    ) -> Result<gantry_plugin_host::contract::runtime::ContainerConfig, String> {
        // A change of resources that waits is not for a restart to bring about.
        let given = with_allocated(&self.pod, &self.allocated);
        let pod = &given;
        let found = pod::find_container(pod, &container.name);
        let container = found.as_ref().map_or(container, |(_, container)| &**container);
        let config = &self.context.config;
        let host_ips = self.context.host_ips();
        let pod_ips = if pod::host_network(pod) { host_ips.as_slice() } else { ips };
        let links = pod::spec(pod).enable_service_links.unwrap_or(true);
        let services = service_variables(&self.context.services.list(), pod::namespace(pod), links);
        let inputs =
            EnvInputs { pod_ips, host_ips: &host_ips, allocatable: &self.context.allocatable, services: &services };
        let environment = env::environment(pod, container, &PodLookup { worker: self }, &inputs)?;
        let folder = self.context.pod_dir(pod::uid(pod));
        let log_dir = self.context.pod_log_dir(pod).join(&container.name);
        fs::create_dir_all(&log_dir).map_err(|error| format!("make {}: {error}", log_dir.display()))?;
        let termination_file = termination_file(&folder, container)?;
        let empty = Mounted::new();
        let mounted = self.mounted.as_ref().unwrap_or(&empty);
        let mut mounts = mounts(container, mounted, &folder, &environment)?;
        if let Some(path) = container.termination_message_path.as_deref().filter(|path| !path.is_empty()) {
            mounts.push(plain_mount(&termination_file, path));
        }
        for (file, at) in
            [("etc-hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf")]
        {
            if !mounts.iter().any(|mount| mount.container_path == at) {
                mounts.push(plain_mount(&folder.join(file), at));
            }
        }
        container_config(
            pod,
            container,
            ContainerInputs {
                attempt,
                image,
                environment: &environment,
                mounts,
                devices: devices(container, mounted)?,
                log_path: &log_dir.join(format!("{attempt}.log")),
                termination_file: &termination_file,
                node_memory_bytes: self.context.machine.memory_bytes,
                seccomp_default: config.seccomp_default,
                seccomp_dir: &config.root_dir.join("seccomp"),
            },
        )
    }
}

fn service_variables(services: &[Arc<Service>], namespace: &str, links: bool) -> BTreeMap<String, String> {
    env::service_variables(services.iter().map(|service| &**service), namespace, links)
}

fn plain_mount(host: &Path, at: &str) -> Mount {
    Mount {
        host_path: host.to_string_lossy().into_owned(),
        container_path: at.to_owned(),
        read_only: false,
        recursive_read_only: false,
        propagation: Propagation::Private,
    }
}

/// A file for the termination message, fresh for each instance and writable for whatever user runs it.
fn termination_file(pod_folder: &Path, container: &Container) -> Result<PathBuf, String> {
    let folder = pod_folder.join("containers").join(&container.name);
    let file = folder.join(format!("{:08x}", rand::random::<u32>()));
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&file, ""))
        .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o666)))
        .map_err(|error| format!("make {}: {error}", file.display()))?;
    Ok(file)
}

fn mounts(
    container: &Container,
    mounted: &Mounted,
    folder: &Path,
    environment: &[(String, String)],
) -> Result<Vec<Mount>, String> {
    let mut out = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let name = &mount.name;
        let volume = mounted.get(name).filter(|volume| !volume.block);
        let volume = volume
            .ok_or_else(|| format!("cannot find volume {name:?} to mount into container {:?}", container.name))?;
        let expr = mount.sub_path_expr.as_deref().filter(|expr| !expr.is_empty());
        let sub_path = match expr {
            Some(expr) => expand_sub_path(expr, environment)?,
            None => mount.sub_path.clone().unwrap_or_default(),
        };
        let host_path = if sub_path.is_empty() {
            volume.path.clone()
        } else {
            let target = folder.join("volume-subpaths").join(name).join(&container.name).join(index.to_string());
            subpath::bind(&volume.path, &sub_path, &target)?;
            target
        };
        let read_only = mount.read_only == Some(true) || volume.read_only;
        out.push(Mount {
            host_path: host_path.to_string_lossy().into_owned(),
            container_path: absolute(&mount.mount_path),
            read_only,
            recursive_read_only: read_only
                && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
            propagation: propagation(mount.mount_propagation.as_deref()),
        });
    }
    Ok(out)
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// A `subPathExpr` whose variables must all be known.
fn expand_sub_path(expr: &str, environment: &[(String, String)]) -> Result<String, String> {
    let missing = std::cell::RefCell::new(None);
    let text = env::expand(expr, |name| {
        let found = environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        if found.is_none() {
            missing.borrow_mut().get_or_insert_with(|| name.to_owned());
        }
        found
    });
    match missing.into_inner() {
        Some(name) => Err(format!("missing value for {name:?}")),
        None => Ok(text),
    }
}

fn devices(container: &Container, mounted: &Mounted) -> Result<Vec<Device>, String> {
    let mut out = Vec::new();
    for device in container.volume_devices.iter().flatten() {
        let volume = mounted.get(&device.name).filter(|volume| volume.block).ok_or_else(|| {
            format!("cannot find volume {:?} to pass into container {:?}", device.name, container.name)
        })?;
        let meta = fs::metadata(&volume.path).map_err(|error| format!("{}: {error}", volume.path.display()))?;
        if !meta.file_type().is_block_device() {
            return Err(format!("{} is not a block device", volume.path.display()));
        }
        let number = meta.rdev();
        out.push(Device {
            host_path: volume.path.to_string_lossy().into_owned(),
            container_path: device.device_path.clone(),
            permissions: if volume.read_only { "r" } else { "mrw" }.to_owned(),
            major: i64::try_from(nix::sys::stat::major(number)).unwrap_or_default(),
            minor: i64::try_from(nix::sys::stat::minor(number)).unwrap_or_default(),
            kind: "b".to_owned(),
        });
    }
    Ok(out)
}
