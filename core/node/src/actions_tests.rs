use super::*;
use crate::observed::SandboxRecord;
use serde_json::json;

fn pod(value: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": value})).expect("a pod")
}

fn sandbox(ready: bool) -> SandboxRecord {
    SandboxRecord {
        id: "s".into(),
        attempt: 0,
        ready,
        created_at: None,
        ips: vec!["10.0.0.1".parse().expect("an address")],
        netns_path: None,
    }
}

fn record(name: &str, state: ContainerState, exit_code: i32) -> ContainerRecord {
    ContainerRecord {
        id: format!("id-{name}"),
        name: name.into(),
        sandbox_id: "s".into(),
        attempt: 0,
        state,
        created_at: None,
        started_at: None,
        finished_at: None,
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: String::new(),
        image_id: String::new(),
        hash: String::new(),
        log_path: None,
        termination_file: None,
        fall_back_to_logs: false,
    }
}

const RUNNING: ContainerState = ContainerState::Running;
const EXITED: ContainerState = ContainerState::Exited;

/// Actions as a line: what is killed, made and started.
fn check(pod: &Pod, sandboxes: Vec<SandboxRecord>, containers: Vec<ContainerRecord>, probed: &Probed, expect: &str) {
    let observed = Observed { sandboxes, containers };
    let a = compute(pod, &observed, probed);
    let mut parts = Vec::new();
    if a.kill_pod {
        parts.push("kill-pod".to_owned());
    }
    if a.create_sandbox {
        parts.push(format!("sandbox-{}", a.sandbox_attempt));
    }
    parts.extend(a.kill.values().map(|kill| format!("kill[{}]", kill.message)));
    parts.extend(a.init_containers.iter().map(|i| format!("init{i}")));
    parts.extend(a.containers.iter().map(|i| format!("app{i}")));
    parts.extend(a.ephemeral_containers.iter().map(|i| format!("ephemeral{i}")));
    assert_eq!(parts.join(" "), expect);
}

#[test]
fn a_plain_pod_from_nothing_to_its_end() {
    for (policy, after_success, after_failure) in
        [("Always", "app0", "app0"), ("OnFailure", "kill-pod", "app0"), ("Never", "kill-pod", "kill-pod")]
    {
        let p = pod(json!({"restartPolicy": policy, "containers": [{"name": "c"}]}));
        let none = Probed::new();
        check(&p, vec![], vec![], &none, "kill-pod sandbox-0 app0");
        check(&p, vec![sandbox(true)], vec![], &none, "app0");
        check(&p, vec![sandbox(true)], vec![record("c", RUNNING, 0)], &none, "");
        check(&p, vec![sandbox(true)], vec![record("c", EXITED, 0)], &none, after_success);
        check(&p, vec![sandbox(true)], vec![record("c", EXITED, 1)], &none, after_failure);
        check(&p, vec![sandbox(true)], vec![record("c", ContainerState::Created, 0)], &none, "app0");
    }
}

#[test]
fn a_lost_sandbox_is_made_anew_unless_the_pod_had_its_chance() {
    let none = Probed::new();
    let always = pod(json!({"containers": [{"name": "c"}]}));
    check(&always, vec![sandbox(false)], vec![record("c", EXITED, 137)], &none, "kill-pod sandbox-1 app0");
    let never = pod(json!({"restartPolicy": "Never", "containers": [{"name": "c"}]}));
    check(&never, vec![sandbox(false)], vec![record("c", EXITED, 137)], &none, "kill-pod");
    let done = pod(json!({"restartPolicy": "OnFailure", "containers": [{"name": "c"}]}));
    check(&done, vec![sandbox(false)], vec![record("c", EXITED, 0)], &none, "kill-pod");
}

