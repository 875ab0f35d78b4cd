//! [`PluginHost`]: the plugins of this process.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use parking_lot::RwLock;

use crate::{
    Grant, Kind, Limits, Manifest, PluginError, Policy, Runtime, RuntimeCapabilities, VolumeCapabilities, VolumeDriver,
    adapter::{
        policy::WasmPolicy,
        runtime::{RuntimeWorld, WasmRuntime},
        volume::{VolumeWorld, WasmVolumeDriver},
    },
    capability::{Capability, is_name},
    contract::runtime::HostFacts,
    engine::Machine,
    in_box,
    instance::pool::Pool,
    plugin::{Code, Plugin, Source},
};

/// Largest component that is installed.
const COMPONENT_BYTES_MAX: u64 = 64 << 20;
/// Largest manifest or grant.
const TEXT_BYTES_MAX: u64 = 256 << 10;
/// Folder of compiled code, beside the plugins': no plugin can have this name.
const CACHE: &str = "cache";

/// What a host is told at its start.
#[derive(Debug, Clone, Default)]
pub struct HostOptions {
    /// Gantry's data folder, DIR. Plugins are installed in `DIR/plugins/NAME`, compiled code is kept in
    /// `DIR/plugins/cache`, granted folders without a path of their own are `DIR/plugin-data/NAME/FOLDER`.
    pub directory: PathBuf,
    /// The operator's word on single plugins, by name; it goes before what was granted when the plugin was installed.
    pub plugins: BTreeMap<String, PluginOptions>,
}

/// The operator's word on one plugin: a table `[plugins.NAME]` of the server's TOML.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct PluginOptions {
    /// Instead of the grant that was made when it was installed; for a plugin in the box, instead of all that it asks
    /// for.
    pub grant: Option<Grant>,
    /// Its limits.
    pub limits: Limits,
}

/// A plugin, as `gantry plugin list` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginInfo {
    /// By this name users refer to it.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// Its own version.
    pub version: String,
    /// Version of the contract that it was written for.
    pub contract: String,
    /// One line for people.
    pub description: String,
    /// In the box or installed.
    pub source: Source,
    /// What it asks for.
    pub asks_for: BTreeSet<Capability>,
    /// What it may reach.
    pub granted: BTreeSet<Capability>,
    /// `sha256:…` of the component.
    pub digest: String,
}

/// Where granted folders are.
#[derive(Debug, Clone)]
pub(crate) struct FolderPlan {
    data: PathBuf,
}

impl FolderPlan {
    /// The operator's folder, or one in the data folder.
    pub fn path(&self, plugin: &str, grant: &Grant, folder: &str) -> PathBuf {
        grant.folders.get(folder).cloned().unwrap_or_else(|| self.data.join(plugin).join(folder))
    }
}

/// The plugins in the box and those that were installed. What it hands out stays valid when a plugin is replaced: the
/// next call runs the new code.
pub struct PluginHost {
    options: HostOptions,
    machine: Arc<Machine>,
    folders: FolderPlan,
    plugins: RwLock<BTreeMap<String, Arc<Plugin>>>,
    /// Plugins on the disk that could not be read.
    broken: ArcSwap<BTreeMap<String, PluginError>>,
}

impl PluginHost {
    /// Reads what is there. A plugin on the disk that is broken is logged and left out; see [`PluginHost::broken`].
    pub fn open(mut options: HostOptions) -> Result<Arc<Self>, PluginError> {
        // Grants and mounts need absolute paths.
        options.directory = std::path::absolute(&options.directory).map_err(|source| PluginError::Io {
            plugin: "host".to_owned(),
            path: options.directory.clone(),
            source: Arc::new(source),
        })?;
        let machine = Machine::new(Some(options.directory.join("plugins").join(CACHE))).map_err(|error| {
            PluginError::Component { plugin: "host".to_owned(), reason: format!("no engine for components: {error:#}") }
        })?;
        let host = Self {
            folders: FolderPlan { data: options.directory.join("plugin-data") },
            options,
            machine: Arc::new(machine),
            plugins: RwLock::default(),
            broken: ArcSwap::default(),
        };
        host.reload()?;
        Ok(Arc::new(host))
    }

