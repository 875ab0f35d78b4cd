//! The cache of one resource: a persistent sorted map, a window of recent changes, and the watchers.

use std::collections::{HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;
use parking_lot::RwLock;
use tokio::sync::broadcast;

use super::entry::Entry;
use super::event::{Change, ChangeType};
use super::selection::{GroupKey, Scope, Selection};

/// A sorted map from key to entry whose copies cost nothing.
pub type Items = OrdMap<Arc<str>, Arc<Entry>>;

/// Changes that are kept for watchers that start in the past.
const WINDOW_CHANGES_MAX: usize = 4096;
/// What those changes may keep in memory.
const WINDOW_BYTES_MAX: usize = 16 << 20;
/// Changes that wait for the slowest watcher of a group; one that falls further behind is told to start again.
const WATCH_BUFFER_CHANGES_MAX: usize = 1024;

/// What a watcher of a group is sent.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// A change, as the group sees it.
    Change(ChangeType, Arc<Change>),
    /// Everything up to this revision has been sent.
    Bookmark(i64),
}

/// Why a read of the past can't be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("revision {requested} is older than {oldest}, the oldest that the cache can still show")]
pub struct TooOld {
    /// What was asked for.
    pub requested: i64,
    /// The oldest revision from which all changes are known.
    pub oldest: i64,
}

/// The objects of a resource at one revision.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The objects.
    pub items: Items,
    /// The revision.
    pub revision: i64,
}

impl Snapshot {
    /// The entries within a scope from a key on, in order.
    pub fn range<'a>(&'a self, scope: &Scope, after: Option<&str>) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
        let (low, high) = scope.bounds();
        let low = match (after, low) {
            (Some(after), Bound::Included(low)) if after >= low.as_str() => Bound::Excluded(after.to_owned()),
            (Some(after), Bound::Unbounded) => Bound::Excluded(after.to_owned()),
            (_, low) => low,
        };
        let bounds = (as_str(&low), as_str(&high));
        self.items.range::<_, str>(bounds).map(|(_, entry)| entry)
    }

    /// How many objects lie within a scope.
    pub fn count(&self, scope: &Scope) -> usize {
        match scope {
            Scope::All => self.items.len(),
            _ => self.range(scope, None).count(),
        }
    }
}

fn as_str(bound: &Bound<String>) -> Bound<&str> {
    match bound {
        Bound::Included(key) => Bound::Included(key.as_str()),
        Bound::Excluded(key) => Bound::Excluded(key.as_str()),
        Bound::Unbounded => Bound::Unbounded,
    }
}

#[derive(Debug)]
struct Group {
    selection: Arc<Selection>,
    sender: broadcast::Sender<Delivery>,
}

#[derive(Debug, Default)]
struct State {
    items: Items,
    /// The revision of the last change.
    changed_at: i64,
    window: VecDeque<Arc<Change>>,
    window_bytes: usize,
    /// All changes after this revision are in the window.
    window_start: i64,
    /// Groups by what a change must have in common with them, so that a change asks only those it may concern.
    groups: HashMap<GroupKey, HashMap<String, Group>>,
}

/// The cache of one resource.
#[derive(Debug, Default)]
pub struct ResourceCache {
    state: RwLock<State>,
}

/// A watch that has been joined: what came before, then what comes.
#[derive(Debug)]
pub struct Joined {
    /// Changes since the start that lie in the past already.
    pub past: Vec<(ChangeType, Arc<Change>)>,
    /// Those to come.
    pub receiver: broadcast::Receiver<Delivery>,
    /// Everything up to here is in `past` (or in the snapshot).
    pub revision: i64,
}

