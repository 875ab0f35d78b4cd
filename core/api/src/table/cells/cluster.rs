//! Nodes, namespaces, events and the cluster's own objects.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::age::{human, since};
use super::{age, name, number, or, text, text_or};
use crate::object::{Object, bool_at, i64_at, items_at, map_at, str_at};

pub(super) fn namespace(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(str_at(object, "status.phase")), age(object, now)]
}

pub(super) fn node(object: &Object, now: Timestamp) -> Vec<Value> {
    let ready = items_at(object, "status.conditions").iter().rfind(|c| str_at(c, "type") == "Ready");
    let ready = match ready.map(|condition| str_at(condition, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let closed = if bool_at(object, "spec.unschedulable") { ",SchedulingDisabled" } else { "" };
    let info = &object["status"]["nodeInfo"];
    let mut kernel = or(str_at(info, "kernelVersion"), "<unknown>").to_owned();
    let architecture = str_at(info, "architecture");
    if !architecture.is_empty() {
        kernel = format!("{kernel} ({architecture})");
    }
    let address = |kind: &str| {
        let found = items_at(object, "status.addresses").iter().find(|address| str_at(address, "type") == kind);
        text(found.map_or("<none>", |address| str_at(address, "address")))
    };
    vec![
        name(object),
        text(format!("{ready}{closed}")),
        text(or(&roles(object), "<none>")),
        age(object, now),
        text(str_at(info, "kubeletVersion")),
        address("InternalIP"),
        address("ExternalIP"),
        text_or(info, "osImage", "<unknown>"),
        text(kernel),
        text_or(info, "containerRuntimeVersion", "<unknown>"),
    ]
}

/// The roles that a node's labels give it.
fn roles(node: &Object) -> String {
    let roles: BTreeSet<&str> = map_at(node, "metadata.labels")
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None => value.as_str().filter(|_| key == "kubernetes.io/role"),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.into_iter().collect::<Vec<_>>().join(",")
}

pub(super) fn component_status(object: &Object, _now: Timestamp) -> Vec<Value> {
    let healthy = items_at(object, "conditions").iter().find(|c| str_at(c, "type") == "Healthy");
    let (status, message, error) = match healthy {
        Some(condition) => (
            if str_at(condition, "status") == "True" { "Healthy" } else { "Unhealthy" },
            str_at(condition, "message"),
            str_at(condition, "error"),
        ),
        None => ("Unknown", "", ""),
    };
    vec![name(object), text(status), text(message), text(error)]
}

/// An event of either group: `events.k8s.io` has other names for some fields.
pub(super) fn event(object: &Object, now: Timestamp) -> Vec<Value> {
    let either = |core: &str, new: &str| if object[core].is_null() { &object[new] } else { &object[core] };
    let word = |core: &str, new: &str| either(core, new).as_str().unwrap_or_default();
    let involved = either("involvedObject", "regarding");
    let source = either("source", "deprecatedSource");
    let mut first = since(word("firstTimestamp", "deprecatedFirstTimestamp"), now);
    if first == "<unknown>" {
        first = since(str_at(object, "eventTime"), now);
    }
    let mut last = since(word("lastTimestamp", "deprecatedLastTimestamp"), now);
    if last == "<unknown>" {
        last.clone_from(&first);
    }
    let mut count = either("count", "deprecatedCount").as_i64().filter(|count| *count != 0).unwrap_or(1);
    if !object["series"].is_null() {
        last = since(str_at(object, "series.lastObservedTime"), now);
        count = i64_at(object, "series.count").unwrap_or_default();
    }
    let kind = str_at(involved, "kind").to_lowercase();
    let target = match str_at(involved, "name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component = or(str_at(source, "component"), word("reportingComponent", "reportingController"));
    let instance = or(str_at(source, "host"), str_at(object, "reportingInstance"));
    let comma = if instance.is_empty() { "" } else { ", " };
    vec![
        text(last),
        text(str_at(object, "type")),
        text(str_at(object, "reason")),
        text(target),
        text(str_at(involved, "fieldPath")),
        text(format!("{component}{comma}{instance}")),
        text(word("message", "note").trim()),
        text(first),
        json!(count),
        name(object),
    ]
}

pub(super) fn lease(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(str_at(object, "spec.holderIdentity")), age(object, now)]
}

pub(super) fn signing_request(object: &Object, now: Timestamp) -> Vec<Value> {
    let has = |kind: &str| items_at(object, "status.conditions").iter().any(|c| str_at(c, "type") == kind);
    let decision = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    };
    let failed = if has("Failed") { ",Failed" } else { "" };
    let issued = if str_at(object, "status.certificate").is_empty() { "" } else { ",Issued" };
    let duration = i64_at(object, "spec.expirationSeconds").map_or("<none>".to_owned(), human);
    vec![
        name(object),
        age(object, now),
        text_or(object, "spec.signerName", "<none>"),
        text(str_at(object, "spec.username")),
        text(duration),
        text(format!("{decision}{failed}{issued}")),
    ]
}

pub(super) fn priority_class(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        number(object, "value"),
        json!(bool_at(object, "globalDefault")),
        age(object, now),
        text(str_at(object, "preemptionPolicy")),
    ]
}