    /// Reads the installed plugins again: new ones appear, those that are gone go, changed ones are replaced.
    pub fn reload(&self) -> Result<(), PluginError> {
        let mut found: BTreeMap<String, Code> = BTreeMap::new();
        for plugin in in_box::PLUGINS {
            let code = self.in_box(plugin)?;
            found.insert(code.manifest.name.clone(), code);
        }
        let mut broken = BTreeMap::new();
        for (name, folder) in self.installed()? {
            match self.read(&name, &folder) {
                Ok(code) => {
                    found.insert(name, code);
                }
                Err(error) => {
                    tracing::warn!(plugin = name, %error, "an installed plugin is left out");
                    broken.insert(name, error);
                }
            }
        }
        let mut plugins = self.plugins.write();
        // One whose files are broken goes on with the code that it has.
        plugins.retain(|name, _| found.contains_key(name) || broken.contains_key(name));
        for (name, code) in found {
            match plugins.get(&name) {
                Some(plugin) => replace(plugin, code),
                None => {
                    plugins.insert(name, Arc::new(Plugin::new(code)));
                }
            }
        }
        self.broken.store(Arc::new(broken));
        Ok(())
    }

    /// All plugins, by name.
    pub fn list(&self) -> Vec<PluginInfo> {
        self.plugins.read().values().map(|plugin| info(&plugin.code.load())).collect()
    }

    /// Plugins on the disk that can't be used, and why.
    pub fn broken(&self) -> Vec<(String, PluginError)> {
        self.broken.load().iter().map(|(name, error)| (name.clone(), error.clone())).collect()
    }

    /// What a plugin that is to be installed says about itself. Nothing is granted and nothing is run.
    pub fn inspect(&self, manifest: &str, component: &[u8]) -> Result<PluginInfo, PluginError> {
        let manifest = Manifest::parse(manifest, "plugin.toml")?;
        let folder = self.folder_of(&manifest.name);
        let code = self.code(manifest, Cow::Owned(component.to_vec()), Source::Installed(folder), Grant::default())?;
        Ok(info(&code))
    }

    /// Installs a plugin, or replaces the one of that name, with what the operator grants. It is compiled and linked
    /// first: one that needs more than was granted is refused and nothing changes.
    pub fn install(&self, manifest: &str, component: &[u8], grant: Grant) -> Result<PluginInfo, PluginError> {
        let parsed = Manifest::parse(manifest, "plugin.toml")?;
        let name = parsed.name.clone();
        if name == CACHE {
            return Err(PluginError::Manifest {
                origin: "plugin.toml".to_owned(),
                reason: format!("name {CACHE:?} is taken"),
            });
        }
        if let Some(present) = self.plugins.read().get(&name)
            && present.code.load().manifest.kind != parsed.kind
        {
            let kind = present.code.load().manifest.kind;
            return Err(PluginError::Manifest {
                origin: "plugin.toml".to_owned(),
                reason: format!("{name} is a {kind} plugin and can't be replaced by one of kind {}", parsed.kind),
            });
        }
        let grant_text = toml::to_string_pretty(&grant)
            .map_err(|error| PluginError::Manifest { origin: "grant.toml".to_owned(), reason: error.to_string() })?;
        let folder = self.folder_of(&name);
        let code = self.code(parsed, Cow::Owned(component.to_vec()), Source::Installed(folder.clone()), grant)?;
        code.link(&self.machine)?;
        let files =
            [("plugin.toml", manifest.as_bytes()), ("grant.toml", grant_text.as_bytes()), ("plugin.wasm", component)];
        put_folder(&folder, &files).map_err(|source| PluginError::Io {
            plugin: name.clone(),
            path: folder.clone(),
            source: Arc::new(source),
        })?;
        let installed = info(&code);
        let mut plugins = self.plugins.write();
        match plugins.get(&name) {
            Some(plugin) => replace(plugin, code),
            None => {
                plugins.insert(name, Arc::new(Plugin::new(code)));
            }
        }
        Ok(installed)
    }

