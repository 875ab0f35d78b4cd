//! A pod's status, from its spec, what runs, what probes say and why things wait. Pure; fields, reasons and messages are
//! upstream's.

use std::collections::HashMap;
use std::net::IpAddr;

use gantry_plugin_host::contract::runtime::ContainerState as RuntimeState;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodStatus, ResourceRequirements, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::actions::{ProbeResult, Probed, restarts_after};
use crate::observed::{ContainerRecord, Observed};
use crate::pod::{self, ContainerKind, is_sidecar};
use crate::resources;

/// Why a container does not run, by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// `CrashLoopBackOff`, `ErrImagePull` …
    pub reason: String,
    /// For people.
    pub message: String,
}

/// What decides a pod's status besides the pod.
pub struct StatusInputs<'a> {
    /// What runs.
    pub observed: &'a Observed,
    /// What probes say.
    pub probed: &'a Probed,
    /// Why containers wait.
    pub waiting: &'a HashMap<String, Waiting>,
    /// Reason and message of a pod that the node ended (evicted, past its deadline, not admitted).
    pub ended: Option<(&'a str, &'a str)>,
    /// Nothing runs and nothing will again.
    pub is_over: bool,
    /// The pod's addresses, if the network is the node's own.
    pub host_ips: &'a [IpAddr],
    /// Names of runtimes: the part before `://` in container ids.
    pub runtime: &'a str,
    /// When the agent first saw the pod.
    pub start_time: Timestamp,
    /// Now, for conditions that change.
    pub now: Timestamp,
}

/// The whole status.
pub fn pod_status(pod: &Pod, inputs: &StatusInputs<'_>) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    let generation = pod.metadata.generation;
    let statuses = |kind: ContainerKind| -> Option<Vec<ContainerStatus>> {
        let list: Vec<ContainerStatus> = pod::all_containers(pod)
            .filter(|(of, _)| *of == kind)
            .map(|(_, container)| container_status(pod, kind, &container, &old, inputs))
            .collect();
        (!list.is_empty()).then_some(list)
    };
    let mut init = statuses(ContainerKind::Init);
    let mut app = statuses(ContainerKind::App);
    let ephemeral = statuses(ContainerKind::Ephemeral);
    if inputs.is_over {
        presume_lost(&mut init, &mut app);
    }
    let mut phase = compute_phase(pod, init.as_deref(), app.as_deref(), inputs.is_over).to_owned();
    if inputs.is_over && !pod::is_terminal_phase(&phase) {
        phase = "Failed".to_owned();
    }
    let old_phase = old.phase.as_deref().unwrap_or_default();
    if pod::is_terminal_phase(old_phase) {
        // What has ended stays ended.
        phase = old_phase.to_owned();
    }
    let (mut reason, mut message) = (old.reason.clone(), old.message.clone());
    if let Some((why, text)) = inputs.ended {
        phase = "Failed".to_owned();
        reason = Some(why.to_owned());
        message = Some(text.to_owned());
    }
    let sandbox = inputs.observed.sandbox();
    let pod_ips: Vec<IpAddr> = if pod::host_network(pod) {
        if sandbox.is_some() || old.pod_ip.is_some() { inputs.host_ips.to_vec() } else { Vec::new() }
    } else {
        sandbox.map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    };
    let pod_ips = if pod_ips.is_empty() {
        // Known addresses stay to be read after the sandbox is gone.
        old.pod_ips.clone().unwrap_or_default()
    } else {
        pod_ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()
    };
    let all_init = init.as_deref().unwrap_or_default();
    let all_app = app.as_deref();
    let ready_to_start = sandbox
        .is_some_and(|sandbox| sandbox.ready && (pod::host_network(pod) || !sandbox.ips.is_empty()))
        && !inputs.is_over;
    let containers_ready = containers_ready(pod, all_init, all_app, &phase);
    let ready = pod_ready(pod, &containers_ready, &old);
    let mut conditions = vec![
        judged("PodReadyToStartContainers", Verdict::plain(ready_to_start)),
        judged("Initialized", initialized(pod, all_init, all_app.unwrap_or_default(), &phase)),
        judged("Ready", ready),
        judged("ContainersReady", containers_ready),
        judged("PodScheduled", Verdict::plain(true)),
    ];
    for condition in &mut conditions {
        condition.observed_generation = generation;
        let before = old.conditions.iter().flatten().find(|known| known.type_ == condition.type_);
        condition.last_transition_time = match before {
            Some(before) if before.status == condition.status => before.last_transition_time.clone(),
            _ => Some(Time(inputs.now)),
        };
    }
    let ours: Vec<String> = conditions.iter().map(|condition| condition.type_.clone()).collect();
    conditions.extend(old.conditions.iter().flatten().filter(|known| !ours.contains(&known.type_)).cloned());
    let requests: resources::ResourceList =
        resources::pod_requests(pod).into_iter().map(|(name, amount)| (name, Quantity(amount.to_string()))).collect();
    let limits: resources::ResourceList = ["cpu", "memory"]
        .into_iter()
        .filter_map(|name| resources::pod_limit(pod, name).map(|limit| (name.to_owned(), Quantity(limit.to_string()))))
        .collect();
    let some = |list: resources::ResourceList| (!list.is_empty()).then_some(list);
    let qos = old.qos_class.clone().unwrap_or_else(|| resources::qos_class(pod).to_owned());
    let host_ips: Vec<HostIP> = inputs.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect();
    PodStatus {
        allocated_resources: some(requests.clone()),
        conditions: Some(conditions),
        container_statuses: app,
        ephemeral_container_statuses: ephemeral,
        host_ip: host_ips.first().map(|host| host.ip.clone()),
        host_ips: (!host_ips.is_empty()).then_some(host_ips),
        init_container_statuses: init,
        message,
        observed_generation: generation,
        phase: Some(phase),
        pod_ip: pod_ips.first().map(|first| first.ip.clone()),
        pod_ips: (!pod_ips.is_empty()).then_some(pod_ips),
        qos_class: Some(qos),
        reason,
        resources: Some(ResourceRequirements { claims: None, limits: some(limits), requests: some(requests) }),
        start_time: old.start_time.clone().or(Some(Time(inputs.start_time))),
        ..old
    }
}

