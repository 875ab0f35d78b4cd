//! Watches as bodies: what is there, what has happened, what happens.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use gantry_api::error::ApiError;
use gantry_api::object::Object;
use gantry_api::resources::Resource;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::negotiate::{IncludeObject, Shape};
use super::resources::shape_one;
use crate::cache::entry::Entry;
use crate::cache::event::{Change, ChangeType, event_frame};
use crate::cache::resource::Delivery;
use crate::registry::convert;
use crate::registry::watch::Watch;

/// How many of the objects that are there are read from the snapshot at a time.
const INITIAL_BATCH_OBJECTS: usize = 64;

/// Builds the frames of one watch.
struct Framer {
    resource: &'static Resource,
    shape: Shape,
    /// Whether the next table must bring its columns.
    columns: bool,
}

impl Framer {
    fn is_shared(&self) -> bool {
        self.shape == Shape::Plain && !self.resource.is_converted()
    }

    fn change(&mut self, kind: ChangeType, change: &Change) -> Bytes {
        if self.is_shared() {
            return change.frame(kind);
        }
        match change.entry(kind) {
            Some(entry) => self.custom(kind, entry, change.revision),
            None => Bytes::new(),
        }
    }

    fn added(&mut self, entry: &Entry) -> Bytes {
        if self.is_shared() {
            event_frame(ChangeType::Added, entry, entry.revision)
        } else {
            self.custom(ChangeType::Added, entry, entry.revision)
        }
    }

    fn custom(&mut self, kind: ChangeType, entry: &Entry, revision: i64) -> Bytes {
        let mut object = match entry.decode_at(revision) {
            Ok(object) => object,
            Err(error) => return error_frame(&ApiError::internal(error)),
        };
        if self.resource.is_converted() {
            convert::from_storage(self.resource, &mut object);
        }
        let shaped = self.shaped(object);
        frame(kind.as_str(), &shaped)
    }

    fn shaped(&mut self, object: Object) -> Value {
        let mut shaped = shape_one(self.resource, object, self.shape);
        if let (Shape::Table(_), Some(map)) = (self.shape, shaped.as_object_mut()) {
            if !self.columns {
                map.insert("columnDefinitions".to_owned(), Value::Null);
            }
            self.columns = false;
        }
        shaped
    }

    fn bookmark(&self, revision: i64, initial_events_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_events_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.shape {
            Shape::Table(include) => {
                let object =
                    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
                let row = if include == IncludeObject::None { Value::Null } else { object };
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": revision.to_string()}, "columnDefinitions": null, "rows": [{"cells": null, "object": row}]})
            }
            Shape::PartialMetadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Shape::Plain | Shape::AggregatedDiscovery(_) => {
                json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata})
            }
        };
        frame("BOOKMARK", &object)
    }
}

fn frame(kind: &str, object: &Value) -> Bytes {
    let mut text = json!({"type": kind, "object": object}).to_string();
    text.push('\n');
    text.into()
}

/// The frame that tells why a watch ends.
pub fn error_frame(error: &ApiError) -> Bytes {
    frame("ERROR", &error.to_status())
}

struct State {
    framer: Framer,
    watch: Box<Watch>,
    /// Behind which key the snapshot goes on; `None` when it has been sent.
    snapshot_after: Option<Option<String>>,
    ready: VecDeque<Bytes>,
    past: VecDeque<(ChangeType, Arc<Change>)>,
    announce_end: bool,
    deadline: Instant,
    shutdown: CancellationToken,
    over: bool,
}

impl State {
    /// Fills `ready` with what can be sent without waiting; false when there is nothing.
    fn prepare(&mut self) -> bool {
        if let Some(after) = self.snapshot_after.take()
            && let Some(snapshot) = &self.watch.snapshot
        {
            let mut last = None;
            for entry in snapshot.range(&self.watch.selection.scope, after.as_deref()) {
                if self.watch.selection.matches(entry) {
                    self.ready.push_back(self.framer.added(entry));
                }
                if self.ready.len() >= INITIAL_BATCH_OBJECTS {
                    last = Some(entry.key.to_string());
                    break;
                }
            }
            match last {
                Some(last) => self.snapshot_after = Some(Some(last)),
                None => self.watch.snapshot = None,
            }
        }
        if self.snapshot_after.is_none() && self.ready.is_empty() && self.announce_end {
            self.announce_end = false;
            self.ready.push_back(self.framer.bookmark(self.watch.start, true));
        }
        if self.snapshot_after.is_none()
            && self.ready.is_empty()
            && let Some((kind, change)) = self.past.pop_front()
        {
            self.ready.push_back(self.framer.change(kind, &change));
        }
        !self.ready.is_empty()
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(chunk);
            }
            if self.over {
                return None;
            }
            if self.prepare() {
                continue;
            }
            let delivery = tokio::select! {
                biased;
                delivery = self.watch.joined.receiver.recv() => delivery,
                () = tokio::time::sleep_until(self.deadline) => return None,
                () = self.shutdown.cancelled() => return None,
            };
            match delivery {
                Ok(Delivery::Change(kind, change)) if change.revision > self.watch.start => {
                    return Some(self.framer.change(kind, &change));
                }
                Ok(Delivery::Bookmark(revision)) if self.watch.bookmarks && revision >= self.watch.start => {
                    return Some(self.framer.bookmark(revision, false));
                }
                Ok(_) => {}
                // Too slow: as upstream, the stream just ends, and the client starts again where it was.
                Err(RecvError::Lagged(_) | RecvError::Closed) => self.over = true,
            }
        }
    }
}

/// The frames of a watch until its time is over, the server stops, or its reader is too slow.
pub fn frames(
    resource: &'static Resource,
    shape: Shape,
    mut watch: Box<Watch>,
    shutdown: CancellationToken,
) -> impl Stream<Item = Bytes> + Send + 'static {
    let state = State {
        framer: Framer { resource, shape, columns: true },
        snapshot_after: watch.snapshot.is_some().then_some(None),
        ready: VecDeque::new(),
        past: std::mem::take(&mut watch.joined.past).into(),
        announce_end: watch.initial_events_end,
        deadline: Instant::now() + watch.timeout,
        watch,
        shutdown,
        over: false,
    };
    futures::stream::unfold(state, async |mut state| {
        let chunk = state.next().await?;
        Some((chunk, state))
    })
}
