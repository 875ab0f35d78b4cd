//! What is valid and yet surely not meant (upstream's `pkg/api/pod/warnings.go`).

mod ports;

use serde_json::Value;

use super::super::at::At;
use super::super::read::{entries, is_set, items, optional_number, quantity, quantity_text, text};
use super::annotations::{APP_ARMOR, SECCOMP, SECCOMP_OF_CONTAINER};
use super::visit_containers;

/// Labels of nodes that have newer names.
const NODE_LABELS: [(&str, &str, &str); 5] = [
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];

/// Volumes of drivers that are gone.
const VOLUMES: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Annotations that do nothing any more.
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

/// Adds what is odd in a pod.
pub(in super::super) fn of_pod(pod: &Value, found: &mut Vec<String>) {
    check(&pod["metadata"], &pod["spec"], &At::root("metadata"), &At::root("spec"), found);
}

/// Adds what is odd in a template.
pub(in super::super) fn of_template(template: &Value, at: &At<'_>, found: &mut Vec<String>) {
    check(&template["metadata"], &template["spec"], &at.field("metadata"), &at.field("spec"), found);
}

/// The warning for a label of nodes that has a newer name.
fn label_warning(key: &str) -> Option<String> {
    let (_, since, instead) = NODE_LABELS.iter().find(|(old, ..)| *old == key)?;
    Some(format!("deprecated since {since}; use \"{instead}\" instead"))
}

fn check(metadata: &Value, spec: &Value, metadata_at: &At<'_>, at: &At<'_>, found: &mut Vec<String>) {
    node_labels(spec, at, found);
    spread(spec, &at.field("topologySpreadConstraints"), found);
    let annotations_at = metadata_at.field("annotations");
    for (annotation, warning) in ANNOTATIONS {
        if is_set(&metadata["annotations"], annotation) {
            found.push(format!("{}: {warning}", annotations_at.key(annotation)));
        }
    }
    volumes(spec, &at.field("volumes"), found);
    lists(spec, at, found);
    fractions(&spec["overhead"], &at.field("overhead"), found);
    let annotations = &metadata["annotations"];
    if is_set(annotations, SECCOMP) && !is_set(&spec["securityContext"], "seccompProfile") {
        found.push(format!(
            "{}: non-functional in v1.27+; use the \"seccompProfile\" field instead",
            annotations_at.key(SECCOMP)
        ));
    }
    let is_template = at_is_template(metadata_at);
    visit_containers(spec, at, &mut |container, at| {
        let name = text(container, "name");
        let key = format!("{SECCOMP_OF_CONTAINER}{name}");
        if is_set(annotations, &key) && !is_set(&container["securityContext"], "seccompProfile") {
            found.push(format!(
                "{}: non-functional in v1.27+; use the \"seccompProfile\" field instead",
                annotations_at.key(&key)
            ));
        }
        let key = format!("{APP_ARMOR}{name}");
        if is_set(annotations, &key) && (!is_template || !is_set(&container["securityContext"], "appArmorProfile")) {
            found.push(format!(
                "{}: deprecated since v1.30; use the \"appArmorProfile\" field instead",
                annotations_at.key(&key)
            ));
        }
        let resources_at = at.field("resources");
        for list in ["limits", "requests"] {
            fractions(&container["resources"][list], &resources_at.field(list), found);
        }
        let env = items(container, "env");
        for (index, variable) in env.iter().enumerate() {
            let name = text(variable, "name");
            let hides = env[..index].iter().any(|other| text(other, "name") == name);
            // The value may refer to the variable it hides.
            if hides && !text(variable, "value").contains(&format!("$({name})")) {
                found.push(format!(
                    "{}: hides previous definition of {}, which may be dropped when using apply",
                    at.field("env").index(index),
                    Value::from(name)
                ));
            }
        }
    });
    ports::check(spec, at, found);
    if optional_number(spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        found.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            at.field("terminationGracePeriodSeconds")
        ));
    }
    affinity(spec, at, found);
}

fn at_is_template(metadata_at: &At<'_>) -> bool {
    metadata_at.to_string() != "metadata"
}