fn terminated(record: &ContainerRecord, runtime: &str) -> ContainerStateTerminated {
    let reason = if !record.reason.is_empty() {
        record.reason.clone()
    } else if record.exit_code == 0 {
        "Completed".to_owned()
    } else {
        "Error".to_owned()
    };
    ContainerStateTerminated {
        container_id: Some(format!("{runtime}://{}", record.id)),
        exit_code: record.exit_code,
        finished_at: record.finished_at.map(Time),
        message: (!record.message.is_empty()).then(|| record.message.clone()),
        reason: Some(reason),
        signal: None,
        started_at: record.started_at.or(record.created_at).map(Time),
    }
}

fn ended_state(state: ContainerStateTerminated) -> ContainerState {
    ContainerState { terminated: Some(state), ..ContainerState::default() }
}

fn waiting_state(reason: &str, message: &str) -> ContainerState {
    let message = (!message.is_empty()).then(|| message.to_owned());
    let waiting = ContainerStateWaiting { message, reason: (!reason.is_empty()).then(|| reason.to_owned()) };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn container_status(
    pod: &Pod,
    kind: ContainerKind,
    container: &Container,
    old: &PodStatus,
    inputs: &StatusInputs<'_>,
) -> ContainerStatus {
    let newest = inputs.observed.newest(&container.name);
    let old_list = match kind {
        ContainerKind::Init => &old.init_container_statuses,
        ContainerKind::App => &old.container_statuses,
        ContainerKind::Ephemeral => &old.ephemeral_container_statuses,
    };
    let before = pod::find_status(old_list.as_deref().unwrap_or_default(), &container.name);
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        last_state: Some(ContainerState::default()),
        volume_mounts: mounts(container),
        started: Some(false),
        ..ContainerStatus::default()
    };
    if kind == ContainerKind::Ephemeral {
        status.started = None;
    }
    let Some(record) = newest else {
        // A container that the API knows as ended, and whose record is gone, has ended (a rebooted node, say).
        if let Some(before) = before
            && before.state.as_ref().is_some_and(|state| state.terminated.is_some())
            && !inputs.waiting.contains_key(&container.name)
        {
            return before.clone();
        }
        let default = if pod::init_containers(pod).is_empty() { "ContainerCreating" } else { "PodInitializing" };
        status.state = Some(match inputs.waiting.get(&container.name) {
            Some(waiting) => waiting_state(&waiting.reason, &waiting.message),
            None => waiting_state(default, ""),
        });
        if let Some(before) = before {
            status.restart_count = before.restart_count;
            status.last_state = before
                .state
                .as_ref()
                .filter(|state| state.terminated.is_some())
                .cloned()
                .or_else(|| before.last_state.clone())
                .or(status.last_state);
        }
        return status;
    };
    status.image = record.image.clone();
    status.image_id = record.image_id.clone();
    status.container_id = Some(format!("{}://{}", inputs.runtime, record.id));
    status.restart_count = i32::try_from(record.attempt).unwrap_or(i32::MAX);
    let own = container.resources.as_ref();
    status.resources = Some(ResourceRequirements {
        claims: None,
        limits: own.and_then(|r| r.limits.clone()).filter(|list| !list.is_empty()),
        requests: own.and_then(|r| r.requests.clone()).filter(|list| !list.is_empty()),
    });
    status.allocated_resources = own.and_then(|r| r.requests.clone()).filter(|list| !list.is_empty());
    if let Some(previous) = inputs.observed.previous(&container.name)
        && previous.has_exited()
    {
        status.last_state = Some(ended_state(terminated(previous, inputs.runtime)));
    } else if let Some(before) = before
        && record.attempt > 0
    {
        // The earlier instance was removed; the API remembers it.
        let remembered = before
            .state
            .as_ref()
            .filter(|state| state.terminated.as_ref().is_some_and(|ended| ended.container_id != status.container_id));
        status.last_state = remembered.cloned().or_else(|| before.last_state.clone()).or(status.last_state);
    }
    match record.state {
        RuntimeState::Running => {
            let running = ContainerStateRunning { started_at: record.started_at.map(Time) };
            status.state = Some(ContainerState { running: Some(running), ..ContainerState::default() });
            let probes = inputs.probed.get(&record.id).copied().unwrap_or_default();
            let started = container.startup_probe.is_none() || probes.startup == ProbeResult::Success;
            if kind != ContainerKind::Ephemeral {
                status.started = Some(started);
                status.ready = started
                    && (container.readiness_probe.is_none() || probes.readiness == ProbeResult::Success)
                    && (kind == ContainerKind::App || is_sidecar(container));
            }
        }
        RuntimeState::Exited => {
            status.state = Some(ended_state(terminated(record, inputs.runtime)));
            status.ready = kind == ContainerKind::Init && !is_sidecar(container) && record.exit_code == 0;
        }
        RuntimeState::Created => status.state = Some(waiting_state("ContainerCreating", "")),
        RuntimeState::Unknown => {
            status.state = Some(ended_state(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".to_owned()),
                message: Some("The container could not be located when the pod was terminated".to_owned()),
                ..terminated(record, inputs.runtime)
            }));
        }
    }
    // A reason to wait hides the end, unless the container stays ended.
    if let Some(waiting) = inputs.waiting.get(&container.name)
        && record.has_exited()
        && !inputs.is_over
        && restarts_after(pod, container, record.exit_code)
    {
        status.last_state = Some(ended_state(terminated(record, inputs.runtime)));
        status.state = Some(waiting_state(&waiting.reason, &waiting.message));
        status.ready = false;
    } else if let Some(waiting) = inputs.waiting.get(&container.name)
        && record.state == RuntimeState::Created
    {
        status.state = Some(waiting_state(&waiting.reason, &waiting.message));
    }
    status
}

