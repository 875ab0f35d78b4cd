//! The answers about usage, from what was found.

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::{Value, json};

/// What something uses.
#[derive(Clone, Debug)]
pub struct Usage {
    pub time: Timestamp,
    /// Since it started.
    pub cpu_nanoseconds: u64,
    pub memory_bytes: u64,
    pub working_set_bytes: u64,
    pub rss_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
}

/// What a container uses.
#[derive(Clone, Debug)]
pub struct ContainerUsage {
    pub name: String,
    pub started: Option<Timestamp>,
    pub usage: Usage,
}

/// What a pod's containers use.
#[derive(Clone, Debug)]
pub struct PodUsage {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub started: Option<Timestamp>,
    pub containers: Vec<ContainerUsage>,
}

/// What the node uses.
#[derive(Clone, Debug)]
pub struct NodeUsage {
    pub name: String,
    pub time: Timestamp,
    pub cpu_nanoseconds: Option<u64>,
    /// Bytes there are, in use, and in recent use.
    pub memory: Option<(u64, u64, u64)>,
}

/// The API has times in whole seconds.
fn seconds(time: Timestamp) -> String {
    format!("{time:.0}")
}

fn pod_sum(pod: &PodUsage, value: impl Fn(&Usage) -> u64) -> u64 {
    pod.containers.iter().map(|container| value(&container.usage)).sum()
}

fn container(container: &ContainerUsage) -> Value {
    let usage = &container.usage;
    json!({
        "name": container.name,
        "startTime": container.started.map(seconds),
        "cpu": {"time": seconds(usage.time), "usageCoreNanoSeconds": usage.cpu_nanoseconds},
        "memory": {
            "time": seconds(usage.time), "usageBytes": usage.memory_bytes, "workingSetBytes": usage.working_set_bytes,
            "rssBytes": usage.rss_bytes, "pageFaults": usage.page_faults, "majorPageFaults": usage.major_page_faults,
        },
    })
}

fn pod(pod: &PodUsage) -> Value {
    let time = pod.containers.iter().map(|container| container.usage.time).max().unwrap_or_default();
    json!({
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "startTime": pod.started.map(seconds),
        "containers": pod.containers.iter().map(container).collect::<Vec<_>>(),
        "cpu": {"time": seconds(time), "usageCoreNanoSeconds": pod_sum(pod, |usage| usage.cpu_nanoseconds)},
        "memory": {
            "time": seconds(time),
            "usageBytes": pod_sum(pod, |usage| usage.memory_bytes),
            "workingSetBytes": pod_sum(pod, |usage| usage.working_set_bytes),
            "rssBytes": pod_sum(pod, |usage| usage.rss_bytes),
        },
    })
}

/// A Summary of the kubelet's stats API.
pub fn summary((node, pods): &(NodeUsage, Vec<PodUsage>)) -> Value {
    let mut memory = json!({"time": seconds(node.time)});
    if let Some((total, used, working_set)) = node.memory {
        memory["usageBytes"] = used.into();
        memory["workingSetBytes"] = working_set.into();
        memory["availableBytes"] = total.saturating_sub(working_set).into();
    }
    json!({
        "node": {
            "nodeName": node.name,
            "cpu": {"time": seconds(node.time), "usageCoreNanoSeconds": node.cpu_nanoseconds},
            "memory": memory,
        },
        "pods": pods.iter().map(pod).collect::<Vec<_>>(),
    })
}

