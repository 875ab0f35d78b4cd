//! One task a pod: it is told what changed, decides by [`crate::actions`], acts, and writes the status.
//!
//! A pod runs, then ends, then is over; an object that was deleted is finally removed. Each stage is idempotent, so a
//! new process takes up where the old one stopped.

pub mod inbox;
mod kill;
mod resize;
mod sandbox;
mod start;

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use gantry_client::events::reference;
use gantry_plugin_host::contract::runtime::IdMapping;
use gantry_plugin_host::{ErrorCode, Runtime};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::actions::{self, Actions};
use crate::admission;
use crate::backoff::Backoff;
use crate::context::Context;
use crate::image_pull::Pulls;
use crate::observed::{ContainerRecord, Observed, SandboxRecord};
use crate::pod::{self, ContainerKind};
use crate::probes::Probes;
use crate::references::Held;
use crate::registry::{PodView, Registry};
use crate::static_pods;
use crate::status::{StatusInputs, Waiting, pod_status};
use crate::status_writer::{StatusWriter, is_own_condition};
use crate::termination_message;
use crate::volumes::{self, Mounted};

use inbox::{Inbox, Mail};
use kill::{Killer, Order};

/// The waits after a step that failed.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Volumes that are not there after this long are told of once more, all together; upstream's.
const MOUNT_PATIENCE: Duration = Duration::from_secs(123);
/// Refreshes of files that fail are tried again after this long.
const REFRESH_RETRY: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    Ending,
    Over,
}

/// What containers have been given, by name.
pub type Allocated = HashMap<String, ResourceRequirements>;

/// The worker of a pod.
pub struct PodWorker {
    context: Arc<Context>,
    registry: Arc<Registry>,
    inbox: Arc<Inbox>,
    view: Arc<RwLock<PodView>>,
    pod: Arc<Pod>,
    uid: String,
    stage: Stage,
    gone: bool,
    admitted: bool,
    runtime: Option<Arc<dyn Runtime>>,
    observed: Observed,
    failed_starts: HashMap<String, ContainerRecord>,
    waiting: HashMap<String, Waiting>,
    crashes: Backoff,
    pulls: Pulls,
    probes: Probes,
    held: Held,
    mounted: Option<Mounted>,
    mounting_since: Option<Instant>,
    files_stale: bool,
    ended: Option<(String, String)>,
    writer: StatusWriter,
    start_time: Timestamp,
    allocated: Allocated,
    resize_pending: Option<resize::Pending>,
    failures: u32,
    wake: Option<Instant>,
}

impl PodWorker {
    /// A worker of a pod, with what the node already runs of it.
    pub fn new(
        context: Arc<Context>,
        registry: Arc<Registry>,
        inbox: Arc<Inbox>,
        view: Arc<RwLock<PodView>>,
        adopted: Observed,
    ) -> Self {
        let pod = view.read().pod.clone();
        for record in &adopted.containers {
            registry.add_container(&record.id, &inbox);
        }
        let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
        let start_time = started.map_or_else(Timestamp::now, |time| time.0);
        let mut probes = Probes::default();
        for status in known_statuses(&pod) {
            // What was ready stays so until its probes say otherwise.
            let id = status.container_id.as_deref().and_then(|id| id.split("://").nth(1)).unwrap_or_default();
            if adopted.by_id(id).is_some_and(ContainerRecord::is_running) {
                probes.seed(id, status.started == Some(true), status.ready);
            }
        }
        Self {
            writer: StatusWriter::start(context.parts.client.clone(), &pod, context.node.clone()),
            uid: pod::uid(&pod).to_owned(),
            context,
            registry,
            inbox,
            view,
            stage: Stage::Running,
            gone: false,
            // What ran before was admitted before.
            admitted: started.is_some() || !adopted.sandboxes.is_empty(),
            runtime: None,
            observed: adopted,
            failed_starts: HashMap::new(),
            waiting: HashMap::new(),
            crashes: Backoff::default(),
            pulls: Pulls::default(),
            probes,
            held: Held::default(),
            mounted: None,
            mounting_since: None,
            files_stale: false,
            ended: None,
            start_time,
            allocated: Allocated::new(),
            resize_pending: None,
            failures: 0,
            wake: None,
            pod,
        }
    }

