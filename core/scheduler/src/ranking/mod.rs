//! All nodes ranked for one shape, kept up to date by what changes: the filters and scores of a node are computed
//! again only when its row has changed, and a decision looks at classes of nodes, not at nodes.
//!
//! - [`classes`]: rows that differ in nothing but their local score
//! - [`terms`]: what is counted about other pods
//! - [`judge`]: which classes will do, and how good they are; the decision itself

pub mod classes;
pub mod judge;
pub mod terms;

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::cluster::shapes::ShapeId;
use crate::cluster::{Cluster, Epochs, Row};
use crate::config::Profile;
use crate::failure::{Failure, FailureId, Failures};
use crate::interner::Atom;
use crate::local::{
    Lack, Removed, affinity_wish, allocation_score, facts_failure, image_score, lack_failure, ports_failure,
    ports_free, resources_lack, taint_wish,
};
use crate::plugin::Plugin;
use crate::shape::Shape;
use crate::shape::tolerations::tolerated;
use crate::volumes::VolumeNeeds;
use classes::{ClassId, ClassKey, Classes};
use terms::{Counted, Terms, default_selector};

/// Where a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has no node, or isn't looked at.
    Absent,
    /// A local filter refuses it.
    Refused(FailureId),
    /// It is in a class, with this local score.
    In(ClassId, i32),
}

#[derive(Clone, Copy, Debug, Default)]
struct Domain {
    sum: i64,
    /// Rows that are counted; a domain without any doesn't exist.
    rows: u32,
}

/// The position of each image's weight is kept in steps of this many bytes, so that one more node that has an image
/// doesn't change the ranking of all.
const IMAGE_STEP_BYTES: i64 = 4 * 1024 * 1024;

/// The nodes, ranked for a shape.
pub struct Ranking {
    shape: Arc<Shape>,
    profile: Arc<Profile>,
    terms: Terms,
    /// Whether its rows have been looked at.
    built: bool,
    position: u64,
    epochs: Epochs,
    owners_epoch: u64,
    shapes_known: ShapeId,
    /// The only rows that are looked at; none: all.
    only: Option<Vec<Row>>,
    standings: Vec<Standing>,
    classes: Classes,
    /// By failure: how many rows.
    refused: FxHashMap<FailureId, u32>,
    /// By row and slot: the domain, 0 for none, else its atom and 1.
    domains_of: Vec<u32>,
    /// By row and counter: the row's own number.
    numbers: Vec<i32>,
    /// By row: a bit for each of the first 32 spread constraints that counts it; further ones count all rows.
    counted: Vec<u32>,
    /// By counter: its domains.
    domains: Vec<FxHashMap<u32, Domain>>,
    /// By counter of rows: how many rows have which number.
    histograms: Vec<BTreeMap<i32, u32>>,
    /// How many pods there are, on nodes with the label, to be near to.
    near_total: i64,
    facts_failures: Vec<Option<FailureId>>,
    image_weights: SmallVec<[(Atom, i64); 2]>,
    lacks: SmallVec<[(Lack, FailureId); 4]>,
    needs: Option<VolumeNeeds>,
    /// A failure of all nodes at once.
    everywhere: Option<Failure>,
    scratch: judge::Scratch,
}

impl Ranking {
    /// Of a shape in a profile; nothing is looked at yet.
    pub fn new(shape: Arc<Shape>, profile: Arc<Profile>) -> Self {
        Self {
            shape,
            profile,
            terms: Terms::default(),
            built: false,
            position: 0,
            epochs: Epochs::default(),
            owners_epoch: 0,
            shapes_known: ShapeId(0),
            only: None,
            standings: Vec::new(),
            classes: Classes::default(),
            refused: FxHashMap::default(),
            domains_of: Vec::new(),
            numbers: Vec::new(),
            counted: Vec::new(),
            domains: Vec::new(),
            histograms: Vec::new(),
            near_total: 0,
            facts_failures: Vec::new(),
            image_weights: SmallVec::new(),
            lacks: SmallVec::new(),
            needs: None,
            everywhere: None,
            scratch: judge::Scratch::default(),
        }
    }

    /// How many rows it keeps, as a measure of its memory.
    pub fn weight(&self) -> usize {
        self.standings.len() * (1 + self.terms.counters.len() / 4)
    }

    /// Failure of all nodes at once, as a claim that isn't there.
    pub fn everywhere(&self) -> Option<&Failure> {
        self.everywhere.as_ref()
    }

    /// What the shape's claims need.
    pub fn needs(&self) -> Option<&VolumeNeeds> {
        self.needs.as_ref()
    }

