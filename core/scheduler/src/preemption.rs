//! Making room for a more important pod (upstream's DefaultPreemption): which pods of which node would have to go.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use gantry_api::selectors::LabelSelector;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use rand::Rng;

use crate::cluster::{Cluster, PlacedPod, Row};
use crate::failure::{Failure, Failures, fit_message};
use crate::local::Removed;
use crate::ranking::Ranking;
use crate::shape::selectors::{labels_of, of_api, selects};

/// At least this many nodes are looked at for victims.
const CANDIDATES_MIN: usize = 100;
/// At least this part of the nodes, in percent.
const CANDIDATES_PERCENT: usize = 10;

/// A budget of disruptions.
#[derive(Clone, Debug)]
struct Budget {
    namespace: String,
    selector: LabelSelector,
    allowed: i32,
    disrupted: BTreeSet<String>,
}

/// All budgets.
#[derive(Clone, Debug, Default)]
pub struct Budgets {
    all: HashMap<(String, String), Budget>,
}

impl Budgets {
    /// A budget is new or has changed.
    pub fn apply(&mut self, budget: &PodDisruptionBudget) {
        let namespace = budget.metadata.namespace.clone().unwrap_or_default();
        let name = budget.metadata.name.clone().unwrap_or_default();
        let status = budget.status.as_ref();
        let known = Budget {
            namespace: namespace.clone(),
            selector: of_api(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref())),
            allowed: status.and_then(|status| status.disruptions_allowed).unwrap_or(0),
            disrupted: status
                .and_then(|status| status.disrupted_pods.as_ref())
                .into_iter()
                .flat_map(|pods| pods.keys().cloned())
                .collect(),
        };
        self.all.insert((namespace, name), known);
    }

    /// A budget is gone.
    pub fn remove(&mut self, namespace: &str, name: &str) {
        self.all.remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// Of pods that would go in this order, which ones a budget does not allow to go.
    fn violations(&self, pods: &[&PlacedPod]) -> Vec<bool> {
        let mut left: Vec<(&Budget, i32)> = self.all.values().map(|budget| (budget, budget.allowed)).collect();
        pods.iter()
            .map(|placed| {
                let labels = labels_of(placed.pod.metadata.labels.as_ref());
                let namespace = placed.pod.metadata.namespace.as_deref().unwrap_or_default();
                let name = placed.pod.metadata.name.as_deref().unwrap_or_default();
                let mut violated = false;
                for (budget, left) in &mut left {
                    let meant = !labels.is_empty()
                        && budget.namespace == namespace
                        && !budget.selector.is_everything()
                        && selects(&budget.selector, &labels)
                        && !budget.disrupted.contains(name);
                    if meant {
                        *left -= 1;
                        violated |= *left < 0;
                    }
                }
                violated
            })
            .collect()
    }
}

/// A node and the pods that would have to go.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The node's row.
    pub row: Row,
    /// The most important first.
    pub victims: Vec<PlacedPod>,
    violations: usize,
}