/// The metrics of `/metrics/resource`. Names of Kubernetes need no escaping in labels.
pub fn metrics((node, pods): &(NodeUsage, Vec<PodUsage>)) -> String {
    let mut families: [(&str, &str, String); 7] = [
        ("container_cpu_usage_seconds_total", "counter", String::new()),
        ("container_memory_working_set_bytes", "gauge", String::new()),
        ("container_start_time_seconds", "gauge", String::new()),
        ("node_cpu_usage_seconds_total", "counter", String::new()),
        ("node_memory_working_set_bytes", "gauge", String::new()),
        ("pod_cpu_usage_seconds_total", "counter", String::new()),
        ("pod_memory_working_set_bytes", "gauge", String::new()),
    ];
    let mut add = |family: usize, labels: &str, value: f64, time: Timestamp| {
        let (name, _, lines) = &mut families[family];
        // Writing to a string does not fail.
        let _ = writeln!(lines, "{name}{labels} {value} {}", time.as_millisecond());
    };
    let cpu = |nanoseconds: u64| nanoseconds as f64 / 1e9;
    if let Some(nanoseconds) = node.cpu_nanoseconds {
        add(3, "", cpu(nanoseconds), node.time);
    }
    if let Some((_, _, working_set)) = node.memory {
        add(4, "", working_set as f64, node.time);
    }
    for pod in pods {
        let of = format!("namespace=\"{}\",pod=\"{}\"", pod.namespace, pod.name);
        for container in &pod.containers {
            let labels = format!("{{container=\"{}\",{of}}}", container.name);
            let usage = &container.usage;
            add(0, &labels, cpu(usage.cpu_nanoseconds), usage.time);
            add(1, &labels, usage.working_set_bytes as f64, usage.time);
            if let Some(started) = container.started {
                add(2, &labels, started.as_millisecond() as f64 / 1e3, usage.time);
            }
        }
        let time = pod.containers.iter().map(|container| container.usage.time).max().unwrap_or_default();
        let labels = format!("{{{of}}}");
        add(5, &labels, cpu(pod_sum(pod, |usage| usage.cpu_nanoseconds)), time);
        add(6, &labels, pod_sum(pod, |usage| usage.working_set_bytes) as f64, time);
    }
    let mut text = String::new();
    for (name, kind, lines) in families.iter().filter(|(_, _, lines)| !lines.is_empty()) {
        let _ = write!(text, "# TYPE {name} {kind}\n{lines}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage() -> (NodeUsage, Vec<PodUsage>) {
        let time: Timestamp = "2026-01-01T00:00:01.5Z".parse().expect("a time");
        let usage = Usage {
            time,
            cpu_nanoseconds: 1_500_000_000,
            memory_bytes: 30,
            working_set_bytes: 20,
            rss_bytes: 10,
            page_faults: 1,
            major_page_faults: 0,
        };
        let container = |name: &str| ContainerUsage { name: name.into(), started: Some(time), usage: usage.clone() };
        let pod = PodUsage {
            namespace: "ns".into(),
            name: "p".into(),
            uid: "u".into(),
            started: Some(time),
            containers: vec![container("a"), container("b")],
        };
        let node = NodeUsage { name: "n".into(), time, cpu_nanoseconds: None, memory: Some((100, 60, 50)) };
        (node, vec![pod])
    }

    #[test]
    fn summaries() {
        let summary = summary(&usage());
        assert_eq!(summary["node"]["memory"]["availableBytes"], 50);
        let pod = &summary["pods"][0];
        assert_eq!(pod["podRef"], json!({"name": "p", "namespace": "ns", "uid": "u"}));
        assert_eq!(pod["cpu"]["usageCoreNanoSeconds"], 3_000_000_000_u64);
        assert_eq!(pod["memory"]["workingSetBytes"], 40);
        assert_eq!(pod["containers"][1]["startTime"], "2026-01-01T00:00:01Z");
    }

    #[test]
    fn metrics_of_pods() {
        let text = metrics(&usage());
        for line in [
            "# TYPE container_cpu_usage_seconds_total counter",
            "container_cpu_usage_seconds_total{container=\"a\",namespace=\"ns\",pod=\"p\"} 1.5 1767225601500",
            "node_memory_working_set_bytes 50 1767225601500",
            "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"p\"} 40 1767225601500",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(!text.contains("node_cpu"), "{text}");
    }
}
