//! The embedded engine: the suite of all engines, and what is its own.

mod suite;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use futures::StreamExt;
use gantry_store::{EmbeddedOptions, EmbeddedStore, RangeRequest, Store, StoreError, Txn, WatchRequest};
use tempfile::TempDir;

use suite::{delete, get, next, next_events, pairs, put, revision};

async fn empty() -> (Arc<dyn Store>, TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    (open(dir.path()), dir)
}

fn open(dir: &Path) -> Arc<dyn Store> {
    open_with(dir, EmbeddedOptions::default())
}

fn open_with(dir: &Path, options: EmbeddedOptions) -> Arc<dyn Store> {
    Arc::new(EmbeddedStore::open(dir, options).expect("open"))
}

store_suite!(empty);

#[tokio::test]
async fn a_folder_has_one_holder() {
    let (store, dir) = empty().await;
    let error = EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).err().expect("it is in use");
    let pid = std::process::id();
    assert_eq!(error.to_string(), format!("store folder {} is in use by process {pid}", dir.path().display()));
    drop(store);
    let store = EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).expect("open");
    store.close();
    assert!(matches!(store.txn(Txn::put("a", "1")).await, Err(StoreError::Closed)));
    open(dir.path());
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let (store, dir) = empty().await;
    put(&store, "a", "1").await;
    let overwritten = put(&store, "a", "2").await;
    put(&store, "b", "1").await;
    let compacted = delete(&store, "b").await;
    let last = put(&store, "c", "1").await;
    let mut stream = store.watch(WatchRequest::prefix("")).await.expect("watch");
    drop(store);
    assert!(matches!(next(&mut stream).await, Err(StoreError::Closed)));

    let store = open(dir.path());
    assert_eq!(revision(&store).await, last);
    let past = store.range(RangeRequest::prefix("").at(overwritten)).await.expect("range");
    assert_eq!(pairs(&past.kvs), "a=2");
    let mut stream = store.watch(WatchRequest::prefix("").from(overwritten)).await.expect("watch");
    for expected in overwritten..=last {
        assert_eq!(next_events(&mut stream).await.revision, expected);
    }
    store.compact(last).await.expect("compact");
    drop((store, stream));

    let store = open(dir.path());
    let status = store.status().await.expect("status");
    assert_eq!((status.revision, status.compact_revision), (last, last));
    assert!(store.range(RangeRequest::prefix("").at(compacted)).await.expect_err("forgotten").is_compacted());
    assert_eq!(pairs(&store.range(RangeRequest::prefix("")).await.expect("range").kvs), "a=2 c=1");
    assert_eq!(put(&store, "b", "2").await, last + 1, "revisions go on");
}

/// The last revision is a deletion that compaction removes: the revision must not go back.
#[tokio::test]
async fn the_revision_survives_its_rows() {
    let (store, dir) = empty().await;
    put(&store, "a", "1").await;
    let last = delete(&store, "a").await;
    store.compact(last).await.expect("compact");
    drop(store);
    for _ in 0..3 {
        let store = open(dir.path());
        assert_eq!(revision(&store).await, last);
    }
}

#[tokio::test]
async fn compaction_gives_space_back() {
    let (store, dir) = empty().await;
    let value = "x".repeat(10_000);
    let size = |dir: &Path| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(dir.join("state.redb")).expect("the file").blocks() * 512
    };
    let mut largest = 0;
    for _ in 0..20 {
        for number in 0..100 {
            put(&store, &format!("k{}", number % 10), &value).await;
        }
        store.compact(revision(&store).await).await.expect("compact");
        largest = largest.max(size(dir.path()));
    }
    let written = 20 * 100 * value.len() as u64;
    assert!(largest < written / 2, "{largest} bytes on the disk after {written} were written");
}

#[tokio::test]
async fn a_slow_watcher_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open_with(dir.path(), EmbeddedOptions { watch_batches_max: 4, ..EmbeddedOptions::default() });
    let mut stream = store.watch(WatchRequest::prefix("")).await.expect("watch");
    let first = put(&store, "a", "0").await;
    for number in 1..10 {
        put(&store, "a", &number.to_string()).await;
    }
    let mut seen = Vec::new();
    let error = loop {
        match next(&mut stream).await {
            Ok(batch) => seen.push(batch.revision),
            Err(error) => break error,
        }
    };
    assert_eq!(seen, (first..first + 4).collect::<Vec<_>>());
    assert!(matches!(error, StoreError::WatchLagged { buffered: 4, .. }), "{error}");
    assert!(stream.next().await.is_none());
    let mut again = store.watch(WatchRequest::prefix("").from(first + 4)).await.expect("watch");
    assert_eq!(next_events(&mut again).await.revision, first + 4);
}

