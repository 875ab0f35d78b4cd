//! Keys waiting to be reconciled (client-go's rate-limited work queue).
//!
//! A key is in the queue at most once; one that is added while it is being worked on comes again when that is done;
//! no key is worked on twice at the same time. What waits is bounded by the number of distinct keys.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The first delay after a failure; client-go's default.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// The longest delay between failures. client-go's default is 1,000 s, longer than anybody waits for a repaired cluster.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// A queue of keys, shared by cloning.
pub struct WorkQueue<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

struct State<T> {
    queue: VecDeque<T>,
    /// Everything in `queue`, and what must come again when its processing is done.
    dirty: HashSet<T>,
    processing: HashSet<T>,
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    /// The key of each delayed entry, by its sequence number.
    delayed_keys: HashMap<u64, T>,
    sequence: u64,
    failures: HashMap<T, u32>,
    closed: bool,
}

impl<T: Clone + Eq + Hash + Send> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone + Eq + Hash + Send> WorkQueue<T> {
    /// An empty queue.
    pub fn new() -> Self {
        let state = State {
            queue: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashSet::new(),
            delayed: BinaryHeap::new(),
            delayed_keys: HashMap::new(),
            sequence: 0,
            failures: HashMap::new(),
            closed: false,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }) }
    }

    /// Adds a key, to be worked on as soon as possible.
    pub fn add(&self, key: T) {
        let mut state = self.shared.state.lock();
        if state.add(key) {
            drop(state);
            self.shared.changed.notify_one();
        }
    }

    /// Adds a key after a delay.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.shared.state.lock();
        if state.closed {
            return;
        }
        let sequence = state.sequence;
        state.sequence += 1;
        state.delayed.push(Reverse((Instant::now() + delay, sequence)));
        state.delayed_keys.insert(sequence, key);
        drop(state);
        self.shared.changed.notify_one();
    }

    /// Adds a key after a delay that doubles with each call until [`WorkQueue::forget`].
    pub fn add_rate_limited(&self, key: T) {
        let failures = {
            let mut state = self.shared.state.lock();
            let failures = state.failures.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
            *failures
        };
        self.add_after(key, backoff(failures));
    }

    /// Ends a key's back-off: its work succeeded, or is given up.
    pub fn forget(&self, key: &T) {
        self.shared.state.lock().failures.remove(key);
    }

    /// How often a key has been added by [`WorkQueue::add_rate_limited`] since it was forgotten.
    pub fn failures(&self, key: &T) -> u32 {
        self.shared.state.lock().failures.get(key).copied().unwrap_or_default()
    }

    /// The next key, which must be given back to [`WorkQueue::done`]; none once the queue is closed and empty.
    /// Cancel-safe.
    pub async fn get(&self) -> Option<T> {
        loop {
            let changed = self.shared.changed.notified();
            let due = {
                let mut state = self.shared.state.lock();
                state.release_due(Instant::now());
                if let Some(key) = state.queue.pop_front() {
                    state.dirty.remove(&key);
                    state.processing.insert(key.clone());
                    let more = !state.queue.is_empty() || !state.delayed.is_empty();
                    drop(state);
                    if more {
                        self.shared.changed.notify_one();
                    }
                    return Some(key);
                }
                if state.closed {
                    drop(state);
                    self.shared.changed.notify_one();
                    return None;
                }
                state.delayed.peek().map(|Reverse((at, _))| *at)
            };
            match due {
                None => changed.await,
                Some(at) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
            }
        }
    }

    /// Says that a key's work is done, successfully or not.
    pub fn done(&self, key: &T) {
        let mut state = self.shared.state.lock();
        state.processing.remove(key);
        if state.dirty.contains(key) {
            state.queue.push_back(key.clone());
            drop(state);
            self.shared.changed.notify_one();
        }
    }

    /// How many keys wait, delayed ones not counted.
    pub fn len(&self) -> usize {
        self.shared.state.lock().queue.len()
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes no more keys; [`WorkQueue::get`] hands out what is there, then none.
    pub fn close(&self) {
        self.shared.state.lock().closed = true;
        self.shared.changed.notify_one();
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    /// Whether the queue grew.
    fn add(&mut self, key: T) -> bool {
        if self.closed || !self.dirty.insert(key.clone()) || self.processing.contains(&key) {
            return false;
        }
        self.queue.push_back(key);
        true
    }

    fn release_due(&mut self, now: Instant) {
        while let Some(Reverse((at, sequence))) = self.delayed.peek().copied() {
            if at > now {
                break;
            }
            self.delayed.pop();
            if let Some(key) = self.delayed_keys.remove(&sequence) {
                self.add(key);
            }
        }
    }
}

fn backoff(failures: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_waits_once_and_is_never_worked_on_twice_at_a_time() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.get().await, Some("a"));
        queue.add("a");
        assert_eq!(queue.get().await, Some("b"));
        assert!(queue.is_empty(), "a is being worked on");
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("a"));
        queue.close();
        assert_eq!(queue.get().await, None);
        assert_eq!(queue.get().await, None);
    }

    #[tokio::test]
    async fn delayed_keys_come_in_the_order_of_their_times() {
        let queue = WorkQueue::new();
        queue.add_after("late", Duration::from_millis(2));
        queue.add_after("soon", Duration::from_millis(1));
        assert_eq!(queue.get().await, Some("soon"));
        assert_eq!(queue.get().await, Some("late"));
    }

    #[tokio::test]
    async fn failures_back_off_until_forgotten() {
        let queue = WorkQueue::new();
        for failures in 1..=3 {
            queue.add_rate_limited("a");
            assert!(queue.is_empty(), "it waits first");
            assert_eq!(queue.get().await, Some("a"));
            queue.done(&"a");
            assert_eq!(queue.failures(&"a"), failures);
        }
        queue.forget(&"a");
        assert_eq!(queue.failures(&"a"), 0);
    }

    #[test]
    fn the_delay_doubles_up_to_a_limit() {
        let cases = [(1, 5), (2, 10), (3, 20), (10, 2560), (15, 60_000), (u32::MAX, 60_000)];
        for (failures, delay_ms) in cases {
            assert_eq!(backoff(failures), Duration::from_millis(delay_ms), "after {failures} failures");
        }
    }

    #[tokio::test]
    async fn many_workers_share_a_queue() {
        let queue = WorkQueue::new();
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let queue: WorkQueue<u32> = queue.clone();
                tokio::spawn(async move {
                    let mut seen = Vec::new();
                    while let Some(key) = queue.get().await {
                        seen.push(key);
                        queue.done(&key);
                        tokio::task::yield_now().await;
                    }
                    seen
                })
            })
            .collect();
        (0..1000).for_each(|key| queue.add(key));
        queue.close();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.await.expect("a worker"));
        }
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
    }
}
