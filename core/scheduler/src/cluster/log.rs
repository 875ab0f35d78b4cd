//! Which rows have changed since when.

use super::Row;

/// How many entries are kept; who is further behind looks at all rows. 4 bytes each.
const KEPT_ENTRIES: usize = 1 << 17;
const FACTS: u32 = 1 << 31;

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Of which row.
    pub row: Row,
    /// Whether labels, taints and the like changed, rather than only its pods or its size.
    pub facts: bool,
}

/// A log of changed rows; positions in it only grow.
#[derive(Default)]
pub struct ChangeLog {
    /// The position of the first entry kept.
    base: u64,
    entries: Vec<u32>,
}

impl ChangeLog {
    /// Where the next entry will be.
    pub fn position(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// A row's pods or size changed.
    pub fn touch(&mut self, row: Row) {
        self.push(row);
    }

    /// A row's labels, taints or the like changed.
    pub fn facts(&mut self, row: Row) {
        self.push(row | FACTS);
    }

    fn push(&mut self, entry: u32) {
        if self.entries.len() >= KEPT_ENTRIES {
            let dropped = KEPT_ENTRIES / 2;
            self.entries.drain(..dropped);
            self.base += dropped as u64;
        }
        self.entries.push(entry);
    }

    /// What changed from a position on; none when that is no longer known.
    pub fn since(&self, position: u64) -> Option<impl Iterator<Item = Touched> + '_> {
        let from = usize::try_from(position.checked_sub(self.base)?).ok()?;
        let entries = self.entries.get(from..)?;
        Some(entries.iter().map(|entry| Touched { row: entry & !FACTS, facts: entry & FACTS != 0 }))
    }

    /// How many entries there are from a position on; none when that is no longer known.
    pub fn len_since(&self, position: u64) -> Option<usize> {
        let from = usize::try_from(position.checked_sub(self.base)?).ok()?;
        self.entries.len().checked_sub(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_what_came_after_it_until_it_is_too_far_behind() {
        let mut log = ChangeLog::default();
        log.touch(1);
        let position = log.position();
        log.facts(2);
        let seen: Vec<Touched> = log.since(position).expect("it is kept").collect();
        assert_eq!(seen, [Touched { row: 2, facts: true }]);
        assert_eq!(log.len_since(position), Some(1));
        for _ in 0..KEPT_ENTRIES {
            log.touch(3);
        }
        assert!(log.since(position).is_none());
        assert_eq!(log.len_since(log.position()), Some(0));
    }
}
