//! `gantry up`: a whole cluster of one node in one process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use gantry_apiserver::{RunOptions, Running};
use gantry_network::DeferredNetwork;
use gantry_plugin_host::{HostOptions, PluginHost};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::parts::access::Access;
use crate::parts::node::{self, Folders};
use crate::parts::settings::Settings;
use crate::parts::{addons, control_plane, preflight};

/// How long the parts may take to end before they are left behind.
const STOP_MAX: Duration = Duration::from_secs(20);

/// Run a cluster of one node: API server, controllers, scheduler, node agent, service proxy and DNS.
#[derive(clap::Args)]
pub struct Args {
    /// The folder of everything that the cluster keeps; made if it isn't there
    #[arg(long, value_name = "DIR", default_value = "/var/lib/gantry")]
    data_dir: PathBuf,
    /// The address and port of the API server
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:6443")]
    listen: SocketAddr,
    /// The configuration; see docs/configuration.md
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Go on in the background once the cluster is ready
    #[arg(long)]
    detach: bool,
    /// When stopped, leave containers running; the next start takes them over
    #[arg(long)]
    keep: bool,
}

impl Args {
    /// Whether the cluster goes on in a process of its own.
    pub fn detaches(&self) -> bool {
        self.detach
    }
}

/// Prints a line as a part becomes ready.
struct Announcer {
    started: Instant,
}

impl Announcer {
    fn ready(&self, part: &str, what: impl std::fmt::Display) {
        println!("{part:<20} ready after {:.3} s  {what}", self.started.elapsed().as_secs_f64());
    }
}

/// Starts a process of its own that goes on, and waits for its word.
pub fn detach(args: &Args) -> Result<()> {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};
    let folder = node::data_folder(&args.data_dir)?;
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let log = folder.join("gantry.log");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&log);
    let file = file.with_context(|| format!("open {}", log.display()))?;
    let executable = std::env::current_exe().context("find this program")?;
    let arguments: Vec<_> = std::env::args_os().skip(1).filter(|argument| argument != "--detach").collect();
    let mut child = Command::new(executable)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file)
        // A group of its own: Ctrl-C in this terminal is for others.
        .process_group(0)
        .spawn()
        .context("start the cluster's process")?;
    let output = child.stdout.take().context("read the cluster's output")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("read the cluster's output")?;
        writeln!(std::io::stdout(), "{line}")?;
        if line.starts_with("ready") {
            println!("process {}, log {}", child.id(), log.display());
            return Ok(());
        }
    }
    let status = child.wait().context("wait for the cluster's process")?;
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    let last: Vec<&str> = said.lines().rev().take(5).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    bail!("the cluster didn't become ready ({status}); the end of {}:\n{}", log.display(), last.join("\n"))
}

/// Runs until SIGINT or SIGTERM.
pub async fn run(args: Args) -> Result<()> {
    let announcer = Announcer { started: Instant::now() };
    preflight::check()?;
    let settings = Settings::read(args.config.as_deref())?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let folders = Folders { data: node::data_folder(&args.data_dir)? };
    let options = RunOptions {
        service_cidr: settings.service_cidr,
        advertise_address: settings.node_ip,
        node_name: settings.node_name()?,
        cluster_domain: settings.cluster_domain.clone(),
        cluster: true,
        ..RunOptions::new(&folders.data, args.listen)
    };
    let server = Arc::new(Running::start(options).await?);
    announcer.ready("apiserver", format_args!("https://{}", server.address()));
    let started = start_parts(&server, &settings, &folders, &announcer).await;
    let mut parts = match started {
        Ok(parts) => parts,
        Err(error) => {
            server.shut_down();
            return Err(error);
        }
    };
    let became_current = crate::commands::config::adopt_context(server.kubeconfig())?;
    println!(
        "ready after {:.3} s: kubectl --kubeconfig {} get nodes{}",
        announcer.started.elapsed().as_secs_f64(),
        server.kubeconfig().display(),
        if became_current { " (now the current context)" } else { "" }
    );
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    let stopping = stop_parts(&mut parts, args.keep);
    let stopped = tokio::select! {
        stopped = tokio::time::timeout(STOP_MAX, stopping) => {
            stopped.unwrap_or_else(|_| Err(anyhow::anyhow!("the parts of the cluster didn't end within {STOP_MAX:?}")))
        }
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted while stopping: something may be left behind")),
    };
    drop(parts);
    server.shut_down();
    if let Ok(server) = Arc::try_unwrap(server).map_err(drop) {
        server.stop().await?;
    }
    stopped
}

struct Parts {
    node: node::NodeParts,
    network: Arc<gantry_network::BridgeNetwork>,
    tasks: JoinSet<()>,
    control_plane: Vec<tokio::task::JoinHandle<()>>,
    network_stop: CancellationToken,
    control_plane_stop: CancellationToken,
}

async fn start_parts(
    server: &Arc<Running>,
    settings: &Settings,
    folders: &Folders,
    announcer: &Announcer,
) -> Result<Parts> {
    let access = Access::in_process(server.clone());
    addons::apply(&access.administrator()).await?;
    let plugins = PluginHost::open(HostOptions { directory: folders.data.clone(), plugins: settings.plugins.clone() })
        .context("open the plugins")?;
    let control_plane_stop = CancellationToken::new();
    let root_ca: Arc<str> = server.pki().ca.certificate_pem().into();
    let controllers = control_plane::start_controllers(&access, settings, root_ca, control_plane_stop.clone());
    announcer.ready("controller-manager", "");
    let scheduler = control_plane::start_scheduler(&access, settings, plugins.clone(), control_plane_stop.clone())?;
    announcer.ready("scheduler", format_args!("profiles {}", profiles(settings)));
    let deferred = DeferredNetwork::default();
    let agent = node::start_agent(&access, settings, &plugins, folders.clone(), deferred.clone()).await?;
    let mut tasks = JoinSet::new();
    let network_stop = CancellationToken::new();
    node::start_agent_server(&agent, settings, server.pki(), &mut tasks, network_stop.clone()).await?;
    announcer.ready("agent", format_args!("node {}", agent.name()));
    let network = node::open_network(settings, folders, agent.pod_ranges().await, &deferred).await?;
    announcer.ready("pod network", format_args!("bridge {}", network.bridge()));
    let proxy = access.component("system:kube-proxy");
    node::start_proxy(proxy, settings, agent.name(), &mut tasks, network_stop.clone()).await?;
    announcer.ready("proxy", format_args!("services {}", settings.service_cidr));
    let dns = access.service_account("cluster-dns");
    node::start_dns(dns, settings, agent.name(), &network, &mut tasks, network_stop.clone());
    announcer.ready("dns", settings.dns_address());
    agent.ready().await;
    Ok(Parts {
        node: agent,
        network,
        tasks,
        control_plane: vec![controllers, scheduler],
        network_stop,
        control_plane_stop,
    })
}

fn profiles(settings: &Settings) -> String {
    settings.scheduler.profiles.iter().map(|profile| profile.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Stops what makes pods first, then what runs them, then what they hang on.
async fn stop_parts(parts: &mut Parts, keep: bool) -> Result<()> {
    parts.control_plane_stop.cancel();
    for part in parts.control_plane.drain(..) {
        // However it ended: it has.
        let _ = part.await;
    }
    parts.node.stop_agent().await;
    let removed = if keep { Ok(()) } else { parts.node.remove_everything().await };
    parts.network_stop.cancel();
    while parts.tasks.join_next().await.is_some() {}
    let closed = parts.network.close(!keep).await.context("close the pod network");
    removed.and(closed)
}
