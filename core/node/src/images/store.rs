//! The images of a node, on disk.
//!
//! `index.json` knows the names and configurations, `layers/` holds the unpacked layers (see
//! [`snapshots`](super::snapshots)), `ingest/` what is being fetched and unpacked. Several processes may use the folder:
//! whoever changes it holds `lock` and reads the index anew.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use nix::fcntl::{Flock, FlockArg};
use oci_client::Reference;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::manifest::{self, Config, Descriptor, Manifest, Run};
use super::registry::{self, Source};
use super::{Image, ImageConfig, ImageError, Images, RegistryCredentials, reference, snapshots, unpack};

/// Layers of an image fetched side by side; containerd's default.
const LAYERS_AT_ONCE_MAX: usize = 3;
/// Most layers of an image: more than overlayfs takes.
const LAYERS_MAX: usize = 256;
/// Progress kept for a receiver that is busy.
const PROGRESS_MAX: usize = 1024;
/// Bytes between two events of a download.
const PROGRESS_STEP_BYTES: u64 = 256 * 1024;

/// How an [`ImageStore`] works.
#[derive(Clone, Debug, Default)]
pub struct ImageStoreOptions {
    /// Registries' mirrors (`host[:port]`), tried before them, in that order.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Hosts (`host[:port]`) spoken to without TLS, beside this machine itself.
    pub plain_http: Vec<String>,
}

/// How a pull goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The image, as it was asked for.
    pub reference: String,
    /// The layer (its blob's digest).
    pub layer: String,
    /// What happens to it.
    pub step: Step,
    /// Bytes of the blob.
    pub total_bytes: u64,
}

/// A layer's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It waits for its turn.
    Waiting,
    /// It is being fetched; so many bytes are there.
    Downloading(u64),
    /// It is being unpacked.
    Unpacking,
    /// It is there.
    Done,
}

/// The images of a node. Cheap to clone.
#[derive(Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

struct Inner {
    folder: PathBuf,
    options: ImageStoreOptions,
    index: Mutex<Cached>,
    /// One pull of a name at a time: those that come later find the work done.
    pulls: Gates,
    /// One unpacking of a layer at a time.
    layers: Gates,
    progress: broadcast::Sender<Progress>,
}

#[derive(Default)]
struct Gates(Mutex<HashMap<String, std::sync::Weak<tokio::sync::Mutex<()>>>>);

impl Gates {
    async fn enter(&self, name: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let gate = {
            let mut gates = self.0.lock();
            let known = gates.get(name).and_then(std::sync::Weak::upgrade);
            known.unwrap_or_else(|| {
                gates.retain(|_, gate| gate.strong_count() > 0);
                let gate = Arc::new(tokio::sync::Mutex::new(()));
                gates.insert(name.to_owned(), Arc::downgrade(&gate));
                gate
            })
        };
        gate.lock_owned().await
    }
}

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Index {
    /// By the digest of the configuration.
    images: BTreeMap<String, Stored>,
    /// Full names, with a tag or a digest, and the image each stands for.
    names: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    diff_ids: Vec<String>,
    size_bytes: u64,
    run: Run,
}

#[derive(Default)]
struct Cached {
    /// Which file it was read from.
    stamp: Option<(u64, i64, i64)>,
    index: Arc<Index>,
}

/// An unpacked layer that is not in its place yet.
struct Fresh {
    diff_id: String,
    folder: PathBuf,
    size_bytes: u64,
}

/// Where blobs come from.
pub(super) enum Blobs<'a> {
    /// A registry.
    Registry(&'a Source),
    /// Files of an archive: a function from a digest to a path.
    Files(&'a (dyn Fn(&str) -> Option<PathBuf> + Send + Sync)),
}

/// A folder of this process for what is in the making; removed with its contents.
pub(super) struct Ingest(tempfile::TempDir);

impl Ingest {
    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

fn stamp(path: &Path) -> Option<(u64, i64, i64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))
}

pub(super) fn store_error(reference: &str, reason: impl std::fmt::Display) -> ImageError {
    ImageError::Store { reference: reference.to_owned(), reason: reason.to_string() }
}

