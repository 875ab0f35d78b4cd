//! A cluster's components in one process: clients whose requests are service calls, over a server that also listens.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use gantry_apiserver::{RunOptions, Running, UserInfo};
use gantry_client::Client;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use tempfile::TempDir;

/// How long a test waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster {
    running: Running,
    dir: TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let running = Self::run(&dir).await;
        Self { running, dir }
    }

    async fn run(dir: &TempDir) -> Running {
        let options = RunOptions::new(dir.path().join("data"), ([127, 0, 0, 1], 0).into());
        Running::start(options).await.expect("a server")
    }

    async fn restart(self) -> Self {
        self.running.stop().await.expect("a clean stop");
        let running = Self::run(&self.dir).await;
        Self { running, dir: self.dir }
    }

    fn client(&self, user: &str, groups: &[&str]) -> Client {
        gantry_client::in_process(self.running.in_process(UserInfo::new(user, groups.iter().copied())))
    }

    fn admin(&self) -> Client {
        self.client("admin", &["system:masters", "system:authenticated"])
    }
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([("k".to_owned(), value.to_owned())])),
        ..ConfigMap::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_reads_and_writes() {
    let cluster = Cluster::start().await;
    let api: Api<ConfigMap> = Api::namespaced(cluster.admin(), "default");
    let created = api.create(&PostParams::default(), &config_map("a", "1")).await.expect("create");
    assert!(created.metadata.resource_version.is_some());
    let patch = serde_json::json!({"data": {"k": "2"}});
    let patched = api.patch("a", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("patch");
    assert_ne!(patched.metadata.resource_version, created.metadata.resource_version);
    let conflict = api.replace("a", &PostParams::default(), &created).await.expect_err("a stale version");
    assert!(matches!(&conflict, kube::Error::Api(status) if status.code == 409), "{conflict}");
    for name in ["b", "c", "d"] {
        api.create(&PostParams::default(), &config_map(name, "1")).await.expect("create");
    }
    let mut names = Vec::new();
    let mut params = ListParams::default().limit(2);
    loop {
        let page = api.list(&params).await.expect("list");
        names.extend(page.items.into_iter().filter_map(|item| item.metadata.name));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(names, ["a", "b", "c", "d"]);
    api.delete("a", &DeleteParams::default()).await.expect("delete");
    assert!(api.get_opt("a").await.expect("get").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permissions_are_the_users() {
    let cluster = Cluster::start().await;
    let api: Api<ConfigMap> = Api::namespaced(cluster.client("nobody", &["system:authenticated"]), "default");
    let error = api.list(&ListParams::default()).await.expect_err("no role says so");
    let expected = r#"configmaps is forbidden: User "nobody" cannot list resource "configmaps" in API group "" in the namespace "default""#;
    assert!(matches!(&error, kube::Error::Api(status) if status.code == 403 && status.message == expected), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_sees_what_happens() {
    let cluster = Cluster::start().await;
    let api: Api<ConfigMap> = Api::namespaced(cluster.admin(), "default");
    api.create(&PostParams::default(), &config_map("before", "1")).await.expect("create");
    let mut events = watcher(api.clone(), watcher::Config::default()).applied_objects().boxed();
    let mut next = async || {
        let event = tokio::time::timeout(PATIENCE, events.try_next()).await.expect("an event in time");
        event.expect("no error").expect("the stream goes on").metadata.name.expect("a name")
    };
    assert_eq!(next().await, "before");
    api.create(&PostParams::default(), &config_map("after", "1")).await.expect("create");
    assert_eq!(next().await, "after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_informer_keeps_a_view() {
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    api.create(&PostParams::default(), &config_map("before", "1")).await.expect("create");
    let informer = gantry_client::Informers::new(client).get::<ConfigMap>();
    tokio::time::timeout(PATIENCE, informer.synced()).await.expect("synced in time");
    assert!(informer.get("default", "before").is_some());
    let mut changes = informer.subscribe();
    let mut next = async || {
        let change = tokio::time::timeout(PATIENCE, changes.next()).await.expect("a change in time");
        let sign = if matches!(change, gantry_client::Change::Applied { .. }) { '+' } else { '-' };
        let meta = &change.object().metadata;
        format!("{sign}{}/{}", meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    };
    // What is there comes first, in no order; a change that isn't read yet would be merged with the next one.
    while next().await != "+default/before" {}
    api.create(&PostParams::default(), &config_map("after", "1")).await.expect("create");
    while next().await != "+default/after" {}
    api.delete("before", &DeleteParams::default()).await.expect("delete");
    while next().await != "-default/before" {}
    assert!(informer.get("default", "before").is_none() && informer.get("default", "after").is_some());
}

/// What a watch missed while the server was down comes from the store's history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_behind_a_restart() {
    let cluster = Cluster::start().await;
    let api: Api<ConfigMap> = Api::namespaced(cluster.admin(), "default");
    let first = api.create(&PostParams::default(), &config_map("a", "1")).await.expect("create");
    api.create(&PostParams::default(), &config_map("b", "1")).await.expect("create");
    api.delete("a", &DeleteParams::default()).await.expect("delete");
    let cluster = cluster.restart().await;
    let api: Api<ConfigMap> = Api::namespaced(cluster.admin(), "default");
    let version = first.metadata.resource_version.expect("a version");
    let mut events = api.watch(&WatchParams::default(), &version).await.expect("watch").boxed();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let event = tokio::time::timeout(PATIENCE, events.try_next()).await.expect("an event in time");
        seen.push(match event.expect("no error").expect("the stream goes on") {
            WatchEvent::Added(object) => format!("+{}", object.metadata.name.unwrap_or_default()),
            WatchEvent::Deleted(object) => format!("-{}", object.metadata.name.unwrap_or_default()),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(seen, ["+b", "-a"]);
    cluster.running.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_and_a_port_have_one_server() {
    let cluster = Cluster::start().await;
    let options = RunOptions::new(cluster.dir.path().join("data"), ([127, 0, 0, 1], 0).into());
    let error = Running::start(options).await.err().expect("the folder is in use").to_string();
    assert!(error.contains(&format!("is in use by process {}", std::process::id())), "{error}");
    let options = RunOptions::new(cluster.dir.path().join("other"), cluster.running.address());
    let error = Running::start(options).await.err().expect("the port is in use").to_string();
    assert!(error.contains(&format!("is in use by process {}", std::process::id())), "{error}");
}
