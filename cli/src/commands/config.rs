//! `gantry config`: the kubeconfig files.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use gantry_pki::Kubeconfig;
use serde_json::Value;

use crate::cluster::flags::{ClusterFlags, kubeconfig_paths};
use crate::commands::get::print;
use crate::error::{CliError, CliResult};
use crate::output::format::go_json;
use crate::output::table::Table;
use crate::output::yaml;

/// Modify kubeconfig files.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Sub,
}

#[derive(clap::Subcommand)]
enum Sub {
    /// Display merged kubeconfig settings
    View {
        /// Output format: yaml or json
        #[arg(short, long, default_value = "yaml")]
        output: String,
        /// Display raw byte data and sensitive data
        #[arg(long)]
        raw: bool,
        /// Remove all information not used by current-context from the output
        #[arg(long)]
        minify: bool,
    },
    /// Describe one or many contexts
    GetContexts {
        /// Only these contexts
        names: Vec<String>,
        /// Output format: name
        #[arg(short, long)]
        output: Option<String>,
        /// When using the default output format, don't print headers
        #[arg(long)]
        no_headers: bool,
    },
    /// Display the current-context
    CurrentContext,
    /// Set the current-context in a kubeconfig file
    #[command(visible_alias = "use")]
    UseContext {
        /// The context
        name: String,
    },
    /// Set a context entry in kubeconfig; --cluster, --user and --namespace say what it holds
    SetContext {
        /// The context
        #[arg(required_unless_present = "current")]
        name: Option<String>,
        /// Modify the current context
        #[arg(long)]
        current: bool,
    },
    /// Display clusters defined in the kubeconfig
    GetClusters,
}

fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::usage(error.to_string())
}

/// What the files say together: for each name the first file wins.
fn read_merged(paths: &[PathBuf]) -> CliResult<Kubeconfig> {
    let mut merged = Kubeconfig::default();
    for path in paths {
        if let Some(one) = Kubeconfig::read(path).map_err(failed)? {
            merged.merge(one);
        }
    }
    Ok(merged)
}

/// The file to change: the first that `owns` what is changed, else the first that is there, else the last that is named.
fn change(paths: &[PathBuf], owns: impl Fn(&Kubeconfig) -> bool, edit: impl FnOnce(&mut Kubeconfig)) -> CliResult {
    let mut there = Vec::new();
    for path in paths {
        if let Some(config) = Kubeconfig::read(path).map_err(failed)? {
            there.push((path, config));
        }
    }
    let chosen = there.iter().position(|(_, config)| owns(config)).unwrap_or(0);
    let (path, mut config) = if there.is_empty() {
        let path =
            paths.last().ok_or_else(|| CliError::usage("there is no home directory: name a file with --kubeconfig"))?;
        (path, Kubeconfig::default())
    } else {
        there.swap_remove(chosen)
    };
    edit(&mut config);
    save(&mut config, path).map_err(|error| failed(format!("{error:#}")))
}

fn save(config: &mut Kubeconfig, path: &Path) -> anyhow::Result<()> {
    if config.api_version.is_empty() {
        config.api_version = "v1".to_owned();
        config.kind = "Config".to_owned();
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(|| format!("create the folder {}", folder.display()))?;
    }
    config.write(path).with_context(|| format!("write the kubeconfig {}", path.display()))
}

/// Takes a cluster's kubeconfig into the user's (the first of `$KUBECONFIG`, or `~/.kube/config`), where its cluster,
/// user and context replace those of the same names. Its context becomes the current one if there is none yet; the
/// answer is whether it did.
pub fn adopt_context(admin_kubeconfig: &Path) -> anyhow::Result<bool> {
    let paths = kubeconfig_paths(None);
    let path = paths.first().context("there is no home directory: set KUBECONFIG to the file to write to")?;
    let merged = read_merged(&paths)?;
    adopt_into(path, admin_kubeconfig, merged.current_context.is_empty())
}

fn adopt_into(path: &Path, admin_kubeconfig: &Path, make_current: bool) -> anyhow::Result<bool> {
    let admin = Kubeconfig::read(admin_kubeconfig)?
        .with_context(|| format!("read the kubeconfig {}: no such file", admin_kubeconfig.display()))?;
    let mut config = Kubeconfig::read(path)?.unwrap_or_default();
    let current = config.current_context.clone();
    let adopted = make_current && current.is_empty();
    config.overlay(admin);
    if !adopted {
        config.current_context = current;
    }
    save(&mut config, path)?;
    Ok(adopted)
}

