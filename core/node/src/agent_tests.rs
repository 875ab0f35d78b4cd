//! The agent as a whole against stand-ins: what people and clients see of pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_client::EventRecorder;
use gantry_plugin_host::{Runtime, VolumeDriver};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::fakes::{FakeCluster, FakeDriver, FakeImages, FakeNetwork, FakeRuntime};
use crate::view::AgentView;
use crate::{AgentConfig, AgentParts, NodeAgent};

struct Lab {
    cluster: FakeCluster,
    runtime: FakeRuntime,
    network: Arc<FakeNetwork>,
    driver: Arc<FakeDriver>,
    folder: tempfile::TempDir,
}

struct Running {
    view: Arc<dyn AgentView>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Running {
    async fn kill(self) {
        self.stop.cancel();
        self.task.await.expect("the agent ends");
    }
}

impl Lab {
    fn new() -> Self {
        Self {
            cluster: FakeCluster::default(),
            runtime: FakeRuntime::default(),
            network: Arc::default(),
            driver: Arc::default(),
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn start(&self) -> Running {
        let mut config = AgentConfig::new("n1", self.folder.path());
        config.addresses = vec!["192.0.2.2".parse().expect("an address")];
        config.manage_cgroups = false;
        config.container_log_dir = Some(self.folder.path().join("containers"));
        config.static_pod_dir = Some(self.folder.path().join("manifests"));
        // The machine of the tests may be short of anything.
        config.eviction.node_fs_available_percent = 0;
        config.eviction.node_fs_inodes_free_percent = 0;
        config.eviction.memory_available_bytes = 0;
        let client = self.cluster.client();
        let driver: Arc<dyn VolumeDriver> = self.driver.clone();
        let runtime: Arc<dyn Runtime> = Arc::new(self.runtime.clone());
        let parts = AgentParts {
            recorder: EventRecorder::new(client.clone(), "kubelet", "n1"),
            storage_client: client.clone(),
            client,
            images: Arc::new(FakeImages::default()),
            io: Arc::new(self.runtime.clone()),
            rootfs: None,
            network: self.network.clone(),
            runtimes: BTreeMap::from([("oci".to_owned(), runtime)]),
            volume_drivers: BTreeMap::from([("folders".to_owned(), driver)]),
        };
        let agent = NodeAgent::new(config, parts).expect("an agent");
        let stop = CancellationToken::new();
        let view = agent.view();
        let task = AbortOnDropHandle::new(tokio::spawn(agent.run(stop.clone())));
        Running { view, stop, task }
    }

    fn pod(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        let metadata = json!({"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "generation": 1});
        let scheduled = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let status = json!({"phase": "Pending", "qosClass": "BestEffort", "conditions": [scheduled]});
        self.cluster
            .put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}));
    }
}

/// Waits until something holds that nobody tells of.
async fn until(check: impl Fn() -> bool) {
    let wait = async {
        while !check() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.expect("it happens");
}

fn one(extra: Value) -> Value {
    let mut container = json!({"name": "c", "image": "busybox:1", "imagePullPolicy": "IfNotPresent"});
    container.as_object_mut().expect("a map").extend(extra.as_object().expect("a map").clone());
    json!({"containers": [container]})
}

fn condition(pod: &Value, name: &str) -> String {
    let all = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|condition| condition["type"] == name);
    found.and_then(|condition| condition["status"].as_str()).unwrap_or_default().to_owned()
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready") == "True"
}

fn waits_for(pod: &Value, reason: &str) -> bool {
    pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == reason
}

/// The status without what differs from run to run.
fn masked(status: &Value) -> Value {
    match status {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| {
                let masked = match key.as_str() {
                    "startedAt" | "finishedAt" | "startTime" | "lastTransitionTime" => json!("<time>"),
                    "containerID" => json!("oci://<id>"),
                    _ => masked(value),
                };
                (key.clone(), masked)
            })
            .collect(),
        Value::Array(list) => list.iter().map(masked).collect(),
        other => other.clone(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_pod_runs_and_is_told_of_as_upstream_does() {
    let lab = Lab::new();
    let agent = lab.start();
    lab.pod("p", one(json!({})));
    let pod = lab.cluster.wait_pod("p", "a ready pod", is_ready).await;
    let holds = |name: &str| json!({"type": name, "status": "True", "observedGeneration": 1, "lastProbeTime": null, "lastTransitionTime": "<time>"});
    let mut expected = json!({
        "conditions": [
            holds("PodReadyToStartContainers"), holds("Initialized"), holds("Ready"), holds("ContainersReady"),
            // As the scheduler's binding left it, the generation aside.
            {"type": "PodScheduled", "status": "True", "observedGeneration": 1, "lastTransitionTime": "<time>"},
        ],
        "containerStatuses": [{
            "containerID": "oci://<id>", "image": "busybox:1", "imageID": format!("sha256:{}", "1".repeat(64)),
            "lastState": {}, "name": "c", "ready": true, "resources": {}, "restartCount": 0, "started": true,
            "state": {"running": {"startedAt": "<time>"}},
        }],
        "hostIP": "192.0.2.2", "hostIPs": [{"ip": "192.0.2.2"}], "observedGeneration": 1, "phase": "Running",
        "podIP": "10.1.0.2", "podIPs": [{"ip": "10.1.0.2"}], "qosClass": "BestEffort", "resources": {},
        "startTime": "<time>",
    });
    let mut found = masked(&pod["status"]);
    for status in [&mut expected, &mut found] {
        // The server writes an unset time as null, or not at all.
        for condition in status["conditions"].as_array_mut().expect("a list") {
            condition.as_object_mut().expect("a map").remove("lastProbeTime");
        }
    }
    assert_eq!(found, expected);
    assert_eq!(lab.cluster.status_patches("p").len(), 1, "one write");
    let events = lab.cluster.wait("events", |c| Some(c.events("p")).filter(|events| events.len() >= 3)).await;
    assert_eq!(
        events,
        [
            "Normal Pulled Container image \"busybox:1\" already present on machine and can be accessed by the pod",
            "Normal Created Container created",
            "Normal Started Container started",
        ]
    );
    assert_eq!(agent.view.pods().len(), 1);
    let container = agent.view.container("ns", "p", "c", false).expect("a container");
    let log = container.log_path.expect("a log");
    assert!(log.ends_with("ns_p_uid-p/c/0.log"));
    let link = lab.folder.path().join(format!("containers/p_ns_c-{}.log", container.container_id));
    assert_eq!(std::fs::read_link(link).expect("a link"), log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pod_is_stopped_in_its_time_and_removed() {
    let lab = Lab::new();
    let _agent = lab.start();
    let mut spec = one(json!({"lifecycle": {"preStop": {"exec": {"command": ["bye"]}}}}));
    spec["terminationGracePeriodSeconds"] = json!(7);
    lab.runtime.script("bye", 0, "");
    lab.pod("p", spec);
    lab.cluster.wait_pod("p", "a ready pod", is_ready).await;
    lab.cluster.delete_pod("ns", "p", None);
    lab.cluster.wait("the end", |cluster| cluster.get("pods", "ns", "p").is_none().then_some(())).await;
    let calls = lab.runtime.calls();
    let tail: Vec<&str> = calls.iter().skip_while(|call| !call.starts_with("exec")).map(String::as_str).collect();
    assert_eq!(tail, ["exec bye", "stop c 7", "stop-sandbox"]);
    let killing = "Normal Killing Stopping container c";
    lab.cluster.wait("an event", |c| c.events("p").iter().any(|event| event == killing).then_some(())).await;
    // The last of it goes after the object does.
    until(|| lab.runtime.counts() == (0, 0) && !lab.folder.path().join("pods/uid-p").exists()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_crashes_is_restarted_and_then_waits() {
    let lab = Lab::new();
    let _agent = lab.start();
    lab.pod("p", one(json!({})));
    lab.cluster.wait_pod("p", "a ready pod", is_ready).await;
    lab.runtime.exit("c", 3);
    let restarted = |pod: &Value| is_ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1;
    let pod = lab.cluster.wait_pod("p", "a restart", restarted).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 3);
    lab.runtime.exit("c", 4);
    let pod = lab.cluster.wait_pod("p", "a back-off", |pod| waits_for(pod, "CrashLoopBackOff")).await;
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["state"]["waiting"]["message"], "back-off 10s restarting failed container=c pod=p_ns(uid-p)");
    assert_eq!((&status["restartCount"], &status["lastState"]["terminated"]["exitCode"]), (&json!(1), &json!(4)));
    assert_eq!((pod["status"]["phase"].as_str(), condition(&pod, "Ready").as_str()), (Some("Running"), "False"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_end_by_themselves() {
    let lab = Lab::new();
    let _agent = lab.start();
    for (name, code, phase, reason) in [("good", 0, "Succeeded", "PodCompleted"), ("bad", 4, "Failed", "PodFailed")] {
        let mut spec = one(json!({}));
        spec["restartPolicy"] = json!("Never");
        lab.pod(name, spec);
        lab.cluster.wait_pod(name, "a ready pod", is_ready).await;
        lab.runtime.exit("c", code);
        let pod = lab.cluster.wait_pod(name, "the end", |pod| pod["status"]["phase"] == phase).await;
        let ready =
            pod["status"]["conditions"].as_array().and_then(|all| all.iter().find(|c| c["type"] == "Ready").cloned());
        assert_eq!(ready.map(|ready| ready["reason"].clone()), Some(json!(reason)));
        assert_eq!(condition(&pod, "PodReadyToStartContainers"), "False");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_containers_then_sidecars_then_the_app_and_back() {
    let lab = Lab::new();
    let _agent = lab.start();
    let container = |name: &str| json!({"name": name, "image": "busybox:1", "imagePullPolicy": "IfNotPresent"});
    let mut side = container("side");
    side["restartPolicy"] = json!("Always");
    lab.pod(
        "p",
        json!({
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "initContainers": [container("i"), side], "containers": [container("c")],
        }),
    );
    let initializing = |pod: &Value| pod["status"]["initContainerStatuses"][0]["state"]["running"].is_object();
    let pod = lab.cluster.wait_pod("p", "the init container", initializing).await;
    assert!(waits_for(&pod, "PodInitializing"));
    assert_eq!((pod["status"]["phase"].as_str(), condition(&pod, "Initialized").as_str()), (Some("Pending"), "False"));
    lab.runtime.exit("i", 0);
    lab.cluster.wait_pod("p", "a ready pod", is_ready).await;
    lab.runtime.exit("c", 0);
    let pod = lab.cluster.wait_pod("p", "the end", |pod| pod["status"]["phase"] == "Succeeded").await;
    assert_eq!(pod["status"]["initContainerStatuses"][1]["state"]["terminated"]["exitCode"], 143);
    let starts: Vec<String> = lab.runtime.calls().into_iter().filter(|call| call.starts_with("create")).collect();
    assert_eq!(starts, ["create i 0", "create side 0", "create c 0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_agent_takes_over_what_the_old_one_ran() {
    let lab = Lab::new();
    let agent = lab.start();
    lab.pod("p", one(json!({})));
    lab.pod("gone", one(json!({})));
    lab.cluster.wait_pod("p", "a ready pod", is_ready).await;
    lab.cluster.wait_pod("gone", "a ready pod", is_ready).await;
    lab.runtime.exit("c", 1);
    let restarted = |pod: &Value| is_ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1;
    let both = |cluster: &FakeCluster| {
        ["p", "gone"].into_iter().find(|name| cluster.get("pods", "ns", name).is_some_and(|pod| restarted(&pod)))
    };
    let crashed = lab.cluster.wait("a restart", both).await;
    agent.kill().await;
    let before = lab.runtime.calls().len();
    let other = if crashed == "p" { "gone" } else { "p" };
    lab.cluster.delete_pod("ns", other, Some(0));
    let agent = lab.start();
    until(|| agent.view.container("ns", crashed, "c", false).is_ok()).await;
    until(|| lab.runtime.counts() == (1, 2)).await;
    let calls = lab.runtime.calls();
    assert!(!calls[before..].iter().any(|call| call.starts_with("create")), "{calls:?}");
    lab.runtime.exit("c", 1);
    let pod = lab
        .cluster
        .wait_pod(crashed, "the next restart", |pod| pod["status"]["containerStatuses"][0]["restartCount"] == 2)
        .await;
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_waits_for_its_config_map_and_follows_it() {
    let lab = Lab::new();
    let _agent = lab.start();
    let mut spec = one(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    spec["volumes"] = json!([{"name": "v", "configMap": {"name": "m"}}]);
    lab.pod("p", spec);
    let missing = "Warning FailedMount MountVolume.SetUp failed for volume \"v\" : configmap \"m\" not found";
    lab.cluster.wait("an event", |c| c.events("p").iter().any(|event| event == missing).then_some(())).await;
    let map = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "ns"}, "data": {"k": value}});
    lab.cluster.put(map("1"));
    lab.cluster.wait_pod("p", "a ready pod", is_ready).await;
    let file = lab.folder.path().join("pods/uid-p/volumes/kubernetes.io~configmap/v/k");
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), "1");
    lab.cluster.put(map("2"));
    until(|| std::fs::read_to_string(&file).expect("a file") == "2").await;
    let mounts = lab.runtime.config("c").expect("a container").mounts;
    assert!(mounts.iter().any(|mount| mount.container_path == "/v" && mount.read_only), "{mounts:?}");
    assert!(mounts.iter().any(|mount| mount.container_path == "/etc/resolv.conf"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_a_container_from_starting_is_said() {
    let lab = Lab::new();
    let _agent = lab.start();
    let image = |name: &str, policy: &str| json!({"image": name, "imagePullPolicy": policy});
    lab.runtime.fail_start("c", "no such program");
    let cases = [
        (
            "never",
            image("missing/a:1", "Never"),
            "ErrImageNeverPull",
            "Container image \"missing/a:1\" is not present with pull policy of Never",
        ),
        (
            "pull",
            image("missing/a:1", "IfNotPresent"),
            "ErrImagePull",
            "failed to pull and unpack image \"missing/a:1\": not found",
        ),
        (
            "name",
            image("bad name", "IfNotPresent"),
            "InvalidImageName",
            "Failed to apply default image tag \"bad name\": couldn't parse image name \"bad name\": invalid reference format",
        ),
        (
            "config",
            json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k"}}}]}),
            "CreateContainerConfigError",
            "secret \"no\" not found",
        ),
        ("start", json!({}), "RunContainerError", "no such program"),
    ];
    for (name, extra, reason, message) in cases {
        lab.pod(name, one(extra));
        let pod = lab.cluster.wait_pod(name, reason, |pod| waits_for(pod, reason)).await;
        assert_eq!(pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"], message);
    }
    let events = lab.cluster.wait("events", |c| Some(c.events("pull")).filter(|events| events.len() >= 3)).await;
    insta::assert_snapshot!(events[..3].join("\n"), @r#"
    Normal Pulling Pulling image "missing/a:1"
    Warning Failed Failed to pull image "missing/a:1": failed to pull and unpack image "missing/a:1": not found
    Warning Failed Error: ErrImagePull
    "#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_decide_readiness_and_restarts() {
    let lab = Lab::new();
    let _agent = lab.start();
    lab.runtime.script("ready", 1, "no\n");
    lab.runtime.script("alive", 0, "");
    let probe = |command: &str| json!({"exec": {"command": [command]}, "periodSeconds": 1, "failureThreshold": 1});
    lab.pod("p", one(json!({"readinessProbe": probe("ready"), "livenessProbe": probe("alive")})));
    let unhealthy = "Warning Unhealthy Readiness probe failed: no\n";
    lab.cluster.wait("an event", |c| c.events("p").iter().any(|event| event == unhealthy).then_some(())).await;
    let pod = lab.cluster.get("pods", "ns", "p").expect("a pod");
    assert_eq!((pod["status"]["phase"].as_str(), condition(&pod, "Ready").as_str()), (Some("Running"), "False"));
    lab.runtime.script("ready", 0, "");
    lab.cluster.wait_pod("p", "a ready pod", is_ready).await;
    lab.runtime.script("alive", 1, "dead");
    let restarted = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"] == 1;
    lab.cluster.wait_pod("p", "a restart", restarted).await;
    let killing = "Normal Killing Container c failed liveness probe, will be restarted";
    lab.cluster.wait("an event", |c| c.events("p").iter().any(|event| event == killing).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_past_its_deadline_fails() {
    let lab = Lab::new();
    let _agent = lab.start();
    let mut spec = one(json!({}));
    spec["activeDeadlineSeconds"] = json!(1);
    lab.pod("p", spec);
    let pod = lab.cluster.wait_pod("p", "the end", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    assert_eq!(pod["status"]["message"], "Pod was active on the node longer than the specified deadline");
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 143);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_start_hook_that_fails_ends_its_container() {
    let lab = Lab::new();
    let _agent = lab.start();
    lab.runtime.script("false", 1, "");
    lab.pod("p", one(json!({"lifecycle": {"postStart": {"exec": {"command": ["false"]}}}})));
    let events = lab
        .cluster
        .wait("events", |c| {
            Some(c.events("p"))
                .filter(|all| all.iter().any(|e| e.contains("FailedPostStartHook F") || e.contains("Killing")))
        })
        .await;
    assert!(events.contains(&"Warning FailedPostStartHook PostStartHook failed".to_owned()), "{events:?}");
    assert!(events.contains(&"Normal Killing FailedPostStartHook".to_owned()), "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_does_not_fit_is_turned_away() {
    let lab = Lab::new();
    let _agent = lab.start();
    lab.pod("p", one(json!({"resources": {"requests": {"cpu": "100000"}}})));
    let pod = lab.cluster.wait_pod("p", "the end", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "OutOfcpu");
    let message = pod["status"]["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with("Pod was rejected: Node didn't have enough resource: cpu, requested: 100000000"),
        "{message}"
    );
    assert_eq!(lab.runtime.counts(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_is_registered_with_its_lease() {
    let lab = Lab::new();
    let _agent = lab.start();
    let lease = lab.cluster.wait("a lease", |c| c.get("leases", "kube-node-lease", "n1")).await;
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 40);
    let node = lab.cluster.get("nodes", "", "n1").expect("a node");
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
    assert_eq!(condition(&node, "Ready"), "True");
    assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], "v1.36.3");
    assert_eq!(node["status"]["addresses"][0], json!({"type": "InternalIP", "address": "192.0.2.2"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_pod_runs_by_its_manifest_and_has_a_mirror() {
    let lab = Lab::new();
    let manifests = lab.folder.path().join("manifests");
    std::fs::create_dir(&manifests).expect("a folder");
    let manifest = json!({"metadata": {"name": "web"}, "spec": one(json!({}))}).to_string();
    std::fs::write(manifests.join("web.json"), manifest).expect("a manifest");
    let _agent = lab.start();
    let mirror = |cluster: &FakeCluster| cluster.get("pods", "default", "web-n1").filter(is_ready);
    let first = lab.cluster.wait("a mirror pod", mirror).await;
    assert!(first["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string());
    assert_eq!(first["metadata"]["ownerReferences"][0]["kind"], "Node");
    lab.cluster.delete_pod("default", "web-n1", None);
    lab.cluster
        .wait("a new mirror pod", |cluster| {
            mirror(cluster).filter(|pod| pod["metadata"]["uid"] != first["metadata"]["uid"])
        })
        .await;
    assert_eq!(lab.runtime.counts(), (1, 1), "the pod itself went on");
    std::fs::remove_file(manifests.join("web.json")).expect("removed");
    lab.cluster.wait("the end", |cluster| cluster.get("pods", "default", "web-n1").is_none().then_some(())).await;
    until(|| lab.runtime.counts() == (0, 0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_change_in_place_when_the_node_has_them() {
    let lab = Lab::new();
    let _agent = lab.start();
    lab.pod("p", one(json!({"resources": {"requests": {"cpu": "100m"}}})));
    lab.cluster.wait_pod("p", "a ready pod", is_ready).await;
    let resize = |cpu: &str| {
        let mut pod = lab.cluster.get("pods", "ns", "p").expect("a pod");
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!(cpu);
        pod["metadata"]["generation"] = json!(pod["metadata"]["generation"].as_i64().unwrap_or_default() + 1);
        lab.cluster.put(pod);
    };
    let has = |pod: &Value, cpu: &str| pod["status"]["containerStatuses"][0]["resources"]["requests"]["cpu"] == cpu;
    resize("200m");
    lab.cluster.wait_pod("p", "more", |pod| has(pod, "200m")).await;
    assert!(lab.runtime.calls().contains(&"update 204".to_owned()), "{:?}", lab.runtime.calls());
    resize("100000");
    let pod = lab.cluster.wait_pod("p", "a refusal", |pod| condition(pod, "PodResizePending") == "True").await;
    assert!(has(&pod, "200m"));
    resize("200m");
    lab.cluster.wait_pod("p", "peace", |pod| condition(pod, "PodResizePending").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_gets_a_volume_that_a_pod_uses_and_gives_back() {
    let lab = Lab::new();
    let _agent = lab.start();
    lab.cluster.put(json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "s"},
        "provisioner": "folders", "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"}));
    let claim = |phase: &str, volume: &str, annotations: Value| {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "c", "namespace": "ns", "uid": "cu", "annotations": annotations},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "s", "volumeName": volume,
                "resources": {"requests": {"storage": "1Mi"}}},
            "status": {"phase": phase}})
    };
    lab.cluster.put(claim("Pending", "", json!({"volume.kubernetes.io/storage-provisioner": "folders"})));
    let volume = lab.cluster.wait("a volume", |cluster| cluster.get("persistentvolumes", "", "pvc-cu")).await;
    assert_eq!(volume["spec"]["csi"], json!({"driver": "folders", "volumeHandle": "pvc-cu"}));
    assert_eq!(volume["spec"]["claimRef"]["uid"], "cu");
    let mut larger = claim("Bound", "pvc-cu", json!({}));
    larger["status"]["capacity"] = json!({"storage": "1Mi"});
    larger["spec"]["resources"]["requests"]["storage"] = json!("2Mi");
    lab.cluster.put(larger);
    lab.cluster
        .wait("more room", |cluster| {
            let claim = cluster.get("persistentvolumeclaims", "ns", "c")?;
            (claim["status"]["capacity"]["storage"] == "2Mi").then_some(())
        })
        .await;
    let volume = lab.cluster.get("persistentvolumes", "", "pvc-cu").expect("a volume");
    assert_eq!(volume["spec"]["capacity"]["storage"], "2Mi");
    let mut spec = one(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    spec["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    lab.pod("p", spec);
    lab.cluster.wait_pod("p", "a ready pod", is_ready).await;
    lab.cluster.delete_pod("ns", "p", Some(0));
    lab.cluster.wait("the end", |cluster| cluster.get("pods", "ns", "p").is_none().then_some(())).await;
    until(|| lab.driver.calls().contains(&"unpublish pvc-cu".to_owned())).await;
    let mut released = lab.cluster.get("persistentvolumes", "", "pvc-cu").expect("a volume");
    released["status"] = json!({"phase": "Released"});
    lab.cluster.put(released);
    lab.cluster.wait("its end", |cluster| cluster.get("persistentvolumes", "", "pvc-cu").is_none().then_some(())).await;
    assert_eq!(
        lab.driver.calls(),
        ["create pvc-cu 1048576", "expand pvc-cu 2097152", "publish pvc-cu", "unpublish pvc-cu", "delete pvc-cu"]
    );
}
