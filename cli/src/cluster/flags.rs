//! How the cluster is chosen: kubectl's flags and files.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{
    AuthInfo, Cluster as ClusterEntry, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster,
    NamedContext,
};

use super::Cluster;
use crate::error::{CliError, CliResult};

/// Flags that every command which talks to a cluster has.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterFlags {
    /// Path to the kubeconfig file to use for CLI requests
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub kubeconfig: Option<PathBuf>,
    /// The name of the kubeconfig context to use
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The name of the kubeconfig cluster to use
    #[arg(long, global = true, value_name = "NAME")]
    pub cluster: Option<String>,
    /// The name of the kubeconfig user to use
    #[arg(long, global = true, value_name = "NAME")]
    pub user: Option<String>,
    /// If present, the namespace scope for this CLI request
    #[arg(short = 'n', long, global = true, value_name = "NAMESPACE", add = crate::complete::namespaces())]
    pub namespace: Option<String>,
    /// The address and port of the Kubernetes API server
    #[arg(short = 's', long, global = true, value_name = "URL")]
    pub server: Option<String>,
    /// Path to a file with a bearer token for authentication to the API server: never in the arguments, where others see it
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Path to a cert file for the certificate authority
    #[arg(long, global = true, value_name = "FILE")]
    pub certificate_authority: Option<PathBuf>,
    /// If true, the server's certificate will not be checked for validity
    #[arg(long, global = true)]
    pub insecure_skip_tls_verify: bool,
    /// Username to impersonate for the operation
    #[arg(long = "as", global = true, value_name = "USER")]
    pub impersonate: Option<String>,
    /// Group to impersonate for the operation; can be repeated
    #[arg(long = "as-group", global = true, value_name = "GROUP")]
    pub impersonate_groups: Vec<String>,
    /// The length of time to wait before giving up on a single server request (1s, 2m, 3h); 0 means no limit
    #[arg(long, global = true, value_name = "DURATION", default_value = "0")]
    pub request_timeout: String,
}

/// The kubeconfig files in order: the flag's, or those of `KUBECONFIG`, or `~/.kube/config`.
pub fn kubeconfig_paths(flag: Option<&PathBuf>) -> Vec<PathBuf> {
    if let Some(path) = flag {
        return vec![path.clone()];
    }
    if let Some(list) = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
        return std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect();
    }
    std::env::home_dir().map(|home| home.join(".kube/config")).into_iter().collect()
}

/// What the files say together; an empty configuration when there are none.
pub fn read_kubeconfig(flag: Option<&PathBuf>) -> CliResult<Kubeconfig> {
    let mut merged = Kubeconfig::default();
    for path in kubeconfig_paths(flag) {
        if !path.exists() {
            if flag.is_some() {
                return Err(CliError::usage(format!("stat {}: no such file or directory", path.display())));
            }
            continue;
        }
        let one = Kubeconfig::read_from(&path)
            .map_err(|error| CliError::usage(format!("error loading config file \"{}\": {error}", path.display())))?;
        merged = merged
            .merge(one)
            .map_err(|error| CliError::usage(format!("error merging config file \"{}\": {error}", path.display())))?;
    }
    Ok(merged)
}

/// Go's duration syntax, as far as kubectl's flags use it: `90`, `1.5s`, `2m30s`, `500ms`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|character: char| character.is_ascii_digit())
            .map_or(rest.len(), |offset| digits + offset);
        let factor = match &rest[digits..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number * factor;
        rest = &rest[unit_end..];
    }
    (!text.is_empty()).then(|| Duration::from_secs_f64(total))
}

impl ClusterFlags {
    /// Connects as the flags and files say; nothing is sent yet.
    pub async fn connect(&self) -> CliResult<Cluster> {
        let mut kubeconfig = read_kubeconfig(self.kubeconfig.as_ref())?;
        if let Some(server) = &self.server {
            self.override_server(&mut kubeconfig, server);
        } else if kubeconfig.current_context.as_deref().unwrap_or_default().is_empty() && self.context.is_none() {
            if kubeconfig.clusters.is_empty() {
                // What kubectl falls back to, so that the message is the one that people know.
                return Err(CliError::Connection { server: "localhost:8080".to_owned(), reason: "refused".to_owned() });
            }
            return Err(CliError::usage("current-context is not set"));
        }
        let options =
            KubeConfigOptions { context: self.context.clone(), cluster: self.cluster.clone(), user: self.user.clone() };
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(|error| CliError::usage(error.to_string()))?;
        if self.insecure_skip_tls_verify {
            config.accept_invalid_certs = true;
        }
        if let Some(path) = &self.token_file {
            config.auth_info.token_file = Some(path.display().to_string());
        }
        if let Some(user) = &self.impersonate {
            config.auth_info.impersonate = Some(user.clone());
            config.auth_info.impersonate_groups =
                Some(self.impersonate_groups.clone()).filter(|groups| !groups.is_empty());
        }
        // Streams last as long as they last.
        config.read_timeout = None;
        config.write_timeout = None;
        let timeout = parse_duration(&self.request_timeout).ok_or_else(|| {
            CliError::usage(format!("invalid argument \"{}\" for \"--request-timeout\"", self.request_timeout))
        })?;
        if !timeout.is_zero() {
            config.read_timeout = Some(timeout);
        }
        let server = config.cluster_url.to_string();
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = kube::Client::try_from(config).map_err(|error| CliError::usage(error.to_string()))?;
        Ok(Cluster::new(client, server, namespace, self.namespace.is_some()))
    }

    fn override_server(&self, kubeconfig: &mut Kubeconfig, server: &str) {
        let server = if server.contains("://") { server.to_owned() } else { format!("https://{server}") };
        let context_name = self.context.clone().or_else(|| kubeconfig.current_context.clone()).unwrap_or_default();
        let context = kubeconfig.contexts.iter().find(|context| context.name == context_name);
        let mut context = context.and_then(|context| context.context.clone()).unwrap_or_default();
        let named = self.cluster.clone().unwrap_or_else(|| context.cluster.clone());
        let old = kubeconfig.clusters.iter().find(|cluster| cluster.name == named);
        let mut entry = old.and_then(|cluster| cluster.cluster.clone()).unwrap_or_default();
        entry.server = Some(server);
        if let Some(path) = &self.certificate_authority {
            entry.certificate_authority = Some(path.display().to_string());
        }
        let overridden = ClusterEntry { ..entry };
        kubeconfig.clusters.retain(|cluster| cluster.name != named);
        kubeconfig.clusters.push(NamedCluster {
            name: named.clone(),
            cluster: Some(overridden),
            ..NamedCluster::default()
        });
        if context.user.as_deref().unwrap_or_default().is_empty() {
            kubeconfig.auth_infos.push(NamedAuthInfo {
                name: String::new(),
                auth_info: Some(AuthInfo::default()),
                ..NamedAuthInfo::default()
            });
            context.user = Some(String::new());
        }
        context.cluster = named;
        kubeconfig.contexts.retain(|other| other.name != context_name);
        kubeconfig.contexts.push(NamedContext {
            name: context_name.clone(),
            context: Some(Context { ..context }),
            ..NamedContext::default()
        });
        kubeconfig.current_context = Some(context_name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            ("0", Some(0.0)),
            ("90", Some(90.0)),
            ("1.5s", Some(1.5)),
            ("2m30s", Some(150.0)),
            ("500ms", Some(0.5)),
            ("1h", Some(3600.0)),
            ("", None),
            ("5x", None),
            ("s", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text).map(|duration| duration.as_secs_f64()), expected, "{text}");
        }
    }
}
