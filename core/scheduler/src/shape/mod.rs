//! What the filters and scores look at in a pod, parsed and comparable: pods of equal shape share all work.
//!
//! - [`requests`]: how much the pod asks for
//! - [`node_terms`]: node selector and node affinity
//! - [`tolerations`]: taints and tolerations
//! - [`selectors`]: label selectors

pub mod node_terms;
pub mod requests;
pub mod selectors;
pub mod tolerations;

use gantry_api::selectors::LabelSelector;
use k8s_openapi::api::core::v1::{Container, Pod, PodAffinityTerm, TopologySpreadConstraint, WeightedPodAffinityTerm};
use smallvec::SmallVec;

use crate::interner::{Atom, Interner};
use crate::resources::ResourceNames;
use node_terms::{NodeRequirement, PreferredNodeTerm, preferred_of};
use requests::Requests;
use selectors::{Labels, labels_of, of_api, selects, with_keys};
use tolerations::Toleration;

/// A port of the node that a pod wants for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The address, `0.0.0.0` for all.
    pub ip: Box<str>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
    /// The number.
    pub port: i32,
}

impl HostPort {
    /// Whether two pods with these can't share a node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// A topology spread constraint (KEP-895, KEP-3094, KEP-3243).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spread {
    /// The label that names a node's domain.
    pub key: Atom,
    /// By how much the fullest domain may exceed the emptiest.
    pub max_skew: i32,
    /// With fewer domains than this the emptiest counts as empty.
    pub min_domains: i32,
    /// `DoNotSchedule` rather than `ScheduleAnyway`.
    pub hard: bool,
    /// Whether nodes that the pod's selector and affinity refuse are left out.
    pub honor_affinity: bool,
    /// Whether nodes whose taints the pod doesn't tolerate are left out.
    pub honor_taints: bool,
    /// Which pods of the same namespace are counted.
    pub selector: LabelSelector,
}

/// A pod affinity or anti-affinity term.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodTerm {
    /// The label that names a node's domain.
    pub key: Atom,
    /// Which pods.
    pub selector: LabelSelector,
    /// In which namespaces; these or those that the selector picks.
    pub namespaces: Vec<Box<str>>,
    /// In namespaces with these labels.
    pub namespace_selector: Option<LabelSelector>,
}

/// Labels of namespaces, for the terms that select by them.
pub trait NamespaceLabels {
    /// The labels of a namespace; none when it isn't known.
    fn namespace_labels(&self, namespace: &str) -> Option<&Labels>;
}

impl PodTerm {
    fn of(term: &PodAffinityTerm, pod: &Labels, namespace: &str, atoms: &mut Interner) -> Self {
        let selector = with_keys(
            term.label_selector.as_ref(),
            pod,
            term.match_label_keys.as_deref(),
            term.mismatch_label_keys.as_deref(),
        );
        let namespace_selector = term.namespace_selector.as_ref().map(|selector| of_api(Some(selector)));
        let mut namespaces: Vec<Box<str>> =
            term.namespaces.iter().flatten().map(|namespace| namespace.as_str().into()).collect();
        if namespaces.is_empty() && namespace_selector.is_none() {
            namespaces.push(namespace.into());
        }
        Self { key: atoms.intern(&term.topology_key), selector, namespaces, namespace_selector }
    }

    /// Whether pods of a shape are meant.
    pub fn matches(&self, shape: &Shape, namespaces: &impl NamespaceLabels) -> bool {
        let here = self.namespaces.iter().any(|namespace| **namespace == *shape.namespace)
            || self.namespace_selector.as_ref().is_some_and(|selector| {
                selector.is_everything()
                    || namespaces.namespace_labels(&shape.namespace).is_some_and(|labels| selects(selector, labels))
            });
        here && selects(&self.selector, &shape.labels)
    }
}

/// A pod term with a weight; anti-affinity has a negative one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WeightedPodTerm {
    /// The term.
    pub term: PodTerm,
    /// What a matching pod adds.
    pub weight: i32,
}

/// A volume that comes from a claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimRef {
    /// The claim's name, in the pod's namespace.
    pub name: Box<str>,
    /// Whether the claim is made for this pod (a generic ephemeral volume).
    pub ephemeral: bool,
}

/// The controller that owns a pod, when it selects pods by labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// `ReplicaSet`, `StatefulSet` or `ReplicationController`.
    pub kind: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

/// What matters about a pod for choosing its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its labels, by key.
    pub labels: Labels,
    /// How much it asks for.
    pub requests: Requests,
    /// What it requires of its node.
    pub node: NodeRequirement,
    /// What it would like of its node.
    pub preferred_node: Vec<PreferredNodeTerm>,
    /// What it tolerates.
    pub tolerations: Vec<Toleration>,
    /// Ports it wants of the node.
    pub ports: SmallVec<[HostPort; 1]>,
    /// How it wants to be spread.
    pub spreads: Vec<Spread>,
    /// Pods it must be near to.
    pub affinity: Vec<PodTerm>,
    /// Pods it must be far from.
    pub anti_affinity: Vec<PodTerm>,
    /// Pods it would like to be near to (or, with a negative weight, far from).
    pub preferred_pods: Vec<WeightedPodTerm>,
    /// Names of its images, with a tag.
    pub images: Vec<Atom>,
    /// How many containers and image volumes those are of.
    pub image_users: u32,
    /// Volumes from claims.
    pub claims: Vec<ClaimRef>,
    /// Who owns it, for the default spread.
    pub owner: Option<Owner>,
}