    /// Works until nothing is left of the pod.
    pub async fn run(mut self) {
        self.take_over().await;
        loop {
            self.wake = None;
            let mail = self.inbox.take();
            self.read(mail).await;
            match self.stage {
                Stage::Running => self.run_step().await,
                Stage::Ending => self.end_step().await,
                Stage::Over => {
                    if self.over_step().await {
                        break;
                    }
                }
            }
            self.show();
            let inbox = self.inbox.clone();
            match self.wake {
                Some(at) => tokio::select! {
                    () = inbox.arrived() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => inbox.arrived().await,
            }
        }
        self.registry.remove(&self.uid);
    }

    fn wake_now(&mut self) {
        self.wake = Some(Instant::now());
    }

    fn wake_after(&mut self, wait: Duration) {
        let at = Instant::now() + wait;
        self.wake = Some(self.wake.map_or(at, |known| known.min(at)));
    }

    fn wake_at(&mut self, at: Timestamp) {
        let wait = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
        // A hair later, as clocks differ in what they round.
        self.wake_after(wait + Duration::from_millis(5));
    }

    fn retry_soon(&mut self) {
        let wait = RETRY_MIN.saturating_mul(1 << self.failures.min(6)).min(RETRY_MAX);
        self.failures = self.failures.saturating_add(1);
        self.wake_after(wait);
    }

    fn runtime(&mut self) -> Result<Arc<dyn Runtime>, String> {
        if let Some(runtime) = &self.runtime {
            return Ok(runtime.clone());
        }
        let runtime = self.context.runtime(&self.pod)?;
        self.runtime = Some(runtime.clone());
        Ok(runtime)
    }

    fn register(&self, container_id: &str) {
        self.registry.add_container(container_id, &self.inbox);
    }

    fn user_mapping(&self) -> Result<Vec<IdMapping>, String> {
        if pod::spec(&self.pod).host_users != Some(false) {
            return Ok(Vec::new());
        }
        let pods = self.context.config.root_dir.join("pods");
        crate::user_namespaces::mapping(&pods, &self.uid).map_err(|error| format!("user namespace: {error}"))
    }

    /// Takes over what ran before: exits that were missed get their messages.
    async fn take_over(&mut self) {
        let ids: Vec<String> = self.observed.containers.iter().map(|record| record.id.clone()).collect();
        for id in ids {
            self.look_at(&id).await;
        }
    }

    async fn read(&mut self, mail: Mail) {
        if let Some(pod) = mail.pod {
            self.files_stale |= pod.metadata != self.pod.metadata;
            self.pod = merge(&self.pod, pod);
        }
        self.gone |= mail.gone;
        self.files_stale |= mail.objects_changed;
        if mail.mirror_gone && !self.gone {
            let client = self.context.parts.client.clone();
            self.writer = StatusWriter::start(client, &self.pod, self.context.node.clone());
            self.publish(self.stage == Stage::Over);
        }
        if let Some(ended) = mail.evicted
            && self.stage == Stage::Running
        {
            self.ended = Some(ended);
        }
        let mut look: Vec<String> = mail.exited.into_iter().collect();
        if mail.look_again {
            let live = self.observed.containers.iter().filter(|record| !record.has_exited());
            look.extend(live.map(|record| record.id.clone()));
        }
        for id in look {
            self.look_at(&id).await;
        }
    }

    /// Asks the runtime about a container.
    async fn look_at(&mut self, id: &str) {
        if let Some(failed) = self.failed_starts.get(id) {
            self.observed.put_container(failed.clone());
            return;
        }
        let Ok(runtime) = self.runtime() else { return };
        match runtime.inspect_container(id).await {
            Ok(status) => {
                let mut record = ContainerRecord::from_runtime(&status);
                if record.has_exited() && self.observed.by_id(id).is_none_or(|known| known.message.is_empty()) {
                    record.message = termination_message::read(
                        record.termination_file.as_deref(),
                        record.log_path.as_deref(),
                        record.fall_back_to_logs,
                        record.exit_code,
                    );
                }
                self.observed.put_container(record);
            }
            Err(error) if error.code() == ErrorCode::NotFound => {
                self.observed.containers.retain(|record| record.id != id);
            }
            Err(error) => {
                tracing::warn!(container = id, pod = pod::long_name(&self.pod), %error, "container not inspected");
                self.retry_soon();
            }
        }
    }

    fn compute_status(&self, is_over: bool) -> PodStatus {
        let host_ips = self.context.host_ips();
        // Until a change of resources is applied, the status tells of what is.
        let given = resize::with_allocated(&self.pod, &self.allocated);
        let mut status = pod_status(
            &given,
            &StatusInputs {
                observed: &self.observed,
                probed: &self.probes.results(),
                waiting: &self.waiting,
                ended: self.ended.as_ref().map(|(reason, message)| (reason.as_str(), message.as_str())),
                is_over,
                host_ips: &host_ips,
                runtime: self.runtime.as_ref().map_or("oci", |runtime| runtime.name()),
                start_time: self.start_time,
                now: Timestamp::now(),
            },
        );
        let old = self.pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let conditions = status.conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != "PodResizePending");
        if let Some(mut condition) = self.resize_condition() {
            let before = old.iter().find(|known| known.type_ == condition.type_);
            let since = before.and_then(|before| before.last_transition_time.clone());
            condition.last_transition_time = since.or_else(|| Some(Time(Timestamp::now())));
            conditions.push(condition);
        }
        status
    }

