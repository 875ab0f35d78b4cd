//! The cluster as the scheduler keeps it: nodes as columns, pods on rows, shapes shared. Changes are logged by row, so
//! that what was derived from a row is derived again only when the row has changed.
//!
//! - [`node`]: what seldom changes about a node
//! - [`log`]: which rows have changed since when
//! - [`shapes`]: shapes in use
//! - [`owners`]: services and controllers that select pods, for the default spread
//! - [`storage`]: claims, volumes, classes and what drivers can attach

pub mod log;
pub mod node;
pub mod owners;
pub mod shapes;
pub mod storage;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use rustc_hash::FxHashMap;

use crate::interner::{Atom, Interner};
use crate::resources::{ResourceId, ResourceNames};
use crate::shape::requests::amount;
use crate::shape::selectors::{Labels, labels_of};
use crate::shape::{NamespaceLabels, Shape};
use log::ChangeLog;
use node::NodeFacts;
use owners::Owners;
use shapes::{ShapeId, Shapes};
use storage::Storage;

/// A node's place in the columns: dense, and used again when the node is gone.
pub type Row = u32;

/// A pod on a row.
#[derive(Clone, Debug)]
pub struct PlacedPod {
    /// The pod as last seen.
    pub pod: Arc<Pod>,
    /// Its shape.
    pub shape: ShapeId,
    /// Where it is.
    pub row: Row,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// `spec.priority`.
    pub priority: i32,
    /// Whether only we know that it is there, as its binding is under way.
    pub assumed: bool,
}

impl PlacedPod {
    /// When it started, as preemption compares pods.
    pub fn started(&self) -> Option<Timestamp> {
        self.pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0)
    }
}

/// How many pods of one shape are on a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShapeCount {
    /// The shape.
    pub shape: ShapeId,
    /// How many.
    pub pods: u32,
    /// How many of them are being deleted.
    pub terminating: u32,
}

#[derive(Default)]
struct RowUse {
    uids: Vec<Arc<str>>,
    shapes: Vec<ShapeCount>,
}

/// Versions of what concerns all rows at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epochs {
    /// Of claims, volumes and classes.
    pub storage: u64,
    /// Of the labels of namespaces.
    pub namespaces: u64,
    /// Of whether host names are unique.
    pub hosts: u64,
}

/// Nodes, pods and all else that a decision depends on.
#[derive(Default)]
pub struct Cluster {
    /// Strings of nodes.
    pub atoms: Interner,
    /// Names of resources.
    pub resources: ResourceNames,
    /// Claims and volumes.
    pub storage: Storage,
    /// Who selects pods.
    pub owners: Owners,
    /// Shapes in use.
    pub shapes: Shapes,
    /// What has changed.
    pub log: ChangeLog,
    facts: Vec<Option<NodeFacts>>,
    names: Vec<Atom>,
    by_name: FxHashMap<Atom, Row>,
    free: Vec<Row>,
    allocatable: Vec<Vec<i64>>,
    requested: Vec<Vec<i64>>,
    scored_milli_cpu: Vec<i64>,
    scored_memory_bytes: Vec<i64>,
    usage: Vec<RowUse>,
    pods: FxHashMap<Arc<str>, PlacedPod>,
    claim_users: FxHashMap<(Box<str>, Box<str>), u32>,
    namespaces: FxHashMap<String, Labels>,
    image_nodes: FxHashMap<Atom, u32>,
    host_rows: FxHashMap<Atom, u32>,
    shared_hosts: u32,
    nodes: u32,
    epochs: Epochs,
}

impl NamespaceLabels for Cluster {
    fn namespace_labels(&self, namespace: &str) -> Option<&Labels> {
        self.namespaces.get(namespace)
    }
}

/// The uid of a pod; its namespace and name when it has none (in tests).
pub fn uid_of(pod: &Pod) -> Arc<str> {
    match pod.metadata.uid.as_deref() {
        Some(uid) if !uid.is_empty() => Arc::from(uid),
        _ => Arc::from(format!(
            "{}/{}",
            pod.metadata.namespace.as_deref().unwrap_or_default(),
            pod.metadata.name.as_deref().unwrap_or_default()
        )),
    }
}

