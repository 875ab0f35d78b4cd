//! Claims, volumes, storage classes and what drivers can attach, with the bindings that are under way.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gantry_api::quantity::Quantity as Number;
use gantry_api::selectors::LabelSelector;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::interner::{Atom, Interner};
use crate::shape::node_terms::{NodeTerm, terms_of};
use crate::shape::selectors::{labels_of, of_api, selects};

/// The annotation that the volume controller sets when it has bound a claim.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The annotation that names the node for which a volume is to be made.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The provisioner of classes whose volumes exist beforehand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// Namespace and name of a claim.
pub type ClaimKey = (String, String);

/// A volume, with its node affinity parsed.
#[derive(Clone, Debug)]
pub struct Volume {
    /// The API object.
    pub object: Arc<PersistentVolume>,
    /// Nodes that can reach it; none: all.
    pub terms: Option<Vec<NodeTerm>>,
    /// Zone and region labels: key and the values that a node may have.
    pub zones: Vec<(Atom, Vec<Atom>)>,
}

/// A storage class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Who makes its volumes.
    pub provisioner: String,
    /// Whether claims wait for their first consumer.
    pub waits: bool,
    /// Where volumes can be made; none: everywhere.
    pub topologies: Vec<NodeTerm>,
}

struct Capacity {
    class: String,
    topology: LabelSelector,
    bytes: i64,
}

/// All that is known about storage.
#[derive(Default)]
pub struct Storage {
    claims: HashMap<ClaimKey, Arc<PersistentVolumeClaim>>,
    volumes: HashMap<String, Volume>,
    classes: HashMap<String, Class>,
    /// By node and driver: how many volumes can be attached.
    limits: HashMap<String, BTreeMap<String, i64>>,
    /// Drivers that publish their capacity.
    counted_drivers: HashMap<String, bool>,
    capacities: HashMap<ClaimKey, Capacity>,
    /// Volumes promised to a claim whose binding is under way.
    promised: HashMap<String, ClaimKey>,
    epoch: u64,
}

impl Storage {
    /// Grows with each change.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Something that a claim depends on has changed, such as its users.
    pub fn touch(&mut self) {
        self.epoch += 1;
    }

    /// A claim is new or has changed.
    pub fn apply_claim(&mut self, claim: Arc<PersistentVolumeClaim>) {
        let key = key_of(&claim.metadata.namespace, &claim.metadata.name);
        self.claims.insert(key, claim);
        self.epoch += 1;
    }

    /// A claim is gone.
    pub fn remove_claim(&mut self, namespace: &str, name: &str) {
        self.claims.remove(&(namespace.to_owned(), name.to_owned()));
        self.epoch += 1;
    }

    /// A claim.
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Arc<PersistentVolumeClaim>> {
        self.claims.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// A volume is new or has changed.
    pub fn apply_volume(&mut self, volume: Arc<PersistentVolume>, atoms: &mut Interner) {
        let required = volume
            .spec
            .as_ref()
            .and_then(|spec| spec.node_affinity.as_ref())
            .and_then(|affinity| affinity.required.as_ref());
        let terms = required.map(|required| terms_of(required, atoms));
        let labels = volume.metadata.labels.iter().flatten();
        let zones = labels.filter(|(key, _)| is_topology(key)).map(|(key, value)| {
            (atoms.intern(key), value.split("__").map(|value| atoms.intern(value.trim())).collect::<Vec<_>>())
        });
        let zones = zones.collect();
        let name = volume.metadata.name.clone().unwrap_or_default();
        self.volumes.insert(name, Volume { object: volume, terms, zones });
        self.epoch += 1;
    }

    /// A volume is gone.
    pub fn remove_volume(&mut self, name: &str) {
        self.volumes.remove(name);
        self.epoch += 1;
    }

    /// A volume.
    pub fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.get(name)
    }

    /// A class is new or has changed.
    pub fn apply_class(&mut self, class: &StorageClass, atoms: &mut Interner) {
        let known = Class {
            provisioner: class.provisioner.clone(),
            waits: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            topologies: class
                .allowed_topologies
                .iter()
                .flatten()
                .map(|term| NodeTerm::of_topology(term, atoms))
                .collect(),
        };
        self.classes.insert(class.metadata.name.clone().unwrap_or_default(), known);
        self.epoch += 1;
    }

    /// A class is gone.
    pub fn remove_class(&mut self, name: &str) {
        self.classes.remove(name);
        self.epoch += 1;
    }

    /// A class.
    pub fn class(&self, name: &str) -> Option<&Class> {
        self.classes.get(name)
    }

    /// What drivers can attach to a node is new or has changed.
    pub fn apply_csi_node(&mut self, node: &CSINode) {
        let limits = node.spec.drivers.iter().filter_map(|driver| {
            let count = driver.allocatable.as_ref()?.count?;
            Some((driver.name.clone(), i64::from(count)))
        });
        self.limits.insert(node.metadata.name.clone().unwrap_or_default(), limits.collect());
        self.epoch += 1;
    }

    /// A node's drivers are gone.
    pub fn remove_csi_node(&mut self, name: &str) {
        self.limits.remove(name);
        self.epoch += 1;
    }

    /// How many volumes of a driver can be attached to a node, if that is limited.
    pub fn limit(&self, node: &str, driver: &str) -> Option<i64> {
        self.limits.get(node)?.get(driver).copied()
    }

