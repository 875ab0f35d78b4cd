//! Ranges, transactions, compaction, snapshots.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use gantry_store::snapshot::SnapshotDecoder;
use gantry_store::{
    Compare, CompareOp, CompareTarget, Op, OpResponse, RangeRequest, Select, Store, StoreError, Txn, TxnResponse,
};

use super::{delete, get, pairs, put, revision, txn};

type StoreRef = Arc<dyn Store>;

pub async fn starts_empty(store: StoreRef) {
    let status = store.status().await.expect("status");
    assert_eq!((status.revision, status.compact_revision), (1, 0));
    let answer = store.range(RangeRequest::prefix("")).await.expect("range");
    assert_eq!((answer.revision, answer.kvs.len(), answer.count, answer.more), (1, 0, 0, false));
    assert_eq!(put(&store, "a", "1").await, 2, "the first write has revision 2");
}

pub async fn versions_count_up(store: StoreRef) {
    let first = put(&store, "a", "1").await;
    put(&store, "b", "1").await;
    let second = put(&store, "a", "2").await;
    let kv = get(&store, "a").await.expect("a");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (first, second, 2));
    assert_eq!(kv.value, "2");
    assert_eq!(delete(&store, "a").await, second + 1, "a deletion is a revision");
    assert_eq!(get(&store, "a").await, None);
    let third = put(&store, "a", "").await;
    let kv = get(&store, "a").await.expect("a again");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (third, third, 1));
    assert_eq!(kv.value, "");
}

pub async fn ranges(store: StoreRef) {
    for key in ["/a/1", "/a/2", "/a/3", "/b/1", "/a", "/a0"] {
        put(&store, key, "v").await;
    }
    let current = revision(&store).await;
    for (request, keys, count, more) in [
        (RangeRequest::prefix("/a/"), "/a/1=v /a/2=v /a/3=v", 3, false),
        (RangeRequest::prefix("/a/").limit(2), "/a/1=v /a/2=v", 3, true),
        (RangeRequest::prefix("/a/").limit(3), "/a/1=v /a/2=v /a/3=v", 3, false),
        (RangeRequest::prefix("/a/").select(Select::KeysOnly), "/a/1= /a/2= /a/3=", 3, false),
        (RangeRequest::prefix("/a/").select(Select::CountOnly), "", 3, false),
        (RangeRequest::one("/a"), "/a=v", 1, false),
        (RangeRequest::one("/none"), "", 0, false),
        (RangeRequest::span("/a/2", "/b/"), "/a/2=v /a/3=v /a0=v", 3, false),
        (RangeRequest::span("/a/3", "\0"), "/a/3=v /a0=v /b/1=v", 3, false),
        (RangeRequest::span("/b", "/a"), "", 0, false),
        (RangeRequest::prefix(""), "/a=v /a/1=v /a/2=v /a/3=v /a0=v /b/1=v", 6, false),
    ] {
        let answer = store.range(request.clone()).await.expect("range");
        assert_eq!(pairs(&answer.kvs), keys, "{request:?}");
        assert_eq!((answer.count, answer.more, answer.revision), (count, more, current), "{request:?}");
    }
}

pub async fn past_revisions(store: StoreRef) {
    let r1 = put(&store, "a", "1").await;
    let r2 = put(&store, "b", "1").await;
    let r3 = put(&store, "a", "2").await;
    let r4 = delete(&store, "a").await;
    let r5 = put(&store, "a", "3").await;
    let r6 = delete(&store, "b").await;
    for (at, expected) in
        [(1, ""), (r1, "a=1"), (r2, "a=1 b=1"), (r3, "a=2 b=1"), (r4, "b=1"), (r5, "a=3 b=1"), (r6, "a=3")]
    {
        let answer = store.range(RangeRequest::prefix("").at(at)).await.expect("past range");
        assert_eq!(pairs(&answer.kvs), expected, "at {at}");
        assert_eq!(answer.revision, r6, "the answer says where the store is now");
        let limited = store.range(RangeRequest::prefix("").at(at).limit(1)).await.expect("past range");
        assert_eq!((limited.count, limited.more), (answer.count, answer.count > 1), "at {at}");
    }
    let kv = store.range(RangeRequest::one("a").at(r3)).await.expect("past range").kvs.remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (r1, r3, 2));
    let error = store.range(RangeRequest::one("a").at(r6 + 1)).await.expect_err("the future");
    assert!(matches!(error, StoreError::FutureRevision { .. }), "{error}");
    // Within a transaction, too.
    let read = Txn { success: vec![Op::put("c", "1"), Op::Range(RangeRequest::prefix("").at(r2))], ..Txn::default() };
    let answer = txn(&store, read).await;
    assert!(matches!(&answer.responses[1], OpResponse::Range(range) if pairs(&range.kvs) == "a=1 b=1"), "{answer:?}");
}