impl ImageStore {
    /// Opens or makes the folder and clears what an interrupted process left.
    pub fn open(folder: impl Into<PathBuf>, options: ImageStoreOptions) -> io::Result<Self> {
        // The process's choice of a TLS provider may have been made already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = folder.into();
        for part in ["layers", "sizes", "snapshots", "leases", "ingest"] {
            std::fs::create_dir_all(folder.join(part))?;
        }
        let folder = folder.canonicalize()?;
        use std::os::unix::fs::PermissionsExt;
        // Setuid programs of images are not for users of this host.
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700))?;
        let inner = Inner {
            folder,
            options,
            index: Mutex::default(),
            pulls: Gates::default(),
            layers: Gates::default(),
            progress: broadcast::channel(PROGRESS_MAX).0,
        };
        let store = Self { inner: Arc::new(inner) };
        store.inner.clear_ingest()?;
        store.inner.collect_garbage()?;
        Ok(store)
    }

    /// Events of all pulls from now on.
    pub fn progress(&self) -> broadcast::Receiver<Progress> {
        self.inner.progress.subscribe()
    }

    pub(super) fn ingest(&self) -> io::Result<Ingest> {
        let prefix = format!("{}-", std::process::id());
        Ok(Ingest(tempfile::Builder::new().prefix(&prefix).tempdir_in(self.inner.folder.join("ingest"))?))
    }

    /// Fetches an image's parts and takes it in; `names` are full names.
    pub(super) async fn take_in(
        &self,
        reference: &str,
        config_text: &[u8],
        id: &str,
        layers: &[Descriptor],
        names: &[String],
        blobs: Blobs<'_>,
    ) -> Result<Image, ImageError> {
        let Config { run, diff_ids } = manifest::parse_config(config_text).map_err(|e| store_error(reference, e))?;
        if diff_ids.len() != layers.len() || layers.len() > LAYERS_MAX {
            let text = format!(
                "it has {} layers, and its configuration {} of at most {LAYERS_MAX}",
                layers.len(),
                diff_ids.len()
            );
            return Err(store_error(reference, text));
        }
        if let Some(bad) = diff_ids.iter().find(|diff_id| snapshots::layer_name(diff_id).is_none()) {
            return Err(store_error(reference, format!("{bad:?} is no diff id")));
        }
        let fail = |error: io::Error| store_error(reference, error);
        // In one order for all, so that two pulls with common layers don't wait for one another.
        let mut distinct: Vec<(&String, &Descriptor)> = diff_ids.iter().zip(layers).collect();
        distinct.sort_by_key(|(diff_id, _)| *diff_id);
        distinct.dedup_by_key(|(diff_id, _)| *diff_id);
        for (_, layer) in &distinct {
            self.tell(reference, layer, Step::Waiting);
        }
        let mut gates = Vec::new();
        for (diff_id, _) in &distinct {
            gates.push(self.inner.layers.enter(diff_id).await);
        }
        let ingest = self.ingest().map_err(fail)?;
        let mut work: Vec<futures::future::BoxFuture<'_, Result<Option<Fresh>, ImageError>>> = Vec::new();
        for (number, (diff_id, layer)) in distinct.iter().enumerate() {
            let at = ingest.path().join(number.to_string());
            work.push(Box::pin(self.layer(reference, diff_id, layer, &blobs, at)));
        }
        let fetched = futures::stream::iter(work)
            .buffer_unordered(LAYERS_AT_ONCE_MAX)
            .try_collect::<Vec<Option<Fresh>>>()
            .await?;
        let (inner, id_owned, names) = (self.inner.clone(), id.to_owned(), names.to_vec());
        let shown = reference.to_owned();
        let stored = tokio::task::spawn_blocking(move || {
            inner.commit(&id_owned, diff_ids, run, fetched.into_iter().flatten().collect(), &names)
        })
        .await
        .map_err(|error| store_error(&shown, error))?
        .map_err(|error| store_error(&shown, error))?;
        drop(gates);
        let index = self.inner.read_index().map_err(|error| store_error(&shown, error))?;
        Ok(image_of(&index, id, &stored, reference))
    }

    /// One layer: there already, or fetched and unpacked.
    async fn layer(
        &self,
        reference: &str,
        diff_id: &str,
        layer: &Descriptor,
        blobs: &Blobs<'_>,
        at: PathBuf,
    ) -> Result<Option<Fresh>, ImageError> {
        if self.inner.has_layer(diff_id) {
            self.tell(reference, layer, Step::Done);
            return Ok(None);
        }
        let (file, ours) = match blobs {
            Blobs::Registry(source) => {
                let file = at.with_extension("blob");
                let told = std::sync::atomic::AtomicU64::new(0);
                self.tell(reference, layer, Step::Downloading(0));
                let progress = |bytes: u64| {
                    use std::sync::atomic::Ordering::Relaxed;
                    if bytes >= told.load(Relaxed) + PROGRESS_STEP_BYTES || bytes == layer.size {
                        told.store(bytes, Relaxed);
                        self.tell(reference, layer, Step::Downloading(bytes));
                    }
                };
                source.fetch(layer, &file, &progress).await.map_err(|failure| failure.about(reference))?;
                (file, true)
            }
            Blobs::Files(find) => {
                let missing = || store_error(reference, format!("the archive lacks blob {}", layer.digest));
                (find(&layer.digest).ok_or_else(missing)?, false)
            }
        };
        self.tell(reference, layer, Step::Unpacking);
        let (folder, expect) = (at, diff_id.to_owned());
        let unpacked = tokio::task::spawn_blocking(move || -> io::Result<Fresh> {
            use std::os::unix::fs::PermissionsExt;
            std::fs::create_dir(&folder)?;
            // The root of a container, if no layer says otherwise.
            std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755))?;
            let unpacked = unpack::unpack(File::open(&file)?, &folder)?;
            if ours {
                std::fs::remove_file(&file)?;
            }
            if unpacked.diff_id != expect {
                let text = format!("wrong diff id calculated on extraction {}, expected {expect}", unpacked.diff_id);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            Ok(Fresh { diff_id: expect, folder, size_bytes: unpacked.size_bytes })
        })
        .await
        .map_err(|error| store_error(reference, error))?
        .map_err(|error| store_error(reference, format!("failed to extract layer {diff_id}: {error}")))?;
        self.tell(reference, layer, Step::Done);
        Ok(Some(unpacked))
    }

    fn tell(&self, reference: &str, layer: &Descriptor, step: Step) {
        // Nobody may be listening.
        let _ = self.inner.progress.send(Progress {
            reference: reference.to_owned(),
            layer: layer.digest.clone(),
            step,
            total_bytes: layer.size,
        });
    }

    async fn pull_from(&self, reference: &str, name: &Reference, source: &Source) -> Result<Image, ImageError> {
        let about = |failure: registry::Failure| failure.about(reference);
        let (text, digest) = source.resolve().await.map_err(about)?;
        let fail = |reason: String| store_error(reference, reason);
        let (config, layers) = match manifest::parse(&text).map_err(fail)? {
            Manifest::Image { config, layers } => (config, layers),
            Manifest::Index(list) => {
                let architecture = manifest::architecture();
                let chosen = manifest::choose(&list, architecture).ok_or_else(|| ImageError::Refused {
                    reference: reference.to_owned(),
                    reason: format!("no match for platform in manifest: linux/{architecture}: not found"),
                })?;
                let text = source.manifest_by_digest(&chosen.digest).await.map_err(about)?;
                match manifest::parse(&text).map_err(fail)? {
                    Manifest::Image { config, layers } => (config, layers),
                    Manifest::Index(_) => return Err(fail("its index names another index".to_owned())),
                }
            }
        };
        let mut names = vec![reference::with_digest(name, &digest)];
        if name.tag().is_some() {
            names.push(name.whole());
        }
        let known = self.inner.read_index().map_err(|e| store_error(reference, e))?;
        if let Some(stored) = known.images.get(&config.digest)
            && names.iter().all(|name| known.names.get(name) == Some(&config.digest))
            && stored.diff_ids.iter().all(|diff_id| self.inner.has_layer(diff_id))
        {
            return Ok(image_of(&known, &config.digest, stored, reference));
        }
        if config.size > registry::DOCUMENT_LIMIT_BYTES {
            return Err(fail("its configuration is too large".to_owned()));
        }
        let ingest = self.ingest().map_err(|e| store_error(reference, e))?;
        let file = ingest.path().join("config");
        source.fetch(&config, &file, &|_| {}).await.map_err(about)?;
        let text = tokio::fs::read(&file).await.map_err(|e| store_error(reference, e))?;
        self.take_in(reference, &text, &config.digest, &layers, &names, Blobs::Registry(source)).await
    }
}