impl ResourceCache {
    /// The entry of a key.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.read().items.get(key).cloned()
    }

    /// The objects as they are, at `applied` or later.
    pub fn snapshot(&self, applied: i64) -> Snapshot {
        let state = self.state.read();
        Snapshot { items: state.items.clone(), revision: applied.max(state.changed_at) }
    }

    /// The objects as they were at a revision: today's, with the changes since then undone.
    pub fn snapshot_at(&self, revision: i64) -> Result<Snapshot, TooOld> {
        let (mut items, undo) = {
            let state = self.state.read();
            if revision < state.window_start {
                return Err(TooOld { requested: revision, oldest: state.window_start });
            }
            let undo: Vec<Arc<Change>> =
                state.window.iter().rev().take_while(|change| change.revision > revision).cloned().collect();
            (state.items.clone(), undo)
        };
        for change in undo {
            match (&change.before, &change.now) {
                (Some(before), _) => {
                    items.insert(before.key.clone(), before.clone());
                }
                (None, Some(now)) => {
                    items.remove(&now.key);
                }
                (None, None) => {}
            }
        }
        Ok(Snapshot { items, revision })
    }

    /// Joins the watchers of a selection; what happened after `start` comes first.
    pub fn watch_from(&self, selection: &Arc<Selection>, start: i64, applied: i64) -> Result<Joined, TooOld> {
        let mut state = self.state.write();
        if start < state.window_start {
            return Err(TooOld { requested: start, oldest: state.window_start });
        }
        let from = state.window.partition_point(|change| change.revision <= start);
        let past = state
            .window
            .range(from..)
            .filter_map(|change| Some((change.seen_by(selection)?, change.clone())))
            .collect();
        let receiver = state.join(selection);
        Ok(Joined { past, receiver, revision: applied.max(state.changed_at) })
    }

    /// Joins the watchers of a selection, with the objects that are there now.
    pub fn watch_with_snapshot(&self, selection: &Arc<Selection>, applied: i64) -> (Snapshot, Joined) {
        let mut state = self.state.write();
        let revision = applied.max(state.changed_at);
        let receiver = state.join(selection);
        (Snapshot { items: state.items.clone(), revision }, Joined { past: Vec::new(), receiver, revision })
    }

    /// Replaces everything: the first load, or after the store has forgotten what happened in between. Watchers end.
    pub fn replace(&self, items: Items, revision: i64) {
        let mut state = self.state.write();
        *state = State { items, changed_at: revision, window_start: revision, ..State::default() };
    }

    /// Puts a change of the past into the window; for the time before the first load, oldest first.
    pub fn remember(&self, start: i64, changes: Vec<Change>) {
        let mut state = self.state.write();
        state.window_start = start;
        for change in changes {
            state.push(Arc::new(change));
        }
    }

    /// Applies the changes of one revision: `(key, entry or none)`. Answers with what changed.
    pub fn apply(&self, revision: i64, changes: Vec<(Arc<str>, Option<Arc<Entry>>)>) -> Vec<Arc<Change>> {
        let mut state = self.state.write();
        let mut applied = Vec::with_capacity(changes.len());
        for (key, now) in changes {
            let before = match &now {
                Some(entry) => state.items.insert(key, entry.clone()),
                None => state.items.remove(&key),
            };
            if before.is_none() && now.is_none() {
                continue;
            }
            let change = Arc::new(Change::new(revision, before, now));
            state.deliver(&change);
            state.push(change.clone());
            applied.push(change);
        }
        state.changed_at = state.changed_at.max(revision);
        applied
    }

    /// Sends every watcher word of how far it has come, and drops groups without watchers.
    pub fn bookmark(&self, applied: i64) {
        let mut state = self.state.write();
        let revision = applied.max(state.changed_at);
        state.groups.retain(|_, groups| {
            groups.retain(|_, group| group.sender.send(Delivery::Bookmark(revision)).is_ok());
            !groups.is_empty()
        });
    }

    /// How many watchers there are.
    pub fn watchers(&self) -> usize {
        self.state.read().groups.values().flat_map(HashMap::values).map(|group| group.sender.receiver_count()).sum()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.state.read().items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl State {
    fn push(&mut self, change: Arc<Change>) {
        self.window_bytes += change.size_bytes();
        self.window.push_back(change);
        while self.window.len() > WINDOW_CHANGES_MAX || self.window_bytes > WINDOW_BYTES_MAX {
            let Some(oldest) = self.window.pop_front() else { break };
            self.window_bytes = self.window_bytes.saturating_sub(oldest.size_bytes());
            self.window_start = self.window_start.max(oldest.revision);
        }
    }

    fn join(&mut self, selection: &Arc<Selection>) -> broadcast::Receiver<Delivery> {
        let groups = self.groups.entry(selection.group_key()).or_default();
        groups
            .entry(selection.id())
            .or_insert_with(|| Group {
                selection: selection.clone(),
                sender: broadcast::Sender::new(WATCH_BUFFER_CHANGES_MAX),
            })
            .sender
            .subscribe()
    }

    fn deliver(&mut self, change: &Arc<Change>) {
        if self.groups.is_empty() {
            return;
        }
        let mut keys = Vec::with_capacity(6);
        for entry in [&change.before, &change.now].into_iter().flatten() {
            GroupKey::of_entry(entry, &mut keys);
        }
        for key in keys {
            let Some(groups) = self.groups.get_mut(&key) else { continue };
            let mut abandoned = false;
            for group in groups.values() {
                if let Some(kind) = change.seen_by(&group.selection) {
                    abandoned |= group.sender.send(Delivery::Change(kind, change.clone())).is_err();
                }
            }
            if abandoned {
                groups.retain(|_, group| group.sender.receiver_count() > 0);
                if groups.is_empty() {
                    self.groups.remove(&key);
                }
            }
        }
    }
}
