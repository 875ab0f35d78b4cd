//! `CertificateApproval`, `CertificateSigning` and `CertificateSubjectRestriction`: who approves and signs the
//! requests of which signer, and that none makes a member of `system:masters`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gantry_api::error::ApiError;
use gantry_api::object::{Object, at, str_at};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;

use super::{AdmissionRequest, Operation};
use crate::auth::user::MASTERS;
use crate::auth::{Attributes, Authorizer};

const GROUP: &str = "certificates.k8s.io";
const API_CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

pub(super) fn validate(
    authorizer: &dyn Authorizer,
    request: &AdmissionRequest<'_>,
    object: &Object,
    old: Option<&Object>,
) -> Result<(), ApiError> {
    if !request.is_for(GROUP, "certificatesigningrequests") {
        return Ok(());
    }
    match (request.operation, request.subresource, old) {
        (Operation::Update, "approval", Some(old)) => may(authorizer, request, object, old, "approve"),
        (Operation::Update, "status", Some(old)) => {
            let signs = ["certificate", "conditions"]
                .iter()
                .any(|field| at(object, "status")[*field] != at(old, "status")[*field]);
            if signs { may(authorizer, request, object, old, "sign") } else { Ok(()) }
        }
        (Operation::Create, "", _) => restrict_subject(request, object),
        _ => Ok(()),
    }
}

/// By the old object's signer: a request can't be moved to another one on the way.
fn may(
    authorizer: &dyn Authorizer,
    request: &AdmissionRequest<'_>,
    object: &Object,
    old: &Object,
    verb: &str,
) -> Result<(), ApiError> {
    let signer = str_at(old, "spec.signerName");
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    let allowed = [signer, domain.as_str()].into_iter().any(|name| {
        let attributes =
            Attributes { version: "*", name, ..Attributes::resource(request.user, verb, GROUP, "signers") };
        authorizer.authorize(&attributes).is_allow()
    });
    if allowed {
        return Ok(());
    }
    Err(request.forbidden(object, format_args!("user not permitted to {verb} requests with signerName {signer:?}")))
}

fn restrict_subject(request: &AdmissionRequest<'_>, object: &Object) -> Result<(), ApiError> {
    if str_at(object, "spec.signerName") != API_CLIENT_SIGNER {
        return Ok(());
    }
    let organizations = organizations(str_at(object, "spec.request"))
        .map_err(|error| request.forbidden(object, format_args!("failed to parse CSR: {error}")))?;
    if organizations.iter().any(|organization| organization == MASTERS) {
        return Err(request.forbidden(
            object,
            format_args!("use of {API_CLIENT_SIGNER} signer with system:masters group is not allowed"),
        ));
    }
    Ok(())
}

fn organizations(encoded: &str) -> Result<Vec<String>, String> {
    let pem = STANDARD.decode(encoded).map_err(|error| error.to_string())?;
    let (_, pem) = parse_x509_pem(&pem).map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())?;
    if pem.label != "CERTIFICATE REQUEST" {
        return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
    }
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).map_err(|error| error.to_string())?;
    let subject = &request.certification_request_info.subject;
    Ok(subject.iter_organization().filter_map(|name| name.as_str().ok()).map(str::to_owned).collect())
}
