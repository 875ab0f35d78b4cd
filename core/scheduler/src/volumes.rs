//! Filters about volumes: VolumeRestrictions, NodeVolumeLimits, VolumeBinding and VolumeZone.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use crate::cluster::storage::{ClaimKey, NO_PROVISIONER, SELECTED_NODE, Volume, is_bound, requested_bytes};
use crate::cluster::{Cluster, Row};
use crate::config::Profile;
use crate::failure::Failure;
use crate::interner::Atom;
use crate::local::Removed;
use crate::plugin::Plugin;
use crate::shape::Shape;
use crate::shape::node_terms::NodeTerm;

const NODE_CONFLICT: &str = "node(s) didn't match PersistentVolume's node affinity";
const BIND_CONFLICT: &str = "node(s) didn't find available persistent volumes to bind";
const NO_SPACE: &str = "node(s) did not have enough free storage";
const VOLUME_GONE: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
const ZONE_CONFLICT: &str = "node(s) had no available volume zone";
const TOO_MANY: &str = "node(s) exceed max volume count";
const IN_USE: &str = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";

/// A claim that waits for its first consumer.
#[derive(Clone, Debug)]
struct Waiting {
    key: ClaimKey,
    /// The node chosen before.
    selected: Option<String>,
    /// Volumes it could be bound to, the smallest first.
    candidates: Vec<Volume>,
    class: String,
    provisioner: String,
    topologies: Vec<NodeTerm>,
    bytes: i64,
}

/// What a shape's claims need, found out once for all nodes.
#[derive(Clone, Debug, Default)]
pub struct VolumeNeeds {
    bound: Vec<Volume>,
    missing: bool,
    waiting: Vec<Waiting>,
    /// Driver and volume of each claim, as they count against a node's limits.
    attached: Vec<(String, String)>,
    in_use: bool,
}

/// What must be written before a pod with claims can be bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumePlan {
    /// Volumes to bind to claims.
    pub bind: Vec<(String, ClaimKey)>,
    /// Claims whose volume is to be made for the chosen node.
    pub provision: Vec<ClaimKey>,
}

impl VolumePlan {
    /// Whether nothing needs to be written.
    pub fn is_empty(&self) -> bool {
        self.bind.is_empty() && self.provision.is_empty()
    }
}

/// Which driver attaches a claim's volume, and the volume's handle; none when no CSI driver does.
fn attachment(cluster: &Cluster, claim: &PersistentVolumeClaim, key: &ClaimKey) -> Option<(String, String)> {
    let spec = claim.spec.as_ref()?;
    if let Some(name) = spec.volume_name.as_deref().filter(|name| !name.is_empty()) {
        let csi = cluster.storage.volume(name)?.object.spec.as_ref()?.csi.clone()?;
        return Some((csi.driver, csi.volume_handle));
    }
    let class = cluster.storage.class(spec.storage_class_name.as_deref()?)?;
    Some((class.provisioner.clone(), format!("{}/{}", key.0, key.1)))
}

