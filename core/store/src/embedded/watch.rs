//! Watches: history from the disk until it has caught up with the present, then what the writer publishes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Shared;
use super::options::EmbeddedOptions;
use super::state::{Change, RowId};
use crate::error::StoreError;
use crate::key::{contains, display};
use crate::store::WatchStream;
use crate::types::{KeyValue, WatchBatch, WatchRequest};

/// Rows of history that are read at a time.
const HISTORY_ROWS_MAX: usize = 1024;
/// Their bytes.
const HISTORY_BYTES_MAX: usize = 2 << 20;

/// All watches that have caught up.
pub struct Hub {
    revision: i64,
    watchers: HashMap<u64, Arc<Watcher>>,
    next_id: u64,
    closed: bool,
    options: EmbeddedOptions,
}

struct Watcher {
    request: WatchRequest,
    queue: Mutex<Queue>,
    news: Notify,
}

/// What waits for a reader.
#[derive(Default)]
struct Queue {
    batches: VecDeque<WatchBatch>,
    bytes: usize,
    /// Progress that was asked for: everything up to here comes first.
    progress: Option<i64>,
    /// How it ends, once the batches have been read.
    end: Option<StoreError>,
}

impl Hub {
    /// Nobody watches; the store is at a revision.
    pub fn new(revision: i64, options: EmbeddedOptions) -> Self {
        Self { revision, watchers: HashMap::new(), next_id: 0, closed: false, options }
    }

    /// Tells all watchers of changes that are on the disk.
    pub fn publish(&mut self, revision: i64, changes: &[Change]) {
        self.revision = revision;
        let options = self.options;
        self.watchers.retain(|_, watcher| watcher.deliver(changes, &options));
    }

    /// Ends all watches.
    pub fn close(&mut self) {
        self.closed = true;
        for watcher in std::mem::take(&mut self.watchers).into_values() {
            watcher.end(StoreError::Closed);
        }
    }
}

impl Watcher {
    /// Answers whether it goes on.
    fn deliver(&self, changes: &[Change], options: &EmbeddedOptions) -> bool {
        let request = &self.request;
        let mut queue = self.queue.lock();
        let mut delivered = false;
        for change in changes {
            let revision = change.item.row.revision;
            if revision < request.start_revision || !contains(&request.key, &request.range_end, &change.item.kv.key) {
                continue;
            }
            delivered = true;
            queue.bytes += change.size_bytes();
            match queue.batches.back_mut() {
                Some(batch) if batch.revision == revision => batch.events.push(change.event(request.prev_kv)),
                _ => {
                    let waiting = queue.batches.len();
                    if waiting >= options.watch_batches_max
                        || queue.bytes > options.watch_bytes_max.max(change.size_bytes())
                    {
                        let range = display(&request.key, &request.range_end);
                        queue.end = Some(StoreError::WatchLagged { range, buffered: waiting });
                        drop(queue);
                        self.news.notify_one();
                        return false;
                    }
                    queue.batches.push_back(WatchBatch { revision, events: vec![change.event(request.prev_kv)] });
                }
            }
        }
        drop(queue);
        if delivered {
            self.news.notify_one();
        }
        true
    }

    fn end(&self, error: StoreError) {
        self.queue.lock().end = Some(error);
        self.news.notify_one();
    }
}

/// Where a stream is.
enum Phase {
    /// Reading history; this revision is the next.
    Past(i64),
    /// Fed by the writer.
    Live,
    Ended,
}

struct Reader {
    shared: Arc<Shared>,
    watcher: Arc<Watcher>,
    phase: Phase,
    /// Batches of history that have been read from the disk.
    read: VecDeque<WatchBatch>,
    /// The revision of the last batch that was handed out.
    delivered: i64,
    id: Option<u64>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.shared.hub.lock().watchers.remove(&id);
        }
    }
}

/// Starts a watch.
pub fn open(shared: Arc<Shared>, request: WatchRequest) -> Result<WatchStream, StoreError> {
    if request.key.is_empty() {
        return Err(StoreError::InvalidRequest("the key is empty".to_owned()));
    }
    let mut request = request;
    let phase = {
        let hub = shared.hub.lock();
        if hub.closed {
            return Err(StoreError::Closed);
        }
        if request.start_revision <= 0 {
            request.start_revision = hub.revision + 1;
        }
        Phase::Past(request.start_revision)
    };
    let delivered = request.start_revision - 1;
    let watcher = Arc::new(Watcher { request, queue: Mutex::default(), news: Notify::new() });
    let mut reader =
        Reader { shared: shared.clone(), watcher: watcher.clone(), phase, read: VecDeque::new(), delivered, id: None };
    // A watch from now on misses nothing that is written after this call, even before it is first polled.
    reader.join();
    let progress_of = watcher;
    let weak = Arc::downgrade(&shared);
    let request_progress = move || {
        let Some(shared) = weak.upgrade() else { return };
        let revision = shared.hub.lock().revision;
        let mut queue = progress_of.queue.lock();
        queue.progress = queue.progress.max(Some(revision));
        drop(queue);
        progress_of.news.notify_one();
    };
    let batches = stream::unfold(reader, |mut reader| async move {
        let item = reader.next().await?;
        if item.is_err() {
            reader.phase = Phase::Ended;
        }
        Some((item, reader))
    });
    Ok(WatchStream::new(batches.boxed(), request_progress))
}

