//! What a policy costs a pod: one call with 5,000 candidates, and the change that the pod before it made.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use gantry_plugin_host::{
    HostOptions, PluginHost,
    contract::scheduler::{Amount, Amounts, Node, NodeChanges, Pod, Request},
};

const NODES: u32 = 5_000;

fn bin_pack(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let host = PluginHost::open(HostOptions { directory: folder.path().to_owned(), ..HostOptions::default() }).unwrap();
    let policy = host.policy("bin-pack", "").unwrap();
    let column = |resource, amount, value| Amounts {
        resource,
        amount,
        rows: (0..NODES).collect(),
        values: vec![value; NODES as usize],
    };
    let node =
        |row| Arc::new(Node { row, name: 0, zone: 0, region: 0, unschedulable: false, labels: vec![], taints: vec![] });
    policy.update_nodes(NodeChanges {
        strings: vec!["cpu".into(), "memory".into()],
        removed: vec![],
        nodes: (0..NODES).map(node).collect(),
        amounts: vec![column(1, Amount::Allocatable, 64_000), column(2, Amount::Allocatable, 256 << 30)],
    });
    let requests = [Request { resource: 1, value: 100 }, Request { resource: 2, value: 1 << 28 }];
    let pod = Pod {
        namespace: "default",
        name: "p",
        uid: "u",
        priority: 0,
        requests: &requests,
        labels: &[],
        wishes: &[],
        owner: "",
    };
    let candidates: Vec<u32> = (0..NODES).collect();
    let (mut scores, mut pods) = (Vec::new(), 0);
    criterion.bench_function("policy/bin-pack/5000 candidates and a change", |bencher| {
        bencher.iter(|| {
            pods += 1;
            let placed = |resource, value| Amounts {
                resource,
                amount: Amount::Requested,
                rows: vec![pods % NODES],
                values: vec![value],
            };
            let amounts = vec![placed(1, i64::from(pods % 64_000)), placed(2, 1 << 28)];
            policy.update_nodes(NodeChanges { amounts, ..NodeChanges::default() });
            policy.filter_and_score(&pod, black_box(&candidates), &mut scores).unwrap();
            black_box(&scores);
        });
    });
}

criterion_group!(benches, bin_pack);
criterion_main!(benches);
