//! What becomes of an event (client-go's `EventCorrelator`): similar ones are combined, equal ones counted, and a
//! source that says too much about one object is not heard for a while.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;

use super::EventType;

/// After how many different messages of one reason the further ones are combined.
const SIMILAR_MAX: usize = 10;
/// For how long similar events count as such.
const SIMILAR_WITHIN: SignedDuration = SignedDuration::from_mins(10);
/// How many events about one object may come at once.
const BURST: f64 = 25.0;
/// After how many seconds one more may.
const REFILL_S: f64 = 300.0;
/// How many objects and events are remembered; beyond it the memory is emptied, which costs a count, not an event.
const REMEMBERED_MAX: usize = 4096;

/// An event as a component records it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// What it is about.
    pub regarding: ObjectReference,
    /// Normal or Warning.
    pub kind: EventType,
    /// Why, in one CamelCase word.
    pub reason: String,
    /// What was done or tried.
    pub action: String,
    /// In a person's words.
    pub note: String,
}

/// What to do with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Write a new object.
    Create {
        /// Its name.
        name: String,
        /// Its message.
        note: String,
    },
    /// Raise the count of one that was written before.
    Repeat {
        /// Its name.
        name: String,
        /// Its message.
        note: String,
        /// The new count.
        count: i32,
    },
    /// Nothing: there were too many.
    Drop,
}

/// Remembers what was recorded.
#[derive(Default)]
pub struct Correlator {
    buckets: HashMap<u64, Bucket>,
    similar: HashMap<u64, Similar>,
    written: HashMap<u64, Written>,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Similar {
    notes: Vec<u64>,
    last: Timestamp,
}

struct Written {
    name: String,
    count: i32,
}

impl Correlator {
    /// Decides on one event.
    pub fn correlate(&mut self, event: &Recorded, now: Timestamp) -> Outcome {
        let note = self.combine(event, now);
        let key = event_key(event, &note);
        bound(&mut self.written);
        let outcome = match self.written.get_mut(&key) {
            Some(written) => {
                written.count = written.count.saturating_add(1);
                Outcome::Repeat { name: written.name.clone(), note, count: written.count }
            }
            None => {
                let name = name_of(event, now);
                self.written.insert(key, Written { name: name.clone(), count: 1 });
                Outcome::Create { name, note }
            }
        };
        if self.take_token(event, now) { outcome } else { Outcome::Drop }
    }

    /// Starts the count anew, under a new name, for an event whose object is gone.
    pub fn renew(&mut self, event: &Recorded, now: Timestamp) -> String {
        let name = name_of(event, now);
        self.written.insert(event_key(event, &event.note), Written { name: name.clone(), count: 1 });
        name
    }

    fn combine(&mut self, event: &Recorded, now: Timestamp) -> String {
        bound(&mut self.similar);
        let similar =
            self.similar.entry(similar_key(event)).or_insert_with(|| Similar { notes: Vec::new(), last: now });
        if now.duration_since(similar.last) > SIMILAR_WITHIN {
            similar.notes.clear();
        }
        similar.last = now;
        let note = hash(|state| event.note.hash(state));
        if !similar.notes.contains(&note) {
            if similar.notes.len() >= SIMILAR_MAX {
                similar.notes.remove(0);
                similar.notes.push(note);
                return format!("(combined from similar events): {}", event.note);
            }
            similar.notes.push(note);
        }
        event.note.clone()
    }

    fn take_token(&mut self, event: &Recorded, now: Timestamp) -> bool {
        bound(&mut self.buckets);
        let key = hash(|state| hash_object(&event.regarding, state));
        let bucket = self.buckets.entry(key).or_insert(Bucket { tokens: BURST, at: now });
        let passed_s = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed_s / REFILL_S).min(BURST);
        bucket.at = now;
        let may = bucket.tokens >= 1.0;
        if may {
            bucket.tokens -= 1.0;
        }
        may
    }
}

fn bound<V>(remembered: &mut HashMap<u64, V>) {
    if remembered.len() >= REMEMBERED_MAX {
        remembered.clear();
    }
}

/// `NAME.HEX`, the hex being the time in nanoseconds, as client-go names events.
fn name_of(event: &Recorded, now: Timestamp) -> String {
    format!("{}.{:x}", event.regarding.name.as_deref().unwrap_or_default(), now.as_nanosecond())
}

fn hash(feed: impl FnOnce(&mut DefaultHasher)) -> u64 {
    let mut state = DefaultHasher::new();
    feed(&mut state);
    state.finish()
}

fn hash_object(object: &ObjectReference, state: &mut DefaultHasher) {
    (&object.kind, &object.namespace, &object.name, &object.uid, &object.api_version).hash(state);
}

fn similar_key(event: &Recorded) -> u64 {
    hash(|state| {
        hash_object(&event.regarding, state);
        (event.kind, &event.reason, &event.action).hash(state);
    })
}

fn event_key(event: &Recorded, note: &str) -> u64 {
    // All combined events of one reason count as one, whatever the latest says.
    let note = if note.starts_with("(combined from similar events): ") { "" } else { note };
    hash(|state| {
        similar_key(event).hash(state);
        (&event.regarding.field_path, note).hash(state);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(note: &str) -> Recorded {
        let regarding = ObjectReference { name: Some("p".into()), ..ObjectReference::default() };
        Recorded { regarding, kind: EventType::Normal, reason: "R".into(), action: "A".into(), note: note.into() }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    #[test]
    fn equal_events_are_counted() {
        let mut correlator = Correlator::default();
        let first = correlator.correlate(&event("a"), at(1));
        assert_eq!(first, Outcome::Create { name: "p.3b9aca00".into(), note: "a".into() });
        let again = correlator.correlate(&event("a"), at(2));
        assert_eq!(again, Outcome::Repeat { name: "p.3b9aca00".into(), note: "a".into(), count: 2 });
        assert_eq!(correlator.renew(&event("a"), at(3)), "p.b2d05e00");
    }

    #[test]
    fn similar_events_are_combined() {
        let mut correlator = Correlator::default();
        for n in 0..SIMILAR_MAX {
            assert!(matches!(correlator.correlate(&event(&n.to_string()), at(0)), Outcome::Create { .. }));
        }
        let note = "(combined from similar events): x".to_owned();
        assert!(matches!(correlator.correlate(&event("x"), at(0)), Outcome::Create { note: seen, .. } if seen == note));
        assert!(matches!(correlator.correlate(&event("y"), at(0)), Outcome::Repeat { count: 2, .. }));
        // Ten quiet minutes later messages stand for themselves again.
        assert!(matches!(correlator.correlate(&event("z"), at(700)), Outcome::Create { note, .. } if note == "z"));
    }

    #[test]
    fn too_many_events_about_one_object_are_dropped_for_a_while() {
        let mut correlator = Correlator::default();
        let heard = (0..40).filter(|_| correlator.correlate(&event("a"), at(0)) != Outcome::Drop).count();
        assert_eq!(heard, 25);
        assert_eq!(correlator.correlate(&event("a"), at(299)), Outcome::Drop);
        assert_ne!(correlator.correlate(&event("a"), at(301)), Outcome::Drop);
    }
}
