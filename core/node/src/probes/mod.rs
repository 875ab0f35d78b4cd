//! Probes: each runs in a task of its own as long as its container does, and tells the pod's worker what changes.

pub mod grpc;
pub mod http;
mod tally;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use gantry_plugin_host::Runtime;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::actions::{ProbeResult, ProbeResults, Probed};
use crate::context::Context;
use crate::exec::{self, CommandEnd};
use crate::observed::Observed;
use crate::pod::{self, ContainerKind, container_reference, go_duration, resolve_port};

use tally::Tally;

/// Who asks, to programs that look at it.
pub const USER_AGENT: &str = "kube-probe/1.36";
/// How often a probe that could not be run is tried at once; upstream's.
const TRIES: u32 = 3;

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is well.
    Success {
        /// What it said.
        output: String,
        /// Something to look at all the same.
        warning: Option<String>,
    },
    /// It is not.
    Failure(String),
    /// The probe could not be run; it says nothing.
    Error(String),
}

/// Which probe of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// Until it succeeds, the others wait.
    Startup,
    /// Its failure restarts the container.
    Liveness,
    /// Its failure takes the pod out of services.
    Readiness,
}

impl ProbeKind {
    fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// What a probe is of.
struct Target {
    context: Arc<Context>,
    runtime: Arc<dyn Runtime>,
    pod: Arc<Pod>,
    kind: ContainerKind,
    container: Container,
    container_id: String,
    ip: Option<IpAddr>,
    started_at: Timestamp,
}

/// The probes of a pod.
#[derive(Default)]
pub struct Probes {
    results: Arc<Mutex<Probed>>,
    running: HashMap<(String, ProbeKind), AbortOnDropHandle<()>>,
    started: HashMap<String, watch::Sender<bool>>,
}

impl Probes {
    /// What they say.
    pub fn results(&self) -> Probed {
        self.results.lock().clone()
    }

    /// What is known of a container that ran before the agent did.
    pub fn seed(&mut self, container_id: &str, started: bool, ready: bool) {
        let result = |holds: bool| if holds { ProbeResult::Success } else { ProbeResult::Unknown };
        let known = ProbeResults { startup: result(started), readiness: result(ready), liveness: ProbeResult::Unknown };
        self.results.lock().insert(container_id.to_owned(), known);
    }

    /// Starts the probes of containers that run and stops those of others. `changed` is called with every change.
    /// With `only_readiness` (the pod ends) nothing is restarted any more.
    pub fn sync(
        &mut self,
        context: &Arc<Context>,
        runtime: &Arc<dyn Runtime>,
        pod: &Arc<Pod>,
        observed: &Observed,
        only_readiness: bool,
        changed: impl Fn() + Clone + Send + Sync + 'static,
    ) {
        let ip = if pod::host_network(pod) {
            context.host_ips().first().copied()
        } else {
            observed.sandbox().and_then(|sandbox| sandbox.ips.first().copied())
        };
        let mut live: Vec<String> = Vec::new();
        for (kind, container) in pod::all_containers(pod) {
            let sidecar = kind == ContainerKind::Init && pod::is_sidecar(&container);
            if kind != ContainerKind::App && !sidecar {
                continue;
            }
            let Some(record) = observed.newest(&container.name).filter(|record| record.is_running()) else { continue };
            live.push(record.id.clone());
            let known = self.results.lock().get(&record.id).copied().unwrap_or_default();
            let has_started = container.startup_probe.is_none() || known.startup == ProbeResult::Success;
            let started = self.started.entry(record.id.clone()).or_insert_with(|| watch::Sender::new(has_started));
            for probe_kind in [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness] {
                let slot = (record.id.clone(), probe_kind);
                let Some(probe) = probe_kind.of(&container) else { continue };
                if probe_kind == ProbeKind::Startup && has_started {
                    continue;
                }
                if only_readiness && probe_kind != ProbeKind::Readiness {
                    self.running.remove(&slot);
                    continue;
                }
                if self.running.contains_key(&slot) {
                    continue;
                }
                let target = Target {
                    context: context.clone(),
                    runtime: runtime.clone(),
                    pod: pod.clone(),
                    kind,
                    container: container.clone().into_owned(),
                    container_id: record.id.clone(),
                    ip,
                    started_at: record.started_at.unwrap_or_else(Timestamp::now),
                };
                let follow =
                    follow(target, probe_kind, probe.clone(), self.results.clone(), started.clone(), changed.clone());
                self.running.insert(slot, AbortOnDropHandle::new(tokio::spawn(follow)));
            }
        }
        self.running.retain(|(id, _), _| live.contains(id));
        self.started.retain(|id, _| live.contains(id));
        self.results.lock().retain(|id, _| live.contains(id));
    }

    /// Ends all probes.
    pub fn stop(&mut self) {
        self.running.clear();
        self.started.clear();
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).filter(|v| *v > 0).unwrap_or(default))
}

