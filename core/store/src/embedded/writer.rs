//! The one thread that commits.
//!
//! It takes what waits, computes all of it on a copy of the state, writes that with one sync, and only then shows it:
//! to readers, to watchers, and to those who asked. While it syncs the next transactions gather.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::disk::{Cleaning, Disk};
use super::state::{Change, RowId, State};
use super::{Shared, history};
use crate::error::StoreError;
use crate::types::{Txn, TxnResponse};

/// Rows that one commit looks at for cleaning.
const CLEAN_ROWS_WITH_WRITES: usize = 256;
/// The same when nothing waits.
const CLEAN_ROWS_IDLE: usize = 2048;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked for.
pub enum Command {
    /// A transaction, already checked.
    Txn {
        txn: Txn,
        reply: Reply<TxnResponse>,
    },
    Compact {
        revision: i64,
        reply: Reply<()>,
    },
}

/// The writer's own.
pub struct Writer {
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    cleaning: Option<Cleaning>,
    /// Up to here cleaning is done.
    cleaned: i64,
}

impl Writer {
    /// A writer; what an earlier process left to be cleaned is.
    pub fn new(shared: Arc<Shared>, commands: mpsc::Receiver<Command>, cleaned: i64) -> Self {
        let mut writer = Self { shared, commands, cleaning: None, cleaned };
        let compacted = writer.shared.state().compact_revision;
        writer.plan_cleaning(compacted);
        writer
    }

    /// Works until nobody can send commands any more.
    pub fn run(mut self) {
        let mut batch = Vec::new();
        while self.next_batch(&mut batch) {
            if batch.is_empty() {
                self.clean_idle();
                continue;
            }
            self.handle(std::mem::take(&mut batch));
        }
        self.shared.hub.lock().close();
        *self.shared.disk.write() = None;
    }

    /// Gathers what waits; waits for the first, unless there is cleaning to do.
    fn next_batch(&mut self, batch: &mut Vec<Command>) -> bool {
        let options = &self.shared.options;
        let mut bytes = 0;
        while batch.len() < options.commit_transactions_max && bytes < options.commit_bytes_max {
            match self.commands.try_recv() {
                Ok(command) => {
                    bytes += size_of(&command);
                    batch.push(command);
                }
                Err(mpsc::error::TryRecvError::Disconnected) => return !batch.is_empty(),
                Err(mpsc::error::TryRecvError::Empty) if batch.is_empty() && self.cleaning.is_none() => {
                    match self.commands.blocking_recv() {
                        Some(command) => {
                            bytes += size_of(&command);
                            batch.push(command);
                        }
                        None => return false,
                    }
                }
                Err(mpsc::error::TryRecvError::Empty) => return true,
            }
        }
        true
    }

    fn handle(&mut self, batch: Vec<Command>) {
        let mut txns = Vec::new();
        let mut compactions = Vec::new();
        for command in batch {
            match command {
                Command::Txn { txn, reply } => txns.push((txn, reply)),
                Command::Compact { revision, reply } => compactions.push((revision, reply)),
            }
        }
        if !txns.is_empty() {
            self.transact(txns);
        }
        for (revision, reply) in compactions {
            let _ = reply.send(self.compact(revision));
        }
    }

    fn transact(&mut self, txns: Vec<(Txn, Reply<TxnResponse>)>) {
        if let Err(error) = self.ensure_open() {
            for (_, reply) in txns {
                let _ = reply.send(Err(error.clone()));
            }
            return;
        }
        let mut state = self.shared.state();
        let mut changes: Vec<Change> = Vec::new();
        let mut answers = Vec::with_capacity(txns.len());
        for (txn, reply) in txns {
            let answer = state.apply(&txn, &|state, own, request| {
                let ahead: Vec<Change> = changes.iter().chain(own).cloned().collect();
                history::range_with(&self.shared, state, &ahead, request)
            });
            match answer {
                Ok((answer, changed)) => {
                    changes.extend(changed);
                    answers.push((reply, Ok(answer)));
                }
                Err(error) => answers.push((reply, Err(error))),
            }
        }
        if !changes.is_empty() {
            if let Err(error) = self.commit(&changes) {
                for (reply, _) in answers {
                    let _ = reply.send(Err(error.clone()));
                }
                return;
            }
            self.publish(state, &changes);
        }
        for (reply, answer) in answers {
            let _ = reply.send(answer);
        }
    }

    fn publish(&self, state: State, changes: &[Change]) {
        let mut hub = self.shared.hub.lock();
        let revision = state.revision;
        *self.shared.state.write() = state;
        hub.publish(revision, changes);
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let cleaning = self.cleaning.map(|cleaning| (cleaning, CLEAN_ROWS_WITH_WRITES));
        let done = self.with_disk(|disk| disk.commit(changes, cleaning))?;
        self.cleaning_done(cleaning.is_some(), done);
        Ok(())
    }

    fn clean_idle(&mut self) {
        let Some(cleaning) = self.cleaning else { return };
        let done = self
            .ensure_open()
            .and_then(|()| self.with_disk(|disk| disk.commit(&[], Some((cleaning, CLEAN_ROWS_IDLE)))));
        match done {
            Ok(left) => self.cleaning_done(true, left),
            Err(error) => {
                // The next compaction, or the next start, goes on where this one stopped.
                tracing::warn!(%error, "cannot remove what was compacted");
                self.cleaning = None;
            }
        }
    }

    fn cleaning_done(&mut self, was_cleaning: bool, left: Option<Cleaning>) {
        if !was_cleaning {
            return;
        }
        if let (Some(cleaning), None) = (self.cleaning, left) {
            self.cleaned = cleaning.until;
        }
        self.cleaning = left;
    }

    fn plan_cleaning(&mut self, until: i64) {
        if self.cleaned < until {
            // From the last compact revision itself: its deletions were left.
            self.cleaning = Some(Cleaning { next: RowId { revision: self.cleaned, sub: 0 }, until });
        }
    }

    fn compact(&mut self, revision: i64) -> Result<(), StoreError> {
        let mut state = self.shared.state();
        if revision > state.revision {
            return Err(StoreError::FutureRevision { requested: revision, current: state.revision });
        }
        if revision <= state.compact_revision {
            let compact_revision = state.compact_revision;
            return Err(StoreError::Compacted { requested: revision, compact_revision });
        }
        self.ensure_open()?;
        self.with_disk(|disk| disk.set_compacted(revision, state.revision))?;
        state.compact_revision = revision;
        self.publish(state, &[]);
        self.plan_cleaning(revision);
        Ok(())
    }

    /// Works on the file. After an error the file is closed: it says nothing about what is on the disk any more.
    fn with_disk<T>(&mut self, work: impl FnOnce(&Disk) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let done = match &*self.shared.disk.read() {
            Some(disk) => work(disk),
            None => return Err(StoreError::Closed),
        };
        if done.is_err() {
            *self.shared.disk.write() = None;
        }
        done
    }

    /// Opens the file again after an error, and takes back what the failed commit may have left in it.
    fn ensure_open(&mut self) -> Result<(), StoreError> {
        if self.shared.disk.read().is_some() {
            return Ok(());
        }
        let state = self.shared.state();
        let disk = Disk::open(&self.shared.path, self.shared.options.cache_bytes)?;
        disk.roll_back(&state)?;
        *self.shared.disk.write() = Some(disk);
        tracing::info!(path = %self.shared.path.display(), "the store's file is open again");
        Ok(())
    }
}

fn size_of(command: &Command) -> usize {
    match command {
        Command::Txn { txn, .. } => txn.size_bytes(),
        Command::Compact { .. } => 0,
    }
}
