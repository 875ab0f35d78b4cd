//! Nodes and scores. A function of what was told.

use std::collections::HashMap;

use gantry_plugin_sdk::scheduler::{Amount, Atom, NodeChanges, Request, Row};

use crate::settings::Settings;

/// Most shapes of pods whose scores are kept.
const SHAPES_MAX: usize = 64;
/// Most changed rows that are remembered; older scores are computed anew.
const CHANGES_MAX: usize = 1 << 16;
/// The contract's best score, for a hundred points.
const SCALE: f64 = 100.0;

#[derive(Default)]
struct Column {
    allocatable: Vec<i64>,
    requested: Vec<i64>,
}

/// Scores of all rows for pods of one shape.
struct Scores {
    requests: Vec<(Atom, i64)>,
    scores: Vec<i64>,
    /// How many changes they know of.
    position: usize,
    used: u64,
}

#[derive(Default)]
pub struct Columns {
    settings: Settings,
    strings: Atom,
    /// Resources that count: their atoms and weights.
    counted: Vec<(Atom, f64)>,
    columns: HashMap<Atom, Column>,
    rows: usize,
    /// Rows that changed, oldest first.
    changed: Vec<Row>,
    known: Vec<Scores>,
    calls: u64,
}

fn set(column: &mut Vec<i64>, row: Row, value: i64) {
    let row = row as usize;
    if column.len() <= row {
        column.resize(row + 1, 0);
    }
    column[row] = value;
}

impl Columns {
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    pub fn apply(&mut self, changes: NodeChanges) {
        for text in changes.strings {
            self.strings += 1;
            if let Some(weight) = self.settings.resources.get(&text).filter(|weight| **weight > 0.0) {
                self.counted.push((self.strings, *weight));
                // A resource that nobody knew of changes every score.
                self.known.clear();
            }
        }
        for row in changes.removed {
            for column in self.columns.values_mut() {
                for values in [&mut column.allocatable, &mut column.requested] {
                    if let Some(value) = values.get_mut(row as usize) {
                        *value = 0;
                    }
                }
            }
            self.changed.push(row);
        }
        for node in changes.nodes {
            self.rows = self.rows.max(node.row as usize + 1);
        }
        for amounts in changes.amounts {
            if !self.counted.iter().any(|(atom, _)| *atom == amounts.resource) {
                continue;
            }
            let column = self.columns.entry(amounts.resource).or_default();
            let values = match amounts.amount {
                Amount::Allocatable => &mut column.allocatable,
                Amount::Requested => &mut column.requested,
            };
            for (&row, &value) in amounts.rows.iter().zip(&amounts.values) {
                set(values, row, value);
                self.rows = self.rows.max(row as usize + 1);
                self.changed.push(row);
            }
        }
        if self.changed.len() > CHANGES_MAX {
            self.changed.clear();
            self.known.clear();
        }
    }

    /// Scores of the candidates, in their order.
    pub fn score(&mut self, requests: &[Request], candidates: &[Row]) -> Vec<i64> {
        let wanted: Vec<(Atom, i64)> = self
            .counted
            .iter()
            .map(|(atom, _)| {
                let request = requests.iter().find(|request| request.resource == *atom);
                (*atom, request.map_or(0, |request| request.value))
            })
            .collect();
        let index = self.scores_for(wanted);
        let scores = &self.known[index].scores;
        candidates.iter().map(|&row| scores.get(row as usize).copied().unwrap_or(0)).collect()
    }

    /// Place of the up-to-date scores for a shape.
    fn scores_for(&mut self, wanted: Vec<(Atom, i64)>) -> usize {
        self.calls += 1;
        let index = match self.known.iter().position(|known| known.requests == wanted) {
            Some(index) => index,
            None => {
                if self.known.len() == SHAPES_MAX {
                    let oldest = (0..self.known.len()).min_by_key(|&index| self.known[index].used).unwrap_or(0);
                    self.known.swap_remove(oldest);
                }
                self.known.push(Scores { requests: wanted, scores: Vec::new(), position: 0, used: 0 });
                self.known.len() - 1
            }
        };
        let mut known = self.known.swap_remove(index);
        let fresh = known.scores.is_empty();
        known.scores.resize(self.rows, 0);
        if fresh {
            for row in 0..self.rows {
                known.scores[row] = self.of_row(&known.requests, row);
            }
        } else {
            for &row in &self.changed[known.position..] {
                if let Some(score) = known.scores.get_mut(row as usize) {
                    *score = self.of_row(&known.requests, row as usize);
                }
            }
        }
        known.position = self.changed.len();
        known.used = self.calls;
        self.known.push(known);
        self.known.len() - 1
    }

