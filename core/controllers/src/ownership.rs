//! Who controls what, and changing it: adoption and release (upstream's `controller_ref_manager.go`).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta, OwnerReference,
};
use kube::Resource;
use serde_json::{Value, json};

/// The owner reference that makes `owner` an object's controller.
pub fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    let meta = owner.meta();
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The controller of an object.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

/// What a controller does about an object that might be its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is ours.
    Ours,
    /// It matches and nobody controls it: adopt it.
    Adopt,
    /// It is ours but doesn't match any more: let it go.
    Release,
    /// None of our business.
    Foreign,
}

/// Decides about an object, for an owner with `owner_uid`.
pub fn claim(object: &ObjectMeta, owner_uid: &str, owner_deleting: bool, matches: bool) -> Claim {
    match controller_of(object) {
        Some(controller) if controller.uid != owner_uid => Claim::Foreign,
        Some(_) if matches => Claim::Ours,
        Some(_) if owner_deleting => Claim::Foreign,
        Some(_) => Claim::Release,
        None if owner_deleting || !matches || object.deletion_timestamp.is_some() => Claim::Foreign,
        None => Claim::Adopt,
    }
}

/// The patch that adopts an object; it fails if the object was replaced by another of its name.
pub fn adopt_patch(uid: &str, owner: &OwnerReference) -> Value {
    json!({"metadata": {"uid": uid, "ownerReferences": [owner]}})
}

/// The strategic merge patch that lets an object go.
pub fn release_patch(uid: &str, owner_uid: &str) -> Value {
    json!({"metadata": {"uid": uid, "ownerReferences": [{"$patch": "delete", "uid": owner_uid}]}})
}

/// Whether a label selector selects these labels; an empty one selects all. An operator that isn't one selects nothing.
pub fn selects(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let value = |key: &str| labels.and_then(|labels| labels.get(key));
    let equal = selector.match_labels.iter().flatten().all(|(key, wanted)| value(key) == Some(wanted));
    let requirement = |requirement: &LabelSelectorRequirement| {
        let found = value(&requirement.key);
        let listed = |found: &String| requirement.values.iter().flatten().any(|value| value == found);
        match requirement.operator.as_str() {
            "In" => found.is_some_and(listed),
            "NotIn" => !found.is_some_and(listed),
            "Exists" => found.is_some(),
            "DoesNotExist" => found.is_none(),
            _ => false,
        }
    };
    equal && selector.match_expressions.iter().flatten().all(requirement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims() {
        let object = |controller: Option<&str>| ObjectMeta {
            owner_references: controller.map(|uid| {
                vec![OwnerReference { uid: uid.to_owned(), controller: Some(true), ..OwnerReference::default() }]
            }),
            ..ObjectMeta::default()
        };
        let cases = [
            (Some("me"), false, true, Claim::Ours),
            (Some("me"), false, false, Claim::Release),
            (Some("me"), true, false, Claim::Foreign),
            (Some("other"), false, true, Claim::Foreign),
            (None, false, true, Claim::Adopt),
            (None, true, true, Claim::Foreign),
            (None, false, false, Claim::Foreign),
        ];
        for (controller, deleting, matches, expected) in cases {
            assert_eq!(
                claim(&object(controller), "me", deleting, matches),
                expected,
                "{controller:?} {deleting} {matches}"
            );
        }
    }

    #[test]
    fn selectors() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let cases = [
            (json!({}), true),
            (json!({"matchLabels": {"a": "1"}}), true),
            (json!({"matchLabels": {"a": "2"}}), false),
            (json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}), true),
            (json!({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["1"]}]}), true),
            (json!({"matchExpressions": [{"key": "b", "operator": "Exists"}]}), false),
            (json!({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}), true),
        ];
        for (selector, expected) in cases {
            let parsed: LabelSelector = serde_json::from_value(selector.clone()).expect("a selector");
            assert_eq!(selects(&parsed, Some(&labels)), expected, "{selector}");
        }
    }
}
