//! An API server alone, for hand testing:
//! `cargo run -p gantry-apiserver --example serve -- --listen 127.0.0.1:6443 --token-auth-file FILE --data-dir DIR`

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use gantry_apiserver::registry::services::SERVICE_CIDR;
use gantry_apiserver::{ApiServer, Config};
use gantry_pki::{Pki, PkiOptions};
use gantry_store::{EmbeddedOptions, open_embedded};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

struct Options {
    listen: SocketAddr,
    token_auth_file: Option<PathBuf>,
    data_dir: PathBuf,
    service_cidr: String,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options { listen: "127.0.0.1:0".parse()?, token_auth_file: None, data_dir: PathBuf::new(), service_cidr: SERVICE_CIDR.to_owned() };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{flag} needs a value"));
        match flag.as_str() {
            "--listen" => options.listen = value()?.parse()?,
            "--token-auth-file" => options.token_auth_file = Some(value()?.into()),
            "--data-dir" => options.data_dir = value()?.into(),
            "--service-cidr" => options.service_cidr = value()?,
            _ => return Err(format!("unknown flag {flag}").into()),
        }
    }
    if options.data_dir.as_os_str().is_empty() {
        return Err("--data-dir is needed".into());
    }
    Ok(options)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_writer(std::io::stderr).init();
    let options = options()?;
    let listener = TcpListener::bind(options.listen).await?;
    let address = listener.local_addr()?;
    let mut config = Config::new(address.ip(), address.port(), options.service_cidr.parse()?);
    config.token_auth_file = options.token_auth_file;
    let pki = Pki::open(
        &options.data_dir.join("pki"),
        &PkiOptions {
            node_name: "localhost".to_owned(),
            advertise_address: address.ip(),
            service_address: config.service_address(),
            cluster_domain: "cluster.local".to_owned(),
            extra_names: Vec::new(),
            extra_addresses: Vec::new(),
        },
        SystemTime::now(),
    )?;
    let store = Arc::new(open_embedded(&options.data_dir.join("store"), EmbeddedOptions::default())?);
    let server = ApiServer::start(config, store, Arc::new(pki)).await?;
    println!("ready at https://{address} after {} ms", started.elapsed().as_millis());
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let mut terminate = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(terminate) => terminate,
            Err(_) => return,
        };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
    });
    server.serve(listener, shutdown).await?;
    Ok(())
}
