//! The row of a pod: what its containers say, in one word.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age;
use super::cells::{name, or, text};
use crate::object::{Object, bool_at, i64_at, items_at, str_at};

/// A node that isn't heard from any more: its pods' status can't be known.
const NODE_LOST: &str = "NodeLost";

/// The `Completed` condition of a pod's row, once it has ended.
pub(super) fn conditions(pod: &Object) -> Vec<Value> {
    let message = match str_at(pod, "status.phase") {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return Vec::new(),
    };
    vec![json!({"type": "Completed", "status": "True", "reason": str_at(pod, "status.phase"), "message": message})]
}

/// The cells of a pod.
pub(super) fn pod(pod: &Object, now: Timestamp) -> Vec<Value> {
    let summary = summarize(pod);
    let mut restarts = summary.restarts.to_string();
    if summary.restarts != 0 && !summary.last_restart.is_empty() {
        restarts = format!("{restarts} ({} ago)", age::since(summary.last_restart, now));
    }
    let ip = items_at(pod, "status.podIPs").first().map_or("", |ip| str_at(ip, "ip"));
    vec![
        name(pod),
        text(format!("{}/{}", summary.ready, summary.total)),
        text(summary.reason),
        text(restarts),
        super::cells::age(pod, now),
        text(or(ip, "<none>")),
        text(or(str_at(pod, "spec.nodeName"), "<none>")),
        text(or(str_at(pod, "status.nominatedNodeName"), "<none>")),
        text(readiness_gates(pod)),
    ]
}

/// What a pod's containers amount to.
struct Summary<'a> {
    ready: usize,
    total: usize,
    restarts: i64,
    /// When a container last ended to be started again; empty when none was.
    last_restart: &'a str,
    reason: String,
}

/// An init container that keeps running beside the others.
fn is_sidecar(pod: &Object, container: &str) -> bool {
    items_at(pod, "spec.initContainers")
        .iter()
        .any(|init| str_at(init, "name") == container && str_at(init, "restartPolicy") == "Always")
}

fn summarize(pod: &Object) -> Summary<'_> {
    let phase = str_at(pod, "status.phase");
    let status_reason = str_at(pod, "status.reason");
    let sidecars = items_at(pod, "spec.initContainers").iter().filter(|c| str_at(c, "restartPolicy") == "Always");
    let mut summary = Summary {
        ready: 0,
        total: items_at(pod, "spec.containers").len() + sidecars.count(),
        restarts: 0,
        last_restart: "",
        reason: or(status_reason, phase).to_owned(),
    };
    if items_at(pod, "status.conditions")
        .iter()
        .any(|c| str_at(c, "type") == "PodScheduled" && str_at(c, "reason") == "SchedulingGated")
    {
        summary.reason = "SchedulingGated".to_owned();
    }
    let init = init_containers(pod, &mut summary);
    if !init.unfinished || condition(pod, "Initialized") == Some("True") {
        containers(pod, &init, &mut summary);
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        if status_reason == NODE_LOST {
            summary.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

/// The status of the first condition of a type.
fn condition<'a>(pod: &'a Object, kind: &str) -> Option<&'a str> {
    items_at(pod, "status.conditions").iter().find(|c| str_at(c, "type") == kind).map(|c| str_at(c, "status"))
}

/// RFC 3339 in UTC with seconds sorts as text.
fn later<'a>(a: &'a str, b: &'a str) -> &'a str {
    if b > a { b } else { a }
}

fn last_end(status: &Value) -> &str {
    str_at(status, "lastState.terminated.finishedAt")
}

/// `Signal:9`, `ExitCode:1` or what the runtime called it.
fn end_of(terminated: &Value) -> String {
    let signal = i64_at(terminated, "signal").unwrap_or_default();
    match str_at(terminated, "reason") {
        "" if signal != 0 => format!("Signal:{signal}"),
        "" => format!("ExitCode:{}", i64_at(terminated, "exitCode").unwrap_or_default()),
        reason => reason.to_owned(),
    }
}

/// What the init containers leave behind for the others.
struct Init<'a> {
    /// One of them is still to end.
    unfinished: bool,
    /// Restarts of those that keep running beside the others, and the last of them.
    sidecar_restarts: i64,
    sidecar_last_restart: &'a str,
}

