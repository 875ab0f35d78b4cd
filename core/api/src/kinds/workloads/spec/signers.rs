//! Names of certificate signers, and of the bundles of what they signed.

use super::super::at::At;
use super::super::report::Report;
use crate::names::{self, Problems};

/// Longest domain and path of a signer's name, in bytes: what still makes a name of a resource with a `:` between.
const SIGNER_BYTES_MAX: usize = 571;

/// Whether a signer is Kubernetes' own.
pub(super) fn is_kubernetes(signer: &str) -> bool {
    signer.split_once('/').is_some_and(|(host, _)| host == "kubernetes.io" || host.ends_with(".kubernetes.io"))
}

/// A signer's name: `DOMAIN/PATH` (upstream's `ValidateSignerName`).
pub(super) fn signer_name(signer: &str, at: &At<'_>, report: &mut Report) {
    if signer.is_empty() {
        return report.required(at, "");
    }
    let Some((domain, path)) = signer.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        return report.invalid(
            at,
            signer,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        );
    };
    let labels: Vec<&str> = domain.split('.').collect();
    report.problems(at, domain, labels.iter().flat_map(|label| names::dns1123_label(label)).collect());
    if labels.len() < 2 {
        report.invalid(at, domain, "should be a domain with at least two segments separated by dots");
    }
    report.problems(at, path, names::dns1123_subdomain(path));
    if signer.len() > SIGNER_BYTES_MAX {
        report.too_long(at, SIGNER_BYTES_MAX);
    }
}

/// The name of a ClusterTrustBundle: a subdomain, with the signer's name and a colon before it if it is bound to one.
pub(super) fn bundle_name(name: &str) -> Problems {
    match name.rsplit_once(':') {
        None => names::dns1123_subdomain(name),
        Some((signer, rest)) if signer.contains(':') || signer.contains('.') => names::dns1123_subdomain(rest),
        Some(_) => names::dns1123_subdomain(name),
    }
}