    /// Computes the status, shows it and has it written.
    fn publish(&mut self, is_over: bool) {
        let mut status = self.compute_status(is_over);
        // Until all has ended, a pod is not yet what it will be: its resources are still in use.
        let before = self.pod.status.clone().unwrap_or_default();
        let was_over = pod::is_terminal_phase(before.phase.as_deref().unwrap_or_default());
        let seems_over = pod::is_terminal_phase(status.phase.as_deref().unwrap_or_default());
        if !is_over && seems_over && !was_over && self.observed.any_running() {
            status.phase = before.phase.or(Some("Running".to_owned()));
            (status.reason, status.message) = (before.reason, before.message);
        }
        // What was found is the base of the next status: conditions keep their times.
        let mut pod = (*self.pod).clone();
        pod.status = Some(status.clone());
        self.pod = Arc::new(pod);
        if !self.gone {
            self.writer.set(status.clone());
        }
        self.show();
    }

    fn show(&self) {
        let mut view = self.view.write();
        view.pod = self.pod.clone();
        view.status = self.pod.status.clone();
        view.observed = self.observed.clone();
        view.mounted = self.mounted.clone().unwrap_or_default();
        view.runtime = self.runtime.clone();
        view.is_over = self.stage == Stage::Over;
    }

    fn sync_probes(&mut self, only_readiness: bool) {
        let Ok(runtime) = self.runtime() else { return };
        let inbox = self.inbox.clone();
        self.probes.sync(&self.context, &runtime, &self.pod, &self.observed, only_readiness, move || inbox.poke());
    }

    fn event(&self, warning: bool, reason: &str, note: String) {
        let about = reference(&*self.pod);
        let recorder = &self.context.parts.recorder;
        if warning { recorder.warning(&about, reason, note) } else { recorder.normal(&about, reason, note) }
    }

    fn deadline(&self) -> Option<Timestamp> {
        let seconds = pod::spec(&self.pod).active_deadline_seconds?;
        self.start_time.checked_add(SignedDuration::from_secs(seconds)).ok()
    }

    fn should_end(&mut self) -> bool {
        if self.gone || pod::is_deleted(&self.pod) || self.ended.is_some() {
            return true;
        }
        if self.deadline().is_some_and(|deadline| Timestamp::now() >= deadline) {
            let message = "Pod was active on the node longer than the specified deadline";
            self.event(false, "DeadlineExceeded", message.to_owned());
            self.ended = Some(("DeadlineExceeded".to_owned(), message.to_owned()));
            return true;
        }
        self.pod.status.as_ref().is_some_and(|s| pod::is_terminal_phase(s.phase.as_deref().unwrap_or_default()))
    }

    /// The pods that use the node's resources, this one aside.
    fn other_pods(&self) -> Vec<Arc<Pod>> {
        let all = self.registry.all();
        let others = all.iter().filter_map(|entry| {
            let view = entry.view.read();
            (!view.is_over && pod::uid(&view.pod) != self.uid && view.status.is_some()).then(|| view.pod.clone())
        });
        others.collect()
    }

    fn admit(&mut self) -> Result<(), admission::Rejection> {
        if self.admitted {
            return Ok(());
        }
        let Some(node) = self.context.node.get("", &self.context.config.node_name) else { return Ok(()) };
        let others = self.other_pods();
        admission::admit(
            &self.pod,
            &node,
            &self.context.allocatable,
            others.iter().map(|pod| &**pod),
            &self.context.config.allowed_unsafe_sysctls,
        )?;
        self.admitted = true;
        Ok(())
    }