fn mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let list: Vec<VolumeMountStatus> = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|mount| VolumeMountStatus {
            mount_path: mount.mount_path.clone(),
            name: mount.name.clone(),
            read_only: mount.read_only.filter(|read_only| *read_only),
            recursive_read_only: mount.read_only.filter(|read_only| *read_only).map(|_| {
                match mount.recursive_read_only.as_deref() {
                    Some("Enabled") => "Enabled",
                    _ => "Disabled",
                }
                .to_owned()
            }),
            volume_status: None,
        })
        .collect();
    (!list.is_empty()).then_some(list)
}

/// Of a pod that is over, containers without an end count as lost, unless they never could have run.
fn presume_lost(init: &mut Option<Vec<ContainerStatus>>, app: &mut Option<Vec<ContainerStatus>>) {
    let lost = || {
        ended_state(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            ..ContainerStateTerminated::default()
        })
    };
    let ran = |status: &ContainerStatus| {
        status.last_state.as_ref().is_some_and(|state| state.terminated.is_some())
            || status.state.as_ref().is_none_or(|state| state.waiting.is_none())
    };
    let mark = |status: &mut ContainerStatus| {
        let ended = status.state.as_ref().is_some_and(|state| state.terminated.is_some());
        if !ended {
            status.state = Some(lost());
        }
        status.ready = false;
        status.started = status.started.map(|_| false);
    };
    let app_list = app.as_deref_mut().unwrap_or_default();
    let init_list = init.as_deref_mut().unwrap_or_default();
    let initialized = init_list.is_empty()
        || app_list.iter().any(ran)
        || init_list.last().is_some_and(|last| {
            last.state.as_ref().and_then(|state| state.terminated.as_ref()).is_some_and(|ended| ended.exit_code == 0)
        });
    if initialized {
        app_list.iter_mut().for_each(mark);
    }
    let reached = if initialized { init_list.len() } else { init_list.iter().rposition(ran).map_or(0, |at| at + 1) };
    for status in &mut init_list[..reached] {
        let ready = status.ready;
        mark(status);
        // A finished init container did its part.
        status.ready = ready
            && status.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|ended| ended.exit_code == 0);
    }
}

