//! The recorded conversations of a kube-apiserver 1.36.3, replayed against `gantry apiserver`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use gantry_tests::ServerProcess;

/// Steps that are known to differ, and why: `(scenario, steps, why)`. A step here that comes out right is an error,
/// too: it must leave the table.
const DIFFERENT: &[(&str, &[usize], &str)] = &[
    ("bootstrap-objects", &[15], "the service `kubernetes` targets the port that the recorded server had"),
    ("kind-deviceclasses", &[12], "CEL expressions are not compiled"),
    ("kind-namespaces", &[16], "the labels of the pod security standards are not checked"),
    ("kind-validatingadmissionpolicies", &[12], "CEL expressions are not compiled"),
    ("pods-life", &[11], "pods are not resized in place"),
];

/// Scenarios of things that aren't there yet: nothing of them is replayed.
const NOT_YET: &[(&str, &str)] = &[
    ("admission-limits", "limit ranges and resource quotas are not enforced"),
    ("admission-podsecurity", "the pod security standards are not enforced"),
    ("admission-policy", "admission policies and webhooks are not called"),
    ("crd", "custom resources are not served"),
    ("ssa", "server-side apply is not served"),
];

/// Left out of every comparison: field managers are not tracked.
const IGNORED_FIELDS: &[&str] = &["managedFields"];

/// What differs, step by step, with the lines that say how.
type Differences = BTreeMap<usize, String>;

fn replay(server: &ServerProcess, corpus: &Path, scenario: &str) -> Differences {
    let mut command = Command::new("python3");
    command.arg(corpus.join("replay.py")).args(["--server", &server.url(), "--token", server.token()]);
    command.arg("--ca").arg(server.ca());
    for field in IGNORED_FIELDS {
        command.args(["--ignore", field]);
    }
    let output = command.arg(corpus.join(format!("{scenario}.json"))).output().expect("python3 runs replay.py");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains(" passed, "),
        "replay.py says nothing of {scenario}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut differences = Differences::new();
    let mut current = None;
    for line in text.lines() {
        if let Some((step, _)) = line.strip_prefix("  step ").and_then(|rest| rest.split_once(':')) {
            current = step.parse().ok();
        }
        if let Some(step) = current {
            let lines: &mut String = differences.entry(step).or_default();
            lines.push_str(line);
            lines.push('\n');
        }
    }
    differences
}

#[test]
fn answers_are_upstreams() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut scenarios: Vec<String> = std::fs::read_dir(&corpus)
        .expect("the corpus")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".json").map(str::to_owned))
        .filter(|name| NOT_YET.iter().all(|(scenario, _)| scenario != name))
        .collect();
    // What exists from the start must be looked at before anything else does.
    scenarios.sort_by_key(|name| (name != "bootstrap-objects", name.clone()));
    assert!(scenarios.len() > 50, "the corpus is not whole: {scenarios:?}");
    let server = ServerProcess::start().expect("a server");
    let mut complaints = Vec::new();
    for scenario in &scenarios {
        let seen = replay(&server, &corpus, scenario);
        let known: BTreeSet<usize> = DIFFERENT
            .iter()
            .filter(|(name, ..)| name == scenario)
            .flat_map(|(_, steps, _)| steps.iter().copied())
            .collect();
        for (step, lines) in &seen {
            if !known.contains(step) {
                complaints.push(format!("{scenario}:\n{lines}"));
            }
        }
        for step in known.iter().filter(|step| !seen.contains_key(step)) {
            complaints.push(format!("{scenario}: step {step} is right now: take it out of the table"));
        }
    }
    assert!(complaints.is_empty(), "{} steps:\n{}", complaints.len(), complaints.join("\n"));
}
