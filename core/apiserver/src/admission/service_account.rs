//! `ServiceAccount`: every pod has an account, and its token as a volume.

use std::sync::Arc;
use std::time::Duration;

use gantry_api::error::ApiError;
use gantry_api::object::{Object, at, items_at, map_mut, str_at};
use rand::Rng;
use serde_json::{Value, json};

use super::{AdmissionRequest, ObjectReader, Operation};
use crate::auth::node::graph::{MIRROR_POD, secret_names};

const DEFAULT: &str = "default";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The mark of tokens that admission asks for: they warn before they expire.
const EXPIRATION_SECONDS: i64 = 3607;
const ENFORCE_MOUNTABLE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";
/// A new namespace gets its default account from a controller: a pod that comes earlier waits so long, as upstream does.
const DEFAULT_ACCOUNT_TRIES: usize = 75;
const DEFAULT_ACCOUNT_WAIT: Duration = Duration::from_millis(20);

fn concerns(request: &AdmissionRequest<'_>) -> bool {
    request.operation == Operation::Create && request.is_for_object("", "pods")
}

pub(super) async fn admit(
    request: &AdmissionRequest<'_>,
    pod: &mut Object,
    reader: &dyn ObjectReader,
) -> Result<(), ApiError> {
    if !concerns(request) || is_mirror(pod) {
        return validate(request, pod, reader);
    }
    let mut name = str_at(pod, "spec.serviceAccountName").to_owned();
    if name.is_empty() {
        DEFAULT.clone_into(&mut name);
    }
    let spec = map_mut(pod, "spec");
    for field in ["serviceAccountName", "serviceAccount"] {
        spec.insert(field.to_owned(), json!(name));
    }
    let account = wait_for_account(request, &name, reader).await;
    let account = account.ok_or_else(|| missing(request, pod, &name))?;
    let automount = |object: &Object, path: &str| at(object, path).as_bool();
    let mount = automount(pod, "spec.automountServiceAccountToken")
        .or_else(|| automount(&account, "automountServiceAccountToken"));
    if mount.unwrap_or(true) {
        mount_token(pod, &random_name(VOLUME_PREFIX));
    }
    if items_at(pod, "spec.imagePullSecrets").is_empty() && !items_at(&account, "imagePullSecrets").is_empty() {
        map_mut(pod, "spec").insert("imagePullSecrets".to_owned(), account["imagePullSecrets"].clone());
    }
    validate(request, pod, reader)
}

pub(super) fn validate(
    request: &AdmissionRequest<'_>,
    pod: &Object,
    reader: &dyn ObjectReader,
) -> Result<(), ApiError> {
    if !concerns(request) {
        return Ok(());
    }
    let name = str_at(pod, "spec.serviceAccountName");
    if is_mirror(pod) {
        let mut has_secrets = false;
        secret_names(pod, |_| has_secrets = true);
        let mut sources = items_at(pod, "spec.volumes").iter().flat_map(|volume| items_at(volume, "projected.sources"));
        let cause = if !name.is_empty() {
            "a mirror pod may not reference service accounts"
        } else if has_secrets {
            "a mirror pod may not reference secrets"
        } else if sources.any(|source| source.get("serviceAccountToken").is_some()) {
            "a mirror pod may not use ServiceAccountToken volume projections"
        } else {
            return Ok(());
        };
        return Err(request.forbidden(pod, cause));
    }
    if name.is_empty() {
        let (namespace, pod_name) = (request.namespace, str_at(pod, "metadata.name"));
        return Err(request.forbidden(pod, format_args!("no service account specified for pod {namespace}/{pod_name}")));
    }
    let account = reader.get("", "serviceaccounts", request.namespace, name);
    let account = account.ok_or_else(|| missing(request, pod, name))?;
    if at(&account, "metadata.annotations")[ENFORCE_MOUNTABLE_SECRETS].as_str().is_some_and(is_true) {
        check_mountable(&account, pod).map_err(|cause| request.forbidden(pod, cause))?;
    }
    Ok(())
}

fn is_mirror(pod: &Object) -> bool {
    !at(pod, "metadata.annotations")[MIRROR_POD].is_null()
}

