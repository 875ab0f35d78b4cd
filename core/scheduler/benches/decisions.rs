//! How long a decision takes: pods that wait are placed one after another on a cluster of many nodes, without I/O.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gantry_plugin_host::PluginError;
use gantry_plugin_host::contract::scheduler::{NodeChanges, Pod as PolicyPod, Policy, Row};
use gantry_scheduler::engine::{Decision, Engine};
use gantry_scheduler::{PolicyProvider, SchedulerConfig};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

/// How many pods one run places.
const PODS: usize = 2_000;

/// A policy in this process, so that what is measured is the host's share of a call.
struct Evenly;

impl Policy for Evenly {
    fn name(&self) -> &str {
        "evenly"
    }

    fn reasons(&self) -> Arc<[String]> {
        Arc::new([])
    }

    fn update_nodes(&self, changes: NodeChanges) {
        black_box(changes);
    }

    fn filter_and_score(
        &self,
        _: &PolicyPod<'_>,
        candidates: &[Row],
        scores: &mut Vec<i64>,
    ) -> Result<(), PluginError> {
        scores.clear();
        scores.extend(candidates.iter().map(|row| i64::from(row % 7)));
        Ok(())
    }
}

fn node(at: usize) -> Node {
    let name = format!("node-{at}");
    let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", at % 3)});
    let allocatable = json!({"cpu": "32", "memory": "256Gi", "pods": "110"});
    let node = json!({"metadata": {"name": name, "labels": labels}, "status": {"allocatable": allocatable}});
    serde_json::from_value(node).expect("a node")
}

fn pod(at: usize, profile: &str, app: &str, extra: &Value) -> Arc<Pod> {
    let name = format!("pod-{at}");
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": app}},
        "spec": {"schedulerName": profile, "containers": [{"name": "c", "image": "example.com/app:1",
            "resources": {"requests": {"cpu": "100m", "memory": "200Mi"}}}]},
    });
    if let (Some(spec), Some(extra)) = (pod["spec"].as_object_mut(), extra.as_object()) {
        spec.extend(extra.clone());
    }
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn pods(kind: &str) -> Vec<Arc<Pod>> {
    let of = |at: usize| match kind {
        "zone-spread" => {
            let constraint = json!([{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "a"}}}]);
            pod(at, "default-scheduler", "a", &json!({"topologySpreadConstraints": constraint}))
        }
        "host-anti-affinity" => {
            let app = format!("group-{}", at % 100);
            let term =
                json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}}]);
            let far = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}});
            pod(at, "default-scheduler", &app, &json!({"affinity": far}))
        }
        "policy" => pod(at, "bin-pack", "a", &json!({})),
        _ => pod(at, "default-scheduler", "a", &json!({})),
    };
    (0..PODS).map(of).collect()
}

fn engine(nodes: &[Node]) -> Engine {
    let provider: PolicyProvider = Arc::new(|_| Ok(Arc::new(Evenly)));
    let mut engine = Engine::new(&SchedulerConfig::default(), provider, 1).expect("the defaults make sense");
    nodes.iter().for_each(|node| engine.apply_node(node, 0));
    engine
}

fn decisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decisions");
    group.throughput(Throughput::Elements(PODS as u64)).sample_size(10);
    for size in [1_000, 5_000] {
        let nodes: Vec<Node> = (0..size).map(node).collect();
        for kind in ["plain", "zone-spread", "host-anti-affinity", "policy"] {
            let pods = pods(kind);
            group.bench_function(BenchmarkId::new(kind, size), |bencher| {
                bencher.iter_batched(
                    || engine(&nodes),
                    |mut engine| {
                        for pod in &pods {
                            engine.apply_pod(pod.clone(), 0);
                        }
                        let mut placed = 0;
                        while let Some(Decision::Place(placement)) = engine.next(0) {
                            engine.binding_ended(&placement, None, 0);
                            placed += 1;
                        }
                        assert_eq!(placed, PODS);
                        engine
                    },
                    BatchSize::LargeInput,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
