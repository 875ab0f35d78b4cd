//! Controllers and scheduler.

use std::sync::Arc;

use anyhow::{Context, Result};
use gantry_client::Informers;
use gantry_controllers::{ControllerManager, ManagerConfig};
use gantry_plugin_host::{PluginHost, Policy};
use gantry_scheduler::{PolicyConfig, PolicyProvider, Scheduler};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::access::Access;
use super::settings::Settings;

/// Starts the controllers.
pub fn start_controllers(
    access: &Access,
    settings: &Settings,
    root_ca_pem: Arc<str>,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let informers = Informers::new(access.component("system:kube-controller-manager"));
    let config = ManagerConfig { root_ca_pem, cluster_cidrs: settings.cluster_cidrs.clone() };
    let accounts = access.clone();
    let manager = ControllerManager::new(config, informers, move |name| accounts.service_account(name));
    tokio::spawn(manager.run(stop))
}

/// Policies out of the plugin host.
pub fn policies(plugins: Arc<PluginHost>) -> PolicyProvider {
    Arc::new(move |config: &PolicyConfig| -> Result<Arc<dyn Policy>, gantry_plugin_host::PluginError> {
        let settings = serde_json::to_string(&config.settings).unwrap_or_default();
        plugins.policy(&config.plugin, &settings)
    })
}

/// Starts the scheduler. `plugins` brings the policies that profiles name.
pub fn start_scheduler(
    access: &Access,
    settings: &Settings,
    plugins: Arc<PluginHost>,
    stop: CancellationToken,
) -> Result<JoinHandle<()>> {
    let client = access.component("system:kube-scheduler");
    let scheduler = Scheduler::new(client, settings.scheduler.clone(), policies(plugins))
        .context("the scheduler's configuration")?;
    Ok(tokio::spawn(async move {
        if let Err(error) = scheduler.run(stop).await {
            tracing::error!(%error, "the scheduler has ended");
        }
    }))
}
