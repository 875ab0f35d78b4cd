//! The scheduler's settings, as they stand in TOML.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::plugin::{Plugin, PluginSet};

/// The name of the profile of pods that name none.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// Why settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It isn't the TOML of these settings.
    #[error("scheduler configuration: {0}")]
    Parse(#[from] toml::de::Error),
    /// There is no profile at all.
    #[error("scheduler configuration: there must be at least one profile")]
    NoProfile,
    /// A profile has no name, or one that another has.
    #[error("scheduler configuration: profile name {name:?} is empty or used twice")]
    ProfileName {
        /// The name.
        name: String,
    },
    /// A plugin isn't known.
    #[error("scheduler configuration: profile {profile:?}: there is no plugin {plugin:?}")]
    UnknownPlugin {
        /// The profile.
        profile: String,
        /// The plugin.
        plugin: String,
    },
    /// A weight is given to a plugin that scores nothing, or is out of bounds.
    #[error("scheduler configuration: profile {profile:?}: plugin {plugin:?} can't have the weight {weight}")]
    Weight {
        /// The profile.
        profile: String,
        /// The plugin.
        plugin: String,
        /// The weight.
        weight: u32,
    },
}

/// All settings.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerConfig {
    /// One for each `schedulerName` that is served.
    #[serde(rename = "profile")]
    pub profiles: Vec<ProfileConfig>,
    /// The first wait of a pod that could not be placed, in milliseconds.
    pub initial_backoff_ms: u64,
    /// The longest, in milliseconds.
    pub max_backoff_ms: u64,
    /// How many bindings may be under way at once.
    pub bindings_max: usize,
    /// How long a pod's volumes may take to be bound, in seconds.
    pub volume_bind_timeout_s: u64,
    /// Whether several schedulers may run, of which one works.
    pub leader_election: bool,
    /// The seed of the choice among equally good nodes; none: a random one.
    pub seed: Option<u64>,
}

/// How pods of one `schedulerName` are placed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileConfig {
    /// The `schedulerName`.
    pub name: String,
    /// Changes to upstream's default plugins.
    pub plugins: PluginsConfig,
    /// A policy plugin beside them.
    pub policy: Option<PolicyConfig>,
}

/// Which plugins run, and what their scores weigh.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct PluginsConfig {
    /// Plugins that neither filter nor score.
    pub disabled: Vec<String>,
    /// Plugins that filter but don't score.
    pub unscored: Vec<String>,
    /// Weights of scores, where they aren't the default ones.
    pub weights: std::collections::BTreeMap<String, u32>,
}

/// A policy plugin in a profile.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// The plugin's name.
    pub plugin: String,
    /// What its score weighs; upstream's plugins have 1 to 3.
    #[serde(default = "default_policy_weight")]
    pub weight: u32,
    /// Settings for the plugin; its manifest has the schema.
    #[serde(default)]
    pub settings: toml::Table,
    /// What becomes of a pod when the policy fails.
    #[serde(default)]
    pub on_failure: OnPolicyFailure,
}

/// What becomes of a pod when its policy fails.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum OnPolicyFailure {
    /// It is placed without the policy's word.
    #[default]
    Ignore,
    /// It is tried again later.
    Retry,
}

fn default_policy_weight() -> u32 {
    100
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        let bin_pack = PolicyConfig {
            plugin: "bin-pack".to_owned(),
            weight: default_policy_weight(),
            settings: toml::Table::new(),
            on_failure: OnPolicyFailure::Ignore,
        };
        Self {
            profiles: vec![
                ProfileConfig { name: DEFAULT_SCHEDULER.to_owned(), ..ProfileConfig::default() },
                ProfileConfig { name: "bin-pack".to_owned(), policy: Some(bin_pack), ..ProfileConfig::default() },
            ],
            initial_backoff_ms: 1_000,
            max_backoff_ms: 10_000,
            bindings_max: 256,
            volume_bind_timeout_s: 600,
            leader_election: false,
            seed: None,
        }
    }
}

impl SchedulerConfig {
    /// Reads and checks settings.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)?;
        config.check()?;
        Ok(config)
    }

    /// Whether the settings make sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.profiles.is_empty() {
            return Err(ConfigError::NoProfile);
        }
        for (at, profile) in self.profiles.iter().enumerate() {
            if profile.name.is_empty() || self.profiles[..at].iter().any(|other| other.name == profile.name) {
                return Err(ConfigError::ProfileName { name: profile.name.clone() });
            }
            Profile::of(profile)?;
        }
        Ok(())
    }

    /// How long a pod's volumes may take to be bound.
    pub fn volume_bind_timeout(&self) -> Duration {
        Duration::from_secs(self.volume_bind_timeout_s)
    }
}