    fn of_row(&self, requests: &[(Atom, i64)], row: usize) -> i64 {
        let (mut sum, mut weights) = (0.0, 0.0);
        for (&(atom, request), &(_, weight)) in requests.iter().zip(&self.counted) {
            let value = |values: &Vec<i64>| values.get(row).copied().unwrap_or(0);
            let Some(column) = self.columns.get(&atom) else { continue };
            let allocatable = value(&column.allocatable);
            if allocatable <= 0 {
                continue;
            }
            let used = value(&column.requested).saturating_add(request) as f64 / allocatable as f64;
            sum += weight * self.settings.at(used.clamp(0.0, 1.0));
            weights += weight;
        }
        if weights == 0.0 { 0 } else { (sum / weights * SCALE).round().clamp(0.0, 10_000.0) as i64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_plugin_sdk::scheduler::{Amounts, Node};

    fn amounts(resource: Atom, amount: Amount, values: &[i64]) -> Amounts {
        Amounts { resource, amount, rows: (0..values.len() as Row).collect(), values: values.to_vec() }
    }

    fn columns() -> Columns {
        let settings = r#"{"resources":{"cpu":1,"memory":1,"gpu":2},
            "shape":[{"utilization":0,"score":0},{"utilization":100,"score":100}]}"#;
        let mut columns = Columns::new(Settings::parse(settings).unwrap());
        let node =
            |row| Node { row, name: 0, zone: 0, region: 0, unschedulable: false, labels: vec![], taints: vec![] };
        columns.apply(NodeChanges {
            strings: vec!["cpu".into(), "memory".into(), "pods".into()],
            removed: vec![],
            nodes: vec![node(0), node(1), node(2)],
            amounts: vec![
                amounts(1, Amount::Allocatable, &[1000, 1000, 2000]),
                amounts(1, Amount::Requested, &[500, 0, 0]),
                amounts(2, Amount::Allocatable, &[100, 100, 100]),
                amounts(3, Amount::Allocatable, &[110, 110, 110]),
            ],
        });
        columns
    }

    const REQUESTS: [Request; 2] = [Request { resource: 1, value: 100 }, Request { resource: 2, value: 20 }];

    #[test]
    fn fuller_nodes_score_higher() {
        let mut columns = columns();
        // (60 % + 20 %) / 2, (10 % + 20 %) / 2, (5 % + 20 %) / 2.
        assert_eq!(columns.score(&REQUESTS, &[2, 0, 1, 9]), [1250, 4000, 1500, 0]);
    }

    #[test]
    fn kept_scores_follow_changes() {
        let mut columns = columns();
        columns.score(&REQUESTS, &[0]);
        let change = Amounts { resource: 1, amount: Amount::Requested, rows: vec![1], values: vec![900] };
        columns.apply(NodeChanges { strings: vec![], removed: vec![0], nodes: vec![], amounts: vec![change] });
        assert_eq!(columns.score(&REQUESTS, &[0, 1, 2]), [0, 6000, 1250]);
        // A resource that appears later counts for the nodes that have it.
        columns.apply(NodeChanges {
            strings: vec!["gpu".into()],
            removed: vec![],
            nodes: vec![],
            amounts: vec![amounts(4, Amount::Allocatable, &[0, 4])],
        });
        assert_eq!(columns.score(&REQUESTS, &[1, 2]), [3000, 1250]);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut columns = columns();
        for value in 0..200 {
            columns.score(&[Request { resource: 1, value }], &[0]);
        }
        assert_eq!(columns.known.len(), SHAPES_MAX);
        assert_eq!(columns.score(&REQUESTS, &[0]), [4000]);
    }
}
