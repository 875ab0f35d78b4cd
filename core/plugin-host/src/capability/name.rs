//! Names of capabilities, as a manifest asks for them and a grant lists them.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Something that a plugin may ask the host to do. Written as text: `oci-bundle`, `rootfs`, `namespaces`, `mounts`,
/// `folder:NAME`, `process:/ABSOLUTE/PATH`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Capability {
    /// `interface oci-bundle`
    OciBundle,
    /// `interface rootfs`
    Rootfs,
    /// `interface namespaces`
    Namespaces,
    /// `interface mounts`
    Mounts,
    /// `interface folder`, for the folder of that name.
    Folder(String),
    /// `interface process`, for the program at that path.
    Process(PathBuf),
}

impl Capability {
    /// The interface of `gantry:host` that it opens.
    pub fn interface(&self) -> &'static str {
        match self {
            Self::OciBundle => "oci-bundle",
            Self::Rootfs => "rootfs",
            Self::Namespaces => "namespaces",
            Self::Mounts => "mounts",
            Self::Folder(_) => "folder",
            Self::Process(_) => "process",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(name) => write!(f, "folder:{name}"),
            Self::Process(program) => write!(f, "process:{}", program.display()),
            other => f.write_str(other.interface()),
        }
    }
}

impl FromStr for Capability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (interface, of) = text.split_once(':').map_or((text, None), |(interface, of)| (interface, Some(of)));
        match (interface, of) {
            ("oci-bundle", None) => Ok(Self::OciBundle),
            ("rootfs", None) => Ok(Self::Rootfs),
            ("namespaces", None) => Ok(Self::Namespaces),
            ("mounts", None) => Ok(Self::Mounts),
            ("folder", Some(name)) if is_name(name) => Ok(Self::Folder(name.to_owned())),
            ("folder", _) => Err(format!("{text:?}: a folder is asked for as \"folder:NAME\", NAME in a-z, 0-9 and -")),
            ("process", Some(program)) if is_plain_absolute(Path::new(program)) => Ok(Self::Process(program.into())),
            ("process", _) => Err(format!("{text:?}: a program is asked for as \"process:/ABSOLUTE/PATH\"")),
            _ => Err(format!("{text:?} is no capability")),
        }
    }
}

impl TryFrom<String> for Capability {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Capability> for String {
    fn from(capability: Capability) -> Self {
        capability.to_string()
    }
}

/// Whether this can name a plugin or a folder: a DNS label.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether the path is absolute and has no `.` or `..` in it.
pub(crate) fn is_plain_absolute(path: &Path) -> bool {
    path.is_absolute()
        && path.components().skip(1).all(|part| matches!(part, std::path::Component::Normal(_)))
        && !path.as_os_str().as_encoded_bytes().contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for text in ["oci-bundle", "rootfs", "namespaces", "mounts", "folder:volumes", "process:/usr/sbin/mkfs.ext4"] {
            assert_eq!(text.parse::<Capability>().map(|capability| capability.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn others_are_refused() {
        for text in
            ["", "network", "folder", "folder:", "folder:..", "folder:A", "process:mkfs", "process:/a/../b", "rootfs:x"]
        {
            assert!(text.parse::<Capability>().is_err(), "{text}");
        }
    }
}
