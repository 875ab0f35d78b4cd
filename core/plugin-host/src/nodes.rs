//! What a policy was told about the nodes, so that a new instance can be told all of it at once. Pure.

use std::{collections::BTreeMap, sync::Arc};

use crate::contract::scheduler::{Amount, Amounts, Atom, Node, NodeChanges, Row};

/// The nodes as columns.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    strings: Vec<Arc<str>>,
    nodes: Vec<Option<Arc<Node>>>,
    columns: BTreeMap<(Atom, Amount), Vec<i64>>,
}

impl Nodes {
    /// Whether nothing was told yet.
    pub fn is_empty(&self) -> bool {
        self.strings.is_empty() && self.nodes.is_empty()
    }

    /// Applies changes in the contract's order.
    pub fn apply(&mut self, changes: NodeChanges) {
        self.strings.extend(changes.strings);
        for row in changes.removed {
            if let Some(node) = self.nodes.get_mut(row as usize) {
                *node = None;
            }
            for column in self.columns.values_mut() {
                if let Some(value) = column.get_mut(row as usize) {
                    *value = 0;
                }
            }
        }
        for node in changes.nodes {
            let row = node.row as usize;
            if self.nodes.len() <= row {
                self.nodes.resize(row + 1, None);
            }
            self.nodes[row] = Some(node);
        }
        for amounts in changes.amounts {
            let column = self.columns.entry((amounts.resource, amounts.amount)).or_default();
            for (&row, &value) in amounts.rows.iter().zip(&amounts.values) {
                let row = row as usize;
                if column.len() <= row {
                    column.resize(row + 1, 0);
                }
                column[row] = value;
            }
        }
    }

    /// All of it as changes from nothing.
    pub fn all(&self) -> NodeChanges {
        let amounts = self.columns.iter().map(|(&(resource, amount), column)| {
            let (rows, values) =
                (0..).zip(column).filter(|(_, value)| **value != 0).map(|(row, value)| (row, *value)).unzip();
            Amounts { resource, amount, rows, values }
        });
        NodeChanges {
            strings: self.strings.clone(),
            removed: Vec::<Row>::new(),
            nodes: self.nodes.iter().flatten().cloned().collect(),
            amounts: amounts.filter(|amounts| !amounts.rows.is_empty()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(row: Row, name: Atom) -> Arc<Node> {
        Arc::new(Node { row, name, zone: 0, region: 0, unschedulable: false, labels: vec![], taints: vec![] })
    }

    fn cpu(rows: &[Row], values: &[i64]) -> Amounts {
        Amounts { resource: 1, amount: Amount::Allocatable, rows: rows.to_vec(), values: values.to_vec() }
    }

    #[test]
    fn what_was_told_can_be_told_again() {
        let mut nodes = Nodes::default();
        assert!(nodes.is_empty());
        nodes.apply(NodeChanges {
            strings: vec!["cpu".into(), "a".into(), "b".into()],
            nodes: vec![node(0, 2), node(2, 3)],
            amounts: vec![cpu(&[0, 2], &[4, 8])],
            ..NodeChanges::default()
        });
        nodes.apply(NodeChanges {
            strings: vec!["c".into()],
            removed: vec![0, 7],
            nodes: vec![node(1, 4)],
            amounts: vec![cpu(&[1, 2], &[16, 9])],
        });
        assert_eq!(
            nodes.all(),
            NodeChanges {
                strings: vec!["cpu".into(), "a".into(), "b".into(), "c".into()],
                removed: vec![],
                nodes: vec![node(1, 4), node(2, 3)],
                amounts: vec![cpu(&[1, 2], &[16, 9])],
            }
        );
    }
}
