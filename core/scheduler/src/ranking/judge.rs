//! Which classes will do, and how good they are (PodTopologySpread, InterPodAffinity and all scores that are
//! normalised over the nodes); and the choice among the best.

use rand::Rng;

use super::classes::{ClassId, ClassKey};
use super::terms::Counted;
use super::{Ranking, Standing};
use crate::cluster::{Cluster, Row};
use crate::failure::{Failure, FailureId, Failures};
use crate::local::{Removed, SCORE_MAX, facts_failure, ports_free, resources_lack};
use crate::plugin::Plugin;
use smallvec::SmallVec;

/// Why a class is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ClassFailure {
    SpreadLabel,
    Spread,
    Near,
    Far,
    FarFromUs,
}

impl ClassFailure {
    fn failure(self) -> Failure {
        match self {
            Self::SpreadLabel => Failure::unresolvable(
                Plugin::PodTopologySpread,
                "node(s) didn't match pod topology spread constraints (missing required label)",
            ),
            Self::Spread => {
                Failure::resolvable(Plugin::PodTopologySpread, "node(s) didn't match pod topology spread constraints")
            }
            Self::Near => Failure::unresolvable(Plugin::InterPodAffinity, "node(s) didn't match pod affinity rules"),
            Self::Far => Failure::resolvable(Plugin::InterPodAffinity, "node(s) didn't match pod anti-affinity rules"),
            Self::FarFromUs => Failure::resolvable(
                Plugin::InterPodAffinity,
                "node(s) didn't satisfy existing pods anti-affinity rules",
            ),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Raw {
    taints: i64,
    affinity: i64,
    spread: i64,
    /// Whether it lacks a label and so isn't scored by spread.
    unspread: bool,
    wish: i64,
}

/// The latest judgement.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    feasible: Vec<(ClassId, Raw, i64)>,
    refused: Vec<(ClassFailure, ClassId, u32)>,
    minima: SmallVec<[i64; 4]>,
    places: SmallVec<[usize; 4]>,
}

/// What a class or a row has of each slot and counter.
trait Values {
    /// The domain by a slot, 0 for none.
    fn domain(&self, slot: usize) -> u32;
    /// The number that decides for a counter.
    fn number(&self, counter: usize) -> i64;
}

struct OfClass<'a> {
    ranking: &'a Ranking,
    key: &'a ClassKey,
    places: &'a [usize],
}

impl Values for OfClass<'_> {
    fn domain(&self, slot: usize) -> u32 {
        self.key[2 + slot] as u32
    }

    fn number(&self, counter: usize) -> i64 {
        let known = &self.ranking.terms.counters[counter];
        if known.per_row {
            i64::from(self.key[self.places[counter]])
        } else {
            self.ranking.domains[counter].get(&self.domain(known.slot)).map_or(0, |domain| domain.sum)
        }
    }
}

struct OfRow<'a> {
    ranking: &'a Ranking,
    row: Row,
    /// What is thought away, by counter.
    less: &'a [i64],
}

impl Values for OfRow<'_> {
    fn domain(&self, slot: usize) -> u32 {
        self.ranking.domains_of[self.row as usize * self.ranking.terms.slots.len() + slot]
    }

    fn number(&self, counter: usize) -> i64 {
        let known = &self.ranking.terms.counters[counter];
        let number = if known.per_row {
            i64::from(self.ranking.numbers[self.row as usize * self.ranking.terms.counters.len() + counter])
        } else {
            self.ranking.domains[counter].get(&self.domain(known.slot)).map_or(0, |domain| domain.sum)
        };
        number - self.less[counter]
    }
}

impl Ranking {
    /// Judges all classes; whether any node will do.
    pub fn judge(&mut self) -> bool {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.feasible.clear();
        scratch.refused.clear();
        scratch.places.clear();
        let mut place = 2 + self.terms.slots.len();
        for counter in &self.terms.counters {
            scratch.places.push(place);
            place += usize::from(counter.per_row);
        }
        scratch.minima = self.minima(None);
        for (id, class) in self.classes.iter() {
            let values = OfClass { ranking: self, key: &class.key, places: &scratch.places };
            match self.refuses(&values, &scratch.minima, self.near_total) {
                Some(failure) => scratch.refused.push((failure, id, class.rows)),
                None => {
                    let raw = Raw {
                        taints: i64::from(class.key[0]),
                        affinity: i64::from(class.key[1]),
                        wish: self.wish(&values),
                        ..Raw::default()
                    };
                    scratch.feasible.push((id, raw, 0));
                }
            }
        }
        self.score_spread(&mut scratch);
        self.normalise(&mut scratch.feasible);
        let any = !scratch.feasible.is_empty();
        self.scratch = scratch;
        any
    }

