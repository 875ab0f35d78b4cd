//! [`Policy`] over a component: types written by hand that borrow from the caller, synchronous calls, one instance.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use wasmtime::{
    Store,
    component::{ComponentNamedList, ComponentType, Func, Instance, Lift, Lower, TypedFunc},
};

use crate::{
    Limits, PluginError, Policy,
    capability::Powers,
    contract::scheduler::{Amounts, Node, NodeChanges, Pod, Row, SCORE_MAX},
    engine::Machine,
    health::Health,
    instance::{InstanceState, begin, failure, new_store},
    nodes::Nodes,
    plugin::{Code, Plugin},
};

/// Most reasons that a policy may have.
const REASONS_MAX: usize = 64;
/// Longest reason.
const REASON_BYTES_MAX: usize = 256;

#[derive(ComponentType, Lift)]
#[component(record)]
struct Description {
    reasons: Vec<String>,
}

/// [`NodeChanges`], as it is lowered.
#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
struct Changes<'a> {
    strings: &'a [Arc<str>],
    removed: &'a [Row],
    nodes: &'a [Arc<Node>],
    amounts: &'a [Amounts],
}

impl<'a> From<&'a NodeChanges> for Changes<'a> {
    fn from(changes: &'a NodeChanges) -> Self {
        Self { strings: &changes.strings, removed: &changes.removed, nodes: &changes.nodes, amounts: &changes.amounts }
    }
}

/// A policy plugin.
pub(crate) struct WasmPolicy {
    plugin: Arc<Plugin>,
    machine: Arc<Machine>,
    settings: String,
    inner: Mutex<Inner>,
    reasons: Mutex<Arc<[String]>>,
}

struct Inner {
    live: Option<Live>,
    /// All that the policy was told, for the next instance.
    nodes: Nodes,
    health: Health,
    /// Why the last `update-nodes` failed.
    untold: Option<PluginError>,
}

struct Live {
    generation: u64,
    limits: Limits,
    reasons: usize,
    store: Store<InstanceState>,
    update_nodes: Func,
    filter_and_score: Func,
}

impl WasmPolicy {
    /// Makes the first instance, so that wrong settings show at once.
    pub fn new(plugin: Arc<Plugin>, machine: Arc<Machine>, settings: &str) -> Result<Self, PluginError> {
        let policy = Self {
            plugin,
            machine,
            settings: settings.to_owned(),
            inner: Mutex::new(Inner { live: None, nodes: Nodes::default(), health: Health::default(), untold: None }),
            reasons: Mutex::new(Arc::new([])),
        };
        policy.live(&mut policy.inner.lock())?;
        Ok(policy)
    }

