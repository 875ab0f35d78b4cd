//! Certificate authorities, and the certificates they sign. All keys are ECDSA P-256: made in well under a millisecond.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use crate::error::Error;

/// How long an authority's certificate is good for, in days: kubeadm's ten years.
pub const AUTHORITY_VALIDITY_DAYS: i64 = 3650;
/// How long all other certificates are good for, in days: kubeadm's year.
pub const CERTIFICATE_VALIDITY_DAYS: i64 = 365;
/// Clocks of different hosts differ: a certificate is good from a little before it was made.
const CLOCK_SKEW: Duration = Duration::minutes(5);

/// A certificate with its private key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate.
    pub certificate_pem: String,
    /// PKCS#8.
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key is a secret and stays out of logs.
        out.debug_struct("Identity").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// What a client's certificate says: the user's name and group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientProfile<'a> {
    /// The user.
    pub common_name: &'a str,
    /// The group, if any.
    pub organization: Option<&'a str>,
}

/// What a server's certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerProfile<'a> {
    /// Its name for people.
    pub common_name: &'a str,
    /// The group, if it serves as a client's certificate, too.
    pub organization: Option<&'a str>,
    /// The names it answers to.
    pub dns_names: Vec<String>,
    /// The addresses it answers at.
    pub addresses: Vec<IpAddr>,
}

/// A certificate authority that can sign.
pub struct Authority {
    identity: Identity,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new self-signed authority.
    pub fn generate(common_name: &str, now: OffsetDateTime) -> Result<Self, Error> {
        let failed = |source| Error::Make { what: format!("the certificate authority {common_name:?}"), source };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = params(common_name, None, now, AUTHORITY_VALIDITY_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // As kubeadm does, so that a verifier of names accepts the authority in a chain, too.
        params.subject_alt_names = vec![SanType::DnsName(common_name.try_into().map_err(failed)?)];
        let certificate = params.self_signed(&key).map_err(failed)?;
        let identity = Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() };
        Ok(Self { identity, issuer: Issuer::new(params, key) })
    }

    /// An authority from PEM: its own certificate and its key.
    pub fn from_pem(identity: Identity) -> Result<Self, Error> {
        let key = KeyPair::from_pem(&identity.key_pem).map_err(|error| Error::invalid("the authority's key", error))?;
        let issuer = Issuer::from_ca_cert_pem(&identity.certificate_pem, key)
            .map_err(|error| Error::invalid("the authority's certificate", error))?;
        Ok(Self { identity, issuer })
    }

    /// Certificate and key.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The certificate that clients trust, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.identity.certificate_pem
    }

    /// Signs a certificate for a client.
    pub fn issue_client(&self, profile: &ClientProfile<'_>, now: OffsetDateTime) -> Result<Identity, Error> {
        let mut params = params(profile.common_name, profile.organization, now, CERTIFICATE_VALIDITY_DAYS);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(profile.common_name, params)
    }

    /// Signs a certificate for a server.
    pub fn issue_server(&self, profile: &ServerProfile<'_>, now: OffsetDateTime) -> Result<Identity, Error> {
        let mut params = params(profile.common_name, profile.organization, now, CERTIFICATE_VALIDITY_DAYS);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in &profile.dns_names {
            let name = name
                .as_str()
                .try_into()
                .map_err(|source| Error::Make { what: format!("a certificate for the name {name:?}"), source })?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(profile.addresses.iter().map(|address| SanType::IpAddress(*address)));
        self.sign(profile.common_name, params)
    }

    fn sign(&self, common_name: &str, mut params: CertificateParams) -> Result<Identity, Error> {
        let failed = |source| Error::Make { what: format!("the certificate of {common_name:?}"), source };
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

fn params(common_name: &str, organization: Option<&str>, now: OffsetDateTime, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name_of(common_name, organization);
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + Duration::days(days);
    params.serial_number = Some(serial_number());
    params
}

/// A request for a client's certificate (PKCS#10) for an authority elsewhere to sign, and the new key that the
/// certificate will be for, both PEM.
pub fn client_request(profile: &ClientProfile<'_>) -> Result<(String, String), Error> {
    let failed =
        |source| Error::Make { what: format!("a request for the certificate of {:?}", profile.common_name), source };
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = name_of(profile.common_name, profile.organization);
    let request = params.serialize_request(&key).map_err(failed)?;
    Ok((request.pem().map_err(failed)?, key.serialize_pem()))
}

fn name_of(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

/// 63 random bits, as upstream takes them; never zero and never negative.
fn serial_number() -> SerialNumber {
    let number: u64 = rand::random::<u64>() >> 1;
    SerialNumber::from(number.max(1))
}