/// Counts the init containers, up to the first that is still to end.
fn init_containers<'a>(pod: &'a Object, summary: &mut Summary<'a>) -> Init<'a> {
    let mut init = Init { unfinished: false, sidecar_restarts: 0, sidecar_last_restart: "" };
    for (index, status) in items_at(pod, "status.initContainerStatuses").iter().enumerate() {
        let restarts = i64_at(status, "restartCount").unwrap_or_default();
        summary.restarts += restarts;
        summary.last_restart = later(summary.last_restart, last_end(status));
        let is_sidecar = is_sidecar(pod, str_at(status, "name"));
        if is_sidecar {
            init.sidecar_restarts += restarts;
            init.sidecar_last_restart = later(init.sidecar_last_restart, last_end(status));
        }
        let state = &status["state"];
        let terminated = &state["terminated"];
        let waiting = str_at(state, "waiting.reason");
        if !terminated.is_null() && i64_at(terminated, "exitCode").unwrap_or_default() == 0 {
            continue;
        }
        if is_sidecar && bool_at(status, "started") {
            summary.ready += usize::from(bool_at(status, "ready"));
            continue;
        }
        summary.reason = if !terminated.is_null() {
            format!("Init:{}", end_of(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{}", items_at(pod, "spec.initContainers").len())
        };
        init.unfinished = true;
        break;
    }
    init
}

/// Counts the containers. Of init containers only those that keep running count from here on.
fn containers<'a>(pod: &'a Object, init: &Init<'a>, summary: &mut Summary<'a>) {
    summary.restarts = init.sidecar_restarts;
    summary.last_restart = init.sidecar_last_restart;
    let (mut has_running, mut error) = (false, None);
    for status in items_at(pod, "status.containerStatuses").iter().rev() {
        summary.restarts += i64_at(status, "restartCount").unwrap_or_default();
        summary.last_restart = later(summary.last_restart, last_end(status));
        let state = &status["state"];
        let terminated = &state["terminated"];
        let waiting = str_at(state, "waiting.reason");
        if !waiting.is_empty() {
            summary.reason = waiting.to_owned();
        } else if !terminated.is_null() {
            summary.reason = end_of(terminated);
            if i64_at(terminated, "exitCode").unwrap_or_default() != 0 {
                error = Some(summary.reason.clone());
            }
        } else if bool_at(status, "ready") && !state["running"].is_null() {
            has_running = true;
            summary.ready += 1;
        }
    }
    // A pod isn't complete as long as a container runs.
    if summary.reason == "Completed" {
        let is_ready = items_at(pod, "status.conditions")
            .iter()
            .any(|c| str_at(c, "type") == "Ready" && str_at(c, "status") == "True");
        if has_running && is_ready {
            summary.reason = "Running".to_owned();
        } else if let Some(error) = error {
            summary.reason = error;
        } else if has_running {
            summary.reason = "NotReady".to_owned();
        }
    }
}

/// How many of a pod's readiness gates are open.
fn readiness_gates(pod: &Object) -> String {
    let gates = items_at(pod, "spec.readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|gate| condition(pod, str_at(gate, "conditionType")) == Some("True")).count();
    format!("{open}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(pod_object: Value) -> String {
        let now = "2026-01-01T01:00:00Z".parse().expect("a time");
        let cells = pod(&pod_object, now);
        let cells: Vec<&str> = cells[1..4].iter().filter_map(Value::as_str).collect();
        cells.join(" ")
    }

    fn check(status: Value, expect: &str) {
        let spec = json!({
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}, {"name": "b"}],
        });
        assert_eq!(cells(json!({"spec": spec, "status": status})), expect);
    }

    #[test]
    fn init_containers_come_first() {
        let ended = json!({"name": "i", "state": {"terminated": {"exitCode": 0}}});
        check(json!({"phase": "Pending"}), "0/3 Pending 0");
        check(
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}}]}),
            "0/3 Init:0/2 0",
        );
        check(
            json!({"phase": "Pending", "initContainerStatuses": [ended, {"name": "s", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"finishedAt": "2026-01-01T00:59:00Z"}}}]}),
            "0/3 Init:CrashLoopBackOff 2 (60s ago)",
        );
        check(
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 1, "state": {"terminated": {"exitCode": 3}}}]}),
            "0/3 Init:ExitCode:3 1",
        );
        check(
            json!({"phase": "Running", "initContainerStatuses": [
                {"name": "i", "restartCount": 5, "state": {"terminated": {"exitCode": 0}}},
                {"name": "s", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}},
            ], "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]}),
            "2/3 Running 1",
        );
    }

    #[test]
    fn the_first_container_with_a_reason_names_it() {
        let running = json!({"name": "a", "ready": true, "state": {"running": {}}});
        let completed = json!({"name": "b", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let failed =
            json!({"name": "b", "restartCount": 3, "state": {"terminated": {"exitCode": 1, "reason": "Error"}}});
        let killed = json!({"name": "a", "state": {"terminated": {"exitCode": 137, "signal": 9}}});
        let cases = [
            (json!([running, completed]), json!([]), "1/3 NotReady 0"),
            (json!([running, completed]), json!([{"type": "Ready", "status": "True"}]), "1/3 Running 0"),
            (json!([completed, failed]), json!([]), "0/3 Error 3"),
            (json!([killed, completed]), json!([]), "0/3 Signal:9 0"),
            (
                json!([{"name": "a", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]),
                json!([]),
                "0/3 ImagePullBackOff 0",
            ),
        ];
        for (statuses, conditions, expect) in cases {
            check(json!({"phase": "Running", "containerStatuses": statuses, "conditions": conditions}), expect);
        }
    }

    #[test]
    fn deletion_shows() {
        let mut object =
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}});
        assert_eq!(cells(object.clone()), "0/0 Terminating 0");
        object["status"]["reason"] = json!("NodeLost");
        assert_eq!(cells(object.clone()), "0/0 Unknown 0");
        object["status"] = json!({"phase": "Failed", "reason": "Evicted"});
        assert_eq!(cells(object.clone()), "0/0 Evicted 0");
        assert_eq!(conditions(&object)[0]["reason"], "Failed");
    }

    #[test]
    fn gates_are_counted() {
        let object = json!({
            "spec": {"readinessGates": [{"conditionType": "a"}, {"conditionType": "b"}]},
            "status": {"conditions": [{"type": "a", "status": "True"}], "podIPs": [{"ip": "10.0.0.1"}]},
        });
        let cells = pod(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[5..], [json!("10.0.0.1"), json!("<none>"), json!("<none>"), json!("1/2")]);
    }
}
