//! Getting a container's image before it starts: the pull policy, credentials, back-off, and upstream's events.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Secret};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::context::Context;
use crate::images::{Image, ImageError, RegistryCredentials};
use crate::pod::{self, go_duration};
use crate::references::Held;
use crate::status::Waiting;

/// A pod's pulls that failed.
#[derive(Default)]
pub struct Pulls {
    backoff: Backoff,
    errors: HashMap<String, String>,
}

impl Pulls {
    /// When an image may be pulled again.
    pub fn retry_at(&self, image: &str) -> Option<Timestamp> {
        let (at, wait) = self.backoff.last(image)?;
        self.errors.contains_key(image).then(|| at.checked_add(wait).unwrap_or(at))
    }
}

/// Whether the image is asked for again though it is here (`imagePullPolicy`, and its default by the tag).
fn policy(container: &Container) -> &str {
    match container.image_pull_policy.as_deref().filter(|policy| !policy.is_empty()) {
        Some(policy) => policy,
        None => {
            let image = container.image.as_deref().unwrap_or_default();
            let last = image.rsplit('/').next().unwrap_or_default();
            let latest = !image.contains('@') && last.split_once(':').is_none_or(|(_, tag)| tag == "latest");
            if latest { "Always" } else { "IfNotPresent" }
        }
    }
}

/// Whether a container's image would have to be pulled, which takes its time.
pub async fn is_slow(context: &Context, container: &Container) -> bool {
    let image = container.image.as_deref().unwrap_or_default();
    policy(container) == "Always" || !matches!(context.parts.images.get(image).await, Ok(Some(_)))
}

/// Gets the image of a volume, by the same policy.
///
/// # Errors
/// Why there is none.
pub async fn for_volume(context: &Context, pod: &Pod, asked: &Container, held: &Held) -> Result<Image, String> {
    let images = &context.parts.images;
    let name = asked.image.as_deref().unwrap_or_default();
    let present = images.get(name).await.map_err(|error| error.to_string())?;
    match (policy(asked), present) {
        ("IfNotPresent" | "Never", Some(image)) => Ok(image),
        ("Never", None) => Err(format!("Container image {name:?} is not present with pull policy of Never")),
        _ => {
            let (credentials, _) = credentials(pod, held);
            images.pull(name, &credentials).await.map_err(|error| error.to_string())
        }
    }
}

fn failed(reason: &str, message: impl Into<String>) -> Waiting {
    Waiting { reason: reason.to_owned(), message: message.into() }
}

/// Gets the image of a container.
///
/// # Errors
/// Why the container waits; the events are written already.
pub async fn ensure(
    context: &Context,
    pod: &Pod,
    container: &Container,
    about: &ObjectReference,
    held: &Held,
    pulls: &mut Pulls,
    ending: &CancellationToken,
) -> Result<Image, Waiting> {
    let recorder = &context.parts.recorder;
    let images = &context.parts.images;
    let name = container.image.as_deref().unwrap_or_default();
    let present = match images.get(name).await {
        Ok(found) => found,
        Err(error @ ImageError::InvalidName { .. }) => {
            let message = format!("Failed to apply default image tag {name:?}: {error}");
            recorder.warning(about, "InspectFailed", &message);
            return Err(failed("InvalidImageName", message));
        }
        Err(error) => {
            let message = format!("Failed to inspect image {name:?}: {error}");
            recorder.warning(about, "InspectFailed", &message);
            return Err(failed("ImageInspectError", message));
        }
    };
    let policy = policy(container);
    if let Some(image) = present.clone().filter(|_| policy != "Always") {
        let note = format!("Container image {name:?} already present on machine and can be accessed by the pod");
        recorder.normal(about, "Pulled", note);
        return Ok(image);
    }
    if policy == "Never" {
        let message = format!("Container image {name:?} is not present with pull policy of Never");
        recorder.warning(about, "ErrImageNeverPull", &message);
        return Err(failed("ErrImageNeverPull", message));
    }
    let now = Timestamp::now();
    if let Some((since, _)) = pulls.backoff.last(name)
        && pulls.errors.contains_key(name)
        && pulls.backoff.waiting(name, since, now).is_some()
    {
        let text = format!("Back-off pulling image {name:?}");
        recorder.normal(about, "BackOff", &text);
        let last = pulls.errors.get(name).cloned().unwrap_or_default();
        return Err(failed("ImagePullBackOff", format!("{text}: ErrImagePull: {last}")));
    }
    recorder.normal(about, "Pulling", format!("Pulling image {name:?}"));
    let (credentials, missing) = credentials(pod, held);
    if !missing.is_empty() {
        let note = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            missing.join(", ")
        );
        recorder.warning(about, "FailedToRetrieveImagePullSecret", note);
    }
    let begun = std::time::Instant::now();
    let pulled = tokio::select! {
        pulled = images.pull(name, &credentials) => pulled,
        () = ending.cancelled() => return Err(failed("ContainerCreating", "")),
    };
    match pulled {
        Ok(image) => {
            pulls.errors.remove(name);
            pulls.backoff.reset(name);
            let took = go_duration(std::time::Duration::from_millis(
                u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            ));
            let note = format!(
                "Successfully pulled image {name:?} in {took} ({took} including waiting). Image size: {} bytes.",
                image.size_bytes
            );
            recorder.normal(about, "Pulled", note);
            Ok(image)
        }
        Err(error) => {
            let text = error.to_string();
            recorder.warning(about, "Failed", format!("Failed to pull image {name:?}: {text}"));
            let now = Timestamp::now();
            pulls.backoff.next(name, now, now);
            pulls.errors.insert(name.to_owned(), text.clone());
            let reason =
                if matches!(error, ImageError::InvalidName { .. }) { "InvalidImageName" } else { "ErrImagePull" };
            Err(failed(reason, text))
        }
    }
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

