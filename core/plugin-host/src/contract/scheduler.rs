//! `gantry:scheduler@0.1.0`: policies. The meaning of each call is in
//! `plugins/wit/scheduler/scheduler.wit`; the types here are the same, borrowing from the caller.

use std::sync::Arc;

use wasmtime::component::{ComponentType, Lift, Lower};

use crate::PluginError;

/// The best score that a policy can give a node; the worst is 0. A hundredth of upstream's points.
pub const SCORE_MAX: i64 = 10_000;

/// A node's place in the columns.
pub type Row = u32;

/// An interned string; 0 is the empty string, others count the strings sent so far, from 1.
pub type Atom = u32;

/// A node's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lower, Lift)]
#[component(record)]
pub struct Label {
    /// Its key.
    pub key: Atom,
    /// Its value.
    pub value: Atom,
}

/// What a taint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lower, Lift)]
#[component(enum)]
#[repr(u8)]
pub enum TaintEffect {
    /// Keeps pods away.
    #[component(name = "no-schedule")]
    NoSchedule,
    /// Keeps pods away where there is a choice.
    #[component(name = "prefer-no-schedule")]
    PreferNoSchedule,
    /// Evicts, too.
    #[component(name = "no-execute")]
    NoExecute,
}

/// A node's taint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lower, Lift)]
#[component(record)]
pub struct Taint {
    /// Its key.
    pub key: Atom,
    /// Its value.
    pub value: Atom,
    /// Its effect.
    pub effect: TaintEffect,
}

/// What seldom changes about a node.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower, Lift)]
#[component(record)]
pub struct Node {
    /// Its place in the columns.
    pub row: Row,
    /// Its name.
    pub name: Atom,
    /// `topology.kubernetes.io/zone`; 0 when there is none.
    pub zone: Atom,
    /// `topology.kubernetes.io/region`; 0 when there is none.
    pub region: Atom,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// All labels.
    pub labels: Vec<Label>,
    /// All taints.
    pub taints: Vec<Taint>,
}

/// Which of a resource's two columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ComponentType, Lower, Lift)]
#[component(enum)]
#[repr(u8)]
pub enum Amount {
    /// What the node offers.
    #[component(name = "allocatable")]
    Allocatable,
    /// What its pods have asked for, assumed ones included.
    #[component(name = "requested")]
    Requested,
}

/// New values in one column; both lists have the same length.
/// CPU in thousandths of a core; memory, storage and huge pages in bytes; others in pieces.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lower, Lift)]
#[component(record)]
pub struct Amounts {
    /// Name of the resource.
    pub resource: Atom,
    /// Which column.
    pub amount: Amount,
    /// Whose values.
    pub rows: Vec<Row>,
    /// The values.
    pub values: Vec<i64>,
}

/// What changed about the nodes since the last call; applied in the order of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeChanges {
    /// Strings seen for the first time: they get the next atoms.
    pub strings: Vec<Arc<str>>,
    /// Nodes that are gone.
    pub removed: Vec<Row>,
    /// Nodes that are new or whose facts changed.
    pub nodes: Vec<Arc<Node>>,
    /// Changed values.
    pub amounts: Vec<Amounts>,
}

/// What a pod asks for of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Request {
    /// Name of the resource.
    pub resource: Atom,
    /// How much, in the column's unit.
    pub value: i64,
}

/// A pod's label, or a wish for the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct PodLabel<'a> {
    /// Its key.
    pub key: &'a str,
    /// Its value.
    pub value: &'a str,
}

/// The pod to place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct Pod<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its uid.
    pub uid: &'a str,
    /// `spec.priority`.
    pub priority: i32,
    /// What the standard filters count it as, `pods` included.
    pub requests: &'a [Request],
    /// Its labels.
    pub labels: &'a [PodLabel<'a>],
    /// Annotations `POLICY.policy.gantry.dev/KEY`, under KEY.
    pub wishes: &'a [PodLabel<'a>],
    /// Uid of the controller that owns it, or empty.
    pub owner: &'a str,
}

/// Prefix of the annotations that are wishes for the policy of that name.
pub fn wish_prefix(policy: &str) -> String {
    format!("{policy}.policy.gantry.dev/")
}

/// A scheduler policy. Calls are synchronous and short; one at a time for each policy.
pub trait Policy: Send + Sync {
    /// The plugin's name.
    fn name(&self) -> &str;

    /// Why this policy refuses nodes: answer -1 is the first reason, -2 the second.
    fn reasons(&self) -> Arc<[String]>;

    /// Tells the policy what changed. The first call after the policy was loaded brings all nodes;
    /// what was sent is remembered, so that a renewed or replaced instance is told by this side.
    /// A failure to tell is kept and shows in the next [`Policy::filter_and_score`].
    fn update_nodes(&self, changes: NodeChanges);

    /// One number for each candidate, in `scores` (cleared first): 0 to [`SCORE_MAX`], or
    /// -1 - the index of a reason. After an error `scores` is empty.
    fn filter_and_score(&self, pod: &Pod<'_>, candidates: &[Row], scores: &mut Vec<i64>) -> Result<(), PluginError>;
}
