//! Watches.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use gantry_store::{EventKind, Op, Store, StoreError, Txn, WatchRequest, WatchStream};

use super::{delete, get, next, next_events, put, revision, txn};

type StoreRef = Arc<dyn Store>;

async fn watch(store: &StoreRef, request: WatchRequest) -> WatchStream {
    store.watch(request).await.expect("watch")
}

pub async fn live(store: StoreRef) {
    put(&store, "/a/1", "before").await;
    let mut all = watch(&store, WatchRequest::prefix("/a/")).await;
    let mut one = watch(&store, WatchRequest::one("/a/2")).await;
    put(&store, "/b/1", "elsewhere").await;
    let created = put(&store, "/a/2", "1").await;
    let changed = put(&store, "/a/2", "2").await;
    let deleted = delete(&store, "/a/2").await;
    for stream in [&mut all, &mut one] {
        let batch = next_events(stream).await;
        assert_eq!((batch.revision, batch.events.len()), (created, 1));
        assert!(batch.events[0].is_create());
        assert_eq!(batch.events[0].prev_kv, None);
        let batch = next_events(stream).await;
        assert_eq!(batch.revision, changed);
        let kv = &batch.events[0].kv;
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (created, changed, 2));
        assert!(!batch.events[0].is_create());
        let batch = next_events(stream).await;
        let event = &batch.events[0];
        assert_eq!((batch.revision, event.kind), (deleted, EventKind::Delete));
        assert_eq!((event.kv.key.as_ref(), event.kv.mod_revision), (&b"/a/2"[..], deleted));
        assert!(event.kv.value.is_empty());
    }
}

pub async fn history_then_live(store: StoreRef) {
    let mut expected = Vec::new();
    for number in 0..2500 {
        expected.push(put(&store, &format!("/a/{}", number % 7), &number.to_string()).await);
    }
    let mut stream = watch(&store, WatchRequest::prefix("/a/").from(expected[10])).await;
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut more = Vec::new();
            for number in 0..200 {
                more.push(put(&store, &format!("/a/{}", number % 7), "live").await);
            }
            more
        })
    };
    let mut seen = Vec::new();
    while seen.len() < 2690 {
        seen.push(next_events(&mut stream).await.revision);
    }
    expected.extend(writer.await.expect("writer"));
    assert_eq!(seen, expected[10..], "all, in order, once");
}

pub async fn future_start(store: StoreRef) {
    let current = put(&store, "a", "1").await;
    let mut stream = watch(&store, WatchRequest::one("a").from(current + 3)).await;
    for value in ["2", "3", "4"] {
        put(&store, "a", value).await;
    }
    let batch = next_events(&mut stream).await;
    assert_eq!((batch.revision, batch.events[0].kv.value.as_ref()), (current + 3, &b"4"[..]));
}

pub async fn one_batch_per_revision(store: StoreRef) {
    let mut live = watch(&store, WatchRequest::prefix("")).await;
    put(&store, "old", "1").await;
    let ops = vec![Op::put("b", "1"), Op::put("a", "1"), Op::delete("old"), Op::put("c", "1")];
    let at = txn(&store, Txn { success: ops, ..Txn::default() }).await.revision;
    let mut past = watch(&store, WatchRequest::prefix("").from(at)).await;
    next_events(&mut live).await;
    for stream in [&mut live, &mut past] {
        let batch = next_events(stream).await;
        let changes: Vec<_> =
            batch.events.iter().map(|event| (event.kind, event.kv.key.escape_ascii().to_string())).collect();
        let expected = [
            (EventKind::Put, "b".to_owned()),
            (EventKind::Put, "a".to_owned()),
            (EventKind::Delete, "old".to_owned()),
            (EventKind::Put, "c".to_owned()),
        ];
        assert_eq!(changes, expected, "in the order of the transaction");
    }
}

pub async fn previous_values(store: StoreRef) {
    let first = put(&store, "a", "1").await;
    let mut live = watch(&store, WatchRequest::one("a").with_prev_kv()).await;
    put(&store, "a", "2").await;
    delete(&store, "a").await;
    let mut past = watch(&store, WatchRequest::one("a").from(first + 1).with_prev_kv()).await;
    for stream in [&mut live, &mut past] {
        for (value, version) in [("1", 1), ("2", 2)] {
            let batch = next_events(stream).await;
            let prev = batch.events[0].prev_kv.clone().expect("a previous value");
            assert_eq!((prev.value.as_ref(), prev.version), (value.as_bytes(), version));
        }
    }
}

pub async fn compacted_start(store: StoreRef) {
    let first = put(&store, "a", "1").await;
    put(&store, "a", "2").await;
    let deleted = delete(&store, "a").await;
    let last = put(&store, "a", "3").await;
    store.compact(deleted).await.expect("compact");
    let mut stream = watch(&store, WatchRequest::one("a").from(first)).await;
    let error = loop {
        match next(&mut stream).await {
            Ok(batch) => assert!(batch.events.is_empty(), "{batch:?}"),
            Err(error) => break error,
        }
    };
    assert!(error.is_compacted(), "{error}");
    assert!(stream.next().await.is_none(), "an error ends it");
    let mut stream = watch(&store, WatchRequest::one("a").from(last)).await;
    assert_eq!(next_events(&mut stream).await.revision, last);
}

pub async fn progress(store: StoreRef) {
    let first = put(&store, "a", "1").await;
    let mut stream = watch(&store, WatchRequest::one("a").from(first)).await;
    let elsewhere = put(&store, "b", "1").await;
    stream.progress().request();
    let mut seen = Vec::new();
    loop {
        let batch = next(&mut stream).await.expect("a batch");
        seen.push((batch.revision, batch.events.len()));
        if batch.events.is_empty() && batch.revision >= elsewhere {
            break;
        }
    }
    assert!(seen.contains(&(first, 1)), "{seen:?}: what happened comes first");
    let second = put(&store, "a", "2").await;
    assert_eq!(next_events(&mut stream).await.revision, second);
}

/// Many write one key by compare-and-swap: no update is lost, and a watch sees each.
pub async fn concurrent_counter(store: StoreRef) {
    const WRITERS: usize = 8;
    const INCREMENTS: usize = 25;
    put(&store, "counter", "0").await;
    let start = revision(&store).await;
    let mut stream = watch(&store, WatchRequest::one("counter")).await;
    let tasks: Vec<_> = (0..WRITERS)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..INCREMENTS {
                    loop {
                        let kv = get(&store, "counter").await.expect("the counter");
                        let value: usize = std::str::from_utf8(&kv.value).expect("text").parse().expect("a number");
                        let update = Txn::update("counter", kv.mod_revision, (value + 1).to_string());
                        if txn(&store, update).await.succeeded {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("writer");
    }
    let total = WRITERS * INCREMENTS;
    assert_eq!(get(&store, "counter").await.expect("the counter").value, total.to_string());
    let mut revisions = BTreeSet::new();
    for expected in 1..=total {
        let batch = next_events(&mut stream).await;
        assert_eq!(batch.events[0].kv.value, expected.to_string());
        revisions.insert(batch.revision);
    }
    assert_eq!(revisions.into_iter().collect::<Vec<_>>(), (start + 1..=start + total as i64).collect::<Vec<_>>());
    let error = store.watch(WatchRequest::one("")).await.err();
    assert!(matches!(error, Some(StoreError::InvalidRequest(_))), "{error:?}");
}
