//! `gantry apiserver`: the API server alone, over the embedded store.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use gantry_apiserver::{RunOptions, Running};
use tokio::signal::unix::{SignalKind, signal};

/// Run the API server alone.
#[derive(clap::Args)]
pub struct Args {
    /// The folder of its keys and its store; made if it isn't there
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The address and port to listen at; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:6443")]
    listen: SocketAddr,
    /// The address under which others reach it; by default the one it listens at, or that of the default route
    #[arg(long, value_name = "ADDR")]
    advertise_address: Option<IpAddr>,
    /// A file of lines `token,user,uid,"group1,group2"`: bearer tokens that are let in
    #[arg(long, value_name = "CSV")]
    token_auth_file: Option<PathBuf>,
    /// The network that services get their addresses from
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/16")]
    service_cidr: ipnet::IpNet,
}

/// Serves until SIGINT or SIGTERM.
pub async fn run(args: Args) -> Result<()> {
    let started = Instant::now();
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let options = RunOptions {
        advertise_address: args.advertise_address,
        service_cidr: args.service_cidr,
        token_auth_file: args.token_auth_file,
        ..RunOptions::new(args.data_dir, args.listen)
    };
    let running = Running::start(options).await?;
    println!(
        "ready in {:.3} s: https://{}, kubeconfig {}",
        started.elapsed().as_secs_f64(),
        running.address(),
        running.kubeconfig().display()
    );
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    running.stop().await?;
    Ok(())
}