    /// Removes an installed plugin; one in the box of that name takes its place again. What it wrote into its granted
    /// folders stays. False when none of that name is installed.
    pub fn remove(&self, name: &str) -> Result<bool, PluginError> {
        if !is_name(name) || name == CACHE {
            return Ok(false);
        }
        let folder = self.folder_of(name);
        match std::fs::remove_dir_all(&folder) {
            Ok(()) => self.reload().map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(PluginError::Io { plugin: name.to_owned(), path: folder, source: Arc::new(source) }),
        }
    }

    /// A scheduler policy with settings (a JSON object, or empty). The first instance is made here, so that wrong
    /// settings show at once; compiling takes tens of milliseconds the first time on a machine.
    pub fn policy(&self, name: &str, settings: &str) -> Result<Arc<dyn Policy>, PluginError> {
        let plugin = self.find(name, Kind::Scheduler)?;
        Ok(Arc::new(WasmPolicy::new(plugin, self.machine.clone(), settings)?))
    }

    /// A runtime with settings. Its first instance is made here.
    pub async fn runtime(
        &self,
        name: &str,
        settings: &str,
        facts: HostFacts,
        capabilities: Arc<dyn RuntimeCapabilities>,
    ) -> Result<Arc<dyn Runtime>, PluginError> {
        let plugin = self.find(name, Kind::Runtime)?;
        let world = RuntimeWorld { facts, capabilities, folders: self.folders.clone() };
        let runtime = WasmRuntime(Pool::new(world, plugin, self.machine.clone(), settings));
        runtime.0.checkout("init").await?.finish(Ok(Ok(Ok(()))))?;
        Ok(Arc::new(runtime))
    }

    /// A volume driver with settings. `node` is the node on which it publishes volumes, or empty where it only makes
    /// them. Its first instance is made here.
    pub async fn volume_driver(
        &self,
        name: &str,
        settings: &str,
        node: &str,
        capabilities: Arc<dyn VolumeCapabilities>,
    ) -> Result<Arc<dyn VolumeDriver>, PluginError> {
        let plugin = self.find(name, Kind::Volume)?;
        let world = VolumeWorld { node: node.to_owned(), capabilities, folders: self.folders.clone() };
        let driver = WasmVolumeDriver(Pool::new(world, plugin, self.machine.clone(), settings));
        driver.0.checkout("init").await?.finish(Ok(Ok(Ok(()))))?;
        Ok(Arc::new(driver))
    }

    fn find(&self, name: &str, kind: Kind) -> Result<Arc<Plugin>, PluginError> {
        let missing = || PluginError::Manifest {
            origin: name.to_owned(),
            reason: format!("there is no {kind} plugin of that name, in the box or installed"),
        };
        let found = self.plugins.read().get(name).cloned();
        if found.is_none()
            && let Some(error) = self.broken.load().get(name)
        {
            return Err(error.clone());
        }
        found.filter(|plugin| plugin.code.load().manifest.kind == kind).ok_or_else(missing)
    }

    fn folder_of(&self, name: &str) -> PathBuf {
        self.options.directory.join("plugins").join(name)
    }

    fn code(
        &self,
        manifest: Manifest,
        wasm: Cow<'static, [u8]>,
        source: Source,
        grant: Grant,
    ) -> Result<Code, PluginError> {
        let options = self.options.plugins.get(&manifest.name);
        let grant = options.and_then(|options| options.grant.clone()).unwrap_or(grant);
        let limits = options.map(|options| options.limits.clone()).unwrap_or_default();
        Code::new(manifest, wasm, source, grant, limits)
    }

    fn in_box(&self, plugin: &in_box::InBox) -> Result<Code, PluginError> {
        let manifest = Manifest::parse(plugin.manifest, "in the box")?;
        let grant = Grant::of(manifest.capabilities.iter().cloned());
        self.code(manifest, Cow::Borrowed(plugin.component), Source::InBox, grant)
    }

