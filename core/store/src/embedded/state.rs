//! The latest objects, and transactions as functions of them. Nothing in here touches the disk.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, stream};
use imbl::OrdSet;

use super::options::EmbeddedOptions;
use crate::error::StoreError;
use crate::key::{RANGE_END_ALL, contains};
use crate::snapshot::SnapshotEncoder;
use crate::types::{
    Compare, CompareOp, CompareTarget, Event, EventKind, KeyValue, Op, OpResponse, RangeRequest, RangeResponse, Select,
    Txn, TxnResponse,
};

/// How much of a snapshot is made at a time.
const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;

/// Where a row is on the disk: its revision, and which change of that revision it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    pub revision: i64,
    pub sub: u32,
}

/// A key with its value, and its row.
#[derive(Debug, PartialEq, Eq)]
pub struct Item {
    pub kv: KeyValue,
    pub row: RowId,
}

/// An item among others, in the order of keys.
#[derive(Clone, Debug)]
struct ByKey(Arc<Item>);

impl Borrow<[u8]> for ByKey {
    fn borrow(&self) -> &[u8] {
        &self.0.kv.key
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.kv.key == other.0.kv.key
    }
}

impl Eq for ByKey {}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.kv.key.cmp(&other.0.kv.key)
    }
}

/// All keys at one revision. A copy costs nothing.
#[derive(Clone, Debug)]
pub struct State {
    items: OrdSet<ByKey>,
    /// The revision of the last change.
    pub revision: i64,
    /// The oldest revision that can be read; 0 if nothing was ever compacted.
    pub compact_revision: i64,
}

/// What a transaction did to a key.
#[derive(Clone, Debug)]
pub struct Change {
    pub kind: EventKind,
    /// The key as written; of a deletion the key and the revision.
    pub item: Arc<Item>,
    /// What was there before.
    pub previous: Option<Arc<Item>>,
}

impl Change {
    /// The change as a watcher sees it.
    pub fn event(&self, prev_kv: bool) -> Event {
        Event {
            kind: self.kind,
            kv: self.item.kv.clone(),
            prev_kv: self.previous.as_ref().filter(|_| prev_kv).map(|item| item.kv.clone()),
        }
    }

    /// About what it takes in memory and on the disk.
    pub fn size_bytes(&self) -> usize {
        self.item.kv.key.len() + self.item.kv.value.len() + 64
    }
}

/// Reads the past for a transaction, which has made some changes to the state already.
pub type ReadPast<'r> = dyn Fn(&State, &[Change], &RangeRequest) -> Result<RangeResponse, StoreError> + 'r;

impl Default for State {
    fn default() -> Self {
        Self { items: OrdSet::new(), revision: 1, compact_revision: 0 }
    }
}

impl State {
    /// The item of a key.
    pub fn get(&self, key: &[u8]) -> Option<&Arc<Item>> {
        self.items.get(key).map(|item| &item.0)
    }

