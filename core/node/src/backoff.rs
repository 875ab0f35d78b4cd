//! Waiting before another try: upstream's back-off of crashed containers and failed image pulls. Pure.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

/// The first wait; upstream's.
pub const INITIAL: Duration = Duration::from_secs(10);
/// The longest wait; upstream's.
pub const MAX: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
struct Entry {
    backoff: Duration,
    updated: Timestamp,
}

/// Back-off by key: each failure doubles the wait; twice the longest wait without one starts anew.
#[derive(Debug, Default)]
pub struct Backoff {
    entries: HashMap<String, Entry>,
}

impl Backoff {
    /// The wait that a failure at `since` is still under at `now`; none when another try may be made.
    pub fn waiting(&self, key: &str, since: Timestamp, now: Timestamp) -> Option<Duration> {
        let entry = self.entries.get(key)?;
        if expired(since, entry.updated) || elapsed(since, now) >= entry.backoff {
            return None;
        }
        Some(entry.backoff)
    }

    /// Notes another try: the next failure waits longer.
    pub fn next(&mut self, key: &str, since: Timestamp, now: Timestamp) {
        let backoff = match self.entries.get(key) {
            Some(entry) if !expired(since, entry.updated) => (entry.backoff * 2).min(MAX),
            _ => INITIAL,
        };
        self.entries.insert(key.to_owned(), Entry { backoff, updated: now });
    }

    /// The last try's time and the wait after it.
    pub fn last(&self, key: &str) -> Option<(Timestamp, Duration)> {
        self.entries.get(key).map(|entry| (entry.updated, entry.backoff))
    }

    /// Forgets a key: it succeeded.
    pub fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

fn expired(event: Timestamp, updated: Timestamp) -> bool {
    elapsed(updated, event) > MAX * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).expect("a time")
    }

    #[test]
    fn the_wait_doubles_to_its_limit_and_is_forgotten_after_ten_quiet_minutes() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.waiting("c", at(0), at(0)), None, "the first restart is immediate");
        let mut time = 0;
        let mut waits = Vec::new();
        for _ in 0..7 {
            backoff.next("c", at(time), at(time));
            // It fails a second after each start.
            time += 1;
            let wait = backoff.waiting("c", at(time), at(time)).expect("a wait").as_secs();
            waits.push(wait);
            time += wait as i64;
            assert_eq!(backoff.waiting("c", at(time - wait as i64), at(time)), None);
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
        backoff.next("c", at(time), at(time));
        assert_eq!(backoff.waiting("c", at(time + 601), at(time + 602)), None);
        backoff.next("c", at(time + 601), at(time + 602));
        assert_eq!(backoff.waiting("c", at(time + 603), at(time + 603)), Some(INITIAL));
    }
}