fn node_labels(spec: &Value, at: &At<'_>, found: &mut Vec<String>) {
    let selector_at = at.field("nodeSelector");
    for (key, _) in entries(spec, "nodeSelector") {
        if let Some(warning) = label_warning(key) {
            found.push(format!("{}: {warning}", selector_at.key(key)));
        }
    }
    let affinity = &spec["affinity"]["nodeAffinity"];
    let affinity_at = at.field("affinity");
    let node_at = affinity_at.field("nodeAffinity");
    let required_at = node_at.field("requiredDuringSchedulingIgnoredDuringExecution");
    let terms_at = required_at.field("nodeSelectorTerms");
    let required = &affinity["requiredDuringSchedulingIgnoredDuringExecution"];
    for (index, term) in items(required, "nodeSelectorTerms").iter().enumerate() {
        term_labels(term, &terms_at.index(index), found);
    }
    let preferred_at = node_at.field("preferredDuringSchedulingIgnoredDuringExecution");
    for (index, weighted) in items(affinity, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate() {
        term_labels(&weighted["preference"], &preferred_at.index(index).field("preference"), found);
    }
}

fn term_labels(term: &Value, at: &At<'_>, found: &mut Vec<String>) {
    let list_at = at.field("matchExpressions");
    for (index, expression) in items(term, "matchExpressions").iter().enumerate() {
        let key = text(expression, "key");
        if let Some(warning) = label_warning(key) {
            found.push(format!("{}: {key} is {warning}", list_at.index(index).field("key")));
        }
    }
}

fn spread(spec: &Value, at: &At<'_>, found: &mut Vec<String>) {
    for (index, constraint) in items(spec, "topologySpreadConstraints").iter().enumerate() {
        let (at, key) = (at.index(index), text(constraint, "topologyKey"));
        if let Some(warning) = label_warning(key) {
            found.push(format!("{}: {key} is {warning}", at.field("topologyKey")));
        }
        if !is_set(constraint, "labelSelector") {
            found.push(format!("{}: a null labelSelector results in matching no pod", at.field("labelSelector")));
        }
    }
}

fn volumes(spec: &Value, at: &At<'_>, found: &mut Vec<String>) {
    for (index, volume) in items(spec, "volumes").iter().enumerate() {
        let at = at.index(index);
        for (field, warning) in VOLUMES {
            if is_set(volume, field) {
                // Upstream names the fields of two of them as Go does.
                let shown = match field {
                    "storageos" => "storageOS",
                    field => field,
                };
                found.push(format!("{}: {warning}", at.field(shown)));
            }
        }
    }
}

fn lists(spec: &Value, at: &At<'_>, found: &mut Vec<String>) {
    let aliases = items(spec, "hostAliases");
    for (index, alias) in aliases.iter().enumerate() {
        let address = text(alias, "ip");
        if aliases[..index].iter().any(|other| text(other, "ip") == address) {
            found.push(format!(
                "{}: duplicate ip {}",
                at.field("hostAliases").index(index).field("ip"),
                Value::from(address)
            ));
        }
    }
    let secrets = items(spec, "imagePullSecrets");
    for (index, secret) in secrets.iter().enumerate() {
        let name = text(secret, "name");
        let (list_at, shown) = (at.field("imagePullSecrets"), Value::from(name));
        let item_at = list_at.index(index);
        if name.is_empty() {
            found.push(format!("{item_at}: invalid empty name {shown}"));
        } else if secrets[..index].iter().any(|other| text(other, "name") == name) {
            found.push(format!("{}: duplicate name {shown}", item_at.field("name")));
        }
    }
}

/// Bytes that can't be divided.
fn fractions(list: &Value, at: &At<'_>, found: &mut Vec<String>) {
    for resource in ["memory", "ephemeral-storage"] {
        let amount = &list[resource];
        if !amount.is_null() && quantity(amount).milli_value() % 1000 != 0 {
            found.push(format!(
                "{}: fractional byte value {} is invalid, must be an integer",
                at.key(resource),
                Value::from(quantity_text(amount))
            ));
        }
    }
}

fn affinity(spec: &Value, at: &At<'_>, found: &mut Vec<String>) {
    let affinity_at = at.field("affinity");
    let null = "a null labelSelector results in matching no pod";
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (affinity, kind_at) = (&spec["affinity"][kind], affinity_at.field(kind));
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        for (index, term) in items(affinity, required).iter().enumerate() {
            if !is_set(term, "labelSelector") {
                found.push(format!("{}: {null}", kind_at.field(required).index(index).field("labelSelector")));
            }
        }
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        for (index, weighted) in items(affinity, preferred).iter().enumerate() {
            if !is_set(&weighted["podAffinityTerm"], "labelSelector") {
                let at = kind_at.field(preferred);
                found.push(format!("{}: {null}", at.index(index).field("podAffinityTerm").field("labelSelector")));
            }
        }
    }
}
