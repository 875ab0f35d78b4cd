//! `gantry delete`: objects by file, by name or by label.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncBufReadExt;

use crate::cluster::flags::{ClusterFlags, parse_duration};
use crate::cluster::manifests::FileFlags;
use crate::cluster::mapper::{Mapper, ResourceInfo};
use crate::cluster::objects::{Named, SelectFlags, list, parse};
use crate::cluster::{Cluster, with_query};
use crate::commands::change::{DryRun, place};
use crate::commands::get::print;
use crate::error::{CliError, CliResult};
use crate::output::format::name_of;

/// How long a wait without a limit lasts at most; kubectl's week.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Delete resources by file names, stdin, resources and names, or by resources and label selector.
#[derive(clap::Args)]
pub struct Args {
    /// TYPE[,TYPE…] NAME… or TYPE/NAME…
    #[arg(value_name = "TYPE[/NAME]", add = crate::complete::resources())]
    resources: Vec<String>,
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    select: SelectFlags,
    /// Delete all resources, in the namespace of the specified resource types
    #[arg(long)]
    all: bool,
    /// Treat "resource not found" as a successful delete
    #[arg(long)]
    ignore_not_found: bool,
    /// Must be "background", "orphan", or "foreground": what becomes of dependents
    #[arg(long, value_enum, default_value = "background", num_args = 0..=1, require_equals = true, default_missing_value = "background")]
    cascade: Cascade,
    /// Period of time in seconds given to the resource to terminate gracefully; ignored if negative
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    grace_period: i64,
    /// If true, resources are signaled for immediate shutdown (same as --grace-period=1)
    #[arg(long)]
    now: bool,
    /// If true, immediately remove resources from the API and bypass graceful deletion
    #[arg(long)]
    force: bool,
    /// If true, wait for resources to be gone before returning; the default, but for --force
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    wait: Option<bool>,
    /// The length of time to wait before giving up on a delete, zero means determine a timeout from the size of the object
    #[arg(long, default_value = "0s")]
    timeout: String,
    /// Output mode: "name" for shorter output (resource/name)
    #[arg(short, long)]
    output: Option<String>,
    /// "none", "server" or "client"
    #[arg(long, value_enum, default_value = "none", num_args = 0..=1, require_equals = true, default_missing_value = "client")]
    dry_run: DryRun,
}

#[derive(clap::ValueEnum, Clone, Copy)]
enum Cascade {
    #[value(alias = "true")]
    Background,
    #[value(alias = "false")]
    Orphan,
    Foreground,
}

struct Target {
    resource: ResourceInfo,
    namespace: Option<String>,
    name: String,
}

impl Target {
    fn path(&self) -> String {
        self.resource.path(self.namespace.as_deref(), Some(&self.name))
    }
}

/// Deletes what was named.
pub async fn run(flags: &ClusterFlags, args: Args) -> CliResult {
    if args.now && args.grace_period >= 0 {
        return Err(CliError::usage("--now and --grace-period cannot be specified together"));
    }
    if args.force && args.grace_period > 0 {
        return Err(CliError::usage("--force and --grace-period greater than 0 cannot be specified together"));
    }
    if args.output.as_deref().is_some_and(|output| output != "name") {
        return Err(CliError::usage("unexpected -o output mode. We only support '-o name'"));
    }
    let timeout = parse_duration(&args.timeout)
        .ok_or_else(|| CliError::usage(format!("invalid argument \"{}\" for \"--timeout\" flag", args.timeout)))?;
    let cluster = flags.connect().await?;
    let mapper = Mapper::discover(&cluster).await?;
    if args.force {
        eprintln!(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. \
             The resource may continue to run on the cluster indefinitely."
        );
    }
    let mut failures = Vec::new();
    let mut gone = Vec::new();
    let targets = targets(&cluster, &mapper, &args).await?;
    if targets.is_empty() && !args.ignore_not_found {
        print("No resources found\n")?;
    }
    for target in targets {
        match delete(&cluster, &args, &target).await {
            Ok(uid) => gone.push((target, uid)),
            Err(error) if error.is_not_found() && ignores_missing(&args) => {}
            Err(error) => failures.push(error),
        }
    }
    let wait = args.wait.unwrap_or(!args.force) && args.dry_run == DryRun::None;
    if wait {
        let limit = if timeout.is_zero() { WEEK } else { timeout };
        let deadline = tokio::time::Instant::now() + limit;
        for (target, uid) in &gone {
            match tokio::time::timeout_at(deadline, until_gone(&cluster, target, uid)).await {
                Ok(result) => result?,
                Err(_) => failures.push(CliError::usage(format!(
                    "timed out waiting for the condition on {}/{}",
                    target.resource.plural, target.name
                ))),
            }
        }
    }
    CliError::gather(failures)
}

/// What was found by a selector may well be gone by now.
fn ignores_missing(args: &Args) -> bool {
    args.ignore_not_found || args.all || args.select.selects()
}

