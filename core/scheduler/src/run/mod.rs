//! The scheduler at work: watches the cluster, asks the [`Engine`], and does what it says.
//!
//! - [`watch`]: what is watched, and how the engine is told
//! - [`bind`]: binding a pod, its volumes first
//! - [`status`]: conditions, nominations, victims

pub mod bind;
pub mod status;
pub mod watch;

use std::sync::Arc;
use std::time::Duration;

use gantry_client::events::{EventType, reference};
use gantry_client::{Client, EventRecorder, Informers, LeaderElection, LeaderElector};
use rand::RngCore;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{ConfigError, SchedulerConfig};
use crate::engine::{Decision, Engine, Placement, Refusal};
use crate::policy::PolicyProvider;
use watch::Watching;

/// How many decisions are made before the scheduler looks at what has changed.
const DECISIONS_AT_ONCE: usize = 64;
/// How often pods for which no event came are looked for.
const FLUSH_EVERY: Duration = Duration::from_secs(30);
/// How many conditions may be written and victims evicted at once.
const REFUSALS_AT_ONCE: usize = 64;
/// The component's name in events and in its lease.
const COMPONENT: &str = "default-scheduler";
/// How long an event's note may be; upstream's limit.
const NOTE_CHARS_MAX: usize = 1024;

/// A scheduler of one cluster.
pub struct Scheduler {
    informers: Informers,
    /// Whether pods that have ended are left out of the watch.
    own_watch: bool,
    config: SchedulerConfig,
    policies: PolicyProvider,
}

/// What a task that was started has to say.
enum Report {
    Bound(Placement, Result<(), String>),
    VictimsTold(Arc<str>),
}

impl Scheduler {
    /// Of a cluster, with watches of its own. Errors when the settings make no sense.
    pub fn new(client: Client, config: SchedulerConfig, policies: PolicyProvider) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self { informers: Informers::new(client), own_watch: true, config, policies })
    }

    /// The same with the informers of the process, so that nothing is watched and kept twice.
    pub fn with_informers(
        informers: Informers,
        config: SchedulerConfig,
        policies: PolicyProvider,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self { informers, own_watch: false, config, policies })
    }

    /// Schedules until it is cancelled; with leader election it first waits to lead, and ends when it doesn't lead
    /// any more.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), ConfigError> {
        if !self.config.leader_election {
            return self.lead(cancel).await;
        }
        let identity = format!("{}_{:016x}", host_name(), rand::rng().next_u64());
        let election =
            LeaderElection { namespace: "kube-system".to_owned(), name: "kube-scheduler".to_owned(), identity };
        let elector = LeaderElector::new(self.informers.client().clone(), election);
        let mut result = Ok(());
        let lost = elector.run(cancel, async |lost| result = self.lead(lost).await).await;
        if lost {
            tracing::warn!("the scheduler's lease is lost");
        }
        result
    }

    async fn lead(&self, cancel: CancellationToken) -> Result<(), ConfigError> {
        let seed = self.config.seed.unwrap_or_else(|| rand::rng().next_u64());
        let mut engine = Engine::new(&self.config, self.policies.clone(), seed)?;
        let client = self.informers.client().clone();
        let instance = format!("{COMPONENT}-{}", host_name());
        let recorder = EventRecorder::events_v1(client.clone(), COMPONENT, &instance);
        let watching = Watching::start(&self.informers, self.own_watch);
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = watching.synced() => {}
        }
        let (reports, mut reported) = mpsc::unbounded_channel();
        let hands = Hands {
            client,
            recorder,
            bindings: Arc::new(Semaphore::new(self.config.bindings_max.max(1))),
            refusals: Arc::new(Semaphore::new(REFUSALS_AT_ONCE)),
            // As many as there are permits, so that it is bounded.
            reports,
            volume_bind_timeout: self.config.volume_bind_timeout(),
        };
        let started = Instant::now();
        let mut flush = tokio::time::interval(FLUSH_EVERY);
        let mut rested = true;
        loop {
            let now_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            for update in watching.take() {
                update(&mut engine, now_ms);
            }
            while let Ok(report) = reported.try_recv() {
                hands.take_report(&mut engine, report, now_ms).await;
            }
            let mut idle = true;
            for _ in 0..DECISIONS_AT_ONCE {
                let Some(decision) = engine.next(now_ms) else { break };
                idle = false;
                for trouble in engine.take_troubles() {
                    let pod = reference(&*trouble.pod);
                    let note = shorten(&trouble.message);
                    hands.recorder.event(&pod, EventType::Warning, trouble.reason, "Scheduling", note);
                }
                tokio::select! {
                    () = cancel.cancelled() => return Ok(()),
                    () = hands.carry_out(decision) => {}
                }
            }
            if !idle {
                rested = false;
                if cancel.is_cancelled() {
                    return Ok(());
                }
                tokio::task::yield_now().await;
                continue;
            }
            let due = engine.queue.next_due_ms().map(|due_ms| started + Duration::from_millis(due_ms));
            let due = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = watching.changed() => {}
                report = reported.recv() => {
                    if let Some(report) = report {
                        let now_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                        hands.take_report(&mut engine, report, now_ms).await;
                    }
                }
                () = due => {}
                _ = flush.tick() => {
                    engine.queue.flush(now_ms);
                    // After half a minute without a pod to place the rankings are only memory.
                    if std::mem::replace(&mut rested, true) {
                        engine.rest();
                    }
                }
            }
        }
    }
}

