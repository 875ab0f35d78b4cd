//! Several instances of a plugin that share its calls.

use std::{
    future::Future,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::error::Elapsed,
};
use wasmtime::{Store, component::InstancePre};

use super::{InstanceState, begin_async, failure, new_store};
use crate::{
    Limits, PluginError,
    capability::{CapabilityError, Powers},
    engine::Machine,
    health::Health,
    plugin::{Code, Plugin},
};

/// What differs between the kinds of plugins that run in pools.
pub(crate) trait World: Send + Sync + 'static {
    /// The calls of an instance.
    type Exports: Send + Sync;
    /// What `init` answers.
    type Ready: Clone + Send;

    /// What its instances can reach.
    fn powers(&self, code: &Code) -> std::io::Result<Powers>;

    /// Makes an instance and calls `init`.
    fn start(
        &self,
        pre: &InstancePre<InstanceState>,
        store: &mut Store<InstanceState>,
        settings: &str,
    ) -> impl Future<Output = wasmtime::Result<Started<Self>>> + Send;
}

/// A new instance, or the plugin's own word that it can't work with these settings.
pub(crate) type Started<W> = Result<(<W as World>::Exports, <W as World>::Ready), CapabilityError>;

/// What came of a call: out of time, broken off, refused, or done.
pub(crate) type Outcome<T> = Result<wasmtime::Result<Result<T, CapabilityError>>, Elapsed>;

/// The instances of a plugin that were made for one user of it.
pub(crate) struct Pool<W: World> {
    world: W,
    plugin: Arc<Plugin>,
    machine: Arc<Machine>,
    settings: String,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    idle: Mutex<Vec<Live<W>>>,
    health: Mutex<Health>,
}

struct Live<W: World> {
    generation: u64,
    store: Store<InstanceState>,
    exports: W::Exports,
    ready: W::Ready,
    limits: Limits,
}

impl<W: World> Pool<W> {
    pub fn new(world: W, plugin: Arc<Plugin>, machine: Arc<Machine>, settings: &str) -> Self {
        let instances = plugin.code.load().limits.instances.max(1);
        Self {
            world,
            plugin,
            machine,
            settings: settings.to_owned(),
            permits: Arc::new(Semaphore::new(instances.min(Semaphore::MAX_PERMITS))),
            waiting: AtomicUsize::new(0),
            idle: Mutex::new(Vec::new()),
            health: Mutex::default(),
        }
    }

    pub fn name(&self) -> &str {
        &self.plugin.name
    }

    /// An instance for a call.
    pub async fn checkout(&self, call: &'static str) -> Result<Lease<'_, W>, PluginError> {
        self.health.lock().admit(self.name(), Instant::now())?;
        let permit = self.permit(call).await?;
        let code = self.plugin.code.load_full();
        let idle = {
            let mut idle = self.idle.lock();
            // Those of replaced code go.
            idle.retain(|live| live.generation == code.generation);
            idle.pop()
        };
        let live = match idle {
            Some(live) => live,
            None => self.make(code).await?,
        };
        Ok(Lease { pool: self, call, live: Some(live), limit: Duration::ZERO, _permit: permit })
    }

    async fn permit(&self, call: &'static str) -> Result<OwnedSemaphorePermit, PluginError> {
        let overloaded = |waiting| PluginError::Overloaded { plugin: self.name().to_owned(), call, waiting };
        match self.permits.clone().try_acquire_owned() {
            Ok(permit) => return Ok(permit),
            Err(TryAcquireError::Closed) => return Err(overloaded(0)),
            Err(TryAcquireError::NoPermits) => {}
        }
        let waiting = Waiting::join(&self.waiting);
        if waiting.before >= self.plugin.code.load().limits.waiting_calls {
            return Err(overloaded(waiting.before));
        }
        self.permits.clone().acquire_owned().await.map_err(|_| overloaded(waiting.before))
    }

    async fn make(&self, code: Arc<Code>) -> Result<Live<W>, PluginError> {
        const CALL: &str = "init";
        let io = |source| PluginError::Io {
            plugin: self.name().to_owned(),
            path: PathBuf::from("granted folders"),
            source: Arc::new(source),
        };
        let settings = code.settings(&self.settings)?;
        let powers = Arc::new(self.world.powers(&code).map_err(io)?);
        let pre = if code.is_linked() {
            code.link(&self.machine)?
        } else {
            let (code, machine) = (code.clone(), self.machine.clone());
            tokio::task::spawn_blocking(move || code.link(&machine)).await.map_err(|error| {
                PluginError::Component {
                    plugin: self.name().to_owned(),
                    reason: format!("the compiler broke off: {error}"),
                }
            })??
        };
        let limits = code.limits.clone();
        let mut store = new_store(&self.machine, &self.plugin.name, powers, &limits, true);
        begin_async(&mut store, limits.processor(), Vec::new());
        let started = tokio::time::timeout(limits.call(), self.world.start(&pre, &mut store, &settings)).await;
        store.data_mut().running = None;
        let error = match started {
            Ok(Ok(Ok((exports, ready)))) => {
                return Ok(Live { generation: code.generation, store, exports, ready, limits });
            }
            Ok(Ok(Err(refused))) => {
                return Err(PluginError::Settings { plugin: self.name().to_owned(), reason: refused.message });
            }
            Ok(Err(error)) => failure(&error, &store, CALL, &limits, limits.processor()),
            Err(_) => PluginError::Timeout { plugin: self.name().to_owned(), call: CALL, limit: limits.call() },
        };
        self.health.lock().failed(self.name(), &error, Instant::now(), &limits);
        Err(error)
    }

    fn give_back(&self, live: Live<W>) {
        let mut idle = self.idle.lock();
        if idle.len() < live.limits.idle_instances {
            idle.push(live);
        }
    }
}

/// A caller that waits for an instance.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl<'a> Waiting<'a> {
    fn join(count: &'a AtomicUsize) -> Self {
        Self { count, before: count.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An instance for one call. Dropped before the call's end (its caller gave up), the instance goes with it, as its
/// state is unknown.
pub(crate) struct Lease<'a, W: World> {
    pool: &'a Pool<W>,
    call: &'static str,
    /// Taken by `finish` alone.
    live: Option<Live<W>>,
    limit: Duration,
    _permit: OwnedSemaphorePermit,
}

/// A call that is about to be made.
pub(crate) struct Ready<'a, W: World> {
    pub exports: &'a W::Exports,
    pub store: &'a mut Store<InstanceState>,
    /// How long it may take in all.
    pub limit: Duration,
}

impl<W: World> Lease<'_, W> {
    /// What `init` answered.
    pub fn ready(&self) -> Option<W::Ready> {
        self.live.as_ref().map(|live| live.ready.clone())
    }

