//! Rules of roles and subjects of bindings from flags.

use serde_json::{Value, json};

use crate::cluster::mapper::Mapper;
use crate::error::{CliError, CliResult};

const GROUP: &str = "rbac.authorization.k8s.io";

/// What a role allows.
#[derive(clap::Args)]
pub struct RoleFlags {
    /// Verb that applies to the resources contained in the rule
    #[arg(long = "verb", value_delimiter = ',', required = true)]
    verbs: Vec<String>,
    /// Resource that the rule applies to: RESOURCE[.GROUP][/SUBRESOURCE]
    #[arg(long = "resource", value_delimiter = ',')]
    resources: Vec<String>,
    /// Resource in the white list that the rule applies to
    #[arg(long = "resource-name")]
    names: Vec<String>,
}

/// Whom a binding is for.
#[derive(clap::Args)]
pub struct BindingFlags {
    /// ClusterRole the binding should reference
    #[arg(long)]
    clusterrole: Option<String>,
    /// Groups to bind to the role
    #[arg(long = "group")]
    groups: Vec<String>,
    /// Service accounts to bind to the role, in the format <namespace>:<name>
    #[arg(long = "serviceaccount")]
    accounts: Vec<String>,
}

/// One rule for each API group, and one for URLs.
pub fn rules(mapper: &Mapper, flags: &RoleFlags, urls: &[String]) -> CliResult<Vec<Value>> {
    if flags.resources.is_empty() && urls.is_empty() {
        return Err(CliError::usage("at least one resource must be specified"));
    }
    let mut verbs = flags.verbs.clone();
    if verbs.iter().any(|verb| verb == "*") {
        verbs = vec!["*".to_owned()];
    }
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for resource in &flags.resources {
        let (typed, sub) = match resource.split_once('/') {
            Some((typed, sub)) => (typed, Some(sub)),
            None => (resource.as_str(), None),
        };
        let (group, plural) = if typed == "*" {
            ("*".to_owned(), "*".to_owned())
        } else {
            let info = mapper.resolve(typed)?;
            (info.group.clone(), info.plural.clone())
        };
        let shown = sub.map_or_else(|| plural.clone(), |sub| format!("{plural}/{sub}"));
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, resources)) => resources.push(shown),
            None => groups.push((group, vec![shown])),
        }
    }
    let mut rules: Vec<Value> = groups
        .into_iter()
        .map(|(group, resources)| {
            let mut rule = json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
            if !flags.names.is_empty() {
                rule["resourceNames"] = flags.names.clone().into();
            }
            rule
        })
        .collect();
    if !urls.is_empty() {
        rules.push(json!({"nonResourceURLs": urls, "verbs": verbs}));
    }
    Ok(rules)
}

/// `roleRef` and `subjects`. The user comes from the flag that elsewhere names the kubeconfig's user.
pub fn binding(flags: &BindingFlags, role: Option<&str>, user: Option<&String>) -> CliResult<Value> {
    let (kind, name) = match (role, flags.clusterrole.as_deref()) {
        (Some(role), None) => ("Role", role),
        (None, Some(role)) => ("ClusterRole", role),
        _ => return Err(CliError::usage("exactly one of clusterrole or role must be specified")),
    };
    let mut subjects = Vec::new();
    let named = |kind: &str, name: &String| json!({"apiGroup": GROUP, "kind": kind, "name": name});
    subjects.extend(user.into_iter().map(|name| named("User", name)));
    subjects.extend(flags.groups.iter().map(|name| named("Group", name)));
    for account in &flags.accounts {
        let (namespace, name) = account
            .split_once(':')
            .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains(':'))
            .ok_or_else(|| CliError::usage("serviceaccount must be <namespace>:<name>"))?;
        subjects.push(json!({"kind": "ServiceAccount", "name": name, "namespace": namespace}));
    }
    let mut object = json!({"roleRef": {"apiGroup": GROUP, "kind": kind, "name": name}});
    if !subjects.is_empty() {
        object["subjects"] = subjects.into();
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings() {
        let flags = BindingFlags { clusterrole: Some("view".into()), groups: vec![], accounts: vec!["dev:ci".into()] };
        assert_eq!(
            binding(&flags, None, Some(&"ann".to_owned())).expect("binding"),
            json!({
                "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "view"},
                "subjects": [
                    {"apiGroup": GROUP, "kind": "User", "name": "ann"},
                    {"kind": "ServiceAccount", "name": "ci", "namespace": "dev"},
                ],
            })
        );
        assert!(binding(&flags, Some("r"), None).is_err());
    }
}
