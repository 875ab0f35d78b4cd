//! Pods that wait for a node: ready to be tried, waiting out a failure, waiting for an event, or gated.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::cluster::shapes::ShapeId;
use crate::cluster::{Cluster, priority_of, uid_of};
use crate::hints::{ClusterEvent, may_help};
use crate::plugin::PluginSet;

/// After how long a pod for which no event came is tried anyway, in milliseconds.
pub const UNSCHEDULABLE_MAX_MS: u64 = 5 * 60 * 1000;

/// Where a pod waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// To be tried, the most important first.
    Active,
    /// For the end of its back-off.
    Backoff {
        /// When that is, in milliseconds.
        until_ms: u64,
    },
    /// For an event that may help.
    Unschedulable,
    /// For its gates to be removed.
    Gated,
    /// It is being bound, or victims are being evicted for it.
    InFlight,
}

/// A pod that waits.
#[derive(Clone, Debug)]
pub struct QueuedPod {
    /// The pod as last seen.
    pub pod: Arc<Pod>,
    /// Its uid.
    pub uid: Arc<str>,
    /// Its shape.
    pub shape: ShapeId,
    /// Which profile places it.
    pub profile: usize,
    /// Where it waits.
    pub place: Place,
    /// `spec.priority`.
    pub priority: i32,
    /// How often it was tried.
    pub attempts: u32,
    /// Which plugins have refused it.
    pub refused_by: PluginSet,
    added_ms: u64,
    failed_ms: u64,
    /// Its back-off isn't cut short: something went wrong that isn't the cluster's state.
    after_error: bool,
    sequence: u64,
}

type ActiveKey = (Reverse<i32>, u64, u64, Arc<str>);

/// The queue.
pub struct Queue {
    pods: FxHashMap<Arc<str>, QueuedPod>,
    active: BTreeSet<ActiveKey>,
    backoff: BTreeSet<(u64, u64, Arc<str>)>,
    unschedulable: FxHashMap<(ShapeId, PluginSet), FxHashSet<Arc<str>>>,
    initial_backoff_ms: u64,
    max_backoff_ms: u64,
    next: u64,
}

fn gated(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty())
}

impl Queue {
    /// An empty one.
    pub fn new(initial_backoff_ms: u64, max_backoff_ms: u64) -> Self {
        Self {
            pods: FxHashMap::default(),
            active: BTreeSet::new(),
            backoff: BTreeSet::new(),
            unschedulable: FxHashMap::default(),
            initial_backoff_ms,
            max_backoff_ms: max_backoff_ms.max(initial_backoff_ms),
            next: 0,
        }
    }

    /// How many pods wait, wherever.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// A pod that waits.
    pub fn get(&self, uid: &str) -> Option<&QueuedPod> {
        self.pods.get(uid)
    }

    /// A pod is new or has changed. Returns the shape that is no longer used, to be released.
    pub fn apply(&mut self, pod: Arc<Pod>, shape: ShapeId, profile: usize, now_ms: u64) -> Option<ShapeId> {
        let uid = uid_of(&pod);
        if let Some(known) = self.pods.get(&uid) {
            let (place, old_shape) = (known.place, known.shape);
            let changed = old_shape != shape || gated(&known.pod) != gated(&pod) || known.priority != priority_of(&pod);
            if !changed {
                if let Some(known) = self.pods.get_mut(&uid) {
                    known.pod = pod;
                }
                return Some(shape);
            }
            self.take_out(&uid);
            if let Some(known) = self.pods.get_mut(&uid) {
                known.shape = shape;
                known.priority = priority_of(&pod);
                known.pod = pod.clone();
            }
            if place == Place::InFlight {
                self.put(&uid, Place::InFlight);
            } else if gated(&pod) {
                self.put(&uid, Place::Gated);
            } else {
                self.release_one(&uid, now_ms);
            }
            return Some(old_shape);
        }
        let sequence = self.next;
        self.next += 1;
        let place = if gated(&pod) { Place::Gated } else { Place::Active };
        let priority = priority_of(&pod);
        let queued = QueuedPod {
            uid: uid.clone(),
            shape,
            profile,
            place: Place::InFlight,
            priority,
            attempts: 0,
            refused_by: PluginSet::default(),
            added_ms: now_ms,
            failed_ms: 0,
            after_error: false,
            sequence,
            pod,
        };
        self.pods.insert(uid.clone(), queued);
        self.put(&uid, place);
        None
    }

    /// A pod is gone or placed. Returns what was known of it; its shape is to be released.
    pub fn remove(&mut self, uid: &str) -> Option<QueuedPod> {
        self.take_out(uid);
        self.pods.remove(uid)
    }

