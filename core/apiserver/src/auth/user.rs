//! Who makes a request, as upstream's `user.Info`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The group of every request with good credentials.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of every request without credentials.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of a user without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group that may do everything, whatever the roles say.
pub const MASTERS: &str = "system:masters";
/// The group of all nodes.
pub const NODES: &str = "system:nodes";
/// How the names of nodes' users start.
pub const NODE_USER_PREFIX: &str = "system:node:";
/// The group of all service accounts.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// The key of `extra` that identifies the credential (`JTI=…`, `X509SHA256=…`).
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// The key of `extra` with the node that a service account's pod runs on.
pub const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// A user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// Unique among the users at one time.
    pub name: String,
    /// Unique for ever, if the authenticator knows such a thing.
    pub uid: String,
    /// Groups, in the authenticator's order.
    pub groups: Vec<String>,
    /// What else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user with a name and groups only.
    pub fn new<G: Into<String>>(name: impl Into<String>, groups: impl IntoIterator<Item = G>) -> Self {
        Self { name: name.into(), groups: groups.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// The user of a request without credentials.
    pub fn anonymous() -> Self {
        Self::new(ANONYMOUS, [UNAUTHENTICATED])
    }

    /// Whether the user is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|name| name == group)
    }

    /// Adds a group unless the user is in it.
    pub fn join(&mut self, group: &str) {
        if !self.is_in(group) {
            self.groups.push(group.to_owned());
        }
    }

    /// The only value of an `extra` key.
    pub fn extra_value(&self, key: &str) -> Option<&str> {
        match self.extra.get(key).map(Vec::as_slice) {
            Some([value]) => Some(value),
            _ => None,
        }
    }

    /// The node whose identity this is: `Some("")` for a user of the group of nodes with another name than a node's.
    pub fn node_identity(&self) -> Option<&str> {
        let name = self.name.strip_prefix(NODE_USER_PREFIX)?;
        self.is_in(NODES).then_some(name)
    }

    /// `authentication.k8s.io/v1`'s `UserInfo`.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        if !self.name.is_empty() {
            map.insert("username".to_owned(), json!(self.name));
        }
        if !self.uid.is_empty() {
            map.insert("uid".to_owned(), json!(self.uid));
        }
        if !self.groups.is_empty() {
            map.insert("groups".to_owned(), json!(self.groups));
        }
        if !self.extra.is_empty() {
            map.insert("extra".to_owned(), json!(self.extra));
        }
        Value::Object(map)
    }
}

/// The user name of a service account.
pub fn service_account_user(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}")
}

/// The groups of a namespace's service accounts.
pub fn service_account_groups(namespace: &str) -> Vec<String> {
    vec![SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")]
}

/// Namespace and name in a service account's user name.
pub fn split_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    (is_label(namespace) && is_subdomain(name)).then_some((namespace, name))
}

/// The node in a node's user name.
pub fn split_node_user(user: &str) -> Option<&str> {
    user.strip_prefix(NODE_USER_PREFIX).filter(|name| is_subdomain(name))
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_account_names_are_taken_apart() {
        let cases = [
            ("system:serviceaccount:ns:default", Some(("ns", "default"))),
            ("system:serviceaccount:ns:a.b", Some(("ns", "a.b"))),
            ("system:serviceaccount:ns", None),
            ("system:serviceaccount:ns:", None),
            ("system:serviceaccount::x", None),
            ("system:serviceaccount:ns:a:b", None),
            ("system:serviceaccount:NS:a", None),
            ("ann", None),
        ];
        for (user, expect) in cases {
            assert_eq!(split_service_account(user), expect, "{user}");
        }
    }

    #[test]
    fn a_node_needs_name_and_group() {
        assert_eq!(UserInfo::new("system:node:n1", [NODES]).node_identity(), Some("n1"));
        assert_eq!(UserInfo::new("system:node:n1", ["other"]).node_identity(), None);
        assert_eq!(UserInfo::new("n1", [NODES]).node_identity(), None);
    }
}
