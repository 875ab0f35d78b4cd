//! A rule, what it allows, and a role's rules indexed by resource.

use std::collections::HashMap;

use gantry_api::object::{Object, items_at};
use serde_json::{Map, Value, json};

use crate::auth::attributes::Attributes;

/// What stands for everything.
pub const ALL: &str = "*";

/// `rbac.authorization.k8s.io/v1`'s `PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Verbs.
    pub verbs: Vec<String>,
    /// API groups.
    pub groups: Vec<String>,
    /// Resources, with subresources after a slash.
    pub resources: Vec<String>,
    /// Names of objects; empty for all.
    pub names: Vec<String>,
    /// Paths that are no resources; may end in `*`.
    pub paths: Vec<String>,
}

impl Rule {
    /// Reads a rule of a role.
    pub fn from_value(value: &Object) -> Self {
        let list = |field: &str| items_at(value, field).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Self {
            verbs: list("verbs"),
            groups: list("apiGroups"),
            resources: list("resources"),
            names: list("resourceNames"),
            paths: list("nonResourceURLs"),
        }
    }

    /// Reads the rules of a role.
    pub fn of_role(role: &Object) -> Vec<Self> {
        items_at(role, "rules").iter().map(Self::from_value).collect()
    }

    /// As a rule of a role, empty lists left out (but for the verbs).
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("verbs".to_owned(), json!(self.verbs));
        for (field, list) in [
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.paths),
        ] {
            if !list.is_empty() {
                map.insert(field.to_owned(), json!(list));
            }
        }
        Value::Object(map)
    }

    /// Whether the rule allows a request; `combined` is `resource/subresource`, or the resource alone.
    pub fn allows(&self, attributes: &Attributes<'_>, combined: &str) -> bool {
        if !has(&self.verbs, attributes.verb) {
            return false;
        }
        if !attributes.resource_request {
            return self.paths.iter().any(|path| path_covers(path, attributes.path));
        }
        has(&self.groups, attributes.group)
            && self.resources.iter().any(|resource| resource_matches(resource, combined, attributes.subresource))
            && (self.names.is_empty() || self.names.iter().any(|name| name == attributes.name))
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == ALL || item == wanted)
}

fn resource_matches(rule: &str, combined: &str, subresource: &str) -> bool {
    rule == ALL || rule == combined || (!subresource.is_empty() && rule.strip_prefix("*/") == Some(subresource))
}