/// A profile, ready to be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// The `schedulerName`.
    pub name: String,
    /// Plugins whose filters run.
    pub filters: PluginSet,
    /// What each plugin's score weighs, by its place in [`crate::plugin::ALL`]; 0: not at all.
    weights: [i64; crate::plugin::ALL.len()],
    /// The policy.
    pub policy: Option<PolicyConfig>,
}

impl Profile {
    /// Of settings.
    pub fn of(config: &ProfileConfig) -> Result<Self, ConfigError> {
        let plugin = |name: &String| {
            Plugin::from_name(name)
                .ok_or_else(|| ConfigError::UnknownPlugin { profile: config.name.clone(), plugin: name.clone() })
        };
        let mut filters = PluginSet::ALL;
        let mut weights = crate::plugin::ALL.map(|plugin| i64::from(plugin.default_weight()));
        for (name, weight) in &config.plugins.weights {
            let plugin = plugin(name)?;
            if plugin.default_weight() == 0 || *weight == 0 || *weight > 10_000 {
                let (profile, plugin) = (config.name.clone(), name.clone());
                return Err(ConfigError::Weight { profile, plugin, weight: *weight });
            }
            weights[plugin as usize] = i64::from(*weight);
        }
        for name in &config.plugins.unscored {
            weights[plugin(name)? as usize] = 0;
        }
        for name in &config.plugins.disabled {
            let plugin = plugin(name)?;
            filters = filters.without(plugin);
            weights[plugin as usize] = 0;
        }
        if let Some(policy) = &config.policy {
            if policy.weight > 10_000 {
                let (profile, plugin) = (config.name.clone(), policy.plugin.clone());
                return Err(ConfigError::Weight { profile, plugin, weight: policy.weight });
            }
            weights[Plugin::Policy as usize] = i64::from(policy.weight);
        } else {
            filters = filters.without(Plugin::Policy);
        }
        Ok(Self { name: config.name.clone(), filters, weights, policy: config.policy.clone() })
    }

    /// With one plugin's filter and no scores.
    pub fn only(plugin: Plugin) -> Self {
        let filters = PluginSet::default().with(plugin);
        Self { name: String::new(), filters, weights: [0; crate::plugin::ALL.len()], policy: None }
    }

    /// What a plugin's score weighs; 0: it isn't asked.
    pub fn weight(&self, plugin: Plugin) -> i64 {
        self.weights[plugin as usize]
    }

    /// Whether a plugin's filter runs.
    pub fn filters(&self, plugin: Plugin) -> bool {
        self.filters.contains(plugin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_serves_two_names() {
        let config = SchedulerConfig::default();
        config.check().expect("it makes sense");
        let names: Vec<&str> = config.profiles.iter().map(|profile| profile.name.as_str()).collect();
        assert_eq!(names, ["default-scheduler", "bin-pack"]);
        let text = toml::to_string(&config).expect("TOML");
        assert_eq!(SchedulerConfig::parse(&text).expect("the same"), config);
    }

    #[test]
    fn a_profile_changes_the_defaults() {
        let config = SchedulerConfig::parse(
            r#"
            max_backoff_ms = 2000
            [[profile]]
            name = "mine"
            plugins.disabled = ["ImageLocality"]
            plugins.unscored = ["NodeResourcesFit"]
            plugins.weights = { TaintToleration = 7 }
            policy = { plugin = "spread", weight = 5, settings = { key = "rack" }, on_failure = "retry" }
            "#,
        )
        .expect("settings");
        let profile = Profile::of(&config.profiles[0]).expect("a profile");
        assert_eq!((config.initial_backoff_ms, config.max_backoff_ms), (1000, 2000));
        assert!(!profile.filters(Plugin::ImageLocality) && profile.filters(Plugin::NodeResourcesFit));
        let weights =
            [Plugin::NodeResourcesFit, Plugin::TaintToleration, Plugin::Policy].map(|one| profile.weight(one));
        assert_eq!(weights, [0, 7, 5]);
        assert_eq!(profile.policy.map(|policy| policy.on_failure), Some(OnPolicyFailure::Retry));
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("profile = []", "scheduler configuration: there must be at least one profile"),
            ("[[profile]]", "scheduler configuration: profile name \"\" is empty or used twice"),
            (
                "[[profile]]\nname = 'a'\nplugins.disabled = ['X']",
                "scheduler configuration: profile \"a\": there is no plugin \"X\"",
            ),
            (
                "[[profile]]\nname = 'a'\nplugins.weights = { NodeName = 2 }",
                "scheduler configuration: profile \"a\": plugin \"NodeName\" can't have the weight 2",
            ),
        ];
        for (text, expect) in cases {
            assert_eq!(SchedulerConfig::parse(text).expect_err(text).to_string(), expect);
        }
        assert!(matches!(SchedulerConfig::parse("profiles = 1"), Err(ConfigError::Parse(_))));
    }
}
