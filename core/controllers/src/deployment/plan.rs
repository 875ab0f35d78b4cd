//! What one pass over a deployment does. Pure: replica sets in, actions out. Source: `deployment_controller.go`,
//! `rolling.go`, `recreate.go`, `sync.go`.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::revision::{self, POD_TEMPLATE_HASH, REVISION, annotate, annotate_replicas, revision_of, same_template};
use super::rollout::{self, replicas, set_replicas};
use super::status::{self, has_deadline, set_condition};
use crate::ownership::controller_reference;

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Makes the set of the current template. When its name is taken by something else, the collision count rises.
    Create(Box<ReplicaSet>),
    /// Changes a set's size (and its annotations); an event tells of it.
    Scale {
        /// The set as it shall be.
        set: Box<ReplicaSet>,
        /// Its size before.
        from: i32,
    },
    /// Changes a set's annotations or `minReadySeconds`.
    Update(Box<ReplicaSet>),
    /// Deletes a set that history no longer needs.
    Delete(Box<ReplicaSet>),
    /// Notes the revision on the deployment.
    SetRevision(String),
}

/// What one pass does: the actions in order, then the status.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Writes, in order.
    pub actions: Vec<Action>,
    /// The status afterwards.
    pub status: DeploymentStatus,
    /// When to look again though nothing changes.
    pub again: Option<Duration>,
}

/// The facts of a pass. `sets` are those that the deployment controls.
pub struct Pass<'a> {
    /// The deployment.
    pub deployment: &'a Deployment,
    /// Its replica sets.
    pub sets: Vec<ReplicaSet>,
    /// Whether a pod of a set that isn't the current one still runs (only asked for with `Recreate`).
    pub old_pods_running: &'a dyn Fn(Option<&ReplicaSet>) -> bool,
    /// The time.
    pub now: Timestamp,
}

struct Work<'a> {
    deployment: &'a Deployment,
    now: Timestamp,
    actions: Vec<Action>,
    /// The status with conditions that the pass has set so far.
    status: DeploymentStatus,
    new: Option<ReplicaSet>,
    /// By age, oldest first.
    old: Vec<ReplicaSet>,
}

/// Decides what to do.
pub fn plan(pass: Pass<'_>) -> Plan {
    let Pass { deployment, mut sets, old_pods_running, now } = pass;
    sets.sort_by(|a, b| {
        let key = |set: &ReplicaSet| (set.metadata.creation_timestamp.clone(), set.metadata.name.clone());
        key(a).cmp(&key(b))
    });
    let new = sets.iter().position(|set| same_template(deployment, set)).map(|index| sets.remove(index));
    let status = deployment.status.clone().unwrap_or_default();
    let mut work = Work { deployment, now, actions: Vec::new(), status, new, old: sets };
    if deployment.metadata.deletion_timestamp.is_some() {
        return work.finish_synced();
    }
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or_default();
    work.note_pause(paused);
    let all = work.all();
    if paused || rollout::is_scaling(deployment, &all) {
        work.sync_revision(false);
        work.scale();
        if paused {
            work.clean_up();
        }
        return work.finish_synced();
    }
    if rollout::is_rolling(deployment) {
        work.sync_revision(true);
        if work.grow_new() || work.shrink_old() {
            return work.finish_rollout();
        }
    } else {
        work.sync_revision(false);
        if work.empty_old() {
            return work.finish_rollout();
        }
        if old_pods_running(work.new.as_ref()) {
            return work.finish_rollout();
        }
        if work.new.is_none() {
            work.sync_revision(true);
        }
        work.grow_new();
    }
    if status::is_complete(deployment, deployment.status.as_ref().unwrap_or(&DeploymentStatus::default())) {
        work.clean_up();
    }
    work.finish_rollout()
}

