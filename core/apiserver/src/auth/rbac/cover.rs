//! Whether rules grant more than other rules do, and the text that says what is missing.

use std::collections::BTreeSet;

use super::rule::{ALL, Rule, path_covers};

/// What `wanted` grants and `owned` doesn't, cut into the least parts.
pub fn missing(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted.iter().flat_map(parts).filter(|part| !owned.iter().any(|rule| covers(rule, part))).collect()
}

/// A rule as rules of one verb, one group, one resource and one name, or of one verb and one path.
fn parts(rule: &Rule) -> Vec<Rule> {
    let mut parts = Vec::new();
    let one = |text: &String| vec![text.clone()];
    for group in &rule.groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let part = Rule { verbs: one(verb), groups: one(group), resources: one(resource), ..Rule::default() };
                if rule.names.is_empty() {
                    parts.push(part);
                } else {
                    parts.extend(rule.names.iter().map(|name| Rule { names: one(name), ..part.clone() }));
                }
            }
        }
    }
    for path in &rule.paths {
        parts.extend(rule.verbs.iter().map(|verb| Rule { verbs: one(verb), paths: one(path), ..Rule::default() }));
    }
    parts
}

/// Whether a rule grants all of a part.
fn covers(rule: &Rule, part: &Rule) -> bool {
    let all = |own: &[String], wanted: &[String]| {
        own.iter().any(|item| item == ALL) || wanted.iter().all(|item| own.contains(item))
    };
    let names = if part.names.is_empty() {
        rule.names.is_empty()
    } else {
        rule.names.is_empty() || part.names.iter().all(|name| rule.names.contains(name))
    };
    all(&rule.verbs, &part.verbs)
        && all(&rule.groups, &part.groups)
        && part.resources.iter().all(|resource| covers_resource(rule, resource))
        && part.paths.iter().all(|path| rule.paths.iter().any(|own| path_covers(own, path)))
        && names
}

fn covers_resource(rule: &Rule, resource: &str) -> bool {
    let any_of_subresource = resource.split_once('/').map(|(_, subresource)| format!("*/{subresource}"));
    rule.resources.iter().any(|own| own == ALL || own == resource || Some(own) == any_of_subresource.as_ref())
}

/// Puts parts that differ only in their verbs together again: upstream's compact form for messages.
pub fn compact(rules: Vec<Rule>) -> Vec<Rule> {
    let mut compacted: Vec<Rule> = Vec::new();
    for rule in rules {
        let simple =
            rule.groups.len() == 1 && rule.resources.len() == 1 && rule.paths.is_empty() && rule.names.len() <= 1;
        let same = |other: &&mut Rule| {
            simple
                && other.groups == rule.groups
                && other.resources == rule.resources
                && other.names == rule.names
                && other.paths.is_empty()
        };
        match compacted.iter_mut().find(same) {
            Some(other) => other.verbs.extend(rule.verbs),
            None => compacted.push(rule),
        }
    }
    compacted
}

/// One line per missing right, sorted.
pub fn describe(rules: &[Rule]) -> String {
    let lines: BTreeSet<String> = rules.iter().map(describe_one).collect();
    lines.into_iter().collect::<Vec<_>>().join("\n")
}

fn describe_one(rule: &Rule) -> String {
    let fields = [
        ("APIGroups", &rule.groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.paths),
        ("ResourceNames", &rule.names),
        ("Verbs", &rule.verbs),
    ];
    let parts: Vec<String> = fields
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:{}", go_list(list)))
        .collect();
    format!("{{{}}}", parts.join(", "))
}

/// A list of strings as Go's `%q` prints it.
pub fn go_list(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_is_missing_is_named() {
        let cases = [
            (vec![rule("*", "*", "*", "-", "-")], rule("get list", "core apps", "pods */scale", "-", "-"), ""),
            (vec![rule("get", "core", "pods", "-", "-")], rule("get", "core", "pods", "a", "-"), ""),
            (
                vec![rule("get", "core", "pods", "a", "-")],
                rule("get", "core", "pods", "-", "-"),
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["get"]}"#,
            ),
            (
                vec![rule("get", "core", "pods", "a", "-")],
                rule("get", "core", "pods", "a b", "-"),
                r#"{APIGroups:[""], Resources:["pods"], ResourceNames:["b"], Verbs:["get"]}"#,
            ),
            (
                vec![rule("update", "apps", "*/scale", "-", "-")],
                rule("update", "apps", "deployments/scale", "-", "-"),
                "",
            ),
            (
                vec![rule("get", "core", "pods", "-", "-")],
                rule("get list watch", "core", "pods secrets", "-", "-"),
                "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\" \"watch\"]}\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\" \"watch\"]}",
            ),
            (vec![], rule("*", "*", "*", "-", "-"), r#"{APIGroups:["*"], Resources:["*"], Verbs:["*"]}"#),
            (
                vec![rule("get", "-", "-", "-", "/x/*")],
                rule("get", "-", "-", "-", "/x/y /z"),
                r#"{NonResourceURLs:["/z"], Verbs:["get"]}"#,
            ),
            // Two rules that together grant it do, as each part is granted by one of them.
            (
                vec![rule("get", "core", "pods", "-", "-"), rule("list", "core", "pods", "-", "-")],
                rule("get list", "core", "pods", "-", "-"),
                "",
            ),
        ];
        for (owned, wanted, expect) in cases {
            assert_eq!(describe(&compact(missing(&owned, std::slice::from_ref(&wanted)))), expect, "{wanted:?}");
        }
    }
}
