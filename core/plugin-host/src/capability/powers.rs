//! What one plugin can reach: the granted capabilities, bound to what serves them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    CapabilityError, CapabilityResult, ErrorCode, Mounts, Namespaces, OciBundle, Rootfs, RuntimeCapabilities,
    VolumeCapabilities,
    folder::{Folders, beneath},
    is_plain_absolute,
};
use crate::Grant;

/// The granted capabilities of one plugin. What is missing was not granted.
#[derive(Default)]
pub(crate) struct Powers {
    pub bundles: Option<Arc<dyn OciBundle>>,
    pub rootfs: Option<Arc<dyn Rootfs>>,
    pub namespaces: Option<Arc<dyn Namespaces>>,
    pub mounts: Option<Arc<dyn Mounts>>,
    pub folders: Arc<Folders>,
    pub programs: BTreeSet<PathBuf>,
    /// Folders in which mounts may begin and end.
    mount_folders: Vec<PathBuf>,
    file_systems: BTreeSet<String>,
}

impl Powers {
    /// For a runtime. `folder_of` says where a granted folder is.
    pub fn of_runtime(
        grant: &Grant,
        folder_of: impl Fn(&str) -> PathBuf,
        capabilities: Arc<dyn RuntimeCapabilities>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            bundles: grant.opens("oci-bundle").then(|| capabilities.clone() as Arc<dyn OciBundle>),
            rootfs: grant.opens("rootfs").then(|| capabilities.clone() as Arc<dyn Rootfs>),
            namespaces: grant.opens("namespaces").then(|| capabilities.clone() as Arc<dyn Namespaces>),
            mounts: grant.opens("mounts").then_some(capabilities as Arc<dyn Mounts>),
            ..Self::of_grant(grant, folder_of)?
        })
    }

    /// For a volume driver.
    pub fn of_volume_driver(
        grant: &Grant,
        folder_of: impl Fn(&str) -> PathBuf,
        capabilities: Arc<dyn VolumeCapabilities>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            mounts: grant.opens("mounts").then_some(capabilities as Arc<dyn Mounts>),
            ..Self::of_grant(grant, folder_of)?
        })
    }

    fn of_grant(grant: &Grant, folder_of: impl Fn(&str) -> PathBuf) -> std::io::Result<Self> {
        let folders: BTreeMap<String, PathBuf> =
            grant.folder_names().map(|name| (name.to_owned(), folder_of(name))).collect();
        let folders = Folders::new(folders)?;
        let mount_folders = folders.roots().chain(&grant.mount_folders).cloned().collect();
        Ok(Self {
            folders: Arc::new(folders),
            programs: grant.programs().cloned().collect(),
            mount_folders,
            file_systems: grant.file_systems.clone(),
            ..Self::default()
        })
    }

    /// Checks a path at which something shall be mounted or unmounted: in a granted folder, or a path of the call.
    pub fn check_mount_target(&self, target: &str, call_paths: &[PathBuf]) -> CapabilityResult<()> {
        let path = plain(target)?;
        if call_paths.iter().any(|granted| granted == path) {
            return Ok(());
        }
        let granted = self.mount_folders.iter().filter(|folder| folder.as_path() != path);
        self.check_beneath(path, granted).map(drop)
    }

    /// Checks a path that shall be mounted elsewhere: in a granted folder, or a path of the call or below it.
    pub fn check_mount_source(&self, source: &str, call_paths: &[PathBuf]) -> CapabilityResult<()> {
        let path = plain(source)?;
        if self.check_beneath(path, self.mount_folders.iter().chain(call_paths))? {
            return Ok(());
        }
        Err(CapabilityError::new(ErrorCode::NotFound, format!("mount source {source} does not exist")))
    }

    /// Checks the type of a file system and its source, which is a path or the file system's own affair
    /// (`server:/export`).
    pub fn check_file_system(&self, file_system: &str, source: &str, call_paths: &[PathBuf]) -> CapabilityResult<()> {
        if file_system != "tmpfs" && !self.file_systems.contains(file_system) {
            let message = format!("mounting a file system of type {file_system:?} is not granted");
            return Err(CapabilityError::new(ErrorCode::Denied, message));
        }
        if source.starts_with('/') { self.check_mount_source(source, call_paths) } else { Ok(()) }
    }

    /// Whether the path, which must lie in one of the folders without a link on the way, exists.
    fn check_beneath<'a>(&self, path: &Path, granted: impl IntoIterator<Item = &'a PathBuf>) -> CapabilityResult<bool> {
        for folder in granted {
            let Ok(below) = path.strip_prefix(folder) else { continue };
            return beneath::exists_without_links(folder, below).map_err(|error| {
                if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::EXDEV)) {
                    let message = format!("path {}: a symbolic link is on the way", path.display());
                    return CapabilityError::new(ErrorCode::Denied, message);
                }
                CapabilityError::io(format_args!("look for {}", path.display()), &error)
            });
        }
        Err(CapabilityError::new(ErrorCode::Denied, format!("path {}: not in a granted folder", path.display())))
    }
}

