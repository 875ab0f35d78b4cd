//! Ending pods when the node is short of memory, disk or process ids, before the kernel picks for itself (upstream's
//! eviction manager, hard thresholds). Whom it takes is pure.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::quantity::{Format, Quantity as Amount};
use gantry_client::events::reference;
use k8s_openapi::api::core::v1::Pod;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::machine::{self, Free};
use crate::node_status::{Pressure, pressure};
use crate::pod;
use crate::registry::{Entry, Registry};
use crate::resources::pod_requests;

/// How often the agent looks; upstream's.
const CHECK: Duration = Duration::from_secs(10);
/// Pods of at least this priority keep the cluster alive: they are never taken.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// What the node is short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scarce {
    Memory,
    Disk,
    Pids,
}

/// A pod that may be taken.
#[derive(Clone, Debug)]
struct Candidate {
    pod: Arc<Pod>,
    /// What it uses of what is scarce; bytes or processes.
    used: u64,
}

fn requested(candidate: &Candidate, scarce: Scarce) -> u64 {
    let name = match scarce {
        Scarce::Memory => "memory",
        Scarce::Disk => "ephemeral-storage",
        Scarce::Pids => return 0,
    };
    let requests = pod_requests(&candidate.pod);
    requests.get(name).and_then(|amount| u64::try_from(amount.value()).ok()).unwrap_or_default()
}

/// The pod to take: who uses more than it asked for comes first, then the lowest priority, then who is most above.
fn choose(candidates: Vec<Candidate>, scarce: Scarce) -> Option<Candidate> {
    let priority = |candidate: &Candidate| pod::spec(&candidate.pod).priority.unwrap_or_default();
    let mut candidates = candidates;
    candidates
        .retain(|candidate| priority(candidate) < CRITICAL_PRIORITY && !crate::static_pods::is_static(&candidate.pod));
    candidates.into_iter().min_by_key(|candidate| {
        let (used, requested) = (i128::from(candidate.used), i128::from(requested(candidate, scarce)));
        (used <= requested, priority(candidate), Reverse(used - requested))
    })
}

fn scarce(pressure: Pressure) -> Option<Scarce> {
    if pressure.memory {
        Some(Scarce::Memory)
    } else if pressure.disk {
        Some(Scarce::Disk)
    } else if pressure.pid {
        Some(Scarce::Pids)
    } else {
        None
    }
}

fn bytes(value: u64) -> String {
    Amount::with_format(i64::try_from(value).unwrap_or(i64::MAX), Format::BinarySi).to_string()
}

/// The message of the pod's end.
fn message(scarce: Scarce, context: &Context, free: &Free) -> String {
    let limits = &context.config.eviction;
    let (name, threshold, available) = match scarce {
        Scarce::Memory => ("memory", bytes(limits.memory_available_bytes), bytes(free.memory_bytes)),
        Scarce::Disk => {
            let (left, all) = free.storage_bytes;
            ("ephemeral-storage", bytes(all / 100 * limits.node_fs_available_percent), bytes(left))
        }
        Scarce::Pids => {
            let (left, all) = free.pids;
            ("pids", (all / 100 * limits.pid_available_percent).to_string(), left.to_string())
        }
    };
    format!("The node was low on resource: {name}. Threshold quantity: {threshold}, available: {available}. ")
}

async fn usage(entry: &Entry, scarce: Scarce) -> Option<Candidate> {
    let (pod, runtime, containers) = {
        let view = entry.view.read();
        if view.is_over || pod::is_deleted(&view.pod) {
            return None;
        }
        let running = view.observed.containers.iter().filter(|record| record.is_running());
        let ids: Vec<String> = running.map(|record| record.id.clone()).collect();
        (view.pod.clone(), view.runtime.clone()?, ids)
    };
    let mut used = 0;
    for id in containers {
        let Ok(stats) = runtime.stats(&id).await else { continue };
        used += match scarce {
            Scarce::Memory => stats.memory_working_set_bytes,
            Scarce::Disk => stats.rootfs_used_bytes,
            Scarce::Pids => stats.pids,
        };
    }
    Some(Candidate { pod, used })
}

/// Looks now and then, and takes one pod at a time until the node has enough again.
pub async fn run(context: Arc<Context>, registry: Arc<Registry>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(CHECK) => {}
        }
        let free = machine::free(&context.config.root_dir);
        let Some(scarce) = scarce(pressure(&free, &context.config)) else { continue };
        let mut candidates = Vec::new();
        for entry in registry.all() {
            candidates.extend(usage(&entry, scarce).await);
        }
        let Some(victim) = choose(candidates, scarce) else { continue };
        let Some(entry) = registry.get(pod::uid(&victim.pod)) else { continue };
        let message = message(scarce, &context, &free);
        context.parts.recorder.warning(&reference(&*victim.pod), "Evicted", &message);
        tracing::warn!(pod = pod::long_name(&victim.pod), message, "evicting a pod");
        entry.inbox.evict("Evicted", &message, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_takes_more_than_it_asked_for_goes_first_and_the_critical_never() {
        let candidate = |name: &str, priority: i32, request: &str, used: u64| Candidate {
            pod: Arc::new(
                serde_json::from_value(
                    json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": [
                    {"name": "c", "resources": {"requests": {"memory": request}}}]}}),
                )
                .expect("a pod"),
            ),
            used,
        };
        let names = |list: &[(&str, i32, &str, u64)]| {
            let all = list.iter().map(|(name, priority, request, used)| candidate(name, *priority, request, *used));
            choose(all.collect(), Scarce::Memory).map(|chosen| pod::name(&chosen.pod).to_owned())
        };
        let modest = ("modest", 0, "100", 50);
        let greedy = ("greedy", 0, "100", 200);
        let greedier = ("greedier", 0, "100", 300);
        let important = ("important", 10, "0", 900);
        let critical = ("critical", CRITICAL_PRIORITY, "0", 999);
        assert_eq!(names(&[modest, greedy, greedier, important, critical]).as_deref(), Some("greedier"));
        assert_eq!(names(&[modest, important, critical]).as_deref(), Some("important"));
        assert_eq!(names(&[modest, critical]).as_deref(), Some("modest"));
        assert_eq!(names(&[critical]), None);
    }
}
