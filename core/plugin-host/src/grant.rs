//! What an operator grants to a plugin.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::capability::{Capability, is_plain_absolute};

/// What a plugin may reach. Nothing is ambient: the default grants nothing.
///
/// In a server's TOML, under `[plugins.NAME]`:
/// ```toml
/// capabilities = ["mounts", "folder:volumes"]
/// folders = { volumes = "/srv/volumes" }
/// mount-folders = ["/mnt/pool"]
/// file-systems = ["nfs4"]
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Grant {
    /// What of the manifest's wishes is granted.
    pub capabilities: BTreeSet<Capability>,
    /// Where the granted folders are: absolute paths. A folder without one lies in the host's data folder.
    pub folders: BTreeMap<String, PathBuf>,
    /// Further folders whose contents `mounts` may mount from and to.
    pub mount_folders: Vec<PathBuf>,
    /// File systems that `mounts.mount` may mount, besides `tmpfs`.
    pub file_systems: BTreeSet<String>,
}

impl Grant {
    /// All of these, nothing besides.
    pub fn of(capabilities: impl IntoIterator<Item = Capability>) -> Self {
        Self { capabilities: capabilities.into_iter().collect(), ..Self::default() }
    }

    /// Whether any capability of that interface of `gantry:host` is granted. `log` and `types` always are.
    pub fn opens(&self, interface: &str) -> bool {
        matches!(interface, "log" | "types")
            || self.capabilities.iter().any(|capability| capability.interface() == interface)
    }

    /// Checks that the paths are absolute.
    pub(crate) fn check(&self) -> Result<(), String> {
        for path in self.folders.values().chain(&self.mount_folders) {
            if !is_plain_absolute(path) {
                return Err(format!("{}: a granted folder is an absolute path without `..`", path.display()));
            }
        }
        Ok(())
    }

    /// Names of the granted folders.
    pub(crate) fn folder_names(&self) -> impl Iterator<Item = &str> {
        self.capabilities.iter().filter_map(|capability| match capability {
            Capability::Folder(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The granted programs.
    pub(crate) fn programs(&self) -> impl Iterator<Item = &PathBuf> {
        self.capabilities.iter().filter_map(|capability| match capability {
            Capability::Process(program) => Some(program),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_granted_by_default() {
        let grant = Grant::default();
        assert!(grant.opens("log") && grant.opens("types"));
        for interface in ["oci-bundle", "rootfs", "namespaces", "mounts", "folder", "process", "clock"] {
            assert!(!grant.opens(interface), "{interface}");
        }
    }

    #[test]
    fn a_servers_toml_is_read() {
        let grant: Grant = toml::from_str(
            "capabilities = [\"mounts\", \"folder:volumes\"]\nfolders = { volumes = \"/srv/v\" }\nfile-systems = [\"nfs4\"]",
        )
        .unwrap();
        assert!(grant.opens("folder") && grant.opens("mounts") && !grant.opens("process"));
        assert_eq!(grant.check(), Ok(()));
        let outside: Grant = toml::from_str("mount-folders = [\"/srv/../etc\"]").unwrap();
        assert!(outside.check().is_err());
        assert!(toml::from_str::<Grant>("everything = true").is_err());
    }
}
