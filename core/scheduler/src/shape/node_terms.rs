//! Node selector and node affinity, as compared with a node's interned labels.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PreferredSchedulingTerm, TopologySelectorTerm,
};

use crate::interner::{Atom, Interner};

/// The labels and the name of a node.
#[derive(Clone, Copy, Debug)]
pub struct NodeLabels<'a> {
    /// Its name.
    pub name: Atom,
    /// Keys and values, by key.
    pub labels: &'a [(Atom, Atom)],
}

impl NodeLabels<'_> {
    /// A label's value.
    pub fn get(&self, key: Atom) -> Option<Atom> {
        self.labels.binary_search_by_key(&key, |(key, _)| *key).ok().map(|at| self.labels[at].1)
    }
}

/// How a label is compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Test {
    In(Vec<Atom>),
    NotIn(Vec<Atom>),
    Exists,
    DoesNotExist,
    Greater(i64),
    Less(i64),
    /// An operator or a value that can't be read: never true.
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Condition {
    key: Atom,
    test: Test,
}

/// Conditions that must all hold; one without any selects nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeTerm {
    labels: Vec<Condition>,
    /// `matchFields`, of which there is only `metadata.name`.
    names: Vec<Condition>,
}

/// What a pod requires of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeRequirement {
    /// `spec.nodeSelector`.
    selector: Vec<Condition>,
    /// `requiredDuringSchedulingIgnoredDuringExecution`: one of these, if there is any.
    terms: Option<Vec<NodeTerm>>,
}

/// A wish about the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PreferredNodeTerm {
    /// What adds to a node's score.
    pub term: NodeTerm,
    /// How much.
    pub weight: i32,
}

impl Condition {
    fn of(requirement: &NodeSelectorRequirement, atoms: &mut Interner) -> Self {
        let values = requirement.values.as_deref().unwrap_or_default();
        let number = || match values {
            [value] => value.parse::<i64>().ok(),
            _ => None,
        };
        let test = match requirement.operator.as_str() {
            "In" if !values.is_empty() => Test::In(values.iter().map(|value| atoms.intern(value)).collect()),
            "NotIn" if !values.is_empty() => Test::NotIn(values.iter().map(|value| atoms.intern(value)).collect()),
            "Exists" => Test::Exists,
            "DoesNotExist" => Test::DoesNotExist,
            "Gt" => number().map_or(Test::Never, Test::Greater),
            "Lt" => number().map_or(Test::Never, Test::Less),
            _ => Test::Never,
        };
        Self { key: atoms.intern(&requirement.key), test }
    }

    fn holds(&self, value: Option<Atom>, atoms: &Interner) -> bool {
        let number = |value: Option<Atom>| value.and_then(|value| atoms.text(value).parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.contains(&value)),
            Test::NotIn(values) => !value.is_some_and(|value| values.contains(&value)),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
            Test::Greater(limit) => number(value).is_some_and(|value| value > *limit),
            Test::Less(limit) => number(value).is_some_and(|value| value < *limit),
            Test::Never => false,
        }
    }
}

impl NodeTerm {
    /// Of an API object.
    pub fn of(term: &NodeSelectorTerm, atoms: &mut Interner) -> Self {
        let mut conditions = |list: &Option<Vec<NodeSelectorRequirement>>| {
            list.iter().flatten().map(|requirement| Condition::of(requirement, atoms)).collect::<Vec<_>>()
        };
        Self { labels: conditions(&term.match_expressions), names: conditions(&term.match_fields) }
    }

    /// Of one term of a storage class's `allowedTopologies`.
    pub fn of_topology(term: &TopologySelectorTerm, atoms: &mut Interner) -> Self {
        let labels = term.match_label_expressions.iter().flatten().map(|expression| Condition {
            key: atoms.intern(&expression.key),
            test: Test::In(expression.values.iter().map(|value| atoms.intern(value)).collect()),
        });
        Self { labels: labels.collect(), names: Vec::new() }
    }

    /// Whether a node is selected.
    pub fn matches(&self, node: NodeLabels<'_>, atoms: &Interner) -> bool {
        !(self.labels.is_empty() && self.names.is_empty())
            && self.labels.iter().all(|condition| condition.holds(node.get(condition.key), atoms))
            && self.names.iter().all(|condition| condition.holds(Some(node.name), atoms))
    }

    /// The only names that can match, when the term names them.
    fn only_names(&self) -> Option<&[Atom]> {
        self.names.iter().find_map(|condition| match &condition.test {
            Test::In(names) => Some(names.as_slice()),
            _ => None,
        })
    }
}

/// Of a volume's `nodeAffinity.required`.
pub fn terms_of(selector: &NodeSelector, atoms: &mut Interner) -> Vec<NodeTerm> {
    selector.node_selector_terms.iter().map(|term| NodeTerm::of(term, atoms)).collect()
}

