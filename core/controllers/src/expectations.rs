//! What a controller did that its informers haven't shown yet (upstream's `ControllerExpectations`): until they have, or
//! until it took too long, a controller mustn't count pods again, or it would make or delete them twice.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use gantry_client::ObjectKey;
use parking_lot::Mutex;

/// How long is waited for an informer; upstream's `ExpectationsTimeout`.
const TIMEOUT: Duration = Duration::from_secs(5 * 60);

#[derive(Debug)]
struct Pending {
    creations: i64,
    /// Uids of objects whose deletion was asked for.
    deletions: HashSet<String>,
    since: Instant,
}

/// Expectations by owner.
#[derive(Debug, Default)]
pub struct Expectations {
    pending: Mutex<HashMap<ObjectKey, Pending>>,
}

impl Expectations {
    /// Whether everything that was done for an owner has been seen.
    pub fn satisfied(&self, owner: &ObjectKey, now: Instant) -> bool {
        let pending = self.pending.lock();
        pending.get(owner).is_none_or(|pending| {
            pending.creations <= 0 && pending.deletions.is_empty()
                || now.saturating_duration_since(pending.since) > TIMEOUT
        })
    }

    /// Says what is about to be done.
    pub fn expect(
        &self,
        owner: &ObjectKey,
        creations: usize,
        deletions: impl IntoIterator<Item = String>,
        now: Instant,
    ) {
        let pending = Pending { creations: creations as i64, deletions: deletions.into_iter().collect(), since: now };
        self.pending.lock().insert(owner.clone(), pending);
    }

    /// A creation was seen, or failed.
    pub fn created(&self, owner: &ObjectKey) {
        if let Some(pending) = self.pending.lock().get_mut(owner) {
            pending.creations -= 1;
        }
    }

    /// A deletion was seen, or failed.
    pub fn deleted(&self, owner: &ObjectKey, uid: &str) {
        if let Some(pending) = self.pending.lock().get_mut(owner) {
            pending.deletions.remove(uid);
        }
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &ObjectKey) {
        self.pending.lock().remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_hold_until_seen_or_too_old() {
        let now = Instant::now();
        let expectations = Expectations::default();
        let owner = ObjectKey::new("ns", "rs");
        assert!(expectations.satisfied(&owner, now));
        expectations.expect(&owner, 1, ["u1".to_owned()], now);
        expectations.created(&owner);
        assert!(!expectations.satisfied(&owner, now));
        expectations.deleted(&owner, "other");
        assert!(!expectations.satisfied(&owner, now));
        expectations.deleted(&owner, "u1");
        assert!(expectations.satisfied(&owner, now));
        expectations.expect(&owner, 1, [], now);
        assert!(!expectations.satisfied(&owner, now + TIMEOUT));
        assert!(expectations.satisfied(&owner, now + TIMEOUT + Duration::from_secs(1)));
    }
}
