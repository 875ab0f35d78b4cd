//! Forgetting old revisions, as upstream's compactor does: every five minutes what was current five minutes ago
//! becomes the oldest that can be read. A reader thus has at least five minutes to come back with a revision.

use std::sync::Arc;
use std::time::Duration;

use gantry_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

/// How often, and how much history stays at least.
const INTERVAL: Duration = Duration::from_secs(300);

/// What to compact to, and what to remember for the next time: the revision seen an interval ago, if it is news.
fn plan(seen_before: Option<i64>, compacted: i64) -> Option<i64> {
    seen_before.filter(|revision| *revision > compacted.max(1))
}

/// Compacts until shutdown.
pub async fn run(store: Arc<dyn Store>, shutdown: CancellationToken) {
    let mut seen_before = None;
    loop {
        match store.status().await {
            Ok(status) => {
                if let Some(revision) = plan(seen_before, status.compact_revision) {
                    match store.compact(revision).await {
                        // Another server of the same store may have been faster.
                        Ok(()) | Err(StoreError::Compacted { .. }) => {}
                        Err(error) => tracing::warn!(%error, revision, "cannot compact the store"),
                    }
                }
                seen_before = Some(status.revision);
            }
            Err(error) => tracing::warn!(%error, "cannot ask the store for its revision"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::plan;

    #[test]
    fn only_what_is_old_and_new_to_compaction() {
        for (seen_before, compacted, expected) in
            [(None, 0, None), (Some(1), 0, None), (Some(9), 0, Some(9)), (Some(9), 9, None), (Some(9), 4, Some(9))]
        {
            assert_eq!(plan(seen_before, compacted), expected, "{seen_before:?} {compacted}");
        }
    }
}
