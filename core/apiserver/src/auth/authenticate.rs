//! From a connection and its headers to a user, trying upstream's authenticators in upstream's order.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gantry_api::error::ApiError;
use gantry_pki::ServiceAccountKeys;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::request::Parts;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;

use super::AuthError;
use super::certificates::ClientCertificates;
use super::service_accounts::ServiceAccountTokens;
use super::static_tokens::StaticTokens;
use super::user::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, UserInfo};
use crate::admission::ObjectReader;

/// What an authenticator is made of.
pub struct AuthenticatorConfig {
    /// The authorities of client certificates, PEM; `None` takes no certificates.
    pub client_ca_pem: Option<String>,
    /// The token file's content.
    pub static_tokens: StaticTokens,
    /// The keys of service account tokens.
    pub service_account_keys: Arc<ServiceAccountKeys>,
    /// Issuers whose tokens are taken, the first one is the server's own.
    pub issuers: Vec<String>,
    /// The audiences that the server itself is; a token must have one of them.
    pub audiences: Vec<String>,
    /// Whether a request without credentials is taken as `system:anonymous`.
    pub anonymous: bool,
}

/// Tells users by their credentials.
pub struct Authenticator {
    certificates: Option<ClientCertificates>,
    static_tokens: StaticTokens,
    service_accounts: ServiceAccountTokens,
    audiences: Vec<String>,
    anonymous: bool,
    reader: Arc<dyn ObjectReader>,
}

/// A user and, if the credential is for certain audiences, which of the wanted ones it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticated {
    /// The user.
    pub user: UserInfo,
    /// The audiences; empty when the credential knows of none.
    pub audiences: Vec<String>,
}

impl Authenticator {
    /// An authenticator that checks bound tokens against live objects.
    pub fn new(config: AuthenticatorConfig, reader: Arc<dyn ObjectReader>) -> Result<Self, AuthError> {
        Ok(Self {
            certificates: config.client_ca_pem.as_deref().map(ClientCertificates::new).transpose()?,
            static_tokens: config.static_tokens,
            service_accounts: ServiceAccountTokens::new(config.service_account_keys, config.issuers),
            audiences: config.audiences,
            anonymous: config.anonymous,
            reader,
        })
    }

    /// The audiences that the server itself is.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The user of a request; 401 when its credentials are wrong, or missing where they are needed.
    pub fn authenticate(
        &self,
        parts: &Parts,
        peer_certificates: Option<&[CertificateDer<'_>]>,
    ) -> Result<UserInfo, ApiError> {
        let now_seconds = Timestamp::now().as_second();
        let mut user = match self.credentials(parts, peer_certificates, now_seconds) {
            Ok(Some(user)) => user,
            Ok(None) if self.anonymous => return Ok(UserInfo::anonymous()),
            Ok(None) => return Err(ApiError::unauthorized("")),
            Err(reason) => {
                tracing::debug!(%reason, "credentials refused");
                return Err(ApiError::unauthorized(""));
            }
        };
        if user.name != ANONYMOUS && !user.is_in(UNAUTHENTICATED) {
            user.join(AUTHENTICATED);
        }
        Ok(user)
    }

    /// Each authenticator in turn; the first user counts, errors only when there is none.
    fn credentials(
        &self,
        parts: &Parts,
        peer_certificates: Option<&[CertificateDer<'_>]>,
        now_seconds: i64,
    ) -> Result<Option<UserInfo>, String> {
        let mut refused = None;
        if let (Some(certificates), Some(chain)) = (&self.certificates, peer_certificates) {
            match certificates.authenticate(chain, now_seconds) {
                Ok(Some(user)) => return Ok(Some(user)),
                Ok(None) => {}
                Err(reason) => refused = Some(reason),
            }
        }
        if let Some(token) = bearer_token(parts) {
            match self.token(&token, &self.audiences, now_seconds) {
                Ok(Some(authenticated)) => return Ok(Some(authenticated.user)),
                Ok(None) => refused = Some("nothing knows the bearer token".to_owned()),
                Err(reason) => refused = Some(reason),
            }
        }
        refused.map_or(Ok(None), Err)
    }

    /// The user of a token as a review tells it: with the group that every user has, or with upstream's error.
    pub fn review_token(&self, token: &str, audiences: &[String], now_seconds: i64) -> Result<Authenticated, String> {
        const INVALID: &str = "invalid bearer token";
        match self.token(token, audiences, now_seconds) {
            Ok(Some(mut authenticated)) => {
                authenticated.user.join(AUTHENTICATED);
                Ok(authenticated)
            }
            Ok(None) => Err(INVALID.to_owned()),
            Err(reason) => Err(format!("[{INVALID}, {reason}]")),
        }
    }

    /// The user of a bearer token that is for one of the audiences; `None` when nothing knows the token.
    pub fn token(&self, token: &str, audiences: &[String], now_seconds: i64) -> Result<Option<Authenticated>, String> {
        if let Some(user) = self.static_tokens.lookup(token) {
            // A static token is for the server itself.
            let audiences = intersection(audiences, &self.audiences);
            return Ok((!audiences.is_empty()).then(|| Authenticated { user: user.clone(), audiences }));
        }
        match self.service_accounts.authenticate(token, self.reader.as_ref(), now_seconds)? {
            None => Ok(None),
            Some((user, of_token)) => {
                let common = intersection(audiences, &of_token);
                if common.is_empty() {
                    return Err(format!(
                        "token audiences {of_token:?} is invalid for the target audiences {audiences:?}"
                    ));
                }
                Ok(Some(Authenticated { user, audiences: common }))
            }
        }
    }
}

fn intersection(wanted: &[String], offered: &[String]) -> Vec<String> {
    wanted.iter().filter(|audience| offered.contains(audience)).cloned().collect()
}

/// How a browser, which can set no header, sends a token with a WebSocket.
const WEBSOCKET_TOKEN_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// The token of an `Authorization: Bearer` header, or of a WebSocket's subprotocols.
fn bearer_token(parts: &Parts) -> Option<Cow<'_, str>> {
    let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some((scheme, token)) = header.and_then(|value| value.trim().split_once(' '))
        && scheme.eq_ignore_ascii_case("bearer")
    {
        // Upstream takes the text up to the next blank.
        return token.split(' ').next().filter(|token| !token.is_empty()).map(Cow::Borrowed);
    }
    let mut protocols = parts
        .headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let encoded = protocols.find_map(|protocol| protocol.trim().strip_prefix(WEBSOCKET_TOKEN_PREFIX))?;
    let bytes = URL_SAFE_NO_PAD.decode(encoded).ok()?;
    String::from_utf8(bytes).ok().filter(|token| !token.is_empty()).map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_in_a_header_or_a_subprotocol() {
        let cases = [
            ("authorization", "Bearer abc", Some("abc")),
            ("authorization", "bearer abc def", Some("abc")),
            ("authorization", "Basic abc", None),
            ("authorization", "Bearer ", None),
            ("authorization", "Bearer", None),
            ("sec-websocket-protocol", "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj", Some("abc")),
            ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.?", None),
            ("sec-websocket-protocol", "v5.channel.k8s.io", None),
        ];
        for (name, value, expect) in cases {
            let (parts, ()) = http::Request::builder().header(name, value).body(()).expect("a request").into_parts();
            assert_eq!(bearer_token(&parts).as_deref(), expect, "{name}: {value}");
        }
    }
}
