//! Exec and attach.

use gantry_node::container_io::{ContainerIo, Session, Streams, TerminalSize};
use gantry_node::mechanism::Mechanism;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::lab::{Lab, exit_of, soon, until};

const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };
const TTY: Streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };

fn process(script: &str) -> String {
    json!({"args": ["/bin/sh", "-c", script], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]})
        .to_string()
}

async fn read(stream: Option<Box<dyn tokio::io::AsyncRead + Send + Unpin>>) -> String {
    let mut text = String::new();
    soon("reading", stream.unwrap().read_to_string(&mut text)).await.unwrap();
    text
}

async fn read_until(stream: &mut (impl tokio::io::AsyncRead + Unpin), end: &str) -> String {
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains(end) {
        let mut buffer = [0; 256];
        let count = soon(end, stream.read(&mut buffer)).await.unwrap();
        assert!(count > 0, "the stream ended with {:?}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(text).unwrap()
}

async fn exec(mechanism: &Mechanism, script: &str, streams: Streams) -> Session {
    mechanism.exec("c", &process(script), streams).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_with_pipes() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    lab.run(&mechanism, "c", "sleep 1000").await;
    let mut session = exec(&mechanism, "cat; echo wrong >&2; echo $HOME; exit 4", ALL).await;
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"typed\n").await.unwrap();
    stdin.shutdown().await.unwrap();
    assert_eq!(read(session.stdout).await, "typed\n/root\n");
    assert_eq!(read(session.stderr).await, "wrong\n");
    assert_eq!(soon("exec", session.exit).await.unwrap().unwrap(), 4);
    let session = exec(&mechanism, "kill -9 $$", Streams::default()).await;
    assert_eq!(soon("exec", session.exit).await.unwrap().unwrap(), 137);
    // It is in the container: its processes, its cgroup, its capabilities.
    let session = exec(&mechanism, "ps -o args | head -2; cat /proc/self/cgroup; ls /proc/self/fd", ALL).await;
    let text = read(session.stdout).await;
    assert!(text.contains("sleep 1000"), "{text}");
    assert!(text.contains(&format!("/{}/c", lab.cgroup)), "{text}");
    let missing = json!({"args": ["none"], "cwd": "/", "user": {"uid": 0, "gid": 0}}).to_string();
    assert_eq!(
        mechanism.exec("c", &missing, ALL).await.err().unwrap().message,
        "OCI runtime exec failed: exec failed: unable to start container process: exec: \"none\": executable file not \
         found in $PATH"
    );
    lab.assert_nothing_left(&mechanism).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_keeps_to_the_containers_filter_and_user() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    let mut config = lab.config(&mechanism, "c", "sleep 1000").await;
    config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]});
    lab.run_config(&mechanism, "c", &config, &lab.stdio("c")).await;
    for (uid, no_new_privileges) in [(0, false), (7, false), (7, true)] {
        let process = json!({"args": ["/bin/sh", "-c", "id -u; hostname x; cat /proc/self/status"], "cwd": "/work",
            "noNewPrivileges": no_new_privileges, "env": ["PATH=/bin"],
            "user": {"uid": uid, "gid": uid, "additionalGids": [11]},
            "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]}});
        let session = mechanism.exec("c", &process.to_string(), ALL).await.unwrap();
        let (out, err) = (read(session.stdout).await, read(session.stderr).await);
        assert!(out.starts_with(&format!("{uid}\n")), "{out}{err}");
        assert!(err.contains("Function not implemented"), "{out}{err}");
        assert!(out.contains("CapBnd:\t0000000000000001\n"), "{out}");
        assert!(out.contains("Groups:\t11 \n"), "{out}");
        assert!(out.contains("Seccomp:\t2\n"), "{out}");
        assert!(out.contains(&format!("NoNewPrivs:\t{}\n", u8::from(no_new_privileges))), "{out}");
    }
    lab.assert_nothing_left(&mechanism).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_with_a_terminal() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    lab.run(&mechanism, "c", "sleep 1000").await;
    let mut session = exec(&mechanism, "tty; read x; stty size; echo got $x; exit 2", TTY).await;
    let mut stdout = session.stdout.take().unwrap();
    assert!(read_until(&mut stdout, "\r\n").await.starts_with("/dev/pts/"));
    session.resize.send(TerminalSize { width: 123, height: 45 }).await.unwrap();
    // The size is set by another task: it is there once the program sees it.
    let mut stdin = session.stdin.take().unwrap();
    until("the size has arrived", || session.resize.capacity() == session.resize.max_capacity()).await;
    stdin.write_all(b"word\n").await.unwrap();
    assert!(read_until(&mut stdout, "got word").await.contains("45 123"));
    assert_eq!(soon("exec", session.exit).await.unwrap().unwrap(), 2);
    lab.assert_nothing_left(&mechanism).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_up_kills_an_exec() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    lab.run(&mechanism, "c", "sleep 1000").await;
    let mut session = exec(&mechanism, "echo up; sleep 2000", ALL).await;
    read_until(session.stdout.as_mut().unwrap(), "up").await;
    drop(session);
    let running = || {
        crate::lab::processes()
            .iter()
            .any(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x002000\x00"))
    };
    until("the process is killed", || !running()).await;
    lab.assert_nothing_left(&mechanism).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_with_pipes() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    let mut stdio = lab.stdio("c");
    stdio.stdin = true;
    stdio.stdin_once = true;
    let config = lab.config(&mechanism, "c", "cat; echo wrong >&2; exit 9").await;
    lab.run_config(&mechanism, "c", &config, &stdio).await;
    let mut session = mechanism.attach("c", ALL).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"typed\n").await.unwrap();
    stdin.shutdown().await.unwrap();
    assert_eq!(read(session.stdout).await, "typed\n");
    assert_eq!(read(session.stderr).await, "wrong\n");
    assert_eq!(soon("the container", session.exit).await.unwrap().unwrap(), 9);
    let mut logged = lab.logged("c");
    logged.sort();
    assert_eq!(logged, ["stderr F wrong", "stdout F typed"]);
    lab.assert_nothing_left(&mechanism).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_with_a_terminal() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    let mut stdio = lab.stdio("c");
    stdio.stdin = true;
    stdio.tty = true;
    let config = lab.config(&mechanism, "c", "read x; stty size; echo got $x; read y; echo bye").await;
    lab.run_config(&mechanism, "c", &config, &stdio).await;
    let mut first = mechanism.attach("c", TTY).await.unwrap();
    let mut second = mechanism.attach("c", TTY).await.unwrap();
    first.resize.send(TerminalSize { width: 91, height: 17 }).await.unwrap();
    until("the size has arrived", || first.resize.capacity() == first.resize.max_capacity()).await;
    let mut stdin = first.stdin.take().unwrap();
    // The size goes another way than what is typed.
    let size = exec(&mechanism, "while [ \"$(stty size </proc/1/fd/0)\" != '17 91' ]; do :; done", ALL).await;
    assert_eq!(soon("the size", size.exit).await.unwrap().unwrap(), 0);
    stdin.write_all(b"word\n").await.unwrap();
    for session in [&mut first, &mut second] {
        let text = read_until(session.stdout.as_mut().unwrap(), "got word").await;
        assert!(text.contains("17 91"), "{text}");
    }
    // A client that leaves leaves the container running.
    drop(first);
    drop(stdin);
    second.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    read_until(second.stdout.as_mut().unwrap(), "bye").await;
    assert_eq!(exit_of(&mechanism, "c").await, 0);
    lab.assert_nothing_left(&mechanism).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn much_output_reaches_a_slow_client_whole() {
    let lab = Lab::new();
    let mechanism = lab.open().await;
    let mut stdio = lab.stdio("c");
    stdio.stdin = true;
    let config = lab.config(&mechanism, "c", "read x; dd if=/dev/zero bs=1000 count=3000 2>/dev/null; echo end").await;
    lab.run_config(&mechanism, "c", &config, &stdio).await;
    let mut session = mechanism.attach("c", Streams { stderr: false, ..ALL }).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    let text = read(session.stdout.take()).await;
    assert_eq!(text.len(), 3_000_000 + 4);
    lab.assert_nothing_left(&mechanism).await;
}
