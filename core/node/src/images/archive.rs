//! Images from files: OCI layouts (a folder or an archive of one) and what `docker save` writes.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::manifest::{self, Descriptor, Manifest};
use super::store::{Blobs, ImageStore, store_error};
use super::{Image, ImageError, reference, unpack};

/// Name of an image in a layout, by containerd; then by the specification, where it may be a mere tag.
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// An image of `docker save`'s manifest.json.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// One image found in a layout.
struct Found {
    names: Vec<String>,
    id: String,
    config: Vec<u8>,
    layers: Vec<Descriptor>,
    files: HashMap<String, PathBuf>,
}

impl ImageStore {
    /// Takes in the images of a file or a folder; `name` is for an image that brings none along.
    pub async fn import(&self, path: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
        let shown = path.display().to_string();
        let fail = |error: io::Error| store_error(&shown, error);
        let ingest = self.ingest().map_err(fail)?;
        let mut folder = path.to_owned();
        if !path.is_dir() {
            folder = ingest.path().join("archive");
            let (from, to) = (path.to_owned(), folder.clone());
            tokio::task::spawn_blocking(move || extract(&from, &to))
                .await
                .map_err(|error| store_error(&shown, error))?
                .map_err(fail)?;
        }
        let (name, doing) = (name.map(str::to_owned), shown.clone());
        let found = tokio::task::spawn_blocking(move || find(&folder, name.as_deref(), &doing))
            .await
            .map_err(|error| store_error(&shown, error))??;
        let mut images = Vec::new();
        for image in found {
            let reference = image.names.first().cloned().unwrap_or_else(|| image.id.clone());
            let find = |digest: &str| image.files.get(digest).cloned();
            let blobs = Blobs::Files(&find);
            images.push(self.take_in(&reference, &image.config, &image.id, &image.layers, &image.names, blobs).await?);
        }
        Ok(images)
    }
}

/// Writes an archive's files into a folder. Links are followed within the archive only.
fn extract(archive: &Path, folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut archive = tar::Archive::new(unpack::decompress(File::open(archive)?)?);
    let mut links = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let Some(path) = plain(&entry.path()?) else { continue };
        let at = folder.join(&path);
        let kind = entry.header().entry_type();
        if kind.is_file() {
            if let Some(above) = at.parent() {
                std::fs::create_dir_all(above)?;
            }
            io::copy(&mut entry, &mut File::create(at)?)?;
        } else if kind.is_symlink() || kind.is_hard_link() {
            // Old `docker save` links a layer that it has written already.
            if let Some(to) = entry.link_name()? {
                let base = if kind.is_symlink() { path.parent().unwrap_or(Path::new("")) } else { Path::new("") };
                links.push((at, resolve(base, &to)));
            }
        }
    }
    for (at, to) in links {
        if let Some(to) = to
            && let Some(above) = at.parent()
        {
            std::fs::create_dir_all(above)?;
            std::fs::hard_link(folder.join(to), at)?;
        }
    }
    Ok(())
}

/// A path without parts that lead elsewhere.
fn plain(path: &Path) -> Option<PathBuf> {
    resolve(Path::new(""), path)
}