impl Reader {
    /// Joins the live watchers if history has been read.
    fn join(&mut self) -> bool {
        let Phase::Past(next) = self.phase else { return true };
        let mut hub = self.shared.hub.lock();
        if hub.closed || next <= hub.revision {
            return hub.closed;
        }
        let id = hub.next_id;
        hub.next_id += 1;
        hub.watchers.insert(id, self.watcher.clone());
        self.id = Some(id);
        self.phase = Phase::Live;
        true
    }

    async fn next(&mut self) -> Option<Result<WatchBatch, StoreError>> {
        loop {
            if let Some(batch) = self.read.pop_front() {
                self.delivered = batch.revision;
                return Some(Ok(batch));
            }
            match self.phase {
                Phase::Ended => return None,
                Phase::Past(next) => {
                    if self.join() && matches!(self.phase, Phase::Past(_)) {
                        return Some(Err(StoreError::Closed));
                    }
                    if matches!(self.phase, Phase::Live) {
                        continue;
                    }
                    match self.read_history(next).await {
                        Ok((batches, next)) => {
                            self.read = batches;
                            self.phase = Phase::Past(next);
                        }
                        Err(error) => return Some(Err(error)),
                    }
                }
                Phase::Live => {
                    if let Some(item) = self.next_live() {
                        return Some(item);
                    }
                    self.watcher.news.notified().await;
                }
            }
        }
    }

    fn next_live(&mut self) -> Option<Result<WatchBatch, StoreError>> {
        let mut queue = self.watcher.queue.lock();
        if let Some(batch) = queue.batches.pop_front() {
            let bytes: usize = batch.events.iter().map(|event| event.kv.key.len() + event.kv.value.len() + 64).sum();
            queue.bytes = queue.bytes.saturating_sub(bytes);
            self.delivered = batch.revision;
            return Some(Ok(batch));
        }
        if let Some(error) = queue.end.take() {
            return Some(Err(error));
        }
        let revision = queue.progress.take()?.max(self.delivered);
        Some(Ok(WatchBatch { revision, events: Vec::new() }))
    }

    /// Reads some history from a revision on; answers with the next revision to read.
    async fn read_history(&self, from: i64) -> Result<(VecDeque<WatchBatch>, i64), StoreError> {
        let shared = self.shared.clone();
        let watcher = self.watcher.clone();
        tokio::task::spawn_blocking(move || history(&shared, &watcher.request, from))
            .await
            .map_err(|_| StoreError::Closed)?
    }
}

fn history(shared: &Shared, request: &WatchRequest, from: i64) -> Result<(VecDeque<WatchBatch>, i64), StoreError> {
    let until = shared.state.read().revision;
    let guard = shared.disk.read();
    let disk = guard.as_ref().ok_or(StoreError::Closed)?;
    let (rows, next) = disk.rows(from, until, HISTORY_ROWS_MAX, HISTORY_BYTES_MAX)?;
    let rows: Vec<_> =
        rows.into_iter().filter(|row| contains(&request.key, &request.range_end, &row.item.kv.key)).collect();
    let mut previous: HashMap<RowId, KeyValue> = HashMap::new();
    if request.prev_kv {
        let ids: Vec<RowId> = rows.iter().filter_map(|row| row.previous).collect();
        for (id, row) in ids.iter().zip(disk.get(&ids)?) {
            previous.extend(row.map(|row| (*id, row.item.kv)));
        }
    }
    drop(guard);
    // Asked after the rows were read: what is missing from them is missing because of this.
    let compact_revision = shared.state.read().compact_revision;
    if from < compact_revision {
        return Err(StoreError::Compacted { requested: from, compact_revision });
    }
    let mut batches: VecDeque<WatchBatch> = VecDeque::new();
    for row in rows {
        let revision = row.item.row.revision;
        let prev_kv = row.previous.and_then(|id| previous.get(&id).cloned());
        let event = row.event(prev_kv);
        match batches.back_mut() {
            Some(batch) if batch.revision == revision => batch.events.push(event),
            _ => batches.push_back(WatchBatch { revision, events: vec![event] }),
        }
    }
    Ok((batches, next))
}