impl Shape {
    /// Of a pod.
    pub fn of(pod: &Pod, atoms: &mut Interner, resources: &mut ResourceNames) -> Self {
        let namespace: Box<str> = pod.metadata.namespace.as_deref().unwrap_or_default().into();
        let labels = labels_of(pod.metadata.labels.as_ref());
        let requests = Requests::of(pod, resources);
        let Some(spec) = &pod.spec else { return Self { namespace, labels, requests, ..Self::default() } };
        let affinity = spec.affinity.as_ref();
        let mut shape = Self {
            node: NodeRequirement::of(spec.node_selector.as_ref(), affinity, atoms),
            preferred_node: preferred_of(affinity, atoms),
            tolerations: spec.tolerations.iter().flatten().filter_map(|one| Toleration::of(one, atoms)).collect(),
            requests,
            owner: owner_of(pod),
            ..Self::default()
        };
        shape.read_containers(spec.containers.iter().chain(spec.init_containers.iter().flatten()), atoms);
        let listening = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten().filter(|one| one.restart_policy.as_deref() == Some("Always")));
        shape.ports = listening.flat_map(host_ports).collect();
        for volume in spec.volumes.iter().flatten() {
            if let Some(claim) = &volume.persistent_volume_claim {
                shape.claims.push(ClaimRef { name: claim.claim_name.as_str().into(), ephemeral: false });
            } else if volume.ephemeral.is_some() {
                let pod = pod.metadata.name.as_deref().unwrap_or_default();
                shape.claims.push(ClaimRef { name: format!("{pod}-{}", volume.name).into(), ephemeral: true });
            } else if let Some(image) = volume.image.as_ref().and_then(|image| image.reference.as_deref()) {
                shape.images.push(atoms.intern(&with_tag(image)));
                shape.image_users += 1;
            }
        }
        shape.spreads = spec
            .topology_spread_constraints
            .iter()
            .flatten()
            .map(|constraint| Spread::of(constraint, &labels, atoms))
            .collect();
        if let Some(near) = affinity.and_then(|affinity| affinity.pod_affinity.as_ref()) {
            let required = near.required_during_scheduling_ignored_during_execution.iter().flatten();
            shape.affinity = required.map(|term| PodTerm::of(term, &labels, &namespace, atoms)).collect();
            let preferred = near.preferred_during_scheduling_ignored_during_execution.as_deref();
            shape.prefer(preferred.unwrap_or_default(), 1, &labels, &namespace, atoms);
        }
        if let Some(far) = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref()) {
            let required = far.required_during_scheduling_ignored_during_execution.iter().flatten();
            shape.anti_affinity = required.map(|term| PodTerm::of(term, &labels, &namespace, atoms)).collect();
            let preferred = far.preferred_during_scheduling_ignored_during_execution.as_deref();
            shape.prefer(preferred.unwrap_or_default(), -1, &labels, &namespace, atoms);
        }
        Self { namespace, labels, ..shape }
    }

    /// Whether it says something about other pods, so that it matters to them, too.
    pub fn has_pod_terms(&self) -> bool {
        !(self.affinity.is_empty() && self.anti_affinity.is_empty() && self.preferred_pods.is_empty())
    }

    fn read_containers<'a>(&mut self, containers: impl Iterator<Item = &'a Container>, atoms: &mut Interner) {
        for container in containers {
            self.image_users += 1;
            if let Some(image) = container.image.as_deref().filter(|image| !image.is_empty()) {
                self.images.push(atoms.intern(&with_tag(image)));
            }
        }
    }

    fn prefer(
        &mut self,
        terms: &[WeightedPodAffinityTerm],
        sign: i32,
        labels: &Labels,
        namespace: &str,
        atoms: &mut Interner,
    ) {
        self.preferred_pods.extend(terms.iter().map(|weighted| WeightedPodTerm {
            term: PodTerm::of(&weighted.pod_affinity_term, labels, namespace, atoms),
            weight: weighted.weight.saturating_mul(sign),
        }));
    }
}

impl Spread {
    fn of(constraint: &TopologySpreadConstraint, pod: &Labels, atoms: &mut Interner) -> Self {
        Self {
            key: atoms.intern(&constraint.topology_key),
            max_skew: constraint.max_skew,
            min_domains: constraint.min_domains.unwrap_or(1),
            hard: constraint.when_unsatisfiable == "DoNotSchedule",
            honor_affinity: constraint.node_affinity_policy.as_deref().unwrap_or("Honor") == "Honor",
            honor_taints: constraint.node_taints_policy.as_deref().unwrap_or("Ignore") == "Honor",
            selector: with_keys(constraint.label_selector.as_ref(), pod, constraint.match_label_keys.as_deref(), None),
        }
    }
}

fn host_ports(container: &Container) -> impl Iterator<Item = HostPort> {
    container.ports.iter().flatten().filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let or = |text: Option<&str>, default: &str| text.filter(|text| !text.is_empty()).unwrap_or(default).into();
        Some(HostPort {
            ip: or(port.host_ip.as_deref(), "0.0.0.0"),
            protocol: or(port.protocol.as_deref(), "TCP"),
            port: number,
        })
    })
}

fn owner_of(pod: &Pod) -> Option<Owner> {
    let owner = pod.metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    let selects = matches!(owner.kind.as_str(), "ReplicaSet" | "StatefulSet" | "ReplicationController");
    selects.then(|| Owner { kind: owner.kind.as_str().into(), name: owner.name.as_str().into() })
}

/// An image's name with a tag, as nodes report it.
fn with_tag(image: &str) -> String {
    let after_path = image.rfind('/').map_or(image, |at| &image[at..]);
    if after_path.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}
