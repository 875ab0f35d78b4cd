//! The store as its users see it, whichever engine is behind it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use futures::stream::BoxStream;

use crate::error::StoreError;
use crate::types::{RangeRequest, RangeResponse, StoreStatus, Txn, TxnResponse, WatchBatch, WatchRequest};

/// A revisioned, ordered map of keys to values.
///
/// Reads and transactions are linearizable. Dropping a future of [`Store::txn`] doesn't take the
/// transaction back.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads a range of keys at one revision.
    ///
    /// Fails with [`StoreError::Compacted`] below the compact revision and with
    /// [`StoreError::FutureRevision`] above the current one.
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError>;

    /// Compares and swaps. It answers when what it wrote is on the disk.
    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError>;

    /// Streams changes, one batch per revision, in order, without a gap or a duplicate, each only after
    /// it is on the disk.
    ///
    /// An error ends the stream: [`StoreError::Compacted`] (usually the first item) when the start is
    /// no longer there, [`StoreError::WatchLagged`] when the reader is too slow.
    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, StoreError>;

    /// Forgets what was overwritten or deleted before `revision`. It answers when the revisions below
    /// can no longer be read; the space is given back in the background.
    ///
    /// Fails with [`StoreError::Compacted`] if that was done already, and with
    /// [`StoreError::FutureRevision`] above the current revision.
    async fn compact(&self, revision: i64) -> Result<(), StoreError>;

    /// The revisions and the size.
    async fn status(&self) -> Result<StoreStatus, StoreError>;

    /// A consistent copy of all keys at the current revision, in the format of `snapshot`.
    async fn snapshot(&self) -> Result<SnapshotStream, StoreError>;
}

/// The chunks of a snapshot, each at most a few hundred kilobytes (plus one value).
pub type SnapshotStream = BoxStream<'static, Result<Bytes, StoreError>>;

/// A running watch: a stream of batches. Dropping it ends the watch.
pub struct WatchStream {
    batches: BoxStream<'static, Result<WatchBatch, StoreError>>,
    progress: WatchProgress,
}

impl WatchStream {
    /// A watch from its parts, for engines.
    pub fn new(
        batches: BoxStream<'static, Result<WatchBatch, StoreError>>,
        request_progress: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        WatchStream { batches, progress: WatchProgress(Arc::new(request_progress)) }
    }

    /// A handle with which to ask for progress while another task reads the stream.
    pub fn progress(&self) -> WatchProgress {
        self.progress.clone()
    }
}

impl Stream for WatchStream {
    type Item = Result<WatchBatch, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches.as_mut().poll_next(cx)
    }
}

/// Asks a watch how far it has come.
#[derive(Clone)]
pub struct WatchProgress(Arc<dyn Fn() + Send + Sync>);

impl WatchProgress {
    /// Asks for a batch without events: all changes up to its revision, which is at least the store's
    /// revision at the time of this call, come before it. Answers to several calls may be merged.
    pub fn request(&self) {
        (self.0)();
    }
}
