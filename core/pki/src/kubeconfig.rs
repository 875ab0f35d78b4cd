//! Kubeconfig files: building, reading, writing, and merging by kubectl's rules. What this crate doesn't know of is kept.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::authority::Identity;
use crate::error::Error;
use crate::files::{SECRET, read_if_exists, write_atomically};

type Rest = BTreeMap<String, Value>;

/// A kubeconfig (`client.config.k8s.io`'s `v1.Config`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kubeconfig {
    /// `v1`.
    #[serde(rename = "apiVersion", default)]
    pub api_version: String,
    /// Servers.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub clusters: Vec<Named<ClusterEntry>>,
    /// Which cluster to use as which user.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub contexts: Vec<Named<ContextEntry>>,
    /// The context that is used when none is named.
    #[serde(rename = "current-context", default)]
    pub current_context: String,
    /// `Config`.
    #[serde(default)]
    pub kind: String,
    /// Credentials.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub users: Vec<Named<UserEntry>>,
    /// What else the file says.
    #[serde(flatten)]
    pub rest: Rest,
}

/// An item of one of the lists: a name and, under a word of its own, the rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Named<T> {
    /// Unique in its list.
    pub name: String,
    /// What it names.
    #[serde(flatten)]
    pub entry: T,
}

/// A server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterEntry {
    /// What the file says of it.
    #[serde(default)]
    pub cluster: Cluster,
}

/// What is said of a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cluster {
    /// The authority that signed its certificate: base64 of a PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_authority_data: Option<String>,
    /// `https://host:port`.
    #[serde(default)]
    pub server: String,
    /// What else the file says.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Credentials.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UserEntry {
    /// What the file says of them.
    #[serde(default)]
    pub user: User,
}

/// What is said of a user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct User {
    /// Base64 of a PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_data: Option<String>,
    /// Base64 of a PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key_data: Option<String>,
    /// A bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What else the file says.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A cluster and a user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContextEntry {
    /// What the file says of it.
    #[serde(default)]
    pub context: Context,
}

/// What is said of a context.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Context {
    /// Name of the cluster.
    #[serde(default)]
    pub cluster: String,
    /// The namespace of requests that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the user.
    #[serde(default)]
    pub user: String,
    /// What else the file says.
    #[serde(flatten)]
    pub rest: Rest,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(from)?.unwrap_or_default())
}

impl Kubeconfig {
    /// A kubeconfig with one cluster, one user and the context `user@cluster`, which is current.
    pub fn new(cluster_name: &str, server: &str, ca_pem: &str, user_name: &str, user: User) -> Self {
        let context_name = format!("{user_name}@{cluster_name}");
        let cluster = Cluster {
            server: server.to_owned(),
            certificate_authority_data: Some(STANDARD.encode(ca_pem)),
            ..Cluster::default()
        };
        let context = Context { cluster: cluster_name.to_owned(), user: user_name.to_owned(), ..Context::default() };
        Self {
            api_version: "v1".to_owned(),
            kind: "Config".to_owned(),
            clusters: vec![Named { name: cluster_name.to_owned(), entry: ClusterEntry { cluster } }],
            contexts: vec![Named { name: context_name.clone(), entry: ContextEntry { context } }],
            users: vec![Named { name: user_name.to_owned(), entry: UserEntry { user } }],
            current_context: context_name,
            rest: Rest::new(),
        }
    }

    /// The same for a client certificate.
    pub fn for_identity(cluster_name: &str, server: &str, ca_pem: &str, user_name: &str, identity: &Identity) -> Self {
        let user = User {
            client_certificate_data: Some(STANDARD.encode(&identity.certificate_pem)),
            client_key_data: Some(STANDARD.encode(&identity.key_pem)),
            ..User::default()
        };
        Self::new(cluster_name, server, ca_pem, user_name, user)
    }

    /// The same for a bearer token.
    pub fn for_token(cluster_name: &str, server: &str, ca_pem: &str, user_name: &str, token: &str) -> Self {
        Self::new(cluster_name, server, ca_pem, user_name, User { token: Some(token.to_owned()), ..User::default() })
    }

    /// A cluster without credentials, for whoever wants to join (kubeadm's `cluster-info`).
    pub fn for_anyone(server: &str, ca_pem: &str) -> Self {
        let mut config = Self::new("", server, ca_pem, "", User::default());
        config.contexts.clear();
        config.users.clear();
        config.current_context.clear();
        config
    }

