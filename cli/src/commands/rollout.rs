//! `gantry rollout`: how a workload's new revision comes along.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncBufReadExt;

use crate::cluster::flags::{ClusterFlags, parse_duration};
use crate::cluster::mapper::{Mapper, ResourceInfo};
use crate::cluster::objects::{Named, SelectFlags, fetch, parse};
use crate::cluster::{Cluster, PatchType, with_query};
use crate::commands::change::{ChangeFlags, DryRun};
use crate::commands::get::print;
use crate::error::{CliError, CliResult};

/// Manage the rollout of one or many resources.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Sub,
}

#[derive(clap::Subcommand)]
enum Sub {
    /// Show the status of the rollout
    Status {
        /// TYPE NAME or TYPE/NAME
        #[arg(required = true)]
        resources: Vec<String>,
        /// Watch the status of the rollout until it's done
        #[arg(short, long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
        watch: bool,
        /// The length of time to wait before ending watch, zero means never
        #[arg(long, default_value = "0s")]
        timeout: String,
    },
    /// Restart a resource
    Restart(Changed),
    /// Mark the provided resource as paused
    Pause(Changed),
    /// Resume a paused resource
    Resume(Changed),
}

#[derive(clap::Args)]
struct Changed {
    /// TYPE NAME… or TYPE/NAME…
    #[arg(required = true)]
    resources: Vec<String>,
    #[command(flatten)]
    select: SelectFlags,
    #[command(flatten)]
    change: ChangeFlags,
}

/// Runs it.
pub async fn run(flags: &ClusterFlags, args: Args) -> CliResult {
    let cluster = flags.connect().await?;
    let mapper = Mapper::discover(&cluster).await?;
    match args.command {
        Sub::Status { resources, watch, timeout } => {
            let limit = parse_duration(&timeout)
                .ok_or_else(|| CliError::usage(format!("invalid argument \"{timeout}\" for \"--timeout\" flag")))?;
            for named in parse(&mapper, &resources)? {
                let Named::One(resource, name) = named else {
                    return Err(CliError::usage("resource(s) were provided, but no name was specified"));
                };
                let until_done = follow(&cluster, &resource, &name, watch);
                if limit.is_zero() {
                    until_done.await?;
                } else {
                    tokio::time::timeout(limit, until_done)
                        .await
                        .map_err(|_| CliError::usage("timed out waiting for the condition"))??;
                }
            }
            Ok(())
        }
        Sub::Restart(changed) => {
            let now = gantry_api::timestamp::format(jiff::Timestamp::now());
            let annotations = json!({"kubectl.kubernetes.io/restartedAt": now});
            let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
            change(&cluster, &mapper, &changed, &patch, "restarted").await
        }
        Sub::Pause(changed) => change(&cluster, &mapper, &changed, &json!({"spec": {"paused": true}}), "paused").await,
        Sub::Resume(changed) => {
            change(&cluster, &mapper, &changed, &json!({"spec": {"paused": null}}), "resumed").await
        }
    }
}

async fn change(
    cluster: &Cluster,
    mapper: &Mapper,
    changed: &Changed,
    patch: &Value,
    operation: &'static str,
) -> CliResult {
    for (resource, object) in fetch(cluster, &parse(mapper, &changed.resources)?, &changed.select).await? {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        possible(&resource, name, &object, operation)?;
        let mut shown = object.clone();
        if changed.change.dry_run != DryRun::Client {
            let path = resource.path(object["metadata"]["namespace"].as_str(), Some(name));
            let path = with_query(&path, changed.change.query("kubectl-rollout"));
            shown = cluster.patch(&path, PatchType::Strategic, patch).await?;
        }
        changed.change.report(&resource, &shown, operation)?;
    }
    Ok(())
}