/// `spec.priority`.
pub fn priority_of(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

impl Cluster {
    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.nodes as usize
    }

    /// How many rows there are, unused ones included.
    pub fn row_count(&self) -> usize {
        self.facts.len()
    }

    /// A node's facts; none for an unused row and for one whose node isn't known (any more).
    pub fn facts(&self, row: Row) -> Option<&NodeFacts> {
        self.facts.get(row as usize).and_then(Option::as_ref)
    }

    /// Rows of nodes.
    pub fn rows(&self) -> impl Iterator<Item = (Row, &NodeFacts)> {
        (0..).zip(&self.facts).filter_map(|(row, facts)| Some((row, facts.as_ref()?)))
    }

    /// The row of a node.
    pub fn row_of(&self, name: Atom) -> Option<Row> {
        self.by_name.get(&name).copied().filter(|row| self.facts(*row).is_some())
    }

    /// The row of the node of this name.
    pub fn row_named(&self, name: &str) -> Option<Row> {
        self.rows_by_text(name)
    }

    fn rows_by_text(&self, name: &str) -> Option<Row> {
        self.atoms.find(name).and_then(|name| self.row_of(name))
    }

    /// The name of a row's node.
    pub fn name(&self, row: Row) -> &str {
        self.names.get(row as usize).map_or("", |name| self.atoms.text(*name))
    }

    /// What a row's node offers of a resource.
    pub fn allocatable(&self, resource: ResourceId, row: Row) -> i64 {
        cell(&self.allocatable, resource, row)
    }

    /// What the pods on a row have asked for of a resource.
    pub fn requested(&self, resource: ResourceId, row: Row) -> i64 {
        cell(&self.requested, resource, row)
    }

    /// CPU and memory of the pods on a row as scores count them.
    pub fn scored(&self, row: Row) -> (i64, i64) {
        let at = row as usize;
        (self.scored_milli_cpu.get(at).copied().unwrap_or(0), self.scored_memory_bytes.get(at).copied().unwrap_or(0))
    }

    /// The shapes on a row.
    pub fn shapes_on(&self, row: Row) -> &[ShapeCount] {
        self.usage.get(row as usize).map_or(&[], |usage| &usage.shapes)
    }

    /// The pods on a row.
    pub fn pods_on(&self, row: Row) -> impl Iterator<Item = &PlacedPod> {
        self.usage.get(row as usize).into_iter().flat_map(|usage| &usage.uids).filter_map(|uid| self.pods.get(uid))
    }

    /// A pod that is on a row.
    pub fn pod(&self, uid: &str) -> Option<&PlacedPod> {
        self.pods.get(uid)
    }

    /// How many pods are on rows.
    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }

    /// All pods on rows.
    pub fn pods(&self) -> impl Iterator<Item = &PlacedPod> {
        self.pods.values()
    }

    /// How many pods on rows use a claim.
    pub fn claim_users(&self, namespace: &str, claim: &str) -> u32 {
        self.claim_users.get(&(namespace.into(), claim.into())).copied().unwrap_or(0)
    }

    /// How many nodes have an image.
    pub fn image_nodes(&self, image: Atom) -> u32 {
        self.image_nodes.get(&image).copied().unwrap_or(0)
    }

    /// Whether each node has a host name label of its own, so that its domain is its row.
    pub fn hosts_are_unique(&self) -> bool {
        self.shared_hosts == 0
    }

    /// Versions of what concerns all rows.
    pub fn epochs(&self) -> Epochs {
        Epochs { storage: self.storage.epoch(), ..self.epochs }
    }

    /// A node is new or has changed. Returns what became better about it, for the pods that wait.
    pub fn apply_node(&mut self, node: &Node) -> node::NodeChange {
        let facts = NodeFacts::of(node, &mut self.atoms);
        let row = self.take_row(facts.name);
        let at = row as usize;
        let before = self.facts[at].take();
        let mut change = node::NodeChange::between(before.as_ref(), &facts);
        change.row = row;
        self.forget_facts(before.as_ref());
        self.remember_facts(&facts);
        let other = before.as_ref().is_none_or(|before| before.differs(&facts));
        self.facts[at] = Some(facts);
        let mut wanted: Vec<(ResourceId, i64)> = Vec::new();
        let status = node.status.as_ref();
        for (name, quantity) in status.and_then(|status| status.allocatable.as_ref()).into_iter().flatten() {
            let resource = self.resources.id(name);
            wanted.push((resource, amount(resource, quantity)));
        }
        let mut resized = false;
        for resource in 0..u16::try_from(self.resources.len()).unwrap_or(u16::MAX) {
            let resource = ResourceId(resource);
            let amount = wanted.iter().find(|(id, _)| *id == resource).map_or(0, |(_, amount)| *amount);
            let known = self.allocatable(resource, row);
            if known != amount {
                resized = true;
                change.grown |= amount > known;
                set(&mut self.allocatable, resource, row, amount);
            }
        }
        if other {
            self.log.facts(row);
        } else if resized {
            self.log.touch(row);
        }
        change
    }

    /// A node is gone.
    pub fn remove_node(&mut self, name: &str) {
        let Some(row) = self.rows_by_text(name) else { return };
        let at = row as usize;
        let before = self.facts[at].take();
        self.forget_facts(before.as_ref());
        for column in &mut self.allocatable {
            if let Some(cell) = column.get_mut(at) {
                *cell = 0;
            }
        }
        self.log.facts(row);
        self.give_back(row);
    }

    fn remember_facts(&mut self, facts: &NodeFacts) {
        self.nodes += 1;
        for image in facts.images.keys() {
            *self.image_nodes.entry(*image).or_default() += 1;
        }
        let count = self.host_rows.entry(facts.host).or_default();
        *count += 1;
        if *count > 1 {
            self.shared_hosts += 1;
            if self.shared_hosts == 1 {
                self.epochs.hosts += 1;
            }
        }
    }

    fn forget_facts(&mut self, facts: Option<&NodeFacts>) {
        let Some(facts) = facts else { return };
        self.nodes -= 1;
        for image in facts.images.keys() {
            if let Some(count) = self.image_nodes.get_mut(image) {
                *count -= 1;
                if *count == 0 {
                    self.image_nodes.remove(image);
                }
            }
        }
        if let Some(count) = self.host_rows.get_mut(&facts.host) {
            *count -= 1;
            if *count > 0 {
                self.shared_hosts -= 1;
                if self.shared_hosts == 0 {
                    self.epochs.hosts += 1;
                }
            } else {
                self.host_rows.remove(&facts.host);
            }
        }
    }

    /// The row of a name, a free one if it has none.
    fn take_row(&mut self, name: Atom) -> Row {
        if let Some(row) = self.by_name.get(&name) {
            return *row;
        }
        let row = self.free.pop().unwrap_or_else(|| {
            self.facts.push(None);
            self.names.push(Atom::EMPTY);
            self.usage.push(RowUse::default());
            self.scored_milli_cpu.push(0);
            self.scored_memory_bytes.push(0);
            u32::try_from(self.facts.len() - 1).unwrap_or(u32::MAX)
        });
        self.names[row as usize] = name;
        self.by_name.insert(name, row);
        row
    }

    /// Frees a row that has neither a node nor pods.
    fn give_back(&mut self, row: Row) {
        let at = row as usize;
        if self.facts[at].is_none() && self.usage[at].uids.is_empty() {
            self.by_name.remove(&self.names[at]);
            self.names[at] = Atom::EMPTY;
            self.free.push(row);
        }
    }

    /// A pod is on a node, by its own word or (`assumed`) by ours. Replaces what was known of it.
    pub fn place_pod(&mut self, pod: Arc<Pod>, node: &str, assumed: bool) -> Row {
        let uid = uid_of(&pod);
        let name = self.atoms.intern(node);
        let shape = self.shapes.acquire(Shape::of(&pod, &mut self.atoms, &mut self.resources));
        let terminating = pod.metadata.deletion_timestamp.is_some();
        if let Some(known) = self.pods.get_mut(&uid) {
            // Most changes are of status only: nothing to count anew.
            if self.by_name.get(&name) == Some(&known.row) && known.shape == shape && known.terminating == terminating {
                known.pod = pod;
                known.assumed = assumed;
                let row = known.row;
                self.shapes.release(shape);
                return row;
            }
            self.remove_pod(&uid);
        }
        let row = self.take_row(name);
        let priority = priority_of(&pod);
        self.count(row, shape, terminating, 1);
        self.usage[row as usize].uids.push(uid.clone());
        self.pods.insert(uid, PlacedPod { pod, shape, row, terminating, priority, assumed });
        row
    }

    /// A pod is on no node any more.
    pub fn remove_pod(&mut self, uid: &str) -> Option<PlacedPod> {
        let placed = self.pods.remove(uid)?;
        self.count(placed.row, placed.shape, placed.terminating, -1);
        let uids = &mut self.usage[placed.row as usize].uids;
        if let Some(at) = uids.iter().position(|known| **known == *uid) {
            uids.swap_remove(at);
        }
        self.shapes.release(placed.shape);
        self.give_back(placed.row);
        Some(placed)
    }

    fn count(&mut self, row: Row, id: ShapeId, terminating: bool, sign: i64) {
        let Some(shape) = self.shapes.get(id).cloned() else { return };
        let at = row as usize;
        for (resource, amount) in &shape.requests.amounts {
            add(&mut self.requested, *resource, row, sign.saturating_mul(*amount));
        }
        add(&mut self.requested, ResourceId::PODS, row, sign);
        self.scored_milli_cpu[at] += sign * shape.requests.scored_milli_cpu;
        self.scored_memory_bytes[at] += sign * shape.requests.scored_memory_bytes;
        for claim in &shape.claims {
            let users = self.claim_users.entry((shape.namespace.clone(), claim.name.clone())).or_default();
            *users = if sign > 0 { users.saturating_add(1) } else { users.saturating_sub(1) };
            if *users == 0 {
                self.claim_users.remove(&(shape.namespace.clone(), claim.name.clone()));
            }
            self.storage.touch();
        }
        let shapes = &mut self.usage[at].shapes;
        let place = match shapes.iter().position(|count| count.shape == id) {
            Some(place) => place,
            None => {
                shapes.push(ShapeCount { shape: id, pods: 0, terminating: 0 });
                shapes.len() - 1
            }
        };
        let change = |count: &mut u32| *count = if sign > 0 { *count + 1 } else { count.saturating_sub(1) };
        change(&mut shapes[place].pods);
        if terminating {
            change(&mut shapes[place].terminating);
        }
        if shapes[place].pods == 0 {
            shapes.swap_remove(place);
        }
        self.log.touch(row);
    }

    /// A namespace is new or has changed.
    pub fn apply_namespace(&mut self, namespace: &Namespace) {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let labels = labels_of(namespace.metadata.labels.as_ref());
        if self.namespaces.get(&name) != Some(&labels) {
            self.namespaces.insert(name, labels);
            if self.shapes.select_namespaces() {
                self.epochs.namespaces += 1;
            }
        }
    }

    /// A namespace is gone.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }
}

fn cell(columns: &[Vec<i64>], resource: ResourceId, row: Row) -> i64 {
    columns.get(usize::from(resource.0)).and_then(|column| column.get(row as usize)).copied().unwrap_or(0)
}

fn slot(columns: &mut Vec<Vec<i64>>, resource: ResourceId, row: Row) -> &mut i64 {
    let resource = usize::from(resource.0);
    if columns.len() <= resource {
        columns.resize_with(resource + 1, Vec::new);
    }
    let column = &mut columns[resource];
    if column.len() <= row as usize {
        column.resize(row as usize + 1, 0);
    }
    &mut column[row as usize]
}

fn set(columns: &mut Vec<Vec<i64>>, resource: ResourceId, row: Row, value: i64) {
    *slot(columns, resource, row) = value;
}

fn add(columns: &mut Vec<Vec<i64>>, resource: ResourceId, row: Row, value: i64) {
    let cell = slot(columns, resource, row);
    *cell = cell.saturating_add(value);
}
