//! Whole decisions as tables: a few nodes and pods, and what becomes of the next pod.

use std::sync::Arc;

use gantry_plugin_host::PluginError;
use gantry_plugin_host::contract::scheduler::{Amount, NodeChanges, Pod as PolicyPod, Policy, Row};
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::config::{OnPolicyFailure, SchedulerConfig};
use crate::engine::{Decision, Engine, Placement, Refusal, Why};
use crate::policy::PolicyProvider;

/// A provider of no policies.
pub fn no_policies() -> PolicyProvider {
    Arc::new(|config| Err(PluginError::Component { plugin: config.plugin.clone(), reason: "not installed".to_owned() }))
}

/// An engine of the default settings.
pub fn engine() -> Engine {
    Engine::new(&SchedulerConfig::default(), no_policies(), 1).expect("the defaults make sense")
}

/// A node of 2 cores, 4 GiB and 110 pods, with more or other fields merged in.
pub fn node(name: &str, more: Value) -> Node {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110", "ephemeral-storage": "10Gi"}},
    });
    merge(&mut node, more);
    serde_json::from_value(node).expect("a node")
}

/// A pod of one container, with more or other fields merged in.
pub fn pod(name: &str, more: Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "d", "uid": name},
        "spec": {"schedulerName": "default-scheduler", "containers": [{"name": "c"}]},
    });
    merge(&mut pod, more);
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

fn cpu(amount: &str) -> Value {
    json!([{"name": "c", "resources": {"requests": {"cpu": amount}}}])
}

fn placed(engine: &mut Engine, pod: Arc<Pod>, now_ms: u64) -> Placement {
    engine.apply_pod(pod, now_ms);
    match engine.next(now_ms) {
        Some(Decision::Place(placement)) => placement,
        other => panic!("not placed: {other:?}"),
    }
}