pub async fn compares(store: StoreRef) {
    let created = put(&store, "a", "1").await;
    let modified = put(&store, "a", "5").await;
    put(&store, "b", "5").await;
    let value = |text: &'static str| CompareTarget::Value(Bytes::from_static(text.as_bytes()));
    use CompareOp::{Equal, Greater, Less, NotEqual};
    use CompareTarget::{CreateRevision, ModRevision, Version};
    for (key, end, target, op, holds) in [
        ("a", "", Version(2), Equal, true),
        ("a", "", Version(2), NotEqual, false),
        ("a", "", Version(1), Greater, true),
        ("a", "", Version(3), Less, true),
        ("a", "", CreateRevision(created), Equal, true),
        ("a", "", CreateRevision(modified), Less, true),
        ("a", "", ModRevision(modified), Equal, true),
        ("a", "", ModRevision(created), Equal, false),
        ("a", "", value("5"), Equal, true),
        ("a", "", value("4"), Greater, true),
        ("a", "", value("6"), Less, true),
        ("a", "", value("5"), NotEqual, false),
        ("none", "", ModRevision(0), Equal, true),
        ("none", "", CreateRevision(0), Equal, true),
        ("none", "", Version(0), Equal, true),
        ("none", "", Version(0), Greater, false),
        ("none", "", value(""), Equal, false),
        ("none", "", value(""), NotEqual, false),
        ("a", "c", value("5"), Equal, true),
        ("a", "c", Version(2), Equal, false),
        ("a", "c", Version(0), Greater, true),
    ] {
        let compare = Compare {
            key: Bytes::from_static(key.as_bytes()),
            range_end: Bytes::from_static(end.as_bytes()),
            target,
            op,
        };
        let answer = txn(&store, Txn { compares: vec![compare.clone()], ..Txn::default() }).await;
        assert_eq!(answer.succeeded, holds, "{compare:?}");
    }
    // Several conditions: all must hold; the other branch answers with what is there.
    let both = |version| Txn {
        compares: vec![Compare::mod_revision("a", modified), Compare::mod_revision("b", version)],
        success: vec![Op::put("a", "6"), Op::put("b", "6")],
        failure: vec![Op::get("a")],
    };
    let refused = txn(&store, both(modified)).await;
    assert!(!refused.succeeded);
    assert!(matches!(&refused.responses[..], [OpResponse::Range(range)] if pairs(&range.kvs) == "a=5"), "{refused:?}");
    assert!(txn(&store, both(modified + 1)).await.succeeded);
    let created = txn(&store, Txn::create("a", "7")).await;
    assert!(!created.succeeded, "it exists");
    let updated = txn(&store, Txn::update("a", get(&store, "a").await.expect("a").mod_revision, "8")).await;
    assert!(updated.succeeded);
    assert!(!txn(&store, Txn::delete_at("a", updated.revision - 1)).await.succeeded);
    assert!(txn(&store, Txn::delete_at("a", updated.revision)).await.succeeded);
}

pub async fn operations_in_order(store: StoreRef) {
    put(&store, "a", "1").await;
    let before = revision(&store).await;
    let all = Txn {
        success: vec![
            Op::Range(RangeRequest::prefix("")),
            Op::Put { key: "a".into(), value: "2".into(), prev_kv: true },
            Op::put("b", "2"),
            Op::Range(RangeRequest::prefix("")),
            Op::Delete { key: "c".into(), range_end: "z".into(), prev_kv: true },
        ],
        ..Txn::default()
    };
    let answer = txn(&store, all).await;
    assert_eq!(answer.revision, before + 1, "one revision for all of it");
    let TxnResponse { responses, .. } = answer;
    assert!(matches!(&responses[0], OpResponse::Range(range) if pairs(&range.kvs) == "a=1"), "{responses:?}");
    assert!(
        matches!(&responses[1], OpResponse::Put { prev: Some(prev) } if prev.value == "1" && prev.version == 1),
        "{responses:?}"
    );
    assert!(matches!(&responses[2], OpResponse::Put { prev: None }), "{responses:?}");
    assert!(matches!(&responses[3], OpResponse::Range(range) if pairs(&range.kvs) == "a=2 b=2"), "{responses:?}");
    assert!(matches!(&responses[4], OpResponse::Delete { deleted: 0, .. }), "{responses:?}");
    let gone = Txn {
        success: vec![Op::Delete { key: "a".into(), range_end: "c".into(), prev_kv: true }, Op::get("a")],
        ..Txn::default()
    };
    let answer = txn(&store, gone).await;
    assert!(
        matches!(&answer.responses[0], OpResponse::Delete { deleted: 2, prevs } if pairs(prevs) == "a=2 b=2"),
        "{answer:?}"
    );
    assert!(matches!(&answer.responses[1], OpResponse::Range(range) if range.kvs.is_empty()), "{answer:?}");
    let silent = txn(&store, Txn::put("a", "3")).await;
    assert_eq!(silent.responses, [OpResponse::Put { prev: None }], "nobody asked");
}

