//! What a shape counts about other pods: for its spread constraints and its pod affinity, and for the terms of pods
//! that are placed already.

use std::sync::Arc;

use gantry_api::selectors::LabelSelector;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::cluster::Cluster;
use crate::cluster::node::{HOSTNAME, ZONE};
use crate::cluster::shapes::ShapeId;
use crate::config::Profile;
use crate::interner::Atom;
use crate::plugin::Plugin;
use crate::shape::selectors::selects;
use crate::shape::{Shape, Spread};

/// What a required affinity term of a placed pod adds to the score of its neighbours (upstream's
/// `hardPodAffinityWeight`).
const HARD_AFFINITY_WEIGHT: i32 = 1;
/// How many effects of shapes are remembered; beyond it they are found out anew. About 100 bytes each.
const EFFECTS_MAX: usize = 100_000;

/// A label that divides the nodes into domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The label.
    pub key: Atom,
    /// Whether each node is a domain of its own.
    pub per_row: bool,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Pods that a spread constraint selects.
    Spread(usize),
    /// Pods that all required affinity terms select.
    Near,
    /// Pods that a required anti-affinity term selects.
    Far,
    /// Pods whose required anti-affinity selects us.
    FarFromUs,
    /// Preferences, theirs and ours, by weight.
    Wish,
}

/// A number for each domain, or for each row where that is the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// By which label.
    pub slot: usize,
    /// What.
    pub counted: Counted,
    /// Whether a row's own number decides, rather than its domain's.
    pub per_row: bool,
}

/// What a pod of another shape adds to the counters.
#[derive(Clone, Debug, Default)]
pub struct EffectOfShape {
    /// Counter and amount, for each pod.
    pub each: SmallVec<[(u16, i32); 2]>,
    /// Counters to which a pod that isn't being deleted adds one.
    pub spread: SmallVec<[u16; 2]>,
}

/// The counters of a shape.
#[derive(Debug, Default)]
pub struct Terms {
    /// The labels that divide the nodes.
    pub slots: Vec<Slot>,
    /// The counters.
    pub counters: Vec<Counter>,
    /// The spread constraints: the shape's own, or the default ones.
    pub spreads: Vec<Spread>,
    /// Whether a node must have the labels of all `ScheduleAnyway` constraints to be scored by them.
    pub all_labels: bool,
    /// Whether the shape is selected by each spread constraint.
    pub own_spread: Vec<bool>,
    /// Whether the shape is selected by its own required affinity.
    pub own_near: bool,
    /// The default selector that the constraints were made with.
    pub default_selector: Option<LabelSelector>,
    effects: FxHashMap<ShapeId, u32>,
    effect_list: Vec<EffectOfShape>,
}

/// The selector of upstream's default constraints, if the shape has none of its own and somebody selects its pods.
pub fn default_selector(cluster: &Cluster, shape: &Shape, profile: &Profile) -> Option<LabelSelector> {
    let scored = profile.weight(Plugin::PodTopologySpread) != 0;
    if scored && shape.spreads.is_empty() { cluster.owners.selector_for(shape) } else { None }
}

impl Terms {
    /// Of a shape.
    pub fn of(cluster: &mut Cluster, shape: &Shape, profile: &Profile) -> Self {
        let mut terms = Self { all_labels: true, ..Self::default() };
        let unique = cluster.hosts_are_unique();
        let host = cluster.atoms.intern(HOSTNAME);
        let zone = cluster.atoms.intern(ZONE);
        terms.default_selector = default_selector(cluster, shape, profile);
        terms.spreads = shape
            .spreads
            .iter()
            .filter(|spread| {
                if spread.hard {
                    profile.filters(Plugin::PodTopologySpread)
                } else {
                    profile.weight(Plugin::PodTopologySpread) != 0
                }
            })
            .cloned()
            .collect();
        if let Some(selector) = &terms.default_selector {
            terms.all_labels = false;
            terms.spreads = [(host, 3), (zone, 5)]
                .map(|(key, max_skew)| Spread {
                    key,
                    max_skew,
                    min_domains: 1,
                    hard: false,
                    honor_affinity: true,
                    honor_taints: false,
                    selector: selector.clone(),
                })
                .to_vec();
        }
        for at in 0..terms.spreads.len() {
            let spread = &terms.spreads[at];
            let is_host = spread.key == host;
            // Scores look at the node's own pods where the label is that of the host, filters at the domain's.
            let per_row = is_host && (unique || !spread.hard);
            terms.own_spread.push(selects(&terms.spreads[at].selector, &shape.labels));
            let slot = terms.slot(terms.spreads[at].key, is_host && unique);
            terms.counters.push(Counter { slot, counted: Counted::Spread(at), per_row });
        }
        let per_row = |key: Atom| key == host && unique;
        if profile.filters(Plugin::InterPodAffinity) {
            terms.own_near = shape.affinity.iter().all(|term| term.matches(shape, cluster));
            for term in &shape.affinity {
                terms.counter(term.key, Counted::Near, per_row(term.key));
            }
            for term in &shape.anti_affinity {
                terms.counter(term.key, Counted::Far, per_row(term.key));
            }
        }
        if profile.weight(Plugin::InterPodAffinity) != 0 {
            for wish in &shape.preferred_pods {
                terms.counter(wish.term.key, Counted::Wish, per_row(wish.term.key));
            }
        }
        for (key, counted) in theirs(cluster, shape, profile, ShapeId(0)) {
            terms.counter(key, counted, per_row(key));
        }
        terms
    }

