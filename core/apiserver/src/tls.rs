//! TLS: what the server shows to clients, and the client it is for node agents.

use std::sync::Arc;

use gantry_pki::{Identity, Pki};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};

use crate::auth::certificates::AnyClientCertificate;
use crate::error::Error;

fn chain(
    what: &'static str,
    identity: &Identity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let failed = |error: rustls::pki_types::pem::Error| Error::Tls { what, reason: error.to_string() };
    let certificates = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(failed)?;
    Ok((certificates, key))
}

/// The server's side: any client certificate is let through the handshake, as upstream, and judged by the request.
pub fn server(pki: &Pki) -> Result<Arc<ServerConfig>, Error> {
    let what = "serving certificate";
    let failed = |error: rustls::Error| Error::Tls { what, reason: error.to_string() };
    let (certificates, key) = chain(what, &pki.apiserver)?;
    let provider = Arc::new(ring::default_provider());
    let verifier = AnyClientCertificate::new(&provider, pki.ca.certificate_pem())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(certificates, key)
        .map_err(failed)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The client that node agents see.
pub fn agent_client(pki: &Pki) -> Result<Arc<ClientConfig>, Error> {
    let what = "client certificate for node agents";
    let failed = |error: rustls::Error| Error::Tls { what, reason: error.to_string() };
    let (certificates, key) = chain(what, &pki.apiserver_kubelet_client)?;
    let provider = Arc::new(ring::default_provider());
    let verifier = AnyAgent { provider: provider.clone() };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(certificates, key)
        .map_err(failed)?;
    Ok(Arc::new(config))
}

/// Upstream doesn't check who signed a node agent's certificate unless told to (`--kubelet-certificate-authority`):
/// agents may have signed their own. The agent checks the client, which is what guards it.
#[derive(Debug)]
struct AnyAgent {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyAgent {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