pub async fn nothing_written_no_revision(store: StoreRef) {
    let before = put(&store, "a", "1").await;
    assert_eq!(delete(&store, "none").await, before);
    assert_eq!(txn(&store, Txn { success: vec![Op::get("a")], ..Txn::default() }).await.revision, before);
    assert_eq!(txn(&store, Txn::create("a", "2")).await.revision, before);
    assert_eq!(put(&store, "a", "1").await, before + 1, "the same value again is a write");
}

pub async fn bad_requests(store: StoreRef) {
    let before = revision(&store).await;
    for (what, bad) in [
        ("empty key", Txn::put("", "v")),
        ("empty key deleted", Txn::delete("")),
        ("written twice", Txn { success: vec![Op::put("a", "1"), Op::put("a", "2")], ..Txn::default() }),
        (
            "put and deleted",
            Txn {
                success: vec![Op::put("b", "1"), Op::Delete { key: "a".into(), range_end: "c".into(), prev_kv: false }],
                ..Txn::default()
            },
        ),
        (
            "written twice in the branch that isn't taken",
            Txn { failure: vec![Op::put("a", "1"), Op::put("a", "2")], ..Txn::default() },
        ),
    ] {
        let error = store.txn(bad).await.expect_err(what);
        assert!(matches!(error, StoreError::InvalidRequest(_)), "{what}: {error}");
    }
    let error = store.range(RangeRequest::one("")).await.expect_err("empty key");
    assert!(matches!(error, StoreError::InvalidRequest(_)), "{error}");
    let future = Txn { success: vec![Op::put("a", "1"), Op::Range(RangeRequest::one("a").at(100))], ..Txn::default() };
    let error = store.txn(future).await.expect_err("the future");
    assert!(matches!(error, StoreError::FutureRevision { .. }), "{error}");
    assert_eq!(revision(&store).await, before, "nothing was written");
    let both = Txn { success: vec![Op::put("a", "1")], failure: vec![Op::put("a", "2")], ..Txn::default() };
    assert!(txn(&store, both).await.succeeded, "once in each branch is fine");
}

pub async fn compaction(store: StoreRef) {
    put(&store, "a", "1").await;
    put(&store, "b", "1").await;
    let overwritten = put(&store, "a", "2").await;
    let deleted = delete(&store, "b").await;
    let last = put(&store, "c", "1").await;
    store.compact(deleted).await.expect("compact");
    for (at, expected) in [(deleted, "a=2"), (last, "a=2 c=1"), (0, "a=2 c=1")] {
        let answer = store.range(RangeRequest::prefix("").at(at)).await.expect("range");
        assert_eq!(pairs(&answer.kvs), expected, "at {at}");
    }
    let error = store.range(RangeRequest::prefix("").at(overwritten)).await.expect_err("forgotten");
    assert!(error.is_compacted(), "{error}");
    let read = Txn { success: vec![Op::Range(RangeRequest::one("a").at(overwritten))], ..Txn::default() };
    assert!(store.txn(read).await.expect_err("forgotten").is_compacted());
    for again in [deleted, overwritten] {
        assert!(store.compact(again).await.expect_err("done already").is_compacted());
    }
    let error = store.compact(last + 1).await.expect_err("the future");
    assert!(matches!(error, StoreError::FutureRevision { .. }), "{error}");
    let kv = get(&store, "a").await.expect("a");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, overwritten, 2));
    store.compact(last).await.expect("compact to the present");
    assert_eq!(revision(&store).await, last, "compaction is no revision");
    assert_eq!(put(&store, "b", "9").await, last + 1);
}

pub async fn snapshot_is_whole(store: StoreRef) {
    for number in 0..50 {
        put(&store, &format!("k{number:03}"), &"x".repeat(number * 100)).await;
    }
    put(&store, "k000", "again").await;
    delete(&store, "k001").await;
    let at = revision(&store).await;
    let mut stream = store.snapshot().await.expect("snapshot");
    put(&store, "later", "not in it").await;
    let mut decoder = SnapshotDecoder::new();
    let mut kvs = Vec::new();
    while let Some(chunk) = stream.try_next().await.expect("chunk") {
        kvs.extend(decoder.push(&chunk).expect("piece"));
    }
    assert_eq!(decoder.finish().expect("whole"), at);
    let expected = store.range(RangeRequest::prefix("").at(at)).await.expect("range").kvs;
    assert_eq!(kvs, expected);
}