fn refused(engine: &mut Engine, pod: Arc<Pod>, now_ms: u64) -> Refusal {
    engine.apply_pod(pod, now_ms);
    match engine.next(now_ms) {
        Some(Decision::Refuse(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn message(nodes: &[Node], others: &[Arc<Pod>], next: Arc<Pod>) -> String {
    let mut engine = engine();
    nodes.iter().for_each(|node| engine.apply_node(node, 0));
    others.iter().for_each(|pod| engine.apply_pod(pod.clone(), 0));
    let refusal = refused(&mut engine, next, 0);
    assert_eq!(refusal.why, Why::Unschedulable);
    refusal.message
}

const UNHELPFUL: &str =
    " no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
const NO_VICTIMS: &str = " no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";

#[test]
fn one_node_refuses_in_upstreams_words() {
    let port = |ports: Value| json!({"spec": {"containers": [{"name": "c", "ports": ports}]}});
    let near = |kind: &str, key: &str| {
        let term = json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": "a"}}});
        json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}})
    };
    let spread = |key: &str| {
        json!({"metadata": {"labels": {"app": "a"}}, "spec": {"topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "minDomains": 2,
            "labelSelector": {"matchLabels": {"app": "a"}}}]}})
    };
    let on_n = |more: Value| {
        let mut all = json!({"spec": {"nodeName": "n"}});
        merge(&mut all, more);
        pod("other", all)
    };
    let labelled = || on_n(json!({"metadata": {"labels": {"app": "a"}}}));
    let none = json!({});
    // The node, pods on it, the next pod, what the filters say, what preemption says.
    type Case = (Value, Vec<Arc<Pod>>, Value, &'static str, &'static str);
    let cases: Vec<Case> = vec![
        (none.clone(), vec![], json!({"spec": {"containers": cpu("1000")}}), "1 Insufficient cpu.", UNHELPFUL),
        (
            none.clone(),
            vec![on_n(json!({"spec": {"containers": cpu("1500m")}}))],
            json!({"spec": {"containers": cpu("1")}}),
            "1 Insufficient cpu.",
            NO_VICTIMS,
        ),
        (
            none.clone(),
            vec![],
            json!({"spec": {"nodeSelector": {"a": "b"}}}),
            "1 node(s) didn't match Pod's node affinity/selector.",
            UNHELPFUL,
        ),
        (
            none.clone(),
            vec![on_n(port(json!([{"containerPort": 1, "hostPort": 777}])))],
            port(json!([{"containerPort": 2, "hostPort": 777, "hostIP": "127.0.0.1"}])),
            "1 node(s) didn't have free ports for the requested pod ports.",
            NO_VICTIMS,
        ),
        (json!({"spec": {"unschedulable": true}}), vec![], none.clone(), "1 node(s) were unschedulable.", UNHELPFUL),
        (
            json!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}}),
            vec![],
            none.clone(),
            "1 node(s) had untolerated taint(s).",
            UNHELPFUL,
        ),
        (
            json!({"status": {"allocatable": {"pods": "1"}}}),
            vec![on_n(json!({}))],
            none.clone(),
            "1 Too many pods.",
            NO_VICTIMS,
        ),
        (
            none.clone(),
            vec![],
            json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]}}),
            "1 Insufficient example.com/gpu.",
            UNHELPFUL,
        ),
        (
            none.clone(),
            vec![],
            near("podAffinity", "kubernetes.io/hostname"),
            "1 node(s) didn't match pod affinity rules.",
            UNHELPFUL,
        ),
        (
            none.clone(),
            vec![labelled()],
            near("podAntiAffinity", "kubernetes.io/hostname"),
            "1 node(s) didn't match pod anti-affinity rules.",
            NO_VICTIMS,
        ),
        (
            none.clone(),
            vec![on_n(near("podAntiAffinity", "kubernetes.io/hostname"))],
            json!({"metadata": {"labels": {"app": "a"}}}),
            "1 node(s) didn't satisfy existing pods anti-affinity rules.",
            NO_VICTIMS,
        ),
        (
            none.clone(),
            vec![],
            spread("zone"),
            "1 node(s) didn't match pod topology spread constraints (missing required label).",
            UNHELPFUL,
        ),
        (
            none.clone(),
            vec![labelled()],
            spread("kubernetes.io/hostname"),
            "1 node(s) didn't match pod topology spread constraints.",
            NO_VICTIMS,
        ),
    ];
    for (node_more, others, more, reason, after) in cases {
        let seen = message(&[node("n", node_more)], &others, pod("p", more.clone()));
        assert_eq!(seen, format!("0/1 nodes are available: {reason}{after}"), "{more}");
    }
}

#[test]
fn a_pod_that_no_node_could_take_says_why() {
    let claim = json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "none"}}]}});
    let expect = "0/1 nodes are available: persistentvolumeclaim \"none\" not found. not found";
    assert_eq!(message(&[node("n", json!({}))], &[], pod("p", claim)), expect);
    assert_eq!(message(&[], &[], pod("p", json!({}))), "no nodes available to schedule pods");
}

#[test]
fn reasons_of_several_nodes_are_counted() {
    let nodes = [
        node("a", json!({"spec": {"unschedulable": true}})),
        node("b", json!({})),
        node("c", json!({"status": {"allocatable": {"cpu": "1"}}})),
    ];
    let more =
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "3", "memory": "5Gi"}}}]}});
    let expect = "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu, 2 Insufficient memory. \
        no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
    assert_eq!(message(&nodes, &[], pod("p", more)), expect);
}