    /// Takes in what has changed since it was last looked at.
    pub fn sync(&mut self, cluster: &mut Cluster, failures: &mut Failures) {
        if self.is_outdated(cluster) {
            self.build(cluster, failures);
            return;
        }
        let log = &cluster.log;
        let changed: SmallVec<[(Row, bool); 16]> = match log.since(self.position) {
            Some(changes) => changes.map(|change| (change.row, change.facts)).collect(),
            None => SmallVec::new(),
        };
        self.position = log.position();
        for (at, (row, facts)) in changed.iter().enumerate() {
            // A row that changed several times is looked at once.
            let again =
                changed.len() <= 64 && changed[at + 1..].iter().any(|(later, more)| later == row && more >= facts);
            if !again {
                self.refresh(cluster, failures, *row, *facts);
            }
        }
    }

    fn is_outdated(&mut self, cluster: &Cluster) -> bool {
        let behind = cluster.log.len_since(self.position);
        if !self.built || behind.is_none_or(|behind| behind > cluster.row_count().max(64)) {
            return true;
        }
        // A new node may be one of those named; looking at a few rows costs little.
        if self.only.is_some() && behind != Some(0) {
            return true;
        }
        let now = cluster.epochs();
        let before = self.epochs;
        if before.hosts != now.hosts
            || before.namespaces != now.namespaces
            || (before.storage != now.storage && !self.shape.claims.is_empty())
        {
            return true;
        }
        if self.owners_epoch != cluster.owners.epoch() {
            if default_selector(cluster, &self.shape, &self.profile) != self.terms.default_selector {
                return true;
            }
            self.owners_epoch = cluster.owners.epoch();
        }
        let next = cluster.shapes.next_id();
        if self.shapes_known != next {
            if self.terms.need_more(cluster, &self.shape, &self.profile, self.shapes_known) {
                return true;
            }
            self.shapes_known = next;
        }
        !self.shape.images.is_empty() && self.image_weights != image_weights(cluster, &self.shape, &self.profile)
    }

    fn build(&mut self, cluster: &mut Cluster, failures: &mut Failures) {
        self.terms = Terms::of(cluster, &self.shape, &self.profile);
        self.built = true;
        self.position = cluster.log.position();
        self.epochs = cluster.epochs();
        self.owners_epoch = cluster.owners.epoch();
        self.shapes_known = cluster.shapes.next_id();
        self.image_weights = image_weights(cluster, &self.shape, &self.profile);
        self.only = None;
        if self.profile.filters(Plugin::NodeAffinity)
            && let Some(names) = self.shape.node.only_names()
            && self.terms.counters.is_empty()
        {
            self.only = Some(names.into_iter().filter_map(|name| cluster.row_of(name)).collect());
        }
        self.needs = None;
        self.everywhere = None;
        if !self.shape.claims.is_empty() {
            match VolumeNeeds::of(cluster, &self.shape, &self.profile) {
                Ok(needs) => self.needs = Some(needs),
                Err(failure) => self.everywhere = Some(failure),
            }
        }
        let rows = cluster.row_count();
        self.standings.clear();
        self.domains_of.clear();
        self.numbers.clear();
        self.counted.clear();
        self.facts_failures.clear();
        self.classes.reset(rows);
        self.refused.clear();
        self.lacks.clear();
        self.domains.clear();
        self.domains.resize_with(self.terms.counters.len(), FxHashMap::default);
        self.histograms.clear();
        self.histograms.resize_with(self.terms.counters.len(), BTreeMap::new);
        self.near_total = 0;
        self.grow(rows);
        if self.everywhere.is_some() {
            return;
        }
        match self.only.take() {
            Some(only) => {
                only.iter().for_each(|row| self.refresh(cluster, failures, *row, true));
                self.only = Some(only);
            }
            None => (0..rows as Row).for_each(|row| self.refresh(cluster, failures, row, true)),
        }
    }

    fn grow(&mut self, rows: usize) {
        if self.standings.len() < rows {
            self.standings.resize(rows, Standing::Absent);
            self.facts_failures.resize(rows, None);
            self.domains_of.resize(rows * self.terms.slots.len(), 0);
            self.numbers.resize(rows * self.terms.counters.len(), 0);
            if !self.terms.spreads.is_empty() {
                self.counted.resize(rows, 0);
            }
            self.classes.grow(rows);
        }
    }

