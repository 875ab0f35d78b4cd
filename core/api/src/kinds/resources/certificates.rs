//! Certificate signing requests.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::{Kind, NameRule, keep_status};
use super::checks::{invalid, keep, path, texts_at};
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::names;
use crate::object::{Object, i64_at, items_at, map_mut, str_at};
use crate::timestamp;

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
/// Ten minutes.
const EXPIRATION_SECONDS_MIN: i64 = 600;
const DECISIONS: [&str; 3] = ["Approved", "Denied", "Failed"];

pub(super) struct CertificateSigningRequest;

impl Kind for CertificateSigningRequest {
    fn prepare_for_create(&self, object: &mut Object) {
        map_mut(object, "").insert("status".to_owned(), json!({}));
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep(object, old, &["spec"]);
        keep_status(object, old);
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        keep(object, old, &["spec"]);
        // Decisions aren't made here: what is decided already stays as it is.
        for decision in ["Approved", "Denied"] {
            let before: Vec<&Value> = conditions(old).iter().filter(|c| str_at(c, "type") == decision).collect();
            let list = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
            let mut now: Vec<&mut Value> =
                list.into_iter().flatten().filter(|c| str_at(c, "type") == decision).collect();
            if now.len() == before.len() {
                for (now, before) in now.iter_mut().zip(before) {
                    **now = before.clone();
                }
            }
        }
    }

    fn stamp(&self, object: &mut Object, old: Option<&Object>, now: Timestamp) {
        let now = timestamp::format(now);
        let known = old.map(conditions).unwrap_or_default();
        let list = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
        for condition in list.into_iter().flatten() {
            let before = known.iter().find(|before| {
                before["type"] == condition["type"]
                    && before["status"] == condition["status"]
                    && !before["lastTransitionTime"].is_null()
            });
            let since = before.map_or(json!(now), |before| before["lastTransitionTime"].clone());
            let condition = map_mut(condition, "");
            crate::object::set_default(condition, "lastUpdateTime", now.clone());
            crate::object::set_default(condition, "lastTransitionTime", since);
        }
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        request(object)
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = request(object);
        errors.extend(change(object, old, false));
        errors
    }

    fn validate_status_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = request(object);
        errors.extend(change(object, old, true));
        errors
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", str_at(object, "spec.signerName").to_owned())]
    }
}

fn conditions(object: &Object) -> &[Value] {
    items_at(object, "status.conditions")
}

/// The body of the first PEM block, when it is of this type.
fn pem_block(bytes: &[u8], kind: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let start = text.find("-----BEGIN ")?;
    let rest = text[start..].strip_prefix("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    if label != kind {
        return None;
    }
    let body: String =
        body.lines().filter(|line| !line.contains(':')).flat_map(str::chars).filter(|c| !c.is_whitespace()).collect();
    STANDARD.decode(body).ok()
}

fn decoded(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap_or_default()
}

fn request(object: &Object) -> FieldErrors {
    let at = path("spec");
    let spec = &object["spec"];
    let mut errors = FieldErrors::new();
    if let Some(problem) = request_problem(&decoded(str_at(spec, "request"))) {
        let shown = match str_at(spec, "request") {
            "" => Value::Null,
            text => json!(text),
        };
        errors.push(FieldError::invalid(&at.child("request"), shown, problem));
    }
    let usages = texts_at(spec, "usages");
    let usages_at = at.child("usages");
    if usages.is_empty() {
        errors.push(FieldError::required(&usages_at, ""));
    }
    for (index, usage) in usages.iter().enumerate().filter(|(_, usage)| !USAGES.contains(usage)) {
        errors.push(FieldError::not_supported(&usages_at.index(index), *usage, &USAGES));
    }
    let mut seen = HashSet::new();
    for (index, usage) in usages.iter().enumerate() {
        if !seen.insert(usage) {
            errors.push(FieldError::duplicate(&usages_at.index(index), *usage));
        }
    }
    errors.extend(signer_name(str_at(spec, "signerName"), &at.child("signerName")));
    if let Some(seconds) = i64_at(spec, "expirationSeconds").filter(|seconds| *seconds < EXPIRATION_SECONDS_MIN) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid(&at.child("expirationSeconds"), seconds, detail));
    }
    errors.extend(check_conditions(object));
    let certificate = str_at(object, "status.certificate");
    if let Some(problem) = certificate_problem(&decoded(certificate)) {
        errors.push(FieldError::invalid(&path("status.certificate"), "<certificate data>", problem));
    }
    errors
}

/// A PKCS#10 request is a sequence of info, algorithm and signature; the signer looks closer.
fn request_problem(bytes: &[u8]) -> Option<&'static str> {
    match pem_block(bytes, "CERTIFICATE REQUEST") {
        None => Some("PEM block type must be CERTIFICATE REQUEST"),
        Some(der) if der.first() != Some(&0x30) => Some("asn1: structure error: tags don't match"),
        Some(_) => None,
    }
}

fn certificate_problem(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return None;
    }
    match std::str::from_utf8(bytes).ok()?.contains("-----BEGIN ") {
        false => Some("must contain at least one CERTIFICATE PEM block"),
        true if pem_block(bytes, "CERTIFICATE").is_none() => Some("only CERTIFICATE PEM blocks are allowed"),
        true => None,
    }
}

