//! Ending containers: `preStop` hooks, grace periods, sidecars last.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use gantry_plugin_host::Runtime;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::actions::KillReason;
use crate::context::Context;
use crate::hooks::{self, HookTarget};
use crate::observed::{ContainerRecord, Observed};
use crate::pod::{self, ContainerKind, container_reference};

/// A container that is killed for the node's own reasons gets this long at least, to spare it a SIGKILL; upstream's.
const GRACE_MIN: Duration = Duration::from_secs(2);

/// What ends containers of a pod.
pub struct Killer<'a> {
    /// What the agent works with.
    pub context: &'a Context,
    /// The pod's runtime.
    pub runtime: &'a Arc<dyn Runtime>,
    /// The pod.
    pub pod: &'a Pod,
    /// What runs of it.
    pub observed: &'a Observed,
}

/// How a container is killed.
pub struct Order<'a> {
    /// The event's message; empty: upstream's default.
    pub message: &'a str,
    /// What for.
    pub reason: KillReason,
    /// Seconds that the pod's end allows; none: the pod's own grace period, or the probe's.
    pub grace: Option<watch::Receiver<Option<i64>>>,
}

fn grace_of(pod: &Pod, container: Option<&Container>, reason: KillReason) -> Duration {
    let spec = pod::spec(pod);
    let probe = container.and_then(|container| match reason {
        KillReason::StartupProbe => container.startup_probe.as_ref(),
        KillReason::LivenessProbe => container.liveness_probe.as_ref(),
        KillReason::PodEnds | KillReason::Restart => None,
    });
    let seconds = pod
        .metadata
        .deletion_grace_period_seconds
        .or_else(|| probe.and_then(|probe| probe.termination_grace_period_seconds))
        .or(spec.termination_grace_period_seconds)
        .unwrap_or(30);
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

/// The seconds of a pod's end: what was asked for, one at least.
pub fn effective(pod: &Pod, asked: Option<i64>) -> Duration {
    let own = pod::spec(pod).termination_grace_period_seconds.unwrap_or(30);
    Duration::from_secs(u64::try_from(asked.unwrap_or(own).max(1)).unwrap_or(1))
}

impl Killer<'_> {
    /// Ends all that runs: app and ephemeral containers side by side, then sidecars, the last first.
    pub async fn all(&self, grace: &watch::Receiver<Option<i64>>) {
        let running: Vec<&ContainerRecord> =
            self.observed.containers.iter().filter(|record| !record.has_exited()).collect();
        let begun = Instant::now();
        let place = |record: &ContainerRecord| {
            let init = pod::init_containers(self.pod);
            init.iter().position(|container| container.name == record.name && pod::is_sidecar(container))
        };
        let first = running.iter().filter(|record| place(record).is_none());
        join_all(first.map(|record| self.one(record, self.order(grace), begun))).await;
        let mut sidecars: Vec<_> = running.iter().filter_map(|record| Some((place(record)?, *record))).collect();
        sidecars.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
        for (_, record) in sidecars {
            self.one(record, self.order(grace), begun).await;
        }
    }

    fn order(&self, grace: &watch::Receiver<Option<i64>>) -> Order<'static> {
        Order { message: "", reason: KillReason::PodEnds, grace: Some(grace.clone()) }
    }

    /// Ends one container; the time of its grace period counts from `begun`.
    pub async fn one(&self, record: &ContainerRecord, order: Order<'_>, begun: Instant) {
        let found = pod::find_container(self.pod, &record.name);
        let container = found.as_ref().map(|(_, container)| &**container);
        let kind = found.as_ref().map_or(ContainerKind::App, |(kind, _)| *kind);
        let name = &record.name;
        if record.is_running() {
            let about = container_reference(self.pod, kind, name);
            let message =
                if order.message.is_empty() { format!("Stopping container {name}") } else { order.message.to_owned() };
            self.context.parts.recorder.normal(&about, "Killing", message);
        }
        let mut grace = order.grace;
        let pod = self.pod;
        let reason = order.reason;
        let total = move |grace: &Option<watch::Receiver<Option<i64>>>| match grace {
            Some(asked) => effective(pod, *asked.borrow()),
            None => grace_of(pod, container, reason),
        };
        let hook =
            container.and_then(|container| container.lifecycle.as_ref()?.pre_stop.as_ref().map(|h| (container, h)));
        if let (Some((container, handler)), true) = (hook, record.is_running()) {
            let ip = self.observed.sandbox().and_then(|sandbox| sandbox.ips.first().copied());
            let ip = ip.or_else(|| self.context.host_ips().first().copied());
            let target = HookTarget {
                context: self.context,
                runtime: self.runtime,
                pod,
                container,
                container_id: &record.id,
                ip,
            };
            let run = hooks::run(handler, &target);
            tokio::pin!(run);
            loop {
                let left = (begun + total(&grace)).saturating_duration_since(Instant::now());
                tokio::select! {
                    done = &mut run => {
                        if let Err(why) = done {
                            tracing::info!(container = name, pod = pod::long_name(pod), why, "preStop hook failed");
                            let about = container_reference(pod, kind, name);
                            self.context.parts.recorder.warning(&about, "FailedPreStopHook", "PreStopHook failed");
                        }
                        break;
                    }
                    () = tokio::time::sleep(left) => break,
                    () = changed(&mut grace) => {}
                }
            }
        }
        loop {
            let left = (begun + total(&grace)).saturating_duration_since(Instant::now());
            let left = if grace.is_some() { left } else { left.max(GRACE_MIN) };
            let milliseconds = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
            tokio::select! {
                stopped = self.runtime.stop_container(&record.id, milliseconds) => {
                    if let Err(error) = stopped {
                        tracing::warn!(container = record.id, pod = pod::long_name(pod), %error, "container not stopped");
                    }
                    return;
                }
                // A shorter period ends the wait for the longer one.
                () = changed(&mut grace) => {}
            }
        }
    }
}

/// Waits until the grace period changes; for ever when it can't.
async fn changed(grace: &mut Option<watch::Receiver<Option<i64>>>) {
    if let Some(grace) = grace
        && grace.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