    /// The items of a range in order.
    pub fn items<'s>(&'s self, key: &'s [u8], range_end: &'s [u8]) -> impl Iterator<Item = &'s Arc<Item>> {
        let bounds: (Bound<&[u8]>, Bound<&[u8]>) = match range_end {
            b"" => (Bound::Included(key), Bound::Included(key)),
            RANGE_END_ALL => (Bound::Included(key), Bound::Unbounded),
            // An empty interval, which the set would refuse.
            end if end <= key => (Bound::Included(key), Bound::Included(key)),
            end => (Bound::Included(key), Bound::Excluded(end)),
        };
        self.items
            .range::<_, [u8]>(bounds)
            .map(|item| &item.0)
            .filter(move |item| contains(key, range_end, &item.kv.key))
    }

    /// Answers a range at this state.
    pub fn range(&self, request: &RangeRequest) -> RangeResponse {
        answer_range(request, self.revision, self.items(&request.key, &request.range_end).map(|item| &item.kv))
    }

    /// Puts an item in its place, without history.
    pub fn load(&mut self, item: Arc<Item>) {
        self.items.insert(ByKey(item));
    }

    /// Takes a key out, without history.
    pub fn unload(&mut self, key: &[u8]) {
        self.items.remove(key);
    }

    /// Does what a transaction says. On an error nothing has changed.
    pub fn apply(&mut self, txn: &Txn, read_past: &ReadPast<'_>) -> Result<(TxnResponse, Vec<Change>), StoreError> {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        for op in ops {
            if let Op::Range(request) = op {
                check_range(request, self)?;
            }
        }
        // Only a read of the past can fail from here on.
        let reads_past = ops.iter().any(|op| matches!(op, Op::Range(request) if request.revision > 0));
        let before = reads_past.then(|| self.clone());
        let mut changes = Vec::new();
        let mut responses = Vec::with_capacity(ops.len());
        let revision = self.revision + 1;
        for op in ops {
            responses.push(match op {
                Op::Put { key, value, prev_kv } => {
                    let prev = self.put(key, value, revision, &mut changes);
                    OpResponse::Put { prev: prev.filter(|_| *prev_kv).map(|item| item.kv.clone()) }
                }
                Op::Delete { key, range_end, prev_kv } => {
                    let deleted = self.delete(key, range_end, revision, &mut changes);
                    OpResponse::Delete {
                        deleted: deleted.len() as u64,
                        prevs: deleted.iter().filter(|_| *prev_kv).map(|item| item.kv.clone()).collect(),
                    }
                }
                Op::Range(request) if request.revision > 0 => match read_past(self, &changes, request) {
                    Ok(answer) => OpResponse::Range(answer),
                    Err(error) => {
                        if let Some(before) = before {
                            *self = before;
                        }
                        return Err(error);
                    }
                },
                Op::Range(request) => {
                    let mut answer = self.range(request);
                    answer.revision = if changes.is_empty() { self.revision } else { revision };
                    OpResponse::Range(answer)
                }
            });
        }
        if !changes.is_empty() {
            self.revision = revision;
        }
        Ok((TxnResponse { revision: self.revision, succeeded, responses }, changes))
    }

    fn put(&mut self, key: &Bytes, value: &Bytes, revision: i64, changes: &mut Vec<Change>) -> Option<Arc<Item>> {
        let previous = self.get(key).cloned();
        let row = RowId { revision, sub: changes.len() as u32 };
        let kv = KeyValue {
            // The key that is there already is shared.
            key: previous.as_ref().map_or_else(|| key.clone(), |previous| previous.kv.key.clone()),
            value: value.clone(),
            create_revision: previous.as_ref().map_or(revision, |previous| previous.kv.create_revision),
            mod_revision: revision,
            version: previous.as_ref().map_or(1, |previous| previous.kv.version + 1),
        };
        let item = Arc::new(Item { kv, row });
        self.items.insert(ByKey(item.clone()));
        changes.push(Change { kind: EventKind::Put, item, previous: previous.clone() });
        previous
    }

    fn delete(&mut self, key: &[u8], range_end: &[u8], revision: i64, changes: &mut Vec<Change>) -> Vec<Arc<Item>> {
        let deleted: Vec<_> = self.items(key, range_end).cloned().collect();
        for previous in &deleted {
            self.items.remove::<[u8]>(&previous.kv.key);
            let row = RowId { revision, sub: changes.len() as u32 };
            let kv = KeyValue { key: previous.kv.key.clone(), mod_revision: revision, ..KeyValue::default() };
            let item = Arc::new(Item { kv, row });
            changes.push(Change { kind: EventKind::Delete, item, previous: Some(previous.clone()) });
        }
        deleted
    }

    fn holds(&self, compare: &Compare) -> bool {
        if compare.range_end.is_empty() {
            return holds_for(compare, self.get(&compare.key).map(|item| &item.kv));
        }
        self.items(&compare.key, &compare.range_end).all(|item| holds_for(compare, Some(&item.kv)))
    }
}

fn holds_for(compare: &Compare, kv: Option<&KeyValue>) -> bool {
    let ordering = match &compare.target {
        CompareTarget::Version(version) => kv.map_or(0, |kv| kv.version).cmp(version),
        CompareTarget::CreateRevision(revision) => kv.map_or(0, |kv| kv.create_revision).cmp(revision),
        CompareTarget::ModRevision(revision) => kv.map_or(0, |kv| kv.mod_revision).cmp(revision),
        CompareTarget::Value(value) => match kv {
            Some(kv) => kv.value.cmp(value),
            None => return false,
        },
    };
    match compare.op {
        CompareOp::Equal => ordering.is_eq(),
        CompareOp::NotEqual => ordering.is_ne(),
        CompareOp::Greater => ordering.is_gt(),
        CompareOp::Less => ordering.is_lt(),
    }
}

/// The answer to a range from all of its keys in order.
pub fn answer_range<'k>(
    request: &RangeRequest,
    revision: i64,
    kvs: impl Iterator<Item = &'k KeyValue>,
) -> RangeResponse {
    let mut answer = RangeResponse { revision, ..RangeResponse::default() };
    for kv in kvs {
        answer.count += 1;
        if request.select == Select::CountOnly {
            continue;
        }
        if request.limit > 0 && answer.kvs.len() == request.limit {
            answer.more = true;
            continue;
        }
        answer.kvs.push(match request.select {
            Select::KeysOnly => KeyValue { value: Bytes::new(), ..kv.clone() },
            _ => kv.clone(),
        });
    }
    answer
}