impl NodeRequirement {
    /// Of a pod.
    pub fn of(selector: Option<&BTreeMap<String, String>>, affinity: Option<&Affinity>, atoms: &mut Interner) -> Self {
        let selector = selector
            .into_iter()
            .flatten()
            .map(|(key, value)| Condition { key: atoms.intern(key), test: Test::In(vec![atoms.intern(value)]) });
        let selector = selector.collect();
        let required = affinity
            .and_then(|affinity| affinity.node_affinity.as_ref())
            .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
        Self { selector, terms: required.map(|required| terms_of(required, atoms)) }
    }

    /// Whether a pod may run on a node.
    pub fn matches(&self, node: NodeLabels<'_>, atoms: &Interner) -> bool {
        self.selector.iter().all(|condition| condition.holds(node.get(condition.key), atoms))
            && self.terms.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(node, atoms)))
    }

    /// Whether any node will do.
    pub fn is_empty(&self) -> bool {
        self.selector.is_empty() && self.terms.is_none()
    }

    /// The only nodes that can match, when each term names some: then no other needs to be looked at.
    pub fn only_names(&self) -> Option<Vec<Atom>> {
        let terms = self.terms.as_ref().filter(|terms| !terms.is_empty())?;
        let mut names = Vec::new();
        for term in terms {
            names.extend_from_slice(term.only_names()?);
        }
        names.sort_unstable();
        names.dedup();
        Some(names)
    }
}

/// Of a pod's preferred terms.
pub fn preferred_of(affinity: Option<&Affinity>, atoms: &mut Interner) -> Vec<PreferredNodeTerm> {
    let list: &[PreferredSchedulingTerm] = affinity
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default();
    list.iter()
        .filter(|preferred| preferred.weight != 0)
        .map(|preferred| PreferredNodeTerm {
            term: NodeTerm::of(&preferred.preference, atoms),
            weight: preferred.weight,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: serde_json::Value, matches: bool) {
        let mut atoms = Interner::default();
        let mut labels: Vec<(Atom, Atom)> = [("disk", "ssd"), ("cores", "8"), ("empty", "")]
            .into_iter()
            .map(|(key, value)| (atoms.intern(key), atoms.intern(value)))
            .collect();
        labels.sort_unstable();
        let node = NodeLabels { name: atoms.intern("n1"), labels: &labels };
        let spec: k8s_openapi::api::core::v1::PodSpec = serde_json::from_value(spec).expect("a pod's spec");
        let requirement = NodeRequirement::of(spec.node_selector.as_ref(), spec.affinity.as_ref(), &mut atoms);
        assert_eq!(requirement.matches(node, &atoms), matches, "{spec:?}");
    }

    fn required(terms: serde_json::Value) -> serde_json::Value {
        let required = json!({"nodeSelectorTerms": terms});
        json!({"containers": [],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}})
    }

    fn label(key: &str, operator: &str, values: &[&str]) -> serde_json::Value {
        json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}])
    }

    #[test]
    fn operators() {
        let cases = [
            ("disk", "In", &["ssd", "nvme"][..], true),
            ("disk", "In", &["hdd"], false),
            ("none", "In", &["ssd"], false),
            ("disk", "NotIn", &["hdd"], true),
            ("disk", "NotIn", &["ssd"], false),
            ("none", "NotIn", &["ssd"], true),
            ("disk", "Exists", &[], true),
            ("none", "Exists", &[], false),
            ("none", "DoesNotExist", &[], true),
            ("disk", "DoesNotExist", &[], false),
            ("cores", "Gt", &["7"], true),
            ("cores", "Gt", &["8"], false),
            ("cores", "Lt", &["9"], true),
            ("cores", "Lt", &["x"], false),
            ("disk", "Lt", &["9"], false),
            ("none", "Gt", &["9"], false),
            ("empty", "In", &[""], true),
            ("disk", "Like", &["ssd"], false),
        ];
        for (key, operator, values, matches) in cases {
            check(required(label(key, operator, values)), matches);
        }
    }

    #[test]
    fn terms_are_alternatives_and_an_empty_one_selects_nothing() {
        check(json!({"containers": []}), true);
        check(json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), true);
        check(json!({"containers": [], "nodeSelector": {"disk": "hdd"}}), false);
        check(required(json!([])), false);
        check(required(json!([{}])), false);
        let name = |name: &str| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]});
        check(required(json!([name("n1")])), true);
        check(required(json!([name("n2")])), false);
        check(required(json!([{}, name("n2"), name("n1")])), true);
    }

    #[test]
    fn names_are_known_only_when_each_term_names_some() {
        let mut atoms = Interner::default();
        let mut names = |terms| {
            let spec: k8s_openapi::api::core::v1::PodSpec =
                serde_json::from_value(required(terms)).expect("a pod's spec");
            let only = NodeRequirement::of(None, spec.affinity.as_ref(), &mut atoms).only_names();
            only.map(|only| only.iter().map(|name| atoms.text(*name).to_owned()).collect::<Vec<_>>())
        };
        let name = |name: &str| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]});
        assert_eq!(names(json!([name("a"), name("b")])), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(names(json!([name("a"), {"matchExpressions": [{"key": "x", "operator": "Exists"}]}])), None);
    }
}