    /// Begins a call that may take so much longer than others and mount at these paths.
    pub fn begin(&mut self, longer: Duration, call_paths: Vec<PathBuf>) -> Result<Ready<'_, W>, PluginError> {
        let gone = || PluginError::Trap {
            plugin: self.pool.name().to_owned(),
            call: self.call,
            reason: "the instance is gone".to_owned(),
        };
        let live = self.live.as_mut().ok_or_else(gone)?;
        self.limit = live.limits.call().saturating_add(longer);
        begin_async(&mut live.store, live.limits.processor(), call_paths);
        Ok(Ready { exports: &live.exports, store: &mut live.store, limit: self.limit })
    }

    /// Ends the call. The instance goes back unless it misbehaved.
    pub fn finish<T>(mut self, outcome: Outcome<T>) -> Result<T, PluginError> {
        let (pool, call) = (self.pool, self.call);
        let plugin = || pool.name().to_owned();
        let Some(mut live) = self.live.take() else {
            return Err(PluginError::Trap { plugin: plugin(), call, reason: "the instance is gone".to_owned() });
        };
        live.store.data_mut().running = None;
        let error = match outcome {
            Ok(Ok(answer)) => {
                pool.health.lock().succeeded();
                pool.give_back(live);
                return answer.map_err(|error| PluginError::Refused {
                    plugin: plugin(),
                    call,
                    code: error.code,
                    message: error.message,
                });
            }
            Ok(Err(error)) => failure(&error, &live.store, call, &live.limits, live.limits.processor()),
            Err(_) => PluginError::Timeout { plugin: plugin(), call, limit: self.limit },
        };
        pool.health.lock().failed(pool.name(), &error, Instant::now(), &live.limits);
        Err(error)
    }
}

/// Calls an exported function of an instance from the pool, within its limits.
macro_rules! call_in_pool {
    ($pool:expr, $name:literal, $interface:ident.$function:ident($($argument:expr),*)) => {
        call_in_pool!($pool, $name, std::time::Duration::ZERO, Vec::new(), $interface.$function($($argument),*))
    };
    ($pool:expr, $name:literal, $longer:expr, $paths:expr, $interface:ident.$function:ident($($argument:expr),*)) => {{
        let mut lease = $pool.checkout($name).await?;
        let ready = lease.begin($longer, $paths)?;
        let call = ready.exports.$interface().$function(ready.store $(, $argument)*);
        let outcome = tokio::time::timeout(ready.limit, call).await;
        lease.finish(outcome)
    }};
}
pub(crate) use call_in_pool;
