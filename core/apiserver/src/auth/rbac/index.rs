//! Roles and bindings by name and by subject.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gantry_api::object::{Object, items_at, str_at};

use super::rule::{Rule, RuleSet, combined};
use crate::auth::attributes::{Attributes, Decision};
use crate::auth::user::{UserInfo, service_account_user};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

impl Subject {
    fn from_value(value: &Object, binding_namespace: &str) -> Option<Self> {
        let name = str_at(value, "name").to_owned();
        match str_at(value, "kind") {
            "User" => Some(Self::User(name)),
            "Group" => Some(Self::Group(name)),
            "ServiceAccount" => {
                let namespace =
                    Some(str_at(value, "namespace")).filter(|own| !own.is_empty()).unwrap_or(binding_namespace);
                (!namespace.is_empty()).then(|| Self::ServiceAccount { namespace: namespace.to_owned(), name })
            }
            _ => None,
        }
    }

    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Self::User(name) => *name == user.name,
            Self::Group(name) => user.is_in(name),
            Self::ServiceAccount { namespace, name } => service_account_user(namespace, name) == user.name,
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(name) => write!(out, "User {name:?}"),
            Self::Group(name) => write!(out, "Group {name:?}"),
            // Upstream puts the name first.
            Self::ServiceAccount { namespace, name } => write!(out, "ServiceAccount \"{name}/{namespace}\""),
        }
    }
}

#[derive(Debug)]
struct Binding {
    name: String,
    /// Empty for a cluster role binding.
    namespace: String,
    role_kind: String,
    role_name: String,
    subjects: Vec<Subject>,
}

impl Binding {
    fn from_value(namespace: &str, name: &str, object: &Object) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            role_kind: str_at(object, "roleRef.kind").to_owned(),
            role_name: str_at(object, "roleRef.name").to_owned(),
            subjects: items_at(object, "subjects")
                .iter()
                .filter_map(|subject| Subject::from_value(subject, namespace))
                .collect(),
        }
    }

    /// Why a request is allowed, in upstream's words.
    fn reason(&self, user: &UserInfo) -> String {
        let subject =
            self.subjects.iter().find(|subject| subject.is(user)).map(ToString::to_string).unwrap_or_default();
        let (kind, name) = match self.namespace.as_str() {
            "" => ("ClusterRoleBinding", self.name.clone()),
            namespace => ("RoleBinding", format!("{}/{namespace}", self.name)),
        };
        format!("RBAC: allowed by {kind} {name:?} of {} {:?} to {subject}", self.role_kind, self.role_name)
    }
}

/// The bindings of one scope (a namespace, or the cluster), by name and by subject.
#[derive(Debug, Default)]
struct Scope {
    by_name: HashMap<String, Arc<Binding>>,
    // In order of their names, so that the reason of a decision doesn't depend on the history.
    of_user: HashMap<String, BTreeMap<String, Arc<Binding>>>,
    of_group: HashMap<String, BTreeMap<String, Arc<Binding>>>,
}

impl Scope {
    fn set(&mut self, name: &str, binding: Option<Binding>) {
        if let Some(old) = self.by_name.remove(name) {
            for subject in &old.subjects {
                let (map, key) = self.entry(subject);
                if let Some(bindings) = map.get_mut(&key) {
                    bindings.remove(name);
                    if bindings.is_empty() {
                        map.remove(&key);
                    }
                }
            }
        }
        if let Some(binding) = binding {
            let binding = Arc::new(binding);
            for subject in &binding.subjects {
                let (map, key) = self.entry(subject);
                map.entry(key).or_default().insert(name.to_owned(), binding.clone());
            }
            self.by_name.insert(name.to_owned(), binding);
        }
    }

    fn entry(&mut self, subject: &Subject) -> (&mut HashMap<String, BTreeMap<String, Arc<Binding>>>, String) {
        match subject {
            Subject::User(name) => (&mut self.of_user, name.clone()),
            Subject::Group(name) => (&mut self.of_group, name.clone()),
            Subject::ServiceAccount { namespace, name } => (&mut self.of_user, service_account_user(namespace, name)),
        }
    }

    /// The bindings of a user; one that names both the user and a group comes twice.
    fn of<'a>(&'a self, user: &'a UserInfo) -> impl Iterator<Item = &'a Arc<Binding>> {
        let groups = user.groups.iter().filter_map(|group| self.of_group.get(group));
        self.of_user.get(&user.name).into_iter().chain(groups).flat_map(BTreeMap::values)
    }
}