/// A signer's name: a domain and a path below it (upstream's `ValidateSignerName`).
fn signer_name(name: &str, at: &FieldPath) -> FieldErrors {
    if name.is_empty() {
        return vec![FieldError::required(at, "")];
    }
    if name == LEGACY_SIGNER {
        let detail = "the legacy signerName is not allowed via this API version";
        return vec![FieldError::invalid(at, name, detail)];
    }
    let Some((domain, rest)) = name.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return vec![FieldError::invalid(at, name, detail)];
    };
    let mut errors = FieldErrors::new();
    if domain.len() > 253 || rest.len() > 571 - 254 {
        errors.push(FieldError::too_long(at, 571));
    }
    errors.extend(invalid(at, domain, names::dns1123_subdomain(domain)));
    if domain.split('.').count() < 2 {
        errors.push(FieldError::invalid(at, domain, "should be a domain with at least two segments separated by dots"));
    }
    errors.extend(invalid(at, rest, names::dns1123_subdomain(rest)));
    errors
}

fn check_conditions(object: &Object) -> FieldErrors {
    let at = path("status.conditions");
    let mut errors = FieldErrors::new();
    let mut seen = Vec::new();
    for (index, condition) in conditions(object).iter().enumerate() {
        let (kind, status) = (str_at(condition, "type"), str_at(condition, "status"));
        let kind_at = at.index(index).child("type");
        if kind.is_empty() {
            errors.push(FieldError::required(&kind_at, ""));
        }
        let known: &[&str] = if DECISIONS.contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        errors.extend(super::checks::one_of(&at.index(index).child("status"), status, known));
        let other = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !other.is_empty() && seen.contains(&other) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.push(FieldError::invalid(&at, kind, detail));
        }
        if seen.contains(&kind) {
            errors.push(FieldError::duplicate(&kind_at, kind));
        }
        seen.push(kind);
    }
    errors
}

/// Decisions can be added by an approval only, and never be taken back; a certificate is issued once.
fn change(object: &Object, old: &Object, may_issue: bool) -> FieldErrors {
    let at = path("status.conditions");
    let of = |object: &Object, kind: &str| -> Vec<Value> {
        conditions(object).iter().filter(|c| str_at(c, "type") == kind).cloned().collect()
    };
    let mut errors = FieldErrors::new();
    for kind in DECISIONS {
        if of(object, kind).len() < of(old, kind).len() {
            let detail = format!("updates may not remove a condition of type \"{kind}\"");
            errors.push(FieldError::forbidden(&at, detail));
        }
    }
    for kind in ["Approved", "Denied"] {
        let (now, before) = (of(object, kind), of(old, kind));
        if now.len() > before.len() {
            let detail = format!("updates may not add a condition of type \"{kind}\"");
            errors.push(FieldError::forbidden(&at, detail));
        } else if now.len() == before.len() && now != before {
            let detail = format!("updates may not modify a condition of type \"{kind}\"");
            errors.push(FieldError::forbidden(&at, detail));
        }
    }
    let (now, before) = (str_at(object, "status.certificate"), str_at(old, "status.certificate"));
    if now != before {
        let at = path("status.certificate");
        if !may_issue {
            errors.push(FieldError::forbidden(&at, "updates may not set certificate content"));
        } else if !before.is_empty() {
            errors.push(FieldError::forbidden(&at, "updates may not modify existing certificate content"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(errors: FieldErrors, expect: &[&str]) {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, expect);
    }

    #[test]
    fn signers_have_a_domain() {
        let cases: &[(&str, &[&str])] = &[
            ("kubernetes.io/kube-apiserver-client", &[]),
            (
                "x",
                &[
                    "s: Invalid value: \"x\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
                ],
            ),
            ("x/y", &["s: Invalid value: \"x\": should be a domain with at least two segments separated by dots"]),
            (
                LEGACY_SIGNER,
                &[
                    "s: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
                ],
            ),
        ];
        for (name, expect) in cases {
            check(signer_name(name, &path("s")), expect);
        }
    }

    #[test]
    fn decisions_stay() {
        let approved = json!({"status": {"conditions": [{"type": "Approved", "status": "True"}]}});
        check(
            change(&json!({}), &approved, true),
            &["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""],
        );
        check(
            change(&approved, &json!({}), true),
            &["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""],
        );
        let both = json!({"status": {"conditions": [{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "False"}]}});
        check(
            check_conditions(&both),
            &[
                "status.conditions[1].status: Unsupported value: \"False\": supported values: \"True\"",
                "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
            ],
        );
    }

    #[test]
    fn conditions_are_stamped_once() {
        let old = json!({"status": {"conditions": [{"type": "Failed", "status": "True", "lastTransitionTime": "t"}]}});
        let mut new = json!({"status": {"conditions": [{"type": "Failed", "status": "True"}, {"type": "Approved", "status": "True"}]}});
        CertificateSigningRequest.stamp(&mut new, Some(&old), Timestamp::UNIX_EPOCH);
        let stamped = conditions(&new);
        assert_eq!(stamped[0]["lastTransitionTime"], "t");
        assert_eq!(stamped[1]["lastTransitionTime"], "1970-01-01T00:00:00Z");
    }
}
