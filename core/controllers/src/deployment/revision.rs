//! Revisions, annotations and names of a deployment's replica sets. Source: `deployment/util/deployment_util.go`.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;

/// The revision of a deployment or of one of its sets.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Revisions that a set had before.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// How many replicas the deployment wanted when the set was last scaled.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// How many the deployment could have had then, surge included.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// The label that tells the pods of one template from those of another.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// Bytes of the history annotation.
const HISTORY_BYTES_MAX: usize = 2000;

/// Annotations that are the deployment's own and aren't copied to its sets.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// A number in an annotation.
pub fn number(annotations: Option<&BTreeMap<String, String>>, key: &str) -> Option<i64> {
    annotations?.get(key)?.parse().ok()
}

/// A set's revision; 0 when it has none.
pub fn revision_of(set: &ReplicaSet) -> i64 {
    number(set.metadata.annotations.as_ref(), REVISION).unwrap_or_default()
}

/// The template without the label that only the sets' templates have.
fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(POD_TEMPLATE_HASH);
    }
    let empty = |map: &Option<BTreeMap<String, String>>| map.as_ref().is_none_or(BTreeMap::is_empty);
    if let Some(meta) = template.metadata.as_mut() {
        if empty(&meta.labels) {
            meta.labels = None;
        }
        if empty(&meta.annotations) {
            meta.annotations = None;
        }
        meta.creation_timestamp = None;
    }
    template
}

/// Whether a set has the deployment's template.
pub fn same_template(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let (Some(wanted), Some(spec)) = (deployment.spec.as_ref(), set.spec.as_ref()) else { return false };
    spec.template.as_ref().is_some_and(|template| without_hash(template) == without_hash(&wanted.template))
}

/// The suffix of the name of a deployment's set: of its template, and of how often that name was found taken. The
/// alphabet is upstream's (`rand.SafeEncodeString`): no vowels, so no words.
pub fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    // FNV-1a, 32 bits: small, and the same in every build.
    let mut hash: u32 = 0x811c_9dc5;
    let mut feed =
        |bytes: &[u8]| bytes.iter().for_each(|byte| hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    // Maps are sorted, so one template has one text.
    feed(&serde_json::to_vec(&without_hash(template)).unwrap_or_default());
    if let Some(collisions) = collisions {
        feed(&collisions.to_le_bytes());
    }
    hash.to_string().bytes().map(|digit| ALPHABET[usize::from(digit) % ALPHABET.len()] as char).collect()
}

/// Sets the annotations of a new or current set: those of the deployment, and the revision, which only grows. Returns
/// whether anything changed.
pub fn annotate(set: &mut ReplicaSet, deployment: &Deployment, revision: i64, exists: bool) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let before = annotations.clone();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let old = annotations.get(REVISION).cloned();
    let old_number = old.as_deref().and_then(|old| old.parse().ok()).unwrap_or(0i64);
    if old_number < revision {
        annotations.insert(REVISION.to_owned(), revision.to_string());
        if let Some(old) = old.filter(|_| exists) {
            let mut history: Vec<String> = annotations
                .get(REVISION_HISTORY)
                .map(|history| history.split(',').map(str::to_owned).collect())
                .unwrap_or_default();
            history.push(old);
            while history.join(",").len() > HISTORY_BYTES_MAX {
                history.remove(0);
            }
            annotations.insert(REVISION_HISTORY.to_owned(), history.join(","));
        }
    }
    if !exists {
        annotate_replicas(annotations, deployment);
    }
    *annotations != before
}

/// Notes how many replicas the deployment wants and may have. Returns whether anything changed.
pub fn annotate_replicas(annotations: &mut BTreeMap<String, String>, deployment: &Deployment) -> bool {
    let desired = super::rollout::replicas(deployment);
    let max = desired + super::rollout::max_surge(deployment);
    let wanted = [(DESIRED_REPLICAS, desired.to_string()), (MAX_REPLICAS, max.to_string())];
    let mut changed = false;
    for (key, value) in wanted {
        if annotations.get(key) != Some(&value) {
            annotations.insert(key.to_owned(), value);
            changed = true;
        }
    }
    changed
}
