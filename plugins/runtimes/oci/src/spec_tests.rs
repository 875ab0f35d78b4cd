use std::collections::BTreeMap;

use gantry_plugin_sdk::{
    runtime::{
        ContainerConfig, Device, ExecRequest, HostFacts, Image, Mount, Propagation, Resources, Seccomp, Security,
        host::{
            namespaces::{Kind, Namespace},
            types::KeyValue,
        },
    },
    serde_json::{Value, json},
};

use crate::{
    record::{CONTAINER, ContainerRecord, Mode, SandboxRecord},
    spec::{self, Inputs},
    user::User,
};

fn sandbox() -> SandboxRecord {
    SandboxRecord {
        namespace: "default".into(),
        name: "p".into(),
        uid: "u".into(),
        attempt: 0,
        hostname: "p".into(),
        created_at: 1,
        cgroup_parent: "kubepods/pod1".into(),
        network: Some("/run/netns/p".into()),
        pid: Mode::Container,
        ipc: Mode::Pod,
        user_mapping: vec![],
        privileged: false,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        stopped: false,
    }
}

fn container() -> ContainerConfig {
    ContainerConfig {
        name: "web".into(),
        attempt: 2,
        image: Image {
            reference: "web:1".into(),
            id: "sha256:1".into(),
            snapshot_key: "1".into(),
            entrypoint: vec!["/web".into()],
            command: vec!["--help".into()],
            environment: vec!["PATH=/bin".into(), "A=1".into()],
            user: String::new(),
            working_directory: "/srv".into(),
            stop_signal: String::new(),
        },
        command: vec![],
        arguments: vec![],
        working_directory: String::new(),
        environment: vec![
            KeyValue { key: "A".into(), value: "2".into() },
            KeyValue { key: "B".into(), value: "".into() },
        ],
        labels: vec![],
        annotations: vec![],
        mounts: vec![],
        devices: vec![],
        security: Security {
            privileged: false,
            run_as_user: None,
            run_as_group: None,
            supplemental_groups: vec![],
            strict_groups: false,
            add_capabilities: vec![],
            drop_capabilities: vec![],
            read_only_rootfs: false,
            no_new_privileges: false,
            seccomp: Seccomp::Unconfined,
            apparmor: String::new(),
            unmasked_proc: false,
        },
        resources: Resources {
            cpu_shares: None,
            cpu_quota_microseconds: None,
            cpu_period_microseconds: None,
            cpuset_cpus: None,
            cpuset_mems: None,
            memory_limit_bytes: None,
            memory_swap_limit_bytes: None,
            pids_limit: None,
            hugepage_limits: vec![],
            unified: vec![],
        },
        oom_score_adj: -998,
        stop_signal: String::new(),
        log_path: None,
        stdin: false,
        stdin_once: false,
        tty: false,
    }
}

fn config(sandbox: &SandboxRecord, config: &ContainerConfig) -> Value {
    let facts = HostFacts {
        cgroup_version: 2,
        architecture: "x86_64".into(),
        seccomp: true,
        apparmor: true,
        capabilities: vec!["CAP_CHOWN".into(), "CAP_SYS_ADMIN".into()],
        oom_score_adj_floor: -500,
        may_raise_limits: true,
    };
    let namespaces = [Kind::Ipc, Kind::Uts, Kind::Pid].map(|kind| Namespace { kind, path: format!("/ns/{kind:?}") });
    let inputs = Inputs {
        facts: &facts,
        id: "c1",
        sandbox,
        namespaces: &namespaces,
        shm: "/state/shm/s1",
        config,
        record: &ContainerRecord::new("s1", config, 15),
        root: "/rootfs/c1",
        user: &User::default(),
    };
    spec::config(&inputs).unwrap()
}

fn mount<'a>(config: &'a Value, target: &str) -> Vec<&'a Value> {
    config["mounts"].as_array().unwrap().iter().filter(|mount| mount["destination"] == target).collect()
}

#[test]
fn a_plain_container() {
    let config = config(&sandbox(), &container());
    let process = &config["process"];
    assert_eq!(process["args"], json!(["/web", "--help"]));
    assert_eq!(process["env"], json!(["PATH=/bin", "HOSTNAME=p", "A=2", "B="]));
    assert_eq!((&process["cwd"], &process["oomScoreAdj"]), (&json!("/srv"), &json!(-500)));
    assert_eq!(process["capabilities"]["effective"], json!(["CAP_CHOWN"]));
    let linux = &config["linux"];
    assert_eq!(linux["cgroupsPath"], "kubepods/pod1/c1");
    assert_eq!(
        linux["namespaces"],
        json!([
            { "type": "mount" },
            { "type": "pid" },
            { "type": "ipc", "path": "/ns/Kind::Ipc" },
            { "type": "network", "path": "/run/netns/p" },
            { "type": "uts", "path": "/ns/Kind::Uts" },
            { "type": "cgroup" },
        ])
    );
    assert_eq!(linux["resources"], json!({ "devices": [{ "allow": false, "access": "rwm" }] }));
    assert!(linux["maskedPaths"].as_array().is_some_and(|paths| paths.contains(&json!("/proc/kcore"))));
    assert!(linux.get("seccomp").is_none());
    assert_eq!(mount(&config, "/dev/shm")[0]["source"], "/state/shm/s1");
    assert!(config["annotations"][CONTAINER].as_str().is_some_and(|text| text.contains("\"sandbox\":\"s1\"")));
}