/// What Go's `strconv.ParseBool` takes for true.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

fn missing(request: &AdmissionRequest<'_>, pod: &Object, name: &str) -> ApiError {
    let namespace = request.namespace;
    request.forbidden(
        pod,
        format_args!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"),
    )
}

async fn wait_for_account(
    request: &AdmissionRequest<'_>,
    name: &str,
    reader: &dyn ObjectReader,
) -> Option<Arc<Object>> {
    let tries = if name == DEFAULT { DEFAULT_ACCOUNT_TRIES } else { 1 };
    for attempt in 0..tries {
        if attempt > 0 {
            tokio::time::sleep(DEFAULT_ACCOUNT_WAIT).await;
        }
        let account = reader.get("", "serviceaccounts", request.namespace, name);
        if account.is_some() {
            return account;
        }
    }
    None
}

/// Five random letters that spell no word, as upstream's names end.
fn random_name(prefix: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    let suffix = (0..5).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())]));
    prefix.chars().chain(suffix).collect()
}

/// Mounts the token into every container that has nothing at its path.
fn mount_token(pod: &mut Object, new_name: &str) {
    let existing = items_at(pod, "spec.volumes").iter().map(|volume| str_at(volume, "name"));
    let existing = existing.into_iter().find(|name| name.starts_with(VOLUME_PREFIX)).map(str::to_owned);
    let name = existing.as_deref().unwrap_or(new_name).to_owned();
    let mut needed = false;
    let spec = map_mut(pod, "spec");
    for field in ["initContainers", "containers"] {
        for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            if items_at(container, "volumeMounts").iter().any(|mount| mount["mountPath"] == MOUNT_PATH) {
                continue;
            }
            needed = true;
            push(container, "volumeMounts", json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
        }
    }
    if needed && existing.is_none() {
        let volume = json!({
            "name": name,
            "projected": {
                "defaultMode": 0o644,
                "sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": EXPIRATION_SECONDS}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    {"downwardAPI": {"items": [{
                        "path": "namespace",
                        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                    }]}},
                ],
            },
        });
        let volumes = spec.entry("volumes").or_insert(Value::Null);
        match volumes.as_array_mut() {
            Some(list) => list.push(volume),
            None => *volumes = json!([volume]),
        }
    }
}

fn push(object: &mut Object, field: &str, item: Value) {
    match object.get_mut(field).and_then(Value::as_array_mut) {
        Some(list) => list.push(item),
        None => {
            map_mut(object, "").insert(field.to_owned(), json!([item]));
        }
    }
}

/// For accounts that ask for it: a pod refers only to secrets that its account names.
fn check_mountable(account: &Object, pod: &Object) -> Result<(), String> {
    let name = str_at(account, "metadata.name");
    let names = |path: &str| items_at(account, path).iter().map(|item| str_at(item, "name")).collect::<Vec<_>>();
    let mountable = names("secrets");
    for volume in items_at(pod, "spec.volumes") {
        let secret = str_at(volume, "secret.secretName");
        if !secret.is_empty() && !mountable.contains(&secret) {
            return Err(format!(
                "volume with secret.secretName={secret:?} is not allowed because service account {name} does not reference that secret"
            ));
        }
    }
    for (path, word) in [("spec.initContainers", "init container"), ("spec.containers", "container")] {
        for container in items_at(pod, path) {
            for variable in items_at(container, "env") {
                let secret = str_at(variable, "valueFrom.secretKeyRef.name");
                if !secret.is_empty() && !mountable.contains(&secret) {
                    return Err(format!(
                        "{word} {} with envVar {} referencing secret.secretName={secret:?} is not allowed because service account {name} does not reference that secret",
                        str_at(container, "name"),
                        str_at(variable, "name"),
                    ));
                }
            }
        }
    }
    let pull = names("imagePullSecrets");
    for (index, reference) in items_at(pod, "spec.imagePullSecrets").iter().enumerate() {
        let secret = str_at(reference, "name");
        if !pull.contains(&secret) {
            return Err(format!(
                "imagePullSecrets[{index}].name={secret:?} is not allowed because service account {name} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}
