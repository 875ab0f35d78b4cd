//! Roles and their bindings.

use serde_json::{Value, json};

use super::super::{Kind, NameRule};
use super::checks::{invalid, label_selector, path, same};
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::names;
use crate::object::{Object, is_empty, items_at, map_mut, str_at};

const GROUP: &str = "rbac.authorization.k8s.io";

fn rules(object: &Object, namespaced: bool) -> FieldErrors {
    let rules = items_at(object, "rules").iter().enumerate();
    rules.flat_map(|(index, rule)| policy_rule(rule, namespaced, &path("rules").index(index))).collect()
}

fn policy_rule(rule: &Value, namespaced: bool, path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    if items_at(rule, "verbs").is_empty() {
        errors.push(FieldError::required(&path.child("verbs"), "verbs must contain at least one value"));
    }
    let urls = items_at(rule, "nonResourceURLs");
    if !urls.is_empty() {
        let refuse = |detail: &str| FieldError::invalid(&path.child("nonResourceURLs"), urls.to_vec(), detail);
        if namespaced {
            errors.push(refuse("namespaced rules cannot apply to non-resource URLs"));
        }
        if ["apiGroups", "resources", "resourceNames"].iter().any(|field| !items_at(rule, field).is_empty()) {
            errors.push(refuse("rules cannot apply to both regular resources and non-resource URLs"));
        }
        return errors;
    }
    for (field, what) in [("apiGroups", "api group"), ("resources", "resource")] {
        if items_at(rule, field).is_empty() {
            let detail = format!("resource rules must supply at least one {what}");
            errors.push(FieldError::required(&path.child(field), detail));
        }
    }
    errors
}

pub(super) struct Role;

impl Kind for Role {
    fn validate_create(&self, object: &Object) -> FieldErrors {
        rules(object, true)
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

pub(super) struct ClusterRole;

impl Kind for ClusterRole {
    fn validate_create(&self, object: &Object) -> FieldErrors {
        let mut errors = rules(object, false);
        let rule = &object["aggregationRule"];
        if rule.is_null() {
            return errors;
        }
        let at = path("aggregationRule.clusterRoleSelectors");
        let selectors = items_at(rule, "clusterRoleSelectors");
        if selectors.is_empty() {
            let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.push(FieldError::required(&at, detail));
        }
        for (index, selector) in selectors.iter().enumerate() {
            errors.extend(label_selector(selector, &at.index(index)));
        }
        errors
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

/// The API group of what a binding refers to, where it is left out.
fn default_groups(object: &mut Object) {
    let role = map_mut(object, "roleRef");
    if role.get("apiGroup").is_none_or(is_empty) {
        role.insert("apiGroup".to_owned(), json!(GROUP));
    }
    for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
        if matches!(str_at(subject, "kind"), "User" | "Group") && str_at(subject, "apiGroup").is_empty() {
            map_mut(subject, "").insert("apiGroup".to_owned(), json!(GROUP));
        }
    }
}

fn binding(object: &Object, namespaced: bool) -> FieldErrors {
    let at = path("roleRef");
    let role = &object["roleRef"];
    let (group, kind, name) = (str_at(role, "apiGroup"), str_at(role, "kind"), str_at(role, "name"));
    let mut errors = FieldErrors::new();
    if group != GROUP {
        errors.push(FieldError::not_supported_in_order(&at.child("apiGroup"), group, &[GROUP]));
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&kind) {
        errors.push(FieldError::not_supported_in_order(&at.child("kind"), kind, kinds));
    }
    errors.extend(super::checks::required(&at.child("name"), name, names::path_segment));
    for (index, subject) in items_at(object, "subjects").iter().enumerate() {
        errors.extend(subject_of(subject, namespaced, &path("subjects").index(index)));
    }
    errors
}

fn subject_of(subject: &Value, namespaced: bool, path: &FieldPath) -> FieldErrors {
    let (group, name) = (str_at(subject, "apiGroup"), str_at(subject, "name"));
    let mut errors = FieldErrors::new();
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    match str_at(subject, "kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.extend(invalid(&path.child("name"), name, names::dns1123_subdomain(name)));
            }
            if !group.is_empty() {
                errors.push(FieldError::not_supported_in_order(&path.child("apiGroup"), group, &[""]));
            }
            if !namespaced && str_at(subject, "namespace").is_empty() {
                errors.push(FieldError::required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.push(FieldError::not_supported_in_order(&path.child("apiGroup"), group, &[GROUP]));
            }
        }
        kind => {
            let known = ["ServiceAccount", "User", "Group"];
            errors.push(FieldError::not_supported_in_order(&path.child("kind"), kind, &known));
        }
    }
    errors
}

/// Upstream shows its own struct.
fn role_change(object: &Object, old: &Object) -> Option<FieldError> {
    let role = &object["roleRef"];
    (!same(role, &old["roleRef"])).then(|| {
        let [group, kind, name] = ["apiGroup", "kind", "name"].map(|field| str_at(role, field));
        let shown = format!("{{\"APIGroup\":\"{group}\",\"Kind\":\"{kind}\",\"Name\":\"{name}\"}}");
        FieldError::invalid(&path("roleRef"), role.clone(), "cannot change roleRef").shown_as(shown)
    })
}

pub(super) struct RoleBinding;

impl Kind for RoleBinding {
    fn default(&self, object: &mut Object) {
        default_groups(object);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        binding(object, true)
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = binding(object, true);
        errors.extend(role_change(object, old));
        errors
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

pub(super) struct ClusterRoleBinding;

impl Kind for ClusterRoleBinding {
    fn default(&self, object: &mut Object) {
        default_groups(object);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        binding(object, false)
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut errors = binding(object, false);
        errors.extend(role_change(object, old));
        errors
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(errors: FieldErrors, expect: &[&str]) {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, expect);
    }

    #[test]
    fn rules_are_about_resources_or_urls() {
        check(
            ClusterRole.validate_create(&json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]}], "aggregationRule": {}})),
            &[
                "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and non-resource URLs",
                "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil",
            ],
        );
    }

    #[test]
    fn bindings_name_roles_and_subjects() {
        let mut object = json!({"roleRef": {"kind": "Role", "name": "a/b"}, "subjects": [
            {"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "S"}, {"kind": "Robot", "name": "r"},
        ]});
        Kind::default(&RoleBinding, &mut object);
        assert_eq!(object["subjects"][0]["apiGroup"], GROUP);
        check(
            ClusterRoleBinding.validate_create(&object),
            &[
                "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                "roleRef.name: Invalid value: \"a/b\": may not contain '/'",
                "subjects[1].name: Invalid value: \"S\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                "subjects[1].namespace: Required value",
                "subjects[2].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            ],
        );
    }

    #[test]
    fn the_role_of_a_binding_stays() {
        let old = json!({"roleRef": {"apiGroup": GROUP, "kind": "Role", "name": "a"}});
        let mut new = old.clone();
        new["roleRef"]["name"] = json!("b");
        check(
            RoleBinding.validate_update(&new, &old),
            &[
                "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"Role\",\"Name\":\"b\"}: cannot change roleRef",
            ],
        );
    }
}