    /// Names and folders of the installed plugins.
    fn installed(&self) -> Result<Vec<(String, PathBuf)>, PluginError> {
        let folder = self.options.directory.join("plugins");
        let failed =
            |source| PluginError::Io { plugin: "host".to_owned(), path: folder.clone(), source: Arc::new(source) };
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut installed = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if is_name(&name) && name != CACHE && entry.path().join("plugin.toml").is_file() {
                installed.push((name, entry.path()));
            }
        }
        installed.sort();
        Ok(installed)
    }

    fn read(&self, name: &str, folder: &Path) -> Result<Code, PluginError> {
        let file = |of: &str, limit: u64| {
            let path = folder.join(of);
            read_file(&path, limit).map_err(|source| PluginError::Io {
                plugin: name.to_owned(),
                path,
                source: Arc::new(source),
            })
        };
        let origin = |of: &str| folder.join(of).display().to_string();
        let text = |of: &str| -> Result<String, PluginError> {
            String::from_utf8(file(of, TEXT_BYTES_MAX)?)
                .map_err(|_| PluginError::Manifest { origin: origin(of), reason: "no UTF-8".to_owned() })
        };
        let manifest = Manifest::parse(&text("plugin.toml")?, &origin("plugin.toml"))?;
        if manifest.name != name {
            let reason = format!("its name is {:?}, its folder's {name:?}", manifest.name);
            return Err(PluginError::Manifest { origin: origin("plugin.toml"), reason });
        }
        let grant = match text("grant.toml") {
            Ok(text) => toml::from_str(&text).map_err(|error| PluginError::Manifest {
                origin: origin("grant.toml"),
                reason: error.to_string().trim_end().to_owned(),
            })?,
            // Nothing was granted.
            Err(PluginError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Grant::default(),
            Err(error) => return Err(error),
        };
        let wasm = file("plugin.wasm", COMPONENT_BYTES_MAX)?;
        self.code(manifest, Cow::Owned(wasm), Source::Installed(folder.to_owned()), grant)
    }
}

fn info(code: &Code) -> PluginInfo {
    let manifest = &code.manifest;
    PluginInfo {
        name: manifest.name.clone(),
        kind: manifest.kind,
        version: manifest.version.clone(),
        contract: manifest.contract.clone(),
        description: manifest.description.clone(),
        source: code.source.clone(),
        asks_for: manifest.capabilities.clone(),
        granted: code.grant.capabilities.clone(),
        digest: format!("sha256:{}", code.digest),
    }
}

/// Gives a plugin other code unless nothing changed.
fn replace(plugin: &Plugin, code: Code) {
    let present = plugin.code.load();
    let same = present.digest == code.digest
        && present.manifest == code.manifest
        && present.grant == code.grant
        && present.limits == code.limits
        && present.source == code.source;
    if !same {
        tracing::info!(plugin = &*plugin.name, version = code.manifest.version, "plugin is replaced");
        plugin.code.store(Arc::new(code));
    }
}

fn read_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    use io::Read;
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
    }
    Ok(content)
}

/// Puts a folder with these files in a place, as a whole.
fn put_folder(folder: &Path, files: &[(&str, &[u8])]) -> io::Result<()> {
    use io::Write;
    use std::os::unix::fs::DirBuilderExt;
    let above = folder.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(above)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    // A name that no plugin can have, so that what a crash leaves is not taken for one.
    let (new, old) = (above.join(format!(".{name}.new")), above.join(format!(".{name}.old")));
    for left in [&new, &old] {
        if left.exists() {
            std::fs::remove_dir_all(left)?;
        }
    }
    std::fs::create_dir(&new)?;
    for (file, content) in files {
        let mut file = std::fs::File::create(new.join(file))?;
        file.write_all(content)?;
        file.sync_all()?;
    }
    if folder.exists() {
        std::fs::rename(folder, &old)?;
    }
    std::fs::rename(&new, folder)?;
    std::fs::File::open(above)?.sync_all()?;
    if old.exists() { std::fs::remove_dir_all(&old) } else { Ok(()) }
}