impl VolumeNeeds {
    /// Of a shape's claims; the failure is every node's.
    pub fn of(cluster: &Cluster, shape: &Shape, profile: &Profile) -> Result<Self, Failure> {
        let mut needs = Self::default();
        let refuse = |reason: String| Err(Failure::unresolvable(Plugin::VolumeBinding, reason));
        for reference in &shape.claims {
            let name = &*reference.name;
            let key: ClaimKey = (shape.namespace.to_string(), name.to_owned());
            let Some(claim) = cluster.storage.claim(&shape.namespace, name) else {
                if !profile.filters(Plugin::VolumeBinding) {
                    continue;
                }
                return refuse(if reference.ephemeral {
                    format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\"")
                } else {
                    format!("persistentvolumeclaim \"{name}\" not found")
                });
            };
            let spec = claim.spec.clone().unwrap_or_default();
            let volume_name = spec.volume_name.as_deref().unwrap_or_default();
            if profile.filters(Plugin::VolumeRestrictions) {
                let exclusive = spec.access_modes.iter().flatten().any(|mode| mode == "ReadWriteOncePod");
                needs.in_use |= exclusive && cluster.claim_users(&shape.namespace, name) > 0;
            }
            needs.attached.extend(attachment(cluster, claim, &key));
            if !profile.filters(Plugin::VolumeBinding) {
                continue;
            }
            let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
            if phase == Some("Lost") {
                return refuse(format!(
                    "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume_name}\""
                ));
            }
            if claim.metadata.deletion_timestamp.is_some() {
                return refuse(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            if is_bound(claim) {
                match cluster.storage.volume(volume_name) {
                    Some(volume) => needs.bound.push(volume.clone()),
                    None => needs.missing = true,
                }
                continue;
            }
            let class_name = spec.storage_class_name.clone().unwrap_or_default();
            let class = cluster.storage.class(&class_name).filter(|class| class.waits && volume_name.is_empty());
            let Some(class) = class else {
                return refuse("pod has unbound immediate PersistentVolumeClaims".to_owned());
            };
            needs.waiting.push(Waiting {
                selected: claim.metadata.annotations.as_ref().and_then(|map| map.get(SELECTED_NODE)).cloned(),
                candidates: cluster.storage.candidates(claim).into_iter().cloned().collect(),
                class: class_name,
                provisioner: class.provisioner.clone(),
                topologies: class.topologies.clone(),
                bytes: requested_bytes(claim),
                key,
            });
        }
        Ok(needs)
    }

    /// Why a node won't do, if it won't.
    pub fn failure(&self, cluster: &Cluster, profile: &Profile, row: Row, removed: &Removed) -> Option<Failure> {
        if self.in_use {
            return Some(Failure::resolvable(Plugin::VolumeRestrictions, IN_USE));
        }
        if profile.filters(Plugin::NodeVolumeLimits) && self.exceeds_limits(cluster, row, removed) {
            return Some(Failure::resolvable(Plugin::NodeVolumeLimits, TOO_MANY));
        }
        if profile.filters(Plugin::VolumeBinding)
            && let Err(reasons) = self.plan(cluster, row)
        {
            let reasons = reasons.into_iter().map(str::to_owned).collect();
            return Some(Failure { plugin: Plugin::VolumeBinding, reasons, unresolvable: true });
        }
        if profile.filters(Plugin::VolumeZone) && !self.in_zone(cluster, row) {
            return Some(Failure::unresolvable(Plugin::VolumeZone, ZONE_CONFLICT));
        }
        None
    }

    /// What must be written for a node, or why it won't do.
    pub fn plan(&self, cluster: &Cluster, row: Row) -> Result<VolumePlan, Vec<&'static str>> {
        let Some(facts) = cluster.facts(row) else { return Err(vec![NODE_CONFLICT]) };
        let node = facts.selectable();
        let reaches = |volume: &Volume| {
            volume.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(node, &cluster.atoms)))
        };
        let mut reasons = Vec::new();
        if self.missing {
            reasons.push(VOLUME_GONE);
        }
        if !self.bound.iter().all(reaches) {
            reasons.push(NODE_CONFLICT);
        }
        let mut plan = VolumePlan::default();
        let mut taken: HashSet<&str> = HashSet::new();
        let mut conflict = false;
        let mut space = true;
        for waiting in &self.waiting {
            if waiting.selected.as_deref().is_some_and(|selected| selected != cluster.name(row)) {
                conflict = true;
                continue;
            }
            let name = |volume: &'_ Volume| volume.object.metadata.name.clone().unwrap_or_default();
            let found = waiting.selected.is_none().then(|| {
                waiting.candidates.iter().find(|volume| {
                    let name = volume.object.metadata.name.as_deref().unwrap_or_default();
                    reaches(volume) && !taken.contains(name)
                })
            });
            if let Some(volume) = found.flatten() {
                taken.insert(volume.object.metadata.name.as_deref().unwrap_or_default());
                plan.bind.push((name(volume), waiting.key.clone()));
                continue;
            }
            let topology = waiting.topologies.is_empty()
                || waiting.topologies.iter().any(|term| term.matches(node, &cluster.atoms));
            if waiting.provisioner.is_empty() || waiting.provisioner == NO_PROVISIONER || !topology {
                conflict = true;
                continue;
            }
            let label = |key: &str| {
                let value = facts.label(cluster.atoms.find(key)?)?;
                Some(cluster.atoms.text(value))
            };
            if cluster.storage.is_counted(&waiting.provisioner)
                && !cluster.storage.has_capacity(&waiting.class, waiting.bytes, label)
            {
                space = false;
                continue;
            }
            plan.provision.push(waiting.key.clone());
        }
        if conflict {
            reasons.push(BIND_CONFLICT);
        }
        if !space {
            reasons.push(NO_SPACE);
        }
        if reasons.is_empty() { Ok(plan) } else { Err(reasons) }
    }

    fn in_zone(&self, cluster: &Cluster, row: Row) -> bool {
        let Some(facts) = cluster.facts(row) else { return false };
        let limited = self.bound.iter().flat_map(|volume| &volume.zones);
        let value = |key: Atom| facts.label(key);
        let mut limited = limited.peekable();
        if limited.peek().is_none() {
            return true;
        }
        // A node that says nothing about where it is can reach every zone.
        let anywhere = [crate::cluster::node::ZONE, crate::cluster::node::REGION]
            .iter()
            .all(|key| cluster.atoms.find(key).and_then(value).is_none());
        anywhere || limited.all(|(key, values)| value(*key).is_some_and(|value| values.contains(&value)))
    }

    fn exceeds_limits(&self, cluster: &Cluster, row: Row, removed: &Removed) -> bool {
        let node = cluster.name(row);
        let limited: Vec<&(String, String)> =
            self.attached.iter().filter(|(driver, _)| cluster.storage.limit(node, driver).is_some()).collect();
        if limited.is_empty() {
            return false;
        }
        let mut present: HashSet<(String, String)> = HashSet::new();
        for count in cluster.shapes_on(row) {
            if count.pods <= removed.pods_of(count.shape) {
                continue;
            }
            let Some(shape) = cluster.shapes.get(count.shape) else { continue };
            for reference in &shape.claims {
                let key: ClaimKey = (shape.namespace.to_string(), reference.name.to_string());
                let claim: Option<&Arc<PersistentVolumeClaim>> = cluster.storage.claim(&key.0, &key.1);
                present.extend(claim.and_then(|claim| attachment(cluster, claim, &key)));
            }
        }
        limited.iter().any(|(driver, _)| {
            let wanted: HashSet<&str> =
                limited.iter().filter(|(other, _)| other == driver).map(|(_, handle)| handle.as_str()).collect();
            let used = present.iter().filter(|(other, _)| other == driver);
            let new = wanted.iter().filter(|handle| !present.contains(&(driver.clone(), (**handle).to_owned())));
            let new = new.count();
            let limit = cluster.storage.limit(node, driver).unwrap_or(i64::MAX);
            new > 0 && i64::try_from(used.count() + new).unwrap_or(i64::MAX) > limit
        })
    }
}
