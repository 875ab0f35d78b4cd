//! Asking the runtimes and the kernel what is used.

use std::collections::HashMap;

use futures::StreamExt;
use gantry_plugin_host::contract::runtime::ContainerStats;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::render::{ContainerUsage, NodeUsage, PodUsage, Usage};
use crate::view::AgentView;

/// Runtimes asked at a time.
const ASKED_MAX: usize = 16;

/// The node's memory in bytes, used and recently used, from the text of `/proc/meminfo`: total less free, and that
/// less the page cache that is not in active use, as cAdvisor has it for the root.
fn node_memory(meminfo: &str) -> Option<(u64, u64, u64)> {
    let values: HashMap<&str, u64> = meminfo
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            Some((name, rest.split_whitespace().next()?.parse::<u64>().ok()? << 10))
        })
        .collect();
    let total = *values.get("MemTotal")?;
    let used = total.checked_sub(*values.get("MemFree")?)?;
    Some((total, used, used.saturating_sub(*values.get("Inactive(file)")?)))
}

/// The processor time in nanoseconds of the text of a `cpu.stat`.
fn cpu_nanoseconds(stat: &str) -> Option<u64> {
    let microseconds: u64 = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?.trim().parse().ok()?;
    microseconds.checked_mul(1000)
}

async fn node(view: &dyn AgentView) -> NodeUsage {
    let read = |path: &'static str| async move {
        tokio::fs::read_to_string(path)
            .await
            .inspect_err(|error| tracing::warn!(path, %error, "the node's usage can't be read"))
            .unwrap_or_default()
    };
    let (meminfo, stat) = tokio::join!(read("/proc/meminfo"), read("/sys/fs/cgroup/cpu.stat"));
    NodeUsage {
        name: view.node_name().to_owned(),
        time: Timestamp::now(),
        cpu_nanoseconds: cpu_nanoseconds(&stat),
        memory: node_memory(&meminfo),
    }
}

fn running(pod: &Pod) -> Vec<(String, Option<Timestamp>)> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let started = |status: &ContainerStatus| {
        let running = status.state.as_ref()?.running.as_ref()?;
        Some((status.name.clone(), running.started_at.as_ref().map(|time| time.0)))
    };
    all.into_iter().flatten().flatten().filter_map(started).collect()
}

fn usage_of(stats: &ContainerStats) -> Usage {
    Usage {
        time: Timestamp::from_nanosecond(stats.timestamp.into()).unwrap_or_default(),
        cpu_nanoseconds: stats.cpu_usage_nanoseconds,
        memory_bytes: stats.memory_usage_bytes,
        working_set_bytes: stats.memory_working_set_bytes,
        rss_bytes: stats.memory_rss_bytes,
        page_faults: stats.page_faults,
        major_page_faults: stats.major_page_faults,
    }
}

async fn pod_usage(view: &dyn AgentView, pod: &Pod) -> PodUsage {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let meta = &pod.metadata;
    let (namespace, name) = (text(&meta.namespace), text(&meta.name));
    let mut containers = Vec::new();
    for (container, started) in running(pod) {
        let Ok(location) = view.container(&namespace, &name, &container, false) else { continue };
        match location.runtime.stats(&location.container_id).await {
            Ok(stats) => containers.push(ContainerUsage { name: container, started, usage: usage_of(&stats) }),
            // It may just have exited.
            Err(error) => tracing::debug!(namespace, pod = name, container, %error, "no usage of a container"),
        }
    }
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    PodUsage { namespace, name, uid: text(&meta.uid), started, containers }
}

/// What is used now by the node, and by its pods that run.
pub async fn usage(view: &dyn AgentView) -> (NodeUsage, Vec<PodUsage>) {
    let pods = view.pods();
    let asked: Vec<_> = pods.iter().map(|pod| pod_usage(view, pod)).collect();
    let pods: Vec<PodUsage> = futures::stream::iter(asked).buffered(ASKED_MAX).collect().await;
    (node(view).await, pods.into_iter().filter(|pod| !pod.containers.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts() {
        let meminfo = "MemTotal: 100 kB\nMemFree: 40 kB\nInactive(file): 10 kB\n";
        assert_eq!(node_memory(meminfo), Some((102_400, 61_440, 51_200)));
        assert_eq!(node_memory("MemTotal: 100 kB\n"), None);
        assert_eq!(cpu_nanoseconds("usage_usec 12\nuser_usec 10\n"), Some(12_000));
        assert_eq!(cpu_nanoseconds(""), None);
    }
}
