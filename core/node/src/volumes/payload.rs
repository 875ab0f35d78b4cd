//! The files of configMap, secret, downwardAPI and projected volumes. Pure: what is referred to comes as arguments.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret, ServiceAccountTokenProjection,
    Volume,
};

use super::atomic_writer::{File, Payload, check_path};
use crate::env::{field_value, resource_value};
use crate::pod;
use crate::resources::ResourceList;

/// Upstream's mode of files for which nobody says otherwise.
const DEFAULT_MODE: i32 = 0o644;

/// Where values come from.
pub struct Sources<'a> {
    /// A ConfigMap of the pod's namespace.
    pub config_map: &'a dyn Fn(&str) -> Option<Arc<ConfigMap>>,
    /// A Secret of the pod's namespace.
    pub secret: &'a dyn Fn(&str) -> Option<Arc<Secret>>,
    /// The token for a projection, fetched before.
    pub token: &'a dyn Fn(&ServiceAccountTokenProjection) -> Result<String, String>,
    /// What the node has for pods.
    pub allocatable: &'a ResourceList,
}

/// The files of a volume; none when it is of another kind.
///
/// # Errors
/// Upstream's message for what is missing.
pub fn payload(pod: &Pod, volume: &Volume, sources: &Sources<'_>) -> Option<Result<Payload, String>> {
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        return Some(config_map(&source.name, source.items.as_deref(), source.optional, mode, sources));
    }
    if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let name = source.secret_name.as_deref().unwrap_or_default();
        return Some(secret(name, source.items.as_deref(), source.optional, mode, sources));
    }
    if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        return Some(downward(pod, source.items.as_deref().unwrap_or_default(), mode, sources));
    }
    volume.projected.as_ref().map(|source| projected(pod, source, sources))
}

fn projected(pod: &Pod, source: &ProjectedVolumeSource, sources: &Sources<'_>) -> Result<Payload, String> {
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    let mut out = Payload::new();
    let mut errors = Vec::new();
    for part in source.sources.iter().flatten() {
        let files = if let Some(map) = &part.config_map {
            config_map(&map.name, map.items.as_deref(), map.optional, mode, sources)
        } else if let Some(from) = &part.secret {
            secret(&from.name, from.items.as_deref(), from.optional, mode, sources)
        } else if let Some(api) = &part.downward_api {
            downward(pod, api.items.as_deref().unwrap_or_default(), mode, sources)
        } else if let Some(token) = &part.service_account_token {
            check_path(&token.path).and_then(|()| (sources.token)(token)).map(|text| {
                let (mode, user) = token_owner(pod, mode);
                Payload::from([(token.path.clone(), File { data: text.into_bytes(), mode, user })])
            })
        } else {
            Err("projected volume source is not supported on this node".to_owned())
        };
        match files {
            Ok(files) => out.extend(files),
            Err(error) => errors.push(error),
        }
    }
    match errors.as_slice() {
        [] => Ok(out),
        [one] => Err(one.clone()),
        // Go's aggregate.
        many => Err(format!("[{}]", many.join(", "))),
    }
}

/// A token belongs to the one user that all containers run as, or to the pod's group; else all may read it.
fn token_owner(pod: &Pod, mode: i32) -> (u32, Option<u32>) {
    let spec = pod::spec(pod);
    let context = spec.security_context.as_ref();
    let default_user = context.and_then(|context| context.run_as_user);
    let mut users = pod::all_containers(pod)
        .map(|(_, container)| container.security_context.as_ref().and_then(|own| own.run_as_user).or(default_user));
    let first = users.next().flatten();
    let same = first.filter(|first| users.all(|user| user == Some(*first)));
    let user = same.and_then(|user| u32::try_from(user).ok());
    let private = user.is_some() || context.is_some_and(|context| context.fs_group.is_some());
    (if private { 0o600 } else { mode.unsigned_abs() }, user)
}

fn config_map(
    name: &str,
    items: Option<&[KeyToPath]>,
    is_optional: Option<bool>,
    mode: i32,
    sources: &Sources<'_>,
) -> Result<Payload, String> {
    let optional = is_optional == Some(true);
    let Some(map) = (sources.config_map)(name) else {
        return if optional { Ok(Payload::new()) } else { Err(format!("configmap {name:?} not found")) };
    };
    let text = map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
    select(text.chain(binary).collect(), items, optional, mode, "configmap")
}

fn secret(
    name: &str,
    items: Option<&[KeyToPath]>,
    is_optional: Option<bool>,
    mode: i32,
    sources: &Sources<'_>,
) -> Result<Payload, String> {
    let optional = is_optional == Some(true);
    let Some(secret) = (sources.secret)(name) else {
        return if optional { Ok(Payload::new()) } else { Err(format!("secret {name:?} not found")) };
    };
    let all = secret.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice())).collect();
    select(all, items, optional, mode, "secret")
}

