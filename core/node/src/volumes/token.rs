//! Service account tokens for pods: asked from the API server, bound to the pod, and renewed before they expire.

use std::collections::HashMap;
use std::time::Duration;

use gantry_client::Client;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;

use crate::pod;

/// Upstream's default life of a token.
const DEFAULT_SECONDS: i64 = 3600;
/// However long it lives, a token is renewed after this long.
const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);

#[derive(Clone)]
struct Token {
    text: String,
    renew_at: Timestamp,
}

type Key = (String, String, i64);

/// The tokens of the node's pods, by uid of the pod, audience and life.
pub struct Tokens {
    client: Client,
    known: Mutex<HashMap<Key, Token>>,
}

fn key(pod: &Pod, projection: &ServiceAccountTokenProjection) -> Key {
    let seconds = projection.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
    (pod::uid(pod).to_owned(), projection.audience.clone().unwrap_or_default(), seconds)
}

/// When a token is renewed: after four fifths of its life, and once a day. Pure.
pub fn renewal(issued: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.duration_since(issued);
    issued.checked_add((life * 4 / 5).min(MAX_AGE)).unwrap_or(expires)
}

impl Tokens {
    /// None yet.
    pub fn new(client: Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// A token for a projection, if one was fetched and is fresh.
    pub fn known(&self, pod: &Pod, projection: &ServiceAccountTokenProjection, now: Timestamp) -> Option<String> {
        let known = self.known.lock();
        known.get(&key(pod, projection)).filter(|token| token.renew_at > now).map(|token| token.text.clone())
    }

    /// Fetches the token of a projection unless a fresh one is known.
    ///
    /// # Errors
    /// Upstream's message.
    pub async fn fetch(&self, pod: &Pod, projection: &ServiceAccountTokenProjection) -> Result<(), String> {
        let now = Timestamp::now();
        if self.known(pod, projection, now).is_some() {
            return Ok(());
        }
        let key = key(pod, projection);
        let spec = pod::spec(pod);
        let account = spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
        let namespace = pod::namespace(pod);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: projection.audience.clone().filter(|audience| !audience.is_empty()).map(|one| vec![one]),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
                expiration_seconds: Some(key.2),
            }),
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let answer = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .map_err(|error| format!("failed to fetch token: {}", crate::api_message(&error)))?;
        let status = answer.status.ok_or_else(|| "failed to fetch token: the answer has no status".to_owned())?;
        let (Some(text), Some(expires)) = (status.token, status.expiration_timestamp) else {
            return Err("failed to fetch token: the answer has no token".to_owned());
        };
        let renew_at = renewal(now, expires.0);
        self.known.lock().insert(key, Token { text, renew_at });
        Ok(())
    }

    /// How long until a pod's next token must be renewed.
    pub fn next_renewal(&self, uid: &str, now: Timestamp) -> Option<Duration> {
        let known = self.known.lock();
        let next = known.iter().filter(|((of, ..), _)| of == uid).map(|(_, token)| token.renew_at).min()?;
        Some(Duration::try_from(next.duration_since(now)).unwrap_or_default())
    }

    /// Forgets a pod's tokens.
    pub fn forget(&self, uid: &str) {
        self.known.lock().retain(|(of, ..), _| of != uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_in_time() {
        let start = Timestamp::UNIX_EPOCH;
        let after = |seconds: i64| Timestamp::from_second(seconds).expect("a time");
        for (life, expect) in [(3600, 2880), (600, 480), (10 * 86_400, 86_400)] {
            assert_eq!(renewal(start, after(life)), after(expect), "a life of {life} s");
        }
    }
}