    /// The emptiest domain's count for each hard spread constraint, by counter; with one row's numbers less, if given.
    fn minima(&self, less: Option<(Row, &[i64])>) -> SmallVec<[i64; 4]> {
        let slots = self.terms.slots.len();
        let counters = self.terms.counters.len();
        let minimum = |(at, counter): (usize, &super::terms::Counter)| {
            let Counted::Spread(spread) = counter.counted else { return 0 };
            let spread = &self.terms.spreads[spread];
            if !spread.hard {
                return 0;
            }
            let needed = usize::try_from(spread.min_domains).unwrap_or(0);
            if counter.per_row {
                let histogram = &self.histograms[at];
                let rows: usize = histogram.values().map(|rows| *rows as usize).sum();
                let mut minimum = histogram.first_key_value().map_or(i64::MAX, |(number, _)| i64::from(*number));
                if let Some((row, less)) = less {
                    minimum = minimum.min(i64::from(self.numbers[row as usize * counters + at]) - less[at]);
                }
                if rows < needed { 0 } else { minimum }
            } else {
                let domains = &self.domains[at];
                let changed = less.map(|(row, less)| (self.domains_of[row as usize * slots + counter.slot], less[at]));
                let sum = |(value, domain): (&u32, &super::Domain)| match changed {
                    Some((at, less)) if at == *value => domain.sum - less,
                    _ => domain.sum,
                };
                if domains.len() < needed { 0 } else { domains.iter().map(sum).min().unwrap_or(i64::MAX) }
            }
        };
        self.terms.counters.iter().enumerate().map(minimum).collect()
    }

    fn refuses(&self, values: &impl Values, minima: &[i64], near_total: i64) -> Option<ClassFailure> {
        let terms = &self.terms;
        for (at, counter) in terms.counters.iter().enumerate() {
            let Counted::Spread(spread) = counter.counted else { continue };
            if !terms.spreads[spread].hard {
                continue;
            }
            if values.domain(counter.slot) == 0 {
                return Some(ClassFailure::SpreadLabel);
            }
            let own = i64::from(terms.own_spread[spread]);
            let skew = (values.number(at) + own).saturating_sub(minima[at]);
            if skew > i64::from(terms.spreads[spread].max_skew) {
                return Some(ClassFailure::Spread);
            }
        }
        let of =
            |counted: Counted| terms.counters.iter().enumerate().filter(move |(_, known)| known.counted == counted);
        let mut near = true;
        for (at, counter) in of(Counted::Near) {
            if values.domain(counter.slot) == 0 {
                return Some(ClassFailure::Near);
            }
            near &= values.number(at) > 0;
        }
        // The first of pods that want to be near to each other may be anywhere.
        let first = near_total == 0 && terms.own_near;
        if !(near || first) {
            return Some(ClassFailure::Near);
        }
        for (counted, failure) in [(Counted::Far, ClassFailure::Far), (Counted::FarFromUs, ClassFailure::FarFromUs)] {
            if of(counted).any(|(at, counter)| values.domain(counter.slot) != 0 && values.number(at) > 0) {
                return Some(failure);
            }
        }
        None
    }

    fn wish(&self, values: &impl Values) -> i64 {
        let wishes = self.terms.counters.iter().enumerate().filter(|(_, known)| known.counted == Counted::Wish);
        wishes.filter(|(_, known)| values.domain(known.slot) != 0).map(|(at, _)| values.number(at)).sum()
    }

