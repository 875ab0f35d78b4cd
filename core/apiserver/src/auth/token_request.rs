//! `serviceaccounts/token`: tokens for service accounts, bound to a pod, a node or a secret if asked.

use std::sync::Arc;

use gantry_api::error::ApiError;
use gantry_api::field::{FieldError, FieldPath};
use gantry_api::object::{Object, at, items_at, map_mut, str_at};
use gantry_api::resources::split_api_version;
use gantry_pki::token::{KubernetesClaims, ObjectRef};
use gantry_pki::{Claims, ServiceAccountKeys};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::user::service_account_user;
use crate::admission::{ObjectReader, Warning};

const GROUP: &str = "authentication.k8s.io";
/// What is asked for when nothing is.
const EXPIRATION_SECONDS_DEFAULT: i64 = 3600;
const EXPIRATION_SECONDS_MIN: i64 = 600;
const EXPIRATION_SECONDS_MAX: i64 = 1 << 32;
/// The expiry that admission puts into pods: 7 seconds over an hour, which nobody asks for by accident. Such tokens
/// live for [`EXTENDED_SECONDS`] and only warn after this time, for clients that never reload them.
const WARN_ONLY_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

/// Issues tokens.
pub struct TokenIssuer {
    keys: Arc<ServiceAccountKeys>,
    issuer: String,
    audiences: Vec<String>,
}

impl TokenIssuer {
    /// An issuer whose tokens are for `audiences` (the server itself) when a request names none.
    pub fn new(keys: Arc<ServiceAccountKeys>, issuer: String, audiences: Vec<String>) -> Self {
        Self { keys, issuer, audiences }
    }

    /// The answer to a token request for a service account: the decoded object, filled in.
    pub fn create(
        &self,
        namespace: &str,
        name: &str,
        mut request: Object,
        reader: &dyn ObjectReader,
    ) -> Result<(Object, Vec<Warning>), ApiError> {
        let now = Timestamp::now();
        must_match(&request, "name", name, name)?;
        must_match(&request, "namespace", namespace, name)?;
        let account = reader
            .get("", "serviceaccounts", namespace, name)
            .ok_or_else(|| ApiError::not_found(("", "serviceaccounts"), name))?;

        let mut audiences: Vec<String> =
            items_at(&request, "spec.audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if audiences.is_empty() {
            audiences.clone_from(&self.audiences);
        }
        let requested = at(&request, "spec.expirationSeconds").as_i64().unwrap_or(EXPIRATION_SECONDS_DEFAULT);
        let metadata = map_mut(&mut request, "metadata");
        metadata.insert("name".to_owned(), json!(name));
        metadata.insert("namespace".to_owned(), json!(namespace));
        metadata.insert("creationTimestamp".to_owned(), json!(rfc3339(now)));
        let spec = map_mut(&mut request, "spec");
        spec.insert("audiences".to_owned(), json!(audiences));
        spec.insert("expirationSeconds".to_owned(), json!(requested));
        spec.entry("boundObjectRef").or_insert(Value::Null);
        check_expiration(requested)?;

        let mut kubernetes = bind(&request, namespace, name, reader)?;
        let mut lifetime = requested;
        if kubernetes.pod.is_some()
            && requested == WARN_ONLY_SECONDS
            && audiences.iter().all(|audience| self.audiences.contains(audience))
        {
            kubernetes.warnafter = Some(now.as_second() + requested);
            lifetime = EXTENDED_SECONDS;
        }
        kubernetes.namespace = namespace.to_owned();
        kubernetes.serviceaccount = reference(&account);
        let claims = Claims {
            aud: audiences,
            exp: now.as_second() + lifetime,
            iat: now.as_second(),
            iss: self.issuer.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            kubernetes,
            nbf: now.as_second(),
            sub: service_account_user(namespace, name),
        };
        let token = self
            .keys
            .issue(&claims)
            .map_err(|error| ApiError::internal(format_args!("failed to generate token: {error}")))?;
        let expires = now.saturating_add(SignedDuration::from_secs(requested)).unwrap_or(now);
        request["status"] = json!({"token": token, "expirationTimestamp": rfc3339(expires)});
        request["kind"] = json!("TokenRequest");
        request["apiVersion"] = json!("authentication.k8s.io/v1");
        Ok((request, Vec::new()))
    }
}

