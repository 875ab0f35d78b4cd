//! A container, as a runtime is asked for it. Pure but for the files that a seccomp profile and devices are read from.

use std::path::Path;

use gantry_plugin_host::contract::runtime::{ContainerConfig, Device, Mount, Propagation, Seccomp, Security};
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext};

use crate::env::expand;
use crate::images::Image;
use crate::observed::keys;
use crate::pod;
use crate::resources;
use crate::sandbox_config::pairs;

/// What a container depends on besides the pod.
pub struct ContainerInputs<'a> {
    /// How often it was started before.
    pub attempt: u32,
    /// Its image.
    pub image: &'a Image,
    /// Its environment.
    pub environment: &'a [(String, String)],
    /// Its mounts.
    pub mounts: Vec<Mount>,
    /// Its block devices.
    pub devices: Vec<Device>,
    /// Its log file.
    pub log_path: &'a Path,
    /// The file that is mounted at its `terminationMessagePath`.
    pub termination_file: &'a Path,
    /// Bytes of the node's memory.
    pub node_memory_bytes: u64,
    /// The profile of pods that say nothing is the runtime's.
    pub seccomp_default: bool,
    /// Folder that `Localhost` profiles are in.
    pub seccomp_dir: &'a Path,
}

/// The container to ask for.
///
/// # Errors
/// Upstream's message why the configuration can't be (`CreateContainerConfigError`).
pub fn container_config(
    pod: &Pod,
    container: &Container,
    inputs: ContainerInputs<'_>,
) -> Result<ContainerConfig, String> {
    let spec = pod::spec(pod);
    let security = security(pod, container, &inputs)?;
    let value = |name: &str| inputs.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let expanded = |list: &Option<Vec<String>>| list.iter().flatten().map(|text| expand(text, value)).collect();
    let hash = pod::container_hash(container);
    let grace = spec.termination_grace_period_seconds.unwrap_or(30).to_string();
    let attempt = inputs.attempt.to_string();
    let image = inputs.image;
    let shown_name = if image.tags.contains(&image.config.reference) || image.tags.is_empty() {
        container.image.clone().unwrap_or_default()
    } else {
        image.tags.first().cloned().unwrap_or_default()
    };
    let shown_id = image.digests.first().unwrap_or(&image.id);
    let termination_file = inputs.termination_file.to_string_lossy();
    let annotations = [
        (keys::CONTAINER_HASH, hash.as_str()),
        (keys::RESTART_COUNT, attempt.as_str()),
        (keys::TERMINATION_FILE, &termination_file),
        (keys::TERMINATION_POLICY, container.termination_message_policy.as_deref().unwrap_or("File")),
        (keys::IMAGE_NAME, shown_name.as_str()),
        (keys::IMAGE_ID, shown_id.as_str()),
        (keys::POD_GRACE, grace.as_str()),
    ];
    let labels = [
        (keys::POD_NAME, pod::name(pod)),
        (keys::POD_NAMESPACE, pod::namespace(pod)),
        (keys::POD_UID, pod::uid(pod)),
        (keys::CONTAINER_NAME, container.name.as_str()),
    ];
    let stop_signal = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone());
    Ok(ContainerConfig {
        name: container.name.clone(),
        attempt: inputs.attempt,
        image: image.config.clone(),
        command: expanded(&container.command),
        arguments: expanded(&container.args),
        working_directory: container.working_dir.clone().unwrap_or_default(),
        environment: pairs(inputs.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()))),
        labels: pairs(labels),
        annotations: pairs(annotations),
        mounts: inputs.mounts,
        devices: inputs.devices,
        security,
        resources: resources::container_resources(pod, container),
        oom_score_adj: resources::oom_score_adj(pod, container, inputs.node_memory_bytes),
        stop_signal: stop_signal.unwrap_or_default(),
        log_path: Some(inputs.log_path.to_string_lossy().into_owned()),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
    })
}

/// The pod's context for what the container's own does not say.
struct Contexts<'a> {
    pod: Option<&'a PodSecurityContext>,
    own: Option<&'a SecurityContext>,
}