pub(super) fn runtime_class(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(str_at(object, "handler")), age(object, now)]
}

pub(super) fn flow_schema(object: &Object, now: Timestamp) -> Vec<Value> {
    let dangling = items_at(object, "status.conditions").iter().find(|c| str_at(c, "type") == "Dangling");
    vec![
        name(object),
        text(str_at(object, "spec.priorityLevelConfiguration.name")),
        number(object, "spec.matchingPrecedence"),
        text_or(object, "spec.distinguisherMethod.type", "<none>"),
        age(object, now),
        text(dangling.map_or("?", |condition| str_at(condition, "status"))),
    ]
}

pub(super) fn priority_level(object: &Object, now: Timestamp) -> Vec<Value> {
    let limited = &object["spec"]["limited"];
    let queuing = &limited["limitResponse"]["queuing"];
    let part = |of: &Value, field: &str| match of {
        Value::Null => json!("<none>"),
        of => number(of, field),
    };
    vec![
        name(object),
        text(str_at(object, "spec.type")),
        part(limited, "nominalConcurrencyShares"),
        part(queuing, "queues"),
        part(queuing, "handSize"),
        part(queuing, "queueLengthLimit"),
        age(object, now),
    ]
}

pub(super) fn api_service(object: &Object, now: Timestamp) -> Vec<Value> {
    let service = match &object["spec"]["service"] {
        Value::Null => "Local".to_owned(),
        service => format!("{}/{}", str_at(service, "namespace"), str_at(service, "name")),
    };
    let available = items_at(object, "status.conditions").iter().find(|c| str_at(c, "type") == "Available");
    let available = match available.map(|condition| (str_at(condition, "status"), str_at(condition, "reason"))) {
        None => "Unknown".to_owned(),
        Some((status, reason)) if status == "True" || reason.is_empty() => status.to_owned(),
        Some((status, reason)) => format!("{status} ({reason})"),
    };
    vec![name(object), text(service), text(available), age(object, now)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().expect("a time")
    }

    #[test]
    fn nodes_show_their_roles() {
        let object = json!({"metadata": {"labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "control", "node-role.kubernetes.io/": ""}}});
        assert_eq!(node(&object, now())[1..3], [json!("Unknown"), json!("control,worker")]);
        let object =
            json!({"spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        assert_eq!(node(&object, now())[1], "NotReady,SchedulingDisabled");
    }

    #[test]
    fn events_of_both_groups_look_alike() {
        let core = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "f"}, "message": " m\n", "source": {"component": "c", "host": "h"}, "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:59:00Z", "count": 4});
        let new = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p", "fieldPath": "f"}, "note": " m\n", "deprecatedSource": {"component": "c", "host": "h"}, "deprecatedFirstTimestamp": "2026-01-01T00:00:00Z", "deprecatedLastTimestamp": "2026-01-01T00:59:00Z", "deprecatedCount": 4});
        let expect = [
            json!("60s"),
            json!(""),
            json!(""),
            json!("pod/p"),
            json!("f"),
            json!("c, h"),
            json!("m"),
            json!("60m"),
            json!(4),
            json!("e"),
        ];
        assert_eq!(event(&core, now()), expect);
        assert_eq!(event(&new, now()), expect);
        let series = json!({"eventTime": "2026-01-01T00:00:00.000000Z", "series": {"count": 7, "lastObservedTime": "2026-01-01T00:59:30.000000Z"}});
        let cells = event(&series, now());
        assert_eq!([&cells[0], &cells[7], &cells[8]], [&json!("30s"), &json!("60m"), &json!(7)]);
    }

    #[test]
    fn signing_requests_tell_how_far_they_are() {
        let cases = [
            (json!({}), "Pending"),
            (json!({"conditions": [{"type": "Approved"}], "certificate": "eA=="}), "Approved,Issued"),
            (json!({"conditions": [{"type": "Approved"}, {"type": "Failed"}]}), "Approved,Failed"),
            (json!({"conditions": [{"type": "Denied"}, {"type": "Approved"}]}), "Denied"),
        ];
        for (status, expect) in cases {
            assert_eq!(signing_request(&json!({"status": status}), now())[5], expect);
        }
    }

    #[test]
    fn api_services_say_why_they_are_away() {
        let object = json!({"spec": {"service": {"namespace": "n", "name": "s"}}, "status": {"conditions": [{"type": "Available", "status": "False", "reason": "R"}]}});
        assert_eq!(api_service(&object, now())[1..3], [json!("n/s"), json!("False (R)")]);
        assert_eq!(api_service(&json!({}), now())[1..3], [json!("Local"), json!("Unknown")]);
    }
}
