//! What every engine must do. `store_suite!(factory)` makes a test of each case; the factory is an async function that
//! answers with an empty store and whatever must live as long as it.

pub mod basics;
pub mod model;
pub mod watches;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use gantry_store::{KeyValue, RangeRequest, Store, StoreError, Txn, TxnResponse, WatchBatch, WatchStream};

/// How long a test waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes a test of each case of the suite.
#[macro_export]
macro_rules! store_suite {
    ($factory:path) => {
        $crate::store_suite!($factory:
            basics: starts_empty, versions_count_up, ranges, past_revisions, compares, operations_in_order,
                nothing_written_no_revision, bad_requests, compaction, snapshot_is_whole;
            watches: live, history_then_live, future_start, one_batch_per_revision, previous_values, compacted_start,
                progress, concurrent_counter;
            model: agrees_with_model;
        );
    };
    ($factory:path: $($module:ident: $($case:ident),* $(,)?;)*) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let (store, _keep) = $factory().await;
                $crate::suite::$module::$case(store).await;
            }
        )*)*
    };
}

pub async fn put(store: &Arc<dyn Store>, key: &str, value: &str) -> i64 {
    store.txn(Txn::put(key.to_owned(), value.to_owned())).await.expect("put").revision
}

pub async fn delete(store: &Arc<dyn Store>, key: &str) -> i64 {
    store.txn(Txn::delete(key.to_owned())).await.expect("delete").revision
}

pub async fn txn(store: &Arc<dyn Store>, txn: Txn) -> TxnResponse {
    store.txn(txn).await.expect("txn")
}

pub async fn get(store: &Arc<dyn Store>, key: &str) -> Option<KeyValue> {
    store.range(RangeRequest::one(key.to_owned())).await.expect("range").kvs.pop()
}

pub async fn revision(store: &Arc<dyn Store>) -> i64 {
    store.status().await.expect("status").revision
}

/// `key=value` of each.
pub fn pairs(kvs: &[KeyValue]) -> String {
    let pairs: Vec<_> = kvs.iter().map(|kv| format!("{}={}", kv.key.escape_ascii(), kv.value.escape_ascii())).collect();
    pairs.join(" ")
}

pub async fn next(stream: &mut WatchStream) -> Result<WatchBatch, StoreError> {
    tokio::time::timeout(PATIENCE, stream.next()).await.expect("a batch in time").expect("the stream goes on")
}

/// The next batch with events.
pub async fn next_events(stream: &mut WatchStream) -> WatchBatch {
    loop {
        let batch = next(stream).await.expect("a batch");
        if !batch.events.is_empty() {
            return batch;
        }
    }
}
