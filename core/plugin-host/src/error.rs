//! What can go wrong with a plugin.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::capability::ErrorCode;

/// Every failure names the plugin and the operation.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PluginError {
    /// `plugin.toml` does not parse or contradicts itself.
    #[error("plugin manifest {origin}: {reason}")]
    Manifest {
        /// The file, or the name of a plugin in the box.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// The component is not one, or not of the contract it claims.
    #[error("plugin {plugin}: the component can't be loaded: {reason}")]
    Component {
        /// Name of the plugin.
        plugin: String,
        /// What is wrong.
        reason: String,
    },
    /// The component needs a capability that was not granted.
    #[error("plugin {plugin} imports {import}, which is not granted to it")]
    NotGranted {
        /// Name of the plugin.
        plugin: String,
        /// The interface, as imported.
        import: String,
    },
    /// The settings do not fit the manifest's schema, or the plugin refused them.
    #[error("plugin {plugin}: settings: {reason}")]
    Settings {
        /// Name of the plugin.
        plugin: String,
        /// What is wrong.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("plugin {plugin}: {}: {source}", path.display())]
    Io {
        /// Name of the plugin.
        plugin: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: Arc<std::io::Error>,
    },
    /// A native library is not allowed, or its digest differs.
    #[error("plugin {plugin}: native library {}: {reason}", path.display())]
    Native {
        /// Name of the plugin.
        plugin: String,
        /// The library.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The call trapped: the plugin has a bug.
    #[error("plugin {plugin}: {call} failed: {reason}")]
    Trap {
        /// Name of the plugin.
        plugin: String,
        /// The function called.
        call: &'static str,
        /// The trap.
        reason: String,
    },
    /// The call did not end in time.
    #[error("plugin {plugin}: {call} was stopped after {}", show(*.limit))]
    Timeout {
        /// Name of the plugin.
        plugin: String,
        /// The function called.
        call: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The call wanted more memory than it may have.
    #[error("plugin {plugin}: {call} needs more than its {limit_bytes} bytes of memory")]
    Memory {
        /// Name of the plugin.
        plugin: String,
        /// The function called.
        call: &'static str,
        /// The limit.
        limit_bytes: usize,
    },
    /// The answer breaks the contract.
    #[error("plugin {plugin}: {call} gave a bad answer: {reason}")]
    BadAnswer {
        /// Name of the plugin.
        plugin: String,
        /// The function called.
        call: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Too many failures in a row: the plugin is left alone for a while.
    #[error("plugin {plugin} is paused after {failures} failures in a row, the last: {last}")]
    Paused {
        /// Name of the plugin.
        plugin: String,
        /// How many.
        failures: u32,
        /// The last of them.
        last: String,
    },
    /// All instances are busy and too many calls wait already.
    #[error("plugin {plugin}: {call}: {waiting} calls are waiting already")]
    Overloaded {
        /// Name of the plugin.
        plugin: String,
        /// The function called.
        call: &'static str,
        /// How many wait.
        waiting: usize,
    },
    /// The plugin did its work and says no. The message is its own.
    #[error("{message}")]
    Refused {
        /// Name of the plugin.
        plugin: String,
        /// The function called.
        call: &'static str,
        /// Why, for the caller's decisions.
        code: ErrorCode,
        /// Why, for people.
        message: String,
    },
}

impl PluginError {
    /// The code for the caller's decisions: the plugin's own, or one for its misbehaviour.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Refused { code, .. } => *code,
            Self::Manifest { .. } | Self::Component { .. } | Self::Settings { .. } => ErrorCode::Invalid,
            Self::NotGranted { .. } | Self::Native { .. } => ErrorCode::Denied,
            Self::Timeout { .. } | Self::Paused { .. } | Self::Overloaded { .. } => ErrorCode::Unavailable,
            Self::Memory { .. } => ErrorCode::Exhausted,
            Self::Io { .. } | Self::Trap { .. } | Self::BadAnswer { .. } => ErrorCode::Internal,
        }
    }

    /// Whether the plugin broke its contract, rather than answered with an error.
    pub fn is_misbehaviour(&self) -> bool {
        matches!(self, Self::Trap { .. } | Self::Timeout { .. } | Self::Memory { .. } | Self::BadAnswer { .. })
    }

    /// A short CamelCase word for an event's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Manifest { .. } => "PluginManifestInvalid",
            Self::Component { .. } => "PluginNotLoadable",
            Self::NotGranted { .. } => "PluginNotGranted",
            Self::Settings { .. } => "PluginSettingsInvalid",
            Self::Io { .. } => "PluginFileError",
            Self::Native { .. } => "PluginNativeRefused",
            Self::Trap { .. } => "PluginTrapped",
            Self::Timeout { .. } => "PluginTimedOut",
            Self::Memory { .. } => "PluginOutOfMemory",
            Self::BadAnswer { .. } => "PluginBadAnswer",
            Self::Paused { .. } => "PluginPaused",
            Self::Overloaded { .. } => "PluginOverloaded",
            Self::Refused { .. } => "PluginRefused",
        }
    }
}

fn show(limit: Duration) -> String {
    if limit.as_secs() > 0 { format!("{} s", limit.as_secs_f64()) } else { format!("{} ms", limit.as_millis()) }
}
