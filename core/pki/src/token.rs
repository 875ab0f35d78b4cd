//! Service account tokens: JSON web tokens (RFC 7519) with the claims of upstream's `TokenRequest` (KEP-1205, KEP-4193).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::Error;
use crate::keys::ServiceAccountKeys;

/// Tokens from other clocks are good this much earlier and longer, in seconds: upstream's leeway.
pub const LEEWAY_SECONDS: i64 = 60;
/// A longer token is not looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// Why a token isn't accepted, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It isn't three parts of base64 with JSON in the first two.
    #[error("invalid bearer token")]
    Malformed,
    /// No key made its signature.
    #[error("invalid signature")]
    Signature,
    /// Too late.
    #[error("service account token has expired")]
    Expired,
    /// Too early.
    #[error("service account token is not valid yet")]
    NotYetValid,
}

/// An object that a token names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Its name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its uid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The private claims, under `kubernetes.io`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesClaims {
    /// Namespace of the service account and of what the token is bound to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The node of the bound pod, or the bound node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<ObjectRef>,
    /// The bound pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectRef>,
    /// The bound secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectRef>,
    /// The account.
    #[serde(default)]
    pub serviceaccount: ObjectRef,
    /// When the client should have asked for a new token, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "maybe_seconds")]
    pub warnafter: Option<i64>,
}

/// All claims. Times are in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom the token is.
    #[serde(default, deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// When it stops being good.
    #[serde(default, deserialize_with = "seconds")]
    pub exp: i64,
    /// When it was made.
    #[serde(default, deserialize_with = "seconds")]
    pub iat: i64,
    /// Who made it.
    #[serde(default)]
    pub iss: String,
    /// Which one it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io", default)]
    pub kubernetes: KubernetesClaims,
    /// From when on it is good.
    #[serde(default, deserialize_with = "seconds")]
    pub nbf: i64,
    /// The account's user name.
    #[serde(default)]
    pub sub: String,
}

impl Claims {
    /// Whether the token is good at a time.
    pub fn check_time(&self, now_seconds: i64) -> Result<(), TokenError> {
        if now_seconds - LEEWAY_SECONDS > self.exp {
            return Err(TokenError::Expired);
        }
        if now_seconds + LEEWAY_SECONDS < self.nbf.max(self.iat) {
            return Err(TokenError::NotYetValid);
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    kid: String,
}

#[derive(Deserialize)]
struct Issuer {
    #[serde(default)]
    iss: String,
}

/// The issuer that a token claims, before anything is verified; `None` for what isn't a token.
pub fn claimed_issuer(token: &str) -> Option<String> {
    let (_, payload, _) = split(token).ok()?;
    part::<Issuer>(payload).ok().map(|claims| claims.iss)
}

impl ServiceAccountKeys {
    /// Signs a token.
    pub fn issue(&self, claims: &Claims) -> Result<String, Error> {
        let key = self.own_key();
        let header = Header { alg: key.algorithm().name().to_owned(), kid: key.id().to_owned() };
        let failed = |error| Error::invalid("a token's claims", error);
        let header = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header).map_err(failed)?);
        let payload = URL_SAFE_NO_PAD.encode(serde_json::to_vec(claims).map_err(failed)?);
        let message = format!("{header}.{payload}");
        let signature = URL_SAFE_NO_PAD.encode(self.sign(message.as_bytes())?);
        Ok(format!("{message}.{signature}"))
    }

    /// The claims of a token that one of the keys has signed. Time, audience and bound objects are the caller's to check.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let (header, payload, signature) = split(token)?;
        let message = &token.as_bytes()[..header.len() + 1 + payload.len()];
        let header: Header = part(header)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed)?;
        // The key decides on the algorithm, not the token: a token can't talk a key into another one.
        let good = self
            .candidates(&header.kid)
            .any(|key| key.algorithm().name() == header.alg && key.verifies(message, &signature));
        if !good {
            return Err(TokenError::Signature);
        }
        part(payload)
    }
}

fn split(token: &str) -> Result<(&str, &str, &str), TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::Malformed);
    }
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(payload), Some(signature), None) => Ok((header, payload, signature)),
        _ => Err(TokenError::Malformed),
    }
}

fn part<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

/// `aud` is a string or a list of strings (RFC 7519, 4.1.3).
fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

/// A NumericDate may have a fraction (RFC 7519, 2).
fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    let number = serde_json::Number::deserialize(from)?;
    Ok(number.as_i64().or_else(|| number.as_f64().map(|value| value as i64)).unwrap_or_default())
}

