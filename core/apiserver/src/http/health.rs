//! `/healthz`, `/livez`, `/readyz`: what is well, check by check.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{Response, StatusCode};

use super::body::Body;
use super::request_info::{query_flag, query_value, query_values};
use super::response;
use crate::server::Inner;

/// The checks of each probe, in the order in which they are shown.
fn checks(probe: &str) -> Option<&'static [&'static str]> {
    match probe {
        "healthz" | "livez" => Some(&["ping", "log", "etcd"]),
        "readyz" => Some(&["ping", "log", "etcd", "informer-sync", "poststarthook/rbac/bootstrap-roles", "shutdown"]),
        _ => None,
    }
}

fn is_well(server: &Inner, check: &str) -> bool {
    match check {
        "informer-sync" => server.registry.caches.applied.revision() > 0,
        "poststarthook/rbac/bootstrap-roles" => server.ready.load(Ordering::Acquire),
        "shutdown" => !server.shutdown.is_cancelled(),
        _ => true,
    }
}

/// The answer to a probe, `None` for other paths.
pub fn serve(server: &Arc<Inner>, path: &str, query: Option<&str>) -> Option<Response<Body>> {
    let mut parts = path.trim_matches('/').splitn(2, '/');
    let probe = parts.next()?;
    let all = checks(probe)?;
    if let Some(one) = parts.next() {
        let check = all.iter().find(|check| **check == one)?;
        let well = is_well(server, check);
        return Some(if well {
            response::text(StatusCode::OK, "ok")
        } else {
            failed(&format!("internal server error: {one} check failed\n"))
        });
    }
    let excluded = query_values(query, "exclude");
    let mut lines = String::new();
    let mut well = true;
    for check in all {
        // Writing to a string can't fail.
        if excluded.iter().any(|name| name == check) {
            let _ = writeln!(lines, "[+]{check} excluded: ok");
        } else if is_well(server, check) {
            let _ = writeln!(lines, "[+]{check} ok");
        } else {
            well = false;
            let _ = writeln!(lines, "[-]{check} failed: reason withheld");
        }
    }
    let unknown: Vec<&String> = excluded.iter().filter(|name| !all.contains(&name.as_str())).collect();
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.iter().map(|name| format!("{name:?}")).collect();
        let _ = writeln!(lines, "warn: some health checks cannot be excluded: no matches for {}", names.join(","));
    }
    if !well {
        let _ = writeln!(lines, "{probe} check failed");
        return Some(failed(&lines));
    }
    let verbose = query_flag(query, "verbose") || query_value(query, "verbose").is_some();
    if !verbose {
        return Some(response::text(StatusCode::OK, "ok"));
    }
    let _ = writeln!(lines, "{probe} check passed");
    Some(response::text(StatusCode::OK, lines))
}

fn failed(lines: &str) -> Response<Body> {
    response::text(StatusCode::INTERNAL_SERVER_ERROR, lines.to_owned())
}