    /// The instance, a new one when there is none or the code was replaced. The caller counts its failures.
    fn live<'a>(&self, inner: &'a mut Inner) -> Result<&'a mut Live, PluginError> {
        let code = self.plugin.code.load();
        if inner.live.as_ref().is_none_or(|live| live.generation != code.generation) {
            inner.live = None;
            let mut live = self.start(&code)?;
            if !inner.nodes.is_empty() {
                live.tell(&inner.nodes.all())?;
            }
            inner.live = Some(live);
        }
        // It was put there above.
        inner.live.as_mut().ok_or_else(|| self.broken("init", "the instance is gone"))
    }

    fn broken(&self, call: &'static str, reason: &str) -> PluginError {
        PluginError::Trap { plugin: self.plugin.name.to_string(), call, reason: reason.to_owned() }
    }

    fn start(&self, code: &Code) -> Result<Live, PluginError> {
        const CALL: &str = "init";
        let settings = code.settings(&self.settings)?;
        let pre = code.link(&self.machine)?;
        let limits = code.limits.clone();
        let mut store = new_store(&self.machine, &self.plugin.name, Arc::new(Powers::default()), &limits, false);
        let running = self.machine.running();
        begin(&mut store, limits.update());
        let failed = |error: wasmtime::Error, store: &Store<_>| failure(&error, store, CALL, &limits, limits.update());
        let instance = pre.instantiate(&mut store).map_err(|error| failed(error, &store))?;
        let mut function = |name: &str| find(&instance, &mut store, code, name);
        let (init, update_nodes, filter_and_score) =
            (function("init")?, function("update-nodes")?, function("filter-and-score")?);
        let mismatch = |error: wasmtime::Error| PluginError::Component {
            plugin: self.plugin.name.to_string(),
            reason: format!("{error:#}"),
        };
        typed::<(Changes<'_>,), ()>(&update_nodes, &store).map_err(mismatch)?;
        typed::<(Pod<'_>, &[Row]), (Vec<i64>,)>(&filter_and_score, &store).map_err(mismatch)?;
        let (described,) = typed::<(&str,), (Result<Description, String>,)>(&init, &store)
            .map_err(mismatch)?
            .call(&mut store, (settings.as_str(),))
            .map_err(|error| failed(error, &store))?;
        drop(running);
        let plugin = || self.plugin.name.to_string();
        let reasons = described.map_err(|reason| PluginError::Settings { plugin: plugin(), reason })?.reasons;
        if reasons.len() > REASONS_MAX || reasons.iter().any(|reason| reason.len() > REASON_BYTES_MAX) {
            let reason = format!("more than {REASONS_MAX} reasons or one longer than {REASON_BYTES_MAX} bytes");
            return Err(PluginError::BadAnswer { plugin: plugin(), call: CALL, reason });
        }
        let count = reasons.len();
        *self.reasons.lock() = reasons.into();
        Ok(Live { generation: code.generation, limits, reasons: count, store, update_nodes, filter_and_score })
    }

    /// Counts what a failed call says about the plugin; its instance goes.
    fn failed(&self, inner: &mut Inner, error: PluginError, now: Instant) -> PluginError {
        inner.live = None;
        if error.is_misbehaviour() {
            let limits = &self.plugin.code.load().limits;
            inner.health.failed(&self.plugin.name, &error, now, limits);
        }
        error
    }
}

fn find(instance: &Instance, store: &mut Store<InstanceState>, code: &Code, name: &str) -> Result<Func, PluginError> {
    let interface = code.manifest.kind.export();
    instance
        .get_export_index(&mut *store, None, interface)
        .and_then(|interface| instance.get_export_index(&mut *store, Some(&interface), name))
        .and_then(|function| instance.get_func(&mut *store, function))
        .ok_or_else(|| PluginError::Component {
            plugin: code.manifest.name.clone(),
            reason: format!("it exports no function {name} in {interface}"),
        })
}

/// A function with its types checked; the check costs a fraction of a microsecond.
fn typed<P, R>(function: &Func, store: &Store<InstanceState>) -> wasmtime::Result<TypedFunc<P, R>>
where
    P: ComponentNamedList + Lower,
    R: ComponentNamedList + Lift,
{
    function.typed::<P, R>(store)
}

impl Live {
    fn tell(&mut self, changes: &NodeChanges) -> Result<(), PluginError> {
        const CALL: &str = "update-nodes";
        let limit = self.limits.update();
        let _running = self.store.data().machine.running();
        begin(&mut self.store, limit);
        typed::<(Changes<'_>,), ()>(&self.update_nodes, &self.store)
            .and_then(|update| update.call(&mut self.store, (changes.into(),)))
            .map_err(|error| self.failure(&error, CALL, limit))
    }

    fn ask(&mut self, pod: &Pod<'_>, candidates: &[Row]) -> Result<Vec<i64>, PluginError> {
        const CALL: &str = "filter-and-score";
        let limit = self.limits.score();
        let _running = self.store.data().machine.running();
        begin(&mut self.store, limit);
        let (scores,) = typed::<(Pod<'_>, &[Row]), (Vec<i64>,)>(&self.filter_and_score, &self.store)
            .and_then(|score| score.call(&mut self.store, (*pod, candidates)))
            .map_err(|error| self.failure(&error, CALL, limit))?;
        check(&scores, candidates.len(), self.reasons).map_err(|reason| PluginError::BadAnswer {
            plugin: self.store.data().plugin.to_string(),
            call: CALL,
            reason,
        })?;
        Ok(scores)
    }

    fn failure(&self, error: &wasmtime::Error, call: &'static str, limit: Duration) -> PluginError {
        failure(error, &self.store, call, &self.limits, limit)
    }
}

/// Checks an answer against the contract.
fn check(scores: &[i64], candidates: usize, reasons: usize) -> Result<(), String> {
    if scores.len() != candidates {
        return Err(format!("{} scores for {candidates} candidates", scores.len()));
    }
    let lowest = -i64::try_from(reasons).unwrap_or(i64::MAX);
    // Without a branch for each: all scores are read on the hot path.
    let (smallest, largest) =
        scores.iter().fold((0, 0), |(smallest, largest), &score| (score.min(smallest), score.max(largest)));
    if largest > SCORE_MAX {
        return Err(format!("a score of {largest}; the best is {SCORE_MAX}"));
    }
    if smallest < lowest {
        return Err(format!("{smallest} for a node; it has {reasons} reasons"));
    }
    Ok(())
}

impl Policy for WasmPolicy {
    fn name(&self) -> &str {
        &self.plugin.name
    }

    fn reasons(&self) -> Arc<[String]> {
        self.reasons.lock().clone()
    }

    fn update_nodes(&self, changes: NodeChanges) {
        let inner = &mut *self.inner.lock();
        // One that is to be replaced, or that isn't there, will be told everything when it is needed.
        let generation = self.plugin.code.load().generation;
        let told = match inner.live.as_mut().filter(|live| live.generation == generation) {
            Some(live) => live.tell(&changes),
            None => Ok(()),
        };
        inner.nodes.apply(changes);
        inner.untold = told.err().map(|error| self.failed(inner, error, Instant::now()));
    }

    fn filter_and_score(&self, pod: &Pod<'_>, candidates: &[Row], scores: &mut Vec<i64>) -> Result<(), PluginError> {
        scores.clear();
        let inner = &mut *self.inner.lock();
        if let Some(error) = inner.untold.take() {
            return Err(error);
        }
        let now = Instant::now();
        inner.health.admit(&self.plugin.name, now)?;
        match self.live(inner).and_then(|live| live.ask(pod, candidates)) {
            Ok(answer) => {
                inner.health.succeeded();
                *scores = answer;
                Ok(())
            }
            Err(error) => Err(self.failed(inner, error, now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked() {
        for (scores, candidates, reasons, expect) in [
            (vec![], 0, 0, Ok(())),
            (vec![0, 10_000, -2], 3, 2, Ok(())),
            (vec![0], 2, 0, Err("1 scores for 2 candidates")),
            (vec![0, 1, 2], 2, 0, Err("3 scores for 2 candidates")),
            (vec![10_001], 1, 0, Err("a score of 10001; the best is 10000")),
            (vec![-3], 1, 2, Err("-3 for a node; it has 2 reasons")),
            (vec![i64::MIN], 1, 64, Err("-9223372036854775808 for a node; it has 64 reasons")),
        ] {
            assert_eq!(check(&scores, candidates, reasons), expect.map_err(str::to_owned), "{scores:?}");
        }
    }
}
