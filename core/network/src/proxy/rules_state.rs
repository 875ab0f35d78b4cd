//! From plans to transactions: what is in the kernel, what has to change. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::net::IpAddr;

use gantry_client::ObjectKey;
use ipnet::IpNet;

use super::elements::{ElementKey, Frontend, Plan};
use super::endpoints::Target;
use super::handling::Handling;
use super::ruleset;
use crate::conntrack::UdpFlow;

/// Flows to a UDP frontend that may stay; all others to it must be forgotten.
pub(super) type UdpFlows = BTreeMap<Frontend, BTreeSet<Target>>;

/// Whether a flow to one of the frontends leads where it must not.
pub(super) fn is_stale(flows: &UdpFlows, flow: &UdpFlow) -> bool {
    let (ip, port) = flow.destination;
    flows.get(&Frontend { ip, protocol: "udp", port }).is_some_and(|allowed| !allowed.contains(&flow.answering))
}

/// How the tables are made.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    pub(super) name: String,
    /// Which families there are tables for: IPv4, IPv6.
    pub(super) families: Vec<bool>,
    /// The cluster's pod ranges.
    pub(super) pods: Vec<IpNet>,
    /// The cluster's service ranges.
    pub(super) services: Vec<IpNet>,
}

/// The state that the kernel's tables should have.
#[derive(Debug)]
pub(super) struct RulesState {
    tables: Tables,
    plans: HashMap<ObjectKey, Plan>,
    /// Who wants an element, and which value. Two services that claim the same address and port take turns by name.
    claims: HashMap<ElementKey, BTreeMap<ObjectKey, String>>,
    /// How many plans use a way of handling.
    handlings: BTreeMap<(bool, Handling), usize>,
}

/// What changes in one transaction: for each touched thing, how it was before.
#[derive(Debug, Default)]
pub(super) struct Changes {
    elements: BTreeMap<ElementKey, Option<String>>,
    handlings: BTreeMap<(bool, Handling), bool>,
    /// UDP flows to check, once the new rules are in force.
    pub(super) udp: UdpFlows,
}

impl RulesState {
    pub(super) fn new(tables: Tables) -> Self {
        Self { tables, plans: HashMap::new(), claims: HashMap::new(), handlings: BTreeMap::new() }
    }

    /// What was planned for a service last.
    pub(super) fn plan(&self, service: &ObjectKey) -> Option<&Plan> {
        self.plans.get(service)
    }

    /// Puts a plan in the place of the service's last one; an empty plan forgets the service.
    pub(super) fn replace(&mut self, service: &ObjectKey, mut plan: Plan, changes: &mut Changes) {
        plan.elements.retain(|key, _| self.tables.families.contains(&key.four));
        plan.handlings.retain(|(four, _)| self.tables.families.contains(four));
        let old = self.plans.remove(service).unwrap_or_default();
        for key in old.elements.keys().filter(|key| !plan.elements.contains_key(key)) {
            self.claim(service, key, None, changes);
        }
        for (key, value) in &plan.elements {
            if old.elements.get(key) != Some(value) {
                self.claim(service, key, Some(value), changes);
            }
        }
        for handling in plan.handlings.difference(&old.handlings) {
            self.use_handling(*handling, true, changes);
        }
        for handling in old.handlings.difference(&plan.handlings) {
            self.use_handling(*handling, false, changes);
        }
        stale_udp(&old.udp, &plan.udp, &mut changes.udp);
        if !plan.elements.is_empty() {
            self.plans.insert(service.clone(), plan);
        }
    }

    fn value(&self, key: &ElementKey) -> Option<&String> {
        self.claims.get(key).and_then(|claims| claims.values().next())
    }

    fn claim(&mut self, service: &ObjectKey, key: &ElementKey, value: Option<&String>, changes: &mut Changes) {
        let before = self.value(key).cloned();
        changes.elements.entry(key.clone()).or_insert(before);
        let claims = self.claims.entry(key.clone()).or_default();
        match value {
            Some(value) => {
                claims.insert(service.clone(), value.clone());
            }
            None => {
                claims.remove(service);
                if claims.is_empty() {
                    self.claims.remove(key);
                }
            }
        }
    }

    fn use_handling(&mut self, handling: (bool, Handling), more: bool, changes: &mut Changes) {
        let (four, named) = handling;
        for handling in std::iter::once(named).chain(named.leads_to()).map(|handling| (four, handling)) {
            let users = self.handlings.entry(handling).or_default();
            changes.handlings.entry(handling).or_insert(*users > 0);
            *users = if more { *users + 1 } else { users.saturating_sub(1) };
            if *users == 0 {
                self.handlings.remove(&handling);
            }
        }
    }