async fn targets(cluster: &Cluster, mapper: &Mapper, args: &Args) -> CliResult<Vec<Target>> {
    let mut targets = Vec::new();
    if !args.files.is_empty() {
        for manifest in args.files.read().await? {
            let resource = mapper.of_object(&manifest.object)?.clone();
            let mut object = manifest.object;
            let namespace = place(cluster, &resource, &mut object)?;
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            targets.push(Target { resource, namespace, name });
        }
        return Ok(targets);
    }
    for named in parse(mapper, &args.resources)? {
        match named {
            Named::One(resource, name) => {
                if args.select.selects() {
                    return Err(CliError::usage("name cannot be provided when a selector is specified"));
                }
                if args.all {
                    return Err(CliError::usage("name cannot be provided when --all is specified"));
                }
                let namespace = resource.namespaced.then(|| cluster.namespace.clone());
                targets.push(Target { resource, namespace, name });
            }
            Named::All(resource) => {
                if !args.all && !args.select.selects() {
                    return Err(CliError::usage("resource(s) were provided, but no name was specified"));
                }
                if !resource.can("delete") {
                    continue;
                }
                let found = list(cluster, &resource, args.select.namespace(cluster), args.select.query()).await?;
                for item in found["items"].as_array().into_iter().flatten() {
                    targets.push(Target {
                        resource: resource.clone(),
                        namespace: item["metadata"]["namespace"].as_str().map(str::to_owned),
                        name: item["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
                    });
                }
            }
        }
    }
    Ok(targets)
}

/// The body of the request.
fn options(args: &Args) -> Value {
    let policy = match args.cascade {
        Cascade::Background => "Background",
        Cascade::Orphan => "Orphan",
        Cascade::Foreground => "Foreground",
    };
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy});
    let grace = match (args.force, args.now) {
        (true, _) => Some(0),
        (_, true) => Some(1),
        // Zero seconds need --force: without it the shortest grace is given.
        _ if args.grace_period == 0 => Some(1),
        _ => Some(args.grace_period).filter(|seconds| *seconds >= 0),
    };
    if let Some(seconds) = grace {
        options["gracePeriodSeconds"] = seconds.into();
    }
    if args.dry_run == DryRun::Server {
        options["dryRun"] = json!(["All"]);
    }
    options
}

/// Deletes one; answers with its UID where the server tells.
async fn delete(cluster: &Cluster, args: &Args, target: &Target) -> CliResult<String> {
    let answer = match args.dry_run {
        DryRun::Client => cluster.get(&target.path()).await?,
        _ => cluster.delete(&target.path(), &options(args)).await?,
    };
    print(&line(args, target))?;
    let uid = answer["metadata"]["uid"].as_str().or(answer["details"]["uid"].as_str());
    Ok(uid.unwrap_or_default().to_owned())
}

/// `configmap "x" deleted from default namespace`.
fn line(args: &Args, target: &Target) -> String {
    if args.output.is_some() {
        return format!("{}\n", name_of(Some(&target.resource), &json!({"metadata": {"name": target.name}})));
    }
    let operation = if args.force { "force deleted" } else { "deleted" };
    let place = target.namespace.as_ref().map(|namespace| format!(" from {namespace} namespace")).unwrap_or_default();
    let suffix = match args.dry_run {
        DryRun::None => "",
        DryRun::Client => " (dry run)",
        DryRun::Server => " (server dry run)",
    };
    format!("{} \"{}\" {operation}{place}{suffix}\n", target.resource.shown(), target.name)
}

/// Waits until the object is gone, or another one has its name.
async fn until_gone(cluster: &Cluster, target: &Target, uid: &str) -> CliResult {
    if !target.resource.can("watch") {
        return Ok(());
    }
    loop {
        let object = match cluster.get(&target.path()).await {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        };
        if !uid.is_empty() && object["metadata"]["uid"] != uid {
            return Ok(());
        }
        let path = with_query(
            &target.resource.path(target.namespace.as_deref(), None),
            [
                ("watch", Some("true".to_owned())),
                ("fieldSelector", Some(format!("metadata.name={}", target.name))),
                ("resourceVersion", object["metadata"]["resourceVersion"].as_str().map(str::to_owned)),
            ],
        );
        let mut events = cluster.stream(&path, "application/json").await?.lines();
        let mut seen = false;
        while let Some(event) = events.next_line().await? {
            let event: Value = serde_json::from_str(&event)?;
            seen = true;
            match event["type"].as_str() {
                Some("DELETED") => return Ok(()),
                Some("ERROR") => break,
                _ => {}
            }
        }
        // A server that ends watches at once is in trouble: not asked in a hurry.
        if !seen {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn options_and_texts() {
        let cases = [
            ("", "configmap \"x\" deleted from dev namespace\n", json!(null), "Background"),
            ("--now", "configmap \"x\" deleted from dev namespace\n", json!(1), "Background"),
            ("--force", "configmap \"x\" force deleted from dev namespace\n", json!(0), "Background"),
            ("--grace-period=0", "configmap \"x\" deleted from dev namespace\n", json!(1), "Background"),
            ("--cascade=orphan", "configmap \"x\" deleted from dev namespace\n", json!(null), "Orphan"),
            (
                "--dry-run=server",
                "configmap \"x\" deleted from dev namespace (server dry run)\n",
                json!(null),
                "Background",
            ),
            ("-oname", "configmap/x\n", json!(null), "Background"),
        ];
        for (flags, text, grace, policy) in cases {
            let args = Line::try_parse_from(["delete", "cm", "x"].into_iter().chain(flags.split_whitespace()))
                .unwrap_or_else(|error| panic!("{flags}: {error}"))
                .args;
            let resource = ResourceInfo { singular: "configmap".into(), namespaced: true, ..ResourceInfo::default() };
            let target = Target { resource, namespace: Some("dev".into()), name: "x".into() };
            assert_eq!(line(&args, &target), text, "{flags}");
            let options = options(&args);
            assert_eq!((&options["gracePeriodSeconds"], &options["propagationPolicy"]), (&grace, &json!(policy)));
        }
    }
}
