//! The embedded engine: one file (redb, a copy-on-write B-tree), no daemon.
//!
//! - [`options`]: limits and sizes
//! - `state`: the latest objects in memory, and transactions as functions of them
//! - `disk`: rows of revisions in the file
//! - `writer`: the one thread that commits; transactions that wait together share a sync
//! - `watch`: who is told of what was committed
//! - `history`: reads of the past
//! - `lock`: one process has the folder
//!
//! The latest value of every key stays in memory, by reference count the same bytes that its readers hold; the past is
//! read from the file. redb was chosen over fjall, which commits about twice as fast, for one file whose checksummed
//! commit slots survive a torn write at any byte, and for failing instead of waiting when the disk is full.
//!
//! Invariant: what readers and watchers see is on the disk.

mod disk;
mod history;
mod lock;
pub mod options;
mod state;
mod watch;
mod writer;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};

use self::disk::Disk;
use self::lock::FolderLock;
pub use self::options::EmbeddedOptions;
use self::state::State;
use self::watch::Hub;
use self::writer::{Command, Writer};
use crate::error::StoreError;
use crate::snapshot::{SnapshotDecoder, SnapshotEncoder};
use crate::store::{SnapshotStream, Store, WatchStream};
use crate::types::{RangeRequest, RangeResponse, StoreStatus, Txn, TxnResponse, WatchRequest};

/// The file within the folder.
const FILE: &str = "state.redb";
/// The file while a snapshot is restored into it.
const RESTORING_FILE: &str = "state.redb.restoring";
/// How much of a snapshot is written to the disk at a time.
const RESTORE_BATCH_BYTES: usize = 4 << 20;

/// What the store, its writer and its watches share.
struct Shared {
    /// Everything that is on the disk, as of its last commit.
    state: RwLock<State>,
    /// The file; none while it is being opened again after an error.
    disk: RwLock<Option<Disk>>,
    hub: Mutex<Hub>,
    /// Where the file is.
    path: PathBuf,
    options: EmbeddedOptions,
}

impl Shared {
    fn state(&self) -> State {
        self.state.read().clone()
    }
}

/// A store in a folder of its own.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    /// None once it is closed.
    commands: RwLock<Option<mpsc::Sender<Command>>>,
    /// The writer's thread, and the folder's lock, which is given up behind it.
    writer: Mutex<Option<(JoinHandle<()>, FolderLock)>>,
}

impl EmbeddedStore {
    /// Opens the store of a folder, which is made if it isn't there (with mode 0700). One process may have it open.
    pub fn open(dir: &Path, options: EmbeddedOptions) -> Result<Self, StoreError> {
        make_folder(dir)?;
        let lock = FolderLock::acquire(dir)?;
        let _ = fs::remove_file(dir.join(RESTORING_FILE));
        let disk = Disk::open(&dir.join(FILE), options.cache_bytes)?;
        let loaded = disk.load()?;
        let hub = Hub::new(loaded.state.revision, options);
        let shared = Arc::new(Shared {
            state: RwLock::new(loaded.state),
            disk: RwLock::new(Some(disk)),
            hub: Mutex::new(hub),
            path: dir.join(FILE),
            options,
        });
        let (commands, receiver) = mpsc::channel(options.waiting_transactions_max);
        let writer = Writer::new(shared.clone(), receiver, loaded.cleaned);
        let handle = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| StoreError::from_io("start a thread for", dir, error))?;
        Ok(Self { shared, commands: RwLock::new(Some(commands)), writer: Mutex::new(Some((handle, lock))) })
    }

    /// Fills a folder that holds no store with a snapshot, and opens it.
    ///
    /// Revisions go on where the snapshot was taken, or at `revision_min` if that is more: clients that saw later
    /// revisions of the lost store must not take new ones for old.
    pub async fn restore<S>(
        dir: &Path,
        options: EmbeddedOptions,
        mut snapshot: S,
        revision_min: i64,
    ) -> Result<Self, StoreError>
    where
        S: Stream<Item = Result<Bytes, StoreError>> + Unpin,
    {
        make_folder(dir)?;
        let lock = FolderLock::acquire(dir)?;
        let file = dir.join(FILE);
        if file.exists() {
            let reason = format!("{} holds a store already; restore into an empty folder", dir.display());
            return Err(StoreError::InvalidRequest(reason));
        }
        let restoring = dir.join(RESTORING_FILE);
        let _ = fs::remove_file(&restoring);
        let disk = Disk::open(&restoring, options.cache_bytes)?;
        let mut decoder = SnapshotDecoder::new();
        let (mut waiting, mut waiting_bytes, mut written) = (Vec::new(), 0, 0_u32);
        while let Some(chunk) = snapshot.next().await {
            for kv in decoder.push(&chunk?)? {
                waiting_bytes += kv.key.len() + kv.value.len();
                waiting.push(kv);
            }
            if waiting_bytes >= RESTORE_BATCH_BYTES {
                written = disk.restore_rows(std::mem::take(&mut waiting), written)?;
                waiting_bytes = 0;
            }
        }
        disk.restore_rows(waiting, written)?;
        disk.finish_restore(decoder.finish()?.max(revision_min))?;
        drop(disk);
        fs::rename(&restoring, &file).map_err(|error| StoreError::from_io("rename", &restoring, error))?;
        lock::sync_folder(dir)?;
        drop(lock);
        Self::open(dir, options)
    }

    /// Finishes what has been asked for, ends watches, and lets go of the file and the folder, whoever still holds this
    /// store. It waits for the last commit.
    pub fn close(&self) {
        *self.commands.write() = None;
        if let Some((writer, lock)) = self.writer.lock().take() {
            let _ = writer.join();
            drop(lock);
        }
    }

    async fn send<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.read().clone().ok_or(StoreError::Closed)?;
        commands.send(command(reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.close();
    }
}

fn make_folder(dir: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| StoreError::from_io("make the folder", dir, error))
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let state = self.shared.state();
        state::check_range(&request, &state)?;
        if request.revision == 0 || request.revision == state.revision {
            return Ok(state.range(&request));
        }
        history::range(self.shared.clone(), state, request).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        state::check_txn(&txn, &self.shared.options)?;
        self.send(|reply| Command::Txn { txn, reply }).await
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream, StoreError> {
        watch::open(self.shared.clone(), request)
    }

    async fn compact(&self, revision: i64) -> Result<(), StoreError> {
        self.send(|reply| Command::Compact { revision, reply }).await
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        let (revision, compact_revision) = {
            let state = self.shared.state.read();
            (state.revision, state.compact_revision)
        };
        let size_bytes = self.shared.disk.read().as_ref().map_or(0, Disk::size_bytes);
        Ok(StoreStatus { revision, compact_revision, size_bytes })
    }

    async fn snapshot(&self) -> Result<SnapshotStream, StoreError> {
        let state = self.shared.state();
        let encoder = SnapshotEncoder::new(state.revision);
        Ok(state::snapshot_chunks(state, encoder).boxed())
    }
}