    /// Reads YAML or JSON; `what` names it in errors. An empty text is an empty kubeconfig.
    pub fn parse(what: &str, text: &str) -> Result<Self, Error> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_yaml_ng::from_str(text).map_err(|error| Error::invalid(what, error))
    }

    /// Reads a file, `None` when there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        read_if_exists(path)?.map(|text| Self::parse(&path.display().to_string(), &text)).transpose()
    }

    /// The file's text.
    pub fn to_yaml(&self) -> Result<String, Error> {
        serde_yaml_ng::to_string(self).map_err(|error| Error::invalid("a kubeconfig", error))
    }

    /// Writes a file that only its owner can read.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        write_atomically(path, &self.to_yaml()?, SECRET)
    }

    /// Adds what another kubeconfig has and this one hasn't: for each name, and for the current context, the first
    /// one wins (the rule for several files in `$KUBECONFIG`).
    pub fn merge(&mut self, other: Self) {
        fn add<T>(to: &mut Vec<Named<T>>, from: Vec<Named<T>>) {
            for item in from {
                if !to.iter().any(|known| known.name == item.name) {
                    to.push(item);
                }
            }
        }
        add(&mut self.clusters, other.clusters);
        add(&mut self.contexts, other.contexts);
        add(&mut self.users, other.users);
        for (text, new) in [
            (&mut self.api_version, other.api_version),
            (&mut self.kind, other.kind),
            (&mut self.current_context, other.current_context),
        ] {
            if text.is_empty() {
                *text = new;
            }
        }
        for (key, value) in other.rest {
            self.rest.entry(key).or_insert(value);
        }
    }

    /// Puts in what another kubeconfig has, over what is there under the same names. The current context stays unless
    /// there is none.
    pub fn overlay(&mut self, other: Self) {
        let mut merged = other;
        if !self.current_context.is_empty() {
            merged.current_context = std::mem::take(&mut self.current_context);
        }
        merged.merge(std::mem::take(self));
        *self = merged;
    }

    /// The cluster and the user of a context, or of the current one.
    pub fn resolve(&self, context: Option<&str>) -> Option<(&Cluster, &User, &Context)> {
        let name = context.unwrap_or(&self.current_context);
        let context = &self.contexts.iter().find(|item| item.name == name)?.entry.context;
        let cluster = &self.clusters.iter().find(|item| item.name == context.cluster)?.entry.cluster;
        let user = &self.users.iter().find(|item| item.name == context.user)?.entry.user;
        Some((cluster, user, context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(cluster: &str, user: &str, token: &str) -> Kubeconfig {
        Kubeconfig::for_token(cluster, "https://127.0.0.1:6443", "pem", user, token)
    }

    #[test]
    fn a_kubeconfig_reads_as_kubectl_writes_it() {
        insta::assert_snapshot!(sample("gantry", "admin", "t").to_yaml().expect("YAML"), @r"
        apiVersion: v1
        clusters:
        - name: gantry
          cluster:
            certificate-authority-data: cGVt
            server: https://127.0.0.1:6443
        contexts:
        - name: admin@gantry
          context:
            cluster: gantry
            user: admin
        current-context: admin@gantry
        kind: Config
        users:
        - name: admin
          user:
            token: t
        ");
    }

    #[test]
    fn what_is_unknown_is_kept() {
        let text = "apiVersion: v1\nkind: Config\npreferences:\n  colors: true\nclusters: null\nusers:\n- name: u\n  user:\n    exec:\n      command: login\n    username: ann\n";
        let config = Kubeconfig::parse("x", text).expect("a kubeconfig");
        let again = Kubeconfig::parse("x", &config.to_yaml().expect("YAML")).expect("a kubeconfig");
        assert_eq!(config, again);
        assert_eq!(config.rest["preferences"]["colors"], true);
        assert_eq!(config.users[0].entry.user.rest["exec"]["command"], "login");
    }

    #[test]
    fn merging_keeps_the_first_and_overlaying_the_last() {
        let mut merged = sample("a", "u", "1");
        merged.merge(sample("b", "u", "2"));
        assert_eq!(merged.current_context, "u@a");
        assert_eq!(merged.clusters.len(), 2);
        assert_eq!(merged.users[0].entry.user.token.as_deref(), Some("1"));

        let mut over = sample("a", "u", "1");
        over.overlay(sample("b", "u", "2"));
        assert_eq!(over.current_context, "u@a");
        assert_eq!(over.users.len(), 1);
        assert_eq!(over.users[0].entry.user.token.as_deref(), Some("2"));
        assert_eq!(
            over.resolve(Some("u@b")).map(|(cluster, ..)| cluster.server.as_str()),
            Some("https://127.0.0.1:6443")
        );

        let mut empty = Kubeconfig::default();
        empty.overlay(sample("b", "u", "2"));
        assert_eq!(empty.current_context, "u@b");
    }

    #[test]
    fn a_wrong_file_is_named() {
        let error = Kubeconfig::parse("/x/config", "clusters: 3").expect_err("no list");
        assert!(error.to_string().starts_with("/x/config is not valid: "), "{error}");
    }
}