/// What preemption has come to.
#[derive(Clone, Debug)]
pub enum Preemption {
    /// It isn't tried; why.
    NotEligible(&'static str),
    /// It can't help; in words.
    Hopeless(String),
    /// These must go.
    Possible(Candidate),
}

/// Whether a pod is being deleted because the scheduler said so.
fn preempted(placed: &PlacedPod) -> bool {
    let conditions = placed.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    placed.terminating
        && conditions.into_iter().flatten().any(|condition| {
            condition.type_ == "DisruptionTarget"
                && condition.status == "True"
                && condition.reason.as_deref() == Some("PreemptionByScheduler")
        })
}

fn more_important(one: &PlacedPod, other: &PlacedPod) -> std::cmp::Ordering {
    let since = |placed: &PlacedPod| placed.started().unwrap_or(Timestamp::MAX);
    (Reverse(one.priority), since(one)).cmp(&(Reverse(other.priority), since(other)))
}

/// Looks for the node whose pods are missed least. The ranking is in step with the cluster and judged.
pub fn preempt(
    cluster: &Cluster,
    ranking: &mut Ranking,
    failures: &Failures,
    budgets: &Budgets,
    pod: &Pod,
    nominated: Option<Row>,
    random: &mut impl Rng,
) -> Preemption {
    let spec = pod.spec.as_ref();
    let priority = spec.and_then(|spec| spec.priority).unwrap_or(0);
    if spec.and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never") {
        return Preemption::NotEligible("not eligible due to preemptionPolicy=Never.");
    }
    let rows = ranking.resolvable_rows(failures);
    if let Some(row) = nominated
        && rows.contains(&row)
        && cluster.pods_on(row).any(|placed| placed.priority < priority && preempted(placed))
    {
        return Preemption::NotEligible("not eligible due to a terminating pod on the nominated node.");
    }
    let nodes = cluster.node_count();
    let wanted = (rows.len() * CANDIDATES_PERCENT / 100).max(CANDIDATES_MIN).min(rows.len());
    let offset = if rows.is_empty() { 0 } else { random.random_range(0..rows.len()) };
    let mut candidates = Vec::new();
    let mut refused: Vec<Failure> = Vec::new();
    for at in 0..rows.len() {
        let row = rows[(offset + at) % rows.len()];
        match victims_on(cluster, ranking, budgets, row, priority) {
            Ok(candidate) => candidates.push(candidate),
            Err(failure) => refused.push(failure),
        }
        if candidates.len() >= wanted {
            break;
        }
    }
    match candidates.into_iter().min_by(|one, other| regret(one).cmp(&regret(other))) {
        Some(best) => Preemption::Possible(best),
        None => {
            let unhelpful = nodes.saturating_sub(refused.len());
            let reasons = refused.iter().flat_map(|failure| &failure.reasons).map(|reason| (reason.as_str(), 1));
            let reasons = reasons.chain([("Preemption is not helpful for scheduling", unhelpful)]);
            Preemption::Hopeless(fit_message(nodes, reasons))
        }
    }
}

/// What is to be kept small, in order of importance: budgets violated, the highest priority that goes, the sum of
/// priorities, the number of victims, and how long the most important one has run.
fn regret(candidate: &Candidate) -> (usize, i32, i64, usize, Reverse<Timestamp>) {
    let victims = &candidate.victims;
    let highest = victims.first().map_or(i32::MIN, |victim| victim.priority);
    let sum = victims.iter().map(|victim| i64::from(victim.priority) + i64::from(i32::MAX) + 1).sum();
    let latest = victims.iter().filter(|victim| victim.priority == highest).filter_map(PlacedPod::started).min();
    (candidate.violations, highest, sum, victims.len(), Reverse(latest.unwrap_or(Timestamp::MAX)))
}

fn victims_on(
    cluster: &Cluster,
    ranking: &mut Ranking,
    budgets: &Budgets,
    row: Row,
    priority: i32,
) -> Result<Candidate, Failure> {
    let mut lesser: Vec<&PlacedPod> = cluster.pods_on(row).filter(|placed| placed.priority < priority).collect();
    if lesser.is_empty() {
        let reason = "No preemption victims found for incoming pod";
        return Err(Failure::unresolvable(crate::plugin::Plugin::DefaultPreemption, reason));
    }
    let mut removed = Removed::default();
    lesser.iter().for_each(|placed| removed.take(placed.shape, placed.terminating));
    if let Some(failure) = ranking.failure_without(cluster, row, &removed) {
        return Err(failure);
    }
    lesser.sort_by(|one, other| more_important(one, other));
    let violated = budgets.violations(&lesser);
    // Those that a budget protects are spared first.
    let protected = lesser.iter().zip(&violated).filter(|(_, violated)| **violated);
    let others = lesser.iter().zip(&violated).filter(|(_, violated)| !**violated);
    let mut victims: Vec<PlacedPod> = Vec::new();
    let mut violations = 0;
    for (placed, violated) in protected.chain(others) {
        removed.put_back(placed.shape, placed.terminating);
        if ranking.failure_without(cluster, row, &removed).is_some() {
            removed.take(placed.shape, placed.terminating);
            violations += usize::from(*violated);
            victims.push((*placed).clone());
        }
    }
    if victims.is_empty() {
        let reason = "No preemption victims found for incoming pod";
        return Err(Failure::unresolvable(crate::plugin::Plugin::DefaultPreemption, reason));
    }
    victims.sort_by(more_important);
    Ok(Candidate { row, victims, violations })
}
