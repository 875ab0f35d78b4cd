//! `gantry apply`: objects from files, created or changed to what the files say.

use gantry_api::schema::Schema;
use serde_json::{Value, json};

use crate::cluster::flags::ClusterFlags;
use crate::cluster::manifests::{FileFlags, Manifest};
use crate::cluster::mapper::{Mapper, ResourceInfo};
use crate::cluster::{Cluster, PatchType, with_query};
use crate::commands::change::{ChangeFlags, DryRun, place};
use crate::commands::three_way::three_way;
use crate::error::{CliError, CliResult};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const MANAGER: &str = "kubectl-client-side-apply";
/// How often a patch is made anew because somebody else changed the object in between; kubectl's number.
const ATTEMPTS: usize = 5;

/// Apply a configuration to a resource by file name or stdin.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    change: ChangeFlags,
    /// Apply in the server: not offered, use an unmodified kubectl for it
    #[arg(long)]
    server_side: bool,
}

/// Applies all objects, in the files' order; one that fails doesn't keep the others from it.
pub async fn run(flags: &ClusterFlags, args: Args) -> CliResult {
    if args.server_side {
        return Err(CliError::usage("--server-side is not offered by gantry yet: leave it out, or use kubectl"));
    }
    if args.files.is_empty() {
        return Err(CliError::usage("must specify one of -f and -k"));
    }
    let manifests = args.files.read().await?;
    let cluster = flags.connect().await?;
    let mut mapper = Mapper::discover(&cluster).await?;
    let mut failures = Vec::new();
    for manifest in manifests {
        // A definition that was applied just before may have brought the kind.
        if mapper.of_object(&manifest.object).is_err() {
            mapper = Mapper::discover(&cluster).await?;
        }
        if let Err(error) = apply(&cluster, &mapper, &args, &manifest).await {
            failures.push(error);
        }
    }
    CliError::gather(failures)
}

async fn apply(cluster: &Cluster, mapper: &Mapper, args: &Args, manifest: &Manifest) -> CliResult {
    let resource = mapper.of_object(&manifest.object)?;
    let mut object = manifest.object.clone();
    let namespace = place(cluster, resource, &mut object)?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() {
        return Err(CliError::usage(format!(
            "error when retrieving current configuration of:\nfrom \"{}\": resource name may not be empty",
            manifest.origin
        )));
    }
    let modified = annotated(&object)?;
    let path = resource.path(namespace.as_deref(), Some(&name));
    let mut attempt = 0;
    loop {
        attempt += 1;
        let current = match cluster.get(&path).await {
            Ok(current) => current,
            Err(error) if error.is_not_found() => {
                let mut created = modified;
                if args.change.dry_run != DryRun::Client {
                    let mut query = args.change.query(MANAGER);
                    query.push(("fieldValidation", Some("Strict".to_owned())));
                    let path = with_query(&resource.path(namespace.as_deref(), None), query);
                    created = cluster.post(&path, &created).await?;
                }
                return args.change.report(resource, &created, "created");
            }
            Err(error) => return Err(error),
        };
        match change(cluster, args, resource, &path, &modified, &current).await {
            Err(error) if error.is_conflict() && attempt < ATTEMPTS => continue,
            other => return other,
        }
    }
}

async fn change(
    cluster: &Cluster,
    args: &Args,
    resource: &ResourceInfo,
    path: &str,
    modified: &Value,
    current: &Value,
) -> CliResult {
    let last = current["metadata"]["annotations"][LAST_APPLIED].as_str();
    if last.is_none() {
        eprintln!(
            "Warning: resource {}/{} is missing the {LAST_APPLIED} annotation which is required by gantry apply. gantry \
             apply should only be used on resources created declaratively by either gantry create --save-config or \
             gantry apply. The missing annotation will be patched automatically.",
            resource.plural,
            current["metadata"]["name"].as_str().unwrap_or_default()
        );
    }
    let original: Value = last.map(serde_json::from_str).transpose()?.unwrap_or_default();
    let definition = Schema::builtin().by_kind(&resource.group, &resource.version, &resource.kind);
    let patch = three_way(definition, &original, modified, current);
    if patch == json!({}) {
        return args.change.report(resource, current, "unchanged");
    }
    if args.change.dry_run == DryRun::Client {
        return args.change.report(resource, current, "configured");
    }
    let kind = if definition.is_some() { PatchType::Strategic } else { PatchType::Merge };
    let mut query = args.change.query(MANAGER);
    query.push(("fieldValidation", Some("Strict".to_owned())));
    let changed = cluster.patch(&with_query(path, query), kind, &patch).await?;
    // What only differed in how it was written changes nothing.
    let same = changed["metadata"]["resourceVersion"] == current["metadata"]["resourceVersion"];
    let operation = if same && args.change.dry_run == DryRun::None { "unchanged" } else { "configured" };
    args.change.report(resource, &changed, operation)
}

/// The object with itself, as it is in the file, in an annotation.
fn annotated(object: &Value) -> CliResult<Value> {
    let mut plain = object.clone();
    if !plain["metadata"]["annotations"].is_object() {
        plain["metadata"]["annotations"] = json!({});
    }
    if let Some(annotations) = plain["metadata"]["annotations"].as_object_mut() {
        annotations.remove(LAST_APPLIED);
    }
    let text = format!("{}\n", serde_json::to_string(&plain)?);
    let mut modified = plain;
    modified["metadata"]["annotations"][LAST_APPLIED] = text.into();
    Ok(modified)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_holds_the_object_without_itself() {
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"k": "v"}});
        let once = annotated(&object).expect("an object");
        let text = once["metadata"]["annotations"][LAST_APPLIED].as_str().expect("an annotation");
        let kept: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(kept["metadata"], json!({"name": "a", "annotations": {}}));
        assert_eq!(annotated(&once).expect("an object"), once);
        assert!(text.ends_with('\n'));
    }
}
