//! The etcd engine: an etcd cluster, over its own API. Requests pass through; what etcd leaves open is closed here.
//!
//! A watch is a stream of its own, so that a progress answer (which etcd gives to a stream, not to a watch) is its own.
//! Servers before 3.4.25 and 3.5.8 may give it before they have sent what came earlier (etcd's issue 15220): of those an
//! answer is held back until reads of the range show nothing that is still to come. Only a key that was made and deleted
//! again meanwhile escapes such a read; `gantry cluster` installs a newer etcd.

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Client, Compare as EtcdCompare, CompareOp as EtcdCompareOp, ConnectOptions, DeleteOptions, EventType, GetOptions,
    KvClient, PutOptions, Txn as EtcdTxn, TxnOp, TxnOpResponse, WatchOptions, WatchResponse, WatchResponseStream,
};
use futures::{StreamExt, stream};
use tokio::sync::mpsc;

use crate::error::StoreError;
use crate::snapshot::SnapshotEncoder;
use crate::store::{SnapshotStream, Store, WatchStream};
use crate::types::{
    Compare, CompareOp, CompareTarget, Event, EventKind, KeyValue, Op, OpResponse, RangeRequest, RangeResponse, Select,
    StoreStatus, Txn, TxnResponse, WatchBatch, WatchRequest,
};

/// How long one request may take.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How often a quiet connection is tried, and how long the other end may take to answer.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// The largest answer that is taken, as etcd's own client: one may hold the changes of a thousand revisions.
const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;
/// Keys that one read of a snapshot asks for.
const SNAPSHOT_PAGE_KEYS: usize = 500;
/// Progress requests that wait to be sent; more are merged into them.
const PROGRESS_WAITING_MAX: usize = 1;

/// A store in an etcd cluster.
pub struct EtcdStore {
    client: Client,
    endpoints: String,
    /// Whether progress answers may come too early.
    hasty_progress: bool,
}

/// Whether a version of etcd gives progress answers only after what they speak of.
fn has_true_progress(version: &str) -> bool {
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    match (next(), next(), next()) {
        (3, 4, patch) => patch >= 25,
        (3, 5, patch) => patch >= 8,
        (major, minor, _) => (major, minor) > (3, 5),
    }
}

impl EtcdStore {
    /// Connects to a cluster by the client addresses of its members (`http://127.0.0.1:2379`).
    pub async fn connect(endpoints: &[String]) -> Result<Self, StoreError> {
        let options = ConnectOptions::new()
            .with_timeout(REQUEST_MAX)
            .with_connect_timeout(CONNECT_MAX)
            .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
            .with_require_leader(true);
        let named = endpoints.join(", ");
        let client = Client::connect(endpoints, Some(options))
            .await
            .map_err(|error| translate("connect", &named, (0, 0), error))?;
        let failed = |error| translate("ask for the status", &named, (0, 0), error);
        let status = client.maintenance_client().status().await.map_err(failed)?;
        let hasty_progress = !has_true_progress(status.version());
        Ok(Self { client, endpoints: named, hasty_progress })
    }

    fn failed(
        &self,
        operation: &'static str,
        requested: i64,
    ) -> impl Fn(etcd_client::Error) -> StoreError + Send + use<'_> {
        move |error| translate(operation, &self.endpoints, (requested, 0), error)
    }
}

/// The error of an operation; `(requested, compacted)` are revisions, 0 where they aren't known.
fn translate(
    operation: &'static str,
    endpoints: &str,
    (requested, compact_revision): (i64, i64),
    error: etcd_client::Error,
) -> StoreError {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return StoreError::Unavailable { operation, endpoints: endpoints.to_owned(), detail: error.to_string() };
    };
    // etcd tells its errors apart by their texts (its `api/v3rpc/rpctypes`).
    let text = status.message();
    let detail = text.strip_prefix("etcdserver: ").unwrap_or(text).to_owned();
    if text.contains("required revision has been compacted") {
        return StoreError::Compacted { requested, compact_revision };
    }
    if text.contains("required revision is a future revision") {
        return StoreError::FutureRevision { requested, current: 0 };
    }
    let refused =
        ["key is not provided", "duplicate key given", "too many operations"].iter().any(|part| text.contains(part));
    if refused {
        return StoreError::InvalidRequest(detail);
    }
    if text.contains("database space exceeded") {
        let source = std::io::Error::new(std::io::ErrorKind::StorageFull, detail);
        return StoreError::from_io(operation, endpoints, source);
    }
    let unavailable = ["Unavailable", "DeadlineExceeded", "Cancelled", "Unknown"];
    let code = format!("{:?}", status.code());
    if unavailable.contains(&code.as_str()) {
        return StoreError::Unavailable { operation, endpoints: endpoints.to_owned(), detail };
    }
    StoreError::Etcd { operation, detail }
}

