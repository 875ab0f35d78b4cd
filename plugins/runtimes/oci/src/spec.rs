//! config.json, as the OCI runtime specification 1.2 describes it. Pure.

use std::collections::BTreeMap;

use gantry_plugin_sdk::{
    runtime::{
        ContainerConfig, Error, ErrorCode, ExecRequest, HostFacts, Mount, Propagation, Resources, Seccomp,
        host::namespaces::{Kind, Namespace},
    },
    serde_json::{self, Value, json},
};

use crate::{
    capabilities, error,
    record::{CONTAINER, ContainerRecord, Mode, SandboxRecord},
    seccomp,
    user::User,
};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// All that decides a container's config.json.
pub struct Inputs<'a> {
    pub facts: &'a HostFacts,
    pub id: &'a str,
    pub sandbox: &'a SandboxRecord,
    pub namespaces: &'a [Namespace],
    /// Path of the sandbox's /dev/shm on the host.
    pub shm: &'a str,
    pub config: &'a ContainerConfig,
    pub record: &'a ContainerRecord,
    /// Path of the root filesystem.
    pub root: &'a str,
    pub user: &'a User,
}

/// The container's config.json.
pub fn config(inputs: &Inputs<'_>) -> Result<Value, Error> {
    let Inputs { sandbox, config, record, .. } = inputs;
    let security = &config.security;
    let set = capabilities::resolve(
        security.privileged,
        &security.add_capabilities,
        &security.drop_capabilities,
        &inputs.facts.capabilities,
    );
    let mut process = json!({
        "terminal": config.tty,
        "user": { "uid": inputs.user.uid, "gid": inputs.user.gid, "additionalGids": inputs.user.groups },
        "args": arguments(config)?,
        "env": environment(config, &sandbox.hostname),
        "cwd": working_directory(config),
        "capabilities": { "bounding": set, "effective": set, "permitted": set },
        "noNewPrivileges": security.no_new_privileges,
        "oomScoreAdj": config.oom_score_adj.max(inputs.facts.oom_score_adj_floor),
    });
    if inputs.facts.apparmor && !security.apparmor.is_empty() && !security.privileged {
        process["apparmorProfile"] = json!(security.apparmor);
    }
    let mut limits = resources(&config.resources);
    limits["devices"] = device_rules(config);
    let mut linux = json!({
        "namespaces": namespaces(inputs),
        "cgroupsPath": format!("{}/{}", sandbox.cgroup_parent, inputs.id),
        "resources": limits,
    });
    if !config.devices.is_empty() {
        linux["devices"] = config
            .devices
            .iter()
            .map(|device| {
                json!({ "path": device.container_path, "type": device.kind, "major": device.major, "minor": device.minor })
            })
            .collect();
    }
    if !security.privileged && !security.unmasked_proc {
        linux["maskedPaths"] = json!(MASKED);
        linux["readonlyPaths"] = json!(READ_ONLY);
    }
    if !sandbox.user_mapping.is_empty() {
        let mappings: Vec<Value> = sandbox
            .user_mapping
            .iter()
            .map(|(container, host, size)| json!({ "containerID": container, "hostID": host, "size": size }))
            .collect();
        linux["uidMappings"] = json!(mappings);
        linux["gidMappings"] = json!(mappings);
    }
    if let Some(filter) = filter(inputs, &set)? {
        linux["seccomp"] = filter;
    }
    if let Some(propagation) = root_propagation(&config.mounts) {
        linux["rootfsPropagation"] = json!(propagation);
    }
    let text = serde_json::to_string(record).map_err(|reason| error(ErrorCode::Internal, reason.to_string()))?;
    Ok(json!({
        "ociVersion": "1.2.0",
        "process": process,
        "root": { "path": inputs.root, "readonly": security.read_only_rootfs },
        "mounts": mounts(inputs),
        "annotations": { CONTAINER: text },
        "linux": linux,
    }))
}

