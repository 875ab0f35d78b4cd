//! Resources of running containers that change in place (KEP-1287): what the node can give is applied, what it can't is
//! said by the condition `PodResizePending`.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, ResourceRequirements};

use super::PodWorker;
use super::kill::{Killer, Order};
use crate::actions::KillReason;
use crate::observed::ContainerRecord;
use crate::pod::{self, is_sidecar};
use crate::resources::{ResourceList, amount, container_resources, pod_requests};
use tokio::time::Instant;

/// How long until a resize that other pods leave no room for is looked at again.
const DEFERRED_RETRY: Duration = Duration::from_secs(60);

/// Why a resize waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    reason: &'static str,
    message: String,
}

/// Whether the node can give a pod what it now asks for: never, not now, or yes. Pure.
fn verdict<'a>(
    pod: &Pod,
    allocatable: &ResourceList,
    others: impl Iterator<Item = &'a Pod> + Clone,
) -> Option<Pending> {
    for (name, wanted) in pod_requests(pod) {
        if name != "cpu" && name != "memory" {
            continue;
        }
        let capacity = allocatable.get(&name).map(amount)?;
        let number = |value: &gantry_api::quantity::Quantity| {
            if name == "cpu" { value.milli_value() } else { value.value() }
        };
        if wanted > capacity {
            let message = format!(
                "Node didn't have enough capacity: {name}, requested: {}, capacity: {}",
                number(&wanted),
                number(&capacity)
            );
            return Some(Pending { reason: "Infeasible", message });
        }
        let mut used = gantry_api::quantity::Quantity::from_i64(0);
        for other in others.clone() {
            if let Some(value) = pod_requests(other).get(&name) {
                used = used.plus(value);
            }
        }
        if used.plus(&wanted) > capacity {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {}, used: {}, capacity: {}",
                number(&wanted),
                number(&used),
                number(&capacity)
            );
            return Some(Pending { reason: "Deferred", message });
        }
    }
    None
}

/// Whether a change of that kind restarts the container (`resizePolicy`). Pure.
fn restarts(container: &Container, before: &ResourceRequirements, after: &ResourceRequirements) -> bool {
    let changed = |name: &str| {
        let of = |list: &Option<ResourceList>| list.as_ref().and_then(|list| list.get(name)).map(amount);
        of(&before.requests) != of(&after.requests) || of(&before.limits) != of(&after.limits)
    };
    container
        .resize_policy
        .iter()
        .flatten()
        .any(|policy| policy.restart_policy == "RestartContainer" && changed(&policy.resource_name))
}

/// A pod with the resources that its containers have been given.
pub fn with_allocated(pod: &Pod, allocated: &super::Allocated) -> Pod {
    let mut out = pod.clone();
    if let Some(spec) = &mut out.spec {
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            if let Some(given) = allocated.get(&container.name) {
                container.resources = Some(given.clone());
            }
        }
    }
    out
}

impl PodWorker {
    fn resizable(&self) -> Vec<Container> {
        let sidecars = pod::init_containers(&self.pod).iter().filter(|container| is_sidecar(container));
        pod::containers(&self.pod).iter().chain(sidecars).cloned().collect()
    }

    /// Applies what changed. Called after each step; nothing to do is the rule.
    pub(super) async fn resize(&mut self) {
        let wanted = |container: &Container| container.resources.clone().unwrap_or_default();
        let containers = self.resizable();
        let differs = containers
            .iter()
            .any(|container| self.allocated.get(&container.name).is_some_and(|given| *given != wanted(container)));
        for container in &containers {
            if !self.allocated.contains_key(&container.name) {
                self.allocated.insert(container.name.clone(), wanted(container));
            }
        }
        if !differs {
            self.resize_pending = None;
            return;
        }
        let others: Vec<Arc<Pod>> = self.other_pods();
        let verdict = verdict(&self.pod, &self.context.allocatable, others.iter().map(|pod| &**pod));
        if let Some(pending) = verdict {
            if pending.reason == "Deferred" {
                self.wake_after(DEFERRED_RETRY);
            }
            self.resize_pending = Some(pending);
            return;
        }
        self.resize_pending = None;
        let Ok(runtime) = self.runtime() else { return };
        // A pod's cgroup must be as wide as its containers' at every moment: wider first, narrower last.
        self.context.cgroups.ensure(&self.pod);
        for container in containers {
            let after = wanted(&container);
            let before = self.allocated.get(&container.name).cloned().unwrap_or_default();
            let newest = self.observed.newest(&container.name).cloned();
            let running = newest.filter(ContainerRecord::is_running);
            if before == after {
                continue;
            }
            if let Some(record) = running {
                if restarts(&container, &before, &after) {
                    let message = format!("Container {} resize requires restart", container.name);
                    let killer =
                        Killer { context: &self.context, runtime: &runtime, pod: &self.pod, observed: &self.observed };
                    let order = Order { message: &message, reason: KillReason::Restart, grace: None };
                    killer.one(&record, order, Instant::now()).await;
                    self.look_at(&record.id).await;
                    self.wake_now();
                } else {
                    let resources = container_resources(&self.pod, &container);
                    if let Err(error) = runtime.update_resources(&record.id, &resources).await {
                        let note = format!("failed to resize container {:?}: {error}", container.name);
                        self.event(true, "ResizeError", note);
                        self.retry_soon();
                        continue;
                    }
                }
            }
            self.allocated.insert(container.name.clone(), after);
        }
        self.context.cgroups.ensure(&self.pod);
    }

    /// The condition of a resize that waits.
    pub(super) fn resize_condition(&self) -> Option<PodCondition> {
        let pending = self.resize_pending.as_ref()?;
        Some(PodCondition {
            type_: "PodResizePending".to_owned(),
            status: "True".to_owned(),
            reason: Some(pending.reason.to_owned()),
            message: Some(pending.message.clone()),
            observed_generation: self.pod.metadata.generation,
            ..PodCondition::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(cpu: &str) -> Pod {
        serde_json::from_value(
            json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}),
        )
        .expect("a pod")
    }

    #[test]
    fn what_the_node_has_decides() {
        let allocatable: ResourceList = serde_json::from_value(json!({"cpu": "2", "memory": "1Gi"})).expect("a list");
        let others = [pod("1")];
        let reason = |cpu: &str| verdict(&pod(cpu), &allocatable, others.iter()).map(|pending| pending.reason);
        assert_eq!((reason("1"), reason("1500m"), reason("3")), (None, Some("Deferred"), Some("Infeasible")));
    }

    #[test]
    fn the_policy_of_the_resource_that_changes_counts() {
        let container: Container = serde_json::from_value(json!({"name": "c", "resizePolicy": [
            {"resourceName": "memory", "restartPolicy": "RestartContainer"},
            {"resourceName": "cpu", "restartPolicy": "NotRequired"},
        ]}))
        .expect("a container");
        let of = |cpu: &str, memory: &str| -> ResourceRequirements {
            serde_json::from_value(json!({"requests": {"cpu": cpu, "memory": memory}})).expect("resources")
        };
        assert!(!restarts(&container, &of("1", "1Gi"), &of("2", "1Gi")));
        assert!(restarts(&container, &of("1", "1Gi"), &of("1", "2Gi")));
        assert!(!restarts(&container, &of("1", "1Gi"), &of("1000m", "1024Mi")), "equal in other words");
    }
}