fn key_value(kv: &etcd_client::KeyValue) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(kv.key()),
        value: Bytes::copy_from_slice(kv.value()),
        create_revision: kv.create_revision(),
        mod_revision: kv.mod_revision(),
        version: kv.version(),
    }
}

fn get_options(request: &RangeRequest) -> GetOptions {
    let mut options = GetOptions::new().with_revision(request.revision).with_limit(request.limit as i64);
    if !request.range_end.is_empty() {
        options = options.with_range(request.range_end.to_vec());
    }
    match request.select {
        Select::All => options,
        Select::KeysOnly => options.with_keys_only(),
        Select::CountOnly => options.with_count_only(),
    }
}

fn range_response(answer: &etcd_client::GetResponse, revision: i64) -> RangeResponse {
    RangeResponse {
        revision: answer.header().map_or(0, etcd_client::ResponseHeader::revision).max(revision),
        kvs: answer.kvs().iter().map(key_value).collect(),
        count: answer.count().cast_unsigned(),
        more: answer.more(),
    }
}

fn compare(compare: &Compare) -> EtcdCompare {
    let key = compare.key.to_vec();
    let op = match compare.op {
        CompareOp::Equal => EtcdCompareOp::Equal,
        CompareOp::NotEqual => EtcdCompareOp::NotEqual,
        CompareOp::Greater => EtcdCompareOp::Greater,
        CompareOp::Less => EtcdCompareOp::Less,
    };
    let made = match &compare.target {
        CompareTarget::Version(version) => EtcdCompare::version(key, op, *version),
        CompareTarget::CreateRevision(revision) => EtcdCompare::create_revision(key, op, *revision),
        CompareTarget::ModRevision(revision) => EtcdCompare::mod_revision(key, op, *revision),
        CompareTarget::Value(value) => EtcdCompare::value(key, op, value.to_vec()),
    };
    if compare.range_end.is_empty() { made } else { made.with_range(compare.range_end.to_vec()) }
}

fn operation(op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, prev_kv } => {
            let options = if *prev_kv { PutOptions::new().with_prev_key() } else { PutOptions::new() };
            TxnOp::put(key.to_vec(), value.to_vec(), Some(options))
        }
        Op::Delete { key, range_end, prev_kv } => {
            let mut options = DeleteOptions::new();
            if !range_end.is_empty() {
                options = options.with_range(range_end.to_vec());
            }
            if *prev_kv {
                options = options.with_prev_key();
            }
            TxnOp::delete(key.to_vec(), Some(options))
        }
        Op::Range(request) => TxnOp::get(request.key.to_vec(), Some(get_options(request))),
    }
}

fn response(answer: &TxnOpResponse, revision: i64) -> Option<OpResponse> {
    Some(match answer {
        TxnOpResponse::Put(put) => OpResponse::Put { prev: put.prev_key().map(key_value) },
        TxnOpResponse::Delete(delete) => OpResponse::Delete {
            deleted: delete.deleted().cast_unsigned(),
            prevs: delete.prev_kvs().iter().map(key_value).collect(),
        },
        TxnOpResponse::Get(get) => OpResponse::Range(range_response(get, revision)),
        TxnOpResponse::Txn(_) => return None,
    })
}

