//! `projected` volumes and the files of the downward API.

use std::collections::HashSet;

use serde_json::Value;

use super::super::at::At;
use super::super::internal;
use super::super::read::{is_set, items, number, optional_number, optional_text, text};
use super::super::report::Report;
use super::env;
use super::options::Options;
use super::signers;
use super::volumes::key_to_path;

/// The longest life of a certificate in seconds: of any signer, and of Kubernetes' own.
const CERTIFICATE_SECONDS_MAX: i64 = 91 * 24 * 60 * 60;
const KUBERNETES_CERTIFICATE_SECONDS_MAX: i64 = 24 * 60 * 60;
const KEY_TYPES: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];

/// A `projected` volume.
pub(super) fn check(volume: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    report.file_mode(&at.field("defaultMode"), optional_number(volume, "defaultMode"));
    let mut paths = Paths { at, seen: HashSet::new() };
    let sources_at = at.field("sources");
    for (index, source) in items(volume, "sources").iter().enumerate() {
        let source_at = sources_at.index(index);
        let mut kinds = 0;
        for field in ["secret", "configMap"] {
            if is_set(source, field) {
                kinds += 1;
                keyed(&source[field], &source_at.field(field), &mut paths, report);
            }
        }
        if is_set(source, "downwardAPI") {
            kinds += 1;
            let file_at = source_at.field("downwardAPI");
            for file in items(&source["downwardAPI"], "items") {
                downward_file(file, &file_at, report);
                paths.add(text(file, "path"), text(file, "path"), report);
            }
        }
        if is_set(source, "serviceAccountToken") {
            kinds += 1;
            token(&source["serviceAccountToken"], &source_at.field("serviceAccountToken"), at, options, report);
        }
        if is_set(source, "clusterTrustBundle") {
            kinds += 1;
            trust_bundle(&source["clusterTrustBundle"], &source_at.field("clusterTrustBundle"), report);
            let path = text(&source["clusterTrustBundle"], "path");
            paths.add_even_empty(path, path, report);
        }
        if is_set(source, "podCertificate") {
            kinds += 1;
            certificate(&source["podCertificate"], &source_at.field("podCertificate"), &mut paths, report);
        }
        if kinds > 1 {
            report.forbidden(&source_at, "may not specify more than 1 volume type per source");
        }
    }
}

/// The files of a volume: no two sources may write the same.
struct Paths<'a> {
    at: &'a At<'a>,
    seen: HashSet<String>,
}

impl Paths<'_> {
    fn add(&mut self, path: &str, blamed: &str, report: &mut Report) {
        if !path.is_empty() {
            self.add_even_empty(path, blamed, report);
        }
    }

    fn add_even_empty(&mut self, path: &str, blamed: &str, report: &mut Report) {
        if !self.seen.insert(path.to_owned()) {
            report.invalid(self.at, blamed, "conflicting duplicate paths");
        }
    }
}

fn keyed(source: &Value, at: &At<'_>, paths: &mut Paths<'_>, report: &mut Report) {
    report.required_text(&at.field("name"), text(source, "name"));
    let items_at = at.field("items");
    for (index, item) in items(source, "items").iter().enumerate() {
        key_to_path(item, &items_at.index(index), report);
        paths.add(text(item, "path"), text(source, "name"), report);
    }
}