    /// A driver is new or has changed.
    pub fn apply_driver(&mut self, driver: &CSIDriver) {
        let counted = driver.spec.storage_capacity.unwrap_or(false);
        self.counted_drivers.insert(driver.metadata.name.clone().unwrap_or_default(), counted);
        self.epoch += 1;
    }

    /// A driver is gone.
    pub fn remove_driver(&mut self, name: &str) {
        self.counted_drivers.remove(name);
        self.epoch += 1;
    }

    /// How much of a class can be made somewhere is new or has changed.
    pub fn apply_capacity(&mut self, capacity: &CSIStorageCapacity) {
        let bytes = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref()).map_or(0, bytes_of);
        let known = Capacity {
            class: capacity.storage_class_name.clone(),
            topology: of_api(capacity.node_topology.as_ref()),
            bytes,
        };
        self.capacities.insert(key_of(&capacity.metadata.namespace, &capacity.metadata.name), known);
        self.epoch += 1;
    }

    /// It is gone.
    pub fn remove_capacity(&mut self, namespace: &str, name: &str) {
        self.capacities.remove(&(namespace.to_owned(), name.to_owned()));
        self.epoch += 1;
    }

    /// Whether a driver says how much it can make where.
    pub fn is_counted(&self, driver: &str) -> bool {
        self.counted_drivers.get(driver).copied().unwrap_or(false)
    }

    /// Whether a volume of this size can be made for a node.
    pub fn has_capacity<'a>(&self, class: &str, bytes: i64, label: impl Fn(&str) -> Option<&'a str> + Copy) -> bool {
        self.capacities
            .values()
            .any(|capacity| capacity.class == class && capacity.bytes >= bytes && capacity.topology.matches(label))
    }

    /// Promises a volume to a claim, so that no other pod takes it.
    pub fn promise(&mut self, volume: &str, claim: ClaimKey) {
        self.promised.insert(volume.to_owned(), claim);
        self.epoch += 1;
    }

    /// Takes a promise back.
    pub fn break_promise(&mut self, volume: &str) {
        self.promised.remove(volume);
        self.epoch += 1;
    }

    /// Volumes that a claim could be bound to, the smallest first: those bound to it beforehand come alone.
    pub fn candidates(&self, claim: &PersistentVolumeClaim) -> Vec<&Volume> {
        let key = key_of(&claim.metadata.namespace, &claim.metadata.name);
        let wanted = requested_bytes(claim);
        let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default();
        let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref()).map(|one| of_api(Some(one)));
        let mut found: Vec<(i64, &Volume)> = Vec::new();
        let mut own: Vec<&Volume> = Vec::new();
        for (name, volume) in &self.volumes {
            let Some(spec) = &volume.object.spec else { continue };
            let size = spec.capacity.as_ref().and_then(|capacity| capacity.get("storage")).map_or(0, bytes_of);
            let modes = |claim: &PersistentVolumeClaim| claim.spec.as_ref().and_then(|spec| spec.access_modes.clone());
            let same_mode = volume_mode(spec.volume_mode.as_deref())
                == volume_mode(claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()));
            if size < wanted || !same_mode || volume.object.metadata.deletion_timestamp.is_some() {
                continue;
            }
            if self.promised.get(name).is_some_and(|promised| *promised != key) {
                continue;
            }
            match &spec.claim_ref {
                Some(reference) => {
                    let uid = reference.uid.as_deref().unwrap_or_default();
                    let ours = reference.namespace.as_deref() == Some(&key.0)
                        && reference.name.as_deref() == Some(&key.1)
                        && (uid.is_empty() || claim.metadata.uid.as_deref() == Some(uid));
                    if ours {
                        own.push(volume);
                    }
                }
                None => {
                    let available =
                        volume.object.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Available");
                    let has = |mode: &String| spec.access_modes.iter().flatten().any(|known| known == mode);
                    let labels = labels_of(volume.object.metadata.labels.as_ref());
                    if available
                        && spec.storage_class_name.as_deref().unwrap_or_default() == class
                        && modes(claim).iter().flatten().all(has)
                        && selector.as_ref().is_none_or(|selector| selects(selector, &labels))
                    {
                        found.push((size, volume));
                    }
                }
            }
        }
        if !own.is_empty() {
            return own;
        }
        found.sort_by(|one, other| (one.0, &one.1.object.metadata.name).cmp(&(other.0, &other.1.object.metadata.name)));
        found.into_iter().map(|(_, volume)| volume).collect()
    }
}

/// Whether the volume controller has bound a claim.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let named = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).is_some_and(|name| !name.is_empty());
    named && claim.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(BIND_COMPLETED))
}

/// How much a claim asks for, in bytes.
pub fn requested_bytes(claim: &PersistentVolumeClaim) -> i64 {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    requests.and_then(|requests| requests.get("storage")).map_or(0, bytes_of)
}

fn bytes_of(quantity: &Quantity) -> i64 {
    quantity.0.parse::<Number>().map_or(0, |number| number.value())
}

fn volume_mode(mode: Option<&str>) -> &str {
    mode.filter(|mode| !mode.is_empty()).unwrap_or("Filesystem")
}

fn key_of(namespace: &Option<String>, name: &Option<String>) -> ClaimKey {
    (namespace.clone().unwrap_or_default(), name.clone().unwrap_or_default())
}

fn is_topology(key: &str) -> bool {
    matches!(
        key,
        "topology.kubernetes.io/zone"
            | "topology.kubernetes.io/region"
            | "failure-domain.beta.kubernetes.io/zone"
            | "failure-domain.beta.kubernetes.io/region"
    )
}