    /// Looks at a row again.
    fn refresh(&mut self, cluster: &Cluster, failures: &mut Failures, row: Row, facts_changed: bool) {
        if self.everywhere.is_some() || self.only.as_ref().is_some_and(|only| !only.contains(&row)) {
            return;
        }
        self.grow(cluster.row_count());
        self.leave(row);
        let at = row as usize;
        let Some(facts) = cluster.facts(row) else {
            self.standings[at] = Standing::Absent;
            self.domains_of[at * self.terms.slots.len()..(at + 1) * self.terms.slots.len()].fill(0);
            self.numbers[at * self.terms.counters.len()..(at + 1) * self.terms.counters.len()].fill(0);
            if let Some(counted) = self.counted.get_mut(at) {
                *counted = 0;
            }
            return;
        };
        if facts_changed {
            let failure = facts_failure(cluster, &self.shape, &self.profile, facts);
            self.facts_failures[at] = failure.map(|failure| failures.id(failure));
            let slots = self.terms.slots.len();
            for (slot, place) in self.terms.slots.iter().zip(&mut self.domains_of[at * slots..]) {
                *place = facts.label(slot.key).map_or(0, |value| value.0 + 1);
            }
            if !self.terms.spreads.is_empty() {
                self.counted[at] = self.counted_by(cluster, row);
            }
        }
        if !self.terms.counters.is_empty() {
            self.count(cluster, row);
            self.contribute(row, 1);
        }
        let standing = match self.local_failure(cluster, failures, row) {
            Some(failure) => {
                *self.refused.entry(failure).or_default() += 1;
                Standing::Refused(failure)
            }
            None => {
                let mut score = allocation_score(cluster, &self.shape, &self.profile, row);
                if !self.image_weights.is_empty() {
                    let present = self.image_weights.iter().filter_map(|(image, parts)| {
                        let size = facts.images.get(image)?;
                        // The weight is a part of nodes in 1/1024.
                        Some(size.saturating_mul(*parts) / 1024)
                    });
                    let sum = present.sum();
                    score += self.profile.weight(Plugin::ImageLocality) * image_score(sum, self.shape.image_users);
                }
                let score = i32::try_from(score).unwrap_or(i32::MAX);
                let key = self.key(cluster, row);
                Standing::In(self.classes.insert(&key, score, row), score)
            }
        };
        self.standings[at] = standing;
    }

    /// Takes a row out of what is counted.
    fn leave(&mut self, row: Row) {
        match self.standings[row as usize] {
            Standing::Absent => return,
            Standing::Refused(failure) => {
                if let Some(count) = self.refused.get_mut(&failure) {
                    *count -= 1;
                }
            }
            Standing::In(class, score) => self.classes.remove(class, score, row),
        }
        if !self.terms.counters.is_empty() {
            self.contribute(row, -1);
        }
    }

    fn local_failure(&mut self, cluster: &Cluster, failures: &mut Failures, row: Row) -> Option<FailureId> {
        if let Some(failure) = self.facts_failures[row as usize] {
            return Some(failure);
        }
        let removed = Removed::default();
        if self.profile.filters(Plugin::NodePorts) && !ports_free(cluster, &self.shape, row, &removed) {
            return Some(failures.id(ports_failure()));
        }
        if self.profile.filters(Plugin::NodeResourcesFit) {
            let lack = resources_lack(cluster, &self.shape, row, &removed);
            if lack.bits != 0 {
                if let Some((_, failure)) = self.lacks.iter().find(|(known, _)| *known == lack) {
                    return Some(*failure);
                }
                let failure = failures.id(lack_failure(cluster, &self.shape, lack));
                self.lacks.push((lack, failure));
                return Some(failure);
            }
        }
        let needs = self.needs.as_ref()?;
        needs.failure(cluster, &self.profile, row, &removed).map(|failure| failures.id(failure))
    }

    /// Which spread constraints count a row: a bit each.
    fn counted_by(&self, cluster: &Cluster, row: Row) -> u32 {
        let Some(facts) = cluster.facts(row) else { return 0 };
        let has = |hard: bool| {
            self.terms
                .spreads
                .iter()
                .filter(|spread| spread.hard == hard)
                .all(|spread| facts.label(spread.key).is_some())
        };
        let labels = [has(false) || !self.terms.all_labels, has(true)];
        let mut bits = 0;
        for (at, spread) in self.terms.spreads.iter().enumerate().take(32) {
            let counted = labels[usize::from(spread.hard)]
                && (!spread.honor_affinity || self.shape.node.matches(facts.selectable(), &cluster.atoms))
                && (!spread.honor_taints || tolerated(&self.shape.tolerations, &facts.taints, &cluster.atoms));
            bits |= u32::from(counted) << at;
        }
        bits
    }

