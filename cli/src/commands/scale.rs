//! `gantry scale`: how many replicas a workload has.

use serde_json::json;

use crate::cluster::flags::ClusterFlags;
use crate::cluster::mapper::Mapper;
use crate::cluster::objects::{SelectFlags, fetch, parse};
use crate::cluster::with_query;
use crate::commands::change::{ChangeFlags, DryRun};
use crate::error::{CliError, CliResult};

/// Set a new size for a deployment, replica set, replication controller, or stateful set.
#[derive(clap::Args)]
pub struct Args {
    /// TYPE NAME… or TYPE/NAME…
    #[arg(value_name = "TYPE[/NAME]", required = true, add = crate::complete::resources())]
    resources: Vec<String>,
    #[command(flatten)]
    select: SelectFlags,
    #[command(flatten)]
    change: ChangeFlags,
    /// The new desired number of replicas
    #[arg(long)]
    replicas: u32,
    /// Precondition for current size; -1 means none
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    current_replicas: i64,
    /// Precondition for resource version
    #[arg(long)]
    resource_version: Option<String>,
}

/// Scales what was named.
pub async fn run(flags: &ClusterFlags, args: Args) -> CliResult {
    let cluster = flags.connect().await?;
    let mapper = Mapper::discover(&cluster).await?;
    let found = fetch(&cluster, &parse(&mapper, &args.resources)?, &args.select).await?;
    if found.is_empty() {
        return Err(CliError::usage("no objects passed to scale"));
    }
    for (resource, object) in found {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if args.change.dry_run == DryRun::Client {
            args.change.report(&resource, &object, "scaled")?;
            continue;
        }
        let path = format!("{}/scale", resource.path(object["metadata"]["namespace"].as_str(), Some(name)));
        let mut scale = cluster.get(&path).await?;
        let now = scale["spec"]["replicas"].as_i64().unwrap_or_default();
        if args.current_replicas >= 0 && now != args.current_replicas {
            return Err(CliError::usage(format!("Expected replicas to be {}, was {now}", args.current_replicas)));
        }
        let version = scale["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        if let Some(expected) = args.resource_version.as_ref().filter(|expected| **expected != version) {
            return Err(CliError::usage(format!("Expected resource version to be {expected}, was {version}")));
        }
        scale["spec"] = json!({"replicas": args.replicas});
        // Without a precondition, what others change in between doesn't matter.
        if args.current_replicas < 0
            && args.resource_version.is_none()
            && let Some(metadata) = scale["metadata"].as_object_mut()
        {
            metadata.remove("resourceVersion");
        }
        cluster.put(&with_query(&path, args.change.query("kubectl")), &scale).await?;
        args.change.report(&resource, &object, "scaled")?;
    }
    Ok(())
}
