//! Service account tokens: the signature, the times, and the objects they are bound to, which must still be there.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use gantry_api::object::{Object, str_at};
use gantry_pki::token::{ObjectRef, claimed_issuer};
use gantry_pki::{Claims, ServiceAccountKeys};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::user::{CREDENTIAL_ID, NODE_NAME, UserInfo, service_account_groups, service_account_user};
use crate::admission::ObjectReader;

/// The audience and issuer of tokens that name none.
pub const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";
/// So many verified signatures are remembered; beyond that all are verified anew.
const REMEMBERED_MAX: usize = 1024;

/// Verifies tokens.
pub struct ServiceAccountTokens {
    keys: Arc<ServiceAccountKeys>,
    issuers: Vec<String>,
    // Only what never changes is remembered: that a key has signed these claims.
    remembered: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl ServiceAccountTokens {
    /// A verifier of tokens that say they are from one of the issuers.
    pub fn new(keys: Arc<ServiceAccountKeys>, issuers: Vec<String>) -> Self {
        Self { keys, issuers, remembered: Mutex::default() }
    }

    /// The user of a token and the token's audiences; `None` when it isn't a service account token of this cluster.
    pub fn authenticate(
        &self,
        token: &str,
        reader: &dyn ObjectReader,
        now_seconds: i64,
    ) -> Result<Option<(UserInfo, Vec<String>)>, String> {
        if claimed_issuer(token).is_none_or(|issuer| !self.issuers.contains(&issuer)) {
            return Ok(None);
        }
        let claims = self.verify(token)?;
        claims.check_time(now_seconds).map_err(|error| error.to_string())?;
        let user = bound_user(&claims, reader, now_seconds)?;
        Ok(Some((user, claims.aud.clone())))
    }

    fn verify(&self, token: &str) -> Result<Arc<Claims>, String> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(claims) = self.remembered.lock().get(&digest) {
            return Ok(claims.clone());
        }
        let claims = Arc::new(self.keys.verify(token).map_err(|error| error.to_string())?);
        let mut remembered = self.remembered.lock();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        Ok(match remembered.entry(digest) {
            Entry::Occupied(entry) => entry.get().clone(),
            Entry::Vacant(entry) => entry.insert(claims).clone(),
        })
    }
}

/// The user of verified claims, if all that they name is still there.
fn bound_user(claims: &Claims, reader: &dyn ObjectReader, now_seconds: i64) -> Result<UserInfo, String> {
    let kubernetes = &claims.kubernetes;
    let (namespace, account) = (&kubernetes.namespace, &kubernetes.serviceaccount);
    if claims.sub != service_account_user(namespace, &account.name) {
        return Err("service account token claims could not be validated".to_owned());
    }
    let live = reader
        .get("", "serviceaccounts", namespace, &account.name)
        .ok_or_else(|| format!("serviceaccounts {:?} not found", account.name))?;
    if deleted_before(&live, now_seconds) {
        return Err(format!("service account {namespace}/{} has been deleted", account.name));
    }
    let uid = str_at(&live, "metadata.uid");
    if uid != account.uid {
        return Err(format!("service account UID ({uid}) does not match claim ({})", account.uid));
    }
    if let Some(secret) = &kubernetes.secret {
        bound("secret", "secrets", namespace, secret, reader, now_seconds)?;
    }
    let mut user = UserInfo {
        name: claims.sub.clone(),
        uid: account.uid.clone(),
        groups: service_account_groups(namespace),
        ..UserInfo::default()
    };
    let mut extra = |key: &str, value: &str| user.extra.insert(key.to_owned(), vec![value.to_owned()]);
    if !claims.jti.is_empty() {
        extra(CREDENTIAL_ID, &format!("JTI={}", claims.jti));
    }
    if let Some(pod) = &kubernetes.pod {
        bound("pod", "pods", namespace, pod, reader, now_seconds)?;
        extra(POD_NAME, &pod.name);
        extra(POD_UID, &pod.uid);
    }
    if let Some(node) = &kubernetes.node {
        // The node of a bound pod is only told; a token bound to the node itself dies with it.
        if kubernetes.pod.is_none() {
            bound("node", "nodes", "", node, reader, now_seconds)?;
        }
        extra(NODE_NAME, &node.name);
        if !node.uid.is_empty() {
            extra(NODE_UID, &node.uid);
        }
    }
    Ok(user)
}

fn bound(
    word: &str,
    resource: &str,
    namespace: &str,
    reference: &ObjectRef,
    reader: &dyn ObjectReader,
    now_seconds: i64,
) -> Result<(), String> {
    let invalidated = || "service account token has been invalidated".to_owned();
    let live = reader.get("", resource, namespace, &reference.name).ok_or_else(invalidated)?;
    if deleted_before(&live, now_seconds) {
        return Err(invalidated());
    }
    let uid = str_at(&live, "metadata.uid");
    if uid != reference.uid {
        return Err(format!("{word} UID ({uid}) does not match service account {word} ref claim ({})", reference.uid));
    }
    Ok(())
}

/// Whether an object's grace period ended, the leeway of clocks included.
fn deleted_before(object: &Object, now_seconds: i64) -> bool {
    str_at(object, "metadata.deletionTimestamp")
        .parse::<jiff::Timestamp>()
        .is_ok_and(|time| time.as_second() < now_seconds - gantry_pki::token::LEEWAY_SECONDS)
}