fn plain(path: &str) -> CapabilityResult<&Path> {
    let plain = Path::new(path);
    if is_plain_absolute(plain) {
        return Ok(plain);
    }
    Err(CapabilityError::new(ErrorCode::Denied, format!("path {path:?}: not an absolute one without `.` and `..`")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::Capability;

    #[test]
    fn mounts_begin_and_end_in_granted_folders_and_at_the_calls_paths() {
        let kept = tempfile::tempdir().unwrap();
        let (volumes, pods, pool) = (kept.path().join("volumes"), kept.path().join("pods"), kept.path().join("pool"));
        for folder in [&pods, &pool] {
            std::fs::create_dir(folder).unwrap();
        }
        let grant = Grant {
            capabilities: [Capability::Mounts, Capability::Folder("volumes".into())].into(),
            mount_folders: vec![pool.clone()],
            ..Grant::default()
        };
        let powers = Powers::of_grant(&grant, |_| volumes.clone()).unwrap();
        std::fs::create_dir(volumes.join("a")).unwrap();
        std::os::unix::fs::symlink("/etc", volumes.join("link")).unwrap();
        let target = pods.join("mount");
        let call = [target.clone()];
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();

        let code = |outcome: CapabilityResult<()>| outcome.err().map(|error| error.code);
        for (path, expect) in [
            (text(target.clone()), None),
            (text(volumes.join("a")), None),
            (text(volumes.join("new/below")), None),
            (text(pool.join("x")), None),
            (text(volumes.clone()), Some(ErrorCode::Denied)),
            (text(pods.join("other")), Some(ErrorCode::Denied)),
            (text(volumes.join("link/passwd")), Some(ErrorCode::Denied)),
            (format!("{}/../etc", text(volumes.clone())), Some(ErrorCode::Denied)),
            ("/etc".to_owned(), Some(ErrorCode::Denied)),
            ("relative".to_owned(), Some(ErrorCode::Denied)),
        ] {
            assert_eq!(code(powers.check_mount_target(&path, &call)), expect, "{path}");
        }
        for (path, expect) in [
            (text(volumes.join("a")), None),
            (text(volumes.join("missing")), Some(ErrorCode::NotFound)),
            (text(volumes.join("link")), Some(ErrorCode::Denied)),
            ("/etc".to_owned(), Some(ErrorCode::Denied)),
        ] {
            assert_eq!(code(powers.check_mount_source(&path, &call)), expect, "{path}");
        }
        assert_eq!(code(powers.check_file_system("tmpfs", "tmpfs", &call)), None);
        assert_eq!(code(powers.check_file_system("nfs4", "server:/export", &call)), Some(ErrorCode::Denied));
    }
}
