//! Rollouts as a whole: passes over a deployment with replica sets that do at once what they are told.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::plan::{Action, Pass, plan};
use super::rollout::{self, set_replicas};

fn deployment(spec: Value) -> Deployment {
    let mut value = json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1},
        "spec": {"replicas": 3, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10,
            "selector": {"matchLabels": {"app": "t"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"metadata": {"labels": {"app": "t"}}, "spec": {"containers": [{"name": "c", "image": "a"}]}}}
    });
    for (key, field) in spec.as_object().into_iter().flatten() {
        value["spec"][key] = field.clone();
    }
    serde_json::from_value(value).expect("a deployment")
}

struct World {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    now: Timestamp,
    log: Vec<String>,
    made: usize,
}

impl World {
    fn new(deployment: Deployment) -> Self {
        Self {
            deployment,
            sets: Vec::new(),
            now: "2026-01-01T00:00:00Z".parse().expect("a time"),
            log: Vec::new(),
            made: 0,
        }
    }

    fn image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().expect("a spec");
        spec.template.spec.as_mut().expect("a pod").containers[0].image = Some(image.to_owned());
        self.deployment.metadata.generation = self.deployment.metadata.generation.map(|generation| generation + 1);
    }

    fn scale(&mut self, replicas: i32) {
        self.deployment.spec.as_mut().expect("a spec").replicas = Some(replicas);
        self.deployment.metadata.generation = self.deployment.metadata.generation.map(|generation| generation + 1);
    }

    /// One pass; whether it did anything. With `works`, pods are available at once.
    fn pass(&mut self, works: bool) -> bool {
        self.now += std::time::Duration::from_secs(1);
        let no_old_pods = |_: Option<&ReplicaSet>| false;
        let pass = Pass {
            deployment: &self.deployment,
            sets: self.sets.clone(),
            old_pods_running: &no_old_pods,
            now: self.now,
        };
        let plan = plan(pass);
        let changed = !plan.actions.is_empty() || self.deployment.status.as_ref() != Some(&plan.status);
        for action in plan.actions {
            match action {
                Action::Create(mut set) => {
                    self.made += 1;
                    let number = self.made;
                    set.metadata.uid = Some(format!("s{number}"));
                    set.metadata.creation_timestamp = Some(Time(self.now));
                    self.log.push(format!("s{number}: 0 -> {}", set_replicas(&set)));
                    self.sets.push(*set);
                }
                Action::Scale { set, from } => {
                    let uid = set.metadata.uid.clone().unwrap_or_default();
                    self.log.push(format!("{uid}: {from} -> {}", set_replicas(&set)));
                    self.put(*set);
                }
                Action::Update(set) => self.put(*set),
                Action::Delete(set) => {
                    let uid = set.metadata.uid.clone().unwrap_or_default();
                    self.log.push(format!("{uid}: deleted"));
                    self.sets.retain(|kept| kept.metadata.uid != set.metadata.uid);
                }
                Action::SetRevision(revision) => {
                    let annotations = self.deployment.metadata.annotations.get_or_insert_default();
                    annotations.insert(super::revision::REVISION.to_owned(), revision);
                }
            }
        }
        self.deployment.status = Some(plan.status);
        let newest = self.sets.len();
        for (index, set) in self.sets.iter_mut().enumerate() {
            let size = set_replicas(set);
            let available = if works || index + 1 < newest { size } else { 0 };
            set.status = Some(ReplicaSetStatus {
                replicas: size,
                ready_replicas: Some(available),
                available_replicas: Some(available),
                observed_generation: set.metadata.generation,
                ..ReplicaSetStatus::default()
            });
        }
        changed
    }

    fn put(&mut self, set: ReplicaSet) {
        if let Some(slot) = self.sets.iter_mut().find(|kept| kept.metadata.uid == set.metadata.uid) {
            *slot = set;
        }
    }

    fn settle(&mut self, works: bool) -> Vec<String> {
        let spec_replicas = rollout::replicas(&self.deployment);
        let limit = spec_replicas + rollout::max_surge(&self.deployment).max(1);
        for _ in 0..100 {
            if !self.pass(works) {
                return std::mem::take(&mut self.log);
            }
            assert!(rollout::total_replicas(&self.sets) <= limit.max(3), "more pods than may be");
        }
        panic!("doesn't settle: {:?}", self.log);
    }

    fn reason(&self, kind: &str) -> String {
        let status = self.deployment.status.as_ref().expect("a status");
        super::status::condition(status, kind).and_then(|condition| condition.reason.clone()).unwrap_or_default()
    }
}