fn select(
    all: Vec<(&str, &[u8])>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: i32,
    kind: &str,
) -> Result<Payload, String> {
    let file = |data: &[u8], mode: i32| File { data: data.to_vec(), mode: mode.unsigned_abs() & 0o777, user: None };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(all.into_iter().map(|(key, data)| (key.to_owned(), file(data, mode))).collect());
    };
    let mut out = Payload::new();
    for item in items {
        check_path(&item.path)?;
        match all.iter().find(|(key, _)| *key == item.key) {
            Some((_, data)) => {
                out.insert(item.path.clone(), file(data, item.mode.unwrap_or(mode)));
            }
            None if optional => {}
            None if kind == "secret" => return Err(format!("references non-existent secret key: {}", item.key)),
            None => return Err(format!("{kind} references non-existent config key: {}", item.key)),
        }
    }
    Ok(out)
}

fn downward(pod: &Pod, items: &[DownwardAPIVolumeFile], mode: i32, sources: &Sources<'_>) -> Result<Payload, String> {
    let mut out = Payload::new();
    for item in items {
        check_path(&item.path)?;
        let value = if let Some(field) = &item.field_ref {
            field_value(pod, &field.field_path, &[], &[])?
        } else if let Some(selector) = &item.resource_field_ref {
            let name = selector.container_name.as_deref().unwrap_or_default();
            let found = pod::find_container(pod, name);
            let (_, container) = found.ok_or_else(|| format!("container {name} not found"))?;
            resource_value(&container, selector, sources.allocatable)?
        } else {
            continue;
        };
        let mode = item.mode.unwrap_or(mode).unsigned_abs() & 0o777;
        out.insert(item.path.clone(), File { data: value.into_bytes(), mode, user: None });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(volume: serde_json::Value, expect: &str) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"b": "2", "a": "x\ny"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m"}}}]},
        }))
        .expect("a pod");
        let volume: Volume = serde_json::from_value(volume).expect("a volume");
        let config_map = |name: &str| {
            let map = json!({"data": {"k": "v", "l": "w"}, "binaryData": {"b": "AAE="}});
            (name == "cm").then(|| Arc::new(serde_json::from_value(map).expect("a map")))
        };
        let secret = |name: &str| {
            (name == "s").then(|| Arc::new(serde_json::from_value(json!({"data": {"s": "eA=="}})).expect("a secret")))
        };
        let token = |_: &ServiceAccountTokenProjection| Ok("TOKEN".to_owned());
        let allocatable = ResourceList::new();
        let sources = Sources { config_map: &config_map, secret: &secret, token: &token, allocatable: &allocatable };
        let found = match payload(&pod, &volume, &sources).expect("a kind with files") {
            Err(error) => error,
            Ok(files) => {
                let show = |(path, file): (&String, &File)| {
                    format!("{path}:{:o}={}", file.mode, String::from_utf8_lossy(&file.data).escape_debug())
                };
                files.iter().map(show).collect::<Vec<_>>().join(" ")
            }
        };
        assert_eq!(found, expect);
    }

    #[test]
    fn each_kind_of_volume() {
        check(json!({"name": "v", "configMap": {"name": "cm"}}), "b:644=\\0\\u{1} k:644=v l:644=w");
        check(
            json!({"name": "v", "configMap": {"name": "cm", "defaultMode": 256, "items": [{"key": "k", "path": "d/k"}]}}),
            "d/k:400=v",
        );
        check(json!({"name": "v", "configMap": {"name": "none"}}), "configmap \"none\" not found");
        check(json!({"name": "v", "configMap": {"name": "none", "optional": true}}), "");
        check(
            json!({"name": "v", "configMap": {"name": "cm", "items": [{"key": "z", "path": "z"}]}}),
            "configmap references non-existent config key: z",
        );
        check(
            json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "s", "path": "t", "mode": 384}]}}),
            "t:600=x",
        );
        check(
            json!({"name": "v", "downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu", "divisor": "1m"}},
            ]}}),
            "cpu:644=1500 labels:644=a=\\\"x\\\\ny\\\"\\nb=\\\"2\\\"",
        );
        check(
            json!({"name": "v", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}},
                {"configMap": {"name": "cm", "items": [{"key": "k", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
            ]}}),
            "ca.crt:644=v namespace:644=n token:644=TOKEN",
        );
        check(
            json!({"name": "v", "projected": {"sources": [{"configMap": {"name": "x"}}, {"secret": {"name": "y"}}]}}),
            "[configmap \"x\" not found, secret \"y\" not found]",
        );
    }
}
