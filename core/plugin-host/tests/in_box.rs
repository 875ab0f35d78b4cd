//! The plugins in the box, as components, behind the traits that the cluster calls.

mod fakes;

use std::sync::Arc;

use fakes::Fakes;
use gantry_plugin_host::{
    Capability, ErrorCode, Grant, HostOptions, Kind, PluginError, PluginHost, PluginOptions, Source,
    contract::{
        runtime::{ContainerState, ExecPlan, ExecRequest, SandboxState},
        scheduler::{Amount, Amounts, Node, NodeChanges, Pod, Request},
        volume::{AccessMode, CreateRequest, PublishRequest, VolumeMode},
    },
};

fn host(folder: &tempfile::TempDir) -> Arc<PluginHost> {
    PluginHost::open(HostOptions { directory: folder.path().to_owned(), ..HostOptions::default() }).unwrap()
}

#[test]
fn they_are_listed_with_what_they_may_do() {
    let folder = tempfile::tempdir().unwrap();
    let listed = host(&folder).list();
    let shown: Vec<_> = listed.iter().map(|plugin| (plugin.name.as_str(), plugin.kind)).collect();
    assert_eq!(shown, [("bin-pack", Kind::Scheduler), ("local-path", Kind::Volume), ("oci", Kind::Runtime)]);
    for plugin in &listed {
        assert_eq!((&plugin.source, &plugin.asks_for), (&Source::InBox, &plugin.granted));
        assert!(plugin.digest.starts_with("sha256:"));
    }
    assert!(matches!(host(&folder).policy("oci", ""), Err(PluginError::Manifest { .. })));
}

fn nodes() -> NodeChanges {
    let node =
        |row| Arc::new(Node { row, name: 0, zone: 0, region: 0, unschedulable: false, labels: vec![], taints: vec![] });
    let cpu = |amount, values: Vec<i64>| Amounts { resource: 1, amount, rows: vec![0, 1], values };
    NodeChanges {
        strings: vec!["cpu".into()],
        removed: vec![],
        nodes: vec![node(0), node(1)],
        amounts: vec![cpu(Amount::Allocatable, vec![1000, 1000]), cpu(Amount::Requested, vec![500, 0])],
    }
}

fn pod(requests: &[Request]) -> Pod<'_> {
    Pod { namespace: "d", name: "p", uid: "u", priority: 0, requests, labels: &[], wishes: &[], owner: "" }
}

#[test]
fn bin_pack_prefers_the_fuller_node() {
    let folder = tempfile::tempdir().unwrap();
    let policy = host(&folder).policy("bin-pack", "").unwrap();
    policy.update_nodes(nodes());
    let mut scores = Vec::new();
    policy.filter_and_score(&pod(&[Request { resource: 1, value: 100 }]), &[1, 0], &mut scores).unwrap();
    assert_eq!(scores, [1000, 6000]);
    let wrong = host(&folder).policy("bin-pack", "{\"resources\":{\"cpu\":-1}}").err().unwrap();
    assert!(matches!(&wrong, PluginError::Settings { reason, .. } if reason.contains("at least 0")), "{wrong}");
    let refused = host(&folder).policy("bin-pack", "{\"resources\":{\"cpu\":0}}").err().unwrap();
    assert!(matches!(&refused, PluginError::Settings { reason, .. } if reason.contains("weight above 0")), "{refused}");
}

