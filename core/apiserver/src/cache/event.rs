//! A change of one object, and the frames that carry it to watchers: each is built once, by the first watcher
//! that needs it, and shared by all.

use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};

use super::entry::Entry;
use super::selection::Selection;

/// How a change looks to a watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeType {
    /// It is new, or came into the selection.
    Added,
    /// It was in the selection and still is.
    Modified,
    /// It is gone, or left the selection.
    Deleted,
}

impl ChangeType {
    /// The `type` of a watch event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// A change of one object.
#[derive(Debug)]
pub struct Change {
    /// The store's revision that made it.
    pub revision: i64,
    /// The object after it; `None` when it was deleted.
    pub now: Option<Arc<Entry>>,
    /// The object before it; `None` when it was created.
    pub before: Option<Arc<Entry>>,
    frames: [OnceLock<Bytes>; 3],
}

impl Change {
    /// A change from its two sides.
    pub fn new(revision: i64, before: Option<Arc<Entry>>, now: Option<Arc<Entry>>) -> Self {
        Self { revision, now, before, frames: Default::default() }
    }

    /// How the change looks through a selection; `None` when it can't be seen.
    pub fn seen_by(&self, selection: &Selection) -> Option<ChangeType> {
        let matches = |entry: &Option<Arc<Entry>>| entry.as_ref().is_some_and(|entry| selection.matches(entry));
        match (matches(&self.before), matches(&self.now)) {
            (false, true) => Some(ChangeType::Added),
            (true, true) => Some(ChangeType::Modified),
            (true, false) => Some(ChangeType::Deleted),
            (false, false) => None,
        }
    }

    /// The entry that an event of this type shows.
    pub fn entry(&self, kind: ChangeType) -> Option<&Arc<Entry>> {
        match kind {
            ChangeType::Added | ChangeType::Modified => self.now.as_ref(),
            ChangeType::Deleted => self.before.as_ref(),
        }
    }

    /// The JSON frame, with its line end.
    pub fn frame(&self, kind: ChangeType) -> Bytes {
        let slot = match kind {
            ChangeType::Added => &self.frames[0],
            ChangeType::Modified => &self.frames[1],
            ChangeType::Deleted => &self.frames[2],
        };
        let build = || self.entry(kind).map_or_else(Bytes::new, |entry| event_frame(kind, entry, self.revision));
        slot.get_or_init(build).clone()
    }

    /// What the change keeps in memory, about.
    pub fn size_bytes(&self) -> usize {
        [&self.now, &self.before].into_iter().flatten().map(|entry| entry.value.len()).sum()
    }
}

/// The JSON frame of an event that shows an entry.
pub fn event_frame(kind: ChangeType, entry: &Entry, revision: i64) -> Bytes {
    let mut out = BytesMut::with_capacity(entry.value.len() + 96);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_str().as_bytes());
    out.put_slice(b"\",\"object\":");
    entry.write_object(&mut out, revision);
    out.put_slice(b"}\n");
    out.freeze()
}
