//! Generated clusters under a seeded generator, against an oracle that looks at the API objects by brute force; and the
//! properties that must hold whatever happens.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::decision_tests::{engine, node, pod};
use crate::engine::{Decision, Engine};
use crate::resources::ResourceId;

const ZONES: [&str; 3] = ["a", "b", "c"];
const APPS: [&str; 3] = ["x", "y", "z"];

fn any_node(random: &mut StdRng, at: usize) -> Node {
    let taints = if random.random_bool(0.2) {
        json!([{"key": "k", "value": "v", "effect": (["NoSchedule", "PreferNoSchedule"][random.random_range(0..2)])}])
    } else {
        json!([])
    };
    let mut labels = BTreeMap::from([("kubernetes.io/hostname".to_owned(), format!("n{at}"))]);
    if random.random_bool(0.9) {
        labels.insert("topology.kubernetes.io/zone".to_owned(), ZONES[random.random_range(0..3)].to_owned());
    }
    let cpu = format!("{}", random.random_range(1..5));
    node(
        &format!("n{at}"),
        json!({
            "metadata": {"labels": labels},
            "spec": {"taints": taints, "unschedulable": random.random_bool(0.1)},
            "status": {"allocatable": {"cpu": cpu, "pods": "6"}},
        }),
    )
}

