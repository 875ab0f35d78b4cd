//! The embedded engine under `kill -9`: a child process writes, is killed at seeded moments, again and again on the same
//! folder. After each kill: what was acknowledged is there, nothing is torn, revisions have no gap, and a watch goes on
//! where it was.
//!
//! A program of its own instead of tests of the usual harness: it starts itself as the child.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use futures::StreamExt;
use gantry_store::{EmbeddedOptions, EmbeddedStore, EventKind, Op, OpResponse, RangeRequest, Store, Txn, WatchRequest};

/// Set in the child: the folder and the seed.
const CHILD_DIR: &str = "GANTRY_STORE_CRASH_DIR";
const CHILD_SEED: &str = "GANTRY_STORE_CRASH_SEED";

const SEEDS: [u64; 4] = [1, 2, 3, 4];
const KILLS_PER_SEED: u64 = 260;
/// The child is killed before it has acknowledged more than this.
const ACKNOWLEDGED_MAX: u64 = 24;
/// Tasks of the child that write side by side.
const WRITERS: u64 = 4;
/// Pairs of keys that a writer writes.
const PAIRS: u64 = 5;

struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        let seed = std::env::var(CHILD_SEED).expect("a seed").parse().expect("a number");
        runtime.block_on(write_until_killed(Path::new(&dir), seed));
        return;
    }
    let threads: Vec<_> = SEEDS.map(|seed| (seed, std::thread::spawn(move || one_seed(seed)))).into();
    let mut failed = false;
    for (seed, thread) in threads {
        match thread.join() {
            Ok(checked) => println!("seed {seed}: {KILLS_PER_SEED} kills, {checked} revisions checked"),
            Err(_) => {
                println!("seed {seed} FAILED");
                failed = true;
            }
        }
    }
    std::process::exit(i32::from(failed));
}

fn open(dir: &Path) -> Arc<EmbeddedStore> {
    Arc::new(EmbeddedStore::open(dir, EmbeddedOptions::default()).expect("open"))
}

/// The child: tells on standard output what was acknowledged, as `revision value`.
async fn write_until_killed(dir: &Path, seed: u64) {
    let store = open(dir);
    let mut random = Random::new(seed);
    let revision = store.status().await.expect("status").revision;
    if random.below(3) == 0 && revision > 60 {
        // Already done when the last kill came behind it.
        let _ = store.compact(revision - random.below(40).cast_signed()).await;
    }
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let (store, mut random) = (store.clone(), Random::new(seed ^ (writer << 40)));
        writers.push(tokio::spawn(async move {
            for number in 0_u64.. {
                let pair = random.below(PAIRS);
                let (a, b) = (format!("{writer}/{pair}/a"), format!("{writer}/{pair}/b"));
                let (txn, value) = if random.below(5) == 0 {
                    (Txn { success: vec![Op::delete(a), Op::delete(b)], ..Txn::default() }, "-".to_owned())
                } else {
                    let padding = "x".repeat(random.below(3000) as usize);
                    let value = format!("{seed}.{writer}.{number}.{padding}");
                    let ops = vec![Op::put(a, value.clone()), Op::put(b, value.clone())];
                    (Txn { success: ops, ..Txn::default() }, value)
                };
                let answer = store.txn(txn).await.expect("txn");
                // Deleting what isn't there changes nothing.
                let wrote = |response: &OpResponse| !matches!(response, OpResponse::Delete { deleted: 0, .. });
                if answer.responses.iter().any(wrote) {
                    let short = value.get(..value.len().min(40)).unwrap_or_default();
                    // One write call a line: lines of several writers don't mix.
                    let line = format!("{} {short}\n", answer.revision);
                    std::io::stdout().lock().write_all(line.as_bytes()).expect("the parent reads");
                }
            }
        }));
    }
    for writer in writers {
        let _ = writer.await;
    }
}

