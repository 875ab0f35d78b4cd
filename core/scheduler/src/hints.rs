//! Which event can help which waiting pod (upstream's `EventsToRegister` and queueing hints, KEP-4247).

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::cluster::node::NodeChange;
use crate::local::{facts_failure, resources_lack};
use crate::plugin::{Plugin, PluginSet};
use crate::resources::ResourceId;
use crate::shape::selectors::selects;
use crate::shape::{PodTerm, Shape};

/// Something that happened in the cluster.
#[derive(Clone, Debug)]
pub enum ClusterEvent {
    /// A node is new or better.
    Node(NodeChange),
    /// A node is gone: domains may have vanished with it.
    NodeGone,
    /// A pod was placed, or one that was has other labels now.
    PodPlaced(Arc<Shape>),
    /// A pod has left its node, or asks for less.
    PodGone(Arc<Shape>),
    /// A claim is new or has changed: its namespace and name.
    Claim(String, String),
    /// A volume, a class or what drivers can do is new or has changed.
    Storage,
    /// A namespace has other labels.
    Namespace,
}

/// Whether an event can help pods of a shape that these plugins have refused.
pub fn may_help(cluster: &Cluster, event: &ClusterEvent, shape: &Shape, refused_by: PluginSet) -> bool {
    refused_by.iter().any(|plugin| helps(cluster, event, shape, plugin))
}

fn helps(cluster: &Cluster, event: &ClusterEvent, shape: &Shape, plugin: Plugin) -> bool {
    match event {
        ClusterEvent::Node(change) => node_helps(cluster, *change, shape, plugin),
        ClusterEvent::NodeGone => plugin == Plugin::PodTopologySpread,
        ClusterEvent::PodPlaced(other) => match plugin {
            Plugin::PodTopologySpread => spreads_select(shape, other),
            Plugin::InterPodAffinity => any_matches(&shape.affinity, other, cluster),
            _ => false,
        },
        ClusterEvent::PodGone(other) => match plugin {
            Plugin::NodeResourcesFit | Plugin::Policy => true,
            Plugin::NodePorts => shape.ports.iter().any(|port| other.ports.iter().any(|used| used.conflicts(port))),
            Plugin::VolumeRestrictions => {
                shape.namespace == other.namespace
                    && shape.claims.iter().any(|claim| other.claims.iter().any(|used| used.name == claim.name))
            }
            Plugin::NodeVolumeLimits => !other.claims.is_empty(),
            Plugin::PodTopologySpread => spreads_select(shape, other),
            Plugin::InterPodAffinity => {
                any_matches(&shape.anti_affinity, other, cluster) || any_matches(&other.anti_affinity, shape, cluster)
            }
            _ => false,
        },
        ClusterEvent::Claim(namespace, name) => {
            let about_claims = matches!(
                plugin,
                Plugin::VolumeBinding | Plugin::VolumeZone | Plugin::VolumeRestrictions | Plugin::NodeVolumeLimits
            );
            about_claims && *shape.namespace == **namespace && shape.claims.iter().any(|claim| *claim.name == **name)
        }
        ClusterEvent::Storage => {
            matches!(plugin, Plugin::VolumeBinding | Plugin::VolumeZone | Plugin::NodeVolumeLimits)
        }
        ClusterEvent::Namespace => plugin == Plugin::InterPodAffinity,
    }
}

fn node_helps(cluster: &Cluster, change: NodeChange, shape: &Shape, plugin: Plugin) -> bool {
    let Some(facts) = cluster.facts(change.row) else { return false };
    // The plugin's own word, given by a profile with nothing else.
    let says_yes = || {
        let profile = crate::config::Profile::only(plugin);
        facts_failure(cluster, shape, &profile, facts).is_none()
    };
    match plugin {
        Plugin::NodeUnschedulable => (change.added || change.schedulable) && says_yes(),
        Plugin::TaintToleration => (change.added || change.taints) && says_yes(),
        Plugin::NodeAffinity => (change.added || change.labels) && says_yes(),
        Plugin::NodeResourcesFit => {
            let lack = resources_lack(cluster, shape, change.row, &Default::default());
            (change.added || change.grown)
                && !lack.unresolvable
                && cluster.allocatable(ResourceId::PODS, change.row) > 0
        }
        Plugin::NodePorts | Plugin::NodeVolumeLimits => change.added,
        Plugin::VolumeBinding | Plugin::VolumeZone | Plugin::InterPodAffinity => change.added || change.labels,
        Plugin::PodTopologySpread => change.added || change.labels || change.taints,
        Plugin::Policy => true,
        _ => false,
    }
}

fn spreads_select(shape: &Shape, other: &Shape) -> bool {
    shape.namespace == other.namespace && shape.spreads.iter().any(|spread| selects(&spread.selector, &other.labels))
}

fn any_matches(terms: &[PodTerm], other: &Shape, cluster: &Cluster) -> bool {
    terms.iter().any(|term| term.matches(other, cluster))
}