/// A file of the downward API; upstream names the list, not the item.
pub(super) fn downward_file(file: &Value, at: &At<'_>, report: &mut Report) {
    let path = text(file, "path");
    report.required_text(&at.field("path"), path);
    report.non_reserved_path(&at.field("path"), path);
    match (is_set(file, "fieldRef"), is_set(file, "resourceFieldRef")) {
        (true, both) => {
            env::field_ref(&file["fieldRef"], &env::FILE_FIELDS, &at.field("fieldRef"), report);
            if both {
                report.invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        (false, true) => env::resource_ref(&file["resourceFieldRef"], &at.field("resourceFieldRef"), true, report),
        (false, false) => report.required(at, "one of fieldRef and resourceFieldRef is required"),
    }
    report.file_mode(&at.field("mode"), optional_number(file, "mode"));
}

fn token(source: &Value, at: &At<'_>, volume_at: &At<'_>, options: &Options, report: &mut Report) {
    let seconds = number(source, "expirationSeconds");
    if seconds < 10 * 60 {
        report.invalid(&at.field("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > 1 << 32 {
        let detail = "may not specify a duration larger than 2^32 seconds";
        report.invalid(&at.field("expirationSeconds"), seconds, detail);
    }
    let path = text(source, "path");
    if path.is_empty() {
        report.required(&volume_at.field("path"), "");
    } else if !options.non_local_token_paths {
        report.non_reserved_path(&volume_at.field("path"), path);
    }
}

fn trust_bundle(source: &Value, at: &At<'_>, report: &mut Report) {
    match (optional_text(source, "name"), optional_text(source, "signerName")) {
        (Some(_), Some(_)) => {
            let shown = internal::shown("ClusterTrustBundleProjection", source);
            report.invalid_shown(at, shown, "only one of name and signerName may be used");
        }
        (Some(name), None) => {
            if name.is_empty() {
                report.required(&at.field("name"), "must be a valid object name");
            }
            for problem in signers::bundle_name(name) {
                report.invalid(&at.field("name"), name, format!("not a valid clustertrustbundlename: {problem}"));
            }
            if is_set(source, "labelSelector") {
                let detail = "labelSelector must be unset if name is specified";
                report.invalid(&at.field("labelSelector"), source["labelSelector"].clone(), detail);
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                report.required(&at.field("signerName"), "must be a valid signer name");
            }
            signers::signer_name(signer, &at.field("signerName"), report);
            report.label_selector(&at.field("labelSelector"), &source["labelSelector"], false);
        }
        (None, None) => report.required(at, "either name or signerName must be specified"),
    }
    let path = text(source, "path");
    report.required_text(&at.field("path"), path);
    report.non_reserved_path(&at.field("path"), path);
}

fn certificate(source: &Value, at: &At<'_>, paths: &mut Paths<'_>, report: &mut Report) {
    let signer = text(source, "signerName");
    signers::signer_name(signer, &at.field("signerName"), report);
    report.annotations(&at.field("userAnnotations"), source["userAnnotations"].as_object());
    let key_type = text(source, "keyType");
    if !KEY_TYPES.contains(&key_type) {
        report.not_supported_in_order(&at.field("keyType"), key_type, &KEY_TYPES);
    }
    if let Some(seconds) = optional_number(source, "maxExpirationSeconds") {
        let at = at.field("maxExpirationSeconds");
        if seconds < 3600 {
            report.invalid(&at, seconds, "if provided, maxExpirationSeconds must be >= 3600");
        }
        let max =
            if signers::is_kubernetes(signer) { KUBERNETES_CERTIFICATE_SECONDS_MAX } else { CERTIFICATE_SECONDS_MAX };
        if seconds > max {
            report.invalid(&at, seconds, format!("if provided, maxExpirationSeconds must be <= {max}"));
        }
    }
    let mut written = 0;
    for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let path = text(source, field);
        if !path.is_empty() {
            written += 1;
            report.non_reserved_path(&at.field(field), path);
            paths.add(path, path, report);
        }
    }
    if written == 0 {
        let detail = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        report.required(at, detail);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sources_are_checked() {
        let volume = json!({"sources": [
            {"serviceAccountToken": {"path": "t", "expirationSeconds": 60}},
            {"secret": {"name": "s", "items": [{"key": "k", "path": "x"}]}},
            {"configMap": {"name": "c", "items": [{"key": "k", "path": "x"}]}, "downwardAPI": {"items": [{"path": "y"}]}},
        ]});
        let mut report = Report::default();
        check(&volume, &At::root("p"), &Options::for_create(true), &mut report);
        let texts: Vec<String> = report.into_errors().iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "p.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 60: may not specify a duration less than 10 minutes",
                "p: Invalid value: \"c\": conflicting duplicate paths",
                "p.sources[2].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
                "p.sources[2]: Forbidden: may not specify more than 1 volume type per source",
            ]
        );
    }
}
