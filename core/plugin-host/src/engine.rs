//! The WebAssembly engine: its configuration, the clock that interrupts calls, and compiled code kept on disk.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{JoinHandle, Thread},
    time::Duration,
};

use parking_lot::Mutex;
use wasmtime::{Config, Engine, component::Component};

/// How often the engine's epoch advances while a call runs: the precision of limits.
pub(crate) const TICK: Duration = Duration::from_millis(5);

/// How many ticks the clock goes on for after the last call, so that a stream of short calls doesn't wake its thread
/// for each.
const IDLE_TICKS_MAX: u32 = 100;

/// The engine and its clock. One for each process.
pub(crate) struct Machine {
    engine: Engine,
    clock: Arc<Clock>,
    thread: Mutex<Option<JoinHandle<()>>>,
    cache: Option<PathBuf>,
}

#[derive(Default)]
pub(crate) struct Clock {
    running: AtomicUsize,
    started: AtomicU64,
    parked: AtomicBool,
    stop: AtomicBool,
}

/// While it lives, the clock ticks.
pub(crate) struct Running(Arc<Clock>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Machine {
    /// An engine; compiled code is kept in the folder `cache`.
    pub fn new(cache: Option<PathBuf>) -> wasmtime::Result<Self> {
        let mut config = Config::new();
        config.epoch_interruption(true);
        // Traps name functions; offsets into code without debug information say nothing and cost a table.
        config.generate_address_map(false);
        Ok(Self { engine: Engine::new(&config)?, clock: Arc::default(), thread: Mutex::new(None), cache })
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Keeps the clock ticking for a call.
    pub fn running(&self) -> Running {
        self.clock.running.fetch_add(1, Ordering::SeqCst);
        if self.clock.started.fetch_add(1, Ordering::SeqCst) == 0 {
            self.spawn();
        } else if self.clock.parked.load(Ordering::SeqCst) {
            self.wake();
        }
        Running(self.clock.clone())
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.lock().as_ref().map(JoinHandle::thread) {
            Thread::unpark(thread);
        }
    }

    fn spawn(&self) {
        let mut thread = self.thread.lock();
        if thread.is_some() {
            return;
        }
        let (engine, clock) = (self.engine.weak(), self.clock.clone());
        let spawned = std::thread::Builder::new().name("plugin-clock".into()).spawn(move || {
            let mut idle = 0;
            let mut seen = 0;
            while !clock.stop.load(Ordering::SeqCst) {
                std::thread::sleep(TICK);
                match engine.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => return,
                }
                let started = clock.started.load(Ordering::SeqCst);
                let busy = clock.running.load(Ordering::SeqCst) > 0 || started != seen;
                seen = started;
                idle = if busy { 0 } else { idle + 1 };
                if idle < IDLE_TICKS_MAX {
                    continue;
                }
                clock.parked.store(true, Ordering::SeqCst);
                // A call that began before it could see `parked` shows in `started`; one that saw it unparks.
                while clock.started.load(Ordering::SeqCst) == seen && !clock.stop.load(Ordering::SeqCst) {
                    std::thread::park();
                }
                clock.parked.store(false, Ordering::SeqCst);
                idle = 0;
            }
        });
        match spawned {
            Ok(handle) => *thread = Some(handle),
            Err(error) => tracing::error!(%error, "the clock of plugin calls can't be started: limits do not hold"),
        }
    }

    /// Compiles a component, or takes what was compiled before from the disk.
    pub fn component(&self, digest: &str, wasm: &[u8]) -> wasmtime::Result<Component> {
        let Some(cache) = &self.cache else { return Component::new(&self.engine, wasm) };
        let mut hasher = DefaultHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut hasher);
        let file = cache.join(format!("{digest}-{:016x}.cwasm", hasher.finish()));
        if let Some(component) = self.load(&file) {
            return Ok(component);
        }
        let component = Component::new(&self.engine, wasm)?;
        // Only the next start is slower without it.
        if let Err(error) = component.serialize().map_err(std::io::Error::other).and_then(|code| store(&file, &code)) {
            tracing::debug!(file = %file.display(), %error, "compiled code of a plugin is not kept");
        }
        Ok(component)
    }

    #[allow(unsafe_code)]
    fn load(&self, file: &Path) -> Option<Component> {
        if !is_ours(file) {
            return None;
        }
        // SAFETY: the bytes must be what `Component::serialize` wrote. The file and its folder belong to us and nobody
        // else can write to them, it was renamed into place only after it had been written and synced as a whole, and
        // its name carries the hash of the engine's version and configuration (which the engine checks again).
        match unsafe { Component::deserialize_file(&self.engine, file) } {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::debug!(file = %file.display(), %error, "compiled code of a plugin is not usable");
                None
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.clock.stop.store(true, Ordering::SeqCst);
        self.wake();
    }
}

/// Whether the file is a regular one that we own and only we can write, in a folder of which the same is true.
fn is_ours(file: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let us = nix::unistd::geteuid().as_raw();
    let private = |metadata: &std::fs::Metadata| metadata.uid() == us && metadata.mode() & 0o022 == 0;
    let (Ok(metadata), Some(folder)) = (std::fs::symlink_metadata(file), file.parent()) else { return false };
    metadata.is_file() && private(&metadata) && std::fs::symlink_metadata(folder).is_ok_and(|folder| private(&folder))
}

fn store(file: &Path, code: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let beside = file.with_extension(format!("{}.new", std::process::id()));
    let mut out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    out.write_all(code)?;
    out.sync_all()?;
    std::fs::rename(&beside, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A component of nothing.
    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn compiled_code_is_kept_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let machine = Machine::new(Some(cache.clone())).unwrap();
        machine.component("sha", EMPTY).unwrap();
        let file = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
        assert!(machine.load(&file).is_some());
    }

    #[test]
    fn code_that_others_can_write_is_not_loaded() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let machine = Machine::new(Some(folder.path().to_owned())).unwrap();
        machine.component("sha", EMPTY).unwrap();
        let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(machine.load(&file).is_none());
        machine.component("sha", EMPTY).unwrap();
    }

    #[test]
    fn the_clock_ticks_while_a_call_runs_and_rests_afterwards() {
        let machine = Machine::new(None).unwrap();
        for _ in 0..2 {
            let running = machine.running();
            // The epoch can't be read: a store whose deadline is one tick away traps when it has passed.
            wait_until(|| !machine.clock.parked.load(Ordering::SeqCst));
            drop(running);
            wait_until(|| machine.clock.parked.load(Ordering::SeqCst));
        }
    }

    fn wait_until(condition: impl Fn() -> bool) {
        let start = std::time::Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(30), "it never came true");
            std::thread::yield_now();
        }
    }
}