fn rfc3339(time: Timestamp) -> String {
    gantry_api::timestamp::format(time)
}

fn reference(object: &Object) -> ObjectRef {
    ObjectRef { name: str_at(object, "metadata.name").to_owned(), uid: str_at(object, "metadata.uid").to_owned() }
}

fn must_match(request: &Object, field: &str, expect: &str, account: &str) -> Result<(), ApiError> {
    let seen = str_at(at(request, "metadata"), field);
    if seen.is_empty() || seen == expect {
        return Ok(());
    }
    let path = FieldPath::new("metadata").child(field);
    let error = FieldError::invalid(&path, seen, format!("must match the service account {field} if specified"));
    Err(ApiError::invalid((GROUP, "TokenRequest"), account, &[error]))
}

fn check_expiration(seconds: i64) -> Result<(), ApiError> {
    let detail = match seconds {
        ..EXPIRATION_SECONDS_MIN => "may not specify a duration less than 10 minutes",
        EXPIRATION_SECONDS_MIN..=EXPIRATION_SECONDS_MAX => return Ok(()),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let error = FieldError::invalid(&FieldPath::new("spec.expirationSeconds"), seconds, detail);
    Err(ApiError::invalid((GROUP, "TokenRequest"), "", &[error]))
}

/// The claims of what the token is bound to, which must be there and be the right one.
fn bind(
    request: &Object,
    namespace: &str,
    account: &str,
    reader: &dyn ObjectReader,
) -> Result<KubernetesClaims, ApiError> {
    let mut claims = KubernetesClaims::default();
    let bound = at(request, "spec.boundObjectRef");
    if bound.is_null() {
        return Ok(claims);
    }
    let (kind, name) = (str_at(bound, "kind"), str_at(bound, "name"));
    let (group, version) = split_api_version(str_at(bound, "apiVersion"));
    let get = |resource: &str, namespace: &str| {
        reader.get("", resource, namespace, name).ok_or_else(|| ApiError::not_found(("", resource), name))
    };
    let object = match (group, kind) {
        ("", "Pod") => {
            let pod = get("pods", namespace)?;
            if str_at(&pod, "spec.serviceAccountName") != account {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            let node = str_at(&pod, "spec.nodeName");
            if !node.is_empty() {
                let uid = reader.get("", "nodes", "", node).map(|node| reference(&node).uid).unwrap_or_default();
                claims.node = Some(ObjectRef { name: node.to_owned(), uid });
            }
            claims.pod = Some(reference(&pod));
            pod
        }
        ("", "Node") => {
            let node = get("nodes", "")?;
            claims.node = Some(reference(&node));
            node
        }
        ("", "Secret") => {
            let secret = get("secrets", namespace)?;
            claims.secret = Some(reference(&secret));
            secret
        }
        _ => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    let wanted = str_at(bound, "uid");
    if !wanted.is_empty() && wanted != str_at(&object, "metadata.uid") {
        let cause = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict((group, kind), name, &cause));
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Objects;
    use crate::auth::service_accounts::{DEFAULT_ISSUER, ServiceAccountTokens};

    fn objects() -> Objects {
        Objects::new(vec![
            ("", "serviceaccounts", json!({"metadata": {"namespace": "ns", "name": "bot", "uid": "u-bot"}})),
            (
                "",
                "pods",
                json!({"metadata": {"namespace": "ns", "name": "p", "uid": "u-p"}, "spec": {"serviceAccountName": "bot", "nodeName": "n1"}}),
            ),
            (
                "",
                "pods",
                json!({"metadata": {"namespace": "ns", "name": "q", "uid": "u-q"}, "spec": {"serviceAccountName": "other"}}),
            ),
            ("", "nodes", json!({"metadata": {"name": "n1", "uid": "u-n1"}})),
            ("", "secrets", json!({"metadata": {"namespace": "ns", "name": "s", "uid": "u-s"}})),
        ])
    }

    fn issuer() -> (Arc<ServiceAccountKeys>, TokenIssuer) {
        let keys = Arc::new(ServiceAccountKeys::generate().expect("a key"));
        (keys.clone(), TokenIssuer::new(keys, DEFAULT_ISSUER.to_owned(), vec![DEFAULT_ISSUER.to_owned()]))
    }

    #[test]
    fn a_bound_token_is_good_as_long_as_its_pod_lives() {
        let (keys, issuer) = issuer();
        let objects = objects();
        let request = json!({"spec": {"expirationSeconds": 3607, "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u-p"}}});
        let (answer, _) = issuer.create("ns", "bot", request, &objects).expect("a token");
        let token = str_at(&answer, "status.token");
        let claims = keys.verify(token).expect("claims");
        assert_eq!((claims.exp - claims.iat, claims.kubernetes.warnafter), (EXTENDED_SECONDS, Some(claims.iat + 3607)));
        assert_eq!(claims.kubernetes.node, Some(ObjectRef { name: "n1".to_owned(), uid: "u-n1".to_owned() }));

        let tokens = ServiceAccountTokens::new(keys, vec![DEFAULT_ISSUER.to_owned()]);
        let now = Timestamp::now().as_second();
        let (user, audiences) = tokens.authenticate(token, &objects, now).expect("good").expect("ours");
        assert_eq!(
            (user.name.as_str(), user.uid.as_str(), audiences.len()),
            ("system:serviceaccount:ns:bot", "u-bot", 1)
        );
        assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns"]);
        let extra: Vec<(&str, &str)> = user
            .extra
            .iter()
            .map(|(key, values)| (key.as_str(), values[0].as_str()))
            .filter(|(key, _)| !key.contains("credential"))
            .collect();
        assert_eq!(
            extra,
            [
                ("authentication.kubernetes.io/node-name", "n1"),
                ("authentication.kubernetes.io/node-uid", "u-n1"),
                ("authentication.kubernetes.io/pod-name", "p"),
                ("authentication.kubernetes.io/pod-uid", "u-p"),
            ]
        );
        let without = objects.without("pods", "p");
        assert_eq!(
            tokens.authenticate(token, &without, now),
            Err("service account token has been invalidated".to_owned())
        );
        let without = objects.without("serviceaccounts", "bot");
        assert_eq!(tokens.authenticate(token, &without, now), Err("serviceaccounts \"bot\" not found".to_owned()));
        assert_eq!(
            tokens.authenticate(token, &objects, claims.exp + 61),
            Err("service account token has expired".to_owned())
        );
        assert_eq!(tokens.authenticate("nonsense", &objects, now), Ok(None));
    }

    #[test]
    fn wrong_requests_are_refused_in_upstreams_words() {
        let (_, issuer) = issuer();
        let bound = |kind: &str, name: &str, uid: &str| json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}}});
        let cases = [
            (
                "bot",
                json!({"spec": {"expirationSeconds": 1}}),
                422,
                "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
            ),
            (
                "bot",
                json!({"spec": {"expirationSeconds": 4_294_967_297_i64}}),
                422,
                "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
            ),
            ("none", json!({"spec": {}}), 404, "serviceaccounts \"none\" not found"),
            (
                "bot",
                json!({"metadata": {"name": "x"}}),
                422,
                "TokenRequest.authentication.k8s.io \"bot\" is invalid: metadata.name: Invalid value: \"x\": must match the service account name if specified",
            ),
            ("bot", bound("Pod", "none", ""), 404, "pods \"none\" not found"),
            (
                "bot",
                bound("Pod", "q", ""),
                400,
                "cannot bind token for serviceaccount \"bot\" to pod running with different serviceaccount name.",
            ),
            ("bot", bound("ConfigMap", "c", ""), 400, "cannot bind token to object of type /v1, Kind=ConfigMap"),
            (
                "bot",
                bound("Secret", "s", "old"),
                409,
                "Operation cannot be fulfilled on Secret \"s\": the UID in the bound object reference (old) does not match the UID in record. The object might have been deleted and then recreated",
            ),
        ];
        for (account, request, code, message) in cases {
            let error = issuer.create("ns", account, request, &objects()).expect_err(message);
            assert_eq!((error.code, error.message.as_str()), (code, message));
        }
    }
}
