//! Filters and scores that look at one node by itself.

use smallvec::SmallVec;

use crate::cluster::node::NodeFacts;
use crate::cluster::shapes::ShapeId;
use crate::cluster::{Cluster, Row};
use crate::config::Profile;
use crate::failure::Failure;
use crate::interner::Atom;
use crate::plugin::Plugin;
use crate::resources::ResourceId;
use crate::shape::Shape;
use crate::shape::tolerations::{Effect, Taint, intolerable, tolerated};

/// The best score that a plugin gives.
pub const SCORE_MAX: i64 = 100;
/// An image below this size adds nothing, in bytes.
const IMAGE_BYTES_MIN: i64 = 23 * 1024 * 1024;
/// Above this size (for each container) an image adds no more, in bytes.
const IMAGE_BYTES_MAX: i64 = 1000 * 1024 * 1024;
/// The taint that `spec.unschedulable` stands for.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Pods of a row that are thought away, by shape.
#[derive(Clone, Debug, Default)]
pub struct Removed {
    /// Shape, how many, and how many of those are being deleted.
    pub shapes: SmallVec<[(ShapeId, u32, u32); 4]>,
}

impl Removed {
    /// Thinks a pod away.
    pub fn take(&mut self, shape: ShapeId, terminating: bool) {
        let more = u32::from(terminating);
        match self.shapes.iter_mut().find(|(known, ..)| *known == shape) {
            Some((_, pods, ending)) => {
                *pods += 1;
                *ending += more;
            }
            None => self.shapes.push((shape, 1, more)),
        }
    }

    /// Thinks a pod back.
    pub fn put_back(&mut self, shape: ShapeId, terminating: bool) {
        if let Some((_, pods, ending)) = self.shapes.iter_mut().find(|(known, ..)| *known == shape) {
            *pods = pods.saturating_sub(1);
            *ending = ending.saturating_sub(u32::from(terminating));
        }
    }

    /// How many pods of a shape are thought away.
    pub fn pods_of(&self, shape: ShapeId) -> u32 {
        self.shapes.iter().find(|(known, ..)| *known == shape).map_or(0, |(_, pods, _)| *pods)
    }

    fn amount(&self, cluster: &Cluster, resource: ResourceId) -> i64 {
        let of = |(shape, pods, _): &(ShapeId, u32, u32)| {
            let each = if resource == ResourceId::PODS {
                1
            } else {
                cluster.shapes.get(*shape).map_or(0, |shape| shape.requests.get(resource))
            };
            each.saturating_mul(i64::from(*pods))
        };
        self.shapes.iter().map(of).sum()
    }
}

/// What NodeUnschedulable, NodeName, TaintToleration and NodeAffinity say: it depends on a node's facts only.
pub fn facts_failure(cluster: &Cluster, shape: &Shape, profile: &Profile, facts: &NodeFacts) -> Option<Failure> {
    let atoms = &cluster.atoms;
    if facts.unschedulable && profile.filters(Plugin::NodeUnschedulable) {
        let taint = atoms.find(UNSCHEDULABLE).map(|key| Taint { key, value: Atom::EMPTY, effect: Effect::NoSchedule });
        // A key that nobody has ever named is tolerated only by those who tolerate every key.
        let taint = taint.unwrap_or(Taint { key: Atom(u32::MAX), value: Atom::EMPTY, effect: Effect::NoSchedule });
        if !tolerated(&shape.tolerations, &[taint], atoms) {
            return Some(Failure::unresolvable(Plugin::NodeUnschedulable, "node(s) were unschedulable"));
        }
    }
    if profile.filters(Plugin::TaintToleration)
        && !facts.taints.is_empty()
        && !tolerated(&shape.tolerations, &facts.taints, atoms)
    {
        return Some(Failure::unresolvable(Plugin::TaintToleration, "node(s) had untolerated taint(s)"));
    }
    if profile.filters(Plugin::NodeAffinity) && !shape.node.matches(facts.selectable(), atoms) {
        let reason = "node(s) didn't match Pod's node affinity/selector";
        return Some(Failure::unresolvable(Plugin::NodeAffinity, reason));
    }
    None
}