/// The rules of a user, and what kept some from being found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The rules.
    pub rules: Vec<Rule>,
    /// Bindings to roles that don't exist.
    pub errors: Vec<String>,
}

/// All roles and bindings.
#[derive(Debug, Default)]
pub struct Rbac {
    cluster_roles: HashMap<String, RuleSet>,
    roles: HashMap<String, HashMap<String, RuleSet>>,
    cluster: Scope,
    namespaces: HashMap<String, Scope>,
}

impl Rbac {
    /// Takes note of a role's or binding's new state, or of its end.
    pub fn observe(&mut self, resource: &str, namespace: &str, name: &str, object: Option<&Object>) {
        match resource {
            "clusterroles" => set(&mut self.cluster_roles, name, object.map(|role| RuleSet::new(Rule::of_role(role)))),
            "roles" => {
                let roles = self.roles.entry(namespace.to_owned()).or_default();
                set(roles, name, object.map(|role| RuleSet::new(Rule::of_role(role))));
                if roles.is_empty() {
                    self.roles.remove(namespace);
                }
            }
            "clusterrolebindings" => {
                self.cluster.set(name, object.map(|binding| Binding::from_value("", name, binding)))
            }
            "rolebindings" => {
                let scope = self.namespaces.entry(namespace.to_owned()).or_default();
                scope.set(name, object.map(|binding| Binding::from_value(namespace, name, binding)));
                if scope.by_name.is_empty() {
                    self.namespaces.remove(namespace);
                }
            }
            _ => {}
        }
    }

    /// The decision on a request.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let combined = combined(attributes);
        let mut errors = Vec::new();
        for binding in self.bindings(attributes.user, attributes.namespace) {
            match self.rules_of(binding) {
                Ok(rules) if rules.allows(attributes, &combined) => {
                    return Decision::allow(binding.reason(attributes.user));
                }
                Ok(_) => {}
                Err(error) if errors.contains(&error) => {}
                Err(error) => errors.push(error),
            }
        }
        match errors.as_slice() {
            [] => Decision::no_opinion(""),
            [error] => Decision::no_opinion(format!("RBAC: {error}")),
            errors => Decision::no_opinion(format!("RBAC: [{}]", errors.join(", "))),
        }
    }

    /// All rules that apply to a user in a namespace, and at cluster scope.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Resolved {
        let mut resolved = Resolved::default();
        let mut seen: Vec<*const Binding> = Vec::new();
        for binding in self.bindings(user, namespace) {
            let identity = Arc::as_ptr(binding);
            if seen.contains(&identity) {
                continue;
            }
            seen.push(identity);
            match self.rules_of(binding) {
                Ok(rules) => resolved.rules.extend(rules.rules.iter().cloned()),
                Err(error) => resolved.errors.push(error),
            }
        }
        resolved
    }

    /// The rules of a role as a binding in a namespace would grant them.
    pub fn role_rules(&self, kind: &str, name: &str, namespace: &str) -> Result<Vec<Rule>, String> {
        self.role(kind, name, namespace).map(|rules| rules.rules.clone())
    }

    fn bindings<'a>(&'a self, user: &'a UserInfo, namespace: &str) -> impl Iterator<Item = &'a Arc<Binding>> {
        let local = self.namespaces.get(namespace).filter(|_| !namespace.is_empty());
        self.cluster.of(user).chain(local.into_iter().flat_map(|scope| scope.of(user)))
    }

    fn rules_of(&self, binding: &Binding) -> Result<&RuleSet, String> {
        self.role(&binding.role_kind, &binding.role_name, &binding.namespace)
    }

    fn role(&self, kind: &str, name: &str, namespace: &str) -> Result<&RuleSet, String> {
        match kind {
            "ClusterRole" => self
                .cluster_roles
                .get(name)
                .ok_or_else(|| format!("clusterrole.rbac.authorization.k8s.io {name:?} not found")),
            "Role" => self
                .roles
                .get(namespace)
                .and_then(|roles| roles.get(name))
                .ok_or_else(|| format!("role.rbac.authorization.k8s.io {name:?} not found")),
            kind => Err(format!("unsupported role reference kind: {kind:?}")),
        }
    }
}