    async fn run_step(&mut self) {
        if let Err(why) = self.admit() {
            self.event(true, &why.reason, why.message.clone());
            self.ended = Some((why.reason, format!("Pod was rejected: {}", why.message)));
        }
        if self.should_end() {
            self.stage = Stage::Ending;
            self.wake_now();
            return;
        }
        let phase = self.compute_status(false).phase.unwrap_or_default();
        if pod::is_terminal_phase(&phase) {
            self.stage = Stage::Ending;
            self.wake_now();
            return;
        }
        let ready = self.sync().await;
        if self.stage == Stage::Running {
            self.resize().await;
            self.sync_probes(false);
            self.publish(false);
            if ready {
                self.failures = 0;
            }
            if let Some(deadline) = self.deadline() {
                self.wake_at(deadline);
            }
            if let Some(wait) = self.context.tokens.next_renewal(&self.uid, Timestamp::now()) {
                self.files_stale |= wait.is_zero();
                self.wake_after(wait.max(RETRY_MIN));
            }
        }
    }

    /// Brings the pod one step nearer to what it asks for. Tells whether nothing failed.
    async fn sync(&mut self) -> bool {
        if let Err(why) = self.runtime() {
            self.event(true, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {why}"));
            self.retry_soon();
            return false;
        }
        if !self.bring_volumes().await {
            return false;
        }
        let actions = actions::compute(&self.pod, &self.observed, &self.probes.results());
        if actions.kill_pod && !actions.create_sandbox {
            self.stage = Stage::Ending;
            self.wake_now();
            return true;
        }
        if actions.create_sandbox && !self.renew_sandbox(&actions).await {
            return false;
        }
        self.kill_some(&actions).await;
        self.start_all(&actions, actions.create_sandbox).await
    }

    async fn bring_volumes(&mut self) -> bool {
        if !self.held.fits(&self.pod) || self.mounted.is_none() {
            let inbox = self.inbox.clone();
            self.held = self.context.references.hold(&self.pod, &self.held, move || inbox.objects_changed());
            if let Err(why) = self.held.synced().await {
                tracing::warn!(pod = pod::long_name(&self.pod), why, "objects of the pod are not known yet");
            }
        }
        if let Some(mounted) = &self.mounted {
            if self.files_stale && !mounted.is_empty() {
                self.files_stale = false;
                for (volume, why) in volumes::refresh(&self.context, &self.pod, &self.held).await {
                    let note = format!("MountVolume.SetUp failed for volume {volume:?} : {why}");
                    self.event(true, "FailedMount", note);
                    self.files_stale = true;
                    self.wake_after(REFRESH_RETRY);
                }
            }
            return true;
        }
        self.context.cgroups.ensure(&self.pod);
        let since = *self.mounting_since.get_or_insert_with(Instant::now);
        match volumes::mount_all(&self.context, &self.pod, &self.held).await {
            Ok(mounted) => {
                self.mounted = Some(mounted);
                self.mounting_since = None;
                self.files_stale = false;
                self.failures = 0;
                true
            }
            Err(failed) => {
                for (volume, error) in &failed {
                    self.event(true, "FailedMount", error.message(volume));
                }
                if since.elapsed() > MOUNT_PATIENCE {
                    let names: Vec<&str> = failed.iter().map(|(name, _)| name.as_str()).collect();
                    let note = format!(
                        "Unable to attach or mount volumes: unmounted volumes=[{}], unattached volumes=[], failed to \
                         process volumes=[]: context deadline exceeded",
                        names.join(" ")
                    );
                    self.event(true, "FailedMount", note);
                    self.mounting_since = None;
                }
                self.retry_soon();
                false
            }
        }
    }

    /// Makes a sandbox, and ends the old one with what runs in it.
    async fn renew_sandbox(&mut self, actions: &Actions) -> bool {
        if !self.observed.sandboxes.is_empty() {
            self.event(false, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.".to_owned());
            if self.observed.any_running()
                && let Ok(runtime) = self.runtime()
            {
                let grace = self.inbox.grace();
                let killer =
                    Killer { context: &self.context, runtime: &runtime, pod: &self.pod, observed: &self.observed };
                killer.all(&grace).await;
                self.look_at_all().await;
            }
            if let Err(why) = self.stop_sandboxes().await {
                self.event(true, "FailedKillPod", format!("error killing pod: {why}"));
                self.retry_soon();
                return false;
            }
        }
        if let Err(why) = self.create_sandbox(actions.sandbox_attempt).await {
            self.event(true, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {why}"));
            self.retry_soon();
            return false;
        }
        true
    }

    async fn kill_some(&mut self, actions: &Actions) {
        let Ok(runtime) = self.runtime() else { return };
        for (id, kill) in &actions.kill {
            let Some(record) = self.observed.by_id(id).cloned() else { continue };
            let killer = Killer { context: &self.context, runtime: &runtime, pod: &self.pod, observed: &self.observed };
            let order = Order { message: &kill.message, reason: kill.reason, grace: None };
            tokio::select! {
                () = killer.one(&record, order, Instant::now()) => {}
                // The pod ends: all is killed anyway, within the time of that.
                () = self.inbox.ending.cancelled() => return,
            }
            self.look_at(id).await;
        }
    }

    async fn start_all(&mut self, actions: &Actions, fresh_sandbox: bool) -> bool {
        let pod = self.pod.clone();
        let mut all = true;
        if !fresh_sandbox {
            for index in &actions.ephemeral_containers {
                if let Some(ephemeral) = pod::ephemeral_containers(&pod).get(*index) {
                    all &= self.start_container(ContainerKind::Ephemeral, &pod::as_container(ephemeral)).await;
                }
            }
        }
        for index in &actions.init_containers {
            let Some(container) = pod::init_containers(&pod).get(*index) else { continue };
            let started = self.start_container(ContainerKind::Init, container).await;
            all &= started;
            if started && pod::is_sidecar(container) {
                // A sidecar does not hold up what comes after it once it runs.
                self.wake_now();
            } else if !started && !pod::is_sidecar(container) {
                return false;
            }
        }
        for index in &actions.containers {
            if let Some(container) = pod::containers(&pod).get(*index) {
                all &= self.start_container(ContainerKind::App, container).await;
            }
        }
        all
    }

    async fn look_at_all(&mut self) {
        let live: Vec<String> = self
            .observed
            .containers
            .iter()
            .filter(|record| !record.has_exited())
            .map(|record| record.id.clone())
            .collect();
        for id in live {
            self.look_at(&id).await;
        }
    }

    /// Of each container the newest instance and the one before it are kept, for `lastState` and `logs --previous`.
    async fn prune(&mut self, name: &str) {
        let old: Vec<ContainerRecord> =
            self.observed.containers.iter().filter(|record| record.name == name).skip(2).cloned().collect();
        for record in old {
            if record.is_running() {
                continue;
            }
            self.remove_container(&record, true).await;
        }
    }

    async fn remove_container(&mut self, record: &ContainerRecord, with_log: bool) -> bool {
        let Ok(runtime) = self.runtime() else { return false };
        match runtime.remove_container(&record.id).await {
            Err(error) if error.code() != ErrorCode::NotFound => {
                tracing::warn!(container = record.id, %error, "container not removed");
                return false;
            }
            _ => {}
        }
        if with_log && let Some(log) = &record.log_path {
            let _ = fs::remove_file(log);
        }
        let link = self.log_link(&record.name, &record.id);
        for file in record.termination_file.iter().chain(&link) {
            let _ = fs::remove_file(file);
        }
        self.failed_starts.remove(&record.id);
        self.registry.remove_container(&record.id);
        self.observed.containers.retain(|known| known.id != record.id);
        true
    }

    /// Ends all that runs of the pod; then it is over.
    async fn end_step(&mut self) {
        self.inbox.ending.cancel();
        self.waiting.retain(|_, waiting| waiting.reason != "CrashLoopBackOff");
        let runtime = match self.runtime() {
            Ok(runtime) => runtime,
            Err(why) if self.observed.sandboxes.is_empty() && self.observed.containers.is_empty() => {
                tracing::debug!(pod = pod::long_name(&self.pod), why, "a pod without a runtime ends");
                self.finish_end().await;
                return;
            }
            Err(why) => {
                self.event(true, "FailedKillPod", format!("error killing pod: {why}"));
                self.retry_soon();
                return;
            }
        };
        self.sync_probes(true);
        if self.observed.any_running() {
            self.publish(false);
        }
        let grace = self.inbox.grace();
        let observed = self.observed.clone();
        let (context, pod) = (self.context.clone(), self.pod.clone());
        let killer = Killer { context: &context, runtime: &runtime, pod: &pod, observed: &observed };
        let all = killer.all(&grace);
        tokio::pin!(all);
        let inbox = self.inbox.clone();
        loop {
            tokio::select! {
                () = &mut all => break,
                // The status follows what exits while others still take their time.
                () = inbox.arrived() => {
                    let mail = inbox.take();
                    self.read(mail).await;
                    self.sync_probes(true);
                    self.publish(false);
                }
            }
        }
        self.probes.stop();
        self.look_at_all().await;
        if let Err(why) = self.stop_sandboxes().await {
            self.event(true, "FailedKillPod", format!("error killing pod: {why}"));
            self.retry_soon();
            return;
        }
        self.look_at_all().await;
        self.finish_end().await;
    }

    async fn finish_end(&mut self) {
        self.publish(true);
        if let Err(why) = volumes::unmount_all(&self.context, &self.uid).await {
            tracing::warn!(pod = pod::long_name(&self.pod), why, "volumes of an ended pod are still there");
            self.event(true, "FailedUnMount", why);
            self.retry_soon();
            return;
        }
        self.mounted = None;
        self.held = Held::default();
        self.context.cgroups.remove(&self.pod);
        if !self.gone {
            self.writer.flush().await;
        }
        self.failures = 0;
        self.stage = Stage::Over;
        self.wake_now();
    }

    /// Waits for the object's end; tells whether nothing is left of the pod.
    async fn over_step(&mut self) -> bool {
        if !self.gone && !pod::is_deleted(&self.pod) {
            return false;
        }
        if !self.gone && !self.delete_object().await {
            self.retry_soon();
            return false;
        }
        self.remove_all().await
    }

    async fn delete_object(&mut self) -> bool {
        let api: Api<Pod> = Api::namespaced(self.context.parts.client.clone(), pod::namespace(&self.pod));
        let precondition = Preconditions { uid: self.pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(precondition), ..DeleteParams::default().grace_period(0) };
        match api.delete(pod::name(&self.pod), &params).await {
            Ok(_) => true,
            Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => true,
            Err(error) => {
                tracing::warn!(pod = pod::long_name(&self.pod), %error, "pod not deleted, will try again");
                false
            }
        }
    }

    async fn remove_all(&mut self) -> bool {
        let mut clean = true;
        if static_pods::is_static(&self.pod) {
            let api: Api<Pod> = Api::namespaced(self.context.parts.client.clone(), pod::namespace(&self.pod));
            // An API server that is away for good must not keep the rest from being removed: orphaned mirrors are
            // found again by the watch.
            if let Err(error) = api.delete(pod::name(&self.pod), &DeleteParams::default().grace_period(0)).await {
                tracing::debug!(pod = pod::long_name(&self.pod), %error, "mirror pod not deleted");
            }
        }
        for record in self.observed.containers.clone() {
            clean &= self.remove_container(&record, false).await;
        }
        if let Ok(runtime) = self.runtime() {
            for sandbox in self.observed.sandboxes.clone() {
                let SandboxRecord { id, .. } = sandbox;
                match runtime.remove_sandbox(&id).await {
                    Err(error) if error.code() != ErrorCode::NotFound => {
                        tracing::warn!(sandbox = id, %error, "sandbox not removed");
                        clean = false;
                    }
                    _ => self.observed.sandboxes.retain(|known| known.id != id),
                }
            }
        }
        let log_dir = self.context.pod_log_dir(&self.pod);
        let folder = self.context.pod_dir(&self.uid);
        let removed = tokio::task::spawn_blocking(move || {
            let _ = fs::remove_dir_all(log_dir);
            volumes::mounts::unmount_and_remove(&folder)
        })
        .await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(pod = pod::long_name(&self.pod), %error, "the pod's folder is still there");
            clean = false;
        }
        if !clean {
            self.retry_soon();
        }
        clean
    }
}

/// A new version of a pod, with the status that the agent found: what the API server sends may be older than that.
/// Conditions of others come from there, and a phase that others ended the pod with.
fn merge(known: &Arc<Pod>, new: Arc<Pod>) -> Arc<Pod> {
    let Some(ours) = known.status.as_ref().filter(|status| status.start_time.is_some()) else { return new };
    let theirs = new.status.clone().unwrap_or_default();
    let mut status = ours.clone();
    let foreign = theirs.conditions.iter().flatten().filter(|condition| !is_own_condition(&condition.type_));
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| is_own_condition(&condition.type_));
    conditions.extend(foreign.cloned());
    if pod::is_terminal_phase(theirs.phase.as_deref().unwrap_or_default()) {
        (status.phase, status.reason, status.message) = (theirs.phase, theirs.reason, theirs.message);
    }
    status.nominated_node_name = theirs.nominated_node_name;
    status.resource_claim_statuses = theirs.resource_claim_statuses;
    let mut pod = (*new).clone();
    pod.status = Some(status);
    Arc::new(pod)
}

fn known_statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    let app = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    init.iter().chain(app)
}