fn arguments(config: &ContainerConfig) -> Result<Vec<String>, Error> {
    let image = &config.image;
    let (command, arguments) = match (config.command.is_empty(), config.arguments.is_empty()) {
        (false, _) => (&config.command, &config.arguments),
        (true, false) => (&image.entrypoint, &config.arguments),
        (true, true) => (&image.entrypoint, &image.command),
    };
    let all: Vec<String> = command.iter().chain(arguments).cloned().collect();
    if all.is_empty() {
        return Err(error(ErrorCode::Invalid, "no command specified"));
    }
    Ok(all)
}

fn working_directory(config: &ContainerConfig) -> &str {
    [config.working_directory.as_str(), config.image.working_directory.as_str()]
        .into_iter()
        .find(|path| !path.is_empty())
        .unwrap_or("/")
}

/// The image's variables, then the pod's in their place or after them.
fn environment(config: &ContainerConfig, hostname: &str) -> Vec<String> {
    let mut all: Vec<String> = vec![PATH.to_owned()];
    if !hostname.is_empty() {
        all.push(format!("HOSTNAME={hostname}"));
    }
    if config.tty {
        all.push("TERM=xterm".to_owned());
    }
    let pods = config.environment.iter().map(|variable| format!("{}={}", variable.key, variable.value));
    for variable in config.image.environment.iter().cloned().chain(pods) {
        let name = variable.split('=').next().unwrap_or_default();
        match all.iter_mut().find(|known| known.split('=').next() == Some(name)) {
            Some(known) => *known = variable,
            None => all.push(variable),
        }
    }
    all
}

fn namespaces(inputs: &Inputs<'_>) -> Value {
    let of_pod = |kind: Kind| inputs.namespaces.iter().find(|namespace| namespace.kind == kind);
    let mut all = vec![json!({ "type": "mount" })];
    for (name, kind, mode) in [("pid", Kind::Pid, inputs.sandbox.pid), ("ipc", Kind::Ipc, inputs.sandbox.ipc)] {
        match (mode, of_pod(kind)) {
            (Mode::Node, _) => {}
            (Mode::Pod, Some(namespace)) => all.push(json!({ "type": name, "path": namespace.path })),
            (Mode::Pod | Mode::Container, _) => all.push(json!({ "type": name })),
        }
    }
    if let Some(network) = &inputs.sandbox.network {
        all.push(json!({ "type": "network", "path": network }));
        if let Some(namespace) = of_pod(Kind::Uts) {
            all.push(json!({ "type": "uts", "path": namespace.path }));
        }
    }
    if !inputs.sandbox.user_mapping.is_empty() {
        all.push(json!({ "type": "user" }));
    }
    if inputs.facts.cgroup_version == 2 && !inputs.config.security.privileged {
        all.push(json!({ "type": "cgroup" }));
    }
    json!(all)
}

