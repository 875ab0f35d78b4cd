//! Policy plugins: what they are told about the nodes, and what they are asked about pods.

use std::sync::Arc;

use gantry_plugin_host::PluginError;
use gantry_plugin_host::contract::scheduler as contract;
use gantry_plugin_host::contract::scheduler::{
    Amount, Amounts, Label, NodeChanges, PodLabel, Policy, Request, TaintEffect, wish_prefix,
};
use k8s_openapi::api::core::v1::Pod;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::cluster::node::{REGION, ZONE};
use crate::cluster::{Cluster, Row};
use crate::config::PolicyConfig;
use crate::interner::Atom;
use crate::resources::ResourceId;
use crate::shape::Shape;
use crate::shape::tolerations::Effect;

/// Where policies come from: the plugin host, or a test.
pub type PolicyProvider = Arc<dyn Fn(&PolicyConfig) -> Result<Arc<dyn Policy>, PluginError> + Send + Sync>;

/// After how long a policy that could not be loaded is asked for again, in milliseconds.
const RELOAD_AFTER_MS: u64 = 30_000;

/// A profile's policy, with what it has been told.
pub struct PolicySlot {
    config: PolicyConfig,
    provider: PolicyProvider,
    loaded: Option<Result<Arc<dyn Policy>, PluginError>>,
    tried_ms: u64,
    told: Told,
    scores: Vec<i64>,
}

/// What a policy knows.
#[derive(Default)]
struct Told {
    position: Option<u64>,
    atoms: FxHashMap<Atom, u32>,
    resources: FxHashMap<ResourceId, u32>,
    strings: u32,
    /// By row: whether its node is known, and the amounts by resource as last told.
    rows: FxHashMap<Row, FxHashMap<ResourceId, (i64, i64)>>,
}

impl Told {
    fn string(&mut self, text: Arc<str>, new: &mut Vec<Arc<str>>) -> u32 {
        if text.is_empty() {
            return 0;
        }
        self.strings += 1;
        new.push(text);
        self.strings
    }

    fn atom(&mut self, cluster: &Cluster, atom: Atom, new: &mut Vec<Arc<str>>) -> u32 {
        if let Some(known) = self.atoms.get(&atom) {
            return *known;
        }
        let told = self.string(cluster.atoms.shared(atom), new);
        self.atoms.insert(atom, told);
        told
    }

    fn resource(&mut self, cluster: &Cluster, id: ResourceId, new: &mut Vec<Arc<str>>) -> u32 {
        if let Some(known) = self.resources.get(&id) {
            return *known;
        }
        let told = self.string(Arc::from(cluster.resources.name(id)), new);
        self.resources.insert(id, told);
        told
    }

    /// What has changed since the last time.
    fn changes(&mut self, cluster: &Cluster) -> NodeChanges {
        let mut changes = NodeChanges::default();
        let since = self.position.and_then(|position| cluster.log.since(position));
        let mut facts: FxHashSet<Row> = FxHashSet::default();
        let mut rows: Vec<Row> = Vec::new();
        match since {
            Some(touched) => {
                for touched in touched {
                    rows.push(touched.row);
                    if touched.facts {
                        facts.insert(touched.row);
                    }
                }
                rows.sort_unstable();
                rows.dedup();
            }
            None => {
                rows = (0..).take(cluster.row_count()).collect();
                facts.extend(&rows);
            }
        }
        self.position = Some(cluster.log.position());
        let zone_key = cluster.atoms.find(ZONE);
        let region_key = cluster.atoms.find(REGION);
        let resources: Vec<ResourceId> =
            (0..u16::try_from(cluster.resources.len()).unwrap_or(u16::MAX)).map(ResourceId).collect();
        let mut columns: FxHashMap<(ResourceId, Amount), (Vec<Row>, Vec<i64>)> = FxHashMap::default();
        for row in rows {
            let Some(node) = cluster.facts(row) else {
                if self.rows.remove(&row).is_some() {
                    changes.removed.push(row);
                }
                continue;
            };
            let new = &mut changes.strings;
            if facts.contains(&row) || !self.rows.contains_key(&row) {
                let mut value = |key: Option<Atom>| {
                    key.and_then(|key| node.label(key)).map_or(0, |value| self.atom(cluster, value, new))
                };
                let (zone, region) = (value(zone_key), value(region_key));
                let labels = node.labels.iter().map(|(key, value)| Label {
                    key: self.atom(cluster, *key, new),
                    value: self.atom(cluster, *value, new),
                });
                let labels = labels.collect();
                let taints = node.taints.iter().map(|taint| contract::Taint {
                    key: self.atom(cluster, taint.key, new),
                    value: self.atom(cluster, taint.value, new),
                    effect: match taint.effect {
                        Effect::NoSchedule => TaintEffect::NoSchedule,
                        Effect::PreferNoSchedule => TaintEffect::PreferNoSchedule,
                        Effect::NoExecute => TaintEffect::NoExecute,
                    },
                });
                let taints = taints.collect();
                let name = self.atom(cluster, node.name, new);
                let unschedulable = node.unschedulable;
                changes.nodes.push(Arc::new(contract::Node { row, name, zone, region, unschedulable, labels, taints }));
            }
            let known = self.rows.entry(row).or_default();
            for resource in &resources {
                let now = (cluster.allocatable(*resource, row), cluster.requested(*resource, row));
                let before = known.get(resource).copied().unwrap_or((0, 0));
                if now == before {
                    continue;
                }
                known.insert(*resource, now);
                for (amount, now, before) in
                    [(Amount::Allocatable, now.0, before.0), (Amount::Requested, now.1, before.1)]
                {
                    if now != before {
                        let (rows, values) = columns.entry((*resource, amount)).or_default();
                        rows.push(row);
                        values.push(now);
                    }
                }
            }
        }
        let mut amounts: Vec<_> = columns.into_iter().collect();
        amounts.sort_unstable_by_key(|((resource, amount), _)| (*resource, *amount));
        for ((id, amount), (rows, values)) in amounts {
            let resource = self.resource(cluster, id, &mut changes.strings);
            changes.amounts.push(Amounts { resource, amount, rows, values });
        }
        changes
    }
}