/// `status.phase` (upstream's `getPhase`).
pub fn compute_phase(
    pod: &Pod,
    init: Option<&[ContainerStatus]>,
    app: Option<&[ContainerStatus]>,
    is_over: bool,
) -> &'static str {
    let ended = |state: &Option<ContainerState>| state.as_ref().and_then(|state| state.terminated.clone());
    let is_waiting = |status: &ContainerStatus| status.state.as_ref().is_none_or(|s| s.waiting.is_some());
    let is_running = |status: &ContainerStatus| status.state.as_ref().is_some_and(|s| s.running.is_some());
    let mut pending_init = 0;
    let mut pending_sidecars = 0;
    for container in pod::init_containers(pod) {
        let sidecar = is_sidecar(container);
        let status = pod::find_status(init.unwrap_or_default(), &container.name);
        let Some(status) = status else {
            if sidecar {
                pending_sidecars += 1
            } else {
                pending_init += 1
            }
            continue;
        };
        if sidecar {
            if is_waiting(status) && ended(&status.last_state).is_none()
                || is_running(status) && status.started != Some(true)
            {
                pending_sidecars += 1;
            }
            continue;
        }
        if let Some(end) = ended(&status.state) {
            if end.exit_code != 0 {
                if !restarts_after(pod, container, end.exit_code) {
                    return "Failed";
                }
                pending_init += 1;
            }
        } else {
            match ended(&status.last_state).filter(|_| is_waiting(status)) {
                Some(end) if end.exit_code == 0 => {}
                Some(end) if !restarts_after(pod, container, end.exit_code) => return "Failed",
                _ => pending_init += 1,
            }
        }
    }
    let (mut unknown, mut running, mut waiting, mut stopped, mut succeeded, mut restarting) = (0, 0, 0, 0, 0, 0);
    for container in pod::containers(pod) {
        let Some(status) = pod::find_status(app.unwrap_or_default(), &container.name) else {
            unknown += 1;
            continue;
        };
        if is_running(status) {
            running += 1;
            continue;
        }
        match ended(&status.state).or_else(|| ended(&status.last_state)) {
            Some(end) => {
                stopped += 1;
                if end.exit_code == 0 {
                    succeeded += 1;
                }
                if restarts_after(pod, container, end.exit_code) {
                    restarting += 1;
                }
            }
            None => waiting += 1,
        }
    }
    let started = running + stopped > 0;
    if !is_over && !started && pending_init + pending_sidecars > 0 {
        return "Pending";
    }
    if waiting > 0 {
        "Pending"
    } else if running > 0 && unknown == 0 {
        "Running"
    } else if running == 0 && stopped > 0 && unknown == 0 {
        if is_over {
            return if stopped == succeeded { "Succeeded" } else { "Failed" };
        }
        if restarting > 0 {
            "Running"
        } else if stopped == succeeded {
            "Succeeded"
        } else {
            "Failed"
        }
    } else {
        "Pending"
    }
}

