//! Pods: binding to a node, eviction within disruption budgets, ephemeral containers.

use gantry_api::error::ApiError;
use gantry_api::object::{Object, i64_at, items_at, map_at, map_mut, str_at};
use gantry_api::resources::Resource;
use gantry_api::selectors::LabelSelector;
use jiff::Timestamp;
use serde_json::json;

use super::delete::Deleted;
use super::options::DeleteOptions;
use super::update::Door;
use super::{Call, Registry, timestamp, update};
use crate::cache::selection::Scope;

/// How long a budget waits for a pod it has let go to disappear (upstream's `DeletionTimeout`), in disrupted pods.
const DISRUPTED_PODS_MAX: usize = 2000;

/// Whether a resource is the pods.
pub fn is_pod(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "pods"
}

/// Pods that run nowhere have no grace period.
pub fn goes_at_once(pod: &Object) -> bool {
    str_at(pod, "spec.nodeName").is_empty() || matches!(str_at(pod, "status.phase"), "Succeeded" | "Failed")
}

impl Registry {
    /// POST on `/binding`: assigns a pod to a node.
    pub async fn bind(&self, call: &Call<'_>, binding: &Object) -> Result<(), ApiError> {
        let subject = ("", "pods/binding");
        let name = str_at(binding, "metadata.name");
        if !name.is_empty() && name != call.name {
            return Err(ApiError::bad_request(format!(
                "name in URL does not match name in Binding object: {} != {name}",
                call.name
            )));
        }
        let target = str_at(binding, "target.name");
        let kind = str_at(binding, "target.kind");
        let mut errors = Vec::new();
        let path = gantry_api::field::FieldPath::new("target");
        if !matches!(kind, "" | "Node") {
            errors.push(gantry_api::field::FieldError::not_supported(&path.child("kind"), kind, &["Node", "<empty>"]));
        }
        if target.is_empty() {
            errors.push(gantry_api::field::FieldError::required(&path.child("name"), ""));
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid(("", "Binding"), call.name, &errors));
        }
        let uid = str_at(binding, "metadata.uid");
        let annotations = map_at(binding, "metadata.annotations");
        let labels = map_at(binding, "metadata.labels");
        self.update(call, Door::Special, &|pod| {
            let refuse = |cause: String| Err(ApiError::conflict(subject, call.name, &cause));
            if !uid.is_empty() && uid != super::metadata::uid(pod) {
                return Err(ApiError::conflict(
                    ("", "pods"),
                    call.name,
                    &format!(
                        "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                        super::metadata::uid(pod)
                    ),
                ));
            }
            if super::metadata::is_terminating(pod) {
                return refuse(format!("pod {} is being deleted, cannot be assigned to a host", call.name));
            }
            let node = str_at(pod, "spec.nodeName");
            if !node.is_empty() {
                return refuse(format!("pod {} is already assigned to node {node:?}", call.name));
            }
            if !items_at(pod, "spec.schedulingGates").is_empty() {
                return refuse(format!("pod {} has non-empty .spec.schedulingGates", call.name));
            }
            let mut pod = update::without_version(pod.clone());
            map_mut(&mut pod, "spec").insert("nodeName".to_owned(), json!(target));
            for (field, given) in [("annotations", annotations), ("labels", labels)] {
                if let Some(given) = given.filter(|given| !given.is_empty()) {
                    let path = format!("metadata.{field}");
                    map_mut(&mut pod, &path).extend(given.clone());
                }
            }
            set_condition(&mut pod, "PodScheduled", "True", "", "");
            Ok(pod)
        })
        .await
        .map(|_| ())
    }

    /// POST on `/eviction`: deletes a pod if its disruption budget allows that.
    pub async fn evict(&self, call: &Call<'_>, eviction: &Object) -> Result<(), ApiError> {
        let name = str_at(eviction, "metadata.name");
        if !name.is_empty() && name != call.name {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
        }
        let options = DeleteOptions::parse(None, eviction.get("deleteOptions").filter(|options| options.is_object()))?;
        let pod = self.cached(call)?.ok_or_else(|| call.not_found())?.object;
        let dry_run = call.dry_run || options.dry_run;
        let call = Call { dry_run, ..*call };
        if !can_ignore_budget(&pod) {
            self.spend_budget(&call, &pod).await?;
        }
        if !dry_run && !goes_at_once(&pod) {
            self.mark_disrupted(&call).await?;
        }
        let (deleted, _) = self.delete(&call.on(""), &options).await?;
        match deleted {
            Deleted::Object(_) | Deleted::Gone { .. } => Ok(()),
        }
    }

    /// Adds the condition that says why the pod goes.
    async fn mark_disrupted(&self, call: &Call<'_>) -> Result<(), ApiError> {
        self.update(&call.on("status"), Door::Special, &|pod| {
            let mut pod = update::without_version(pod.clone());
            set_condition(&mut pod, "DisruptionTarget", "True", "EvictionByEvictionAPI", "Eviction API: evicting");
            Ok(pod)
        })
        .await
        .map(|_| ())
    }

    /// Takes one disruption from the budget that covers a pod.
    async fn spend_budget(&self, call: &Call<'_>, pod: &Object) -> Result<(), ApiError> {
        let Some(table) = self.table.get("policy", "v1", "poddisruptionbudgets") else { return Ok(()) };
        let stored = self.stored(table)?;
        let snapshot = stored.cache.snapshot(self.caches.applied.revision());
        let budgets: Vec<Object> = snapshot
            .range(&Scope::Namespace(call.namespace.to_owned()), None)
            .filter_map(|entry| entry.decode().ok())
            .filter(|budget| covers(budget, pod))
            .collect();
        let [budget] = budgets.as_slice() else {
            if budgets.is_empty() {
                return Ok(());
            }
            return Err(ApiError::plain(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        };
        let name = str_at(budget, "metadata.name").to_owned();
        let ready = is_ready(pod);
        let policy = str_at(budget, "spec.unhealthyPodEvictionPolicy");
        let healthy = i64_at(budget, "status.currentHealthy").unwrap_or_default();
        let desired = i64_at(budget, "status.desiredHealthy").unwrap_or_default();
        let enough = desired > 0 && healthy >= desired;
        if !ready && (policy == "AlwaysAllow" || enough) {
            return Ok(());
        }
        let budget_call = Call { resource: table, name: &name, subresource: "status", ..*call };
        self.update(&budget_call, Door::Special, &|budget| {
            spend(budget, call.name, Timestamp::now()).map(update::without_version)
        })
        .await
        .map(|_| ())
    }
}

/// Whether a pod may go whatever budgets say: it has ended, or never started, or goes already.
fn can_ignore_budget(pod: &Object) -> bool {
    matches!(str_at(pod, "status.phase"), "Succeeded" | "Failed" | "Pending") || super::metadata::is_terminating(pod)
}

fn covers(budget: &Object, pod: &Object) -> bool {
    let selector = &budget["spec"]["selector"];
    if selector.is_null() {
        return false;
    }
    let labels = map_at(pod, "metadata.labels");
    LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches(|key| labels?.get(key)?.as_str()))
}

