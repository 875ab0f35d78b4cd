//! Client certificates: the subject's common name is the user, its organizations are the groups.
//!
//! The handshake takes any certificate whose key the client has ([`AnyClientCertificate`]); whether its authority is
//! trusted is decided per request, so that a client with a strange certificate gets an answer (401, or what its token
//! allows) and no broken connection, as upstream does.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error as TlsError, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use x509_parser::parse_x509_certificate;

use super::AuthError;
use super::user::{CREDENTIAL_ID, UserInfo};

/// So many verified certificates are remembered; beyond that all are verified anew.
const REMEMBERED_MAX: usize = 1024;

/// Takes any client certificate, or none, in a handshake. The signature of the handshake is checked.
#[derive(Debug)]
pub struct AnyClientCertificate {
    algorithms: WebPkiSupportedAlgorithms,
    hints: Vec<DistinguishedName>,
}

impl AnyClientCertificate {
    /// A verifier that tells clients which authorities count.
    pub fn new(provider: &CryptoProvider, authorities_pem: &str) -> Result<Self, AuthError> {
        let roots = roots(authorities_pem)?;
        Ok(Self { algorithms: provider.signature_verification_algorithms, hints: roots.subjects() })
    }
}

impl ClientCertVerifier for AnyClientCertificate {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Verifies client certificates and reads users from them.
#[derive(Debug)]
pub struct ClientCertificates {
    verifier: Arc<dyn ClientCertVerifier>,
    remembered: Mutex<HashMap<[u8; 32], (UserInfo, i64)>>,
}

impl ClientCertificates {
    /// A verifier that trusts these authorities (one or more PEM certificates).
    pub fn new(authorities_pem: &str) -> Result<Self, AuthError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authorities_pem)?), provider)
            .build()
            .map_err(|error| AuthError::ClientAuthority(error.to_string()))?;
        Ok(Self { verifier, remembered: Mutex::default() })
    }

    /// The user of a chain, `None` for a certificate without a common name, an error for one that isn't trusted.
    pub fn authenticate(&self, chain: &[CertificateDer<'_>], now_seconds: i64) -> Result<Option<UserInfo>, String> {
        let Some((leaf, intermediates)) = chain.split_first() else { return Ok(None) };
        let digest: [u8; 32] = Sha256::digest(leaf).into();
        if let Some((user, not_after)) = self.remembered.lock().get(&digest)
            && now_seconds <= *not_after
        {
            return Ok(Some(user.clone()));
        }
        let time = UnixTime::since_unix_epoch(Duration::from_secs(now_seconds.max(0).unsigned_abs()));
        self.verifier.verify_client_cert(leaf, intermediates, time).map_err(|error| format!("x509: {error}"))?;
        let (_, certificate) = parse_x509_certificate(leaf).map_err(|error| format!("x509: {error}"))?;
        let subject = certificate.subject();
        let Some(name) = subject.iter_common_name().find_map(|name| name.as_str().ok()).filter(|name| !name.is_empty())
        else {
            return Ok(None);
        };
        let groups = subject.iter_organization().filter_map(|name| name.as_str().ok()).map(str::to_owned).collect();
        let extra = BTreeMap::from([(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={}", hex(&digest))])]);
        let user = UserInfo { name: name.to_owned(), uid: String::new(), groups, extra };
        let mut remembered = self.remembered.lock();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(digest, (user.clone(), certificate.validity().not_after.timestamp()));
        Ok(Some(user))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn roots(authorities_pem: &str) -> Result<RootCertStore, AuthError> {
    let invalid = |error: &dyn std::fmt::Display| AuthError::ClientAuthority(error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities_pem.as_bytes()) {
        roots.add(certificate.map_err(|error| invalid(&error))?).map_err(|error| invalid(&error))?;
    }
    if roots.is_empty() {
        return Err(invalid(&"there is no certificate in it"));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use gantry_pki::{Authority, ClientProfile};

    use super::*;

    #[test]
    fn the_subject_is_the_user() {
        let now = SystemTime::now().into();
        let seconds = jiff::Timestamp::now().as_second();
        let ca = Authority::generate("kubernetes", now).expect("an authority");
        let stranger = Authority::generate("kubernetes", now).expect("an authority");
        let certificates = ClientCertificates::new(ca.certificate_pem()).expect("a verifier");
        let chain = |ca: &Authority, name: &str| {
            let identity = ca
                .issue_client(&ClientProfile { common_name: name, organization: Some("dev") }, now)
                .expect("a certificate");
            [CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).expect("a certificate")]
        };
        let good = chain(&ca, "ann");
        for _ in 0..2 {
            let user = certificates.authenticate(&good, seconds).expect("trusted").expect("a user");
            assert_eq!((user.name.as_str(), user.groups.as_slice()), ("ann", ["dev".to_owned()].as_slice()));
            let id = user.extra_value(CREDENTIAL_ID).expect("an id");
            assert_eq!((id.len(), &id[..11]), (11 + 64, "X509SHA256="));
        }
        assert!(certificates.authenticate(&good, seconds + 366 * 86_400).is_err());
        assert!(certificates.authenticate(&chain(&stranger, "ann"), seconds).is_err());
        assert_eq!(certificates.authenticate(&chain(&ca, ""), seconds), Ok(None));
        assert_eq!(certificates.authenticate(&[], seconds), Ok(None));
    }
}