/// The credentials of a pod's pull secrets, and the names of secrets that are missing.
fn credentials(pod: &Pod, held: &Held) -> (Vec<RegistryCredentials>, Vec<String>) {
    let spec = pod::spec(pod);
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for reference in spec.image_pull_secrets.iter().flatten() {
        match held.secret(pod::namespace(pod), &reference.name) {
            Some(secret) => found.extend(read_secret(&secret)),
            None => missing.push(reference.name.clone()),
        }
    }
    (found, missing)
}

fn read_secret(secret: &Secret) -> Vec<RegistryCredentials> {
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    let entries = if let Some(text) = data(".dockerconfigjson") {
        serde_json::from_slice::<DockerConfig>(text).map(|config| config.auths).unwrap_or_default()
    } else if let Some(text) = data(".dockercfg") {
        serde_json::from_slice(text).unwrap_or_default()
    } else {
        BTreeMap::new()
    };
    entries.into_iter().filter_map(|(registry, entry)| credential(&registry, entry)).collect()
}

fn credential(registry: &str, entry: Entry) -> Option<RegistryCredentials> {
    let pair = entry.auth.as_deref().and_then(|auth| STANDARD.decode(auth.trim()).ok());
    let pair = pair.and_then(|bytes| String::from_utf8(bytes).ok());
    let (username, password) = match pair.as_deref().and_then(|pair| pair.split_once(':')) {
        Some((username, password)) => (username.to_owned(), password.to_owned()),
        None => (entry.username?, entry.password?),
    };
    let registry = registry.trim_start_matches("https://").trim_start_matches("http://");
    let registry = registry.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
    Some(RegistryCredentials { registry: registry.to_owned(), username, password })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_tag_decides_when_the_policy_is_not_given() {
        let cases = [
            ("a", "Always"),
            ("a:latest", "Always"),
            ("a:1", "IfNotPresent"),
            ("h:5000/a", "Always"),
            ("h:5000/a:1", "IfNotPresent"),
            ("a@sha256:1", "IfNotPresent"),
        ];
        for (image, expect) in cases {
            let container = Container { image: Some(image.to_owned()), ..Container::default() };
            assert_eq!(policy(&container), expect, "{image}");
        }
    }

    #[test]
    fn pull_secrets_of_both_types_are_read() {
        let config = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": STANDARD.encode("u:p:q")},
            "r.example.org:5000": {"username": "a", "password": "b"},
            "broken": {"auth": "%"},
        }});
        let encode = |value: &serde_json::Value| STANDARD.encode(value.to_string());
        let show = |data: serde_json::Value| {
            let secret: Secret = serde_json::from_value(json!({"data": data})).expect("a secret");
            let all = read_secret(&secret);
            all.iter().map(|c| format!("{} {} {}", c.registry, c.username, c.password)).collect::<Vec<_>>()
        };
        let expect = ["index.docker.io u p:q", "r.example.org:5000 a b"];
        assert_eq!(show(json!({".dockerconfigjson": encode(&config)})), expect);
        assert_eq!(show(json!({".dockercfg": encode(&config["auths"])})), expect);
        assert!(show(json!({".dockerconfigjson": "AA=="})).is_empty());
    }
}