    /// The script that brings the kernel from before the changes to now; empty when nothing differs.
    pub(super) fn script(&self, changes: &Changes) -> String {
        let (mut gone, mut new) = (Batch::default(), Batch::default());
        for (key, before) in &changes.elements {
            let now = self.value(key);
            if before.as_ref() == now {
                continue;
            }
            if before.is_some() {
                gone.add(key, "");
            }
            if let Some(value) = now {
                new.add(key, value);
            }
        }
        let mut script = String::new();
        let is_used = |handling: &(bool, Handling)| self.handlings.contains_key(handling);
        let made: Vec<_> = changes.handlings.iter().filter(|(handling, was)| !**was && is_used(handling)).collect();
        let unused: Vec<_> = changes.handlings.iter().filter(|(handling, was)| **was && !is_used(handling)).collect();
        self.write_chains(&mut script, made.iter().map(|(handling, _)| **handling));
        gone.write(&mut script, "delete", &self.tables.name);
        new.write(&mut script, "add", &self.tables.name);
        // Emptied first, all of them: they may lead to each other.
        for verb in ["flush", "delete"] {
            for ((four, handling), _) in &unused {
                let _ =
                    writeln!(script, "{verb} chain {} {}", ruleset::table(&self.tables.name, *four), handling.chain());
            }
        }
        script
    }

    /// The script that makes everything from nothing.
    pub(super) fn whole_script(&self) -> String {
        let mut script = String::new();
        for four in &self.tables.families {
            script += &ruleset::skeleton(&self.tables.name, *four, &self.tables.services);
        }
        self.write_chains(&mut script, self.handlings.keys().copied());
        let mut all = Batch::default();
        let mut keys: Vec<&ElementKey> = self.claims.keys().collect();
        keys.sort();
        for key in keys {
            all.add(key, self.value(key).map(String::as_str).unwrap_or_default());
        }
        all.write(&mut script, "add", &self.tables.name);
        script
    }

    fn write_chains(&self, script: &mut String, handlings: impl Iterator<Item = (bool, Handling)> + Clone) {
        // All chains are there before a rule names one.
        for (four, handling) in handlings.clone() {
            let _ = writeln!(script, "add chain {} {}", ruleset::table(&self.tables.name, four), handling.chain());
        }
        for (four, handling) in handlings {
            let pods = ruleset::ranges(&self.tables.pods, four);
            for rule in handling.rules(ruleset::family(four), &pods) {
                let table = ruleset::table(&self.tables.name, four);
                let _ = writeln!(script, "add rule {table} {} {rule}", handling.chain());
            }
        }
    }
}

/// UDP has no connections that end: flows to an endpoint that is gone would go there for ever, and flows that found
/// nobody would never find the first endpoint.
fn stale_udp(old: &UdpFlows, new: &UdpFlows, stale: &mut UdpFlows) {
    for (frontend, before) in old {
        let now = new.get(frontend).cloned().unwrap_or_default();
        if before.is_empty() != now.is_empty() || !before.is_subset(&now) || !new.contains_key(frontend) {
            stale.insert(frontend.clone(), now);
        }
    }
    for (frontend, now) in new.iter().filter(|(frontend, now)| !old.contains_key(frontend) && !now.is_empty()) {
        stale.insert(frontend.clone(), now.clone());
    }
}

/// Elements by table and set, for one command each.
#[derive(Default)]
struct Batch {
    sets: BTreeMap<(bool, &'static str), Vec<String>>,
}

impl Batch {
    fn add(&mut self, key: &ElementKey, value: &str) {
        let element = if value.is_empty() { key.key.clone() } else { format!("{} : {value}", key.key) };
        self.sets.entry((key.four, key.set.name())).or_default().push(element);
    }

    fn write(&self, script: &mut String, verb: &str, table: &str) {
        for ((four, set), elements) in &self.sets {
            let table = ruleset::table(table, *four);
            let _ = writeln!(script, "{verb} element {table} {set} {{ {} }}", elements.join(", "));
        }
    }
}

/// Families that some addresses are of, IPv4 first.
pub(super) fn families(ips: impl Iterator<Item = IpAddr> + Clone) -> Vec<bool> {
    [true, false].into_iter().filter(|four| ips.clone().any(|ip| ip.is_ipv4() == *four)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_to_endpoints_that_are_gone_are_stale() {
        let target = |ip: [u8; 4], port| (IpAddr::from(ip), port);
        let service = target([10, 96, 0, 10], 53);
        let frontend = Frontend { ip: service.0, protocol: "udp", port: 53 };
        let flows = UdpFlows::from([(frontend, BTreeSet::from([target([10, 244, 0, 2], 53)]))]);
        let cases = [
            (service, target([10, 244, 0, 3], 53), true),
            (service, service, true),
            (service, target([10, 244, 0, 2], 53), false),
            (target([10, 96, 0, 11], 53), target([10, 244, 0, 3], 53), false),
        ];
        for (destination, answering, expect) in cases {
            assert_eq!(is_stale(&flows, &UdpFlow { destination, answering }), expect, "{destination:?} {answering:?}");
        }
    }
}
