//! The decision maker: told what changes, it says pod by pod what is to be done. No I/O, no clock.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rustc_hash::FxHashMap;

use crate::cluster::shapes::ShapeId;
use crate::cluster::storage::ClaimKey;
use crate::cluster::{Cluster, Row, priority_of, uid_of};
use crate::config::{ConfigError, DEFAULT_SCHEDULER, OnPolicyFailure, Profile, SchedulerConfig};
use crate::failure::{Failure, FailureId, Failures, fit_message};
use crate::hints::ClusterEvent;
use crate::local::{ports_failure, resources_lack};
use crate::plugin::{Plugin, PluginSet};
use crate::policy::{PolicyProvider, PolicySlot};
use crate::preemption::{Budgets, Preemption, preempt};
use crate::queue::{Queue, QueuedPod};
use crate::ranking::Ranking;
use crate::resources::ResourceId;
use crate::shape::Shape;
use crate::volumes::VolumePlan;

/// How many rows all rankings may keep together; about 30 bytes each. Those unused for longest go first.
const RANKED_ROWS_MAX: usize = 4_000_000;
/// What dynamic resource allocation says when it has nothing to free (it runs before preemption).
const NO_CLAIMS: &str = "no new claims to deallocate";

/// A pod's node is chosen.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its uid.
    pub uid: Arc<str>,
    /// The node's name.
    pub node: String,
    /// What must be written about its volumes first; none when it has no claims that wait.
    pub volumes: VolumePlan,
    /// The claims it uses: all must be bound before the pod is.
    pub claims: Vec<ClaimKey>,
}

/// Why a pod isn't placed, as its condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No node will do.
    Unschedulable,
    /// Something went wrong.
    SchedulerError,
}

/// A pod could not be placed.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its uid.
    pub uid: Arc<str>,
    /// Why, in a word.
    pub why: Why,
    /// Why, as users read it.
    pub message: String,
    /// The node it waits for now: `Some("")` to wait for none any more; none: as before.
    pub nominate: Option<String>,
    /// Pods that must go for it.
    pub victims: Vec<Arc<Pod>>,
    /// Lesser pods that no longer wait for that node.
    pub outdone: Vec<Arc<Pod>>,
}

/// What is to be done about a pod.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Bind it.
    Place(Placement),
    /// Say why it waits, and evict its victims.
    Refuse(Refusal),
}

/// A policy failed: something to tell about a pod.
#[derive(Clone, Debug)]
pub struct PolicyTrouble {
    /// The pod it was asked about.
    pub pod: Arc<Pod>,
    /// A CamelCase word.
    pub reason: &'static str,
    /// In words.
    pub message: String,
}

struct Nominated {
    pod: Arc<Pod>,
    node: String,
    priority: i32,
    shape: ShapeId,
}

struct Kept {
    ranking: Ranking,
    used: u64,
}

/// All that decides.
pub struct Engine {
    /// The cluster as known.
    pub cluster: Cluster,
    /// Pods that wait.
    pub queue: Queue,
    /// Budgets of disruptions.
    pub budgets: Budgets,
    failures: Failures,
    profiles: Vec<(Arc<Profile>, Option<PolicySlot>)>,
    rankings: FxHashMap<(ShapeId, usize), Kept>,
    nominated: FxHashMap<Arc<str>, Nominated>,
    troubles: Vec<PolicyTrouble>,
    random: StdRng,
    uses: u64,
    ranked_rows: usize,
    rows: Vec<Row>,
    scores: Vec<i64>,
}

impl Engine {
    /// Of settings. `seed` is for the choice among equals.
    pub fn new(config: &SchedulerConfig, policies: PolicyProvider, seed: u64) -> Result<Self, ConfigError> {
        config.check()?;
        let profiles = config.profiles.iter().map(|profile| {
            let profile = Arc::new(Profile::of(profile)?);
            let policy = profile.policy.clone().map(|policy| PolicySlot::new(policy, policies.clone()));
            Ok((profile, policy))
        });
        Ok(Self {
            profiles: profiles.collect::<Result<_, ConfigError>>()?,
            cluster: Cluster::default(),
            queue: Queue::new(config.initial_backoff_ms, config.max_backoff_ms),
            budgets: Budgets::default(),
            failures: Failures::default(),
            rankings: FxHashMap::default(),
            nominated: FxHashMap::default(),
            troubles: Vec::new(),
            random: StdRng::seed_from_u64(seed),
            uses: 0,
            ranked_rows: 0,
            rows: Vec::new(),
            scores: Vec::new(),
        })
    }

