//! Probes and lifecycle hooks of a container.

use serde_json::Value;

use super::super::at::At;
use super::super::read::{is_set, items, number, optional_number, text};
use super::super::report::Report;
use crate::names;

const HANDLERS_OF_PROBES: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];
const HANDLERS_OF_HOOKS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "sleep"];
const TIMES: [&str; 5] =
    ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];

/// `lifecycle` and the three probes.
pub(super) fn all(container: &Value, spec: &Value, at: &At<'_>, report: &mut Report) {
    if is_set(container, "lifecycle") {
        lifecycle(&container["lifecycle"], spec, &at.field("lifecycle"), report);
    }
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if is_set(container, kind) {
            probe(kind, &container[kind], spec, &at.field(kind), report);
        }
    }
}

fn probe(kind: &str, probe: &Value, spec: &Value, at: &At<'_>, report: &mut Report) {
    handler(probe, &HANDLERS_OF_PROBES, spec, at, report);
    for field in TIMES {
        report.non_negative(&at.field(field), number(probe, field));
    }
    let grace = optional_number(probe, "terminationGracePeriodSeconds");
    if let Some(seconds) = grace.filter(|seconds| *seconds <= 0) {
        report.invalid(&at.field("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
    if kind == "readinessProbe" {
        if let Some(seconds) = grace {
            let detail = "must not be set for readinessProbes";
            report.invalid(&at.field("terminationGracePeriodSeconds"), seconds, detail);
        }
    } else if number(probe, "successThreshold") != 1 {
        report.invalid(&at.field("successThreshold"), number(probe, "successThreshold"), "must be 1");
    }
}

fn lifecycle(lifecycle: &Value, spec: &Value, at: &At<'_>, report: &mut Report) {
    for hook in ["postStart", "preStop"] {
        if is_set(lifecycle, hook) {
            handler(&lifecycle[hook], &HANDLERS_OF_HOOKS, spec, &at.field(hook), report);
        }
    }
    if is_set(lifecycle, "stopSignal") {
        stop_signal(text(lifecycle, "stopSignal"), spec, &at.field("stopSignal"), report);
    }
}

fn handler(handler: &Value, kinds: &[&str], spec: &Value, at: &At<'_>, report: &mut Report) {
    let mut found = false;
    for &kind in kinds {
        if !is_set(handler, kind) {
            continue;
        }
        let (action, at) = (&handler[kind], at.field(kind));
        if found {
            report.forbidden(&at, "may not specify more than 1 handler type");
            continue;
        }
        found = true;
        match kind {
            "exec" if items(action, "command").is_empty() => report.required(&at.field("command"), ""),
            "httpGet" => http_get(action, &at, report),
            "tcpSocket" | "grpc" => port(&action["port"], &at.field("port"), report),
            "sleep" => sleep(action, spec, &at, report),
            _ => {}
        }
    }
    if !found {
        report.required(at, "must specify a handler type");
    }
}

fn http_get(action: &Value, at: &At<'_>, report: &mut Report) {
    report.required_text(&at.field("path"), text(action, "path"));
    port(&action["port"], &at.field("port"), report);
    report.one_of(&at.field("scheme"), text(action, "scheme"), &["HTTP", "HTTPS"]);
    for header in items(action, "httpHeaders") {
        let name = text(header, "name");
        report.problems(&at.field("httpHeaders"), name, names::http_header_name(name));
    }
}

/// A port by number or name.
fn port(port: &Value, at: &At<'_>, report: &mut Report) {
    match port {
        Value::String(name) => report.problems(at, name, names::port_name(name)),
        number => {
            let number = number.as_i64().unwrap_or_default();
            for problem in names::port_number(number) {
                report.invalid(at, number, problem);
            }
        }
    }
}

fn sleep(action: &Value, spec: &Value, at: &At<'_>, report: &mut Report) {
    let seconds = number(action, "seconds");
    if let Some(grace) = optional_number(spec, "terminationGracePeriodSeconds")
        && !(0..=grace).contains(&seconds)
    {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        report.invalid(at, seconds, detail);
    }
}

/// The signals of Linux as the API names them (KEP-4960).
const LINUX_SIGNALS: [&str; 65] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMAX-14",
    "SIGRTMAX-13",
    "SIGRTMAX-12",
    "SIGRTMAX-11",
    "SIGRTMAX-10",
    "SIGRTMAX-9",
    "SIGRTMAX-8",
    "SIGRTMAX-7",
    "SIGRTMAX-6",
    "SIGRTMAX-5",
    "SIGRTMAX-4",
    "SIGRTMAX-3",
    "SIGRTMAX-2",
    "SIGRTMAX-1",
    "SIGRTMAX",
];

fn stop_signal(signal: &str, spec: &Value, at: &At<'_>, report: &mut Report) {
    match spec["os"].as_object().map(|_| text(&spec["os"], "name")) {
        None => report.forbidden(at, "may not be set for containers with empty `spec.os.name`"),
        Some("windows") => report.one_of(at, signal, &["SIGKILL", "SIGTERM"]),
        Some("linux") => report.one_of(at, signal, &LINUX_SIGNALS),
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(container: Value, expect: &[&str]) {
        let mut report = Report::default();
        all(&container, &json!({"terminationGracePeriodSeconds": 30}), &At::root("c"), &mut report);
        let texts: Vec<String> = report.into_errors().iter().map(ToString::to_string).collect();
        assert_eq!(texts, expect);
    }

    #[test]
    fn handlers_are_checked() {
        check(json!({"livenessProbe": {"exec": {"command": ["a"]}, "successThreshold": 1}}), &[]);
        check(
            json!({"livenessProbe": {"successThreshold": 2}}),
            &[
                "c.livenessProbe: Required value: must specify a handler type",
                "c.livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ],
        );
        check(
            json!({"readinessProbe": {"tcpSocket": {"port": "web_"}, "periodSeconds": -1, "terminationGracePeriodSeconds": 0}}),
            &[
                "c.readinessProbe.tcpSocket.port: Invalid value: \"web_\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                "c.readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
                "c.readinessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
                "c.readinessProbe.terminationGracePeriodSeconds: Invalid value: 0: must not be set for readinessProbes",
            ],
        );
        check(
            json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}, "postStart": {"exec": {}}}}),
            &[
                "c.lifecycle.postStart.exec.command: Required value",
                "c.lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
            ],
        );
    }
}