fn set(roles: &mut HashMap<String, RuleSet>, name: &str, rules: Option<RuleSet>) {
    match rules {
        Some(rules) => roles.insert(name.to_owned(), rules),
        None => roles.remove(name),
    };
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sample() -> Rbac {
        let mut rbac = Rbac::default();
        let reader = json!({"rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]});
        let writer = json!({"rules": [{"verbs": ["*"], "apiGroups": ["apps"], "resources": ["deployments"]}]});
        rbac.observe("clusterroles", "", "reader", Some(&reader));
        rbac.observe("roles", "ns", "writer", Some(&writer));
        let bind = |kind: &str, name: &str, subjects: serde_json::Value| json!({"roleRef": {"kind": kind, "name": name}, "subjects": subjects});
        rbac.observe(
            "clusterrolebindings",
            "",
            "readers",
            Some(&bind(
                "ClusterRole",
                "reader",
                json!([{"kind": "Group", "name": "dev"}, {"kind": "User", "name": "ann"}]),
            )),
        );
        rbac.observe(
            "rolebindings",
            "ns",
            "writers",
            Some(&bind("Role", "writer", json!([{"kind": "ServiceAccount", "name": "bot"}]))),
        );
        rbac.observe(
            "rolebindings",
            "ns",
            "local-readers",
            Some(&bind("ClusterRole", "reader", json!([{"kind": "User", "name": "bob"}]))),
        );
        rbac.observe(
            "rolebindings",
            "ns",
            "broken",
            Some(&bind("Role", "gone", json!([{"kind": "User", "name": "eve"}]))),
        );
        rbac
    }

    #[test]
    fn decisions_follow_the_bindings() {
        let rbac = sample();
        type Case<'c> = (&'c str, &'c [&'c str], &'c str, &'c str, &'c str, &'c str, Result<&'c str, &'c str>);
        let cases: [Case<'_>; 9] = [
            (
                "ann",
                &[],
                "list",
                "",
                "pods",
                "",
                Ok(r#"RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to User "ann""#),
            ),
            (
                "kim",
                &["dev"],
                "get",
                "",
                "pods",
                "ns",
                Ok(r#"RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to Group "dev""#),
            ),
            (
                "ann",
                &["dev"],
                "get",
                "",
                "pods",
                "ns",
                Ok(r#"RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to Group "dev""#),
            ),
            (
                "system:serviceaccount:ns:bot",
                &[],
                "patch",
                "apps",
                "deployments",
                "ns",
                Ok(r#"RBAC: allowed by RoleBinding "writers/ns" of Role "writer" to ServiceAccount "bot/ns""#),
            ),
            ("system:serviceaccount:ns:bot", &[], "patch", "apps", "deployments", "other", Err("")),
            (
                "bob",
                &[],
                "get",
                "",
                "pods",
                "ns",
                Ok(r#"RBAC: allowed by RoleBinding "local-readers/ns" of ClusterRole "reader" to User "bob""#),
            ),
            ("bob", &[], "get", "", "pods", "", Err("")),
            ("eve", &[], "get", "", "pods", "ns", Err(r#"RBAC: role.rbac.authorization.k8s.io "gone" not found"#)),
            ("system:serviceaccount:other:bot", &[], "get", "apps", "deployments", "ns", Err("")),
        ];
        for (name, groups, verb, group, resource, namespace, expect) in cases {
            let user = UserInfo::new(name, groups.iter().copied());
            let decision =
                rbac.authorize(&Attributes { namespace, ..Attributes::resource(&user, verb, group, resource) });
            let seen = if decision.is_allow() { Ok(decision.reason()) } else { Err(decision.reason()) };
            assert_eq!(seen, expect, "{name} {verb} {resource} in {namespace:?}");
        }
    }

    #[test]
    fn what_is_taken_back_is_gone() {
        let mut rbac = sample();
        let ann = UserInfo::new("ann", ["dev"]);
        let request = Attributes::resource(&ann, "list", "", "pods");
        assert_eq!(rbac.rules_for(&ann, "ns").rules.len(), 1);
        assert!(rbac.authorize(&request).is_allow());
        rbac.observe("clusterrolebindings", "", "readers", None);
        assert!(!rbac.authorize(&request).is_allow());
        for name in ["writers", "local-readers", "broken"] {
            rbac.observe("rolebindings", "ns", name, None);
        }
        rbac.observe("roles", "ns", "writer", None);
        assert!(
            rbac.namespaces.is_empty()
                && rbac.roles.is_empty()
                && rbac.cluster.of_user.is_empty()
                && rbac.cluster.of_group.is_empty()
        );
    }
}
