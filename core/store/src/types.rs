//! Requests and answers, in etcd's terms.
//!
//! Keys and values are [`Bytes`]: what an engine hands out it hands out by reference count.

use bytes::Bytes;

use crate::key::prefix_range;

/// A key with its value and where it is in history.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value (empty when only keys were asked for).
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: i64,
    /// The revision that last wrote it.
    pub mod_revision: i64,
    /// How often it was written since its creation, which counts as the first time.
    pub version: i64,
}

/// What of each key a range answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Select {
    /// Keys and values.
    #[default]
    All,
    /// Keys and revisions, values left out.
    KeysOnly,
    /// Only how many keys there are.
    CountOnly,
}

/// Reads a range of keys at one revision.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RangeRequest {
    /// The first key.
    pub key: Bytes,
    /// The end of the range, see [`crate::key`]: empty for the one key.
    pub range_end: Bytes,
    /// The revision to read at; 0 means the latest.
    pub revision: i64,
    /// How many keys to answer with at most; 0 means all.
    pub limit: usize,
    /// What of each key.
    pub select: Select,
}

impl RangeRequest {
    /// One key, at the latest revision.
    pub fn one(key: impl Into<Bytes>) -> Self {
        RangeRequest { key: key.into(), ..Default::default() }
    }

    /// All keys with a prefix, at the latest revision.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let (key, range_end) = prefix_range(prefix);
        RangeRequest { key, range_end, ..Default::default() }
    }

    /// A half-open range of keys, at the latest revision.
    pub fn span(key: impl Into<Bytes>, range_end: impl Into<Bytes>) -> Self {
        RangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() }
    }

    /// The same, at a revision.
    pub fn at(mut self, revision: i64) -> Self {
        self.revision = revision;
        self
    }

    /// The same, with at most `limit` keys.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// The same, with another selection.
    pub fn select(mut self, select: Select) -> Self {
        self.select = select;
        self
    }
}

/// The answer to a range.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RangeResponse {
    /// The store's revision when it was read (not the past revision that was asked for).
    pub revision: i64,
    /// The keys in order, at most as many as the limit.
    pub kvs: Vec<KeyValue>,
    /// How many keys the range holds, the limit notwithstanding.
    pub count: u64,
    /// Whether the limit cut keys off.
    pub more: bool,
}

/// What a comparison looks at, and what it is compared with. A key that doesn't exist has zero
/// revisions and a zero version, and no value: comparing its value fails whatever the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    /// The version.
    Version(i64),
    /// The revision that created the key.
    CreateRevision(i64),
    /// The revision that last wrote it.
    ModRevision(i64),
    /// The value.
    Value(Bytes),
}

/// How a comparison compares: what is in the store, operator, what is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    /// Same.
    Equal,
    /// Not the same.
    NotEqual,
    /// The store's is greater.
    Greater,
    /// The store's is less.
    Less,
}

/// A condition of a transaction; with a range end it must hold for every key of the range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: Bytes,
    /// The end of the range, empty for the one key.
    pub range_end: Bytes,
    /// What is compared.
    pub target: CompareTarget,
    /// How.
    pub op: CompareOp,
}

impl Compare {
    /// The key was last written at this revision (0: it doesn't exist).
    pub fn mod_revision(key: impl Into<Bytes>, revision: i64) -> Self {
        Compare {
            key: key.into(),
            range_end: Bytes::new(),
            target: CompareTarget::ModRevision(revision),
            op: CompareOp::Equal,
        }
    }

    /// The key doesn't exist.
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Compare::mod_revision(key, 0)
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a key.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// Whether to answer with what was there before.
        prev_kv: bool,
    },
    /// Deletes a key or a range.
    Delete {
        /// The first key.
        key: Bytes,
        /// The end of the range, empty for the one key.
        range_end: Bytes,
        /// Whether to answer with what was deleted.
        prev_kv: bool,
    },
    /// Reads a range; it sees what earlier operations of the transaction wrote.
    Range(RangeRequest),
}

impl Op {
    /// Writes a key.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Op::Put { key: key.into(), value: value.into(), prev_kv: false }
    }

    /// Deletes a key.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Op::Delete { key: key.into(), range_end: Bytes::new(), prev_kv: false }
    }

    /// Reads a key.
    pub fn get(key: impl Into<Bytes>) -> Self {
        Op::Range(RangeRequest::one(key))
    }

    /// Whether it only reads.
    pub fn is_read(&self) -> bool {
        matches!(self, Op::Range(_))
    }
}

/// A transaction: if all comparisons hold, the first operations, else the second; all or nothing.
///
/// What it writes gets one revision. One branch may write a key only once.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Txn {
    /// The conditions.
    pub compares: Vec<Compare>,
    /// What to do when they hold.
    pub success: Vec<Op>,
    /// What to do otherwise.
    pub failure: Vec<Op>,
}

