//! The keys of service account tokens: ES256 (what this crate makes) and RS256 (what kubeadm makes), their key ids and
//! the documents by which others verify tokens (OpenID Connect Discovery 1.0, RFC 7517).

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::PublicKeyData;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::error::Error;

/// The signature algorithms of RFC 7518 that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

impl Algorithm {
    /// The value of a token's `alg`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

/// A public key that tokens are verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyingKey {
    id: String,
    algorithm: Algorithm,
    /// The content of the key's bit string: a point, or a PKCS#1 public key.
    key: Vec<u8>,
    jwk: Value,
}

impl VerifyingKey {
    /// A key from a `PUBLIC KEY` PEM.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| Error::invalid("a public key", error))?;
        Self::from_spki(&der)
    }

    fn from_spki(der: &[u8]) -> Result<Self, Error> {
        let invalid = |error: &dyn std::fmt::Display| Error::invalid("a public key", error);
        let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|error| invalid(&error))?;
        // Upstream's key id: the digest of the key in PKIX form.
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(der));
        let key = info.subject_public_key.data.to_vec();
        let (algorithm, own) = match info.parsed().map_err(|error| invalid(&error))? {
            PublicKey::EC(point) if key.len() == 65 && key.first() == Some(&4) && point.key_size() == 256 => {
                let (x, y) = key[1..].split_at(32);
                (
                    Algorithm::Es256,
                    json!({"kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}),
                )
            }
            PublicKey::RSA(rsa) => {
                let strip = |bytes: &[u8]| {
                    URL_SAFE_NO_PAD.encode(&bytes[bytes.iter().take_while(|byte| **byte == 0).count()..])
                };
                (Algorithm::Rs256, json!({"kty": "RSA", "n": strip(rsa.modulus), "e": strip(rsa.exponent)}))
            }
            _ => return Err(Error::invalid("a public key", "neither RSA nor ECDSA on P-256")),
        };
        let mut jwk = own;
        jwk["use"] = json!("sig");
        jwk["kid"] = json!(id);
        jwk["alg"] = json!(algorithm.name());
        Ok(Self { id, algorithm, key, jwk })
    }

    /// The value of a token's `kid`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What its signatures are made with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether the signature is this key's over this message.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &dyn signature::VerificationAlgorithm = match self.algorithm {
            Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        };
        UnparsedPublicKey::new(algorithm, &self.key).verify(message, signature).is_ok()
    }
}

enum Signer {
    Es256(Box<EcdsaKeyPair>),
    Rs256(Box<RsaKeyPair>),
}

/// The key that signs, and all keys that verify.
#[derive(Clone)]
pub struct ServiceAccountKeys {
    signer: Arc<Signer>,
    own: VerifyingKey,
    others: Vec<VerifyingKey>,
    private_pem: String,
    public_pem: String,
}

impl ServiceAccountKeys {
    /// A new ES256 key.
    pub fn generate() -> Result<Self, Error> {
        let key = rcgen::KeyPair::generate()
            .map_err(|source| Error::Make { what: "the service account key".to_owned(), source })?;
        Self::from_private_pem(&key.serialize_pem())
    }

    /// A key from PEM: PKCS#8, or PKCS#1 for RSA.
    pub fn from_private_pem(pem: &str) -> Result<Self, Error> {
        let invalid = |error: &dyn std::fmt::Display| Error::invalid("the service account key", error);
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| invalid(&error))?;
        let random = SystemRandom::new();
        let (signer, spki) = match &der {
            PrivateKeyDer::Pkcs8(bytes) => {
                let bytes = bytes.secret_pkcs8_der();
                match EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, bytes, &random) {
                    Ok(key) => {
                        let spki =
                            rcgen::KeyPair::from_pem(pem).map_err(|error| invalid(&error))?.subject_public_key_info();
                        (Signer::Es256(Box::new(key)), spki)
                    }
                    Err(_) => rsa(RsaKeyPair::from_pkcs8(bytes).map_err(|error| invalid(&error))?),
                }
            }
            PrivateKeyDer::Pkcs1(bytes) => {
                rsa(RsaKeyPair::from_der(bytes.secret_pkcs1_der()).map_err(|error| invalid(&error))?)
            }
            _ => return Err(invalid(&"a PKCS#8 key, or an RSA key, is needed")),
        };
        let own = VerifyingKey::from_spki(&spki)?;
        Ok(Self {
            signer: Arc::new(signer),
            own,
            others: Vec::new(),
            private_pem: pem.to_owned(),
            public_pem: pem_of("PUBLIC KEY", &spki),
        })
    }

    /// Accepts tokens of another key, too: one that is being replaced, or another server's.
    #[must_use]
    pub fn with_verifying_key(mut self, key: VerifyingKey) -> Self {
        self.others.push(key);
        self
    }

    /// The private key as a PEM.
    pub fn private_pem(&self) -> &str {
        &self.private_pem
    }

    /// The public key as a `PUBLIC KEY` PEM.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// The key that belongs to the signing key.
    pub fn own_key(&self) -> &VerifyingKey {
        &self.own
    }

    /// The keys to try on a token: the one it names if there is such a one, all otherwise.
    pub(crate) fn candidates<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a VerifyingKey> {
        let known = self.all().any(|key| key.id == id);
        self.all().filter(move |key| !known || key.id == id)
    }

    fn all(&self) -> impl Iterator<Item = &VerifyingKey> {
        std::iter::once(&self.own).chain(&self.others)
    }

    /// Signs a message.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let random = SystemRandom::new();
        let failed = |error: ring::error::Unspecified| Error::invalid("the service account key", error);
        match self.signer.as_ref() {
            Signer::Es256(key) => Ok(key.sign(&random, message).map_err(failed)?.as_ref().to_vec()),
            Signer::Rs256(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
        }
    }

    /// The document at `/openid/v1/jwks` (RFC 7517).
    pub fn jwks(&self) -> Value {
        json!({ "keys": self.all().map(|key| key.jwk.clone()).collect::<Vec<_>>() })
    }

    /// The document at `/.well-known/openid-configuration`.
    pub fn openid_configuration(&self, issuer: &str, jwks_uri: &str) -> Value {
        let mut algorithms: Vec<&str> = self.all().map(|key| key.algorithm.name()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        json!({
            "issuer": issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }
}

fn rsa(key: RsaKeyPair) -> (Signer, Vec<u8>) {
    // SubjectPublicKeyInfo { rsaEncryption, NULL, BIT STRING { PKCS#1 public key } }: RFC 3279, 2.3.1.
    const ALGORITHM: [u8; 15] =
        [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    let mut bits = vec![0];
    bits.extend_from_slice(key.public_key().as_ref());
    let mut body = ALGORITHM.to_vec();
    body.extend(der_value(0x03, &bits));
    let spki = der_value(0x30, &body);
    (Signer::Rs256(Box::new(key)), spki)
}

/// Tag, length and content of a DER value.
fn der_value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let significant = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            out.push(0x80 | significant.len() as u8);
            out.extend_from_slice(significant);
        }
    }
    out.extend_from_slice(content);
    out
}

fn pem_of(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}