/// An image as its users see it.
fn image_of(index: &Index, id: &str, stored: &Stored, reference: &str) -> Image {
    let names = index.names.iter().filter(|(_, known)| *known == id).map(|(name, _)| name.clone());
    let (digests, tags) = names.partition(|name| name.contains('@'));
    let run = stored.run.clone();
    Image {
        id: id.to_owned(),
        tags,
        digests,
        size_bytes: stored.size_bytes,
        config: ImageConfig {
            reference: reference.to_owned(),
            id: id.to_owned(),
            snapshot_key: id.to_owned(),
            entrypoint: run.entrypoint,
            command: run.command,
            environment: run.environment,
            user: run.user,
            working_directory: run.working_directory,
            stop_signal: run.stop_signal,
        },
    }
}

impl Index {
    /// The image that a name or an id stands for.
    fn find(&self, reference: &str) -> Result<Option<(&String, &Stored)>, ImageError> {
        let id = reference.strip_prefix("sha256:").unwrap_or(reference);
        if id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(self.images.get_key_value(&format!("sha256:{id}")));
        }
        let name = reference::parse(reference)?.whole();
        Ok(self.names.get(&name).and_then(|id| self.images.get_key_value(id)))
    }

    /// Forgets a name, and what has no name any more; an id stands for all its names.
    fn remove(&mut self, reference: &str) -> Result<(), ImageError> {
        let Some((id, _)) = self.find(reference)? else { return Ok(()) };
        let id = id.clone();
        let is_id = reference.strip_prefix("sha256:").unwrap_or(reference) == id.trim_start_matches("sha256:");
        if is_id {
            self.names.retain(|_, known| *known != id);
        } else {
            let name = reference::parse(reference)?.whole();
            self.names.remove(&name);
            // The digest came with the tag, and goes with the last of them.
            let repository = reference::repository_of(&name).to_owned();
            let of_it = |name: &str| reference::repository_of(name) == repository;
            let tagged = self.names.iter().any(|(n, known)| *known == id && !n.contains('@') && of_it(n));
            if !tagged {
                self.names.retain(|n, known| *known != id || !of_it(n));
            }
        }
        if !self.names.values().any(|known| *known == id) {
            self.images.remove(&id);
        }
        Ok(())
    }
}

