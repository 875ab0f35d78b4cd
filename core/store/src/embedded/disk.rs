//! The file: a table with a row per changed key and revision, in the order in which they were made.
//!
//! A row holds the key as written (or deleted) and where its previous row is. To forget what was before a revision is
//! to remove the previous rows of all rows up to it; what isn't removed is the latest of its key.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::state::{Change, Item, RowId, State};
use crate::error::StoreError;
use crate::types::{Event, EventKind, KeyValue};

/// (revision, number within it) → row.
const ROWS: TableDefinition<(i64, u32), &[u8]> = TableDefinition::new("rows");
const META: TableDefinition<&str, i64> = TableDefinition::new("meta");
/// The layout of this file.
const FORMAT: &str = "format";
const FORMAT_VERSION: i64 = 1;
/// The oldest revision that can be read.
const COMPACTED: &str = "compacted";
/// Up to here what compaction forgot has been removed.
const CLEANED: &str = "cleaned";
/// The least that the store's revision is (its last rows may be gone).
const REVISION: &str = "revision";

/// Row: kind, revision that created the key, version, previous revision, its number there, length of the key, key,
/// value; numbers big-endian.
const ROW_HEADER_BYTES: usize = 1 + 8 + 8 + 8 + 4 + 4;

/// A row as it is read back.
#[derive(Debug)]
pub struct Row {
    pub kind: EventKind,
    pub item: Item,
    pub previous: Option<RowId>,
}

impl Row {
    /// The change as a watcher sees it.
    pub fn event(self, prev_kv: Option<KeyValue>) -> Event {
        Event { kind: self.kind, kv: self.item.kv, prev_kv }
    }
}

/// What was found in a file.
pub struct Loaded {
    pub state: State,
    /// Up to here what compaction forgot has been removed.
    pub cleaned: i64,
}

/// Removals that compaction has left to do.
#[derive(Clone, Copy, Debug)]
pub struct Cleaning {
    /// The next row to look at.
    pub next: RowId,
    /// The compact revision.
    pub until: i64,
}

/// The open file.
pub struct Disk {
    db: Database,
    path: PathBuf,
}

fn encode(change: &Change) -> Vec<u8> {
    let kv = &change.item.kv;
    let mut row = Vec::with_capacity(ROW_HEADER_BYTES + kv.key.len() + kv.value.len());
    row.push(u8::from(change.kind == EventKind::Delete));
    row.extend(kv.create_revision.to_be_bytes());
    row.extend(kv.version.to_be_bytes());
    let previous = change.previous.as_ref().map_or(RowId { revision: 0, sub: 0 }, |previous| previous.row);
    row.extend(previous.revision.to_be_bytes());
    row.extend(previous.sub.to_be_bytes());
    row.extend((kv.key.len() as u32).to_be_bytes());
    row.extend_from_slice(&kv.key);
    row.extend_from_slice(&kv.value);
    row
}

