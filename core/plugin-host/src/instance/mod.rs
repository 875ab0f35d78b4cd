//! An instance of a plugin: its store, what it has used, and how its failures are read.
//!
//! - [`linker`]: which interfaces an instance can reach
//! - [`imports`]: the interfaces, as the component calls them
//! - [`meter`]: processor time
//! - [`pool`]: several instances that share the calls

pub(crate) mod imports;
pub(crate) mod linker;
pub(crate) mod meter;
pub(crate) mod pool;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use wasmtime::{ResourceLimiter, Store, Trap, UpdateDeadline};

use crate::{
    Limits, PluginError,
    capability::{Powers, log::LogBudget},
    engine::{Machine, Running, TICK},
};
use meter::{Meter, OutOfTime};

/// What the host keeps for an instance.
pub(crate) struct InstanceState {
    pub plugin: Arc<str>,
    pub powers: Arc<Powers>,
    pub meter: Meter,
    pub log: LogBudget,
    /// Paths that the host handed to the running call, to and from which it may mount.
    pub call_paths: Vec<PathBuf>,
    pub machine: Arc<Machine>,
    /// Set while the plugin's own code runs.
    pub running: Option<Running>,
    memory: MemoryLimit,
}

struct MemoryLimit {
    limit_bytes: usize,
    /// The running call wanted more.
    exceeded: bool,
}

/// Tables hold functions: a component that needs more has gone wrong.
const TABLE_ELEMENTS_MAX: usize = 100_000;

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired <= self.limit_bytes {
            return Ok(true);
        }
        self.exceeded = true;
        Err(wasmtime::Error::msg("out of memory"))
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }

    fn instances(&self) -> usize {
        16
    }

    fn memories(&self) -> usize {
        4
    }

    fn tables(&self) -> usize {
        16
    }
}

/// A new store with its limits. `asynchronous` stores yield to others at each tick and count processor time; the others
/// are stopped when their deadline has passed.
pub(crate) fn new_store(
    machine: &Arc<Machine>,
    plugin: &Arc<str>,
    powers: Arc<Powers>,
    limits: &Limits,
    asynchronous: bool,
) -> Store<InstanceState> {
    let state = InstanceState {
        plugin: plugin.clone(),
        powers,
        meter: Meter::default(),
        log: LogBudget::default(),
        call_paths: Vec::new(),
        machine: machine.clone(),
        running: None,
        memory: MemoryLimit { limit_bytes: limits.memory_bytes, exceeded: false },
    };
    let mut store = Store::new(machine.engine(), state);
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(limits.answer_bytes);
    if asynchronous {
        store.epoch_deadline_callback(|mut store| {
            store.data_mut().meter.tick(Instant::now())?;
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
    } else {
        store.epoch_deadline_trap();
    }
    store
}

/// Readies the store of a synchronous instance for a call that may take so long.
pub(crate) fn begin(store: &mut Store<InstanceState>, limit: Duration) {
    let ticks = limit.as_nanos().div_ceil(TICK.as_nanos()) as u64 + 1;
    store.set_epoch_deadline(ticks);
    let state = store.data_mut();
    state.memory.exceeded = false;
    state.log.renew();
}

/// Readies the store of an asynchronous instance for a call that may use so much of a processor.
pub(crate) fn begin_async(store: &mut Store<InstanceState>, processor: Duration, call_paths: Vec<PathBuf>) {
    store.set_epoch_deadline(1);
    let state = store.data_mut();
    state.memory.exceeded = false;
    state.log.renew();
    state.running = Some(state.machine.running());
    state.call_paths = call_paths;
    state.meter.begin(Instant::now(), processor);
}

/// Why a call failed.
pub(crate) fn failure(
    error: &wasmtime::Error,
    store: &Store<InstanceState>,
    call: &'static str,
    limits: &Limits,
    limit: Duration,
) -> PluginError {
    let state = store.data();
    let plugin = state.plugin.to_string();
    if state.memory.exceeded {
        return PluginError::Memory { plugin, call, limit_bytes: limits.memory_bytes };
    }
    if error.is::<OutOfTime>() || matches!(error.downcast_ref::<Trap>(), Some(Trap::Interrupt)) {
        return PluginError::Timeout { plugin, call, limit };
    }
    if let Some(BadLift(reason)) = bad_lift(error) {
        return PluginError::BadAnswer { plugin, call, reason };
    }
    let mut reason = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    if let Some(last) = state.log.last_error() {
        reason = format!("{reason} ({last})");
    }
    PluginError::Trap { plugin, call, reason }
}

struct BadLift(String);

/// What the engine says when an answer lies outside of the memory or isn't what its type says: everything that is
/// neither a trap nor an error of the host's own.
fn bad_lift(error: &wasmtime::Error) -> Option<BadLift> {
    if error.is::<Trap>() || error.is::<wasmtime::WasmBacktrace>() {
        return None;
    }
    Some(BadLift(error.root_cause().to_string()))
}
