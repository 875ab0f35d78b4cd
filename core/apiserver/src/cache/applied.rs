//! How far the caches have come, and waiting until they have come further.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The revision up to which all caches are complete.
#[derive(Debug, Default)]
pub struct Applied {
    revision: AtomicI64,
    waiting: Mutex<BTreeMap<i64, Vec<oneshot::Sender<()>>>>,
}

impl Applied {
    /// The revision.
    pub fn revision(&self) -> i64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Everything up to this revision is in the caches.
    pub fn advance(&self, revision: i64) {
        self.revision.fetch_max(revision, Ordering::AcqRel);
        let reached = {
            let mut waiting = self.waiting.lock();
            let later = waiting.split_off(&(revision + 1));
            std::mem::replace(&mut *waiting, later)
        };
        for waiter in reached.into_values().flatten() {
            // A waiter that has given up is no loss.
            let _ = waiter.send(());
        }
    }

    /// Waits until everything up to a revision is in the caches.
    pub async fn wait_for(&self, revision: i64) {
        let receiver = {
            let mut waiting = self.waiting.lock();
            if self.revision() >= revision {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            waiting.entry(revision).or_default().push(sender);
            receiver
        };
        // The sender goes only together with the server.
        let _ = receiver.await;
    }
}
