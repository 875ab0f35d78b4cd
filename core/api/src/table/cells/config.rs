//! Configuration, quotas, rights and admission.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, count, name, or, text};
use crate::object::{Object, items_at, map_at, str_at};

fn entries(object: &Object, field: &str) -> usize {
    map_at(object, field).map_or(0, serde_json::Map::len)
}

pub(super) fn config_map(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(entries(object, "data") + entries(object, "binaryData")), age(object, now)]
}

pub(super) fn secret(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(str_at(object, "type")), json!(entries(object, "data")), age(object, now)]
}

pub(super) fn resource_quota(object: &Object, now: Timestamp) -> Vec<Value> {
    let used = &object["status"]["used"];
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in map_at(object, "status.hard").into_iter().flatten() {
        let line =
            format!("{resource}: {}/{}", used[resource].as_str().unwrap_or("0"), hard.as_str().unwrap_or_default());
        if resource.starts_with("limits.") { &mut limits } else { &mut requests }.push(line);
    }
    vec![name(object), text(requests.join(", ")), text(limits.join(", ")), age(object, now)]
}

pub(super) fn role_binding(object: &Object, now: Timestamp) -> Vec<Value> {
    let role = &object["roleRef"];
    let of = |kind: &str| {
        let subjects = items_at(object, "subjects").iter().filter(|subject| str_at(subject, "kind") == kind);
        let names: Vec<String> = subjects
            .map(|subject| match kind {
                "ServiceAccount" => format!("{}/{}", str_at(subject, "namespace"), str_at(subject, "name")),
                _ => str_at(subject, "name").to_owned(),
            })
            .collect();
        text(names.join(", "))
    };
    vec![
        name(object),
        text(format!("{}/{}", str_at(role, "kind"), str_at(role, "name"))),
        age(object, now),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}

pub(super) fn webhooks(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), count(object, "webhooks"), age(object, now)]
}

fn policy(object: &Object, now: Timestamp, rules: &str) -> Vec<Value> {
    let kind = &object["spec"]["paramKind"];
    let kind = match kind {
        Value::Null => "<unset>".to_owned(),
        kind => format!("{}/{}", str_at(kind, "apiVersion"), str_at(kind, "kind")),
    };
    vec![name(object), count(object, rules), text(kind), age(object, now)]
}

pub(super) fn validating_policy(object: &Object, now: Timestamp) -> Vec<Value> {
    policy(object, now, "spec.validations")
}

pub(super) fn mutating_policy(object: &Object, now: Timestamp) -> Vec<Value> {
    policy(object, now, "spec.mutations")
}

pub(super) fn policy_binding(object: &Object, now: Timestamp) -> Vec<Value> {
    let reference = &object["spec"]["paramRef"];
    let params = match (str_at(reference, "name"), &reference["selector"]) {
        ("", Value::Null) => "<unset>".to_owned(),
        ("", selector) => go_selector(selector),
        (name, _) => format!("{}/{name}", or(str_at(reference, "namespace"), "*")),
    };
    vec![name(object), text(str_at(object, "spec.policyName")), text(params), age(object, now)]
}

/// A `LabelSelector` as Go's generated code prints the struct.
fn go_selector(selector: &Value) -> String {
    let labels: String = map_at(selector, "matchLabels")
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}: {},", value.as_str().unwrap_or_default()))
        .collect();
    let expressions: String = items_at(selector, "matchExpressions")
        .iter()
        .map(|expression| {
            let values: Vec<&str> = items_at(expression, "values").iter().filter_map(Value::as_str).collect();
            let (key, operator) = (str_at(expression, "key"), str_at(expression, "operator"));
            format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{}],}},", values.join(" "))
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_have_two_sides() {
        let object =
            json!({"status": {"hard": {"pods": "3", "limits.cpu": "2", "requests.cpu": "1"}, "used": {"pods": "1"}}});
        let cells = resource_quota(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..3], [json!("pods: 1/3, requests.cpu: 0/1"), json!("limits.cpu: 0/2")]);
    }

    #[test]
    fn subjects_are_sorted_by_kind() {
        let object = json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [
            {"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "namespace": "n", "name": "s"}, {"kind": "User", "name": "v"},
        ]});
        let cells = role_binding(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[3..], [json!("u, v"), json!(""), json!("n/s")]);
    }

    #[test]
    fn bindings_name_their_parameters() {
        let cases = [
            (json!({}), "<unset>"),
            (json!({"name": "p"}), "*/p"),
            (json!({"name": "p", "namespace": "n"}), "n/p"),
            (
                json!({"selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["x", "y"]}]}}),
                "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:k,Operator:In,Values:[x y],},},}",
            ),
        ];
        for (reference, expect) in cases {
            let object = json!({"spec": {"policyName": "x", "paramRef": reference}});
            assert_eq!(policy_binding(&object, Timestamp::UNIX_EPOCH)[2], expect);
        }
    }
}