impl Contexts<'_> {
    fn run_as_user(&self) -> Option<i64> {
        self.own.and_then(|own| own.run_as_user).or_else(|| self.pod.and_then(|pod| pod.run_as_user))
    }

    fn run_as_group(&self) -> Option<i64> {
        self.own.and_then(|own| own.run_as_group).or_else(|| self.pod.and_then(|pod| pod.run_as_group))
    }

    fn run_as_non_root(&self) -> bool {
        let own = self.own.and_then(|own| own.run_as_non_root);
        own.or_else(|| self.pod.and_then(|pod| pod.run_as_non_root)) == Some(true)
    }

    fn seccomp(&self) -> Option<&SeccompProfile> {
        let own = self.own.and_then(|own| own.seccomp_profile.as_ref());
        own.or_else(|| self.pod.and_then(|pod| pod.seccomp_profile.as_ref()))
    }
}

fn security(pod: &Pod, container: &Container, inputs: &ContainerInputs<'_>) -> Result<Security, String> {
    let spec = pod::spec(pod);
    let contexts = Contexts { pod: spec.security_context.as_ref(), own: container.security_context.as_ref() };
    verify_non_root(pod, container, &contexts, &inputs.image.config.user)?;
    let id = |what: &str, value: i64| u32::try_from(value).map_err(|_| format!("{what} {value} is not a valid id"));
    let own = contexts.own;
    let privileged = own.and_then(|own| own.privileged) == Some(true);
    let mut groups = Vec::new();
    let pod_groups = contexts.pod.iter().flat_map(|pod| pod.supplemental_groups.iter().flatten());
    for group in pod_groups.chain(contexts.pod.and_then(|pod| pod.fs_group.as_ref())) {
        groups.push(id("supplemental group", *group)?);
    }
    let capabilities = own.and_then(|own| own.capabilities.as_ref());
    let names = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let apparmor = own
        .and_then(|own| own.app_armor_profile.as_ref())
        .or_else(|| contexts.pod.and_then(|pod| pod.app_armor_profile.as_ref()));
    let apparmor = match apparmor {
        Some(profile) if profile.type_ == "Localhost" => profile.localhost_profile.clone().unwrap_or_default(),
        _ => String::new(),
    };
    Ok(Security {
        privileged,
        run_as_user: contexts.run_as_user().map(|user| id("runAsUser", user)).transpose()?,
        run_as_group: contexts.run_as_group().map(|group| id("runAsGroup", group)).transpose()?,
        supplemental_groups: groups,
        strict_groups: contexts.pod.and_then(|pod| pod.supplemental_groups_policy.as_deref()) == Some("Strict"),
        add_capabilities: names(capabilities.and_then(|c| c.add.as_ref())),
        drop_capabilities: names(capabilities.and_then(|c| c.drop.as_ref())),
        read_only_rootfs: own.and_then(|own| own.read_only_root_filesystem) == Some(true),
        no_new_privileges: own.and_then(|own| own.allow_privilege_escalation) == Some(false),
        seccomp: seccomp(contexts.seccomp(), privileged, inputs)?,
        apparmor,
        unmasked_proc: own.and_then(|own| own.proc_mount.as_deref()) == Some("Unmasked"),
    })
}

fn seccomp(
    profile: Option<&SeccompProfile>,
    privileged: bool,
    inputs: &ContainerInputs<'_>,
) -> Result<Seccomp, String> {
    if privileged {
        return Ok(Seccomp::Unconfined);
    }
    match profile {
        None if inputs.seccomp_default => Ok(Seccomp::RuntimeDefault),
        None => Ok(Seccomp::Unconfined),
        Some(profile) => match profile.type_.as_str() {
            "RuntimeDefault" => Ok(Seccomp::RuntimeDefault),
            "Localhost" => {
                let name = profile.localhost_profile.as_deref().unwrap_or_default();
                let relative = Path::new(name);
                let inside = relative.components().all(|part| matches!(part, std::path::Component::Normal(_)));
                if name.is_empty() || !inside {
                    return Err("localhostProfile must be set if seccompProfile type is Localhost.".to_owned());
                }
                let path = inputs.seccomp_dir.join(relative);
                let text = std::fs::read_to_string(&path);
                text.map(Seccomp::Profile)
                    .map_err(|error| format!("cannot load seccomp profile {:?}: {error}", path.display().to_string()))
            }
            _ => Ok(Seccomp::Unconfined),
        },
    }
}

