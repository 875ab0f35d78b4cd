//! Workloads: everything that has pods.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::age::{human, seconds_between, since};
use super::{age, containers, int_or_string, labels_at, name, number, selector_at, text, text_or};
use crate::object::{Object, at, i64_at, items_at, str_at};
use crate::resources::split_api_version;
use crate::selectors::LabelSelector;
use crate::timestamp;

const TEMPLATE: &str = "spec.template.spec.containers";

fn of(object: &Object, ready: &str, desired: &str) -> Value {
    let [ready, desired] = [ready, desired].map(|path| i64_at(object, path).unwrap_or_default());
    text(format!("{ready}/{desired}"))
}

pub(super) fn pod_template(object: &Object, _now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, "template.spec.containers");
    vec![name(object), names, images, labels_at(object, "template.metadata.labels")]
}

fn replicas(object: &Object, now: Timestamp, selector: Value) -> Vec<Value> {
    let [names, images] = containers(object, TEMPLATE);
    vec![
        name(object),
        number(object, "spec.replicas"),
        number(object, "status.replicas"),
        number(object, "status.readyReplicas"),
        age(object, now),
        names,
        images,
        selector,
    ]
}

pub(super) fn replication_controller(object: &Object, now: Timestamp) -> Vec<Value> {
    replicas(object, now, labels_at(object, "spec.selector"))
}

pub(super) fn replica_set(object: &Object, now: Timestamp) -> Vec<Value> {
    replicas(object, now, selector_at(object, "spec.selector"))
}

pub(super) fn deployment(object: &Object, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, TEMPLATE);
    let selector = match LabelSelector::from_object(at(object, "spec.selector")) {
        Ok(selector) => selector.to_string(),
        Err(_) => "<invalid>".to_owned(),
    };
    vec![
        name(object),
        of(object, "status.readyReplicas", "spec.replicas"),
        number(object, "status.updatedReplicas"),
        number(object, "status.availableReplicas"),
        age(object, now),
        names,
        images,
        text(selector),
    ]
}

pub(super) fn stateful_set(object: &Object, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, TEMPLATE);
    vec![name(object), of(object, "status.readyReplicas", "spec.replicas"), age(object, now), names, images]
}

pub(super) fn daemon_set(object: &Object, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object, TEMPLATE);
    vec![
        name(object),
        number(object, "status.desiredNumberScheduled"),
        number(object, "status.currentNumberScheduled"),
        number(object, "status.numberReady"),
        number(object, "status.updatedNumberScheduled"),
        number(object, "status.numberAvailable"),
        labels_at(object, "spec.template.spec.nodeSelector"),
        age(object, now),
        names,
        images,
        selector_at(object, "spec.selector"),
    ]
}

pub(super) fn controller_revision(object: &Object, now: Timestamp) -> Vec<Value> {
    let owner = items_at(object, "metadata.ownerReferences").iter().find(|owner| owner["controller"] == true);
    let controller = match owner {
        Some(owner) => {
            let (group, _) = split_api_version(str_at(owner, "apiVersion"));
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}", str_at(owner, "kind")).to_lowercase() + "/" + str_at(owner, "name")
        }
        None => "<none>".to_owned(),
    };
    vec![name(object), text(controller), number(object, "revision"), age(object, now)]
}

fn has_condition(object: &Object, kind: &str) -> bool {
    let conditions = items_at(object, "status.conditions");
    conditions.iter().find(|c| str_at(c, "type") == kind).is_some_and(|c| str_at(c, "status") == "True")
}