async fn follow(
    target: Target,
    kind: ProbeKind,
    probe: Probe,
    results: Arc<Mutex<Probed>>,
    started: watch::Sender<bool>,
    changed: impl Fn(),
) {
    let period = seconds(probe.period_seconds, 10);
    let age = Duration::try_from(Timestamp::now().duration_since(target.started_at)).unwrap_or_default();
    let delay = seconds(probe.initial_delay_seconds, 0);
    if let Some(wait) = delay.checked_sub(age) {
        tokio::time::sleep(wait).await;
    } else if target.context.started.elapsed() < period {
        // An agent that finds many containers spreads their probes.
        tokio::time::sleep(period.mul_f64(rand::random::<f64>())).await;
    }
    if kind != ProbeKind::Startup && started.subscribe().wait_for(|started| *started).await.is_err() {
        return;
    }
    let threshold = |value: Option<i32>, default: u32| {
        value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
    };
    let mut tally = Tally::new(threshold(probe.success_threshold, 1), threshold(probe.failure_threshold, 3));
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let outcome = probe_with_retries(&target, &probe).await;
        report(&target, kind, &outcome);
        let Some(result) = tally.count(&outcome) else { continue };
        let differs = {
            let mut results = results.lock();
            let slot: &mut ProbeResults = results.entry(target.container_id.clone()).or_default();
            let field = match kind {
                ProbeKind::Startup => &mut slot.startup,
                ProbeKind::Liveness => &mut slot.liveness,
                ProbeKind::Readiness => &mut slot.readiness,
            };
            std::mem::replace(field, result) != result
        };
        if kind == ProbeKind::Startup && result == ProbeResult::Success {
            started.send_replace(true);
        }
        if differs {
            changed();
        }
        // A container that failed is replaced; the new one gets probes of its own.
        let done = match kind {
            ProbeKind::Startup => true,
            ProbeKind::Liveness => result == ProbeResult::Failure,
            ProbeKind::Readiness => false,
        };
        if done {
            return;
        }
    }
}

fn report(target: &Target, kind: ProbeKind, outcome: &Outcome) {
    let about = container_reference(&target.pod, target.kind, &target.container.name);
    let recorder = &target.context.parts.recorder;
    let word = kind.word();
    match outcome {
        Outcome::Success { warning: None, .. } => {}
        Outcome::Success { warning: Some(text), .. } => {
            recorder.warning(&about, "ProbeWarning", format!("{word} probe warning: {text}"));
        }
        Outcome::Failure(text) => recorder.warning(&about, "Unhealthy", format!("{word} probe failed: {text}")),
        Outcome::Error(text) => {
            let note = format!("{word} probe errored and resulted in unknown state: {text}");
            recorder.warning(&about, "Unhealthy", note);
        }
    }
}

async fn probe_with_retries(target: &Target, probe: &Probe) -> Outcome {
    let mut last = Outcome::Error(String::new());
    for _ in 0..TRIES {
        last = run(target, probe).await;
        if !matches!(last, Outcome::Error(_)) {
            break;
        }
    }
    last
}

async fn run(target: &Target, probe: &Probe) -> Outcome {
    let timeout = seconds(probe.timeout_seconds, 1);
    if let Some(action) = &probe.exec {
        let command: Vec<String> =
            action.command.iter().flatten().map(|text| crate::env::expand(text, |_| None)).collect();
        let io = &target.context.parts.io;
        return match exec::run(&target.runtime, io, &target.container_id, &command, timeout).await {
            CommandEnd::Exited { code: 0, output } => Outcome::Success { output, warning: None },
            CommandEnd::Exited { output, .. } => Outcome::Failure(output),
            CommandEnd::TimedOut => Outcome::Failure(format!(
                "command timed out: {:?} timed out after {}",
                command.join(" "),
                go_duration(timeout)
            )),
            CommandEnd::Failed(why) => Outcome::Error(why),
        };
    }
    if let Some(action) = &probe.http_get {
        let url = match http::url(action, &target.container, target.ip) {
            Ok(url) => url,
            Err(why) => return Outcome::Error(why),
        };
        return match http::get(action, &url, USER_AGENT, timeout).await {
            Err(text) => Outcome::Failure(text),
            Ok(answer) => match answer.status {
                200..300 => Outcome::Success { output: answer.body, warning: None },
                300..400 => Outcome::Success {
                    output: answer.body.clone(),
                    warning: Some(format!("Probe terminated redirects, Response body: {}", answer.body)),
                },
                code => Outcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
            },
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let port = match resolve_port(&action.port, &target.container) {
            Ok(port) => port,
            Err(why) => return Outcome::Error(why),
        };
        let host = action.host.clone().filter(|host| !host.is_empty());
        let Some(host) = host.or_else(|| target.ip.map(|ip| ip.to_string())) else {
            return Outcome::Error("the pod has no address".to_owned());
        };
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        return match tokio::time::timeout(timeout, TcpStream::connect(&address)).await {
            Ok(Ok(_)) => Outcome::Success { output: String::new(), warning: None },
            Ok(Err(error)) => Outcome::Failure(match error.raw_os_error() {
                Some(code) => http::dial_error(&address, code),
                None => format!("dial tcp {address}: {error}"),
            }),
            Err(_) => Outcome::Failure(format!("dial tcp {address}: i/o timeout")),
        };
    }
    if let Some(action) = &probe.grpc {
        let (Some(ip), Ok(port)) = (target.ip, u16::try_from(action.port)) else {
            return Outcome::Error(format!("invalid gRPC port {}", action.port));
        };
        return grpc::check(SocketAddr::new(ip, port), action.service.as_deref().unwrap_or_default(), timeout).await;
    }
    Outcome::Error("missing probe handler".to_owned())
}
