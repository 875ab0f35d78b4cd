//! Reads of the past: today's keys with the changes since then undone.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::Shared;
use super::disk::{Disk, Row};
use super::state::{Change, RowId, State, answer_range};
use crate::error::StoreError;
use crate::key::contains;
use crate::types::{KeyValue, RangeRequest, RangeResponse};

/// Rows that are read at a time.
const ROWS_MAX: usize = 4096;
/// Their bytes.
const BYTES_MAX: usize = 4 << 20;

/// Answers a range at a past revision, off the threads that answer requests.
pub async fn range(shared: Arc<Shared>, state: State, request: RangeRequest) -> Result<RangeResponse, StoreError> {
    tokio::task::spawn_blocking(move || range_with(&shared, &state, &[], &request))
        .await
        .map_err(|_| StoreError::Closed)?
}

/// The same, for a state that is ahead of the disk by some changes.
pub fn range_with(
    shared: &Shared,
    state: &State,
    ahead: &[Change],
    request: &RangeRequest,
) -> Result<RangeResponse, StoreError> {
    let in_range = |key: &[u8]| contains(&request.key, &request.range_end, key);
    // What the first change after the revision found: a row, or nothing.
    let mut undone: BTreeMap<Bytes, Option<RowId>> = BTreeMap::new();
    let kvs = {
        let guard = shared.disk.read();
        let disk = guard.as_ref().ok_or(StoreError::Closed)?;
        let mut from = request.revision + 1;
        let on_disk = ahead.first().map_or(state.revision, |change| change.item.row.revision - 1);
        while from <= on_disk {
            let (rows, next) = disk.rows(from, on_disk, ROWS_MAX, BYTES_MAX)?;
            for row in rows {
                let Row { item, previous, .. } = row;
                if in_range(&item.kv.key) {
                    undone.entry(item.kv.key).or_insert(previous);
                }
            }
            from = next;
        }
        for change in ahead.iter().filter(|change| change.item.row.revision > request.revision) {
            if in_range(&change.item.kv.key) {
                let previous = change.previous.as_ref().map(|previous| previous.row);
                undone.entry(change.item.kv.key.clone()).or_insert(previous);
            }
        }
        past_values(disk, &undone)?
    };
    // The revision may have been compacted, and its rows removed, while they were read.
    let compact_revision = shared.state.read().compact_revision;
    if request.revision < compact_revision {
        return Err(StoreError::Compacted { requested: request.revision, compact_revision });
    }
    let mut past: BTreeMap<&[u8], &KeyValue> = kvs.iter().map(|kv| (kv.key.as_ref(), kv)).collect();
    for item in state.items(&request.key, &request.range_end) {
        if !undone.contains_key(&item.kv.key) {
            past.insert(&item.kv.key, &item.kv);
        }
    }
    Ok(answer_range(request, state.revision, past.into_values()))
}

fn past_values(disk: &Disk, undone: &BTreeMap<Bytes, Option<RowId>>) -> Result<Vec<KeyValue>, StoreError> {
    let ids: Vec<RowId> = undone.values().filter_map(|id| *id).collect();
    Ok(disk.get(&ids)?.into_iter().flatten().map(|row| row.item.kv).collect())
}
