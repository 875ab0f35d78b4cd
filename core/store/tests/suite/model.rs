//! Random operations against a model that keeps every revision as a map of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_store::{Compare, KeyValue, Op, RangeRequest, Store, Txn, WatchRequest};

use super::{next_events, txn};

type Map = BTreeMap<String, KeyValue>;

/// A small generator of its own, so that a seed means the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn model_txn(map: &Map, revision: i64, txn: &Txn) -> Option<Map> {
    let holds = txn.compares.iter().all(|compare| {
        let key = std::str::from_utf8(&compare.key).expect("text");
        let found = map.get(key).map_or(0, |kv| kv.mod_revision);
        compare.target == gantry_store::CompareTarget::ModRevision(found)
    });
    let mut new = map.clone();
    let mut changed = false;
    for op in if holds { &txn.success } else { &txn.failure } {
        match op {
            Op::Put { key, value, .. } => {
                let name = std::str::from_utf8(key).expect("text").to_owned();
                let old = new.get(&name);
                let kv = KeyValue {
                    key: key.clone(),
                    value: value.clone(),
                    create_revision: old.map_or(revision, |old| old.create_revision),
                    mod_revision: revision,
                    version: old.map_or(1, |old| old.version + 1),
                };
                new.insert(name, kv);
                changed = true;
            }
            Op::Delete { key, range_end, .. } => {
                let before = new.len();
                new.retain(|name, _| !gantry_store::key::contains(key, range_end, name.as_bytes()));
                changed |= new.len() != before;
            }
            Op::Range(_) => {}
        }
    }
    changed.then_some(new)
}

fn random_txn(random: &mut Random, map: &Map) -> Txn {
    let key = |random: &mut Random| format!("/{}/{}", random.below(3), random.below(8));
    let mut txn = Txn::default();
    if random.below(3) == 0 {
        let key = key(random);
        let current = map.get(&key).map_or(0, |kv| kv.mod_revision);
        txn.compares.push(Compare::mod_revision(key, if random.below(4) == 0 { current + 1 } else { current }));
    }
    for _ in 0..=random.below(3) {
        let name = key(random);
        let written = |ops: &[Op]| {
            ops.iter().any(|op| match op {
                Op::Put { key, .. } => key == name.as_bytes(),
                Op::Delete { key, range_end, .. } => gantry_store::key::contains(key, range_end, name.as_bytes()),
                Op::Range(_) => false,
            })
        };
        if written(&txn.success) {
            continue;
        }
        match random.below(6) {
            0 => txn.success.push(Op::delete(name)),
            1 if txn.success.is_empty() => {
                let prefix = format!("/{}/", random.below(3));
                let (key, range_end) = gantry_store::key::prefix_range(prefix);
                txn.success.push(Op::Delete { key, range_end, prev_kv: false });
            }
            _ => txn.success.push(Op::put(name, format!("v{}", random.below(1000)))),
        }
    }
    txn.failure.push(Op::put("/failed", "x"));
    txn
}

pub async fn agrees_with_model(store: Arc<dyn Store>) {
    let mut random = Random(0x5eed_cafe);
    let mut revisions: BTreeMap<i64, Map> = BTreeMap::from([(1, Map::new())]);
    let mut oldest = 1;
    for step in 0..600 {
        let (&current, map) = revisions.last_key_value().expect("one at least");
        let request = random_txn(&mut random, map);
        let expected = model_txn(map, current + 1, &request);
        let answer = txn(&store, request.clone()).await;
        assert_eq!(answer.revision, if expected.is_some() { current + 1 } else { current }, "step {step}: {request:?}");
        if let Some(new) = expected {
            revisions.insert(current + 1, new);
        }
        if step % 10 == 0 {
            let (&last, _) = revisions.last_key_value().expect("one at least");
            for at in [oldest, last, oldest + random.below((last - oldest + 1) as u64) as i64] {
                let found = store.range(RangeRequest::prefix("").at(at)).await.expect("range").kvs;
                let expected: Vec<_> = revisions[&at].values().cloned().collect();
                assert_eq!(found, expected, "step {step}, at {at}");
            }
        }
        if step % 150 == 149 {
            let (&last, _) = revisions.last_key_value().expect("one at least");
            oldest = last - 40;
            store.compact(oldest).await.expect("compact");
            assert!(store.range(RangeRequest::prefix("").at(oldest - 1)).await.expect_err("old").is_compacted());
        }
    }
    // Replaying the watch from the oldest revision gives each later one.
    let (&last, _) = revisions.last_key_value().expect("one at least");
    let mut stream = store.watch(WatchRequest::prefix("").from(oldest + 1)).await.expect("watch");
    let mut map = revisions[&oldest].clone();
    for at in oldest + 1..=last {
        let batch = next_events(&mut stream).await;
        assert_eq!(batch.revision, at, "every revision of the model changed something");
        for event in batch.events {
            let name = std::str::from_utf8(&event.kv.key).expect("text").to_owned();
            match event.kind {
                gantry_store::EventKind::Put => map.insert(name, event.kv),
                gantry_store::EventKind::Delete => map.remove(&name),
            };
        }
        assert_eq!(map, revisions[&at], "after revision {at}");
    }
}
