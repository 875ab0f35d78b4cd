//! The scheduler's plugins by upstream's names, and sets of them.

use std::fmt;

/// A filter, a score or both. The order is upstream's: a node's failure is the first filter's that refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Plugin {
    /// Pods wait until their gates are gone.
    SchedulingGates,
    /// `spec.unschedulable` of nodes.
    NodeUnschedulable,
    /// `spec.nodeName` of pods.
    NodeName,
    /// Taints of nodes, tolerations of pods.
    TaintToleration,
    /// Node selector and node affinity.
    NodeAffinity,
    /// Host ports.
    NodePorts,
    /// Requests fit; the emptier node is better.
    NodeResourcesFit,
    /// A claim of mode ReadWriteOncePod has one user.
    VolumeRestrictions,
    /// How many volumes a CSI driver can attach to a node.
    NodeVolumeLimits,
    /// Claims are bound to volumes that the node can reach.
    VolumeBinding,
    /// Zones of volumes.
    VolumeZone,
    /// Topology spread constraints.
    PodTopologySpread,
    /// Pods near to or far from each other.
    InterPodAffinity,
    /// Victims of lower priority.
    DefaultPreemption,
    /// CPU and memory used to the same degree.
    NodeResourcesBalancedAllocation,
    /// Nodes that have the images.
    ImageLocality,
    /// The policy that the profile names.
    Policy,
}

/// All plugins, in order.
pub const ALL: [Plugin; 17] = [
    Plugin::SchedulingGates,
    Plugin::NodeUnschedulable,
    Plugin::NodeName,
    Plugin::TaintToleration,
    Plugin::NodeAffinity,
    Plugin::NodePorts,
    Plugin::NodeResourcesFit,
    Plugin::VolumeRestrictions,
    Plugin::NodeVolumeLimits,
    Plugin::VolumeBinding,
    Plugin::VolumeZone,
    Plugin::PodTopologySpread,
    Plugin::InterPodAffinity,
    Plugin::DefaultPreemption,
    Plugin::NodeResourcesBalancedAllocation,
    Plugin::ImageLocality,
    Plugin::Policy,
];

impl Plugin {
    /// Upstream's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::SchedulingGates => "SchedulingGates",
            Self::NodeUnschedulable => "NodeUnschedulable",
            Self::NodeName => "NodeName",
            Self::TaintToleration => "TaintToleration",
            Self::NodeAffinity => "NodeAffinity",
            Self::NodePorts => "NodePorts",
            Self::NodeResourcesFit => "NodeResourcesFit",
            Self::VolumeRestrictions => "VolumeRestrictions",
            Self::NodeVolumeLimits => "NodeVolumeLimits",
            Self::VolumeBinding => "VolumeBinding",
            Self::VolumeZone => "VolumeZone",
            Self::PodTopologySpread => "PodTopologySpread",
            Self::InterPodAffinity => "InterPodAffinity",
            Self::DefaultPreemption => "DefaultPreemption",
            Self::NodeResourcesBalancedAllocation => "NodeResourcesBalancedAllocation",
            Self::ImageLocality => "ImageLocality",
            Self::Policy => "Policy",
        }
    }

    /// The plugin of a name that a profile may name.
    pub fn from_name(name: &str) -> Option<Self> {
        ALL.into_iter().filter(|plugin| *plugin != Self::Policy).find(|plugin| plugin.name() == name)
    }

    /// The weight of its score in upstream's default profile; 0 when it scores nothing.
    pub fn default_weight(self) -> u32 {
        match self {
            Self::TaintToleration => 3,
            Self::NodeAffinity | Self::PodTopologySpread | Self::InterPodAffinity => 2,
            Self::NodeResourcesFit | Self::NodeResourcesBalancedAllocation | Self::ImageLocality => 1,
            _ => 0,
        }
    }
}

/// A set of plugins.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PluginSet(u32);

impl PluginSet {
    /// All of them.
    pub const ALL: Self = Self((1 << ALL.len()) - 1);

    /// With one more.
    #[must_use]
    pub fn with(self, plugin: Plugin) -> Self {
        Self(self.0 | 1 << plugin as u32)
    }

    /// Without one.
    #[must_use]
    pub fn without(self, plugin: Plugin) -> Self {
        Self(self.0 & !(1 << plugin as u32))
    }

    /// Whether it is in the set.
    pub fn contains(self, plugin: Plugin) -> bool {
        self.0 & (1 << plugin as u32) != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in the set, in order.
    pub fn iter(self) -> impl Iterator<Item = Plugin> {
        ALL.into_iter().filter(move |plugin| self.contains(*plugin))
    }
}

impl FromIterator<Plugin> for PluginSet {
    fn from_iter<I: IntoIterator<Item = Plugin>>(plugins: I) -> Self {
        plugins.into_iter().fold(Self::default(), Self::with)
    }
}

impl fmt::Debug for PluginSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.iter().map(Plugin::name)).finish()
    }
}