#[test]
fn a_lesser_pod_must_go_for_a_more_important_one() {
    let mut engine = engine();
    engine.apply_node(&node("n", json!({})), 0);
    let low = pod("low", json!({"spec": {"nodeName": "n", "containers": cpu("1500m")}}));
    engine.apply_pod(low.clone(), 0);
    let top = |more: Value| {
        let mut all = json!({"spec": {"priority": 1000, "containers": cpu("1500m")}});
        merge(&mut all, more);
        pod("top", all)
    };
    let refusal = refused(&mut engine, top(json!({})), 0);
    assert_eq!(refusal.message, "0/1 nodes are available: 1 Insufficient cpu.");
    assert_eq!(refusal.nominate.as_deref(), Some("n"));
    let victims: Vec<_> = refusal.victims.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
    assert_eq!(victims, ["low"]);
    assert!(engine.next(5_000).is_none(), "it isn't tried again before its victims have been told to go");
    // They have been told: it is tried at once, and waits for the one that is ending.
    let mut ending = (*low).clone();
    ending.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
    let condition =
        json!({"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]});
    ending.status = Some(serde_json::from_value(condition).expect("a status"));
    engine.apply_pod(Arc::new(ending), 10);
    engine.victims_told("top");
    let again = match engine.next(10) {
        Some(Decision::Refuse(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    };
    let expect = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due \
        to a terminating pod on the nominated node.";
    assert_eq!((again.message.as_str(), again.nominate), (expect, None));
}

#[test]
fn a_place_that_a_more_important_pod_waits_for_is_kept() {
    let mut engine = engine();
    engine.apply_node(&node("n", json!({})), 0);
    let waiting = json!({"spec": {"priority": 10, "containers": cpu("1500m"), "schedulingGates": [{"name": "g"}]},
        "status": {"nominatedNodeName": "n"}});
    engine.apply_pod(pod("waiting", waiting), 0);
    let small = json!({"spec": {"containers": cpu("1")}});
    let refusal = refused(&mut engine, pod("small", small.clone()), 0);
    assert_eq!(refusal.message, format!("0/1 nodes are available: 1 Insufficient cpu.{NO_VICTIMS}"));
    let mut important = small;
    merge(&mut important, json!({"spec": {"priority": 11}}));
    assert_eq!(placed(&mut engine, pod("important", important), 0).node, "n");
}

#[test]
fn never_and_budgets_limit_preemption() {
    let mut engine = engine();
    for name in ["a", "b"] {
        engine.apply_node(&node(name, json!({})), 0);
        let low = json!({"metadata": {"labels": {"on": name}}, "spec": {"nodeName": name, "containers": cpu("2")}});
        engine.apply_pod(pod(&format!("low-{name}"), low), 0);
    }
    let budget = json!({"metadata": {"namespace": "d", "name": "budget"},
        "spec": {"selector": {"matchLabels": {"on": "a"}}},
        "status": {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
    engine.budgets.apply(&serde_json::from_value(budget).expect("a budget"));
    let never = json!({"spec": {"priority": 9, "preemptionPolicy": "Never", "containers": cpu("1")}});
    let refusal = refused(&mut engine, pod("never", never), 0);
    assert!(
        refusal.message.ends_with("preemption: not eligible due to preemptionPolicy=Never."),
        "{}",
        refusal.message
    );
    let top = json!({"spec": {"priority": 9, "containers": cpu("1")}});
    let refusal = refused(&mut engine, pod("top", top), 0);
    assert_eq!(refusal.nominate.as_deref(), Some("b"), "the budget protects the pod on the other node");
}

#[test]
fn zones_are_filled_evenly() {
    let mut engine = engine();
    for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("c1", "c")] {
        let labels = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
        engine.apply_node(&node(name, labels), 0);
    }
    let more = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "a"}}}]}});
    let mut by_zone = std::collections::BTreeMap::<char, u32>::new();
    for at in 0..9 {
        let placement = placed(&mut engine, pod(&format!("p{at}"), more.clone()), 0);
        *by_zone.entry(placement.node.chars().next().expect("a name")).or_default() += 1;
    }
    assert_eq!(by_zone.into_values().collect::<Vec<_>>(), [3, 3, 3]);
}

