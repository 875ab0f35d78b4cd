//! DNS, host aliases and the names of a pod's host.

use serde_json::Value;

use super::super::at::At;
use super::super::read::{flag, is_set, items, optional_text, text, texts};
use super::super::report::Report;
use crate::names;

/// What resolvers of libc take: name servers, search paths, and these with spaces between them.
const NAMESERVERS_MAX: usize = 3;
const SEARCH_PATHS_MAX: usize = 32;
const SEARCH_LIST_CHARS_MAX: usize = 2048;
/// Longest hostname that Linux takes.
const HOSTNAME_BYTES_MAX: usize = 64;

/// `spec.dnsPolicy`.
pub(super) fn dns_policy(spec: &Value, at: &At<'_>, report: &mut Report) {
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    report.required_one_of(at, text(spec, "dnsPolicy"), &policies);
}

/// `spec.dnsConfig`.
pub(super) fn dns_config(spec: &Value, at: &At<'_>, report: &mut Report) {
    let config = &spec["dnsConfig"];
    let servers_at = at.field("nameservers");
    if text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            return report.required(at, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if items(config, "nameservers").is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return report.required(&servers_at, detail);
        }
    }
    let servers = items(config, "nameservers");
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        report.invalid(&servers_at, servers.to_vec(), detail);
    }
    for (index, server) in texts(config, "nameservers").enumerate() {
        report.legacy_ip(&servers_at.index(index), server, &[]);
    }
    let searches = items(config, "searches");
    let searches_at = at.field("searches");
    if searches.len() > SEARCH_PATHS_MAX {
        let detail = format!("must not have more than {SEARCH_PATHS_MAX} search paths");
        report.invalid(&searches_at, searches.to_vec(), detail);
    }
    let chars = texts(config, "searches").map(str::len).sum::<usize>() + searches.len().saturating_sub(1);
    if chars > SEARCH_LIST_CHARS_MAX {
        let detail =
            format!("must not have more than {SEARCH_LIST_CHARS_MAX} characters (including spaces) in the search list");
        report.invalid(&searches_at, searches.to_vec(), detail);
    }
    for (index, search) in texts(config, "searches").enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        report.problems(&searches_at.index(index), search, names::dns1123_subdomain_with_underscore(search));
    }
    let options_at = at.field("options");
    for (index, option) in items(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            report.required(&options_at.index(index), "must not be empty");
        }
    }
}

/// `spec.hostAliases`.
pub(super) fn host_aliases(spec: &Value, at: &At<'_>, report: &mut Report) {
    for (index, alias) in items(spec, "hostAliases").iter().enumerate() {
        let at = at.index(index);
        report.legacy_ip(&at.field("ip"), text(alias, "ip"), &[]);
        let names_at = at.field("hostnames");
        for (index, name) in texts(alias, "hostnames").enumerate() {
            report.dns_subdomain(&names_at.index(index), name);
        }
    }
}

/// `spec.hostnameOverride` (KEP-4762).
pub(super) fn hostname_override(spec: &Value, at: &At<'_>, report: &mut Report) {
    let Some(name) = optional_text(spec, "hostnameOverride") else { return };
    let name_at = at.field("hostnameOverride");
    for field in ["setHostnameAsFQDN", "hostNetwork"] {
        if flag(spec, field) {
            report.forbidden(&name_at, format!("may not be specified when {field} is true"));
        }
    }
    if name.len() > HOSTNAME_BYTES_MAX {
        report.too_long(&name_at, HOSTNAME_BYTES_MAX);
    }
    report.dns_subdomain(&name_at, name);
}

/// A variable that comes out of a file needs an `emptyDir` that holds the file (KEP-3721).
pub(super) fn variables_in_files(spec: &Value, at: &At<'_>, report: &mut Report) {
    super::visit_containers(spec, at, &mut |container, at| {
        let env_at = at.field("env");
        for (index, variable) in items(container, "env").iter().enumerate() {
            let reference = &variable["valueFrom"]["fileKeyRef"];
            if reference.is_null() {
                continue;
            }
            let name = text(reference, "volumeName");
            let item = env_at.index(index);
            let (from_at, volumes) = (item.field("valueFrom"), items(spec, "volumes"));
            let reference_at = from_at.field("fileKeyRef");
            let name_at = reference_at.field("volumeName");
            match volumes.iter().rev().find(|volume| text(volume, "name") == name) {
                None => report.not_found(&name_at, name),
                Some(volume) if !is_set(volume, "emptyDir") => {
                    report.invalid(&name_at, name, "referenced volume must be of type emptyDir");
                }
                Some(_) => {}
            }
        }
    });
}