/// Whether a rule's path, which may end in `*`, stands for another path.
pub fn path_covers(rule: &str, path: &str) -> bool {
    rule == ALL || rule == path || (rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*')))
}

/// `resource/subresource`, or the resource alone.
pub fn combined(attributes: &Attributes<'_>) -> String {
    match attributes.subresource {
        "" => attributes.resource.to_owned(),
        subresource => format!("{}/{subresource}", attributes.resource),
    }
}

/// A role's rules, indexed by resource.
#[derive(Debug, Default)]
pub struct RuleSet {
    /// The rules in their order.
    pub rules: Vec<Rule>,
    by_resource: HashMap<String, Vec<u32>>,
    of_all_resources: Vec<u32>,
    of_paths: Vec<u32>,
}

impl RuleSet {
    /// Indexes rules.
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut set = Self { rules, ..Self::default() };
        for (number, rule) in (0u32..).zip(&set.rules) {
            for resource in &rule.resources {
                let list = match resource.as_str() {
                    ALL => &mut set.of_all_resources,
                    resource => set.by_resource.entry(resource.to_owned()).or_default(),
                };
                if list.last() != Some(&number) {
                    list.push(number);
                }
            }
            if !rule.paths.is_empty() {
                set.of_paths.push(number);
            }
        }
        set
    }

    /// Whether one of the rules allows a request.
    pub fn allows(&self, attributes: &Attributes<'_>, combined: &str) -> bool {
        let any =
            |numbers: &[u32]| numbers.iter().any(|&number| self.rules[number as usize].allows(attributes, combined));
        if !attributes.resource_request {
            return any(&self.of_paths);
        }
        if any(&self.of_all_resources) || self.by_resource.get(combined).is_some_and(|numbers| any(numbers)) {
            return true;
        }
        !attributes.subresource.is_empty()
            && self.by_resource.get(&format!("*/{}", attributes.subresource)).is_some_and(|numbers| any(numbers))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auth::user::UserInfo;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str, paths: &str) -> Rule {
        let list = |text: &str| {
            if text == "-" { Vec::new() } else { text.split(' ').map(|word| word.replace("core", "")).collect() }
        };
        Rule {
            verbs: list(verbs),
            groups: list(groups),
            resources: list(resources),
            names: list(names),
            paths: list(paths),
        }
    }

    #[test]
    fn rules_allow_what_they_name() {
        let ann = UserInfo::new("ann", ["g"]);
        let ask = |verb, group, resource, subresource, name| Attributes {
            subresource,
            name,
            ..Attributes::resource(&ann, verb, group, resource)
        };
        let cases = [
            (rule("get list", "core", "pods", "-", "-"), ask("get", "", "pods", "", "p"), true),
            (rule("get list", "core", "pods", "-", "-"), ask("watch", "", "pods", "", ""), false),
            (rule("get list", "core", "pods", "-", "-"), ask("get", "apps", "pods", "", "p"), false),
            (rule("get", "core", "pods", "-", "-"), ask("get", "", "pods", "log", "p"), false),
            (rule("get", "core", "pods/log", "-", "-"), ask("get", "", "pods", "log", "p"), true),
            (rule("get", "core", "pods/log", "-", "-"), ask("get", "", "pods", "", "p"), false),
            (rule("*", "*", "*", "-", "-"), ask("escalate", "x", "y", "z", ""), true),
            (rule("update", "apps", "*/scale", "-", "-"), ask("update", "apps", "deployments", "scale", "d"), true),
            (rule("update", "apps", "*/scale", "-", "-"), ask("update", "apps", "deployments", "", "d"), false),
            (rule("get", "core", "configmaps", "only", "-"), ask("get", "", "configmaps", "", "only"), true),
            (rule("get", "core", "configmaps", "only", "-"), ask("get", "", "configmaps", "", "other"), false),
            (rule("list", "core", "configmaps", "only", "-"), ask("list", "", "configmaps", "", ""), false),
            (rule("get", "-", "-", "-", "/healthz /apis/*"), Attributes::non_resource(&ann, "get", "/healthz"), true),
            (rule("get", "-", "-", "-", "/healthz /apis/*"), Attributes::non_resource(&ann, "get", "/apis/x/y"), true),
            (rule("get", "-", "-", "-", "/healthz /apis/*"), Attributes::non_resource(&ann, "get", "/apis"), false),
            (rule("get", "-", "-", "-", "/healthz"), Attributes::non_resource(&ann, "post", "/healthz"), false),
            (rule("get", "*", "*", "-", "-"), Attributes::non_resource(&ann, "get", "/healthz"), false),
        ];
        for (rule, attributes, expect) in cases {
            let combined = combined(&attributes);
            assert_eq!(rule.allows(&attributes, &combined), expect, "{rule:?} {attributes:?}");
            assert_eq!(RuleSet::new(vec![rule]).allows(&attributes, &combined), expect, "the index, {attributes:?}");
        }
    }

    fn words(from: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec(prop::sample::select(from).prop_map(str::to_owned), 0..3)
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let resources = &["*", "pods", "pods/log", "*/log", "secrets"];
        (
            words(&["*", "get", "list"]),
            words(&["*", "", "apps"]),
            words(resources),
            words(&["a", "b"]),
            words(&["*", "/x", "/x/*"]),
        )
            .prop_map(|(verbs, groups, resources, names, paths)| Rule {
                verbs,
                groups,
                resources,
                names,
                paths,
            })
    }

    proptest! {
        #[test]
        fn the_index_decides_as_the_rules_one_by_one(
            rules in prop::collection::vec(any_rule(), 0..5),
            verb in prop::sample::select(&["get", "list", "update"][..]),
            group in prop::sample::select(&["", "apps", "batch"][..]),
            resource in prop::sample::select(&["pods", "secrets"][..]),
            subresource in prop::sample::select(&["", "log", "exec"][..]),
            name in prop::sample::select(&["", "a", "c"][..]),
        ) {
            let ann = UserInfo::new("ann", ["g"]);
            let attributes = Attributes { subresource, name, ..Attributes::resource(&ann, verb, group, resource) };
            let combined = combined(&attributes);
            let expect = rules.iter().any(|rule| rule.allows(&attributes, &combined));
            prop_assert_eq!(RuleSet::new(rules).allows(&attributes, &combined), expect);
        }
    }
}