impl Inner {
    fn index_file(&self) -> PathBuf {
        self.folder.join("index.json")
    }

    /// The index, read anew when another process has changed it.
    fn read_index(&self) -> io::Result<Arc<Index>> {
        let mut cached = self.index.lock();
        let now = stamp(&self.index_file());
        if now.is_none() {
            *cached = Cached::default();
        } else if cached.stamp != now {
            let text = std::fs::read(self.index_file())?;
            let index = serde_json::from_slice(&text).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", self.index_file().display()))
            })?;
            *cached = Cached { stamp: now, index: Arc::new(index) };
        }
        Ok(cached.index.clone())
    }

    fn lock(&self) -> io::Result<Flock<File>> {
        let file = File::options().create(true).append(true).open(self.folder.join("lock"))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
    }

    fn write_index(&self, index: &Index) -> io::Result<()> {
        let temporary = self.folder.join("index.json.new");
        let text = serde_json::to_vec_pretty(index)?;
        {
            use std::io::Write;
            let mut file = File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
        }
        std::fs::rename(&temporary, self.index_file())?;
        File::open(&self.folder)?.sync_all()
    }

    fn layer_folder(&self, diff_id: &str) -> PathBuf {
        snapshots::layers_folder(&self.folder).join(snapshots::layer_name(diff_id).unwrap_or(diff_id))
    }

    /// `DIFF-ID SIZE` of a layer.
    fn size_file(&self, diff_id: &str) -> PathBuf {
        self.folder.join("sizes").join(snapshots::layer_name(diff_id).unwrap_or(diff_id))
    }

    fn size_of(&self, diff_id: &str) -> Option<u64> {
        let text = std::fs::read_to_string(self.size_file(diff_id)).ok()?;
        let (known, size) = text.split_once(' ')?;
        if known == diff_id { size.parse().ok() } else { None }
    }

    fn has_layer(&self, diff_id: &str) -> bool {
        self.layer_folder(diff_id).is_dir() && self.size_of(diff_id).is_some()
    }

    /// Puts layers in their places and writes the image down: after this it is there, also after a crash.
    fn commit(
        &self,
        id: &str,
        diff_ids: Vec<String>,
        run: Run,
        fresh: Vec<Fresh>,
        names: &[String],
    ) -> io::Result<Stored> {
        let _lock = self.lock()?;
        if !fresh.is_empty() {
            // What was unpacked must be on the disk before it has its name.
            sync_file_system(&self.folder)?;
        }
        for layer in fresh {
            let at = self.layer_folder(&layer.diff_id);
            std::fs::write(self.size_file(&layer.diff_id), format!("{} {}", layer.diff_id, layer.size_bytes))?;
            match std::fs::rename(&layer.folder, &at) {
                // Another process was quicker.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {}
                other => other?,
            }
        }
        let mut size_bytes = 0;
        for diff_id in &diff_ids {
            match self.size_of(diff_id).filter(|_| self.has_layer(diff_id)) {
                Some(size) => size_bytes += size,
                None => return Err(io::Error::other(format!("layer {diff_id} was removed meanwhile; try again"))),
            }
        }
        snapshots::record(&self.folder, id, &diff_ids)?;
        let mut index = Index::clone(&*self.read_index()?);
        let stored = Stored { diff_ids, size_bytes, run };
        index.images.insert(id.to_owned(), stored.clone());
        for name in names {
            index.names.insert(name.clone(), id.to_owned());
        }
        // A tag that moved here may have been the last name of another image.
        let named: HashSet<_> = index.names.values().cloned().collect();
        index.images.retain(|id, _| named.contains(id));
        self.write_index(&index)?;
        Ok(stored)
    }

    /// Removes what a process that has ended left behind.
    fn clear_ingest(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(self.folder.join("ingest"))? {
            let entry = entry?;
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.split('-').next()?.parse::<u32>().ok());
            let alive =
                owner.is_some_and(|pid| pid != std::process::id() && Path::new(&format!("/proc/{pid}")).exists());
            if !alive {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes layers and snapshots that neither an image nor a root filesystem needs.
    fn collect_garbage(&self) -> io::Result<()> {
        let _lock = self.lock()?;
        let index = self.read_index()?;
        for entry in std::fs::read_dir(self.folder.join("snapshots"))? {
            let name = entry?.file_name();
            let key = format!("sha256:{}", name.to_string_lossy());
            if !index.images.contains_key(&key) {
                let _ = snapshots::forget(&self.folder, &key);
            }
        }
        // After the snapshots: a root filesystem that finds its snapshot has its lease seen here.
        let leased = snapshots::leased(&self.folder)?;
        let needed = index.images.values().flat_map(|image| &image.diff_ids).chain(&leased);
        let needed: HashSet<&str> = needed.filter_map(|diff_id| snapshots::layer_name(diff_id)).collect();
        for entry in std::fs::read_dir(snapshots::layers_folder(&self.folder))? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| needed.contains(name)) {
                continue;
            }
            // First out of its place at once, then away in its own time.
            let trash = tempfile::Builder::new()
                .prefix(&format!("{}-", std::process::id()))
                .tempdir_in(self.folder.join("ingest"))?;
            std::fs::rename(entry.path(), trash.path().join("layer"))?;
            match std::fs::remove_file(self.folder.join("sizes").join(entry.file_name())) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Writes all of a file system to its disk.
#[allow(unsafe_code)]
fn sync_file_system(folder: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let folder = File::open(folder)?;
    // SAFETY: the descriptor is open, and no memory is passed.
    if unsafe { libc::syncfs(folder.as_raw_fd()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[async_trait]
impl Images for ImageStore {
    async fn get(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let index = self.inner.read_index().map_err(|e| store_error(reference, e))?;
        Ok(index.find(reference)?.map(|(id, stored)| image_of(&index, id, stored, reference)))
    }

    async fn pull(&self, reference: &str, credentials: &[RegistryCredentials]) -> Result<Image, ImageError> {
        let name = reference::parse(reference)?;
        let _gate = self.inner.pulls.enter(&name.whole()).await;
        let options = &self.inner.options;
        let mirrors = options.mirrors.get(name.registry()).map(Vec::as_slice).unwrap_or_default();
        let mut last = None;
        for source in registry::sources(&name, mirrors, &options.plain_http, credentials) {
            match self.pull_from(reference, &name, &source).await {
                Ok(image) => return Ok(image),
                // Another way doesn't mend what is wrong here.
                Err(error @ (ImageError::Store { .. } | ImageError::InvalidName { .. })) => return Err(error),
                Err(error) => {
                    // What the registry says to those it knows tells more than what it says to strangers.
                    let keep =
                        matches!((&last, &error), (Some(ImageError::Refused { .. }), _)) && !credentials.is_empty();
                    if !keep {
                        last = Some(error);
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| store_error(reference, "there is no way to it")))
    }

    async fn list(&self) -> Result<Vec<Image>, ImageError> {
        let index = self.inner.read_index().map_err(|e| store_error("", e))?;
        let images = index.images.iter().map(|(id, stored)| {
            let mut image = image_of(&index, id, stored, id);
            if let Some(name) = image.tags.first().or(image.digests.first()) {
                image.config.reference.clone_from(name);
            }
            image
        });
        Ok(images.collect())
    }

    async fn remove(&self, reference: &str) -> Result<(), ImageError> {
        let (inner, shown) = (self.inner.clone(), reference.to_owned());
        let task = tokio::task::spawn_blocking(move || -> Result<(), ImageError> {
            let fail = |error: io::Error| store_error(&shown, error);
            let lock = inner.lock().map_err(fail)?;
            let mut index = Index::clone(&*inner.read_index().map_err(fail)?);
            index.remove(&shown)?;
            inner.write_index(&index).map_err(fail)?;
            drop(lock);
            inner.collect_garbage().map_err(fail)
        });
        task.await.map_err(|error| store_error(reference, error))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(names: &[(&str, &str)]) -> Index {
        let stored = Stored { diff_ids: Vec::new(), size_bytes: 0, run: Run::default() };
        let images = names.iter().map(|(_, id)| ((*id).to_owned(), stored.clone())).collect();
        Index { images, names: names.iter().map(|(n, id)| ((*n).to_owned(), (*id).to_owned())).collect() }
    }

    #[test]
    fn removal_of_names() {
        let digest = format!("r.io/a@sha256:{:064x}", 1);
        let other = format!("s.io/b@sha256:{:064x}", 1);
        let id = format!("sha256:{:064x}", 9);
        let start = index(&[("r.io/a:1", &id), ("r.io/a:2", &id), (&digest, &id), (&other, &id), ("s.io/b:1", &id)]);
        let after = |references: &[&str]| {
            let mut index = start.clone();
            for reference in references {
                index.remove(reference).unwrap();
            }
            (index.names.keys().cloned().collect::<Vec<_>>(), index.images.len())
        };
        let strings = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(after(&["r.io/a:1"]), (strings(&["r.io/a:2", &digest, "s.io/b:1", &other]), 1));
        assert_eq!(after(&["r.io/a:1", "r.io/a:2"]), (strings(&["s.io/b:1", &other]), 1));
        assert_eq!(after(&["r.io/a:1", "r.io/a:2", "s.io/b:1"]), (Vec::new(), 0));
        assert_eq!(after(&[&id]), (Vec::new(), 0));
        assert_eq!(after(&["none"]).0.len(), 5);
    }
}