/// Whether a node has the ports.
pub fn ports_free(cluster: &Cluster, shape: &Shape, row: Row, removed: &Removed) -> bool {
    shape.ports.is_empty()
        || !cluster.shapes_on(row).iter().any(|count| {
            count.pods > removed.pods_of(count.shape)
                && cluster.shapes.get(count.shape).is_some_and(|other| {
                    other.ports.iter().any(|used| shape.ports.iter().any(|wanted| wanted.conflicts(used)))
                })
        })
}

/// NodePorts' failure.
pub fn ports_failure() -> Failure {
    Failure::resolvable(Plugin::NodePorts, "node(s) didn't have free ports for the requested pod ports")
}

/// Of what a node has too little: bit 31 for pods, else a bit for each of the shape's amounts; and whether it would
/// be too little of an empty node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lack {
    /// Of what.
    pub bits: u32,
    /// Whether an empty node has too little.
    pub unresolvable: bool,
}

const PODS_BIT: u32 = 1 << 31;

/// Whether a node has what a shape asks for beside what its pods have asked for.
pub fn resources_lack(cluster: &Cluster, shape: &Shape, row: Row, removed: &Removed) -> Lack {
    let mut lack = Lack::default();
    let freed = |resource| if removed.shapes.is_empty() { 0 } else { removed.amount(cluster, resource) };
    let pods = cluster.requested(ResourceId::PODS, row) - freed(ResourceId::PODS);
    if pods + 1 > cluster.allocatable(ResourceId::PODS, row) {
        lack.bits |= PODS_BIT;
    }
    for (at, (resource, wanted)) in shape.requests.amounts.iter().enumerate() {
        let allocatable = cluster.allocatable(*resource, row);
        let used = cluster.requested(*resource, row) - freed(*resource);
        if *wanted > allocatable.saturating_sub(used) {
            lack.bits |= 1 << at.min(30);
            lack.unresolvable |= *wanted > allocatable;
        }
    }
    lack
}

/// NodeResourcesFit's failure.
pub fn lack_failure(cluster: &Cluster, shape: &Shape, lack: Lack) -> Failure {
    let mut reasons = Vec::new();
    if lack.bits & PODS_BIT != 0 {
        reasons.push("Too many pods".to_owned());
    }
    for (at, (resource, _)) in shape.requests.amounts.iter().enumerate() {
        if lack.bits & (1 << at.min(30)) != 0 {
            reasons.push(format!("Insufficient {}", cluster.resources.name(*resource)));
        }
    }
    Failure { plugin: Plugin::NodeResourcesFit, reasons, unresolvable: lack.unresolvable }
}

/// How empty a node would be (upstream's LeastAllocated over CPU and memory).
pub fn least_allocated(capacity: (i64, i64), requested: (i64, i64)) -> i64 {
    let mut sum = 0;
    let mut count = 0;
    for (capacity, requested) in [(capacity.0, requested.0), (capacity.1, requested.1)] {
        if capacity > 0 {
            count += 1;
            if requested <= capacity {
                sum += ((i128::from(capacity - requested) * i128::from(SCORE_MAX)) / i128::from(capacity)) as i64;
            }
        }
    }
    if count == 0 { 0 } else { sum / count }
}

/// How alike the used parts of CPU and memory would be (upstream's BalancedAllocation).
pub fn balanced(capacity: (i64, i64), requested: (i64, i64)) -> i64 {
    let part = |capacity: i64, requested: i64| (requested as f64 / capacity as f64).min(1.0);
    if capacity.0 == 0 || capacity.1 == 0 {
        return SCORE_MAX;
    }
    let deviation = ((part(capacity.0, requested.0) - part(capacity.1, requested.1)) / 2.0).abs();
    ((1.0 - deviation) * SCORE_MAX as f64) as i64
}