/// Runs it; nothing is asked of a cluster.
pub async fn run(flags: &ClusterFlags, args: Args) -> CliResult {
    let paths = kubeconfig_paths(flags.kubeconfig.as_ref());
    let config = read_merged(&paths)?;
    match args.command {
        Sub::View { output, raw, minify } => {
            let mut config = config;
            if let Some(context) = &flags.context {
                config.current_context.clone_from(context);
            }
            if minify {
                minified(&mut config)?;
            }
            let mut value = serde_json::to_value(&config)?;
            value["apiVersion"] = "v1".into();
            value["kind"] = "Config".into();
            if let Some(fields) = value.as_object_mut() {
                fields.remove("preferences");
            }
            if !raw {
                redact(&mut value);
            }
            match output.as_str() {
                "yaml" => print(&yaml::render(&value)),
                "json" => print(&format!("{}\n", go_json(&value))),
                other => Err(CliError::usage(format!(
                    "unable to match a printer suitable for the output format \"{other}\", allowed formats are: json,yaml"
                ))),
            }
        }
        Sub::GetContexts { names, output, no_headers } => {
            let mut contexts: Vec<_> = config.contexts.iter().collect();
            contexts.sort_by(|one, other| one.name.cmp(&other.name));
            let missing: Vec<CliError> = names
                .iter()
                .filter(|name| contexts.iter().all(|context| context.name != **name))
                .map(|name| CliError::usage(format!("context {name} not found")))
                .collect();
            contexts.retain(|context| names.is_empty() || names.contains(&context.name));
            match output.as_deref() {
                None | Some("") => {
                    let mut table = Table::new(["CURRENT", "NAME", "CLUSTER", "AUTHINFO", "NAMESPACE"]);
                    for context in &contexts {
                        let current = if context.name == config.current_context { "*" } else { "" };
                        let entry = &context.entry.context;
                        let namespace = entry.namespace.as_deref().unwrap_or_default();
                        table.row([current, &context.name, &entry.cluster, &entry.user, namespace]);
                    }
                    print(&table.render(!no_headers))?;
                }
                Some("name") => {
                    print(&contexts.iter().map(|context| format!("{}\n", context.name)).collect::<String>())?;
                }
                Some(other) => {
                    return Err(CliError::usage(format!("output must be one of '' or 'name': {other}")));
                }
            }
            CliError::gather(missing)
        }
        Sub::CurrentContext if config.current_context.is_empty() => Err(CliError::usage("current-context is not set")),
        Sub::CurrentContext => print(&format!("{}\n", config.current_context)),
        Sub::UseContext { name } => {
            if config.contexts.iter().all(|context| context.name != name) {
                return Err(CliError::usage(format!("no context exists with the name: \"{name}\"")));
            }
            let owns = |config: &Kubeconfig| !config.current_context.is_empty();
            change(&paths, owns, |config| config.current_context.clone_from(&name))?;
            print(&format!("Switched to context \"{name}\".\n"))
        }
        Sub::SetContext { name, current } => {
            let name = if current { config.current_context.clone() } else { name.unwrap_or_default() };
            if name.is_empty() {
                return Err(CliError::usage("no current context is set"));
            }
            let exists = config.contexts.iter().any(|context| context.name == name);
            let owns = |config: &Kubeconfig| config.contexts.iter().any(|context| context.name == name);
            change(&paths, owns, |config| set_context(config, &name, flags))?;
            print(&format!("Context \"{name}\" {}.\n", if exists { "modified" } else { "created" }))
        }
        Sub::GetClusters => {
            let mut names: Vec<&str> = config.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
            names.sort_unstable();
            let mut table = Table::new(["NAME"]);
            names.into_iter().for_each(|name| table.row([name]));
            print(&table.render(true))
        }
    }
}

fn set_context(config: &mut Kubeconfig, name: &str, flags: &ClusterFlags) {
    let index = config.contexts.iter().position(|context| context.name == name).unwrap_or_else(|| {
        config.contexts.push(gantry_pki::kubeconfig::Named { name: name.to_owned(), entry: Default::default() });
        config.contexts.len() - 1
    });
    let context = &mut config.contexts[index].entry.context;
    if let Some(cluster) = &flags.cluster {
        context.cluster.clone_from(cluster);
    }
    if let Some(user) = &flags.user {
        context.user.clone_from(user);
    }
    if flags.namespace.is_some() {
        context.namespace = flags.namespace.clone().filter(|namespace| !namespace.is_empty());
    }
}

/// Leaves only what the current context uses.
fn minified(config: &mut Kubeconfig) -> CliResult {
    let current = config.current_context.clone();
    let Some(context) = config.contexts.iter().find(|context| context.name == current) else {
        return Err(CliError::usage(if current.is_empty() {
            "current-context must exist in order to minify".to_owned()
        } else {
            format!("cannot locate context {current}")
        }));
    };
    let (cluster, user) = (context.entry.context.cluster.clone(), context.entry.context.user.clone());
    config.contexts.retain(|context| context.name == current);
    config.clusters.retain(|entry| entry.name == cluster);
    config.users.retain(|entry| entry.name == user);
    Ok(())
}

/// Hides keys, tokens and passwords, and keeps certificates short.
fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match name.as_str() {
                    "certificate-authority-data" | "client-certificate-data" if field.is_string() => {
                        *field = "DATA+OMITTED".into();
                    }
                    "client-key-data" if field.is_string() => *field = "DATA+OMITTED".into(),
                    "token" | "password" if field.is_string() => *field = "REDACTED".into(),
                    _ => redact(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use gantry_pki::kubeconfig::User;

    use super::*;

    #[test]
    fn a_cluster_is_adopted_once_and_its_credentials_are_renewed() {
        let folder = tempfile::tempdir().expect("folder");
        let (user, admin) = (folder.path().join("kube/config"), folder.path().join("admin.conf"));
        let token = |token: &str| User { token: Some(token.to_owned()), ..User::default() };
        for (number, current) in [("1", true), ("2", false)] {
            Kubeconfig::new("gantry", "https://localhost:6443", "", "admin", token(number))
                .write(&admin)
                .expect("write");
            assert_eq!(adopt_into(&user, &admin, true).expect("adopt"), current);
            let config = Kubeconfig::read(&user).expect("read").expect("there");
            assert_eq!(config.current_context, "admin@gantry");
            assert_eq!(config.users.len(), 1);
            assert_eq!(config.users[0].entry.user.token.as_deref(), Some(number));
        }
        assert_eq!(std::fs::metadata(&user).expect("metadata").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn secrets_are_hidden() {
        let mut value = serde_json::json!({"users": [{"name": "a", "user": {"client-key-data": "x", "token": "y"}}]});
        redact(&mut value);
        assert_eq!(
            value,
            serde_json::json!({"users": [{"name": "a", "user": {"client-key-data": "DATA+OMITTED", "token": "REDACTED"}}]})
        );
    }
}