fn maybe_seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    seconds(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::VerifyingKey;

    fn claims() -> Claims {
        Claims {
            aud: vec!["https://kubernetes.default.svc.cluster.local".to_owned()],
            exp: 2000,
            iat: 1000,
            iss: "https://kubernetes.default.svc.cluster.local".to_owned(),
            jti: "0f1f".to_owned(),
            kubernetes: KubernetesClaims {
                namespace: "ns".to_owned(),
                node: Some(ObjectRef { name: "n1".to_owned(), uid: "u3".to_owned() }),
                pod: Some(ObjectRef { name: "p".to_owned(), uid: "u2".to_owned() }),
                secret: None,
                serviceaccount: ObjectRef { name: "default".to_owned(), uid: "u1".to_owned() },
                warnafter: Some(1600),
            },
            nbf: 1000,
            sub: "system:serviceaccount:ns:default".to_owned(),
        }
    }

    #[test]
    fn the_claims_have_upstreams_names() {
        insta::assert_snapshot!(serde_json::to_string(&claims()).expect("JSON"), @r#"{"aud":["https://kubernetes.default.svc.cluster.local"],"exp":2000,"iat":1000,"iss":"https://kubernetes.default.svc.cluster.local","jti":"0f1f","kubernetes.io":{"namespace":"ns","node":{"name":"n1","uid":"u3"},"pod":{"name":"p","uid":"u2"},"serviceaccount":{"name":"default","uid":"u1"},"warnafter":1600},"nbf":1000,"sub":"system:serviceaccount:ns:default"}"#);
    }

    #[test]
    fn a_token_comes_back_as_it_was_signed() {
        let keys = ServiceAccountKeys::generate().expect("a key");
        let token = keys.issue(&claims()).expect("a token");
        assert_eq!(keys.verify(&token), Ok(claims()));
        assert_eq!(claimed_issuer(&token).as_deref(), Some("https://kubernetes.default.svc.cluster.local"));
    }

    #[test]
    fn a_token_that_was_touched_is_refused() {
        let keys = ServiceAccountKeys::generate().expect("a key");
        let other = ServiceAccountKeys::generate().expect("a key");
        let token = keys.issue(&claims()).expect("a token");
        let (message, signature) = token.rsplit_once('.').expect("three parts");
        let (header, _) = message.split_once('.').expect("three parts");
        let payload = URL_SAFE_NO_PAD.encode(r#"{"sub":"system:serviceaccount:kube-system:root"}"#);
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let rs256 = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"RS256","kid":"{}"}}"#, keys.own_key().id()));
        let cases = [
            (format!("{header}.{payload}.{signature}"), TokenError::Signature),
            (format!("{message}."), TokenError::Signature),
            (format!("{none}.{payload}."), TokenError::Signature),
            (format!("{rs256}.{payload}.{signature}"), TokenError::Signature),
            (other.issue(&claims()).expect("a token"), TokenError::Signature),
            (message.to_owned(), TokenError::Malformed),
            (format!("{token}.x"), TokenError::Malformed),
            ("nonsense".to_owned(), TokenError::Malformed),
            (String::new(), TokenError::Malformed),
            ("x".repeat(TOKEN_BYTES_MAX + 1), TokenError::Malformed),
        ];
        for (token, expect) in cases {
            assert_eq!(keys.verify(&token), Err(expect), "{token:.40}");
        }
        let trusting = keys.with_verifying_key(other.own_key().clone());
        assert_eq!(trusting.verify(&other.issue(&claims()).expect("a token")), Ok(claims()));
    }

    #[test]
    fn times_have_a_leeway() {
        let cases = [
            (900, Err(TokenError::NotYetValid)),
            (940, Ok(())),
            (1500, Ok(())),
            (2060, Ok(())),
            (2061, Err(TokenError::Expired)),
        ];
        for (now, expect) in cases {
            assert_eq!(claims().check_time(now), expect, "{now}");
        }
    }

    #[test]
    fn audiences_and_times_come_in_more_than_one_form() {
        let claims: Claims = serde_json::from_str(r#"{"aud":"a","exp":12.5,"nbf":3}"#).expect("claims");
        assert_eq!((claims.aud, claims.exp, claims.nbf), (vec!["a".to_owned()], 12, 3));
    }

    #[test]
    fn the_discovery_documents_name_the_key() {
        let keys = ServiceAccountKeys::generate().expect("a key");
        let jwks = keys.jwks();
        let key = &jwks["keys"][0];
        for (field, expect) in
            [("kty", "EC"), ("crv", "P-256"), ("use", "sig"), ("alg", "ES256"), ("kid", keys.own_key().id())]
        {
            assert_eq!(key[field], expect, "{field}");
        }
        insta::assert_snapshot!(keys.openid_configuration("https://i", "https://h/openid/v1/jwks"), @r#"{"id_token_signing_alg_values_supported":["ES256"],"issuer":"https://i","jwks_uri":"https://h/openid/v1/jwks","response_types_supported":["id_token"],"subject_types_supported":["public"]}"#);
        let again = VerifyingKey::from_pem(keys.public_pem()).expect("a key");
        assert_eq!(&again, keys.own_key());
    }
}
