//! What validation lets pass because an object that is stored already has it (upstream's
//! `GetValidationOptionsFromPodSpecAndMeta`). Features that 1.36 leaves off are off here, too.

use serde_json::Value;

use super::super::read::{entries, flag, is_set, items, optional_flag, quantity, text, texts};
use super::{all_containers, deletion_cost, resources, security};
use crate::field::FieldPath;
use crate::names;
use crate::selectors::{has_invalid_values, validate_label_selector};

/// What is tolerated.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Options {
    /// The spec is a pod's own, not a template's.
    pub is_pod: bool,
    /// A `pod-deletion-cost` annotation that isn't a number.
    pub invalid_deletion_cost: bool,
    /// Values in the label selectors of affinity terms that no label can have.
    pub invalid_label_values_in_selectors: bool,
    /// The same in required node affinity.
    pub invalid_label_values_in_node_affinity: bool,
    /// Selectors of spread constraints that aren't valid.
    pub invalid_spread_selectors: bool,
    /// Spread constraints with `matchLabelKeys` that aren't valid.
    pub invalid_spread_label_keys: bool,
    /// Huge pages that aren't a multiple of their size.
    pub indivisible_huge_pages: bool,
    /// Paths of projected tokens that leave the volume.
    pub non_local_token_paths: bool,
    /// Sysctls of a namespace that is the host's.
    pub host_namespace_sysctls: bool,
    /// Raw block devices in a user namespace.
    pub volume_devices_in_user_namespace: bool,
    /// A user namespace in the host's network.
    pub host_network_in_user_namespace: bool,
    /// Resize policies of init containers that restart them.
    pub restart_on_resize_of_init_containers: bool,
    /// Tolerations that compare numbers.
    pub comparing_tolerations: bool,
}

impl Options {
    /// For a new object.
    pub fn for_create(is_pod: bool) -> Self {
        Self { is_pod, ..Self::default() }
    }

    /// For a change of an object with this spec and these annotations.
    pub fn for_update(is_pod: bool, old_spec: &Value, old_metadata: &Value) -> Self {
        Self {
            is_pod,
            invalid_deletion_cost: deletion_cost(&old_metadata["annotations"]).is_err(),
            invalid_label_values_in_selectors: affinity_terms(old_spec).any(|term| {
                has_invalid_values(&term["labelSelector"]) || has_invalid_values(&term["namespaceSelector"])
            }),
            invalid_label_values_in_node_affinity: has_invalid_node_affinity(old_spec),
            invalid_spread_selectors: items(old_spec, "topologySpreadConstraints").iter().any(|constraint| {
                let selector = &constraint["labelSelector"];
                !selector.is_null() && !validate_label_selector(selector, &FieldPath::default(), false).is_empty()
            }),
            invalid_spread_label_keys: items(old_spec, "topologySpreadConstraints").iter().any(|constraint| {
                let (keys, selector) = (items(constraint, "matchLabelKeys"), &constraint["labelSelector"]);
                super::affinity::has_invalid_label_keys(keys, &[], selector)
            }),
            indivisible_huge_pages: has_indivisible_huge_pages(old_spec),
            non_local_token_paths: has_non_local_token_paths(old_spec),
            host_namespace_sysctls: items(&old_spec["securityContext"], "sysctls")
                .iter()
                .any(|sysctl| security::host_namespace_problem(text(sysctl, "name"), old_spec).is_some()),
            volume_devices_in_user_namespace: optional_flag(old_spec, "hostUsers") == Some(false)
                && all_containers(old_spec).any(|(_, container)| !items(container, "volumeDevices").is_empty()),
            host_network_in_user_namespace: optional_flag(old_spec, "hostUsers") == Some(false)
                && flag(old_spec, "hostNetwork"),
            restart_on_resize_of_init_containers: items(old_spec, "initContainers").iter().any(|container| {
                text(container, "restartPolicy") != "Always"
                    && items(container, "resizePolicy")
                        .iter()
                        .any(|policy| text(policy, "restartPolicy") == "RestartContainer")
            }),
            comparing_tolerations: items(old_spec, "tolerations")
                .iter()
                .any(|toleration| matches!(text(toleration, "operator"), "Lt" | "Gt")),
        }
    }

    /// For a pod template: `old` is the template before the change, if there was one.
    pub fn for_template(old: Option<&Value>) -> Self {
        match old {
            Some(old) => Self::for_update(false, &old["spec"], &old["metadata"]),
            None => Self::for_create(false),
        }
    }
}

/// All terms of a spec's pod affinity and anti-affinity.
fn affinity_terms(spec: &Value) -> impl Iterator<Item = &Value> {
    ["podAffinity", "podAntiAffinity"].into_iter().flat_map(|kind| {
        let affinity = &spec["affinity"][kind];
        let required = items(affinity, "requiredDuringSchedulingIgnoredDuringExecution").iter();
        let preferred = items(affinity, "preferredDuringSchedulingIgnoredDuringExecution").iter();
        required.chain(preferred.map(|weighted| &weighted["podAffinityTerm"]))
    })
}

fn has_invalid_node_affinity(spec: &Value) -> bool {
    let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    items(required, "nodeSelectorTerms")
        .iter()
        .flat_map(|term| items(term, "matchExpressions"))
        .flat_map(|expression| texts(expression, "values"))
        .any(|value| !names::label_value(value).is_empty())
}

fn has_indivisible_huge_pages(spec: &Value) -> bool {
    let indivisible = |list: &Value, field: &str| {
        entries(list, field).any(|(name, value)| resources::huge_pages_problem(name, &quantity(value)).is_some())
    };
    indivisible(spec, "overhead")
        || all_containers(spec).any(|(_, container)| {
            let resources = &container["resources"];
            indivisible(resources, "limits") || indivisible(resources, "requests")
        })
}

fn has_non_local_token_paths(spec: &Value) -> bool {
    items(spec, "volumes")
        .iter()
        .flat_map(|volume| items(&volume["projected"], "sources"))
        .filter(|source| is_set(source, "serviceAccountToken"))
        .any(|source| {
            let path = text(&source["serviceAccountToken"], "path");
            path.starts_with('/') || path.starts_with("..") || path.split('/').any(|part| part == "..")
        })
}