#[test]
fn preferences_decide_among_equal_nodes() {
    let cases = [
        // A preferred label.
        (
            json!({"metadata": {"labels": {"disk": "ssd"}}}),
            json!({}),
            json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}}}),
        ),
        // A taint that would rather keep it away.
        (json!({}), json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}}), json!({})),
        // Its image.
        (
            json!({"status": {"images": [{"names": ["big:1"], "sizeBytes": 1_000_000_000}]}}),
            json!({}),
            json!({"spec": {"containers": [{"name": "c", "image": "big:1"}]}}),
        ),
        // More room.
        (json!({"status": {"allocatable": {"cpu": "4", "memory": "8Gi"}}}), json!({}), json!({})),
    ];
    for (good, bad, more) in cases {
        let mut engine = engine();
        engine.apply_node(&node("good", good.clone()), 0);
        engine.apply_node(&node("bad", bad), 0);
        for at in 0..3 {
            let name = format!("p{at}");
            let placement = placed(&mut engine, pod(&name, more.clone()), 0);
            assert_eq!(placement.node, "good", "{good} {more}");
            engine.remove_pod(&name, 0);
        }
    }
}

#[test]
fn a_failed_binding_gives_the_room_back() {
    let mut engine = engine();
    engine.apply_node(&node("n", json!({})), 0);
    let big = json!({"spec": {"containers": cpu("2")}});
    let placement = placed(&mut engine, pod("p", big.clone()), 0);
    let refusal = engine.binding_ended(&placement, Some("no".to_owned()), 0).expect("its event");
    assert_eq!((refusal.why, refusal.message.as_str()), (Why::SchedulerError, "no"));
    assert!(engine.next(999).is_none(), "it waits out its back-off");
    let again = match engine.next(1_000) {
        Some(Decision::Place(placement)) => placement,
        other => panic!("not placed: {other:?}"),
    };
    assert!(engine.binding_ended(&again, None, 1_000).is_none());
    assert!(engine.queue.is_empty());
    assert!(refused(&mut engine, pod("q", big), 1_000).message.contains("Insufficient cpu"));
}