impl PolicySlot {
    /// Of a profile; the policy is loaded when it is first asked.
    pub fn new(config: PolicyConfig, provider: PolicyProvider) -> Self {
        let told = Told::default();
        Self { config, provider, loaded: None, tried_ms: 0, told, scores: Vec::new() }
    }

    /// The profile's settings for it.
    pub fn config(&self) -> &PolicyConfig {
        &self.config
    }

    fn policy(&mut self, now_ms: u64) -> Result<Arc<dyn Policy>, PluginError> {
        let again = matches!(self.loaded, Some(Err(_))) && now_ms >= self.tried_ms + RELOAD_AFTER_MS;
        if self.loaded.is_none() || again {
            self.tried_ms = now_ms;
            self.told = Told::default();
            self.loaded = Some((self.provider)(&self.config));
        }
        match &self.loaded {
            Some(Ok(policy)) => Ok(policy.clone()),
            Some(Err(error)) => Err(error.clone()),
            None => Err(PluginError::Component {
                plugin: self.config.plugin.clone(),
                reason: "it was never loaded".to_owned(),
            }),
        }
    }

    /// One number for each candidate, and the policy's reasons for refusals (negative numbers).
    pub fn ask(
        &mut self,
        cluster: &Cluster,
        shape: &Shape,
        pod: &Pod,
        candidates: &[Row],
        now_ms: u64,
    ) -> Result<(&[i64], Arc<[String]>), PluginError> {
        let policy = self.policy(now_ms)?;
        let changes = self.told.changes(cluster);
        if changes != NodeChanges::default() {
            policy.update_nodes(changes);
        }
        let meta = &pod.metadata;
        let requests: Vec<Request> = shape
            .requests
            .amounts
            .iter()
            .copied()
            .chain([(ResourceId::PODS, 1)])
            .filter_map(|(id, value)| Some(Request { resource: *self.told.resources.get(&id)?, value }))
            .collect();
        let labels: Vec<PodLabel<'_>> =
            meta.labels.iter().flatten().map(|(key, value)| PodLabel { key, value }).collect();
        let prefix = wish_prefix(policy.name());
        let annotations = meta.annotations.iter().flatten();
        let wishes: Vec<PodLabel<'_>> =
            annotations.filter_map(|(key, value)| Some(PodLabel { key: key.strip_prefix(&prefix)?, value })).collect();
        let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        let asked = contract::Pod {
            namespace: meta.namespace.as_deref().unwrap_or_default(),
            name: meta.name.as_deref().unwrap_or_default(),
            uid: meta.uid.as_deref().unwrap_or_default(),
            priority: crate::cluster::priority_of(pod),
            requests: &requests,
            labels: &labels,
            wishes: &wishes,
            owner: owner.map_or("", |owner| owner.uid.as_str()),
        };
        policy.filter_and_score(&asked, candidates, &mut self.scores)?;
        Ok((&self.scores, policy.reasons()))
    }
}
