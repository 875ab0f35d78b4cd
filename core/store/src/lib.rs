//! The state store: revisions, ranges, compare-and-swap transactions, watches, compaction and snapshots,
//! in etcd's terms.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`key`] | keys and ranges of keys |
//! | [`types`] | requests and answers |
//! | [`store`] | the [`Store`] trait |
//! | [`error`] | [`StoreError`] |
//! | [`snapshot`] | the format of snapshots |
//! | [`embedded`] | the embedded engine |
//! | [`etcd`] | the etcd engine |
//!
//! Invariant: nothing in here knows what an API object is; a value is bytes.
#![forbid(unsafe_code)]

pub mod embedded;
pub mod error;
pub mod etcd;
pub mod key;
pub mod snapshot;
pub mod store;
pub mod types;

pub use embedded::{EmbeddedOptions, EmbeddedStore};
pub use error::StoreError;
pub use etcd::EtcdStore;
pub use store::{SnapshotStream, Store, WatchProgress, WatchStream};
pub use types::{
    Compare, CompareOp, CompareTarget, Event, EventKind, KeyValue, Op, OpResponse, RangeRequest, RangeResponse, Select,
    StoreStatus, Txn, TxnResponse, WatchBatch, WatchRequest,
};
