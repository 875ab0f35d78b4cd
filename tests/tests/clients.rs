//! Client libraries, unmodified: they list in chunks, and their watches go on behind a restart of the server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use gantry_tests::ServerProcess;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use nix::sys::signal::Signal;

/// How long a test waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(60);
/// The version of the Python client that is tested.
const PYTHON_CLIENT: &str = "kubernetes==36.0.0";

async fn client(server: &ServerProcess) -> Client {
    // Another test of this process may have chosen it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(server.kubeconfig()).expect("the kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a config");
    Client::try_from(config).expect("a client")
}

fn config_map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([("k".to_owned(), "v".to_owned())])),
        ..ConfigMap::default()
    }
}

async fn names_in_chunks(api: &Api<ConfigMap>, limit: u32) -> Vec<String> {
    let mut params = ListParams::default().limit(limit);
    let mut names = Vec::new();
    loop {
        let page = api.list(&params).await.expect("a page");
        assert!(page.items.len() <= limit as usize);
        names.extend(page.items.into_iter().filter_map(|item| item.metadata.name));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return names,
        }
    }
}

/// What happened after a version, until so many events were seen.
async fn events_since(api: &Api<ConfigMap>, version: &str, count: usize) -> Vec<String> {
    let mut events = api.watch(&WatchParams::default(), version).await.expect("watch").boxed();
    let mut seen = Vec::new();
    while seen.len() < count {
        let event = tokio::time::timeout(PATIENCE, events.try_next()).await.expect("an event in time");
        let (sign, object) = match event.expect("no error").expect("the stream goes on") {
            WatchEvent::Added(object) => ('+', object),
            WatchEvent::Modified(object) => ('~', object),
            WatchEvent::Deleted(object) => ('-', object),
            other => panic!("{other:?}"),
        };
        seen.push(format!("{sign}{}", object.metadata.name.unwrap_or_default()));
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_rs_sees_the_same_behind_restarts() {
    let mut server = ServerProcess::start().expect("a server");
    let api: Api<ConfigMap> = Api::namespaced(client(&server).await, "default");
    let mut expected: Vec<String> = (0..25).map(|number| format!("c{number:02}")).collect();
    for name in &expected {
        api.create(&PostParams::default(), &config_map(name)).await.expect("create");
    }
    let version = api.get("c24").await.expect("get").metadata.resource_version.expect("a version");
    api.delete("c03", &DeleteParams::default()).await.expect("delete");
    api.create(&PostParams::default(), &config_map("d")).await.expect("create");
    expected.retain(|name| name != "c03");
    expected.push("d".to_owned());
    assert_eq!(names_in_chunks(&api, 7).await, expected);
    assert_eq!(events_since(&api, &version, 2).await, ["-c03", "+d"]);
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        server.restart(signal).expect("a restart");
        let api: Api<ConfigMap> = Api::namespaced(client(&server).await, "default");
        assert_eq!(names_in_chunks(&api, 7).await, expected, "after {signal}");
        assert_eq!(events_since(&api, &version, 2).await, ["-c03", "+d"], "after {signal}");
    }
}

/// A Python with the client, in a folder beside the tests that is kept from run to run.
fn python() -> PathBuf {
    let test = std::env::current_exe().expect("the test's executable");
    let venv = test.parent().expect("a folder").join("python-client");
    let python = venv.join("bin/python");
    let has_client = |python: &Path| {
        Command::new(python).args(["-c", "import kubernetes"]).status().is_ok_and(|status| status.success())
    };
    if !has_client(&python) {
        let made = Command::new("python3").args(["-m", "venv"]).arg(&venv).status().expect("python3 runs");
        assert!(made.success(), "python3 -m venv failed: install python3-venv");
        let installed =
            Command::new(&python).args(["-m", "pip", "install", "--quiet", PYTHON_CLIENT]).status().expect("pip runs");
        assert!(installed.success(), "pip could not install {PYTHON_CLIENT}: the first run needs a package index");
    }
    python
}

/// Makes what isn't there, lists in chunks, reads and patches, and watches what a version has not seen.
const SCRIPT: &str = r#"
import sys
from kubernetes import client, config, watch
config.load_kube_config(sys.argv[1])
v1, apps = client.CoreV1Api(), client.AppsV1Api()
if not v1.list_namespaced_config_map("default", field_selector="metadata.name=p00").items:
    first = None
    for number in range(12):
        made = v1.create_namespaced_config_map("default", client.V1ConfigMap(
            metadata=client.V1ObjectMeta(name="p%02d" % number, labels={"l": str(number % 2)}), data={"k": "v"}))
        first = first or made
    v1.patch_namespaced_config_map("p01", "default", {"data": {"k": "2"}})
    v1.delete_namespaced_config_map("p02", "default")
    labels = {"app": "a"}
    apps.create_namespaced_deployment("default", client.V1Deployment(
        metadata=client.V1ObjectMeta(name="d"),
        spec=client.V1DeploymentSpec(replicas=2, selector=client.V1LabelSelector(match_labels=labels),
            template=client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels=labels),
                spec=client.V1PodSpec(containers=[client.V1Container(name="c", image="i")])))))
names, token = [], None
while True:
    page = v1.list_namespaced_config_map("default", limit=5, _continue=token)
    assert len(page.items) <= 5
    names += [item.metadata.name for item in page.items]
    token = page.metadata._continue
    if not token:
        break
print("listed", *names)
print("odd", *[item.metadata.name for item in v1.list_namespaced_config_map("default", label_selector="l=1").items])
version = v1.read_namespaced_config_map("p00", "default").metadata.resource_version
seen, stream = [], watch.Watch()
for event in stream.stream(v1.list_namespaced_config_map, "default", resource_version=version, timeout_seconds=60):
    seen.append(event["type"] + " " + event["object"].metadata.name)
    if seen[-1] == "DELETED p02":
        stream.stop()
print("watched", *seen)
print("replicas", apps.read_namespaced_deployment("d", "default").spec.replicas)
try:
    v1.read_namespaced_secret("none", "default")
except client.ApiException as error:
    print("refused", error.status, error.reason)
"#;

#[test]
fn the_python_client_sees_the_same_behind_a_restart() {
    let python = python();
    let mut server = ServerProcess::start().expect("a server");
    let run = |server: &ServerProcess| {
        let output = Command::new(&python).args(["-c", SCRIPT]).arg(server.kubeconfig()).output().expect("python runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let first = run(&server);
    let added: Vec<String> = (1..12).map(|number| format!("ADDED p{number:02}")).collect();
    let expected = format!(
        "listed p00 p01 p03 p04 p05 p06 p07 p08 p09 p10 p11\nodd p01 p03 p05 p07 p09 p11\n\
         watched {} MODIFIED p01 DELETED p02\nreplicas 2\nrefused 404 Not Found\n",
        added.join(" ")
    );
    assert_eq!(first, expected);
    server.restart(Signal::SIGKILL).expect("a restart");
    assert_eq!(run(&server), expected, "after a kill");
}
