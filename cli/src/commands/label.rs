//! `gantry label` and `gantry annotate`: metadata of objects.

use serde_json::{Value, json};

use crate::cluster::flags::ClusterFlags;
use crate::cluster::mapper::Mapper;
use crate::cluster::objects::{SelectFlags, fetch, parse};
use crate::cluster::{PatchType, with_query};
use crate::commands::change::{ChangeFlags, DryRun};
use crate::error::{CliError, CliResult};

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `metadata.labels`.
    Labels,
    /// `metadata.annotations`.
    Annotations,
}

/// Update the labels or annotations on a resource.
#[derive(clap::Args)]
pub struct Args {
    /// TYPE NAME… or TYPE/NAME…, then KEY=VALUE to set and KEY- to remove
    #[arg(value_name = "TYPE[/NAME] KEY=VALUE|KEY-", required = true, add = crate::complete::resources())]
    arguments: Vec<String>,
    #[command(flatten)]
    select: SelectFlags,
    #[command(flatten)]
    change: ChangeFlags,
    /// If true, allow to be overwritten, otherwise reject updates that overwrite existing values
    #[arg(long)]
    overwrite: bool,
    /// Select all resources, in the namespace of the specified resource types
    #[arg(long)]
    all: bool,
}

/// What becomes of one key: a new value, or none.
type Change = (String, Option<String>);

/// Changes what was named.
pub async fn run(flags: &ClusterFlags, args: Args, field: Field) -> CliResult {
    let (resources, changes) = split(&args.arguments);
    let word = if field == Field::Labels { "label" } else { "annotation" };
    if changes.is_empty() {
        return Err(CliError::usage(format!("at least one {word} update is required")));
    }
    let cluster = flags.connect().await?;
    let mapper = Mapper::discover(&cluster).await?;
    let named = parse(&mapper, &resources)?;
    let all = named.iter().any(|named| matches!(named, crate::cluster::objects::Named::All(_)));
    if all && !args.all && !args.select.selects() {
        return Err(CliError::usage("resource(s) were provided, but no name was specified"));
    }
    let found = fetch(&cluster, &named, &args.select).await?;
    let key = if field == Field::Labels { "labels" } else { "annotations" };
    for (resource, object) in found {
        let current = &object["metadata"][key];
        if !args.overwrite {
            refuse_overwriting(current, &changes)?;
        }
        let operation = operation(current, &changes, field);
        let mut shown = object.clone();
        let patch = json!({"metadata": {key: patch(&changes)}});
        if args.change.dry_run != DryRun::Client && operation.1 {
            let name = object["metadata"]["name"].as_str();
            let path = resource.path(object["metadata"]["namespace"].as_str(), name);
            let manager = if field == Field::Labels { "kubectl-label" } else { "kubectl-annotate" };
            shown = cluster.patch(&with_query(&path, args.change.query(manager)), PatchType::Merge, &patch).await?;
        } else {
            gantry_api::patch::merge(&mut shown, &patch);
        }
        args.change.report(&resource, &shown, operation.0)?;
    }
    Ok(())
}

/// Resources come first; what has `=` or ends in `-` is a change.
fn split(arguments: &[String]) -> (Vec<String>, Vec<Change>) {
    let mut resources = Vec::new();
    let mut changes = Vec::new();
    for argument in arguments {
        if let Some((key, value)) = argument.split_once('=') {
            changes.push((key.to_owned(), Some(value.to_owned())));
        } else if let Some(key) = argument.strip_suffix('-').filter(|key| !key.is_empty()) {
            changes.push((key.to_owned(), None));
        } else {
            resources.push(argument.clone());
        }
    }
    (resources, changes)
}

fn refuse_overwriting(current: &Value, changes: &[Change]) -> CliResult {
    for (key, value) in changes {
        let old = current[key].as_str();
        if let (Some(new), Some(old)) = (value, old)
            && old != new
        {
            return Err(CliError::usage(format!("'{key}' already has a value ({old}), and --overwrite is false")));
        }
    }
    Ok(())
}

/// The word for what is done, and whether anything is.
fn operation(current: &Value, changes: &[Change], field: Field) -> (&'static str, bool) {
    let differs = changes.iter().any(|(key, value)| current[key].as_str() != value.as_deref());
    if field == Field::Annotations {
        return ("annotated", differs);
    }
    match (differs, changes.iter().all(|(_, value)| value.is_none())) {
        (false, _) => ("not labeled", false),
        (true, true) => ("unlabeled", true),
        (true, false) => ("labeled", true),
    }
}

fn patch(changes: &[Change]) -> Value {
    changes.iter().map(|(key, value)| (key.clone(), value.clone().map_or(Value::Null, Value::from))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes() {
        let current = json!({"a": "1"});
        let cases = [
            ("a=1", "not labeled", true, json!({"a": "1"})),
            ("b=2", "labeled", true, json!({"b": "2"})),
            ("a=2", "labeled", false, json!({"a": "2"})),
            ("a-", "unlabeled", true, json!({"a": null})),
            ("b-", "not labeled", true, json!({"b": null})),
        ];
        for (argument, word, allowed, expected) in cases {
            let (resources, changes) = split(&["pods".to_owned(), "x".to_owned(), argument.to_owned()]);
            assert_eq!(resources, ["pods", "x"]);
            assert_eq!(operation(&current, &changes, Field::Labels).0, word, "{argument}");
            assert_eq!(refuse_overwriting(&current, &changes).is_ok(), allowed, "{argument}");
            assert_eq!(patch(&changes), expected, "{argument}");
        }
    }
}
