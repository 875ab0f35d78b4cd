//! A plugin that breaks the contract fails its call, never the process, and works again afterwards.

use std::sync::Arc;

use gantry_plugin_host::{
    Grant, HostOptions, Limits, PluginError, PluginHost, PluginOptions, Policy,
    contract::scheduler::{Node, NodeChanges, Pod},
};

const MANIFEST: &str = include_str!("../../../plugins/fixtures/misbehaving/plugin.toml");
const COMPONENT: &[u8] = include_bytes!(env!("GANTRY_MISBEHAVING_COMPONENT"));

fn host(folder: &tempfile::TempDir, limits: Limits) -> Arc<PluginHost> {
    let options = PluginOptions { grant: None, limits };
    let host = PluginHost::open(HostOptions {
        directory: folder.path().to_owned(),
        plugins: [("misbehaving".to_owned(), options)].into(),
    })
    .unwrap();
    host.install(MANIFEST, COMPONENT, Grant::default()).unwrap();
    host
}

fn ask(policy: &dyn Policy, name: &str) -> Result<Vec<i64>, PluginError> {
    let pod = Pod { namespace: "d", name, uid: "u", priority: 0, requests: &[], labels: &[], wishes: &[], owner: "" };
    let mut scores = vec![9];
    let outcome = policy.filter_and_score(&pod, &[0, 1], &mut scores);
    assert!(outcome.is_ok() || scores.is_empty());
    outcome.map(|()| scores)
}

fn tell(policy: &dyn Policy, rows: impl Iterator<Item = u32>) {
    let node =
        |row| Arc::new(Node { row, name: 0, zone: 0, region: 0, unschedulable: false, labels: vec![], taints: vec![] });
    policy.update_nodes(NodeChanges { nodes: rows.map(node).collect(), ..NodeChanges::default() });
}

#[test]
fn each_misdeed_fails_its_call_and_the_next_one_knows_all_nodes() {
    let folder = tempfile::tempdir().unwrap();
    // Time enough to reach the limit of memory on a busy machine; what loops gets there anyway.
    let limits = Limits { failures: 100, score_milliseconds: 3_000, ..Limits::default() };
    let policy = host(&folder, limits).policy("misbehaving", "").unwrap();
    tell(&*policy, 0..2);
    tell(&*policy, 2..3);
    for (misdeed, expect) in [
        ("trap", "PluginTrapped"),
        ("loop", "PluginTimedOut"),
        ("allocate", "PluginOutOfMemory"),
        ("recurse", "PluginTrapped"),
        ("short", "PluginBadAnswer"),
        ("long", "PluginBadAnswer"),
        ("high", "PluginBadAnswer"),
        ("low", "PluginBadAnswer"),
    ] {
        let error = ask(&*policy, misdeed).unwrap_err();
        assert_eq!(error.reason(), expect, "{misdeed}: {error}");
        assert_eq!(ask(&*policy, "well").unwrap(), [3, 3], "after {misdeed}");
    }
}

#[test]
fn init_is_watched_too() {
    let folder = tempfile::tempdir().unwrap();
    let host = host(&folder, Limits { update_milliseconds: 3_000, ..Limits::default() });
    for (how, expect) in [
        ("trap", "PluginTrapped"),
        ("loop", "PluginTimedOut"),
        ("allocate", "PluginOutOfMemory"),
        ("huge", "PluginBadAnswer"),
        ("refuse", "PluginSettingsInvalid"),
    ] {
        let error = host.policy("misbehaving", &format!("{{\"init\":\"{how}\"}}")).err().unwrap();
        assert_eq!(error.reason(), expect, "{how}: {error}");
    }
}

#[test]
fn after_failures_in_a_row_it_is_paused() {
    let folder = tempfile::tempdir().unwrap();
    let policy = host(&folder, Limits { failures: 3, ..Limits::default() }).policy("misbehaving", "").unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&*policy, "trap").unwrap_err().reason(), "PluginTrapped");
    }
    assert_eq!(ask(&*policy, "well").unwrap_err().reason(), "PluginPaused");
}

#[test]
fn a_plugin_is_replaced_while_it_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let host = host(&folder, Limits::default());
    let policy = host.policy("misbehaving", "").unwrap();
    tell(&*policy, 0..4);
    assert_eq!(ask(&*policy, "well").unwrap(), [4, 4]);
    let next = MANIFEST.replace("version = \"0.1.0\"", "version = \"0.2.0\"");
    host.install(&next, COMPONENT, Grant::default()).unwrap();
    assert!(host.list().iter().any(|plugin| plugin.name == "misbehaving" && plugin.version == "0.2.0"));
    assert_eq!(ask(&*policy, "well").unwrap(), [4, 4]);
    // Another process finds it on the disk.
    let other =
        PluginHost::open(HostOptions { directory: folder.path().to_owned(), ..HostOptions::default() }).unwrap();
    assert!(other.list().iter().any(|plugin| plugin.version == "0.2.0"));
    assert!(host.remove("misbehaving").unwrap());
    assert!(!host.list().iter().any(|plugin| plugin.name == "misbehaving"));
}
