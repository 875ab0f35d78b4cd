//! `plugin.toml`: what a plugin says about itself.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    PluginError,
    capability::{Capability, is_name},
    settings::Schema,
};

/// What a plugin is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A scheduler policy: `gantry:scheduler`.
    Scheduler,
    /// A runtime: `gantry:runtime`.
    Runtime,
    /// A volume driver: `gantry:volume`.
    Volume,
}

impl Kind {
    /// Version of the kind's contract that this host serves.
    pub const fn contract(self) -> &'static str {
        // All contracts are at their first version; a new version of one is a new arm.
        "0.1.0"
    }

    /// The interface that a component of this kind exports.
    pub(crate) const fn export(self) -> &'static str {
        match self {
            Self::Scheduler => "gantry:scheduler/policy@0.1.0",
            Self::Runtime => "gantry:runtime/runtime@0.1.0",
            Self::Volume => "gantry:volume/driver@0.1.0",
        }
    }

    /// Whether the kind's contract knows a capability at all.
    pub fn may_ask_for(self, capability: &Capability) -> bool {
        match self {
            Self::Scheduler => false,
            Self::Runtime => true,
            Self::Volume => {
                matches!(capability, Capability::Mounts | Capability::Folder(_) | Capability::Process(_))
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheduler => "scheduler",
            Self::Runtime => "runtime",
            Self::Volume => "volume",
        })
    }
}

/// A parsed and checked `plugin.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name by which users refer to the plugin: a DNS label.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// The plugin's own version.
    pub version: String,
    /// Version of the contract it was written for.
    pub contract: String,
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// What it asks for.
    #[serde(default)]
    pub capabilities: BTreeSet<Capability>,
    /// Schema of its settings; without one it takes none.
    #[serde(default)]
    pub settings: Schema,
}

impl Manifest {
    /// Reads a manifest. `origin` names it in errors: the file, or the name of a plugin in the box.
    pub fn parse(text: &str, origin: &str) -> Result<Self, PluginError> {
        let wrong = |reason: String| PluginError::Manifest { origin: origin.to_owned(), reason };
        let manifest: Self = toml::from_str(text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
        manifest.check().map_err(wrong)?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if !is_name(&self.name) {
            return Err(format!("name {:?}: a name has up to 63 of a-z, 0-9 and -", self.name));
        }
        if self.version.is_empty() || self.version.len() > 64 || self.version.contains(char::is_whitespace) {
            return Err(format!("version {:?} is none", self.version));
        }
        if !same_contract(&self.contract, self.kind.contract()) {
            return Err(format!(
                "contract {} of gantry:{} is not served; this host serves {}",
                self.contract,
                self.kind,
                self.kind.contract()
            ));
        }
        if let Some(capability) = self.capabilities.iter().find(|capability| !self.kind.may_ask_for(capability)) {
            return Err(format!("a {} plugin can't ask for {capability}", self.kind));
        }
        self.settings.check().map_err(|reason| format!("settings: {reason}"))
    }
}

/// Whether a plugin for `wanted` runs on a host that serves `served`, by the rules of semantic versions: before 1.0 the
/// minor version must be the same and the patch version no later; from then on the major version the same and the rest
/// no later.
fn same_contract(wanted: &str, served: &str) -> bool {
    let parse = |text: &str| -> Option<[u32; 3]> {
        let parts: Vec<u32> = text.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
        parts.try_into().ok()
    };
    match (parse(wanted), parse(served)) {
        (Some([0, minor, patch]), Some([0, served_minor, served_patch])) => {
            minor == served_minor && patch <= served_patch
        }
        (Some([major, rest @ ..]), Some([served_major, served_rest @ ..])) => {
            major == served_major && rest <= served_rest
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(lines: &str) -> Result<Manifest, String> {
        let text = format!("version = \"1.2.0\"\n{lines}");
        Manifest::parse(&text, "plugin.toml").map_err(|error| error.to_string())
    }

    #[test]
    fn a_manifest_is_read() {
        let read = manifest(
            "name = \"disks\"\nkind = \"volume\"\ncontract = \"0.1.0\"\ncapabilities = [\"mounts\", \"folder:volumes\"]\n\
             [settings.properties.size]\ntype = \"integer\"\n",
        )
        .unwrap();
        assert_eq!((read.name.as_str(), read.kind, read.capabilities.len()), ("disks", Kind::Volume, 2));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for (lines, expect) in [
            ("name = \"A\"\nkind = \"volume\"\ncontract = \"0.1.0\"", "name \"A\""),
            ("name = \"a\"\nkind = \"volume\"\ncontract = \"0.2.0\"", "contract 0.2.0 of gantry:volume is not served"),
            (
                "name = \"a\"\nkind = \"volume\"\ncontract = \"0.1.0\"\ncapabilities = [\"rootfs\"]",
                "can't ask for rootfs",
            ),
            (
                "name = \"a\"\nkind = \"scheduler\"\ncontract = \"0.1.0\"\ncapabilities = [\"mounts\"]",
                "can't ask for mounts",
            ),
            ("name = \"a\"\nkind = \"toaster\"\ncontract = \"0.1.0\"", "unknown variant `toaster`"),
            ("name = \"a\"\nkind = \"volume\"\ncontract = \"0.1.0\"\nnetwork = true", "unknown field `network`"),
        ] {
            let error = manifest(lines).unwrap_err();
            assert!(error.contains(expect), "{lines}: {error}");
        }
    }

    #[test]
    fn contracts_are_compared_as_semantic_versions() {
        for (wanted, served, expect) in [
            ("0.1.0", "0.1.0", true),
            ("0.1.0", "0.1.3", true),
            ("0.1.4", "0.1.3", false),
            ("0.1.0", "0.2.0", false),
            ("1.2.0", "1.4.0", true),
            ("1.5.0", "1.4.9", false),
            ("2.0.0", "1.4.9", false),
            ("1", "1.0.0", false),
        ] {
            assert_eq!(same_contract(wanted, served), expect, "{wanted} on {served}");
        }
    }
}
