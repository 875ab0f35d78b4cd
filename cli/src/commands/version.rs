//! `gantry version`.

use serde_json::json;

use crate::cluster::flags::ClusterFlags;
use crate::commands::get::print;
use crate::error::{CliError, CliResult};
use crate::output::format::go_json;
use crate::output::yaml;

/// Print the client and server version information.
#[derive(clap::Args)]
pub struct Args {
    /// If true, shows client version only (no server required)
    #[arg(long)]
    client: bool,
    /// One of 'yaml' or 'json'
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<String>,
}

/// Prints the versions.
pub async fn run(flags: &ClusterFlags, args: Args) -> CliResult {
    let own = env!("CARGO_PKG_VERSION");
    let server = if args.client { Ok(None) } else { server_version(flags).await.map(Some) };
    let known = server.as_ref().ok().and_then(Option::as_ref);
    match args.output.as_deref() {
        Some(format @ ("json" | "yaml")) => {
            let mut versions = json!({"clientVersion": {"gitVersion": format!("v{own}"), "platform":
                format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH)}});
            if let Some(server) = known {
                versions["serverVersion"] = server.clone();
            }
            print(&if format == "json" { format!("{}\n", go_json(&versions)) } else { yaml::render(&versions) })?;
        }
        None | Some("") => {
            print(&format!("Client Version: v{own}\n"))?;
            if let Some(server) = known {
                print(&format!("Server Version: {}\n", server["gitVersion"].as_str().unwrap_or_default()))?;
            }
        }
        Some(_) => return Err(CliError::usage("--output must be 'yaml' or 'json'")),
    }
    server.map(drop)
}

async fn server_version(flags: &ClusterFlags) -> CliResult<serde_json::Value> {
    flags.connect().await?.get("/version").await
}