#[async_trait]
impl Store for EtcdStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        if request.key.is_empty() {
            return Err(StoreError::InvalidRequest("the key is empty".to_owned()));
        }
        let mut client = self.client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
        let answer = client.get(request.key.to_vec(), Some(get_options(&request))).await;
        answer.map(|answer| range_response(&answer, 0)).map_err(self.failed("read", request.revision))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        let request = EtcdTxn::new()
            .when(txn.compares.iter().map(compare).collect::<Vec<_>>())
            .and_then(txn.success.iter().map(operation).collect::<Vec<_>>())
            .or_else(txn.failure.iter().map(operation).collect::<Vec<_>>());
        let mut client = self.client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
        let answer = client.txn(request).await.map_err(self.failed("write", 0))?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        let responses = answer.op_responses().iter().filter_map(|one| response(one, revision)).collect();
        Ok(TxnResponse { revision, succeeded: answer.succeeded(), responses })
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, StoreError> {
        if request.key.is_empty() {
            return Err(StoreError::InvalidRequest("the key is empty".to_owned()));
        }
        let start = request.start_revision;
        let mut options = WatchOptions::new().with_start_revision(start);
        if !request.range_end.is_empty() {
            options = options.with_range(request.range_end.to_vec());
        }
        if request.prev_kv {
            options = options.with_prev_key();
        }
        let mut client = self.client.watch_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
        let stream = client.watch(request.key.to_vec(), Some(options)).await.map_err(self.failed("watch", start))?;
        let (mut sender, mut responses) = stream.split();
        // The first answer says that the server has the watch: what is written from now on is seen.
        let created = responses.message().await.map_err(self.failed("watch", start))?;
        let (progress, mut asked) = mpsc::channel::<()>(PROGRESS_WAITING_MAX);
        tokio::spawn(async move {
            while asked.recv().await.is_some() {
                if sender.request_progress().await.is_err() {
                    return;
                }
            }
        });
        let mut reader = Reader {
            responses,
            ready: VecDeque::new(),
            refused: None,
            delivered: match (&created, start) {
                (Some(answer), 0) => answer.header().map_or(0, etcd_client::ResponseHeader::revision),
                _ => start - 1,
            },
            claimed: None,
            check: self.hasty_progress.then(|| Check { kv: self.client.kv_client(), request: request.clone() }),
            start,
            endpoints: self.endpoints.clone(),
            ended: false,
            // The stream lives as long as its request side.
            _progress: progress.clone(),
        };
        if let Some(answer) = created.filter(WatchResponse::canceled) {
            reader.refused = Some(reader.cancelled(&answer));
        }
        let batches = stream::unfold(reader, |mut reader| async move {
            let item = reader.next().await?;
            Some((item, reader))
        });
        // One that waits already answers this call, too.
        let weak = progress.downgrade();
        drop(progress);
        Ok(WatchStream::new(batches.boxed(), move || {
            if let Some(progress) = weak.upgrade() {
                let _ = progress.try_send(());
            }
        }))
    }

    async fn compact(&self, revision: i64) -> Result<(), StoreError> {
        let mut client = self.client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
        client.compact(revision, None).await.map(|_| ()).map_err(self.failed("compact", revision))
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        // A member's own status may be behind the cluster; a read of any key is not.
        let read = RangeRequest::one(Bytes::from_static(b"\0")).select(Select::CountOnly);
        let revision = self.range(read).await?.revision;
        let status = self.client.maintenance_client().status().await.map_err(self.failed("ask for the status", 0))?;
        Ok(StoreStatus { revision, compact_revision: 0, size_bytes: status.db_size().cast_unsigned() })
    }

    async fn snapshot(&self) -> Result<SnapshotStream, StoreError> {
        let request = RangeRequest::prefix(Bytes::new()).limit(SNAPSHOT_PAGE_KEYS);
        // The first page fixes the revision; the others are read at it.
        let first = self.range(request.clone()).await?;
        let encoder = SnapshotEncoder::new(first.revision);
        let request = request.at(first.revision);
        let store = Self {
            client: self.client.clone(),
            endpoints: self.endpoints.clone(),
            hasty_progress: self.hasty_progress,
        };
        let pages = stream::unfold((store, request, Some(encoder), Some(first)), |state| async move {
            let (store, mut request, encoder, page) = state;
            let mut encoder = encoder?;
            let page = match page {
                Some(page) => page,
                None => match store.range(request.clone()).await {
                    Ok(page) => page,
                    Err(error) => return Some((Err(error), (store, request, None, None))),
                },
            };
            for kv in &page.kvs {
                encoder.push(kv);
            }
            match page.kvs.last() {
                Some(last) if page.more => {
                    request.key = [&last.key[..], &[0]].concat().into();
                    Some((Ok(encoder.take()), (store, request, Some(encoder), None)))
                }
                _ => Some((Ok(encoder.finish()), (store, request, None, None))),
            }
        });
        Ok(pages.boxed())
    }
}

/// Reads a watch's range to find out what a hasty progress answer has left out.
struct Check {
    kv: KvClient,
    request: WatchRequest,
}