    /// The most important pod that is ready. Pods that wait out a failure are tried early when no other is ready.
    pub fn pop(&mut self, now_ms: u64) -> Option<QueuedPod> {
        while let Some((until_ms, _, uid)) = self.backoff.first().cloned() {
            if until_ms > now_ms {
                break;
            }
            self.take_out(&uid);
            self.put(&uid, Place::Active);
        }
        let uid = match self.active.first() {
            Some((.., uid)) => uid.clone(),
            None => {
                let early =
                    |(_, _, uid): &&(u64, u64, Arc<str>)| self.pods.get(uid).is_some_and(|pod| !pod.after_error);
                self.backoff.iter().find(early)?.2.clone()
            }
        };
        self.take_out(&uid);
        self.put(&uid, Place::InFlight);
        let pod = self.pods.get_mut(&uid)?;
        pod.attempts = pod.attempts.saturating_add(1);
        Some(pod.clone())
    }

    /// When the next pod's back-off ends, in milliseconds.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.backoff.first().map(|(until_ms, ..)| *until_ms)
    }

    /// A pod in flight could not be placed: it waits for an event.
    pub fn refused(&mut self, uid: &str, by: PluginSet, now_ms: u64) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.refused_by = by;
            pod.failed_ms = now_ms;
            pod.after_error = false;
            self.put(uid, Place::Unschedulable);
        }
    }

    /// A pod in flight waits until its victims have been told to go ([`Queue::activate`]).
    pub fn evicting(&mut self, uid: &str, by: PluginSet, now_ms: u64) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.refused_by = by;
            pod.failed_ms = now_ms;
            pod.after_error = false;
        }
    }

    /// Something went wrong with a pod in flight: it is tried again after its back-off.
    pub fn failed(&mut self, uid: &str, now_ms: u64) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.failed_ms = now_ms;
            pod.after_error = true;
            let until_ms = self.until_ms(uid);
            self.put(uid, Place::Backoff { until_ms });
        }
    }

    /// A pod's victims are going: it is tried at once.
    pub fn activate(&mut self, uid: &str) {
        let waits = self
            .pods
            .get(uid)
            .is_some_and(|pod| matches!(pod.place, Place::Unschedulable | Place::Backoff { .. } | Place::InFlight));
        if waits {
            self.take_out(uid);
            self.put(uid, Place::Active);
        }
    }

    /// Something happened: pods that it may help are tried again.
    pub fn on_event(&mut self, cluster: &Cluster, event: &ClusterEvent, now_ms: u64) {
        if self.unschedulable.is_empty() {
            return;
        }
        let helped: Vec<(ShapeId, PluginSet)> = self
            .unschedulable
            .keys()
            .filter(|(shape, by)| cluster.shapes.get(*shape).is_none_or(|shape| may_help(cluster, event, shape, *by)))
            .copied()
            .collect();
        for group in helped {
            let uids: Vec<Arc<str>> = self.unschedulable.get(&group).into_iter().flatten().cloned().collect();
            uids.iter().for_each(|uid| self.release_one(uid, now_ms));
        }
    }

    /// Tries pods again for which no event has come for long.
    pub fn flush(&mut self, now_ms: u64) {
        let old: Vec<Arc<str>> = self
            .pods
            .values()
            .filter(|pod| pod.place == Place::Unschedulable && now_ms >= pod.failed_ms + UNSCHEDULABLE_MAX_MS)
            .map(|pod| pod.uid.clone())
            .collect();
        old.iter().for_each(|uid| self.release_one(uid, now_ms));
    }

    /// To the active pods, or to those that wait out a failure.
    fn release_one(&mut self, uid: &str, now_ms: u64) {
        self.take_out(uid);
        let until_ms = self.until_ms(uid);
        let never_tried = self.pods.get(uid).is_none_or(|pod| pod.attempts == 0);
        let place = if never_tried || until_ms <= now_ms { Place::Active } else { Place::Backoff { until_ms } };
        self.put(uid, place);
    }

    fn until_ms(&self, uid: &str) -> u64 {
        let Some(pod) = self.pods.get(uid) else { return 0 };
        let doublings = pod.attempts.saturating_sub(1).min(32);
        let wait_ms = self.initial_backoff_ms.saturating_mul(1 << doublings).min(self.max_backoff_ms);
        pod.failed_ms.saturating_add(wait_ms)
    }

    fn put(&mut self, uid: &str, place: Place) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        pod.place = place;
        let uid = pod.uid.clone();
        match place {
            Place::Active => {
                self.active.insert((Reverse(pod.priority), pod.added_ms, pod.sequence, uid));
            }
            Place::Backoff { until_ms } => {
                self.backoff.insert((until_ms, pod.sequence, uid));
            }
            Place::Unschedulable => {
                self.unschedulable.entry((pod.shape, pod.refused_by)).or_default().insert(uid);
            }
            Place::Gated | Place::InFlight => {}
        }
    }

    fn take_out(&mut self, uid: &str) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        let uid = pod.uid.clone();
        match std::mem::replace(&mut pod.place, Place::InFlight) {
            Place::Active => {
                self.active.remove(&(Reverse(pod.priority), pod.added_ms, pod.sequence, uid));
            }
            Place::Backoff { until_ms } => {
                self.backoff.remove(&(until_ms, pod.sequence, uid));
            }
            Place::Unschedulable => {
                let group = (pod.shape, pod.refused_by);
                if let Some(uids) = self.unschedulable.get_mut(&group) {
                    uids.remove(&uid);
                    if uids.is_empty() {
                        self.unschedulable.remove(&group);
                    }
                }
            }
            Place::Gated | Place::InFlight => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugin::Plugin;

    fn pod(name: &str, priority: i32, gates: &[&str]) -> Arc<Pod> {
        let gates: Vec<_> = gates.iter().map(|gate| json!({"name": gate})).collect();
        let pod = json!({"metadata": {"name": name, "uid": name},
            "spec": {"containers": [], "priority": priority, "schedulingGates": gates}});
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    fn pop(queue: &mut Queue, now_ms: u64) -> Option<String> {
        queue.pop(now_ms).map(|pod| pod.uid.to_string())
    }

    #[test]
    fn the_more_important_and_then_the_older_pod_comes_first() {
        let mut queue = Queue::new(1000, 10_000);
        for (name, priority, at) in [("a", 0, 1), ("b", 10, 3), ("c", 10, 2)] {
            assert_eq!(queue.apply(pod(name, priority, &[]), ShapeId(1), 0, at), None);
        }
        let order: Vec<_> = std::iter::from_fn(|| pop(&mut queue, 5)).collect();
        assert_eq!(order, ["c", "b", "a"]);
    }

    #[test]
    fn back_off_doubles_up_to_a_limit() {
        let mut queue = Queue::new(1000, 10_000);
        queue.apply(pod("a", 0, &[]), ShapeId(1), 0, 0);
        let mut now_ms = 0;
        for wait_ms in [1000, 2000, 4000, 8000, 10_000, 10_000] {
            assert_eq!(pop(&mut queue, now_ms).as_deref(), Some("a"));
            queue.failed("a", now_ms);
            assert_eq!(pop(&mut queue, now_ms + wait_ms - 1), None, "after an error the wait isn't cut short");
            now_ms += wait_ms;
        }
    }

    #[test]
    fn an_unschedulable_pod_waits_for_an_event_that_helps_or_five_minutes() {
        let cluster = Cluster::default();
        let gone = ClusterEvent::PodGone(Arc::default());
        for (by, event, helped) in [
            (Plugin::NodeResourcesFit, &gone, true),
            (Plugin::NodeAffinity, &gone, false),
            (Plugin::InterPodAffinity, &ClusterEvent::Namespace, true),
        ] {
            let mut cluster_with_shape = Cluster::default();
            let shape = cluster_with_shape.shapes.acquire(crate::shape::Shape::default());
            let mut queue = Queue::new(1000, 10_000);
            queue.apply(pod("a", 0, &[]), shape, 0, 0);
            assert!(pop(&mut queue, 0).is_some());
            queue.refused("a", PluginSet::default().with(by), 0);
            queue.on_event(&cluster_with_shape, event, 1);
            let place = queue.get("a").map(|pod| pod.place);
            let expect = if helped { Place::Backoff { until_ms: 1000 } } else { Place::Unschedulable };
            assert_eq!(place, Some(expect), "{by:?} {event:?}");
            queue.flush(UNSCHEDULABLE_MAX_MS - 1);
            queue.flush(UNSCHEDULABLE_MAX_MS);
            assert!(pop(&mut queue, UNSCHEDULABLE_MAX_MS).is_some());
        }
        assert_eq!(cluster.pod_count(), 0);
    }

    #[test]
    fn a_gated_pod_waits_until_its_gates_are_gone() {
        let mut queue = Queue::new(1000, 10_000);
        queue.apply(pod("a", 0, &["g"]), ShapeId(1), 0, 0);
        assert_eq!(pop(&mut queue, 0), None);
        assert_eq!(queue.apply(pod("a", 0, &[]), ShapeId(1), 0, 1), Some(ShapeId(1)));
        assert_eq!(pop(&mut queue, 1).as_deref(), Some("a"));
        assert!(queue.remove("a").is_some() && queue.is_empty());
    }
}
