//! What a pod's worker is told, merged until it looks: a worker that is busy misses nothing and nothing piles up.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::pod;
use crate::status_writer::is_own_condition;

/// News for a worker.
#[derive(Default)]
pub struct Mail {
    /// There are any: a signal alone may be one that was answered already.
    any: bool,
    /// The pod has changed.
    pub pod: Option<Arc<Pod>>,
    /// The API server no longer has it.
    pub gone: bool,
    /// Containers that have exited.
    pub exited: HashSet<String>,
    /// Look at all containers again.
    pub look_again: bool,
    /// A ConfigMap or Secret has changed.
    pub objects_changed: bool,
    /// The mirror pod of a static pod is gone.
    pub mirror_gone: bool,
    /// The node ends the pod: reason and message.
    pub evicted: Option<(String, String)>,
}

/// Where a worker's news arrive.
pub struct Inbox {
    mail: Mutex<Mail>,
    last: Mutex<Option<Arc<Pod>>>,
    arrived: Notify,
    /// Cancelled once the pod shall end, so that what starts it can stop.
    pub ending: CancellationToken,
    /// Seconds that the pod has to end; it only ever shrinks.
    grace: watch::Sender<Option<i64>>,
}

/// Whether a new version of a pod says anything that the agent did not write itself: its own status comes back as a
/// change, and must not make it try again what waits.
fn is_news(known: &Pod, new: &Pod) -> bool {
    let meta = |pod: &Pod| {
        let mut meta = pod.metadata.clone();
        meta.resource_version = None;
        meta.managed_fields = None;
        meta
    };
    let foreign = |pod: &Pod| -> Vec<PodCondition> {
        let all = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        all.filter(|condition| !is_own_condition(&condition.type_)).cloned().collect()
    };
    let is_over = |pod: &Pod| pod::is_terminal_phase(pod::phase(pod));
    known.spec != new.spec
        || meta(known) != meta(new)
        || foreign(known) != foreign(new)
        || is_over(known) != is_over(new)
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            mail: Mutex::default(),
            last: Mutex::default(),
            arrived: Notify::new(),
            ending: CancellationToken::new(),
            grace: watch::Sender::new(None),
        }
    }
}

impl Inbox {
    fn put(&self, change: impl FnOnce(&mut Mail)) {
        let mut mail = self.mail.lock();
        change(&mut mail);
        mail.any = true;
        drop(mail);
        self.arrived.notify_one();
    }

    /// The pod has changed.
    pub fn pod(&self, pod: Arc<Pod>) {
        if pod::is_deleted(&pod) {
            self.end(pod.metadata.deletion_grace_period_seconds);
        }
        let known = self.last.lock().replace(pod.clone());
        if known.is_none_or(|known| is_news(&known, &pod)) {
            self.put(|mail| mail.pod = Some(pod));
        }
    }

    /// The API server no longer has the pod.
    pub fn gone(&self, last: &Pod) {
        self.end(last.metadata.deletion_grace_period_seconds);
        self.put(|mail| mail.gone = true);
    }

    /// A container has exited.
    pub fn exited(&self, container_id: &str) {
        self.put(|mail| {
            mail.exited.insert(container_id.to_owned());
        });
    }

    /// Exits may have been missed.
    pub fn look_again(&self) {
        self.put(|mail| mail.look_again = true);
    }

    /// A ConfigMap or Secret has changed.
    pub fn objects_changed(&self) {
        self.put(|mail| mail.objects_changed = true);
    }

    /// The mirror pod of a static pod is gone.
    pub fn mirror_gone(&self) {
        self.put(|mail| mail.mirror_gone = true);
    }

    /// Something else did: a probe's result, say.
    pub fn poke(&self) {
        self.put(|_| {});
    }

    /// The node ends the pod.
    pub fn evict(&self, reason: &str, message: &str, grace_seconds: i64) {
        self.end(Some(grace_seconds));
        self.put(|mail| mail.evicted = Some((reason.to_owned(), message.to_owned())));
    }

    fn end(&self, grace_seconds: Option<i64>) {
        self.ending.cancel();
        self.grace.send_if_modified(|known| match (*known, grace_seconds) {
            (Some(known), Some(new)) if new >= known => false,
            (_, None) => false,
            (_, Some(new)) => {
                *known = Some(new);
                true
            }
        });
    }

    /// The seconds that the pod has to end, as they change.
    pub fn grace(&self) -> watch::Receiver<Option<i64>> {
        self.grace.subscribe()
    }

    /// Takes the news.
    pub fn take(&self) -> Mail {
        std::mem::take(&mut self.mail.lock())
    }

    /// Waits for news. Cancel-safe.
    pub async fn arrived(&self) {
        while !self.mail.lock().any {
            self.arrived.notified().await;
        }
    }
}
