//! What commands that change objects have in common: dry runs, the object's place, the line that tells what was done.

use serde_json::Value;

use crate::cluster::Cluster;
use crate::cluster::mapper::ResourceInfo;
use crate::commands::get::print;
use crate::error::{CliError, CliResult};
use crate::output::format::{name_of, strip_managed_fields};
use crate::output::{OutputFlags, OutputFormat};

/// Whether anything is really changed.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DryRun {
    /// It is.
    #[default]
    None,
    /// Nothing is sent; the object that would be is shown.
    Client,
    /// The server does all but keep it.
    Server,
}

/// Flags of commands that change objects.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ChangeFlags {
    /// "none", "server" (submit the request without persisting the resource), or "client" (only print the object that would be sent)
    #[arg(long, value_enum, default_value = "none", num_args = 0..=1, require_equals = true, default_missing_value = "client")]
    pub dry_run: DryRun,
    #[command(flatten)]
    pub output: OutputFlags,
}

impl ChangeFlags {
    /// The query of a change: dry run, the manager's name, and validation where the server does it.
    pub fn query(&self, manager: &str) -> Vec<(&'static str, Option<String>)> {
        vec![
            ("dryRun", (self.dry_run == DryRun::Server).then(|| "All".to_owned())),
            ("fieldManager", Some(manager.to_owned())),
        ]
    }

    /// Says what was done, or prints the object where `-o` asks for it.
    pub fn report(&self, resource: &ResourceInfo, object: &Value, operation: &str) -> CliResult {
        match self.output.format()? {
            OutputFormat::Table { .. } => print(&line(resource, object, operation, self.dry_run)),
            format => {
                let mut shown = object.clone();
                if !self.output.show_managed_fields {
                    strip_managed_fields(&mut shown);
                }
                print(&format.render(Some(resource), &shown)?)
            }
        }
    }
}

/// `deployment.apps/web created (dry run)`.
fn line(resource: &ResourceInfo, object: &Value, operation: &str, dry_run: DryRun) -> String {
    let suffix = match dry_run {
        DryRun::None => "",
        DryRun::Client => " (dry run)",
        DryRun::Server => " (server dry run)",
    };
    format!("{} {operation}{suffix}\n", name_of(Some(resource), object))
}

/// The namespace of an object from a file; it is set in the object where it was left out.
pub fn place(cluster: &Cluster, resource: &ResourceInfo, object: &mut Value) -> CliResult<Option<String>> {
    if !resource.namespaced {
        return Ok(None);
    }
    let own = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    if own.is_empty() {
        object["metadata"]["namespace"] = cluster.namespace.clone().into();
        return Ok(Some(cluster.namespace.clone()));
    }
    if cluster.namespace_given && own != cluster.namespace {
        return Err(CliError::usage(format!(
            "the namespace from the provided object \"{own}\" does not match the namespace \"{}\". You must pass \
             '--namespace={own}' to perform this operation.",
            cluster.namespace
        )));
    }
    Ok(Some(own))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines() {
        let resource = ResourceInfo { group: "apps".into(), kind: "Deployment".into(), ..ResourceInfo::default() };
        let object = json!({"metadata": {"name": "web"}});
        let cases = [
            (DryRun::None, "deployment.apps/web created\n"),
            (DryRun::Client, "deployment.apps/web created (dry run)\n"),
            (DryRun::Server, "deployment.apps/web created (server dry run)\n"),
        ];
        for (dry_run, expected) in cases {
            assert_eq!(line(&resource, &object, "created", dry_run), expected);
        }
    }
}