impl Disk {
    /// Opens a file, or makes it.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        let db = Database::builder()
            .set_cache_size(cache_bytes)
            .create(path)
            .map_err(|error| disk_error("open", path, error.into()))?;
        let disk = Self { db, path: path.to_owned() };
        disk.write("prepare", |rows, meta| {
            let _ = rows;
            let found = meta.get(FORMAT)?.map(|version| version.value());
            if found.is_none() {
                meta.insert(FORMAT, FORMAT_VERSION)?;
            }
            Ok(found.unwrap_or(FORMAT_VERSION))
        })
        .and_then(|found| match found {
            FORMAT_VERSION => Ok(disk),
            other => Err(StoreError::Corrupt {
                path: path.to_owned(),
                detail: format!("its format is {other}, this program knows {FORMAT_VERSION}"),
            }),
        })
    }

    /// Reads the latest of all keys.
    pub fn load(&self) -> Result<Loaded, StoreError> {
        let failed = |error: redb::Error| disk_error("read", &self.path, error);
        let txn = self.db.begin_read().map_err(|error| failed(error.into()))?;
        let meta = txn.open_table(META).map_err(|error| failed(error.into()))?;
        let number = |name: &str| match meta.get(name) {
            Ok(value) => Ok(value.map_or(0, |value| value.value())),
            Err(error) => Err(failed(error.into())),
        };
        let mut state = State::default();
        state.compact_revision = number(COMPACTED)?;
        state.revision = state.revision.max(number(REVISION)?);
        let rows = txn.open_table(ROWS).map_err(|error| failed(error.into()))?;
        for entry in rows.iter().map_err(|error| failed(error.into()))? {
            let (id, value) = entry.map_err(|error| failed(error.into()))?;
            let row = self.decode(id.value(), value.value())?;
            state.revision = state.revision.max(row.item.row.revision);
            match row.kind {
                EventKind::Put => state.load(Arc::new(row.item)),
                EventKind::Delete => state.unload(&row.item.kv.key),
            }
        }
        Ok(Loaded { state, cleaned: number(CLEANED)? })
    }

    /// Writes changes with one sync, and does a step of cleaning along with them; answers with what is left of that.
    pub fn commit(
        &self,
        changes: &[Change],
        cleaning: Option<(Cleaning, usize)>,
    ) -> Result<Option<Cleaning>, StoreError> {
        self.write("write", |rows, meta| {
            for change in changes {
                let row = change.item.row;
                rows.insert((row.revision, row.sub), encode(change).as_slice())?;
            }
            match cleaning {
                Some((cleaning, rows_max)) => clean(rows, meta, cleaning, rows_max),
                None => Ok(None),
            }
        })
    }

    /// Remembers the oldest revision that can be read, and the current one.
    pub fn set_compacted(&self, compacted: i64, revision: i64) -> Result<(), StoreError> {
        self.write("compact", |_, meta| {
            meta.insert(COMPACTED, compacted)?;
            meta.insert(REVISION, revision)?;
            Ok(())
        })
    }

    /// Takes back whatever a failed commit may have left behind.
    pub fn roll_back(&self, state: &State) -> Result<(), StoreError> {
        self.write("roll back", |rows, meta| {
            let mut left = Vec::new();
            for entry in rows.range((state.revision + 1, 0)..)? {
                left.push(entry?.0.value());
            }
            for id in left {
                rows.remove(id)?;
            }
            meta.insert(COMPACTED, state.compact_revision)?;
            Ok(())
        })
    }

    /// Writes the rows of a snapshot; `written` numbers them across calls.
    pub fn restore_rows(&self, kvs: Vec<KeyValue>, written: u32) -> Result<u32, StoreError> {
        let mut written = written;
        let changes = kvs.into_iter().map(|kv| {
            let row = RowId { revision: kv.mod_revision, sub: written };
            written += 1;
            Change { kind: EventKind::Put, item: Arc::new(Item { kv, row }), previous: None }
        });
        let changes: Vec<_> = changes.collect();
        self.commit(&changes, None)?;
        Ok(written)
    }

    /// Sets the revision of a restored store; there is no history before it.
    pub fn finish_restore(&self, revision: i64) -> Result<(), StoreError> {
        self.write("restore", |_, meta| {
            for name in [COMPACTED, CLEANED, REVISION] {
                meta.insert(name, revision)?;
            }
            Ok(())
        })
    }

    /// The rows of whole revisions from one on, up to another; at least one revision, then as many as fit.
    /// Answers with the first revision that wasn't read.
    pub fn rows(
        &self,
        from: i64,
        until: i64,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Row>, i64), StoreError> {
        let failed = |error: redb::Error| disk_error("read", &self.path, error);
        let txn = self.db.begin_read().map_err(|error| failed(error.into()))?;
        let table = txn.open_table(ROWS).map_err(|error| failed(error.into()))?;
        let mut found: Vec<Row> = Vec::new();
        let mut bytes = 0;
        for entry in table.range((from, 0)..=(until, u32::MAX)).map_err(|error| failed(error.into()))? {
            let (id, value) = entry.map_err(|error| failed(error.into()))?;
            let id = id.value();
            let full = found.len() >= rows_max || bytes >= bytes_max;
            if full && found.last().is_some_and(|last| last.item.row.revision != id.0) {
                return Ok((found, id.0));
            }
            bytes += value.value().len();
            found.push(self.decode(id, value.value())?);
        }
        Ok((found, until + 1))
    }

    /// Rows by their ids; those that have been removed are left out as `None`.
    pub fn get(&self, ids: &[RowId]) -> Result<Vec<Option<Row>>, StoreError> {
        let failed = |error: redb::Error| disk_error("read", &self.path, error);
        let txn = self.db.begin_read().map_err(|error| failed(error.into()))?;
        let table = txn.open_table(ROWS).map_err(|error| failed(error.into()))?;
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            let id = (id.revision, id.sub);
            let row = table.get(id).map_err(|error| failed(error.into()))?;
            found.push(row.map(|row| self.decode(id, row.value())).transpose()?);
        }
        Ok(found)
    }

    /// What the file takes on the disk.
    pub fn size_bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.blocks() * 512)
    }

    fn write<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Rows<'_>, &mut Meta<'_>) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let failed = |error: redb::Error| disk_error(operation, &self.path, error);
        let txn = self.db.begin_write().map_err(|error| failed(error.into()))?;
        let done = {
            let mut rows = txn.open_table(ROWS).map_err(|error| failed(error.into()))?;
            let mut meta = txn.open_table(META).map_err(|error| failed(error.into()))?;
            work(&mut rows, &mut meta).map_err(failed)?
        };
        txn.commit().map_err(|error| failed(error.into()))?;
        Ok(done)
    }

    fn decode(&self, id: (i64, u32), row: &[u8]) -> Result<Row, StoreError> {
        let corrupt = || StoreError::Corrupt {
            path: self.path.clone(),
            detail: format!("row {} of revision {} is cut off", id.1, id.0),
        };
        let mut header = row.get(..ROW_HEADER_BYTES).ok_or_else(corrupt)?;
        let kind = if header.get_u8() == 1 { EventKind::Delete } else { EventKind::Put };
        let (create_revision, version) = (header.get_i64(), header.get_i64());
        let previous = RowId { revision: header.get_i64(), sub: header.get_u32() };
        let key_bytes = header.get_u32() as usize;
        let key_end = ROW_HEADER_BYTES + key_bytes;
        let key = row.get(ROW_HEADER_BYTES..key_end).ok_or_else(corrupt)?;
        let kv = KeyValue {
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(&row[key_end..]),
            create_revision,
            mod_revision: id.0,
            version,
        };
        let item = Item { kv, row: RowId { revision: id.0, sub: id.1 } };
        Ok(Row { kind, item, previous: Some(previous).filter(|previous| previous.revision > 0) })
    }
}