impl Txn {
    /// Writes a key unconditionally.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Txn { success: vec![Op::put(key, value)], ..Default::default() }
    }

    /// Deletes a key unconditionally.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Txn { success: vec![Op::delete(key)], ..Default::default() }
    }

    /// Creates a key; if it exists, answers with it instead.
    pub fn create(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        let key = key.into();
        Txn {
            compares: vec![Compare::absent(key.clone())],
            success: vec![Op::put(key.clone(), value)],
            failure: vec![Op::get(key)],
        }
    }

    /// Writes a key that was last written at `revision`; otherwise answers with it.
    pub fn update(key: impl Into<Bytes>, revision: i64, value: impl Into<Bytes>) -> Self {
        let key = key.into();
        Txn {
            compares: vec![Compare::mod_revision(key.clone(), revision)],
            success: vec![Op::put(key.clone(), value)],
            failure: vec![Op::get(key)],
        }
    }

    /// Deletes a key that was last written at `revision`; otherwise answers with it.
    pub fn delete_at(key: impl Into<Bytes>, revision: i64) -> Self {
        let key = key.into();
        Txn {
            compares: vec![Compare::mod_revision(key.clone(), revision)],
            success: vec![Op::delete(key.clone())],
            failure: vec![Op::get(key)],
        }
    }

    /// The bytes of all its keys and values.
    pub fn size_bytes(&self) -> usize {
        let compares = self.compares.iter().map(|compare| compare.key.len() + compare.range_end.len());
        let ops = self.success.iter().chain(&self.failure).map(|op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { key, range_end, .. } => key.len() + range_end.len(),
            Op::Range(request) => request.key.len() + request.range_end.len(),
        });
        compares.chain(ops).sum()
    }

    /// Whether neither branch writes.
    pub fn is_read(&self) -> bool {
        self.success.iter().chain(&self.failure).all(Op::is_read)
    }
}

/// The answer to one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResponse {
    /// To a put.
    Put {
        /// What was there before, if asked for and if there was anything.
        prev: Option<KeyValue>,
    },
    /// To a delete.
    Delete {
        /// How many keys were deleted.
        deleted: u64,
        /// What was deleted, if asked for.
        prevs: Vec<KeyValue>,
    },
    /// To a range.
    Range(RangeResponse),
}

/// The answer to a transaction. It comes after what it wrote is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnResponse {
    /// The revision of what was written; the store's revision if nothing was.
    pub revision: i64,
    /// Whether the comparisons held.
    pub succeeded: bool,
    /// One answer per operation of the branch taken.
    pub responses: Vec<OpResponse>,
}

/// Watches a range of keys.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct WatchRequest {
    /// The first key.
    pub key: Bytes,
    /// The end of the range, empty for the one key.
    pub range_end: Bytes,
    /// The first revision to see: history comes from the store, then live. 0 means from now on; a future
    /// revision means nothing before it.
    pub start_revision: i64,
    /// Whether events carry what was there before.
    pub prev_kv: bool,
}

impl WatchRequest {
    /// All keys with a prefix, from now on.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let (key, range_end) = prefix_range(prefix);
        WatchRequest { key, range_end, ..Default::default() }
    }

    /// One key, from now on.
    pub fn one(key: impl Into<Bytes>) -> Self {
        WatchRequest { key: key.into(), ..Default::default() }
    }

    /// The same, from a revision.
    pub fn from(mut self, start_revision: i64) -> Self {
        self.start_revision = start_revision;
        self
    }

    /// The same, with the previous values.
    pub fn with_prev_kv(mut self) -> Self {
        self.prev_kv = true;
        self
    }
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was written.
    Put,
    /// It was deleted.
    Delete,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key as written; of a deletion only the key and the revision that deleted it.
    pub kv: KeyValue,
    /// What was there before, if asked for and if it hasn't been compacted away.
    pub prev_kv: Option<KeyValue>,
}

impl Event {
    /// Whether a put created the key.
    pub fn is_create(&self) -> bool {
        self.kind == EventKind::Put && self.kv.create_revision == self.kv.mod_revision
    }
}

/// All that one transaction changed within the range; or, without events, word that everything up to
/// the revision has been delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// The revision of the changes.
    pub revision: i64,
    /// The changes in the order in which the transaction made them; empty for a progress answer.
    pub events: Vec<Event>,
}

/// How the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct StoreStatus {
    /// The current revision; an empty store is at 1.
    pub revision: i64,
    /// The oldest revision that can be read, 0 if nothing was ever compacted or the engine can't tell.
    pub compact_revision: i64,
    /// What the store takes on the disk.
    pub size_bytes: u64,
}
