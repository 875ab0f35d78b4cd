//! Watches: where they start, and what they send.

use std::sync::Arc;
use std::time::Duration;

use gantry_api::error::ApiError;
use rand::Rng;

use super::list::selection;
use super::options::{ListOptions, parse_version};
use super::{Call, Registry};
use crate::cache::resource::{Joined, Snapshot};
use crate::cache::selection::Selection;

/// The shortest time of a watch that names none; up to twice as long, so that clients don't come back all at once.
const DEFAULT_WATCH_SECONDS_MIN: u64 = 1800;

/// A watch that may start.
pub struct Watch {
    /// What it sees.
    pub selection: Arc<Selection>,
    /// What is there, to be sent first.
    pub snapshot: Option<Snapshot>,
    /// Changes up to here are no news.
    pub start: i64,
    /// What follows.
    pub joined: Joined,
    /// Whether a bookmark tells that what was there has been sent.
    pub initial_events_end: bool,
    /// Whether it wants bookmarks.
    pub bookmarks: bool,
    /// When it ends.
    pub timeout: Duration,
}

/// How a watch begins.
pub enum WatchStart {
    /// With a stream.
    Running(Box<Watch>),
    /// With a stream of one event that says why not.
    Expired(ApiError),
}

impl Registry {
    /// Starts a watch.
    pub async fn watch(&self, call: &Call<'_>, options: &ListOptions) -> Result<WatchStart, ApiError> {
        let selection = Arc::new(selection(call, options)?);
        let version = parse_version(&options.resource_version).map_err(ApiError::plain)?;
        let stored = self.stored(call.resource)?;
        let seconds = options
            .timeout_seconds
            .unwrap_or_else(|| rand::rng().random_range(DEFAULT_WATCH_SECONDS_MIN..=2 * DEFAULT_WATCH_SECONDS_MIN));
        let initial = options.send_initial_events.unwrap_or(version == 0);
        if options.resource_version != "0" && version == 0 {
            self.catch_up().await?;
        } else if version > 0 && initial {
            self.wait_for(version).await?;
        }
        let applied = self.caches.applied.revision();
        let (snapshot, start, joined) = if initial {
            let (snapshot, joined) = stored.cache.watch_with_snapshot(&selection, applied);
            let start = snapshot.revision;
            (Some(snapshot), start, joined)
        } else {
            let start = if version == 0 { applied } else { version };
            match stored.cache.watch_from(&selection, start, applied) {
                Ok(joined) => (None, start, joined),
                Err(old) => {
                    let text = format!("too old resource version: {} ({})", old.requested, old.oldest);
                    return Ok(WatchStart::Expired(ApiError::expired(text)));
                }
            }
        };
        Ok(WatchStart::Running(Box::new(Watch {
            selection,
            snapshot,
            start,
            joined,
            initial_events_end: options.send_initial_events == Some(true) && options.bookmarks,
            bookmarks: options.bookmarks,
            timeout: Duration::from_secs(seconds),
        })))
    }
}
