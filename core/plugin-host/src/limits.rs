//! How much of the machine a plugin may take. The defaults are those that the contracts in `plugins/wit` document.

use std::time::Duration;

use serde::{Deserialize, Serialize};

const MIB: usize = 1 << 20;

/// Limits of one plugin; each can be set in the server's TOML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Limits {
    /// Linear memory of an instance, in bytes.
    pub memory_bytes: usize,
    /// How long a policy's `filter-and-score` may take, in milliseconds.
    pub score_milliseconds: u64,
    /// How long a policy's other calls may take, in milliseconds.
    pub update_milliseconds: u64,
    /// Processor time of one call of a runtime or volume driver, in milliseconds.
    pub processor_milliseconds: u64,
    /// How long such a call may take in all, in milliseconds; a stop has the grace period on top.
    pub call_milliseconds: u64,
    /// Instances of a runtime or volume driver that may run at the same time.
    pub instances: usize,
    /// Instances kept when no call runs.
    pub idle_instances: usize,
    /// Calls that may wait for an instance.
    pub waiting_calls: usize,
    /// What the host copies out of a plugin for one call, in bytes.
    pub answer_bytes: usize,
    /// Failures in a row after which the plugin is paused.
    pub failures: u32,
    /// The first pause, in milliseconds; it doubles with each failed trial.
    pub pause_milliseconds: u64,
    /// The longest pause, in milliseconds.
    pub pause_milliseconds_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 * MIB,
            score_milliseconds: 50,
            update_milliseconds: 2_000,
            processor_milliseconds: 1_000,
            call_milliseconds: 120_000,
            // A stop holds its instance through the grace period, and a drained node stops all of its pods at once.
            instances: 256,
            idle_instances: 4,
            waiting_calls: 1024,
            answer_bytes: 64 * MIB,
            failures: 5,
            pause_milliseconds: 1_000,
            pause_milliseconds_max: 300_000,
        }
    }
}

impl Limits {
    pub(crate) fn score(&self) -> Duration {
        Duration::from_millis(self.score_milliseconds)
    }

    pub(crate) fn update(&self) -> Duration {
        Duration::from_millis(self.update_milliseconds)
    }

    pub(crate) fn processor(&self) -> Duration {
        Duration::from_millis(self.processor_milliseconds)
    }

    pub(crate) fn call(&self) -> Duration {
        Duration::from_millis(self.call_milliseconds)
    }
}