impl Check {
    /// Whether nothing between two revisions can be found that the watch has not told.
    async fn is_settled(&mut self, delivered: i64, claimed: i64) -> Result<bool, etcd_client::Error> {
        if claimed <= delivered {
            return Ok(true);
        }
        let range = RangeRequest {
            key: self.request.key.clone(),
            range_end: self.request.range_end.clone(),
            limit: 1,
            ..RangeRequest::default()
        };
        let written = get_options(&range.clone().at(claimed)).with_keys_only().with_min_mod_revision(delivered + 1);
        if !self.kv.get(range.key.to_vec(), Some(written)).await?.kvs().is_empty() {
            return Ok(false);
        }
        // Nothing was written: fewer keys than before are deletions.
        let mut count = async |revision| {
            let options = get_options(&range.clone().at(revision)).with_count_only();
            Ok::<_, etcd_client::Error>(self.kv.get(range.key.to_vec(), Some(options)).await?.count())
        };
        let now = count(claimed).await?;
        match count(delivered.max(1)).await {
            Ok(before) => Ok(before == now),
            // A watch that is that far behind is ended by the server.
            Err(etcd_client::Error::GRpcStatus(status)) if status.message().contains("compacted") => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// The reading side of a watch.
struct Reader {
    responses: WatchResponseStream,
    ready: VecDeque<WatchBatch>,
    /// Why the watch was ended before it began.
    refused: Option<StoreError>,
    /// The revision of the last batch that was handed out, or from which on it watches.
    delivered: i64,
    /// A progress answer that may have come too early.
    claimed: Option<i64>,
    /// How to find that out; none for servers that don't do that.
    check: Option<Check>,
    start: i64,
    endpoints: String,
    ended: bool,
    _progress: mpsc::Sender<()>,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<WatchBatch, StoreError>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                self.delivered = self.delivered.max(batch.revision);
                return Some(Ok(batch));
            }
            if let Some(revision) = self.claimed
                && !self.ended
            {
                let settled = match &mut self.check {
                    Some(check) => check.is_settled(self.delivered, revision).await,
                    None => Ok(true),
                };
                match settled {
                    Ok(true) => {
                        self.claimed = None;
                        self.delivered = self.delivered.max(revision);
                        return Some(Ok(WatchBatch { revision, events: Vec::new() }));
                    }
                    // What is still to come is read below; then the claim is checked again.
                    Ok(false) => {}
                    Err(error) => {
                        self.ended = true;
                        return Some(Err(translate("watch", &self.endpoints, (self.start, 0), error)));
                    }
                }
            }
            if self.ended {
                return None;
            }
            if let Some(error) = self.refused.take() {
                self.ended = true;
                return Some(Err(error));
            }
            let error = match self.responses.message().await {
                Ok(Some(answer)) if answer.canceled() => self.cancelled(&answer),
                Ok(Some(answer)) => {
                    self.take(&answer);
                    continue;
                }
                Ok(None) => self.unavailable("the stream ended".to_owned()),
                Err(error) => translate("watch", &self.endpoints, (self.start, 0), error),
            };
            self.ended = true;
            return Some(Err(error));
        }
    }

    fn cancelled(&self, answer: &WatchResponse) -> StoreError {
        if answer.compact_revision() > 0 {
            return StoreError::Compacted { requested: self.start, compact_revision: answer.compact_revision() };
        }
        self.unavailable(format!("the watch was cancelled: {}", answer.cancel_reason()))
    }

    fn unavailable(&self, detail: String) -> StoreError {
        StoreError::Unavailable { operation: "watch", endpoints: self.endpoints.clone(), detail }
    }

    /// Sorts a response's events into batches by revision. A revision is never split over responses.
    fn take(&mut self, answer: &WatchResponse) {
        if answer.events().is_empty() {
            if !answer.created()
                && let Some(header) = answer.header()
            {
                self.claimed = self.claimed.max(Some(header.revision()));
            }
            return;
        }
        for found in answer.events() {
            let Some(kv) = found.kv().map(key_value) else { continue };
            let kind = match found.event_type() {
                EventType::Put => EventKind::Put,
                EventType::Delete => EventKind::Delete,
            };
            let revision = kv.mod_revision;
            let event = Event { kind, kv, prev_kv: found.prev_kv().map(key_value) };
            match self.ready.back_mut() {
                Some(batch) if batch.revision == revision && !batch.events.is_empty() => batch.events.push(event),
                _ => self.ready.push_back(WatchBatch { revision, events: vec![event] }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_true_progress() {
        for (version, expected) in [
            ("3.4.23", false),
            ("3.4.25", true),
            ("3.5.7", false),
            ("3.5.8", true),
            ("3.6.0-rc.1", true),
            ("4.0.0", true),
            ("3.3.27", false),
        ] {
            assert_eq!(has_true_progress(version), expected, "{version}");
        }
    }
}