struct Hands {
    client: Client,
    recorder: EventRecorder,
    bindings: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    reports: mpsc::UnboundedSender<Report>,
    volume_bind_timeout: Duration,
}

impl Hands {
    async fn carry_out(&self, decision: Decision) {
        match decision {
            Decision::Place(placement) => {
                let Ok(permit) = self.bindings.clone().acquire_owned().await else { return };
                let (client, recorder, reports) = (self.client.clone(), self.recorder.clone(), self.reports.clone());
                let timeout = self.volume_bind_timeout;
                tokio::spawn(async move {
                    // Volumes may take minutes to be made: others must not wait for that.
                    let permit = placement.volumes.is_empty().then_some(permit);
                    let result = bind::bind(&client, &placement, timeout).await;
                    if result.is_ok() {
                        let pod = reference(&*placement.pod);
                        let meta = &placement.pod.metadata;
                        let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
                        let note = format!(
                            "Successfully assigned {}/{} to {}",
                            namespace.unwrap_or_default(),
                            name.unwrap_or_default(),
                            placement.node
                        );
                        recorder.event(&pod, EventType::Normal, "Scheduled", "Binding", note);
                    }
                    drop(permit);
                    // Nobody listens any more when the scheduler ends.
                    let _ = reports.send(Report::Bound(placement, result));
                });
            }
            Decision::Refuse(refusal) => self.refuse(refusal).await,
        }
    }

    async fn refuse(&self, refusal: Refusal) {
        let note = shorten(&refusal.message);
        let pod = reference(&*refusal.pod);
        self.recorder.event(&pod, EventType::Warning, "FailedScheduling", "Scheduling", note);
        let Ok(permit) = self.refusals.clone().acquire_owned().await else { return };
        let (client, recorder, reports) = (self.client.clone(), self.recorder.clone(), self.reports.clone());
        tokio::spawn(async move {
            status::refuse(&client, &recorder, &refusal).await;
            drop(permit);
            if !refusal.victims.is_empty() {
                // Nobody listens any more when the scheduler ends.
                let _ = reports.send(Report::VictimsTold(refusal.uid));
            }
        });
    }

    async fn take_report(&self, engine: &mut Engine, report: Report, now_ms: u64) {
        match report {
            Report::VictimsTold(uid) => engine.victims_told(&uid),
            Report::Bound(placement, result) => {
                if let Some(refusal) = engine.binding_ended(&placement, result.err(), now_ms) {
                    self.refuse(refusal).await;
                }
            }
        }
    }
}

/// As long as an event's note may be.
fn shorten(message: &str) -> String {
    match message.char_indices().nth(NOTE_CHARS_MAX) {
        None => message.to_owned(),
        Some(_) => message.chars().take(NOTE_CHARS_MAX - 3).chain("...".chars()).collect(),
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "gantry".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_shortened_as_upstream_does() {
        assert_eq!(shorten("short"), "short");
        assert_eq!(shorten(&"x".repeat(NOTE_CHARS_MAX)).len(), NOTE_CHARS_MAX);
        let long = shorten(&"x".repeat(NOTE_CHARS_MAX + 1));
        assert!(long.len() == NOTE_CHARS_MAX && long.ends_with("x..."));
    }

    /// Callers spawn it; that it may be is checked by the compiler.
    #[allow(dead_code)]
    fn can_be_spawned(scheduler: Scheduler) -> impl Send {
        scheduler.run(CancellationToken::new())
    }
}
