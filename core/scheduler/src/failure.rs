//! Why nodes are refused, in upstream's words.

use rustc_hash::FxHashMap;

use crate::plugin::Plugin;

/// Why a filter refuses a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Failure {
    /// Whose filter.
    pub plugin: Plugin,
    /// In words, each of which is counted by itself.
    pub reasons: Vec<String>,
    /// Whether removing pods from the node can't help.
    pub unresolvable: bool,
}

impl Failure {
    /// With one reason, that preemption may do away with.
    pub fn resolvable(plugin: Plugin, reason: impl Into<String>) -> Self {
        Self { plugin, reasons: vec![reason.into()], unresolvable: false }
    }

    /// With one reason, that preemption can't do away with.
    pub fn unresolvable(plugin: Plugin, reason: impl Into<String>) -> Self {
        Self { plugin, reasons: vec![reason.into()], unresolvable: true }
    }
}

/// A failure as a small number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FailureId(pub u16);

/// The failures seen so far. There are few different ones, as they name resources at most.
#[derive(Default)]
pub struct Failures {
    ids: FxHashMap<Failure, FailureId>,
    all: Vec<Failure>,
}

impl Failures {
    /// The number of a failure. Beyond 65,535 different ones all further share the last number.
    pub fn id(&mut self, failure: Failure) -> FailureId {
        if let Some(id) = self.ids.get(&failure) {
            return *id;
        }
        let id = FailureId(u16::try_from(self.all.len()).unwrap_or(u16::MAX));
        if self.all.len() <= usize::from(u16::MAX) {
            self.all.push(failure.clone());
            self.ids.insert(failure, id);
        }
        id
    }

    /// A failure by its number.
    pub fn get(&self, id: FailureId) -> Option<&Failure> {
        self.all.get(usize::from(id.0))
    }
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.` (upstream's `FitError`).
pub fn fit_message<'a>(nodes: usize, failures: impl IntoIterator<Item = (&'a str, usize)>) -> String {
    let mut counts: FxHashMap<&str, usize> = FxHashMap::default();
    for (reason, count) in failures {
        *counts.entry(reason).or_default() += count;
    }
    let mut reasons: Vec<String> =
        counts.into_iter().filter(|(_, count)| *count > 0).map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort_unstable();
    let mut message = format!("0/{nodes} nodes are available:");
    if !reasons.is_empty() {
        message.push(' ');
        message.push_str(&reasons.join(", "));
        message.push('.');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_reasons_are_counted_and_sorted_as_texts() {
        let reasons = [("b", 1), ("a", 10), ("b", 1), ("c", 0)];
        assert_eq!(fit_message(12, reasons), "0/12 nodes are available: 10 a, 2 b.");
        assert_eq!(fit_message(0, []), "0/0 nodes are available:");
    }
}