/// `runAsNonRoot`, with what the image says of its user.
fn verify_non_root(pod: &Pod, container: &Container, contexts: &Contexts<'_>, image_user: &str) -> Result<(), String> {
    if !contexts.run_as_non_root() {
        return Ok(());
    }
    let shown = format!("(pod: {:?}, container: {})", pod::long_name(pod), container.name);
    match contexts.run_as_user() {
        Some(0) => return Err(format!("container's runAsUser breaks non-root policy {shown}")),
        Some(_) => return Ok(()),
        None => {}
    }
    let user = image_user.split(':').next().unwrap_or_default();
    match (user, user.parse::<i64>()) {
        ("", _) | (_, Ok(0)) => Err(format!("container has runAsNonRoot and image will run as root {shown}")),
        (_, Ok(_)) => Ok(()),
        (user, Err(_)) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {shown}"
        )),
    }
}

/// A mount's propagation, by the pod's word.
pub fn propagation(word: Option<&str>) -> Propagation {
    match word {
        Some("Bidirectional") => Propagation::Bidirectional,
        Some("HostToContainer") => Propagation::HostToContainer,
        _ => Propagation::Private,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::ImageConfig;
    use serde_json::json;

    fn config(pod_context: serde_json::Value, own: serde_json::Value, user: &str) -> Result<ContainerConfig, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": pod_context, "containers": [{
                "name": "c", "image": "busybox", "command": ["$(A)"], "args": ["$(B)"], "securityContext": own,
            }]},
        }))
        .expect("a pod");
        let image = Image {
            id: "sha256:1".into(),
            tags: vec!["docker.io/library/busybox:latest".into()],
            digests: vec!["docker.io/library/busybox@sha256:2".into()],
            size_bytes: 1,
            config: ImageConfig {
                reference: "busybox".into(),
                id: "sha256:1".into(),
                snapshot_key: "k".into(),
                entrypoint: vec![],
                command: vec![],
                environment: vec![],
                user: user.into(),
                working_directory: String::new(),
                stop_signal: String::new(),
            },
        };
        container_config(
            &pod,
            &pod::containers(&pod)[0],
            ContainerInputs {
                attempt: 3,
                image: &image,
                environment: &[("A".into(), "a".into())],
                mounts: vec![],
                devices: vec![],
                log_path: Path::new("/logs/c/3.log"),
                termination_file: Path::new("/t"),
                node_memory_bytes: 1 << 30,
                seccomp_default: false,
                seccomp_dir: Path::new("/none"),
            },
        )
    }

    #[test]
    fn users_that_may_be_root_are_refused() {
        let nobody = json!({});
        let non_root = json!({"runAsNonRoot": true});
        let tail = "(pod: \"p_n(u)\", container: c)";
        let cases = [
            (&nobody, json!({}), "", Ok(())),
            (&non_root, json!({}), "1000", Ok(())),
            (&non_root, json!({"runAsUser": 5}), "", Ok(())),
            (&non_root, json!({}), "", Err(format!("container has runAsNonRoot and image will run as root {tail}"))),
            (&non_root, json!({}), "0:5", Err(format!("container has runAsNonRoot and image will run as root {tail}"))),
            (
                &non_root,
                json!({}),
                "www",
                Err(format!(
                    "container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root {tail}"
                )),
            ),
            (
                &non_root,
                json!({"runAsUser": 0}),
                "",
                Err(format!("container's runAsUser breaks non-root policy {tail}")),
            ),
            (&non_root, json!({"runAsNonRoot": false}), "", Ok(())),
        ];
        for (pod_context, own, user, expect) in cases {
            assert_eq!(config(pod_context.clone(), own, user).map(drop), expect);
        }
    }

    #[test]
    fn contexts_are_merged_and_names_shown() {
        let pod_context = json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4],
            "seccompProfile": {"type": "RuntimeDefault"}});
        let own = json!({"runAsUser": 9, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true});
        let made = config(pod_context, own, "").expect("a configuration");
        let security = &made.security;
        assert_eq!((security.run_as_user, security.run_as_group), (Some(9), Some(2)));
        assert_eq!(security.supplemental_groups, [4, 3]);
        assert!(security.no_new_privileges && security.read_only_rootfs);
        assert_eq!(security.seccomp, Seccomp::RuntimeDefault);
        assert_eq!((made.command, made.arguments), (vec!["a".to_owned()], vec!["$(B)".to_owned()]));
        assert_eq!(
            crate::observed::value(&made.annotations, keys::IMAGE_NAME),
            Some("docker.io/library/busybox:latest")
        );
        assert_eq!(crate::observed::value(&made.annotations, keys::RESTART_COUNT), Some("3"));
    }
}