#[test]
fn claims_that_wait_are_bound_or_made_for_the_node() {
    let class = |name: &str, provisioner: &str| json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"});
    let claim = |name: &str, class: &str| {
        json!({"metadata": {"namespace": "d", "name": name, "uid": name}, "spec": {"storageClassName": class,
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    };
    let volume = |name: &str, size: &str, node: &str| {
        json!({"metadata": {"name": name}, "status": {"phase": "Available"}, "spec": {
            "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}})
    };
    let mut engine = engine();
    ["a", "b"].iter().for_each(|name| engine.apply_node(&node(name, json!({})), 0));
    let cluster = &mut engine.cluster;
    for class in [class("local", "kubernetes.io/no-provisioner"), class("made", "x.example")] {
        cluster.storage.apply_class(&serde_json::from_value(class).expect("a class"), &mut cluster.atoms);
    }
    for claim in [claim("c1", "local"), claim("c2", "local"), claim("c3", "made")] {
        cluster.storage.apply_claim(Arc::new(serde_json::from_value(claim).expect("a claim")));
    }
    for volume in [volume("big", "5Gi", "b"), volume("fit", "2Gi", "b"), volume("small", "1Mi", "a")] {
        let volume = Arc::new(serde_json::from_value(volume).expect("a volume"));
        cluster.storage.apply_volume(volume, &mut cluster.atoms);
    }
    let uses =
        |claim: &str| json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}});
    let first = placed(&mut engine, pod("p1", uses("c1")), 0);
    assert_eq!((first.node.as_str(), first.volumes.bind.len()), ("b", 1));
    assert_eq!(first.volumes.bind[0].0, "fit", "the smallest that is large enough");
    let second = placed(&mut engine, pod("p2", uses("c2")), 0);
    assert_eq!(second.volumes.bind[0].0, "big", "the other is promised");
    let third = placed(&mut engine, pod("p3", uses("c3")), 0);
    assert_eq!(third.volumes.provision, [("d".to_owned(), "c3".to_owned())]);
    engine.cluster.storage.apply_claim(Arc::new(serde_json::from_value(claim("c4", "local")).expect("a claim")));
    let refusal = refused(&mut engine, pod("p4", uses("c4")), 0);
    let expect = "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.";
    assert!(refusal.message.starts_with(expect), "{}", refusal.message);
}

/// Prefers the node with the most CPU requested, as the policy in the box does.
#[derive(Default)]
struct Fullest {
    requested: Mutex<std::collections::HashMap<Row, i64>>,
    strings: Mutex<Vec<String>>,
    fails: bool,
}

impl Policy for Fullest {
    fn name(&self) -> &str {
        "bin-pack"
    }

    fn reasons(&self) -> Arc<[String]> {
        Arc::new(["node(s) are not liked".to_owned()])
    }

    fn update_nodes(&self, changes: NodeChanges) {
        let mut strings = self.strings.lock();
        strings.extend(changes.strings.iter().map(|text| text.to_string()));
        for amounts in changes.amounts {
            let name = strings.get(amounts.resource as usize - 1).cloned().unwrap_or_default();
            if amounts.amount == Amount::Requested && name == "cpu" {
                self.requested.lock().extend(amounts.rows.into_iter().zip(amounts.values));
            }
        }
    }

    fn filter_and_score(
        &self,
        pod: &PolicyPod<'_>,
        candidates: &[Row],
        scores: &mut Vec<i64>,
    ) -> Result<(), PluginError> {
        scores.clear();
        if self.fails {
            return Err(PluginError::Trap {
                plugin: "bin-pack".to_owned(),
                call: "filter-and-score",
                reason: "x".to_owned(),
            });
        }
        let unliked = pod.wishes.iter().any(|wish| wish.key == "nowhere");
        let requested = self.requested.lock();
        let score = |row: &Row| if unliked { -1 } else { requested.get(row).copied().unwrap_or(0).min(10_000) };
        scores.extend(candidates.iter().map(score));
        Ok(())
    }
}

fn with_policy(fails: bool, on_failure: OnPolicyFailure) -> Engine {
    let mut config = SchedulerConfig::default();
    if let Some(policy) = &mut config.profiles[1].policy {
        policy.on_failure = on_failure;
    }
    let provider: PolicyProvider = Arc::new(move |_| Ok(Arc::new(Fullest { fails, ..Fullest::default() })));
    let mut engine = Engine::new(&config, provider, 1).expect("settings");
    ["a", "b", "c"].iter().for_each(|name| engine.apply_node(&node(name, json!({})), 0));
    engine
}

#[test]
fn bin_pack_places_pods_together_where_the_default_spreads_them() {
    let nodes = |profile: &str| {
        let mut engine = with_policy(false, OnPolicyFailure::Ignore);
        let mut nodes: Vec<String> = (0..3)
            .map(|at| {
                let more = json!({"spec": {"schedulerName": profile, "containers": cpu("100m")}});
                placed(&mut engine, pod(&format!("p{at}"), more), 0).node
            })
            .collect();
        nodes.sort();
        nodes.dedup();
        nodes.len()
    };
    assert_eq!((nodes("default-scheduler"), nodes("bin-pack")), (3, 1));
}

#[test]
fn a_policy_may_refuse_or_fail() {
    let more = json!({"metadata": {"annotations": {"bin-pack.policy.gantry.dev/nowhere": ""}},
        "spec": {"schedulerName": "bin-pack"}});
    let mut engine = with_policy(false, OnPolicyFailure::Ignore);
    let refusal = refused(&mut engine, pod("p", more), 0);
    assert!(refusal.message.starts_with("0/3 nodes are available: 3 node(s) are not liked."), "{}", refusal.message);
    let plain = json!({"spec": {"schedulerName": "bin-pack"}});
    placed(&mut engine, pod("q", plain.clone()), 0);

    let mut engine = with_policy(true, OnPolicyFailure::Ignore);
    placed(&mut engine, pod("p", plain.clone()), 0);
    let troubles = engine.take_troubles();
    assert_eq!(troubles.iter().map(|trouble| trouble.reason).collect::<Vec<_>>(), ["PluginTrapped"]);

    let mut engine = with_policy(true, OnPolicyFailure::Retry);
    let refusal = refused(&mut engine, pod("p", plain), 0);
    assert_eq!(refusal.why, Why::SchedulerError);
    assert!(engine.next(999).is_none() && engine.next(1_000).is_some());
}
