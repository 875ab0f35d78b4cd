//! The TOML file of `gantry up` and of the parts. Every key has a default: an empty file is a good one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use gantry_plugin_host::PluginOptions;
use gantry_scheduler::SchedulerConfig;
use ipnet::IpNet;
use serde::Deserialize;

/// What a cluster and its node are like.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// The name of this machine's node; its host name when not given.
    pub node_name: Option<String>,
    /// The address of this machine's node; that of the default route when not given.
    pub node_ip: Option<IpAddr>,
    /// The networks that nodes' pod ranges come out of.
    pub cluster_cidrs: Vec<IpNet>,
    /// The network that services get their addresses from.
    pub service_cidr: IpNet,
    /// The domain of services.
    pub cluster_domain: String,
    /// The port of the node's agent.
    pub agent_port: u16,
    /// Labels that the node gets.
    pub node_labels: BTreeMap<String, String>,
    /// How many pods may run on the node.
    pub max_pods: u32,
    /// Below this much free disk, in percent, the node takes no pods and ends some.
    pub min_free_disk_percent: u64,
    /// The bridge that pods hang on.
    pub bridge: String,
    /// Registries' mirrors: host to hosts that are tried before it.
    pub registry_mirrors: BTreeMap<String, Vec<String>>,
    /// Registries spoken to without TLS, beside this machine itself.
    pub plain_http_registries: Vec<String>,
    /// Profiles and settings of the scheduler; see docs/scheduler.md.
    pub scheduler: SchedulerConfig,
    /// The operator's word on plugins, by name.
    pub plugins: BTreeMap<String, PluginOptions>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node_name: None,
            node_ip: None,
            cluster_cidrs: vec![IpNet::new_assert(IpAddr::from([10, 244, 0, 0]), 16)],
            service_cidr: IpNet::new_assert(IpAddr::from([10, 96, 0, 0]), 16),
            cluster_domain: "cluster.local".to_owned(),
            agent_port: 10250,
            node_labels: BTreeMap::new(),
            max_pods: 110,
            min_free_disk_percent: 10,
            bridge: "gantry0".to_owned(),
            registry_mirrors: BTreeMap::new(),
            plain_http_registries: Vec::new(),
            scheduler: SchedulerConfig::default(),
            plugins: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// Reads a file; the defaults when there is none.
    pub fn read(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} isn't a valid configuration", path.display()))
    }

    /// The name of this machine's node: lower case, as names of objects are.
    pub fn node_name(&self) -> Result<String> {
        if let Some(name) = &self.node_name {
            return Ok(name.clone());
        }
        let name = nix::unistd::gethostname().context("ask for this machine's host name")?;
        let name = name.to_string_lossy().trim().to_lowercase();
        anyhow::ensure!(!name.is_empty(), "this machine has no host name; give it one, or set node-name");
        Ok(name)
    }

    /// The address of the cluster's DNS: the tenth of the service network, as everywhere.
    pub fn dns_address(&self) -> IpAddr {
        self.service_cidr.hosts().nth(9).unwrap_or_else(|| self.service_cidr.network())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        let settings: Settings =
            toml::from_str("node-name = \"n1\"\nservice-cidr = \"10.97.0.0/16\"\n").expect("a file");
        assert_eq!(settings.node_name().expect("a name"), "n1");
        assert_eq!(settings.dns_address().to_string(), "10.97.0.10");
        let error = toml::from_str::<Settings>("node-nam = \"n1\"").expect_err("a typo");
        assert!(error.to_string().contains("unknown field `node-nam`"), "{error}");
    }
}