fn mounts(inputs: &Inputs<'_>) -> Value {
    let Inputs { config, sandbox, .. } = inputs;
    let privileged = config.security.privileged;
    let access = if privileged { "rw" } else { "ro" };
    let of = |target: &str, kind: &str, source: &str, options: &[&str]| {
        (target.to_owned(), json!({ "destination": target, "type": kind, "source": source, "options": options }))
    };
    let mut all: Vec<(String, Value)> = vec![
        of("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        of("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        of("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        of("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        of("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        of("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ];
    all.push(match sandbox.ipc {
        Mode::Node => of("/dev/shm", "bind", "/dev/shm", &["rbind", "nosuid", "noexec", "nodev"]),
        Mode::Pod | Mode::Container => of("/dev/shm", "bind", inputs.shm, &["rbind", "nosuid", "noexec", "nodev"]),
    });
    // The pod's own take the place of ours.
    all.retain(|(target, _)| !config.mounts.iter().any(|mount| clean(&mount.container_path) == *target));
    all.extend(config.mounts.iter().map(|mount| (clean(&mount.container_path), bind(mount))));
    // What is mounted below another comes after it.
    all.sort_by_key(|(target, _)| target.split('/').filter(|part| !part.is_empty()).count());
    all.into_iter().map(|(_, mount)| mount).collect()
}

fn clean(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    format!("/{}", parts.join("/"))
}

fn bind(mount: &Mount) -> Value {
    let propagation = match mount.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = match (mount.read_only, mount.recursive_read_only) {
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    };
    json!({
        "destination": clean(&mount.container_path),
        "type": "bind",
        "source": mount.host_path,
        "options": ["rbind", propagation, access],
    })
}

/// Shared mounts need a root that lets them through.
fn root_propagation(mounts: &[Mount]) -> Option<&'static str> {
    if mounts.iter().any(|mount| mount.propagation == Propagation::Bidirectional) {
        return Some("rshared");
    }
    mounts.iter().any(|mount| mount.propagation == Propagation::HostToContainer).then_some("rslave")
}

fn device_rules(config: &ContainerConfig) -> Value {
    if config.security.privileged {
        return json!([{ "allow": true, "access": "rwm" }]);
    }
    let mut rules = vec![json!({ "allow": false, "access": "rwm" })];
    for device in &config.devices {
        rules.push(json!({
            "allow": true,
            "type": device.kind,
            "major": device.major,
            "minor": device.minor,
            "access": device.permissions,
        }));
    }
    json!(rules)
}

fn filter(inputs: &Inputs<'_>, capabilities: &[String]) -> Result<Option<Value>, Error> {
    let security = &inputs.config.security;
    if security.privileged || !inputs.facts.seccomp {
        return Ok(None);
    }
    match &security.seccomp {
        Seccomp::Unconfined => Ok(None),
        Seccomp::RuntimeDefault => Ok(Some(seccomp::default(&inputs.facts.architecture, capabilities))),
        Seccomp::Profile(text) => serde_json::from_str(text)
            .map(Some)
            .map_err(|reason| error(ErrorCode::Invalid, format!("seccomp profile: {reason}"))),
    }
}

/// An OCI `linux.resources` object.
pub fn resources(resources: &Resources) -> Value {
    let present = |entries: Vec<(&str, Option<Value>)>| -> Value {
        entries.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    };
    let mut all = json!({});
    let parts = [
        (
            "cpu",
            present(vec![
                ("shares", resources.cpu_shares.map(Value::from)),
                ("quota", resources.cpu_quota_microseconds.map(Value::from)),
                ("period", resources.cpu_period_microseconds.map(Value::from)),
                ("cpus", resources.cpuset_cpus.clone().map(Value::from)),
                ("mems", resources.cpuset_mems.clone().map(Value::from)),
            ]),
        ),
        (
            "memory",
            present(vec![
                ("limit", resources.memory_limit_bytes.map(Value::from)),
                ("swap", resources.memory_swap_limit_bytes.map(Value::from)),
            ]),
        ),
        ("pids", present(vec![("limit", resources.pids_limit.map(Value::from))])),
    ];
    for (name, part) in parts {
        if part.as_object().is_some_and(|part| !part.is_empty()) {
            all[name] = part;
        }
    }
    if !resources.hugepage_limits.is_empty() {
        all["hugepageLimits"] =
            resources.hugepage_limits.iter().map(|(size, limit)| json!({ "pageSize": size, "limit": limit })).collect();
    }
    if !resources.unified.is_empty() {
        let unified: BTreeMap<&str, &str> =
            resources.unified.iter().map(|entry| (entry.key.as_str(), entry.value.as_str())).collect();
        all["unified"] = json!(unified);
    }
    all
}

/// An OCI `process` object for a command in a container whose own process is given.
pub fn exec_process(process: &Value, request: &ExecRequest) -> Result<Value, Error> {
    if request.command.is_empty() {
        return Err(error(ErrorCode::Invalid, "no command specified"));
    }
    let mut process = process.clone();
    process["args"] = json!(request.command);
    process["terminal"] = json!(request.tty);
    if let (true, Some(environment)) = (request.tty, process["env"].as_array_mut()) {
        let is_terminal = |variable: &Value| variable.as_str().is_some_and(|text| text.starts_with("TERM="));
        if !environment.iter().any(is_terminal) {
            environment.push(json!("TERM=xterm"));
        }
    }
    Ok(process)
}
