//! What a certificate on disk says, as far as renewal needs to know.

use std::collections::BTreeSet;
use std::net::IpAddr;

use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

use crate::error::Error;

/// A certificate's subject, names and lifetime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// The subject's common name.
    pub common_name: String,
    /// The subject's organizations.
    pub organizations: BTreeSet<String>,
    /// Names among the subject alternative names.
    pub dns_names: BTreeSet<String>,
    /// Addresses among them.
    pub addresses: BTreeSet<IpAddr>,
    /// When it stops being good.
    pub not_after: OffsetDateTime,
    /// The key it is for, as a private key's public half prints it.
    pub public_key: Vec<u8>,
}

/// Reads the first certificate of a PEM text and checks that `issuer_pem` signed it; `what` names it in errors.
pub fn inspect(what: &str, certificate_pem: &str, issuer_pem: &str) -> Result<Inspected, Error> {
    let invalid = |error: &dyn std::fmt::Display| Error::invalid(what, error);
    let (_, pem) = parse_x509_pem(certificate_pem.as_bytes()).map_err(|error| invalid(&error))?;
    let certificate = pem.parse_x509().map_err(|error| invalid(&error))?;
    let (_, issuer) = parse_x509_pem(issuer_pem.as_bytes()).map_err(|error| invalid(&error))?;
    let issuer = issuer.parse_x509().map_err(|error| invalid(&error))?;
    if certificate.issuer() != issuer.subject() {
        return Err(Error::invalid(what, "it was signed by another authority"));
    }
    let subject = certificate.subject();
    let common_name = subject.iter_common_name().find_map(|name| name.as_str().ok()).unwrap_or_default().to_owned();
    let organizations = subject.iter_organization().filter_map(|name| name.as_str().ok()).map(str::to_owned).collect();
    let mut dns_names = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    if let Some(names) = certificate.subject_alternative_name().map_err(|error| invalid(&error))? {
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => {
                    dns_names.insert((*name).to_owned());
                }
                GeneralName::IPAddress(bytes) => {
                    addresses.extend(address(bytes));
                }
                _ => {}
            }
        }
    }
    let not_after = certificate.validity().not_after.to_datetime();
    let public_key = certificate.public_key().subject_public_key.data.to_vec();
    Ok(Inspected { common_name, organizations, dns_names, addresses, not_after, public_key })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(four.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}
