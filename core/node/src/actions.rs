//! What to do for a pod that shall run: from what it asks for and what runs, to sandboxes and containers to make and to
//! kill. Pure; the order and the rules are upstream's (`computePodActions`, KEP-753 for sidecars, KEP-5307 for restart
//! rules of containers).

use std::collections::{BTreeMap, HashMap};

use gantry_plugin_host::contract::runtime::ContainerState;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::observed::{ContainerRecord, Observed};
use crate::pod::{self, is_sidecar};

/// What a probe last said, by upstream's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProbeResult {
    /// Nothing yet.
    #[default]
    Unknown,
    /// It is well.
    Success,
    /// It is not, and the threshold is reached.
    Failure,
}

/// What the probes of one container instance say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeResults {
    /// Of the startup probe.
    pub startup: ProbeResult,
    /// Of the liveness probe.
    pub liveness: ProbeResult,
    /// Of the readiness probe.
    pub readiness: ProbeResult,
}

/// Probe results by container id.
pub type Probed = HashMap<String, ProbeResults>;

/// Why a container is killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// The container's name.
    pub name: String,
    /// The event's message; empty: `Stopping container NAME`.
    pub message: String,
    /// Which probe wants it, as that one may have a grace period of its own.
    pub reason: KillReason,
}

/// What a container is killed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// The pod ends.
    PodEnds,
    /// Its definition changed or its state is not known.
    Restart,
    /// The startup probe failed.
    StartupProbe,
    /// The liveness probe failed.
    LivenessProbe,
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// Stop all that runs, sandbox included (before a new one is made, or as nothing is left to run).
    pub kill_pod: bool,
    /// Make a sandbox.
    pub create_sandbox: bool,
    /// Its attempt number.
    pub sandbox_attempt: u32,
    /// Init containers to start, by index.
    pub init_containers: Vec<usize>,
    /// App containers to start, by index.
    pub containers: Vec<usize>,
    /// Ephemeral containers to start, by index.
    pub ephemeral_containers: Vec<usize>,
    /// Containers to kill, by id.
    pub kill: BTreeMap<String, Kill>,
}

/// Whether a container that exited with that code is started again, by its own rules, its own policy, or the pod's.
pub fn restarts_after(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    if let Some(policy) = container.restart_policy.as_deref() {
        for rule in container.restart_policy_rules.iter().flatten() {
            let Some(codes) = &rule.exit_codes else { continue };
            let listed = codes.values.as_deref().unwrap_or_default().contains(&exit_code);
            let hit = match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            };
            if hit {
                return rule.action == "Restart" || rule.action == "RestartAllContainers";
            }
        }
        return by_policy(policy, exit_code);
    }
    by_policy(pod::restart_policy(pod), exit_code)
}