#[test]
fn a_rolling_update_goes_as_upstreams() {
    let mut world = World::new(deployment(json!({})));
    assert_eq!(world.settle(true), ["s1: 0 -> 3"]);
    assert_eq!(world.reason("Progressing"), "NewReplicaSetAvailable");
    world.image("b");
    // The steps of the recorded rollout.
    let steps = ["s2: 0 -> 1", "s1: 3 -> 2", "s2: 1 -> 2", "s1: 2 -> 1", "s2: 2 -> 3", "s1: 1 -> 0"];
    assert_eq!(world.settle(true), steps);
    world.scale(1);
    assert_eq!(world.settle(true), ["s2: 3 -> 1"]);
    world.image("a");
    assert_eq!(world.settle(true), ["s1: 0 -> 1", "s2: 1 -> 0"]);
    let annotations = world.sets[0].metadata.annotations.clone().expect("annotations");
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3");
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(annotations["deployment.kubernetes.io/desired-replicas"], "1");
    assert_eq!(annotations["deployment.kubernetes.io/max-replicas"], "2");
}

#[test]
fn recreate_empties_before_it_fills() {
    let mut world = World::new(deployment(json!({"strategy": {"type": "Recreate"}})));
    assert_eq!(world.settle(true), ["s1: 0 -> 3"]);
    world.image("b");
    assert_eq!(world.settle(true), ["s1: 3 -> 0", "s2: 0 -> 3"]);
}

#[test]
fn a_rollout_that_stands_still_is_told_of() {
    let mut world = World::new(deployment(json!({"progressDeadlineSeconds": 5})));
    world.settle(true);
    world.image("broken");
    world.settle(false);
    for _ in 0..7 {
        world.pass(false);
    }
    assert_eq!(world.reason("Progressing"), "ProgressDeadlineExceeded");
    assert_eq!(world.reason("Available"), "MinimumReplicasAvailable");
    world.image("fixed");
    world.settle(true);
    assert_eq!(world.reason("Progressing"), "NewReplicaSetAvailable");
    assert_eq!(rollout::total_replicas(&world.sets), 3);
}

#[test]
fn history_keeps_as_many_as_asked() {
    let mut world = World::new(deployment(json!({"revisionHistoryLimit": 1})));
    for image in ["a", "b", "c", "d"] {
        world.image(image);
        world.settle(true);
    }
    assert_eq!(world.sets.len(), 2);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(deployment(json!({})));
    world.settle(true);
    world.deployment.spec.as_mut().expect("a spec").paused = Some(true);
    world.image("b");
    world.scale(5);
    assert_eq!(world.settle(true), ["s1: 3 -> 5"]);
    assert_eq!(world.reason("Progressing"), "DeploymentPaused");
}

#[test]
fn scaling_in_a_rollout_keeps_proportions() {
    let deployment = deployment(json!({"replicas": 20}));
    let set = |name: &str, size: i32, created: &str| -> ReplicaSet {
        serde_json::from_value(json!({"metadata": {"name": name, "creationTimestamp": created,
            "annotations": {"deployment.kubernetes.io/max-replicas": "13"}}, "spec": {"replicas": size, "selector": {}}}))
        .expect("a set")
    };
    let sets = [set("old", 8, "2026-01-01T00:00:00Z"), set("new", 5, "2026-01-02T00:00:00Z")];
    let sizes = rollout::scale_in_proportion(&deployment, &sets);
    assert_eq!(sizes, [("old".to_owned(), 15), ("new".to_owned(), 10)]);
}