    fn score_spread(&self, scratch: &mut Scratch) {
        let terms = &self.terms;
        let soft = |counted: Counted| match counted {
            Counted::Spread(spread) => Some(&terms.spreads[spread]).filter(|spread| !spread.hard),
            _ => None,
        };
        if !terms.spreads.iter().any(|spread| !spread.hard) {
            return;
        }
        for (id, raw, _) in &mut scratch.feasible {
            let key = &self.classes.get(*id).key;
            let lacks = |slot: usize| key[2 + slot] == 0;
            raw.unspread = terms.all_labels
                && terms.counters.iter().any(|known| soft(known.counted).is_some() && lacks(known.slot));
        }
        let mut sums: Vec<f64> = vec![0.0; scratch.feasible.len()];
        for (at, counter) in terms.counters.iter().enumerate() {
            let Some(spread) = soft(counter.counted) else { continue };
            let spread_classes = scratch.feasible.iter().filter(|(_, raw, _)| !raw.unspread);
            let size = if counter.per_row {
                spread_classes.map(|(id, ..)| self.classes.get(*id).rows as usize).sum()
            } else {
                let mut values: Vec<i32> =
                    spread_classes.map(|(id, ..)| self.classes.get(*id).key[2 + counter.slot]).collect();
                values.sort_unstable();
                values.dedup();
                values.len()
            };
            let weight = ((size + 2) as f64).ln();
            for ((id, raw, _), sum) in scratch.feasible.iter().zip(&mut sums) {
                let key = &self.classes.get(*id).key;
                if !raw.unspread && key[2 + counter.slot] != 0 {
                    let values = OfClass { ranking: self, key, places: &scratch.places };
                    *sum += values.number(at) as f64 * weight + f64::from(spread.max_skew - 1);
                }
            }
        }
        for ((_, raw, _), sum) in scratch.feasible.iter_mut().zip(sums) {
            raw.spread = sum.round() as i64;
        }
    }

    fn normalise(&self, feasible: &mut [(ClassId, Raw, i64)]) {
        let max = |of: fn(&Raw) -> i64| feasible.iter().map(|(_, raw, _)| of(raw)).max().unwrap_or(0);
        let min = |of: fn(&Raw) -> i64| feasible.iter().map(|(_, raw, _)| of(raw)).min().unwrap_or(0);
        let (taints_max, affinity_max) = (max(|raw| raw.taints), max(|raw| raw.affinity));
        let (wish_min, wish_max) = (min(|raw| raw.wish), max(|raw| raw.wish));
        let spreads = feasible.iter().filter(|(_, raw, _)| !raw.unspread).map(|(_, raw, _)| raw.spread);
        let spread_max = spreads.clone().max().unwrap_or(0).max(0);
        let spread_min = spreads.min().unwrap_or(0);
        let weight = |plugin| self.profile.weight(plugin);
        let soft = self.terms.spreads.iter().any(|spread| !spread.hard);
        for (_, raw, score) in feasible {
            *score = weight(Plugin::TaintToleration)
                * if taints_max == 0 { SCORE_MAX } else { SCORE_MAX - SCORE_MAX * raw.taints / taints_max };
            if affinity_max != 0 {
                *score += weight(Plugin::NodeAffinity) * (SCORE_MAX * raw.affinity / affinity_max);
            }
            if soft && !raw.unspread {
                let spread = if spread_max == 0 {
                    SCORE_MAX
                } else {
                    SCORE_MAX * (spread_max + spread_min - raw.spread) / spread_max
                };
                *score += weight(Plugin::PodTopologySpread) * spread;
            }
            if wish_max > wish_min {
                let part = (raw.wish - wish_min) as f64 / (wish_max - wish_min) as f64;
                *score += weight(Plugin::InterPodAffinity) * ((SCORE_MAX as f64 * part) as i64);
            }
        }
    }

    /// After [`Ranking::judge`]: one of the best rows, by chance, with its score.
    pub fn choose(&self, random: &mut impl Rng) -> Option<(Row, i64)> {
        let mut best = i64::MIN;
        let mut ties: SmallVec<[&[Row]; 8]> = SmallVec::new();
        for (id, _, score) in &self.scratch.feasible {
            let Some((local, rows)) = self.classes.get(*id).best() else { continue };
            let total = score + i64::from(local);
            if total > best {
                best = total;
                ties.clear();
            }
            if total == best {
                ties.push(rows);
            }
        }
        let count: usize = ties.iter().map(|rows| rows.len()).sum();
        if count == 0 {
            return None;
        }
        let mut pick = if count == 1 { 0 } else { random.random_range(0..count) };
        for rows in ties {
            match rows.get(pick) {
                Some(row) => return Some((*row, best)),
                None => pick -= rows.len(),
            }
        }
        None
    }

    /// After [`Ranking::judge`]: all rows that will do, with their scores.
    pub fn candidates(&self, rows: &mut Vec<Row>, scores: &mut Vec<i64>) {
        rows.clear();
        scores.clear();
        for (id, _, score) in &self.scratch.feasible {
            for (local, bucket) in &self.classes.get(*id).buckets {
                rows.extend_from_slice(bucket);
                scores.resize(rows.len(), score + i64::from(*local));
            }
        }
    }

    /// After [`Ranking::judge`]: whether a row will do.
    pub fn will_do(&self, row: Row) -> bool {
        match self.standings.get(row as usize) {
            Some(Standing::In(class, _)) => self.scratch.feasible.iter().any(|(id, ..)| id == class),
            _ => false,
        }
    }

