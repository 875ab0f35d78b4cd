//! Work queues, workers and retries: the loop that every controller runs in.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use gantry_client::informer::Watched;
use gantry_client::{Informer, ObjectKey, WorkQueue};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::ControllerError;

/// When a key shall be looked at again though nothing changes.
pub type Again = Option<Duration>;

/// What a reconcile says.
pub type Reconciled = Result<Again, ControllerError>;

/// Works on keys until `stop`: `workers` at once, never two on one key. A failure comes again with back-off.
pub async fn run<T, F, Fut>(name: &'static str, queue: WorkQueue<T>, workers: usize, stop: CancellationToken, work: F)
where
    T: Clone + Eq + Hash + Send + Sync + std::fmt::Debug + 'static,
    F: Fn(T) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Reconciled> + Send,
{
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        let (queue, stop, work) = (queue.clone(), stop.clone(), work.clone());
        tasks.spawn(async move {
            loop {
                let key = tokio::select! {
                    () = stop.cancelled() => return,
                    key = queue.get() => key,
                };
                let Some(key) = key else { return };
                match work(key.clone()).await {
                    Ok(again) => {
                        queue.forget(&key);
                        if let Some(delay) = again {
                            queue.add_after(key.clone(), delay);
                        }
                    }
                    Err(error) => {
                        if error.is_conflict() || matches!(error, ControllerError::NotYet(_)) {
                            tracing::debug!(controller = name, ?key, %error, "again");
                        } else {
                            tracing::warn!(controller = name, ?key, %error, "reconcile failed");
                        }
                        queue.add_rate_limited(key.clone());
                    }
                }
                queue.done(&key);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// Puts the key of every object of an informer, and of every change, on a queue.
pub fn enqueue_all<K: Watched>(informer: &Informer<K>, queue: &WorkQueue<ObjectKey>) {
    let queue = queue.clone();
    informer.on_change(move |change| queue.add(ObjectKey::of(&**change.object())));
}

/// Waits until informers have held everything there was, or for `stop`; whether all have.
pub async fn synced(informers: &[&(dyn Synced + Sync)], stop: &CancellationToken) -> bool {
    for informer in informers {
        tokio::select! {
            () = stop.cancelled() => return false,
            () = informer.wait() => {}
        }
    }
    true
}

/// Something that has a first complete view.
pub trait Synced {
    /// Resolves when it has.
    fn wait(&self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

impl<K: Watched> Synced for Arc<Informer<K>> {
    fn wait(&self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.synced())
    }
}
