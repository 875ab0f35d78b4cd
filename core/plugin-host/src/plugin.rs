//! A known plugin and its current code.

use std::{
    borrow::Cow,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use wasmtime::component::InstancePre;

use crate::{
    Grant, Limits, Manifest, PluginError,
    engine::Machine,
    instance::{InstanceState, linker},
};

/// Where a plugin came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Part of this binary.
    InBox,
    /// Installed in that folder.
    Installed(PathBuf),
}

/// One version of a plugin, ready to be loaded.
pub(crate) struct Code {
    /// Differs between any two codes of this process.
    pub generation: u64,
    pub manifest: Manifest,
    pub grant: Grant,
    pub limits: Limits,
    pub source: Source,
    /// SHA-256 of the component, in hexadecimal digits.
    pub digest: String,
    wasm: Cow<'static, [u8]>,
    /// Compiled and linked, once it was needed.
    linked: Mutex<Option<InstancePre<InstanceState>>>,
}

impl Code {
    pub fn new(
        manifest: Manifest,
        wasm: Cow<'static, [u8]>,
        source: Source,
        grant: Grant,
        limits: Limits,
    ) -> Result<Self, PluginError> {
        static GENERATIONS: AtomicU64 = AtomicU64::new(1);
        grant
            .check()
            .map_err(|reason| PluginError::Manifest { origin: format!("{}, its grant", manifest.name), reason })?;
        Ok(Self {
            generation: GENERATIONS.fetch_add(1, Ordering::Relaxed),
            digest: hex::encode(Sha256::digest(&wasm)),
            manifest,
            grant,
            limits,
            source,
            wasm,
            linked: Mutex::new(None),
        })
    }

    /// Whether [`Code::link`] has nothing to compile.
    pub fn is_linked(&self) -> bool {
        self.linked.lock().is_some()
    }

    /// Compiles and links it: tens of milliseconds the first time on a machine, under one the next time, nothing once
    /// it was done.
    pub fn link(&self, machine: &Machine) -> Result<InstancePre<InstanceState>, PluginError> {
        let mut linked = self.linked.lock();
        if let Some(linked) = &*linked {
            return Ok(linked.clone());
        }
        let name = &self.manifest.name;
        let component = machine
            .component(&self.digest, &self.wasm)
            .map_err(|error| PluginError::Component { plugin: name.clone(), reason: format!("{error:#}") })?;
        let pre = linker::link(machine.engine(), &component, name, self.manifest.kind, &self.grant)?;
        *linked = Some(pre.clone());
        Ok(pre)
    }

    /// The settings for the plugin: checked, with their defaults.
    pub fn settings(&self, settings: &str) -> Result<String, PluginError> {
        self.manifest
            .settings
            .complete(settings)
            .map_err(|reason| PluginError::Settings { plugin: self.manifest.name.clone(), reason })
    }
}

/// A plugin, by whose name its users hold on to it while its code is replaced.
pub(crate) struct Plugin {
    pub name: Arc<str>,
    pub code: ArcSwap<Code>,
}

impl Plugin {
    pub fn new(code: Code) -> Self {
        Self { name: code.manifest.name.as_str().into(), code: ArcSwap::from_pointee(code) }
    }
}
