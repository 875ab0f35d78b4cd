//! From creation to removal.

use gantry_node::container_io::{ContainerExit, ContainerIo};
use gantry_plugin_host::ErrorCode;
use gantry_plugin_host::capability::{BundleStatus, OciBundle, Rootfs};
use serde_json::json;

use crate::lab::{Lab, exit_of, until};

#[tokio::test(flavor = "multi_thread")]
async fn runs_and_logs() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    let config = lab.config(&mechanism, "c", "echo hello; echo wrong >&2; pwd; echo $HOME; printf tail; exit 3").await;
    mechanism.write("c", &config.to_string()).await.unwrap();
    assert_eq!(mechanism.state("c").await.unwrap().status, BundleStatus::Written);
    let pid = mechanism.create("c", &lab.stdio("c")).await.unwrap();
    let state = mechanism.state("c").await.unwrap();
    assert_eq!((state.status, state.pid), (BundleStatus::Created, pid));
    mechanism.start("c").await.unwrap();
    assert_eq!(exit_of(&mechanism, "c").await, 3);
    let state = mechanism.state("c").await.unwrap();
    assert_eq!((state.status, state.exit_code, state.oom_killed), (BundleStatus::Stopped, 3, false));
    assert!(state.created_at <= state.started_at && state.started_at <= state.finished_at);
    assert_eq!(state.annotations[0].key, "lab");
    let mut logged = lab.logged("c");
    logged.sort();
    assert_eq!(logged, ["stderr F wrong", "stdout F /root", "stdout F /work", "stdout F hello", "stdout P tail"]);
    mechanism.delete("c", false).await.unwrap();
    mechanism.delete("c", false).await.unwrap();
    assert_eq!(mechanism.state("c").await.unwrap_err().code, ErrorCode::NotFound);
    Rootfs::remove(&mechanism, "c").await.unwrap();
    lab.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_created() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    let cases = [
        (json!(["/none"]), "exec: \"/none\": stat /none: no such file or directory"),
        (json!(["none"]), "exec: \"none\": executable file not found in $PATH"),
        (json!(["/etc/text"]), "exec: \"/etc/text\": permission denied"),
    ];
    for (arguments, expect) in cases {
        let mut config = lab.config(&mechanism, "c", "").await;
        config["process"]["args"] = arguments;
        mechanism.write("c", &config.to_string()).await.unwrap();
        let error = mechanism.create("c", &lab.stdio("c")).await.unwrap_err();
        assert_eq!(error.message, format!("OCI runtime create failed: unable to start container process: {expect}"));
        assert_eq!(mechanism.state("c").await.unwrap().status, BundleStatus::Written);
    }
    let mut config = lab.config(&mechanism, "d", "").await;
    config["hooks"] = json!({"prestart": [{"path": "/bin/true"}]});
    assert_eq!(mechanism.write("d", &config.to_string()).await.unwrap_err().code, ErrorCode::Denied);
    let mut config = lab.config(&mechanism, "d", "").await;
    config["root"]["path"] = json!("/");
    assert_eq!(mechanism.write("d", &config.to_string()).await.unwrap_err().code, ErrorCode::Denied);
    lab.assert_nothing_left(&mechanism).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    let mut exits = mechanism.exits();
    lab.run(&mechanism, "term", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done").await;
    lab.logged_line("term", "stdout F ready").await;
    assert_eq!(mechanism.wait("term", 1).await.unwrap(), None);
    assert_eq!(mechanism.delete("term", false).await.unwrap_err().code, ErrorCode::Busy);
    mechanism.kill("term", 15, false).await.unwrap();
    assert_eq!(exit_of(&mechanism, "term").await, 7);
    mechanism.kill("term", 15, false).await.unwrap();
    lab.run(&mechanism, "all", "sleep 1000 & echo ready; wait").await;
    lab.logged_line("all", "stdout F ready").await;
    mechanism.kill("all", 9, true).await.unwrap();
    assert_eq!(exit_of(&mechanism, "all").await, 137);
    let exit = |id: &str, exit_code| ContainerExit { container_id: id.to_owned(), exit_code };
    assert_eq!(exits.recv().await.unwrap(), exit("term", 7));
    assert_eq!(exits.recv().await.unwrap(), exit("all", 137));
    lab.assert_nothing_left(&mechanism).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_memory() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    let mut config = lab.config(&mechanism, "c", "x=a; while :; do x=$x$x$x; done").await;
    config["linux"]["resources"]["memory"] = json!({"limit": 16 << 20});
    lab.run_config(&mechanism, "c", &config, &lab.stdio("c")).await;
    assert_eq!(exit_of(&mechanism, "c").await, 137);
    assert!(mechanism.state("c").await.unwrap().oom_killed);
    lab.assert_nothing_left(&mechanism).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    let all = (0..20).map(|number| {
        let (lab, mechanism) = (&lab, &mechanism);
        async move {
            let id = format!("c{number}");
            lab.run(mechanism, &id, &format!("echo from {number}; exit {number}")).await;
            assert_eq!(exit_of(mechanism, &id).await, number);
            assert_eq!(lab.logged(&id), [format!("stdout F from {number}")]);
        }
    });
    futures::future::join_all(all).await;
    assert_eq!(mechanism.list().await.unwrap().len(), 20);
    lab.assert_nothing_left(&mechanism).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_usage() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    lab.run(&mechanism, "c", "echo ready; sleep 1000").await;
    lab.logged_line("c", "stdout F ready").await;
    let stats = mechanism.stats("c").await.unwrap();
    assert!(stats.memory_usage_bytes > 0 && stats.cpu_usage_nanoseconds > 0, "{stats:?}");
    assert!(stats.pids >= 1 && stats.memory_working_set_bytes <= stats.memory_usage_bytes, "{stats:?}");
    let limits = r#"{"memory": {"limit": 33554432}, "cpu": {"shares": 512}, "pids": {"limit": 50}}"#;
    mechanism.update("c", limits).await.unwrap();
    let pids = format!("/sys/fs/cgroup/pids/{}/c/pids.max", lab.cgroup);
    let pids = std::fs::read_to_string(&pids)
        .or_else(|_| std::fs::read_to_string(format!("/sys/fs/cgroup/{}/c/pids.max", lab.cgroup)));
    assert_eq!(pids.unwrap().trim(), "50");
    mechanism.delete("c", true).await.unwrap();
    assert_eq!(mechanism.stats("c").await.unwrap_err().code, ErrorCode::NotFound);
    lab.assert_nothing_left(&mechanism).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_own_their_streams() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    let mut config = lab
        .config(&mechanism, "c", "id -u; id -G; echo $HOME; echo opened >> /proc/self/fd/1; echo $0 >> /proc/self/fd/2")
        .await;
    config["process"]["user"] = json!({"uid": 7, "gid": 8, "additionalGids": [9]});
    config["process"]["oomScoreAdj"] = json!(500);
    config["process"]["noNewPrivileges"] = json!(false);
    config["process"]["args"].as_array_mut().unwrap().push(json!("name"));
    config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mknod", "mknodat"], "action": "SCMP_ACT_ERRNO"}]});
    lab.run_config(&mechanism, "c", &config, &lab.stdio("c")).await;
    assert_eq!(exit_of(&mechanism, "c").await, 0);
    let mut logged = lab.logged("c");
    logged.sort();
    assert_eq!(logged, ["stderr F name", "stdout F /home/seven", "stdout F 7", "stdout F 8 9", "stdout F opened"]);
    lab.assert_nothing_left(&mechanism).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_none_says_so_in_the_log() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    let mut config = lab.config(&mechanism, "c", "").await;
    let root = config["root"]["path"].as_str().unwrap().to_owned();
    let program = std::path::Path::new(&root).join("bin/broken");
    std::fs::write(&program, "\u{7f}nothing").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    config["process"]["args"] = json!(["broken"]);
    lab.run_config(&mechanism, "c", &config, &lab.stdio("c")).await;
    assert_eq!(exit_of(&mechanism, "c").await, 255);
    assert_eq!(lab.logged("c"), ["stderr F exec /bin/broken: exec format error"]);
    lab.assert_nothing_left(&mechanism).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_rotate() {
    let lab = Lab::new();
    let mechanism = lab.open_with(|options| {
        options.log_limit_bytes = 10_000;
        options.log_files_max = 3;
    });
    let mechanism = mechanism.await;
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo last; sleep 1000";
    lab.run(&mechanism, "c", script).await;
    let folder = lab.log("c").parent().unwrap().to_owned();
    let rotated = || {
        let mut names: Vec<String> =
            std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    until("the log is rotated", || rotated().len() > 1 && rotated().iter().any(|n| n.ends_with(".gz"))).await;
    until("the last line is logged", || {
        rotated().iter().any(|name| {
            std::fs::read(folder.join(name)).is_ok_and(|text| String::from_utf8_lossy(&text).contains("F last\n"))
        })
    })
    .await;
    assert!(rotated().iter().filter(|n| !n.ends_with(".tmp")).count() <= 3, "{:?}", rotated());
    lab.assert_nothing_left(&mechanism).await;
}