fn by_policy(policy: &str, exit_code: i32) -> bool {
    match policy {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// Whether a failure of the container may ever be followed by a restart.
fn restarts_on_failure(pod: &Pod, container: &Container) -> bool {
    match container.restart_policy.as_deref() {
        Some("Never") => container.restart_policy_rules.as_ref().is_some_and(|rules| !rules.is_empty()),
        Some(_) => true,
        None => pod::restart_policy(pod) != "Never",
    }
}

fn should_start(pod: &Pod, container: &Container, record: Option<&ContainerRecord>) -> bool {
    if pod::is_deleted(pod) {
        return false;
    }
    match record {
        None => true,
        Some(record) => match record.state {
            ContainerState::Running => false,
            ContainerState::Created | ContainerState::Unknown => true,
            ContainerState::Exited => restarts_after(pod, container, record.exit_code),
        },
    }
}

/// Whether the pod needs a new sandbox, and the attempt number of the next one.
fn sandbox_changed(pod: &Pod, observed: &Observed) -> (bool, u32) {
    let Some(newest) = observed.sandbox() else { return (true, 0) };
    let ready = observed.sandboxes.iter().filter(|sandbox| sandbox.ready).count();
    let next = newest.attempt + 1;
    if ready > 1 || !newest.ready {
        return (true, next);
    }
    // A sandbox that was made without an address, though the pod has its own network, lost it.
    if !pod::host_network(pod) && newest.ips.is_empty() {
        return (true, next);
    }
    (false, newest.attempt)
}

/// Decides what to do for a pod that shall run.
pub fn compute(pod: &Pod, observed: &Observed, probed: &Probed) -> Actions {
    let (create, attempt) = sandbox_changed(pod, observed);
    let mut actions =
        Actions { kill_pod: create, create_sandbox: create, sandbox_attempt: attempt, ..Actions::default() };
    let app = pod::containers(pod);
    if create {
        new_sandbox(pod, app, observed, attempt, &mut actions);
        return actions;
    }
    for (index, container) in pod::ephemeral_containers(pod).iter().enumerate() {
        if observed.newest(&container.name).is_none() {
            actions.ephemeral_containers.push(index);
        }
    }
    let initialized = init_actions(pod, observed, probed, &mut actions);
    if actions.kill_pod || !initialized {
        return actions;
    }
    let mut keep = 0;
    for (index, container) in app.iter().enumerate() {
        let record = observed.newest(&container.name);
        let running = match record {
            Some(record) if record.is_running() => record,
            _ => {
                if should_start(pod, container, record) {
                    actions.containers.push(index);
                    if let Some(record) = record.filter(|record| record.state == ContainerState::Unknown) {
                        let message = "Container is in unknown state, try killing it before restart";
                        kill(&mut actions, record, message.to_owned(), KillReason::Restart);
                    }
                }
                continue;
            }
        };
        let name = &container.name;
        let mut restart = restarts_on_failure(pod, container);
        let probes = probed.get(&running.id).copied().unwrap_or_default();
        let (mut message, reason) = if !running.hash.is_empty() && running.hash != pod::container_hash(container) {
            restart = true;
            (format!("Container {name} definition changed"), KillReason::Restart)
        } else if probes.liveness == ProbeResult::Failure {
            (format!("Container {name} failed liveness probe"), KillReason::LivenessProbe)
        } else if probes.startup == ProbeResult::Failure {
            (format!("Container {name} failed startup probe"), KillReason::StartupProbe)
        } else {
            keep += 1;
            continue;
        };
        if restart {
            message.push_str(", will be restarted");
            actions.containers.push(index);
        }
        kill(&mut actions, running, message, reason);
    }
    if keep == 0 && actions.containers.is_empty() {
        // Nothing is left but sidecars, and they don't keep a pod alive.
        actions.kill_pod = true;
        actions.init_containers.clear();
    }
    actions
}

fn kill(actions: &mut Actions, record: &ContainerRecord, message: String, reason: KillReason) {
    actions.kill.insert(record.id.clone(), Kill { name: record.name.clone(), message, reason });
}

fn new_sandbox(pod: &Pod, app: &[Container], observed: &Observed, attempt: u32, actions: &mut Actions) {
    let may_restart = app.iter().any(|container| restarts_on_failure(pod, container));
    if !may_restart && attempt != 0 && !observed.containers.is_empty() {
        // The pod had its chance: no new sandbox, only the end of the old one.
        actions.create_sandbox = false;
        return;
    }
    let start: Vec<usize> = app
        .iter()
        .enumerate()
        .filter(|(_, container)| match observed.newest(&container.name) {
            Some(record) if record.has_exited() => restarts_after(pod, container, record.exit_code),
            _ => true,
        })
        .map(|(index, _)| index)
        .collect();
    if start.is_empty() {
        actions.create_sandbox = false;
        return;
    }
    if !pod::init_containers(pod).is_empty() {
        // A new sandbox starts from the beginning.
        actions.init_containers = vec![0];
        return;
    }
    actions.containers = start;
}

/// Fills in what to do about init containers; tells whether the app containers may run.
fn init_actions(pod: &Pod, observed: &Observed, probed: &Probed, actions: &mut Actions) -> bool {
    let init = pod::init_containers(pod);
    if init.is_empty() {
        return true;
    }
    let Some(sandbox) = observed.sandbox() else { return false };
    // App containers that were made in this sandbox prove that initialization is over.
    let mut initialized = pod::containers(pod).iter().any(|container| {
        observed
            .newest(&container.name)
            .is_some_and(|record| record.state != ContainerState::Unknown && record.sandbox_id == sandbox.id)
    });
    let before = initialized;
    let mut later_known = before;
    for (index, container) in init.iter().enumerate().rev() {
        let sidecar = is_sidecar(container);
        let Some(record) = observed.newest(&container.name).filter(|record| record.sandbox_id == sandbox.id) else {
            // Its record is gone though later ones exist: a sidecar must run all the same.
            if later_known && sidecar {
                actions.init_containers.push(index);
            }
            continue;
        };
        if later_known && !sidecar {
            continue;
        }
        let last = index + 1 == init.len();
        match record.state {
            ContainerState::Created => actions.init_containers.push(index),
            ContainerState::Running if sidecar => {
                let probes = probed.get(&record.id).copied().unwrap_or_default();
                let name = &container.name;
                let restart = |actions: &mut Actions, message: String, reason| {
                    kill(actions, record, message, reason);
                    actions.init_containers.push(index);
                };
                if container.startup_probe.is_some() && probes.startup != ProbeResult::Success {
                    if probes.startup == ProbeResult::Failure {
                        let message = format!("Init container {name} failed startup probe");
                        restart(actions, message, KillReason::StartupProbe);
                    }
                } else {
                    if !later_known {
                        if last {
                            initialized = true;
                        } else {
                            actions.init_containers.push(index + 1);
                        }
                    }
                    if !record.hash.is_empty() && record.hash != pod::container_hash(container) {
                        let message = format!("Init container {name} definition changed");
                        restart(actions, message, KillReason::Restart);
                    } else if probes.liveness == ProbeResult::Failure {
                        let message = format!("Init container {name} failed liveness probe");
                        restart(actions, message, KillReason::LivenessProbe);
                    }
                }
            }
            ContainerState::Running => {}
            ContainerState::Exited if sidecar => actions.init_containers.push(index),
            ContainerState::Exited if record.exit_code != 0 => {
                if restarts_after(pod, container, record.exit_code) {
                    actions.init_containers.push(index);
                } else {
                    actions.kill_pod = true;
                    actions.init_containers.clear();
                    return false;
                }
            }
            ContainerState::Exited if last => initialized = true,
            ContainerState::Exited => actions.init_containers.push(index + 1),
            ContainerState::Unknown => {
                if !sidecar && !restarts_on_failure(pod, container) {
                    actions.kill_pod = true;
                    return false;
                }
                let message = "Init container is in \"unknown\" state, try killing it before restart".to_owned();
                kill(actions, record, message, KillReason::Restart);
                actions.init_containers.push(index);
            }
        }
        later_known = true;
    }
    if !later_known {
        actions.init_containers.push(0);
    }
    actions.init_containers.sort_unstable();
    actions.init_containers.dedup();
    initialized
}

#[cfg(test)]
#[path = "actions_tests.rs"]
mod tests;