#[tokio::test]
async fn oci_runs_a_pod() {
    let folder = tempfile::tempdir().unwrap();
    let fakes = Arc::new(Fakes::default());
    let runtime = host(&folder).runtime("oci", "", fakes::facts(), fakes.clone()).await.unwrap();
    runtime.run_sandbox("s1", &fakes::sandbox()).await.unwrap();
    assert_eq!(runtime.inspect_sandbox("s1").await.unwrap().state, SandboxState::Ready);
    runtime.create_container("s1", "c1", &fakes::container()).await.unwrap();
    assert_eq!(runtime.inspect_container("c1").await.unwrap().state, ContainerState::Created);
    runtime.start_container("c1").await.unwrap();
    let listed = runtime.list_containers().await.unwrap();
    assert_eq!((listed.len(), listed[0].name.as_str(), listed[0].state), (1, "web", ContainerState::Running));

    let config: serde_json::Value = serde_json::from_str(&fakes.config("c1")).unwrap();
    assert_eq!(config["linux"]["cgroupsPath"], "kubepods/pod1/c1");
    assert_eq!(config["process"]["args"], serde_json::json!(["/bin/web", "--port", "80"]));
    assert_eq!(config["process"]["user"], serde_json::json!({ "uid": 33, "gid": 34, "additionalGids": [34, 40] }));

    let request = ExecRequest { command: vec!["sh".into()], tty: true };
    let ExecPlan::OciProcess(process) = runtime.exec_spec("c1", &request).await.unwrap();
    let process: serde_json::Value = serde_json::from_str(&process).unwrap();
    assert_eq!((&process["args"][0], &process["user"]["uid"]), (&"sh".into(), &33.into()));

    runtime.stop_container("c1", 1_000).await.unwrap();
    let stopped = runtime.inspect_container("c1").await.unwrap();
    assert_eq!((stopped.state, stopped.exit_code, stopped.reason.as_str()), (ContainerState::Exited, 143, "Error"));
    runtime.stop_sandbox("s1").await.unwrap();
    assert_eq!(runtime.inspect_sandbox("s1").await.unwrap().state, SandboxState::NotReady);
    runtime.remove_sandbox("s1").await.unwrap();
    assert_eq!(runtime.inspect_sandbox("s1").await.unwrap_err().code(), ErrorCode::NotFound);
    assert!(runtime.list_containers().await.unwrap().is_empty());
    runtime.remove_sandbox("s1").await.unwrap();
    runtime.stop_container("c1", 0).await.unwrap();
}

#[tokio::test]
async fn local_path_serves_a_claim_on_its_node() {
    let folder = tempfile::tempdir().unwrap();
    let fakes = Arc::new(Fakes::default());
    let driver = host(&folder).volume_driver("local-path", "", "n1", fakes.clone()).await.unwrap();
    assert!(driver.features().await.unwrap().expand);
    let mut request = CreateRequest {
        name: "pvc-1".into(),
        required_bytes: 1024,
        limit_bytes: 0,
        access_modes: vec![AccessMode::ReadWriteOnce],
        mode: VolumeMode::Filesystem,
        parameters: vec![],
        source: None,
        claim_namespace: "default".into(),
        claim_name: "data".into(),
        node: "n1".into(),
    };
    let volume = driver.create(&request).await.unwrap();
    assert_eq!((volume.id.as_str(), volume.nodes.as_slice()), ("n1/pvc-1", ["n1".to_owned()].as_slice()));
    assert_eq!(driver.create(&request).await.unwrap(), volume);
    let target = folder.path().join("pods/mount").display().to_string();
    let publish = PublishRequest {
        volume_id: volume.id.clone(),
        target_path: target.clone(),
        read_only: false,
        mode: VolumeMode::Filesystem,
        mount_options: vec![],
        context: vec![],
        pod_namespace: "default".into(),
        pod_name: "p".into(),
        pod_uid: "u".into(),
        group: None,
    };
    driver.publish(&publish).await.unwrap();
    assert_eq!(fakes.mounted(), vec![target.clone()]);
    driver.unpublish(&volume.id, &target).await.unwrap();
    assert!(fakes.mounted().is_empty());
    driver.delete(&volume.id).await.unwrap();
    driver.delete(&volume.id).await.unwrap();
    request.node = "n2".into();
    assert_eq!(driver.create(&request).await.unwrap_err().code(), ErrorCode::Unavailable);
    request.access_modes = vec![AccessMode::ReadWriteMany];
    request.node = "n1".into();
    assert_eq!(driver.create(&request).await.unwrap_err().code(), ErrorCode::Unsupported);
}

#[tokio::test]
async fn what_is_not_granted_is_refused_at_load() {
    let folder = tempfile::tempdir().unwrap();
    let grant = Grant::of([Capability::Mounts]);
    let plugins = [("local-path".to_owned(), PluginOptions { grant: Some(grant), ..PluginOptions::default() })];
    let host = PluginHost::open(HostOptions { directory: folder.path().to_owned(), plugins: plugins.into() }).unwrap();
    let refused = host.volume_driver("local-path", "", "n1", Arc::new(Fakes::default())).await.err().unwrap();
    assert!(
        matches!(&refused, PluginError::NotGranted { import, .. } if import == "gantry:host/folder@0.1.0"),
        "{refused}"
    );
}
