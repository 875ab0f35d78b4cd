//! The ways in which a connection to a service is handled: each is a chain that many services share.

/// Which of a port's endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Side {
    /// Those for traffic to the whole cluster.
    Cluster,
    /// Those of this node.
    Local,
}

/// How to handle a connection. Services with the same number of endpoints share a chain, so that there are few of
/// them however many services there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Handling {
    /// To a cluster IP: masqueraded unless a pod of the cluster sent it.
    Internal { side: Side, count: usize, affinity: Option<u32> },
    /// From a pod to an external address whose policy is Local: as to the cluster IP, never masqueraded.
    Pod { count: usize, affinity: Option<u32> },
    /// To an external address, a load balancer's or a node port: masqueraded, to come back this way.
    External { count: usize, affinity: Option<u32> },
    /// The same with external traffic policy Local: keeps its source and stays on this node, unless a pod or this node
    /// sent it.
    ExternalLocal { cluster: usize, local: usize, affinity: Option<u32> },
}

impl Handling {
    /// The chain's name.
    pub(super) fn chain(self) -> String {
        let (name, affinity) = match self {
            Self::Internal { side: Side::Cluster, count, affinity } => (format!("internal-{count}"), affinity),
            Self::Internal { side: Side::Local, count, affinity } => (format!("internal-local-{count}"), affinity),
            Self::Pod { count, affinity } => (format!("pod-{count}"), affinity),
            Self::External { count, affinity } => (format!("external-{count}"), affinity),
            Self::ExternalLocal { cluster, local, affinity } => (format!("external-{cluster}-local-{local}"), affinity),
        };
        match affinity {
            Some(seconds) => format!("{name}-sticky-{seconds}"),
            None => name,
        }
    }

    /// Chains that this one leads to.
    pub(super) fn leads_to(self) -> Vec<Self> {
        match self {
            Self::ExternalLocal { cluster, affinity, .. } if cluster > 0 => {
                vec![Self::Pod { count: cluster, affinity }, Self::External { count: cluster, affinity }]
            }
            _ => Vec::new(),
        }
    }

    /// The chain's rules. `family` is `ip` or `ip6`; `pods` are the cluster's pod ranges as nftables writes them, empty
    /// when they aren't known.
    pub(super) fn rules(self, family: &str, pods: &str) -> Vec<String> {
        let mut rules = Vec::new();
        match self {
            Self::Internal { side, count, affinity } => {
                let mark =
                    (!pods.is_empty()).then(|| format!("{family} saddr != {{ {pods} }} jump mark-for-masquerade"));
                pick(&mut rules, family, side, count, affinity, mark.as_deref());
            }
            Self::Pod { count, affinity } => pick(&mut rules, family, Side::Cluster, count, affinity, None),
            Self::External { count, affinity } => {
                pick(&mut rules, family, Side::Cluster, count, affinity, Some("jump mark-for-masquerade"));
            }
            Self::ExternalLocal { local, affinity, .. } => {
                if let [pod, external] = self.leads_to()[..] {
                    if !pods.is_empty() {
                        rules.push(format!("{family} saddr {{ {pods} }} goto {}", pod.chain()));
                    }
                    rules.push(format!("fib saddr type local goto {}", external.chain()));
                }
                if local > 0 {
                    pick(&mut rules, family, Side::Local, local, affinity, None);
                } else {
                    rules.push("drop".to_owned());
                }
            }
        }
        rules
    }
}

/// The rules that choose an endpoint at random, or the one that the client had before.
///
/// Its number travels in the packet's priority: the rules have no variables, and the priority of a connection's first
/// packet is worth less than any bit of its mark; routing gives a forwarded packet a new one anyway.
fn pick(rules: &mut Vec<String>, family: &str, side: Side, count: usize, affinity: Option<u32>, mark: Option<&str>) {
    let prefix = match side {
        Side::Cluster => "",
        Side::Local => "local-",
    };
    let port = format!("{family} daddr . meta l4proto . th dport");
    let number = format!("meta priority set numgen random mod {count}");
    let by_priority = |map: &str| format!("{port} . meta priority map @{prefix}{map}");
    rules.extend(mark.map(str::to_owned));
    let Some(seconds) = affinity else {
        rules.push(number);
        rules.push(format!("dnat {family} to {}", by_priority("endpoints")));
        return;
    };
    let client = format!("{family} saddr . {port}");
    let lead = format!("dnat {family} to {}", by_priority("sticky-endpoints"));
    rules.push(format!("meta priority set {client} map @affinity"));
    rules.push(lead.clone());
    // The client is new, or its endpoint is gone; an update of what is there would only prolong it.
    rules.push(format!("delete @affinity {{ {client} : meta priority }}"));
    rules.push(number);
    rules.push(format!("meta priority set {}", by_priority("tokens")));
    rules.push(format!("update @affinity {{ {client} timeout {seconds}s : meta priority }}"));
    rules.push(lead);
}