fn is_ready(pod: &Object) -> bool {
    items_at(pod, "status.conditions")
        .iter()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// A budget with one disruption less, or upstream's refusal.
fn spend(budget: &Object, pod: &str, now: Timestamp) -> Result<Object, ApiError> {
    let name = str_at(budget, "metadata.name");
    let text = "Cannot evict pod as it would violate the pod's disruption budget.";
    let observed = i64_at(budget, "status.observedGeneration").unwrap_or_default();
    if observed < i64_at(budget, "metadata.generation").unwrap_or_default() {
        return Err(ApiError::too_many_requests(text, 10).with_cause(
            "DisruptionBudget",
            format!("The disruption budget {name} is still being processed by the server."),
            "",
        ));
    }
    let allowed = i64_at(budget, "status.disruptionsAllowed").unwrap_or_default();
    if allowed < 0 {
        return Err(ApiError::forbidden(
            ("policy", "poddisruptionbudgets"),
            name,
            "pdb disruptions allowed is negative",
        ));
    }
    let disrupted = map_at(budget, "status.disruptedPods").map_or(0, |pods| pods.len());
    if disrupted > DISRUPTED_PODS_MAX {
        return Err(ApiError::forbidden(
            ("policy", "poddisruptionbudgets"),
            name,
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        let desired = i64_at(budget, "status.desiredHealthy").unwrap_or_default();
        let healthy = i64_at(budget, "status.currentHealthy").unwrap_or_default();
        let cause = format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently");
        let error = ApiError::too_many_requests(text, 0).with_cause("DisruptionBudget", cause, "");
        return Err(error);
    }
    let mut budget = budget.clone();
    let status = map_mut(&mut budget, "status");
    status.insert("disruptionsAllowed".to_owned(), json!(allowed - 1));
    map_mut(&mut budget, "status.disruptedPods").insert(pod.to_owned(), json!(timestamp(now)));
    Ok(budget)
}

/// Sets a condition of a pod's status; the transition time changes with the status only.
pub fn set_condition(pod: &mut Object, kind: &str, status: &str, reason: &str, message: &str) {
    let now = json!(timestamp(Timestamp::now()));
    let conditions = map_mut(pod, "status").entry("conditions").or_insert_with(|| json!([]));
    let Some(list) = conditions.as_array_mut() else { return };
    let before = list.iter().position(|condition| condition["type"] == kind);
    let mut condition = json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": now});
    if !reason.is_empty() {
        condition["reason"] = json!(reason);
    }
    if !message.is_empty() {
        condition["message"] = json!(message);
    }
    match before {
        Some(at) => {
            if list[at]["status"] == status && !list[at]["lastTransitionTime"].is_null() {
                condition["lastTransitionTime"] = list[at]["lastTransitionTime"].clone();
            }
            list[at] = condition;
        }
        None => list.push(condition),
    }
}

/// The pod with the ephemeral containers of another one; whatever else differs stays as it was.
pub fn with_ephemeral_containers(pod: &Object, wanted: &Object) -> Object {
    let mut next = pod.clone();
    match wanted.pointer("/spec/ephemeralContainers") {
        Some(containers) if !gantry_api::object::is_empty(containers) => {
            map_mut(&mut next, "spec").insert("ephemeralContainers".to_owned(), containers.clone());
        }
        _ => {
            map_mut(&mut next, "spec").remove("ephemeralContainers");
        }
    }
    if let Some(version) = wanted.pointer("/metadata/resourceVersion").filter(|version| !version.is_null()) {
        map_mut(&mut next, "metadata").insert("resourceVersion".to_owned(), version.clone());
    } else {
        next = update::without_version(next);
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_one_by_one() {
        let budget = |allowed: i64, observed: i64| json!({"metadata": {"name": "b", "generation": 1}, "status": {"disruptionsAllowed": allowed, "observedGeneration": observed, "desiredHealthy": 2, "currentHealthy": 2}});
        let now = Timestamp::UNIX_EPOCH;
        let spent = spend(&budget(1, 1), "p", now).expect("one is allowed");
        assert_eq!(spent["status"]["disruptionsAllowed"], 0);
        assert_eq!(spent["status"]["disruptedPods"]["p"], "1970-01-01T00:00:00Z");
        for (allowed, observed, code) in [(0, 1, 429), (1, 0, 429), (-1, 1, 403)] {
            assert_eq!(spend(&budget(allowed, observed), "p", now).expect_err("refused").code, code);
        }
    }
}