fn any_pod(random: &mut StdRng, at: usize) -> Arc<Pod> {
    let app = APPS[random.random_range(0..3)];
    let mut spec = json!({
        "containers": [{"name": "c", "resources": {"requests": {
            "cpu": format!("{}m", random.random_range(0..8) * 100), "memory": "64Mi"}}}],
    });
    if random.random_bool(0.3) {
        spec["tolerations"] = json!([{"key": "k", "operator": "Exists"}]);
    }
    if random.random_bool(0.2) {
        spec["nodeSelector"] = json!({"topology.kubernetes.io/zone": (ZONES[random.random_range(0..3)])});
    }
    if random.random_bool(0.2) {
        spec["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 8000 + random.random_range(0..2)}]);
    }
    let key = ["kubernetes.io/hostname", "topology.kubernetes.io/zone"][random.random_range(0..2)];
    let selector = json!({"matchLabels": {"app": app}});
    match random.random_range(0..6) {
        0 => {
            spec["topologySpreadConstraints"] = json!([{"maxSkew": random.random_range(1..3), "topologyKey": key,
                "whenUnsatisfiable": (["DoNotSchedule", "ScheduleAnyway"][random.random_range(0..2)]),
                "labelSelector": selector}]);
        }
        1 => {
            let term = json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": (APPS[random.random_range(0..3)])}}});
            let kind = ["podAffinity", "podAntiAffinity"][random.random_range(0..2)];
            spec["affinity"] = json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        }
        2 => {
            let term = json!({"topologyKey": key, "labelSelector": selector});
            let kind = ["podAffinity", "podAntiAffinity"][random.random_range(0..2)];
            spec["affinity"] = json!({kind: {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": random.random_range(1..100), "podAffinityTerm": term}]}});
        }
        _ => {}
    }
    pod(&format!("p{at}"), json!({"metadata": {"labels": {"app": app}}, "spec": spec}))
}

/// What the oracle sees: API objects, as JSON.
struct World {
    nodes: Vec<Value>,
    /// Pods and the name of their node.
    placed: Vec<(Value, String)>,
}

fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["labels"][key].as_str()
}

fn list<'a>(value: &'a Value, path: &[&str]) -> Vec<&'a Value> {
    let mut value = value;
    for key in path {
        value = &value[*key];
    }
    value.as_array().into_iter().flatten().collect()
}

fn selected(selector: &Value, pod: &Value) -> bool {
    selector["matchLabels"].as_object().into_iter().flatten().all(|(key, value)| label(pod, key) == value.as_str())
}

fn milli(pod: &Value) -> i64 {
    let text = pod["spec"]["containers"][0]["resources"]["requests"]["cpu"].as_str().unwrap_or("0");
    text.strip_suffix('m').map_or_else(|| text.parse::<i64>().unwrap_or(0) * 1000, |text| text.parse().unwrap_or(0))
}

fn ports(pod: &Value) -> Vec<i64> {
    list(pod, &["spec", "containers"])
        .iter()
        .flat_map(|one| list(one, &["ports"]))
        .filter_map(|port| port["hostPort"].as_i64())
        .collect()
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

impl World {
    fn node(&self, name: &str) -> Option<&Value> {
        self.nodes.iter().find(|node| node["metadata"]["name"] == name)
    }

    fn fits_by_itself(&self, pod: &Value, node: &Value) -> bool {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let here: Vec<&Value> = self.placed.iter().filter(|(_, on)| on == name).map(|(pod, _)| pod).collect();
        let tolerates = !list(pod, &["spec", "tolerations"]).is_empty();
        let hard = list(node, &["spec", "taints"]).iter().any(|taint| taint["effect"] == "NoSchedule");
        let selector = pod["spec"]["nodeSelector"].as_object();
        let cpu = node["status"]["allocatable"]["cpu"].as_str().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
        let used: i64 = here.iter().map(|pod| milli(pod)).sum();
        node["spec"]["unschedulable"] != true
            && (tolerates || !hard)
            && selector.into_iter().flatten().all(|(key, value)| label(node, key) == value.as_str())
            && here.len() < 6
            && (milli(pod) == 0 || used + milli(pod) <= cpu * 1000)
            && !here.iter().any(|other| ports(other).iter().any(|port| ports(pod).contains(port)))
    }

    /// Pods that a selector picks in the domain of a node.
    fn near(&self, key: &str, value: &str, selector: &Value) -> usize {
        let inside = |on: &str| self.node(on).is_some_and(|node| label(node, key) == Some(value));
        self.placed.iter().filter(|(pod, on)| inside(on) && selected(selector, pod)).count()
    }

    fn fits(&self, pod: &Value, node: &Value) -> bool {
        self.fits_by_itself(pod, node) && self.spreads(pod, node) && self.affine(pod, node)
    }

    fn spreads(&self, pod: &Value, node: &Value) -> bool {
        list(pod, &["spec", "topologySpreadConstraints"]).iter().all(|constraint| {
            if constraint["whenUnsatisfiable"] != "DoNotSchedule" {
                return true;
            }
            let key = constraint["topologyKey"].as_str().unwrap_or_default();
            let Some(value) = label(node, key) else { return false };
            let wanted = pod["spec"]["nodeSelector"].as_object();
            let eligible = self
                .nodes
                .iter()
                .filter(|node| wanted.into_iter().flatten().all(|(key, value)| label(node, key) == value.as_str()));
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for eligible in eligible {
                let Some(domain) = label(eligible, key) else { continue };
                let name = eligible["metadata"]["name"].as_str().unwrap_or_default();
                let here = self.placed.iter().filter(|(_, on)| on == name);
                let count = here.filter(|(pod, _)| selected(&constraint["labelSelector"], pod)).count();
                *counts.entry(domain).or_default() += count;
            }
            let least = counts.values().min().copied().unwrap_or(usize::MAX) as i64;
            let here = counts.get(value).copied().unwrap_or(0) as i64;
            let own = i64::from(selected(&constraint["labelSelector"], pod));
            here + own - least <= constraint["maxSkew"].as_i64().unwrap_or(0)
        })
    }

    fn affine(&self, pod: &Value, node: &Value) -> bool {
        let near = list(pod, &["spec", "affinity", "podAffinity", REQUIRED]);
        let near_ok = near.iter().all(|term| {
            let key = term["topologyKey"].as_str().unwrap_or_default();
            let Some(value) = label(node, key) else { return false };
            let nowhere = !self.placed.iter().any(|(other, on)| {
                selected(&term["labelSelector"], other) && self.node(on).is_some_and(|node| label(node, key).is_some())
            });
            self.near(key, value, &term["labelSelector"]) > 0 || (nowhere && selected(&term["labelSelector"], pod))
        });
        let far_ok = list(pod, &["spec", "affinity", "podAntiAffinity", REQUIRED]).iter().all(|term| {
            let key = term["topologyKey"].as_str().unwrap_or_default();
            label(node, key).is_none_or(|value| self.near(key, value, &term["labelSelector"]) == 0)
        });
        let others_ok = self.placed.iter().all(|(other, on)| {
            list(other, &["spec", "affinity", "podAntiAffinity", REQUIRED]).iter().all(|term| {
                let key = term["topologyKey"].as_str().unwrap_or_default();
                let there = self.node(on).and_then(|node| label(node, key));
                !(selected(&term["labelSelector"], pod) && there.is_some() && there == label(node, key))
            })
        });
        near_ok && far_ok && others_ok
    }
}

fn overcommitted(cluster: &Cluster) -> Option<String> {
    cluster.rows().find_map(|(row, _)| {
        let over = |resource| cluster.requested(resource, row) > cluster.allocatable(resource, row);
        (over(ResourceId::CPU) || over(ResourceId::MEMORY) || over(ResourceId::PODS))
            .then(|| cluster.name(row).to_owned())
    })
}

fn json_of<T: serde::Serialize>(object: &T) -> Value {
    serde_json::to_value(object).expect("JSON")
}

/// Steps of a cluster's life; each decision is compared with the oracle's.
fn live(seed: u64, steps: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut engine: Engine = engine();
    let mut world = World { nodes: Vec::new(), placed: Vec::new() };
    for at in 0..random.random_range(1..9) {
        let node = any_node(&mut random, at);
        engine.apply_node(&node, 0);
        world.nodes.push(json_of(&node));
    }
    for step in 0..steps {
        match random.random_range(0..10) {
            0 if !world.placed.is_empty() => {
                let (gone, _) = world.placed.swap_remove(random.random_range(0..world.placed.len()));
                engine.remove_pod(gone["metadata"]["uid"].as_str().unwrap_or_default(), 0);
            }
            1 => {
                let at = random.random_range(0..world.nodes.len());
                let name = world.nodes[at]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                // A node may shrink below what runs on it: that is not the scheduler's doing.
                if !world.placed.iter().any(|(_, on)| *on == name) {
                    let number = name.trim_start_matches('n').parse().unwrap_or(0);
                    let node = any_node(&mut random, number);
                    engine.apply_node(&node, 0);
                    world.nodes[at] = json_of(&node);
                }
            }
            _ => {}
        }
        let pod = any_pod(&mut random, step);
        let value = json_of(&*pod);
        engine.apply_pod(pod.clone(), 0);
        let fitting: Vec<&str> = world
            .nodes
            .iter()
            .filter(|node| world.fits(&value, node))
            .filter_map(|node| node["metadata"]["name"].as_str())
            .collect();
        match engine.next(0) {
            Some(Decision::Place(placement)) => {
                assert!(
                    fitting.contains(&placement.node.as_str()),
                    "seed {seed} step {step}: {} for {value}, of {fitting:?}",
                    placement.node
                );
                if random.random_bool(0.1) {
                    engine.binding_ended(&placement, Some("no".to_owned()), 0);
                    engine.remove_pod(&placement.uid, 0);
                } else {
                    engine.binding_ended(&placement, None, 0);
                    let mut bound = (*pod).clone();
                    if let Some(spec) = &mut bound.spec {
                        spec.node_name = Some(placement.node.clone());
                    }
                    engine.apply_pod(Arc::new(bound), 0);
                    world.placed.push((value, placement.node));
                }
            }
            Some(Decision::Refuse(refusal)) => {
                assert!(
                    fitting.is_empty(),
                    "seed {seed} step {step}: {} though {fitting:?} fit {value}",
                    refusal.message
                );
                engine.remove_pod(&refusal.uid, 0);
            }
            None => panic!("seed {seed} step {step}: the pod was not looked at"),
        }
        assert_eq!(overcommitted(&engine.cluster), None, "seed {seed} step {step}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn decisions_are_the_oracles(seed in any::<u64>()) {
        live(seed, 40);
    }

    #[test]
    fn what_was_assumed_and_forgotten_leaves_no_trace(seed in any::<u64>()) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut cluster = Cluster::default();
        for at in 0..3 {
            cluster.apply_node(&any_node(&mut random, at));
        }
        let amounts = |cluster: &Cluster| {
            (0..3)
                .map(|row| {
                    let of = |resource| cluster.requested(resource, row);
                    (of(ResourceId::CPU), of(ResourceId::MEMORY), of(ResourceId::PODS), cluster.scored(row), cluster.shapes_on(row).len())
                })
                .collect::<Vec<_>>()
        };
        for at in 0..5 {
            cluster.place_pod(any_pod(&mut random, at), &format!("n{}", at % 3), false);
        }
        let before = (amounts(&cluster), cluster.shapes.len(), cluster.pod_count());
        let assumed: Vec<Arc<Pod>> = (5..12).map(|at| any_pod(&mut random, at)).collect();
        for pod in &assumed {
            cluster.place_pod(pod.clone(), &format!("n{}", random.random_range(0..3)), true);
        }
        for pod in &assumed {
            cluster.remove_pod(&crate::cluster::uid_of(pod));
        }
        prop_assert_eq!(before, (amounts(&cluster), cluster.shapes.len(), cluster.pod_count()));
    }
}