#[tokio::test]
async fn transactions_have_a_limit() {
    let (store, _dir) = empty().await;
    let error = store.txn(Txn::put("a", vec![0; 5 << 20])).await.expect_err("too large");
    assert!(matches!(error, StoreError::TooLarge { what: "transaction", .. }), "{error}");
    let error = store.txn(Txn::put(vec![b'k'; 40_000], "v")).await.expect_err("too long");
    assert!(matches!(error, StoreError::TooLarge { what: "key", .. }), "{error}");
}

#[tokio::test]
async fn a_snapshot_restores_elsewhere() {
    let (store, _dir) = empty().await;
    for number in 0..500 {
        put(&store, &format!("k{}", number % 100), &"v".repeat(number * 10)).await;
    }
    let at = revision(&store).await;
    let expected = store.range(RangeRequest::prefix("")).await.expect("range").kvs;
    let other = tempfile::tempdir().expect("a folder");
    let snapshot = store.snapshot().await.expect("snapshot");
    let restored =
        EmbeddedStore::restore(other.path(), EmbeddedOptions::default(), snapshot, at + 1000).await.expect("restore");
    let restored: Arc<dyn Store> = Arc::new(restored);
    assert_eq!(restored.range(RangeRequest::prefix("")).await.expect("range").kvs, expected);
    assert_eq!(revision(&restored).await, at + 1000);
    assert!(restored.range(RangeRequest::prefix("").at(at)).await.expect_err("no history").is_compacted());
    assert_eq!(put(&restored, "new", "1").await, at + 1001);
    delete(&restored, "k5").await;
    let mut stream = restored.watch(WatchRequest::prefix("").from(at + 1001)).await.expect("watch");
    assert_eq!(next_events(&mut stream).await.revision, at + 1001);
    // Not over something that is there, and not from half of one.
    drop(restored);
    let snapshot = store.snapshot().await.expect("snapshot");
    let error = EmbeddedStore::restore(other.path(), EmbeddedOptions::default(), snapshot, 0).await.err();
    assert!(matches!(error, Some(StoreError::InvalidRequest(_))), "{error:?}");
    let third = tempfile::tempdir().expect("a folder");
    let half = store.snapshot().await.expect("snapshot").take(2);
    let error = EmbeddedStore::restore(third.path(), EmbeddedOptions::default(), half, 0).await.err();
    assert!(matches!(error, Some(StoreError::BadSnapshot(_))), "{error:?}");
    assert!(get(&open(third.path()), "k1").await.is_none(), "nothing was restored");
}

/// A small file system of its own; unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .status()
            .expect("mount");
        assert!(done.success(), "this test mounts a small file system and needs root for it");
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_changes_nothing() {
    let disk = SmallDisk::mount("8m");
    let dir = disk.0.path().join("store");
    let ballast = disk.0.path().join("ballast");
    let store = open(&dir);
    let mut stream = store.watch(WatchRequest::prefix("")).await.expect("watch");
    let before = put(&store, "a", "1").await;
    std::fs::write(&ballast, vec![0; 1 << 20]).expect("ballast");
    let value = "x".repeat(200_000);
    let mut written = 0;
    let error = loop {
        match store.txn(Txn::put(format!("big{written}"), value.clone())).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 100, "the disk never filled");
    };
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
    let full_at = before + written;
    for _ in 0..3 {
        let error = store.txn(Txn::put("more", value.clone())).await.expect_err("still full");
        assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
        assert_eq!(revision(&store).await, full_at);
        assert_eq!(get(&store, "a").await.expect("reads go on").value, "1");
    }
    std::fs::remove_file(&ballast).expect("make room");
    let after = put(&store, "more", "small").await;
    assert_eq!(after, full_at + 1, "the next revision, as if nothing had been");
    for expected in before..=after {
        assert_eq!(next_events(&mut stream).await.revision, expected);
    }
    drop(store);
    let store = open(&dir);
    assert_eq!(revision(&store).await, after);
    assert_eq!(get(&store, "more").await.expect("more").value, "small");
}