    /// After [`Ranking::judge`]: refuses a row until its row changes or [`Ranking::reconsider`], for what only the pod
    /// at hand minds.
    pub fn refuse(&mut self, row: Row, failure: FailureId) {
        let Some(Standing::In(class, score)) = self.standings.get(row as usize).copied() else { return };
        self.classes.remove(class, score, row);
        *self.refused.entry(failure).or_default() += 1;
        self.standings[row as usize] = Standing::Refused(failure);
        if self.classes.get(class).rows == 0 {
            self.scratch.feasible.retain(|(id, ..)| *id != class);
        }
    }

    /// Looks again at a row that was refused for one pod only.
    pub fn reconsider(&mut self, cluster: &Cluster, failures: &mut Failures, row: Row) {
        self.refresh(cluster, failures, row, false);
    }

    /// After [`Ranking::judge`]: how many rows are refused for what.
    pub fn refusals(&self, cluster: &Cluster, failures: &mut Failures) -> Vec<(FailureId, usize)> {
        let mut all: Vec<(FailureId, usize)> =
            self.refused.iter().filter(|(_, rows)| **rows > 0).map(|(id, rows)| (*id, *rows as usize)).collect();
        for (failure, _, rows) in &self.scratch.refused {
            all.push((failures.id(failure.failure()), *rows as usize));
        }
        if let Some(only) = &self.only {
            let absent = cluster.node_count().saturating_sub(only.len());
            if absent > 0 {
                let reason = "node is filtered out by the prefilter result";
                all.push((failures.id(Failure::unresolvable(Plugin::NodeAffinity, reason)), absent));
            }
        }
        all
    }

    /// After [`Ranking::judge`]: rows that are refused for what removing pods could do away with.
    pub fn resolvable_rows(&self, failures: &Failures) -> Vec<Row> {
        let resolvable = |class: ClassId| {
            let refused = self.scratch.refused.iter().find(|(_, id, _)| *id == class);
            refused.is_some_and(|(failure, ..)| !failure.failure().unresolvable)
        };
        let standing = |standing: &Standing| match standing {
            Standing::Absent => false,
            Standing::Refused(id) => failures.get(*id).is_some_and(|failure| !failure.unresolvable),
            Standing::In(class, _) => resolvable(*class),
        };
        (0..).zip(&self.standings).filter(|(_, known)| standing(known)).map(|(row, _)| row).collect()
    }

    /// Why a row won't do if some of its pods weren't there.
    pub fn failure_without(&mut self, cluster: &Cluster, row: Row, removed: &Removed) -> Option<Failure> {
        if let Some(failure) = &self.everywhere {
            return Some(failure.clone());
        }
        let facts = cluster.facts(row)?;
        if let Some(failure) = facts_failure(cluster, &self.shape, &self.profile, facts) {
            return Some(failure);
        }
        if self.profile.filters(Plugin::NodePorts) && !ports_free(cluster, &self.shape, row, removed) {
            return Some(crate::local::ports_failure());
        }
        if self.profile.filters(Plugin::NodeResourcesFit) {
            let lack = resources_lack(cluster, &self.shape, row, removed);
            if lack.bits != 0 {
                return Some(crate::local::lack_failure(cluster, &self.shape, lack));
            }
        }
        if let Some(needs) = &self.needs
            && let Some(failure) = needs.failure(cluster, &self.profile, row, removed)
        {
            return Some(failure);
        }
        if self.terms.counters.is_empty() {
            return None;
        }
        let counters = self.terms.counters.len();
        let mut less: SmallVec<[i64; 8]> = SmallVec::from_elem(0, counters);
        for (shape, pods, terminating) in &removed.shapes {
            let effect = self.terms.effect(cluster, &self.shape, &self.profile, *shape);
            for (counter, amount) in &effect.each {
                less[usize::from(*counter)] += i64::from(*amount) * i64::from(*pods);
            }
            for counter in &effect.spread {
                less[usize::from(*counter)] += i64::from(pods - terminating);
            }
        }
        let minima = self.minima(Some((row, &less)));
        let slots = self.terms.slots.len();
        let near_less: i64 = self
            .terms
            .counters
            .iter()
            .zip(&less)
            .filter(|(known, _)| known.counted == Counted::Near)
            .filter(|(known, _)| self.domains_of[row as usize * slots + known.slot] != 0)
            .map(|(_, less)| *less)
            .sum();
        let values = OfRow { ranking: self, row, less: &less };
        self.refuses(&values, &minima, self.near_total - near_less).map(ClassFailure::failure)
    }
}