fn job_status(object: &Object) -> &'static str {
    let is_deleted = !object["metadata"]["deletionTimestamp"].is_null();
    match () {
        () if has_condition(object, "Complete") => "Complete",
        () if has_condition(object, "Failed") => "Failed",
        () if is_deleted => "Terminating",
        () if has_condition(object, "Suspended") => "Suspended",
        () if has_condition(object, "FailureTarget") => "FailureTarget",
        () if has_condition(object, "SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

pub(super) fn job(object: &Object, now: Timestamp) -> Vec<Value> {
    let succeeded = i64_at(object, "status.succeeded").unwrap_or_default();
    let parallelism = i64_at(object, "spec.parallelism").unwrap_or_default();
    let completions = match i64_at(object, "spec.completions") {
        Some(completions) => format!("{succeeded}/{completions}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    };
    let start = timestamp::parse(str_at(object, "status.startTime"));
    let end = timestamp::parse(str_at(object, "status.completionTime")).unwrap_or(now);
    let duration = start.map(|start| human(seconds_between(start, end))).unwrap_or_default();
    let [names, images] = containers(object, TEMPLATE);
    vec![
        name(object),
        text(job_status(object)),
        text(completions),
        text(duration),
        age(object, now),
        names,
        images,
        selector_at(object, "spec.selector"),
    ]
}

pub(super) fn cron_job(object: &Object, now: Timestamp) -> Vec<Value> {
    let suspend = match object["spec"]["suspend"].as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = str_at(object, "status.lastScheduleTime");
    let [names, images] = containers(object, "spec.jobTemplate.spec.template.spec.containers");
    vec![
        name(object),
        text(str_at(object, "spec.schedule")),
        text_or(object, "spec.timeZone", "<none>"),
        text(suspend),
        super::count(object, "status.active"),
        text(if last.is_empty() { "<none>".to_owned() } else { since(last, now) }),
        age(object, now),
        names,
        images,
        selector_at(object, "spec.jobTemplate.spec.selector"),
    ]
}

pub(super) fn disruption_budget(object: &Object, now: Timestamp) -> Vec<Value> {
    let limit = |field: &str| text(int_or_string(&object["spec"][field]).unwrap_or_else(|| "N/A".to_owned()));
    vec![
        name(object),
        limit("minAvailable"),
        limit("maxUnavailable"),
        json!(i64_at(object, "status.disruptionsAllowed").unwrap_or_default()),
        age(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().expect("a time")
    }

    #[test]
    fn jobs_tell_how_far_they_are() {
        let cases = [
            (json!({"spec": {}}), ["Running", "0/1", ""]),
            (json!({"spec": {"parallelism": 3}, "status": {"succeeded": 1}}), ["Running", "1/1 of 3", ""]),
            (
                json!({"spec": {"completions": 2}, "status": {"succeeded": 2, "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:05Z", "conditions": [{"type": "Complete", "status": "True"}]}}),
                ["Complete", "2/2", "65s"],
            ),
            (
                json!({"spec": {"completions": 2}, "status": {"startTime": "2026-01-01T00:58:00Z", "conditions": [{"type": "Suspended", "status": "True"}]}}),
                ["Suspended", "0/2", "2m"],
            ),
            (json!({"metadata": {"deletionTimestamp": "x"}, "spec": {"completions": 2}}), ["Terminating", "0/2", ""]),
        ];
        for (object, expect) in cases {
            assert_eq!(job(&object, now())[1..4], expect.map(Value::from), "{object}");
        }
    }

    #[test]
    fn cron_jobs_tell_when_they_ran() {
        let object = json!({"spec": {"schedule": "* * * * *", "suspend": false}, "status": {"active": [{}], "lastScheduleTime": "2026-01-01T00:59:00Z"}});
        let expect = [json!("* * * * *"), json!("<none>"), json!("False"), json!(1), json!("60s"), json!("<unknown>")];
        assert_eq!(cron_job(&object, now())[1..7], expect);
    }

    #[test]
    fn revisions_name_their_controller() {
        let object = json!({"metadata": {"name": "r", "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "controller": true}]}, "revision": 3});
        assert_eq!(controller_revision(&object, now())[1..3], [json!("daemonset.apps/d"), json!(3)]);
    }

    #[test]
    fn budgets_have_one_limit() {
        let object = json!({"spec": {"maxUnavailable": "20%"}, "status": {"disruptionsAllowed": 2}});
        assert_eq!(disruption_budget(&object, now())[1..4], [json!("N/A"), json!("20%"), json!(2)]);
        let object = json!({"spec": {"minAvailable": 1}});
        assert_eq!(disruption_budget(&object, now())[1..4], [json!("1"), json!("N/A"), json!(0)]);
    }
}