/// Whether a range can be read.
pub fn check_range(request: &RangeRequest, state: &State) -> Result<(), StoreError> {
    if request.key.is_empty() {
        return Err(StoreError::InvalidRequest("the key is empty".to_owned()));
    }
    if request.revision > state.revision {
        return Err(StoreError::FutureRevision { requested: request.revision, current: state.revision });
    }
    if request.revision > 0 && request.revision < state.compact_revision {
        let compact_revision = state.compact_revision;
        return Err(StoreError::Compacted { requested: request.revision, compact_revision });
    }
    Ok(())
}

/// Whether a transaction makes sense and keeps to the limits, whatever the store holds.
pub fn check_txn(txn: &Txn, options: &EmbeddedOptions) -> Result<(), StoreError> {
    let mut bytes = 0;
    let mut key = |key: &Bytes, range_end: &Bytes| {
        if key.is_empty() {
            return Err(StoreError::InvalidRequest("the key is empty".to_owned()));
        }
        let longest = key.len().max(range_end.len());
        if longest > options.key_bytes_max {
            let limit_bytes = options.key_bytes_max;
            return Err(StoreError::TooLarge { what: "key", size_bytes: longest, limit_bytes });
        }
        bytes += key.len() + range_end.len();
        Ok(())
    };
    for compare in &txn.compares {
        key(&compare.key, &compare.range_end)?;
    }
    let mut value_bytes = 0;
    for ops in [&txn.success, &txn.failure] {
        for op in ops {
            match op {
                Op::Put { key: name, value, .. } => {
                    key(name, &Bytes::new())?;
                    value_bytes += value.len();
                }
                Op::Delete { key: name, range_end, .. } => key(name, range_end)?,
                Op::Range(request) => key(&request.key, &request.range_end)?,
            }
        }
        check_written_once(ops)?;
    }
    let size_bytes = bytes + value_bytes;
    if size_bytes > options.transaction_bytes_max {
        let limit_bytes = options.transaction_bytes_max;
        return Err(StoreError::TooLarge { what: "transaction", size_bytes, limit_bytes });
    }
    let ops = txn.success.len().max(txn.failure.len()).max(txn.compares.len());
    if ops > options.transaction_ops_max {
        let text = format!("{ops} operations in one transaction, over the limit of {}", options.transaction_ops_max);
        return Err(StoreError::InvalidRequest(text));
    }
    Ok(())
}

/// A branch may put a key once, and may not delete what it puts.
fn check_written_once(ops: &[Op]) -> Result<(), StoreError> {
    for (at, op) in ops.iter().enumerate() {
        let Op::Put { key, .. } = op else { continue };
        let again = ops.iter().enumerate().any(|(other_at, other)| match other {
            Op::Put { key: other, .. } => other_at != at && other == key,
            Op::Delete { key: start, range_end, .. } => contains(start, range_end, key),
            Op::Range(_) => false,
        });
        if again {
            return Err(StoreError::InvalidRequest(format!(
                "key {} is written twice in one transaction",
                key.escape_ascii()
            )));
        }
    }
    Ok(())
}

/// The chunks of a snapshot of a state.
pub fn snapshot_chunks(state: State, encoder: SnapshotEncoder) -> impl Stream<Item = Result<Bytes, StoreError>> + Send {
    struct Cursor {
        state: State,
        encoder: Option<SnapshotEncoder>,
        after: Option<Arc<Item>>,
    }
    let cursor = Cursor { state, encoder: Some(encoder), after: None };
    stream::unfold(cursor, |mut cursor| async move {
        let mut encoder = cursor.encoder.take()?;
        let low: Bound<&[u8]> = match &cursor.after {
            Some(item) => Bound::Excluded(&item.kv.key),
            None => Bound::Unbounded,
        };
        let mut queue: VecDeque<Arc<Item>> = VecDeque::new();
        let mut bytes = 0;
        for item in cursor.state.items.range::<_, [u8]>((low, Bound::Unbounded)) {
            bytes += item.0.kv.key.len() + item.0.kv.value.len();
            queue.push_back(item.0.clone());
            if bytes >= SNAPSHOT_CHUNK_BYTES {
                break;
            }
        }
        let chunk = match queue.back() {
            Some(last) => {
                cursor.after = Some(last.clone());
                for item in &queue {
                    encoder.push(&item.kv);
                }
                let chunk = encoder.take();
                cursor.encoder = Some(encoder);
                chunk
            }
            None => encoder.finish(),
        };
        Some((Ok(chunk), cursor))
    })
}
