//! `gantry scheduler`: the scheduler alone, of any cluster that speaks Kubernetes.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use gantry_plugin_host::PluginError;
use gantry_scheduler::{PolicyProvider, Scheduler, SchedulerConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Run the scheduler alone.
#[derive(clap::Args)]
pub struct Args {
    /// The kubeconfig of the cluster
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Settings: profiles, back-off, leader election; docs/scheduler.md describes them
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
}

/// Schedules until SIGINT or SIGTERM, or until the lease is lost.
pub async fn run(args: Args) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let config = match &args.config {
        None => SchedulerConfig::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            SchedulerConfig::parse(&text).with_context(|| format!("in {}", path.display()))?
        }
    };
    let client = gantry_client::from_kubeconfig(&args.kubeconfig).await?;
    let cancel = CancellationToken::new();
    let scheduler = Scheduler::new(client, config, policies())?;
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

/// The scheduler alone has no plugins installed: a profile that names a policy says so in its pods' events.
fn policies() -> PolicyProvider {
    Arc::new(|config| {
        let reason = "this scheduler has no plugins installed".to_owned();
        Err(PluginError::Component { plugin: config.plugin.clone(), reason })
    })
}