    /// A node is new or has changed.
    pub fn apply_node(&mut self, node: &Node, now_ms: u64) {
        let change = self.cluster.apply_node(node);
        if change.helps() {
            self.event(&ClusterEvent::Node(change), now_ms);
        }
    }

    /// A node is gone.
    pub fn remove_node(&mut self, name: &str, now_ms: u64) {
        self.cluster.remove_node(name);
        self.event(&ClusterEvent::NodeGone, now_ms);
    }

    /// Something happened that may help pods that wait.
    pub fn event(&mut self, event: &ClusterEvent, now_ms: u64) {
        self.queue.on_event(&self.cluster, event, now_ms);
    }

    /// A pod is new or has changed.
    pub fn apply_pod(&mut self, pod: Arc<Pod>, now_ms: u64) {
        let uid = uid_of(&pod);
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return self.remove_pod(&uid, now_ms);
        }
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default().to_owned();
        if !node.is_empty() {
            self.forget_pending(&uid);
            let before = self.cluster.pod(&uid).map(|placed| (placed.shape, placed.assumed, placed.terminating));
            let old = before.and_then(|(shape, ..)| self.cluster.shapes.get(shape).cloned());
            self.cluster.place_pod(pod, &node, false);
            let Some(placed) = self.cluster.pod(&uid) else { return };
            let (now, terminating) = (placed.shape, placed.terminating);
            match before {
                // Only now others know that it is there.
                Some((_, true, _)) => {
                    if let Some(shape) = self.cluster.shapes.get(now).cloned() {
                        self.event(&ClusterEvent::PodPlaced(shape), now_ms);
                    }
                }
                Some((shape, ..)) if shape == now => {
                    // Pods that are being deleted no longer count for a spread.
                    if terminating
                        && before.is_some_and(|(_, _, before)| !before)
                        && let Some(shape) = self.cluster.shapes.get(now).cloned()
                        && !shape.labels.is_empty()
                    {
                        self.event(&ClusterEvent::PodPlaced(shape), now_ms);
                    }
                }
                _ => {
                    // It may ask for less now, and have other labels.
                    if let Some(old) = old {
                        self.event(&ClusterEvent::PodGone(old), now_ms);
                    }
                    if let Some(shape) = self.cluster.shapes.get(now).cloned() {
                        self.event(&ClusterEvent::PodPlaced(shape), now_ms);
                    }
                }
            }
            return;
        }
        if self.cluster.pod(&uid).is_some_and(|placed| placed.assumed) {
            // Its binding is under way; what it was assumed with stays until that has an end.
            return;
        }
        let name = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or(DEFAULT_SCHEDULER);
        let Some(profile) = self.profiles.iter().position(|(profile, _)| profile.name == name) else {
            self.forget_pending(&uid);
            return;
        };
        if pod.metadata.deletion_timestamp.is_some() {
            self.forget_pending(&uid);
            return;
        }
        let parsed = Shape::of(&pod, &mut self.cluster.atoms, &mut self.cluster.resources);
        let shape = self.cluster.shapes.acquire(parsed);
        self.nominate(&uid, &pod, shape);
        if let Some(unused) = self.queue.apply(pod, shape, profile, now_ms) {
            self.cluster.shapes.release(unused);
        }
    }

    /// Keeps what node a pod waits for, by its own status.
    fn nominate(&mut self, uid: &Arc<str>, pod: &Arc<Pod>, shape: ShapeId) {
        let node = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref()).unwrap_or_default();
        if node.is_empty() {
            // What we have decided ourselves may not be written yet: that stays until we decide otherwise.
            let written = |known: &Nominated| {
                known.pod.status.as_ref().is_some_and(|status| status.nominated_node_name.is_some())
            };
            if self.nominated.get(uid).is_some_and(written) {
                self.drop_nomination(uid);
            }
            return;
        }
        self.set_nomination(uid, pod, node, shape);
    }

    fn set_nomination(&mut self, uid: &Arc<str>, pod: &Arc<Pod>, node: &str, shape: ShapeId) {
        self.drop_nomination(uid);
        self.cluster.shapes.share(shape);
        let nominated = Nominated { pod: pod.clone(), node: node.to_owned(), priority: priority_of(pod), shape };
        self.nominated.insert(uid.clone(), nominated);
    }

    fn drop_nomination(&mut self, uid: &str) {
        if let Some(nominated) = self.nominated.remove(uid) {
            self.cluster.shapes.release(nominated.shape);
        }
    }

    fn forget_pending(&mut self, uid: &str) {
        if let Some(queued) = self.queue.remove(uid) {
            self.cluster.shapes.release(queued.shape);
        }
        self.drop_nomination(uid);
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, uid: &str, now_ms: u64) {
        self.forget_pending(uid);
        let shape = self.cluster.pod(uid).and_then(|placed| self.cluster.shapes.get(placed.shape).cloned());
        if self.cluster.remove_pod(uid).is_some()
            && let Some(shape) = shape
        {
            self.event(&ClusterEvent::PodGone(shape), now_ms);
        }
    }

    /// A binding has ended: the watch will confirm it, or it is undone and the pod tried again later. `why` is what
    /// went wrong.
    pub fn binding_ended(&mut self, placement: &Placement, why: Option<String>, now_ms: u64) -> Option<Refusal> {
        let uid = &placement.uid;
        let Some(message) = why else {
            // From now on only the watch's word counts; the pod doesn't wait any more.
            self.forget_pending(uid);
            for (volume, _) in &placement.volumes.bind {
                self.cluster.storage.break_promise(volume);
            }
            return None;
        };
        for (volume, _) in &placement.volumes.bind {
            self.cluster.storage.break_promise(volume);
        }
        if self.cluster.pod(uid).is_some_and(|placed| placed.assumed) {
            let shape = self.cluster.pod(uid).and_then(|placed| self.cluster.shapes.get(placed.shape).cloned());
            self.cluster.remove_pod(uid);
            if let Some(shape) = shape {
                self.event(&ClusterEvent::PodGone(shape), now_ms);
            }
        }
        self.queue.get(uid)?;
        self.queue.failed(uid, now_ms);
        let pod = placement.pod.clone();
        let (victims, outdone) = (Vec::new(), Vec::new());
        let why = Why::SchedulerError;
        Some(Refusal { pod, uid: uid.clone(), why, message, nominate: Some(String::new()), victims, outdone })
    }

    /// A pod's victims have been told to go.
    pub fn victims_told(&mut self, uid: &str) {
        self.queue.activate(uid);
    }

    /// What went wrong with policies since the last call.
    pub fn take_troubles(&mut self) -> Vec<PolicyTrouble> {
        std::mem::take(&mut self.troubles)
    }

    /// Forgets the rankings, as nothing is waiting.
    pub fn rest(&mut self) {
        self.rankings = FxHashMap::default();
        self.ranked_rows = 0;
    }

    /// Decides about the next pod that is ready; none when none is.
    pub fn next(&mut self, now_ms: u64) -> Option<Decision> {
        let queued = self.queue.pop(now_ms)?;
        let key = (queued.shape, queued.profile);
        let mut kept = match self.rankings.remove(&key) {
            Some(kept) => {
                self.ranked_rows = self.ranked_rows.saturating_sub(kept.ranking.weight());
                kept
            }
            None => {
                let shape = self.cluster.shapes.get(queued.shape).cloned().unwrap_or_default();
                Kept { ranking: Ranking::new(shape, self.profiles[queued.profile].0.clone()), used: 0 }
            }
        };
        let decision = self.decide(&queued, &mut kept.ranking, now_ms);
        self.uses += 1;
        kept.used = self.uses;
        self.keep(key, kept);
        Some(decision)
    }

    fn keep(&mut self, key: (ShapeId, usize), kept: Kept) {
        self.ranked_rows += kept.ranking.weight();
        self.rankings.insert(key, kept);
        if self.ranked_rows > RANKED_ROWS_MAX && self.rankings.len() > 1 {
            // Half of them at once, so that the search for the oldest is paid once for many.
            let mut uses: Vec<u64> = self.rankings.values().map(|kept| kept.used).collect();
            uses.sort_unstable();
            let limit = uses[uses.len() / 2];
            self.rankings.retain(|_, kept| kept.used >= limit);
            self.ranked_rows = self.rankings.values().map(|kept| kept.ranking.weight()).sum();
        }
    }

    fn decide(&mut self, queued: &QueuedPod, ranking: &mut Ranking, now_ms: u64) -> Decision {
        if self.cluster.node_count() == 0 {
            let by = PluginSet::ALL.without(Plugin::SchedulingGates);
            self.queue.refused(&queued.uid, by, now_ms);
            return refuse(queued, "no nodes available to schedule pods".to_owned());
        }
        ranking.sync(&mut self.cluster, &mut self.failures);
        if let Some(failure) = ranking.everywhere() {
            let reasons = failure.reasons.join(", ");
            // Dynamic resource allocation has not got to look at the pod, and says so.
            let message = format!("0/{} nodes are available: {reasons}. not found", self.cluster.node_count());
            self.queue.refused(&queued.uid, PluginSet::default().with(failure.plugin), now_ms);
            return refuse(queued, message);
        }
        ranking.judge();
        let reserved = self.reserve(queued, ranking);
        let decision = match self.choose(queued, ranking, now_ms) {
            Ok(Some(row)) => self.place(queued, ranking, row),
            Ok(None) => self.explain(queued, ranking, now_ms),
            Err(message) => {
                self.queue.failed(&queued.uid, now_ms);
                let mut refusal = refusal(queued, message);
                refusal.why = Why::SchedulerError;
                Decision::Refuse(refusal)
            }
        };
        for row in reserved {
            ranking.reconsider(&self.cluster, &mut self.failures, row);
        }
        decision
    }

    /// Refuses the nodes that more important pods wait for, where there isn't room for both.
    fn reserve(&mut self, queued: &QueuedPod, ranking: &mut Ranking) -> Vec<Row> {
        let mut by_row: FxHashMap<Row, Vec<ShapeId>> = FxHashMap::default();
        for (uid, nominated) in &self.nominated {
            if nominated.priority >= queued.priority
                && *uid != queued.uid
                && self.cluster.pod(uid).is_none()
                && let Some(row) = self.cluster.row_named(&nominated.node)
            {
                by_row.entry(row).or_default().push(nominated.shape);
            }
        }
        let mut refused = Vec::new();
        for (row, waiting) in by_row {
            if ranking.will_do(row)
                && let Some(failure) = self.crowded(queued, row, &waiting)
            {
                let id = self.failures.id(failure);
                ranking.refuse(row, id);
                refused.push(row);
            }
        }
        refused
    }

    /// Why a pod doesn't fit beside pods that wait for the node.
    fn crowded(&self, queued: &QueuedPod, row: Row, waiting: &[ShapeId]) -> Option<Failure> {
        let shape = self.cluster.shapes.get(queued.shape)?;
        let others: Vec<&Arc<Shape>> = waiting.iter().filter_map(|id| self.cluster.shapes.get(*id)).collect();
        let profile = &self.profiles[queued.profile].0;
        if profile.filters(Plugin::NodePorts)
            && others
                .iter()
                .any(|other| other.ports.iter().any(|used| shape.ports.iter().any(|wanted| wanted.conflicts(used))))
        {
            return Some(ports_failure());
        }
        if profile.filters(Plugin::NodeResourcesFit) {
            let mut both = (**shape).clone();
            let mut reasons = Vec::new();
            for (id, amount) in &mut both.requests.amounts {
                let more: i64 = others.iter().map(|other| other.requests.get(*id)).sum();
                let free = self.cluster.allocatable(*id, row) - self.cluster.requested(*id, row);
                *amount = amount.saturating_add(more);
                if *amount > free {
                    reasons.push(format!("Insufficient {}", self.cluster.resources.name(*id)));
                }
            }
            let pods = i64::try_from(others.len() + 1).unwrap_or(i64::MAX);
            let free = self.cluster.allocatable(ResourceId::PODS, row) - self.cluster.requested(ResourceId::PODS, row);
            if pods > free {
                reasons.push("Too many pods".to_owned());
            }
            if !reasons.is_empty() {
                let unresolvable = resources_lack(&self.cluster, shape, row, &Default::default()).unresolvable;
                return Some(Failure { plugin: Plugin::NodeResourcesFit, reasons, unresolvable });
            }
        }
        if profile.filters(Plugin::InterPodAffinity) {
            let facts = self.cluster.facts(row)?;
            for other in others {
                let conflict = |terms: &[crate::shape::PodTerm], meant: &Shape| {
                    terms.iter().any(|term| facts.label(term.key).is_some() && term.matches(meant, &self.cluster))
                };
                if conflict(&shape.anti_affinity, other) {
                    let reason = "node(s) didn't match pod anti-affinity rules";
                    return Some(Failure::resolvable(Plugin::InterPodAffinity, reason));
                }
                if conflict(&other.anti_affinity, shape) {
                    let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
                    return Some(Failure::resolvable(Plugin::InterPodAffinity, reason));
                }
            }
        }
        None
    }

    /// One of the best nodes; none when no node will do. The error is a policy's whose profile wants no pod placed
    /// without it.
    fn choose(&mut self, queued: &QueuedPod, ranking: &mut Ranking, now_ms: u64) -> Result<Option<Row>, String> {
        if let Some(nominated) = self.nominated.get(&queued.uid)
            && let Some(row) = self.cluster.row_named(&nominated.node)
            && ranking.will_do(row)
        {
            return Ok(Some(row));
        }
        let (profile, policy) = &mut self.profiles[queued.profile];
        let Some(policy) = policy else { return Ok(ranking.choose(&mut self.random).map(|(row, _)| row)) };
        let Some(shape) = self.cluster.shapes.get(queued.shape) else { return Ok(None) };
        ranking.candidates(&mut self.rows, &mut self.scores);
        if self.rows.is_empty() {
            return Ok(None);
        }
        let weight = profile.weight(Plugin::Policy);
        let (answers, reasons) = match policy.ask(&self.cluster, shape, &queued.pod, &self.rows, now_ms) {
            Ok(answer) => answer,
            Err(error) => {
                let trouble =
                    PolicyTrouble { pod: queued.pod.clone(), reason: error.reason(), message: error.to_string() };
                self.troubles.push(trouble);
                return match policy.config().on_failure {
                    OnPolicyFailure::Ignore => Ok(ranking.choose(&mut self.random).map(|(row, _)| row)),
                    OnPolicyFailure::Retry => Err(format!("running Score plugin {:?}: {error}", "Policy")),
                };
            }
        };
        let mut best = i64::MIN;
        let mut ties: Vec<Row> = Vec::new();
        let mut refused: Vec<(Row, usize)> = Vec::new();
        for ((row, base), answer) in self.rows.iter().zip(&self.scores).zip(answers) {
            if *answer < 0 {
                refused.push((*row, usize::try_from(-(answer + 1)).unwrap_or(0)));
                continue;
            }
            // A policy's points are hundredths of upstream's.
            let total = base * 100 + weight * answer;
            if total > best {
                best = total;
                ties.clear();
            }
            if total == best {
                ties.push(*row);
            }
        }
        if ties.is_empty() {
            let ids: Vec<FailureId> = reasons
                .iter()
                .map(|reason| self.failures.id(Failure::unresolvable(Plugin::Policy, reason.clone())))
                .collect();
            for (row, reason) in refused {
                if let Some(id) = ids.get(reason) {
                    ranking.refuse(row, *id);
                    self.rows.push(row);
                }
            }
            return Ok(None);
        }
        let pick = rand::Rng::random_range(&mut self.random, 0..ties.len());
        Ok(ties.get(pick).copied())
    }

    fn place(&mut self, queued: &QueuedPod, ranking: &Ranking, row: Row) -> Decision {
        let node = self.cluster.name(row).to_owned();
        let plan = ranking.needs().map(|needs| needs.plan(&self.cluster, row).unwrap_or_default());
        let volumes = plan.unwrap_or_default();
        let claims = self.cluster.shapes.get(queued.shape).map_or_else(Vec::new, |shape| {
            shape.claims.iter().map(|claim| (shape.namespace.to_string(), claim.name.to_string())).collect()
        });
        for (volume, claim) in &volumes.bind {
            self.cluster.storage.promise(volume, claim.clone());
        }
        self.cluster.place_pod(queued.pod.clone(), &node, true);
        Decision::Place(Placement { pod: queued.pod.clone(), uid: queued.uid.clone(), node, volumes, claims })
    }

    fn explain(&mut self, queued: &QueuedPod, ranking: &mut Ranking, now_ms: u64) -> Decision {
        let refusals = ranking.refusals(&self.cluster, &mut self.failures);
        let known = refusals.iter().filter_map(|(id, rows)| Some((self.failures.get(*id)?, *rows)));
        let by: PluginSet = known.clone().map(|(failure, _)| failure.plugin).collect();
        let reasons =
            known.flat_map(|(failure, rows)| failure.reasons.iter().map(move |reason| (reason.as_str(), rows)));
        let mut message = fit_message(self.cluster.node_count(), reasons);
        let mut refusal = refusal(queued, String::new());
        let profile = self.profiles[queued.profile].0.clone();
        // What a policy refused for this pod is open again for the next.
        let policy_rows = if by.contains(Plugin::Policy) { std::mem::take(&mut self.rows) } else { Vec::new() };
        if profile.filters(Plugin::DefaultPreemption) {
            let nominated =
                self.nominated.get(&queued.uid).and_then(|nominated| self.cluster.row_named(&nominated.node));
            let outcome = preempt(
                &self.cluster,
                ranking,
                &self.failures,
                &self.budgets,
                &queued.pod,
                nominated,
                &mut self.random,
            );
            match outcome {
                Preemption::NotEligible(why) => message.push_str(&format!(" {NO_CLAIMS}, preemption: {why}")),
                Preemption::Hopeless(why) => {
                    message.push_str(&format!(" {NO_CLAIMS}, preemption: {why}"));
                    refusal.nominate = Some(String::new());
                    self.drop_nomination(&queued.uid);
                }
                Preemption::Possible(candidate) => {
                    let node = self.cluster.name(candidate.row).to_owned();
                    refusal.victims = candidate.victims.iter().map(|victim| victim.pod.clone()).collect();
                    refusal.outdone = self.outdone(&node, queued);
                    refusal.nominate = Some(node.clone());
                    self.set_nomination(&queued.uid, &queued.pod, &node, queued.shape);
                }
            }
        }
        for row in policy_rows {
            ranking.reconsider(&self.cluster, &mut self.failures, row);
        }
        refusal.message = message;
        if refusal.victims.is_empty() {
            self.queue.refused(&queued.uid, by, now_ms);
        } else {
            // It is not tried again before its victims have been told to go.
            self.queue.evicting(&queued.uid, by, now_ms);
        }
        Decision::Refuse(refusal)
    }

    /// Lesser pods that waited for a node which a more important one takes.
    fn outdone(&mut self, node: &str, queued: &QueuedPod) -> Vec<Arc<Pod>> {
        let lesser: Vec<(Arc<str>, Arc<Pod>)> = self
            .nominated
            .iter()
            .filter(|(uid, other)| **uid != queued.uid && other.node == node && other.priority < queued.priority)
            .map(|(uid, other)| (uid.clone(), other.pod.clone()))
            .collect();
        for (uid, _) in &lesser {
            self.drop_nomination(uid);
            self.queue.activate(uid);
        }
        lesser.into_iter().map(|(_, pod)| pod).collect()
    }
}

fn refusal(queued: &QueuedPod, message: String) -> Refusal {
    Refusal {
        pod: queued.pod.clone(),
        uid: queued.uid.clone(),
        why: Why::Unschedulable,
        message,
        nominate: None,
        victims: Vec::new(),
        outdone: Vec::new(),
    }
}

fn refuse(queued: &QueuedPod, message: String) -> Decision {
    Decision::Refuse(refusal(queued, message))
}
