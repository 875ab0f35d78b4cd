//! `gantry scheduler`: the scheduler alone, of any cluster that speaks Kubernetes.

use std::path::PathBuf;

use anyhow::{Context, Result};
use gantry_plugin_host::{HostOptions, PluginHost};
use gantry_scheduler::{Scheduler, SchedulerConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cluster::flags::ClusterFlags;
use crate::parts::control_plane;

/// Run the scheduler alone.
#[derive(clap::Args)]
pub struct Args {
    /// Settings: profiles, back-off, leader election; docs/scheduler.md describes them
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// The folder with installed plugins and compiled code
    #[arg(long, value_name = "DIR", default_value = "/var/lib/gantry")]
    data_dir: PathBuf,
}

/// Schedules until SIGINT or SIGTERM, or until the lease is lost.
pub async fn run(flags: &ClusterFlags, args: Args) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let config = match &args.config {
        None => SchedulerConfig::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            SchedulerConfig::parse(&text).with_context(|| format!("in {}", path.display()))?
        }
    };
    let kubeconfig = flags.kubeconfig.as_ref().context("--kubeconfig FILE says which cluster")?;
    let client = gantry_client::from_kubeconfig(kubeconfig).await?;
    let plugins = PluginHost::open(HostOptions { directory: args.data_dir.clone(), ..HostOptions::default() })?;
    let cancel = CancellationToken::new();
    let scheduler = Scheduler::new(client, config, control_plane::policies(plugins))?;
    let mut running = tokio::spawn(scheduler.run(cancel.clone()));
    tokio::select! {
        ended = &mut running => return Ok(ended.context("the scheduler ended unexpectedly")??),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    cancel.cancel();
    running.await.context("the scheduler ended unexpectedly")??;
    Ok(())
}