/// What a condition says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Verdict {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn plain(holds: bool) -> Self {
        Self { holds, ..Self::default() }
    }

    fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { holds: false, reason, message: message.into() }
    }
}

fn judged(type_: &str, verdict: Verdict) -> PodCondition {
    PodCondition {
        type_: type_.to_owned(),
        status: if verdict.holds { "True" } else { "False" }.to_owned(),
        reason: (!verdict.reason.is_empty()).then(|| verdict.reason.to_owned()),
        message: (!verdict.message.is_empty()).then_some(verdict.message),
        ..PodCondition::default()
    }
}

fn initialized(pod: &Pod, init: &[ContainerStatus], app: &[ContainerStatus], phase: &str) -> Verdict {
    let mut unknown = Vec::new();
    let mut incomplete = Vec::new();
    for container in pod::init_containers(pod) {
        match pod::find_status(init, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if is_sidecar(container) => {
                if status.started != Some(true) {
                    incomplete.push(container.name.as_str());
                }
            }
            Some(status) if !status.ready => incomplete.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Verdict { holds: true, reason: "PodCompleted", message: String::new() };
    }
    // A regular container that was started proves it.
    let any_started = app.iter().any(|status| {
        status.started == Some(true)
            || status.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
            || status.last_state.as_ref().is_some_and(|state| state.terminated.is_some())
    });
    if any_started {
        return Verdict::plain(true);
    }
    unready("ContainersNotInitialized", "incomplete", &unknown, &incomplete)
}

fn unready(reason: &'static str, word: &str, unknown: &[&str], unready: &[&str]) -> Verdict {
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(format!("containers with unknown status: [{}]", unknown.join(" ")));
    }
    if !unready.is_empty() {
        parts.push(format!("containers with {word} status: [{}]", unready.join(" ")));
    }
    if parts.is_empty() { Verdict::plain(true) } else { Verdict::no(reason, parts.join(", ")) }
}

fn containers_ready(pod: &Pod, init: &[ContainerStatus], app: Option<&[ContainerStatus]>, phase: &str) -> Verdict {
    let Some(app) = app else { return Verdict::no("UnknownContainerStatuses", "") };
    let mut unknown = Vec::new();
    let mut not_ready = Vec::new();
    let sidecars = pod::init_containers(pod).iter().filter(|container| is_sidecar(container));
    for (container, statuses) in
        sidecars.map(|container| (container, init)).chain(pod::containers(pod).iter().map(|container| (container, app)))
    {
        match pod::find_status(statuses, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => not_ready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    match phase {
        "Succeeded" if unknown.is_empty() => Verdict::no("PodCompleted", ""),
        "Failed" if unknown.is_empty() => Verdict::no("PodFailed", ""),
        _ => unready("ContainersNotReady", "unready", &unknown, &not_ready),
    }
}

fn pod_ready(pod: &Pod, containers_ready: &Verdict, old: &PodStatus) -> Verdict {
    if !containers_ready.holds {
        return containers_ready.clone();
    }
    let mut messages = Vec::new();
    for gate in pod::spec(pod).readiness_gates.iter().flatten() {
        let name = &gate.condition_type;
        match old.conditions.iter().flatten().find(|condition| &condition.type_ == name) {
            None => messages.push(format!("corresponding condition of pod readiness gate \"{name}\" does not exist.")),
            Some(condition) if condition.status != "True" => {
                messages.push(format!(
                    "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                    condition.status
                ));
            }
            Some(_) => {}
        }
    }
    if messages.is_empty() { Verdict::plain(true) } else { Verdict::no("ReadinessGatesNotReady", messages.join(", ")) }
}