    /// A row's own numbers.
    fn count(&mut self, cluster: &Cluster, row: Row) {
        let counters = self.terms.counters.len();
        let at = row as usize * counters;
        let mut numbers: SmallVec<[i32; 8]> = SmallVec::from_elem(0, counters);
        for count in cluster.shapes_on(row) {
            let effect = self.terms.effect(cluster, &self.shape, &self.profile, count.shape);
            for (counter, amount) in &effect.each {
                numbers[usize::from(*counter)] += amount.saturating_mul(count.pods as i32);
            }
            for counter in &effect.spread {
                numbers[usize::from(*counter)] += (count.pods - count.terminating) as i32;
            }
        }
        self.numbers[at..at + counters].copy_from_slice(&numbers);
    }

    /// Adds (or takes away) a row's numbers to what is counted by domain.
    fn contribute(&mut self, row: Row, sign: i64) {
        let (slots, counters) = (self.terms.slots.len(), self.terms.counters.len());
        let row = row as usize;
        for (at, counter) in self.terms.counters.iter().enumerate() {
            let domain = self.domains_of[row * slots + counter.slot];
            let number = self.numbers[row * counters + at];
            if domain == 0 {
                continue;
            }
            match counter.counted {
                Counted::Spread(spread) => {
                    if spread < 32 && self.counted[row] & (1 << spread) == 0 {
                        continue;
                    }
                }
                Counted::Near => self.near_total += sign * i64::from(number),
                Counted::Far | Counted::FarFromUs | Counted::Wish => {
                    if number == 0 {
                        continue;
                    }
                }
            }
            if counter.per_row {
                if matches!(counter.counted, Counted::Spread(_)) {
                    let histogram = &mut self.histograms[at];
                    let rows = histogram.entry(number).or_default();
                    *rows = if sign > 0 { *rows + 1 } else { rows.saturating_sub(1) };
                    if *rows == 0 {
                        histogram.remove(&number);
                    }
                }
            } else {
                let known = self.domains[at].entry(domain).or_default();
                known.sum += sign * i64::from(number);
                known.rows = if sign > 0 { known.rows + 1 } else { known.rows.saturating_sub(1) };
                if known.rows == 0 {
                    self.domains[at].remove(&domain);
                }
            }
        }
    }

    /// The key of a row's class: taint wish, affinity wish, domains, numbers that count by row.
    fn key(&self, cluster: &Cluster, row: Row) -> ClassKey {
        let mut key = ClassKey::new();
        let Some(facts) = cluster.facts(row) else { return key };
        let wish = |weight: i64, wish: i64| if weight == 0 { 0 } else { i32::try_from(wish).unwrap_or(i32::MAX) };
        key.push(wish(self.profile.weight(Plugin::TaintToleration), taint_wish(cluster, &self.shape, facts)));
        key.push(wish(self.profile.weight(Plugin::NodeAffinity), affinity_wish(cluster, &self.shape, facts)));
        let (slots, counters) = (self.terms.slots.len(), self.terms.counters.len());
        for (slot, domain) in self.terms.slots.iter().zip(&self.domains_of[row as usize * slots..]) {
            // Where each row is a domain of its own only the label's presence counts.
            key.push(if slot.per_row { i32::from(*domain != 0) } else { *domain as i32 });
        }
        for (counter, number) in self.terms.counters.iter().zip(&self.numbers[row as usize * counters..]) {
            if counter.per_row {
                key.push(*number);
            }
        }
        key
    }
}

/// What part of the nodes has each image, in 1/1024, in steps that matter.
fn image_weights(cluster: &Cluster, shape: &Shape, profile: &Profile) -> SmallVec<[(Atom, i64); 2]> {
    let nodes = i64::try_from(cluster.node_count()).unwrap_or(i64::MAX);
    if nodes <= 1 || profile.weight(Plugin::ImageLocality) == 0 {
        return SmallVec::new();
    }
    // A step of the weight moves an image of 1000 MB by 4 MB.
    let step = (IMAGE_STEP_BYTES * 1024 / (1000 * 1024 * 1024)).max(1);
    let mut weights: SmallVec<[(Atom, i64); 2]> = SmallVec::new();
    for image in &shape.images {
        let with = i64::from(cluster.image_nodes(*image));
        if with > 0 {
            let weight = with * 1024 / nodes;
            weights.push((*image, weight / step * step));
        }
    }
    weights
}