/// Where a relative path leads to; none out of the archive.
fn resolve(base: &Path, path: &Path) -> Option<PathBuf> {
    let mut resolved = base.to_owned();
    for part in path.components() {
        match part {
            Component::Normal(part) => resolved.push(part),
            Component::CurDir => {}
            Component::ParentDir => {
                if !resolved.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(resolved)
}

fn read(folder: &Path, path: &Path) -> io::Result<Vec<u8>> {
    let at = folder.join(path);
    std::fs::read(&at).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn find(folder: &Path, name: Option<&str>, shown: &str) -> Result<Vec<Found>, ImageError> {
    let fail = |error: io::Error| store_error(shown, error);
    let name = name.map(|name| reference::parse(name).map(|parsed| parsed.whole())).transpose()?;
    if folder.join("manifest.json").exists() {
        let saved: Vec<Saved> = serde_json::from_slice(&read(folder, Path::new("manifest.json")).map_err(fail)?)
            .map_err(|error| store_error(shown, format!("manifest.json: {error}")))?;
        return saved.into_iter().map(|saved| find_saved(folder, saved, name.as_deref(), shown)).collect();
    }
    let index = read(folder, Path::new("index.json"))
        .map_err(|error| store_error(shown, format!("neither an OCI layout nor a saved image: {error}")))?;
    let Manifest::Index(list) = manifest::parse(&index).map_err(|reason| store_error(shown, reason))? else {
        return Err(store_error(shown, "index.json is not an index"));
    };
    list.iter().map(|descriptor| find_in_layout(folder, descriptor, name.as_deref(), shown)).collect()
}

fn find_saved(folder: &Path, saved: Saved, name: Option<&str>, shown: &str) -> Result<Found, ImageError> {
    let bad = |path: &str| store_error(shown, format!("manifest.json names {path:?}"));
    let config_path = plain(Path::new(&saved.config)).ok_or_else(|| bad(&saved.config))?;
    let config = read(folder, &config_path).map_err(|error| store_error(shown, error))?;
    let mut names = Vec::new();
    for tag in saved.repo_tags.iter().flatten() {
        names.push(reference::parse(tag)?.whole());
    }
    if names.is_empty() {
        names.extend(name.map(str::to_owned));
    }
    let mut files = HashMap::new();
    let mut layers = Vec::new();
    for layer in &saved.layers {
        let path = plain(Path::new(layer)).ok_or_else(|| bad(layer))?;
        // The layer's place in the archive stands for its digest: the diff id checks its content.
        files.insert(layer.clone(), folder.join(path));
        let annotations = Default::default();
        layers.push(Descriptor {
            digest: layer.clone(),
            size: 0,
            media_type: String::new(),
            platform: None,
            annotations,
        });
    }
    let id = format!("sha256:{}", hex::encode(Sha256::digest(&config)));
    named(Found { names, id, config, layers, files }, shown)
}

fn named(found: Found, shown: &str) -> Result<Found, ImageError> {
    if found.names.is_empty() {
        return Err(store_error(shown, "an image in it has no name; give one"));
    }
    Ok(found)
}

fn find_in_layout(
    folder: &Path,
    descriptor: &Descriptor,
    name: Option<&str>,
    shown: &str,
) -> Result<Found, ImageError> {
    let blob = |digest: &str| -> Result<PathBuf, ImageError> {
        let digits =
            digest.strip_prefix("sha256:").filter(|d| d.len() == 64 && d.bytes().all(|b| b.is_ascii_hexdigit()));
        let digits = digits.ok_or_else(|| store_error(shown, format!("unsupported digest {digest}")))?;
        Ok(folder.join("blobs/sha256").join(digits))
    };
    let document = |digest: &str| -> Result<Vec<u8>, ImageError> {
        let text = std::fs::read(blob(digest)?).map_err(|e| store_error(shown, format!("blob {digest}: {e}")))?;
        let got = format!("sha256:{}", hex::encode(Sha256::digest(&text)));
        if got == digest { Ok(text) } else { Err(store_error(shown, format!("blob {digest} has digest {got}"))) }
    };
    let parse = |digest: &str| manifest::parse(&document(digest)?).map_err(|reason| store_error(shown, reason));
    let (config, layers) = match parse(&descriptor.digest)? {
        Manifest::Image { config, layers } => (config, layers),
        Manifest::Index(list) => {
            let architecture = manifest::architecture();
            let chosen = manifest::choose(&list, architecture)
                .ok_or_else(|| store_error(shown, format!("it has no image for linux/{architecture}")))?;
            match parse(&chosen.digest)? {
                Manifest::Image { config, layers } => (config, layers),
                Manifest::Index(_) => return Err(store_error(shown, "its index names another index")),
            }
        }
    };
    let mut names = Vec::new();
    let given = NAME_ANNOTATIONS.iter().filter_map(|key| descriptor.annotations.get(*key));
    // A mere tag is no name of an image.
    let full = given.filter(|given| given.contains('/') || given.contains(':')).find_map(|g| reference::parse(g).ok());
    let full = full.map(|parsed| parsed.whole()).or_else(|| name.map(str::to_owned));
    if let Some(full) = full {
        let parsed = reference::parse(&full)?;
        names.push(full);
        names.push(reference::with_digest(&parsed, &descriptor.digest));
        names.dedup();
    }
    let mut files = HashMap::new();
    for layer in &layers {
        files.insert(layer.digest.clone(), blob(&layer.digest)?);
    }
    named(Found { names, id: config.digest.clone(), config: document(&config.digest)?, layers, files }, shown)
}