/// The weighted sum of the scores that depend on one node alone and aren't normalised, without images.
pub fn allocation_score(cluster: &Cluster, shape: &Shape, profile: &Profile, row: Row) -> i64 {
    let capacity = (cluster.allocatable(ResourceId::CPU, row), cluster.allocatable(ResourceId::MEMORY, row));
    let mut score = 0;
    let weight = profile.weight(Plugin::NodeResourcesFit);
    if weight != 0 {
        let (cpu, memory) = cluster.scored(row);
        let after = (cpu + shape.requests.scored_milli_cpu, memory + shape.requests.scored_memory_bytes);
        score += weight * least_allocated(capacity, after);
    }
    let weight = profile.weight(Plugin::NodeResourcesBalancedAllocation);
    let wanted = (shape.requests.get(ResourceId::CPU), shape.requests.get(ResourceId::MEMORY));
    if weight != 0 && wanted != (0, 0) {
        let used = (cluster.requested(ResourceId::CPU, row), cluster.requested(ResourceId::MEMORY, row));
        score += weight * balanced(capacity, (used.0 + wanted.0, used.1 + wanted.1));
    }
    score
}

/// How much of a pod's images a node has, given for each image its size there times the part of nodes that have it.
pub fn image_score(sum_bytes: i64, users: u32) -> i64 {
    let max = IMAGE_BYTES_MAX.saturating_mul(i64::from(users.max(1)));
    let sum = sum_bytes.clamp(IMAGE_BYTES_MIN, max);
    SCORE_MAX * (sum - IMAGE_BYTES_MIN) / (max - IMAGE_BYTES_MIN)
}

/// How many taints of a node would rather keep the pod away.
pub fn taint_wish(cluster: &Cluster, shape: &Shape, facts: &NodeFacts) -> i64 {
    if facts.taints.is_empty() { 0 } else { intolerable(&shape.tolerations, &facts.taints, &cluster.atoms) }
}

/// The weights of the preferred terms that a node meets.
pub fn affinity_wish(cluster: &Cluster, shape: &Shape, facts: &NodeFacts) -> i64 {
    let met = shape.preferred_node.iter().filter(|wish| wish.term.matches(facts.selectable(), &cluster.atoms));
    met.map(|wish| i64::from(wish.weight)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emptier_node_is_better() {
        // Capacity, requested afterwards, score; from upstream's own table.
        let cases = [
            ((4000, 10_000), (0, 0), 100),
            ((4000, 10_000), (3000, 5000), 37),
            ((6000, 10_000), (3000, 5000), 50),
            ((4000, 10_000), (6000, 0), 50),
            ((10_000, 0), (6000, 5000), 40),
            ((0, 0), (0, 0), 0),
        ];
        for (capacity, requested, expect) in cases {
            assert_eq!(least_allocated(capacity, requested), expect, "{requested:?} of {capacity:?}");
        }
    }

    #[test]
    fn even_use_is_better() {
        let cases = [
            ((4000, 10_000), (0, 0), 100),
            ((4000, 10_000), (3000, 5000), 87),
            ((6000, 10_000), (3000, 5000), 100),
            ((10_000, 20_000), (6000, 5000), 82),
            ((4000, 10_000), (6000, 0), 50),
        ];
        for (capacity, requested, expect) in cases {
            assert_eq!(balanced(capacity, requested), expect, "{requested:?} of {capacity:?}");
        }
    }

    #[test]
    fn images_count_by_size() {
        let mib = 1024 * 1024;
        assert_eq!(image_score(0, 1), 0);
        assert_eq!(image_score(23 * mib, 1), 0);
        assert_eq!(image_score(2000 * mib, 1), 100);
        assert_eq!(image_score(1000 * mib, 2), 49);
    }
}