type Rows<'t> = redb::Table<'t, (i64, u32), &'static [u8]>;
type Meta<'t> = redb::Table<'t, &'static str, i64>;

/// Looks at some rows and removes what they have made unreadable.
fn clean(
    rows: &mut Rows<'_>,
    meta: &mut Meta<'_>,
    cleaning: Cleaning,
    rows_max: usize,
) -> Result<Option<Cleaning>, redb::Error> {
    let Cleaning { next, until } = cleaning;
    let mut removed = Vec::new();
    let mut left = None;
    for (looked_at, entry) in rows.range((next.revision, next.sub)..=(until, u32::MAX))?.enumerate() {
        let (id, row) = entry?;
        let id = id.value();
        if looked_at == rows_max {
            left = Some(Cleaning { next: RowId { revision: id.0, sub: id.1 }, until });
            break;
        }
        let Some(mut header) = row.value().get(..ROW_HEADER_BYTES) else { continue };
        let is_delete = header.get_u8() == 1;
        header.advance(16);
        let previous = (header.get_i64(), header.get_u32());
        if previous.0 > 0 {
            removed.push(previous);
        }
        // Watchers may start at the compact revision itself: its deletions stay until the next time.
        if is_delete && id.0 < until {
            removed.push(id);
        }
    }
    for id in removed {
        rows.remove(id)?;
    }
    if left.is_none() {
        meta.insert(CLEANED, until)?;
    }
    Ok(left)
}

/// An error of redb in our terms.
fn disk_error(operation: &'static str, path: &Path, error: redb::Error) -> StoreError {
    match error {
        redb::Error::Io(error) => StoreError::from_io(operation, path, error),
        redb::Error::DatabaseAlreadyOpen => {
            StoreError::Locked { dir: path.parent().unwrap_or(path).to_owned(), holder_pid: None }
        }
        redb::Error::Corrupted(detail) => StoreError::Corrupt { path: path.to_owned(), detail },
        redb::Error::UpgradeRequired(version) => StoreError::Corrupt {
            path: path.to_owned(),
            detail: format!("its file format {version} is another program's"),
        },
        other => StoreError::from_io(operation, path, std::io::Error::other(other.to_string())),
    }
}