fn possible(resource: &ResourceInfo, name: &str, object: &Value, operation: &str) -> CliResult {
    let kind = resource.kind.as_str();
    let shown = resource.qualified();
    let paused = object["spec"]["paused"] == true;
    let problem = match operation {
        "restarted" if !matches!(kind, "Deployment" | "DaemonSet" | "StatefulSet") => "restarting is not supported",
        "restarted" if paused => "can't restart paused deployment (run rollout resume first)",
        "paused" if kind != "Deployment" => "pausing is not supported",
        "paused" if paused => "is already paused",
        "resumed" if kind != "Deployment" => "resuming is not supported",
        "resumed" if !paused => "is not paused",
        _ => return Ok(()),
    };
    Err(CliError::usage(format!("{shown} \"{name}\" {problem}")))
}

/// Prints the status and, when watching, each new one until it is done.
async fn follow(cluster: &Cluster, resource: &ResourceInfo, name: &str, watch: bool) -> CliResult {
    loop {
        let object = cluster.get(&resource.path(Some(&cluster.namespace), Some(name))).await?;
        let (text, done) = status(&resource.kind, &object)?;
        print(&text)?;
        if done || !watch {
            return Ok(());
        }
        let mut last = text;
        let path = with_query(
            &resource.path(Some(&cluster.namespace), None),
            [
                ("watch", Some("true".to_owned())),
                ("fieldSelector", Some(format!("metadata.name={name}"))),
                ("resourceVersion", object["metadata"]["resourceVersion"].as_str().map(str::to_owned)),
            ],
        );
        let mut events = cluster.stream(&path, "application/json").await?.lines();
        let mut seen = false;
        while let Some(event) = events.next_line().await? {
            let event: Value = serde_json::from_str(&event)?;
            seen = true;
            match event["type"].as_str() {
                Some("DELETED") => return Err(CliError::usage("object has been deleted")),
                Some("ADDED" | "MODIFIED") => {
                    let (text, done) = status(&resource.kind, &event["object"])?;
                    if text != last || done {
                        print(&text)?;
                    }
                    if done {
                        return Ok(());
                    }
                    last = text;
                }
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

/// How far a rollout is, and whether it is done. Source: kubectl's `polymorphichelpers/rollout_status.go`.
fn status(kind: &str, object: &Value) -> CliResult<(String, bool)> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    let (spec, state) = (&object["spec"], &object["status"]);
    let observed = number(&state["observedGeneration"]) >= number(&object["metadata"]["generation"]);
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    let updated = number(&state["updatedReplicas"]);
    match kind {
        "Deployment" => {
            if !observed {
                return Ok(("Waiting for deployment spec update to be observed...\n".to_owned(), false));
            }
            let mut conditions = state["conditions"].as_array().into_iter().flatten();
            if conditions.any(|it| it["type"] == "Progressing" && it["reason"] == "ProgressDeadlineExceeded") {
                return Err(CliError::usage(format!("deployment \"{name}\" exceeded its progress deadline")));
            }
            let (replicas, available) = (number(&state["replicas"]), number(&state["availableReplicas"]));
            let waiting = format!("Waiting for deployment \"{name}\" rollout to finish: ");
            Ok(if updated < wanted {
                (format!("{waiting}{updated} out of {wanted} new replicas have been updated...\n"), false)
            } else if replicas > updated {
                (format!("{waiting}{} old replicas are pending termination...\n", replicas - updated), false)
            } else if available < updated {
                (format!("{waiting}{available} of {updated} updated replicas are available...\n"), false)
            } else {
                (format!("deployment \"{name}\" successfully rolled out\n"), true)
            })
        }
        "DaemonSet" => {
            if spec["updateStrategy"]["type"] == "OnDelete" {
                return Err(CliError::usage("rollout status is only available for RollingUpdate strategy type"));
            }
            if !observed {
                return Ok(("Waiting for daemon set spec update to be observed...\n".to_owned(), false));
            }
            let wanted = number(&state["desiredNumberScheduled"]);
            let (updated, available) = (number(&state["updatedNumberScheduled"]), number(&state["numberAvailable"]));
            let waiting = format!("Waiting for daemon set \"{name}\" rollout to finish: ");
            Ok(if updated < wanted {
                (format!("{waiting}{updated} out of {wanted} new pods have been updated...\n"), false)
            } else if available < wanted {
                (format!("{waiting}{available} of {wanted} updated pods are available...\n"), false)
            } else {
                (format!("daemon set \"{name}\" successfully rolled out\n"), true)
            })
        }
        "StatefulSet" => {
            if spec["updateStrategy"]["type"] == "OnDelete" {
                return Err(CliError::usage("rollout status is only available for RollingUpdate strategy type"));
            }
            let ready = number(&state["readyReplicas"]);
            let partition = number(&spec["updateStrategy"]["rollingUpdate"]["partition"]);
            Ok(if number(&state["observedGeneration"]) == 0 || !observed {
                ("Waiting for statefulset spec update to be observed...\n".to_owned(), false)
            } else if ready < wanted {
                (format!("Waiting for {} pods to be ready...\n", wanted - ready), false)
            } else if partition > 0 && updated < wanted - partition {
                let parts = format!("{updated} out of {} new pods have been updated...\n", wanted - partition);
                (format!("Waiting for partitioned roll out to finish: {parts}"), false)
            } else if partition > 0 {
                (format!("partitioned roll out complete: {updated} new pods have been updated...\n"), true)
            } else if state["updateRevision"] != state["currentRevision"] {
                let revision = state["updateRevision"].as_str().unwrap_or_default();
                let waiting = "waiting for statefulset rolling update to complete";
                (format!("{waiting} {updated} pods at revision {revision}...\n"), false)
            } else {
                let revision = state["currentRevision"].as_str().unwrap_or_default();
                let current = number(&state["currentReplicas"]);
                (format!("statefulset rolling update complete {current} pods at revision {revision}...\n"), true)
            })
        }
        other => Err(CliError::usage(format!("no status viewer has been implemented for {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let deployment = |status: Value| {
            (
                "Deployment",
                json!({"metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 3}, "status": status}),
            )
        };
        let cases = [
            (
                deployment(json!({"observedGeneration": 1})),
                "Waiting for deployment spec update to be observed...\n",
                false,
            ),
            (
                deployment(json!({"observedGeneration": 2, "updatedReplicas": 1})),
                "Waiting for deployment \"web\" rollout to finish: 1 out of 3 new replicas have been updated...\n",
                false,
            ),
            (
                deployment(json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 4})),
                "Waiting for deployment \"web\" rollout to finish: 1 old replicas are pending termination...\n",
                false,
            ),
            (
                deployment(
                    json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 2}),
                ),
                "Waiting for deployment \"web\" rollout to finish: 2 of 3 updated replicas are available...\n",
                false,
            ),
            (
                deployment(
                    json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3}),
                ),
                "deployment \"web\" successfully rolled out\n",
                true,
            ),
            (
                (
                    "StatefulSet",
                    json!({"metadata": {"name": "db", "generation": 1}, "spec": {"replicas": 2},
                    "status": {"observedGeneration": 1, "readyReplicas": 1}}),
                ),
                "Waiting for 1 pods to be ready...\n",
                false,
            ),
            (
                (
                    "DaemonSet",
                    json!({"metadata": {"name": "ds", "generation": 1}, "status": {"observedGeneration": 1,
                    "desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberAvailable": 1}}),
                ),
                "daemon set \"ds\" successfully rolled out\n",
                true,
            ),
        ];
        for ((kind, object), text, done) in cases {
            assert_eq!(status(kind, &object).expect(text), (text.to_owned(), done));
        }
        let late = json!({"conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}], "observedGeneration": 2});
        let (kind, object) = deployment(late);
        let error = status(kind, &object).expect_err("too late");
        assert_eq!(error.to_string(), "error: deployment \"web\" exceeded its progress deadline");
    }
}