#[test]
fn init_containers_run_one_after_the_other() {
    let none = Probed::new();
    let p = pod(json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "c"}]}));
    check(&p, vec![], vec![], &none, "kill-pod sandbox-0 init0");
    type Record = (&'static str, ContainerState, i32);
    let cases: &[(&[Record], &str)] = &[
        (&[], "init0"),
        (&[("i", RUNNING, 0)], ""),
        (&[("i", EXITED, 1)], "init0"),
        (&[("i", EXITED, 0)], "init1"),
        (&[("i", EXITED, 0), ("j", RUNNING, 0)], ""),
        (&[("i", EXITED, 0), ("j", EXITED, 0)], "app0"),
        (&[("i", EXITED, 0), ("j", EXITED, 0), ("c", RUNNING, 0)], ""),
        (&[("c", RUNNING, 0)], ""),
    ];
    for (records, expect) in cases {
        let records = records.iter().map(|(name, state, code)| record(name, *state, *code)).collect();
        check(&p, vec![sandbox(true)], records, &none, expect);
    }
    let never =
        pod(json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "c"}]}));
    check(&never, vec![sandbox(true)], vec![record("i", EXITED, 1)], &none, "kill-pod");
}

#[test]
fn sidecars_start_in_order_keep_running_and_do_not_keep_the_pod() {
    let p = pod(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "s", "restartPolicy": "Always", "startupProbe": {}}, {"name": "i"}],
        "containers": [{"name": "c"}],
    }));
    let started =
        Probed::from([("id-s".to_owned(), ProbeResults { startup: ProbeResult::Success, ..ProbeResults::default() })]);
    let none = Probed::new();
    let run = |records: &[(&str, ContainerState, i32)]| {
        records.iter().map(|(name, state, code)| record(name, *state, *code)).collect::<Vec<_>>()
    };
    check(&p, vec![sandbox(true)], run(&[("s", RUNNING, 0)]), &none, "");
    check(&p, vec![sandbox(true)], run(&[("s", RUNNING, 0)]), &started, "init1");
    check(&p, vec![sandbox(true)], run(&[("s", EXITED, 1), ("i", RUNNING, 0)]), &none, "init0");
    check(&p, vec![sandbox(true)], run(&[("s", RUNNING, 0), ("i", EXITED, 0)]), &started, "app0");
    check(&p, vec![sandbox(true)], run(&[("s", EXITED, 1), ("i", EXITED, 0), ("c", RUNNING, 0)]), &none, "init0");
    check(&p, vec![sandbox(true)], run(&[("s", EXITED, 1), ("i", EXITED, 0), ("c", EXITED, 0)]), &none, "kill-pod");
}

#[test]
fn probes_kill_and_restart() {
    let p = pod(json!({"containers": [{"name": "c", "livenessProbe": {}}]}));
    let failed =
        Probed::from([("id-c".to_owned(), ProbeResults { liveness: ProbeResult::Failure, ..ProbeResults::default() })]);
    let records = vec![record("c", RUNNING, 0)];
    check(
        &p,
        vec![sandbox(true)],
        records.clone(),
        &failed,
        "kill[Container c failed liveness probe, will be restarted] app0",
    );
    let never = pod(json!({"restartPolicy": "Never", "containers": [{"name": "c", "livenessProbe": {}}]}));
    check(&never, vec![sandbox(true)], records, &failed, "kill-pod kill[Container c failed liveness probe]");
}

#[test]
fn a_containers_own_rules_come_before_the_pods_policy() {
    let p = pod(json!({"restartPolicy": "Never", "containers": [{
        "name": "c", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}],
    }]}));
    let none = Probed::new();
    check(&p, vec![sandbox(true)], vec![record("c", EXITED, 42)], &none, "app0");
    check(&p, vec![sandbox(true)], vec![record("c", EXITED, 1)], &none, "kill-pod");
}

#[test]
fn a_changed_image_and_a_new_ephemeral_container() {
    let p = pod(json!({
        "containers": [{"name": "c", "image": "b"}],
        "ephemeralContainers": [{"name": "e", "image": "b"}],
    }));
    let changed = ContainerRecord { hash: "00000000".into(), ..record("c", RUNNING, 0) };
    check(
        &p,
        vec![sandbox(true)],
        vec![changed],
        &Probed::new(),
        "kill[Container c definition changed, will be restarted] app0 ephemeral0",
    );
}
