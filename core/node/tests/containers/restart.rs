//! The agent dies and comes back.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use gantry_node::container_io::{ContainerIo, Streams};
use gantry_plugin_host::capability::{BundleStatus, OciBundle};

use crate::lab::{Lab, exit_of, soon, until};

/// An agent in a process of its own that has started a container.
async fn agent(lab: &Lab, id: &str, script: &str) -> Child {
    let mechanism = lab.open().await;
    let config = lab.config(&mechanism, id, script).await;
    drop(mechanism);
    let mut child = Command::new(env!("CARGO_BIN_EXE_gantry-node-test-host"))
        .arg("agent")
        .args([lab.state(), lab.images()])
        .arg(id)
        .arg(lab.log(id))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    child
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_container_is_adopted() {
    let lab = Lab::new();
    let child = agent(&lab, "c", "echo one; while [ ! -e /go ]; do sleep 0.02; done; echo two; exit 5").await;
    lab.logged_line("c", "stdout F one").await;
    kill(child);
    let mechanism = lab.open().await;
    let mut exits = mechanism.exits();
    assert_eq!(mechanism.state("c").await.unwrap().status, BundleStatus::Running);
    let streams = Streams { stdout: true, ..Streams::default() };
    let process =
        r#"{"args": ["/bin/sh", "-c", "echo > /go"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]}"#;
    let session = mechanism.exec("c", process, streams).await.unwrap();
    assert_eq!(soon("exec", session.exit).await.unwrap().unwrap(), 0);
    assert_eq!(exit_of(&mechanism, "c").await, 5);
    assert_eq!(soon("the exit event", exits.recv()).await.unwrap().exit_code, 5);
    assert_eq!(lab.logged("c"), ["stdout F one", "stdout F two"]);
    lab.assert_nothing_left(&mechanism).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_in_between_is_not_lost() {
    let lab = Lab::new();
    let child = agent(&lab, "c", "while [ ! -e /go ]; do sleep 0.02; done; echo two; exit 6").await;
    kill(child);
    let upper = lab.state().join("rootfs/c/merged/go");
    std::fs::write(upper, "").unwrap();
    let state = lab.state().join("bundles/c/state.json");
    until("the shim wrote its last word", || {
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(&state).unwrap()).unwrap();
        record["finishedAt"] != 0
    })
    .await;
    let mechanism = lab.open().await;
    let state = mechanism.state("c").await.unwrap();
    assert_eq!((state.status, state.exit_code), (BundleStatus::Stopped, 6));
    assert_eq!(lab.logged("c"), ["stdout F two"]);
    lab.assert_nothing_left(&mechanism).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_shim_takes_its_container_along() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    let pid = lab.run(&mechanism, "c", "sleep 1000").await;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let shim: i32 = status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(exit_of(&mechanism, "c").await, 137);
    lab.assert_nothing_left(&mechanism).await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}/exe")).exists());
}

/// A shim must cost little: there is one for each container of the node.
#[tokio::test(flavor = "multi_thread")]
async fn a_shim_is_small() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    let pid = lab.run(&mechanism, "c", "echo ready; sleep 1000").await;
    lab.logged_line("c", "stdout F ready").await;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let shim = status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap().trim().to_owned();
    let rollup = std::fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
    let field = |name: &str| -> u64 {
        let line = rollup.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    };
    let own_kb = field("Private_Dirty:");
    eprintln!("a shim: {own_kb} kB of its own, {} kB resident", field("Rss:"));
    assert!(own_kb < 2048, "a shim keeps {own_kb} kB for itself");
    lab.assert_nothing_left(&mechanism).await;
}