struct Killed {
    child: Child,
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the child until it has acknowledged so much, kills it, and answers with what it acknowledged.
fn run_and_kill(dir: &Path, seed: u64, acknowledged: u64) -> Vec<(i64, String)> {
    let child = Command::new(std::env::current_exe().expect("this program"))
        .env(CHILD_DIR, dir)
        .env(CHILD_SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the child");
    let mut killed = Killed { child };
    let mut lines = BufReader::new(killed.child.stdout.take().expect("its output"));
    let mut seen = Vec::new();
    let next = |lines: &mut BufReader<ChildStdout>| {
        let mut line = String::new();
        let whole = lines.read_line(&mut line).is_ok() && line.ends_with('\n');
        let (revision, value) = line.trim_end().split_once(' ')?;
        whole.then(|| (revision.parse().expect("a revision"), value.to_owned()))
    };
    for _ in 0..acknowledged {
        seen.push(next(&mut lines).expect("the child goes on until it is killed"));
    }
    killed.child.kill().expect("kill");
    killed.child.wait().expect("wait");
    // What it said before it died counts, too.
    seen.extend(std::iter::from_fn(|| next(&mut lines)));
    seen
}

type Values = BTreeMap<String, String>;

fn one_seed(seed: u64) -> i64 {
    let dir = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut random = Random::new(seed);
    let mut values = Values::new();
    let mut checked = 1;
    for kill in 0..KILLS_PER_SEED {
        // Now and then before it has begun: while it opens the store, and mends it.
        let acknowledged = if random.below(8) == 0 { 0 } else { 1 + random.below(ACKNOWLEDGED_MAX) };
        let seen = run_and_kill(dir.path(), seed * 1_000_000 + kill, acknowledged);
        let what = format!("seed {seed}, kill {kill}");
        checked = runtime.block_on(check(dir.path(), checked, &mut values, &seen, &what));
    }
    checked
}

/// Checks everything after `checked`; answers with the last revision.
async fn check(dir: &Path, checked: i64, values: &mut Values, acknowledged: &[(i64, String)], what: &str) -> i64 {
    let store = open(dir);
    let status = store.status().await.expect("status");
    let mut changes: BTreeMap<i64, Vec<(String, String)>> = BTreeMap::new();
    let mut stream = store.watch(WatchRequest::prefix("").from(checked + 1)).await.expect("watch");
    for revision in checked + 1..=status.revision {
        let batch = stream.next().await.expect("the stream goes on").unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(batch.revision, revision, "{what}: a gap or a duplicate");
        assert_eq!(batch.events.len(), 2, "{what}: revision {revision} is torn: {:?}", batch.events);
        let mut change = Vec::new();
        for event in batch.events {
            let key = String::from_utf8(event.kv.key.to_vec()).expect("text");
            let value = String::from_utf8(event.kv.value.to_vec()).expect("text");
            match event.kind {
                EventKind::Put => values.insert(key.clone(), value.clone()),
                EventKind::Delete => values.remove(&key),
            };
            change.push((key, if event.kind == EventKind::Put { value } else { "-".to_owned() }));
        }
        assert_eq!(change[0].1, change[1].1, "{what}: revision {revision} is torn");
        changes.insert(revision, change);
    }
    for (revision, value) in acknowledged {
        let change =
            changes.get(revision).unwrap_or_else(|| panic!("{what}: acknowledged revision {revision} is lost"));
        assert!(change[0].1.starts_with(value.as_str()), "{what}: revision {revision} is not what was acknowledged");
    }
    let found = store.range(RangeRequest::prefix("")).await.expect("range").kvs;
    let found: Values = found
        .into_iter()
        .map(|kv| (String::from_utf8_lossy(&kv.key).into_owned(), String::from_utf8_lossy(&kv.value).into_owned()))
        .collect();
    assert_eq!(&found, values, "{what}: the latest values are not those of the history");
    status.revision
}