impl Work<'_> {
    fn all(&self) -> Vec<ReplicaSet> {
        self.old.iter().chain(&self.new).cloned().collect()
    }

    fn finish_synced(self) -> Plan {
        let status = status::calculate(self.deployment, &self.all(), self.new.as_ref(), &self.status, self.now);
        Plan { actions: self.actions, status, again: None }
    }

    fn finish_rollout(self) -> Plan {
        let (status, again) =
            status::rollout_status(self.deployment, &self.all(), self.new.as_ref(), &self.status, self.now);
        Plan { actions: self.actions, status, again }
    }

    /// A pause stops the clock of the deadline; resuming starts it again.
    fn note_pause(&mut self, paused: bool) {
        if !has_deadline(self.deployment) {
            return;
        }
        let current = status::condition(&self.status, "Progressing").and_then(|condition| condition.reason.clone());
        if current.as_deref() == Some("ProgressDeadlineExceeded") {
            return;
        }
        let was_paused = current.as_deref() == Some("DeploymentPaused");
        let (reason, message) = match (paused, was_paused) {
            (true, false) => ("DeploymentPaused", "Deployment is paused"),
            (false, true) => ("DeploymentResumed", "Deployment is resumed"),
            _ => return,
        };
        set_condition(&mut self.status, "Progressing", "Unknown", reason, message.to_owned(), self.now);
    }

    /// Brings the revision of the current set up to date; makes the set if asked to.
    fn sync_revision(&mut self, create: bool) {
        let revision = self.old.iter().map(revision_of).max().unwrap_or_default() + 1;
        let name = |set: &ReplicaSet| set.metadata.name.clone().unwrap_or_default();
        let min_ready_seconds = self.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        if let Some(new) = self.new.as_mut() {
            let annotated = annotate(new, self.deployment, revision, true);
            let set_spec = new.spec.get_or_insert_default();
            let delayed = set_spec.min_ready_seconds.unwrap_or_default() != min_ready_seconds.unwrap_or_default();
            set_spec.min_ready_seconds = min_ready_seconds;
            if annotated || delayed {
                self.actions.push(Action::Update(Box::new(new.clone())));
            }
            let (number, name) = (revision_of(new).to_string(), name(new));
            if has_deadline(self.deployment) && status::condition(&self.status, "Progressing").is_none() {
                let message = format!("Found new replica set \"{name}\"");
                set_condition(&mut self.status, "Progressing", "True", "FoundNewReplicaSet", message, self.now);
            }
            self.note_revision(number);
            return;
        }
        if !create {
            return;
        }
        let mut new = new_set(self.deployment, &self.status);
        annotate(&mut new, self.deployment, revision, false);
        let mut all = self.all();
        all.push(new.clone());
        let size = rollout::new_set_replicas(self.deployment, &all, 0);
        new.spec.get_or_insert_default().replicas = Some(size);
        if has_deadline(self.deployment) {
            let message = format!("Created new replica set \"{}\"", name(&new));
            set_condition(&mut self.status, "Progressing", "True", "NewReplicaSetCreated", message, self.now);
        }
        self.actions.push(Action::Create(Box::new(new.clone())));
        self.new = Some(new);
        self.note_revision(revision.to_string());
    }

    fn note_revision(&mut self, revision: String) {
        let annotations = self.deployment.metadata.annotations.as_ref();
        if annotations.and_then(|annotations| annotations.get(REVISION)) != Some(&revision) {
            self.actions.push(Action::SetRevision(revision));
        }
    }

    /// Gives a set a size, and notes what the deployment wants. Returns whether it was to be written.
    fn resize(&mut self, mut set: ReplicaSet, size: i32) -> (ReplicaSet, bool) {
        let from = set_replicas(&set);
        let noted = annotate_replicas(set.metadata.annotations.get_or_insert_default(), self.deployment);
        if from == size && !noted {
            return (set, false);
        }
        set.spec.get_or_insert_default().replicas = Some(size);
        let boxed = Box::new(set.clone());
        self.actions.push(if from == size { Action::Update(boxed) } else { Action::Scale { set: boxed, from } });
        (set, from != size)
    }

    fn grow_new(&mut self) -> bool {
        let Some(new) = self.new.clone() else { return false };
        let size = set_replicas(&new);
        let wanted = replicas(self.deployment);
        if size == wanted {
            return false;
        }
        let target = if size > wanted { wanted } else { rollout::new_set_replicas(self.deployment, &self.all(), size) };
        if target == size {
            return false;
        }
        let (set, scaled) = self.resize(new, target);
        self.new = Some(set);
        scaled
    }

    fn shrink_old(&mut self) -> bool {
        let Some(new) = self.new.as_ref() else { return false };
        let sizes = rollout::shrink_old_sets(self.deployment, new, &self.old);
        for (index, size) in &sizes {
            let (set, _) = self.resize(self.old[*index].clone(), *size);
            self.old[*index] = set;
        }
        !sizes.is_empty()
    }

    fn empty_old(&mut self) -> bool {
        let mut scaled = false;
        for index in 0..self.old.len() {
            if set_replicas(&self.old[index]) > 0 {
                let (set, changed) = self.resize(self.old[index].clone(), 0);
                self.old[index] = set;
                scaled |= changed;
            }
        }
        scaled
    }

    /// `spec.replicas` changed, or the deployment is paused.
    fn scale(&mut self) {
        let active: Vec<ReplicaSet> = self.all().into_iter().filter(|set| set_replicas(set) > 0).collect();
        let lone = match active.as_slice() {
            [one] => Some(one.clone()),
            [] => self.new.clone().or_else(|| self.old.last().cloned()),
            _ => None,
        };
        if let Some(set) = lone {
            self.replace(set, replicas(self.deployment));
            return;
        }
        let saturated = self.new.as_ref().is_some_and(|new| {
            let available = new.status.as_ref().and_then(|status| status.available_replicas).unwrap_or_default();
            let desired = revision::number(new.metadata.annotations.as_ref(), revision::DESIRED_REPLICAS);
            let wanted = replicas(self.deployment);
            desired == Some(i64::from(wanted)) && set_replicas(new) == wanted && available == wanted
        });
        if saturated {
            self.empty_old();
            return;
        }
        if rollout::is_rolling(self.deployment) {
            for (name, size) in rollout::scale_in_proportion(self.deployment, &active) {
                if let Some(set) = active.iter().find(|set| set.metadata.name.as_deref() == Some(&name)) {
                    self.replace(set.clone(), size);
                }
            }
        }
    }

    /// Resizes a set wherever it is kept.
    fn replace(&mut self, set: ReplicaSet, size: i32) {
        let (set, _) = self.resize(set, size);
        let slot = self.old.iter_mut().chain(&mut self.new).find(|kept| kept.metadata.name == set.metadata.name);
        if let Some(slot) = slot {
            *slot = set;
        }
    }

    /// Deletes empty sets that are more than history may keep.
    fn clean_up(&mut self) {
        let limit = self.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        if limit == i32::MAX {
            return;
        }
        let mut candidates: Vec<&ReplicaSet> =
            self.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
        let surplus = candidates.len().saturating_sub(limit.max(0) as usize);
        candidates.sort_by_key(|set| revision_of(set));
        for set in candidates.into_iter().take(surplus) {
            let status = set.status.clone().unwrap_or_default();
            let idle = status.replicas == 0
                && set_replicas(set) == 0
                && status.observed_generation.unwrap_or_default() >= set.metadata.generation.unwrap_or_default();
            if idle {
                self.actions.push(Action::Delete(Box::new(set.clone())));
            }
        }
    }
}

fn new_set(deployment: &Deployment, status: &DeploymentStatus) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let hash = revision::template_hash(&spec.template, status.collision_count);
    let mut template = spec.template;
    let meta = template.metadata.get_or_insert_default();
    meta.labels.get_or_insert_default().insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or_default())),
            namespace: deployment.metadata.namespace.clone(),
            owner_references: Some(vec![controller_reference(deployment)]),
            labels: meta.labels.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}