#[test]
fn a_privileged_container_on_the_nodes_namespaces() {
    let (mut sandbox, mut container) = (sandbox(), container());
    (sandbox.network, sandbox.pid, sandbox.ipc) = (None, Mode::Node, Mode::Node);
    container.security.privileged = true;
    container.security.seccomp = Seccomp::RuntimeDefault;
    container.security.apparmor = "strict".into();
    let config = config(&sandbox, &container);
    assert_eq!(config["linux"]["namespaces"], json!([{ "type": "mount" }]));
    assert_eq!(config["linux"]["resources"]["devices"], json!([{ "allow": true, "access": "rwm" }]));
    assert_eq!(config["process"]["capabilities"]["bounding"], json!(["CAP_CHOWN", "CAP_SYS_ADMIN"]));
    for absent in ["maskedPaths", "readonlyPaths", "seccomp"] {
        assert!(config["linux"].get(absent).is_none(), "{absent}");
    }
    assert!(config["process"].get("apparmorProfile").is_none());
    assert_eq!(mount(&config, "/dev/shm")[0]["source"], "/dev/shm");
    assert!(mount(&config, "/sys")[0]["options"].as_array().unwrap().contains(&json!("rw")));
}

#[test]
fn mounts_devices_and_limits_of_the_pod() {
    let mut container = container();
    let bind = |target: &str, read_only, recursive_read_only, propagation| Mount {
        host_path: "/v".into(),
        container_path: target.into(),
        read_only,
        recursive_read_only,
        propagation,
    };
    container.mounts = vec![
        bind("/data/below/", false, false, Propagation::Bidirectional),
        bind("/data", true, false, Propagation::HostToContainer),
        bind("/dev/shm", true, true, Propagation::Private),
    ];
    container.devices = vec![Device {
        host_path: "/dev/fuse".into(),
        container_path: "/dev/fuse".into(),
        permissions: "rw".into(),
        major: 10,
        minor: 229,
        kind: "c".into(),
    }];
    container.resources.cpu_shares = Some(512);
    container.resources.memory_limit_bytes = Some(1 << 20);
    container.resources.hugepage_limits = vec![("2MB".into(), 0)];
    let config = config(&sandbox(), &container);
    let order: Vec<&Value> = config["mounts"].as_array().unwrap().iter().map(|mount| &mount["destination"]).collect();
    let place = |target: &str| order.iter().position(|found| *found == target).unwrap();
    assert!(place("/data") < place("/data/below"));
    assert_eq!(mount(&config, "/data")[0]["options"], json!(["rbind", "rslave", "ro"]));
    let shm = mount(&config, "/dev/shm");
    assert_eq!((shm.len(), &shm[0]["options"]), (1, &json!(["rbind", "rprivate", "rro"])));
    assert_eq!(config["linux"]["rootfsPropagation"], "rshared");
    assert_eq!(config["linux"]["devices"], json!([{ "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229 }]));
    let resources = &config["linux"]["resources"];
    assert_eq!((&resources["cpu"], &resources["memory"]), (&json!({ "shares": 512 }), &json!({ "limit": 1 << 20 })));
    assert_eq!(resources["hugepageLimits"], json!([{ "pageSize": "2MB", "limit": 0 }]));
}

#[test]
fn the_default_seccomp_profile_follows_capabilities() {
    let mut container = container();
    container.security.seccomp = Seccomp::RuntimeDefault;
    let names = |config: &Value| config["linux"]["seccomp"]["syscalls"][0]["names"].as_array().unwrap().clone();
    let plain = config(&sandbox(), &container);
    assert_eq!(plain["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    assert!(names(&plain).contains(&json!("openat")) && !names(&plain).contains(&json!("mount")));
    container.security.add_capabilities = vec!["SYS_ADMIN".into()];
    assert!(names(&config(&sandbox(), &container)).contains(&json!("mount")));
}

#[test]
fn commands_replace_those_of_the_image() {
    for (command, arguments, expect) in [
        (vec![], vec![], vec!["/web", "--help"]),
        (vec![], vec!["x"], vec!["/web", "x"]),
        (vec!["sh"], vec![], vec!["sh"]),
        (vec!["sh"], vec!["-c", "x"], vec!["sh", "-c", "x"]),
    ] {
        let mut container = container();
        container.command = command.into_iter().map(str::to_owned).collect();
        container.arguments = arguments.into_iter().map(str::to_owned).collect();
        assert_eq!(config(&sandbox(), &container)["process"]["args"], json!(expect));
    }
}

#[test]
fn a_command_runs_as_the_container_does() {
    let process = config(&sandbox(), &container())["process"].clone();
    let request = ExecRequest { command: vec!["sh".into()], tty: true };
    let exec = spec::exec_process(&process, &request).unwrap();
    assert_eq!((&exec["args"], &exec["terminal"]), (&json!(["sh"]), &json!(true)));
    assert!(exec["env"].as_array().unwrap().contains(&json!("TERM=xterm")));
    assert_eq!(exec["capabilities"], process["capabilities"]);
    assert!(spec::exec_process(&process, &ExecRequest { command: vec![], tty: false }).is_err());
}