    /// Whether shapes that are newer than those known need counters that aren't there.
    pub fn need_more(&self, cluster: &Cluster, shape: &Shape, profile: &Profile, from: ShapeId) -> bool {
        theirs(cluster, shape, profile, from).into_iter().any(|(key, counted)| self.find(key, counted).is_none())
    }

    fn slot(&mut self, key: Atom, per_row: bool) -> usize {
        self.slots.iter().position(|slot| slot.key == key).unwrap_or_else(|| {
            self.slots.push(Slot { key, per_row });
            self.slots.len() - 1
        })
    }

    fn counter(&mut self, key: Atom, counted: Counted, per_row: bool) {
        if self.find(key, counted).is_none() {
            let slot = self.slot(key, per_row);
            self.counters.push(Counter { slot, counted, per_row });
        }
    }

    /// The counter of something by a label.
    pub fn find(&self, key: Atom, counted: Counted) -> Option<usize> {
        self.counters.iter().position(|known| known.counted == counted && self.slots[known.slot].key == key)
    }

    /// What a pod of a shape adds.
    pub fn effect(&mut self, cluster: &Cluster, own: &Shape, profile: &Profile, id: ShapeId) -> &EffectOfShape {
        let at = match self.effects.get(&id) {
            Some(at) => *at,
            None => {
                if self.effect_list.len() >= EFFECTS_MAX {
                    self.effects.clear();
                    self.effect_list.clear();
                }
                let effect =
                    cluster.shapes.get(id).map(|other| self.find_out(cluster, own, profile, other)).unwrap_or_default();
                let at = u32::try_from(self.effect_list.len()).unwrap_or(u32::MAX);
                self.effect_list.push(effect);
                self.effects.insert(id, at);
                at
            }
        };
        &self.effect_list[at as usize]
    }

    fn find_out(&self, cluster: &Cluster, own: &Shape, profile: &Profile, other: &Arc<Shape>) -> EffectOfShape {
        let mut effect = EffectOfShape::default();
        let mut add = |key: Atom, counted: Counted, amount: i32| {
            let Some(counter) = self.find(key, counted) else { return };
            let counter = u16::try_from(counter).unwrap_or(u16::MAX);
            match effect.each.iter_mut().find(|(known, _)| *known == counter) {
                Some((_, sum)) => *sum = sum.saturating_add(amount),
                None => effect.each.push((counter, amount)),
            }
        };
        if profile.filters(Plugin::InterPodAffinity) {
            if !own.affinity.is_empty() && own.affinity.iter().all(|term| term.matches(other, cluster)) {
                let mut keys: SmallVec<[Atom; 2]> = own.affinity.iter().map(|term| term.key).collect();
                keys.sort_unstable();
                keys.dedup();
                keys.into_iter().for_each(|key| add(key, Counted::Near, 1));
            }
            for term in own.anti_affinity.iter().filter(|term| term.matches(other, cluster)) {
                add(term.key, Counted::Far, 1);
            }
            for term in other.anti_affinity.iter().filter(|term| term.matches(own, cluster)) {
                add(term.key, Counted::FarFromUs, 1);
            }
        }
        if profile.weight(Plugin::InterPodAffinity) != 0 {
            for wish in own.preferred_pods.iter().filter(|wish| wish.term.matches(other, cluster)) {
                add(wish.term.key, Counted::Wish, wish.weight);
            }
            for wish in other.preferred_pods.iter().filter(|wish| wish.term.matches(own, cluster)) {
                add(wish.term.key, Counted::Wish, wish.weight);
            }
            for term in other.affinity.iter().filter(|term| term.matches(own, cluster)) {
                add(term.key, Counted::Wish, HARD_AFFINITY_WEIGHT);
            }
        }
        for (at, counter) in self.counters.iter().enumerate() {
            if let Counted::Spread(spread) = counter.counted
                && own.namespace == other.namespace
                && selects(&self.spreads[spread].selector, &other.labels)
            {
                effect.spread.push(u16::try_from(at).unwrap_or(u16::MAX));
            }
        }
        effect
    }
}

/// What placed pods say about pods of a shape.
fn theirs(cluster: &Cluster, own: &Shape, profile: &Profile, from: ShapeId) -> Vec<(Atom, Counted)> {
    let mut found = Vec::new();
    for (_, other) in cluster.shapes.with_terms_from(from) {
        if profile.filters(Plugin::InterPodAffinity) {
            let far = other.anti_affinity.iter().filter(|term| term.matches(own, cluster));
            found.extend(far.map(|term| (term.key, Counted::FarFromUs)));
        }
        if profile.weight(Plugin::InterPodAffinity) != 0 {
            let wishes = other.preferred_pods.iter().map(|wish| &wish.term).chain(&other.affinity);
            found.extend(wishes.filter(|term| term.matches(own, cluster)).map(|term| (term.key, Counted::Wish)));
        }
    }
    found.sort_unstable_by_key(|(key, counted)| (*key, matches!(counted, Counted::Wish)));
    found.dedup();
    found
}
