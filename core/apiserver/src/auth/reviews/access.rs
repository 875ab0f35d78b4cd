//! `SubjectAccessReview`, `LocalSubjectAccessReview` and `SelfSubjectAccessReview`: may someone do something.

use std::collections::BTreeMap;

use gantry_api::error::ApiError;
use gantry_api::field::{FieldError, FieldErrors, FieldPath};
use gantry_api::object::{Object, at, is_empty, items_at, map_at, str_at};
use serde_json::{Map, Value, json};

use crate::auth::attributes::{Attributes, Authorizer, Decision};
use crate::auth::user::UserInfo;

/// The API group of access reviews.
pub const GROUP: &str = "authorization.k8s.io";

/// The status of a review of any subject.
pub fn of_subject(authorizer: &dyn Authorizer, review: &Object) -> Result<Value, ApiError> {
    let mut errors = subject_errors(review);
    metadata_errors(review, "", &mut errors);
    refuse(&errors)?;
    Ok(decide(authorizer, &subject(review), review, None))
}

/// The status of a review of any subject in one namespace.
pub fn of_local_subject(authorizer: &dyn Authorizer, review: &Object, namespace: &str) -> Result<Value, ApiError> {
    let mut errors = subject_errors(review);
    metadata_errors(review, namespace, &mut errors);
    let asked = str_at(review, "spec.resourceAttributes.namespace");
    if !at(review, "spec.resourceAttributes").is_null() && asked != namespace {
        errors.push(FieldError::invalid(
            &FieldPath::new("spec.resourceAttributes.namespace"),
            asked,
            "must match metadata.namespace",
        ));
    }
    let paths = at(review, "spec.nonResourceAttributes");
    if !paths.is_null() {
        errors.push(FieldError::invalid(
            &FieldPath::new("spec.nonResourceAttributes"),
            paths.clone(),
            "disallowed on this kind of request",
        ));
    }
    refuse(&errors)?;
    Ok(decide(authorizer, &subject(review), review, Some(namespace)))
}

/// The status of a review of the one who asks.
pub fn of_self(authorizer: &dyn Authorizer, user: &UserInfo, review: &Object) -> Result<Value, ApiError> {
    let mut errors = attribute_errors(review);
    metadata_errors(review, "", &mut errors);
    refuse(&errors)?;
    Ok(decide(authorizer, user, review, None))
}

fn refuse(errors: &FieldErrors) -> Result<(), ApiError> {
    // Upstream leaves the kind out here.
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid((GROUP, ""), "", errors)) }
}

fn attribute_errors(review: &Object) -> FieldErrors {
    let (resource, path) = (at(review, "spec.resourceAttributes"), at(review, "spec.nonResourceAttributes"));
    let mut errors = FieldErrors::new();
    match (resource.is_null(), path.is_null()) {
        (false, false) => errors.push(FieldError::invalid(
            &FieldPath::new("spec.nonResourceAttributes"),
            path.clone(),
            "cannot be specified in combination with resourceAttributes",
        )),
        (true, true) => errors.push(FieldError::invalid(
            &FieldPath::new("spec.resourceAttributes"),
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    for (name, raw) in [("fieldSelector", "rawSelector"), ("labelSelector", "rawSelector")] {
        let selector = at(resource, name);
        if selector.is_null() {
            continue;
        }
        let field = FieldPath::new("spec.resourceAttributes").child(name);
        let (has_raw, has_requirements) =
            (!is_empty(at(selector, raw)), !items_at(selector, "requirements").is_empty());
        match (has_raw, has_requirements) {
            (true, true) => errors.push(FieldError::invalid(
                &field.child(raw),
                str_at(selector, raw),
                "may not specified at the same time as requirements",
            )),
            (false, false) => errors.push(FieldError::required(
                &field.child("requirements"),
                format!("when {name} is specified, requirements or rawSelector is required"),
            )),
            _ => {}
        }
    }
    errors
}

fn subject_errors(review: &Object) -> FieldErrors {
    let mut errors = attribute_errors(review);
    if str_at(review, "spec.user").is_empty() && items_at(review, "spec.groups").is_empty() {
        // Upstream says it before it looks into the attributes.
        let place = errors.iter().take_while(|error| !error.field.to_string().contains("Selector")).count();
        errors.insert(
            place,
            FieldError::invalid(&FieldPath::new("spec.user"), "", "at least one of user or group must be specified"),
        );
    }
    errors
}

fn metadata_errors(review: &Object, namespace: &str, errors: &mut FieldErrors) {
    let fields = map_at(review, "metadata").into_iter().flatten();
    let empty = fields.into_iter().all(|(field, value)| match field.as_str() {
        "managedFields" => true,
        "namespace" if !namespace.is_empty() => value == namespace,
        _ => is_empty(value),
    });
    if !empty {
        let detail = if namespace.is_empty() { "must be empty" } else { "must be empty except for namespace" };
        errors.push(FieldError::invalid(&FieldPath::new("metadata"), at(review, "metadata").clone(), detail));
    }
}

fn subject(review: &Object) -> UserInfo {
    let strings = |value: &Value| {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let extra: BTreeMap<String, Vec<String>> = map_at(review, "spec.extra")
        .into_iter()
        .flatten()
        // Keys are compared in lower case, as those of headers come that way.
        .map(|(key, values)| (key.to_lowercase(), strings(values)))
        .collect();
    UserInfo {
        name: str_at(review, "spec.user").to_owned(),
        uid: str_at(review, "spec.uid").to_owned(),
        groups: strings(at(review, "spec.groups")),
        extra,
    }
}

fn decide(authorizer: &dyn Authorizer, user: &UserInfo, review: &Object, namespace: Option<&str>) -> Value {
    let resource = at(review, "spec.resourceAttributes");
    let decision = if resource.is_null() {
        let path = at(review, "spec.nonResourceAttributes");
        authorizer.authorize(&Attributes::non_resource(user, str_at(path, "verb"), str_at(path, "path")))
    } else {
        let (fields, labels) = (selector(resource, "fieldSelector"), selector(resource, "labelSelector"));
        authorizer.authorize(&Attributes {
            version: str_at(resource, "version"),
            subresource: str_at(resource, "subresource"),
            name: str_at(resource, "name"),
            namespace: namespace.unwrap_or_else(|| str_at(resource, "namespace")),
            field_selector: &fields,
            label_selector: &labels,
            ..Attributes::resource(
                user,
                str_at(resource, "verb"),
                str_at(resource, "group"),
                str_at(resource, "resource"),
            )
        })
    };
    let mut status = Map::new();
    status.insert("allowed".to_owned(), json!(decision.is_allow()));
    if matches!(decision, Decision::Deny { .. }) {
        status.insert("denied".to_owned(), json!(true));
    }
    if !decision.reason().is_empty() {
        status.insert("reason".to_owned(), json!(decision.reason()));
    }
    Value::Object(status)
}

/// A selector as a client of a list would write it.
fn selector(attributes: &Object, field: &str) -> String {
    let selector = at(attributes, field);
    let raw = str_at(selector, "rawSelector");
    if !raw.is_empty() {
        return raw.to_owned();
    }
    let term = |requirement: &Value| {
        let key = str_at(requirement, "key");
        let values: Vec<&str> = items_at(requirement, "values").iter().filter_map(Value::as_str).collect();
        match (str_at(requirement, "operator"), values.as_slice()) {
            ("In", [value]) => Some(format!("{key}={value}")),
            ("In", values) => Some(format!("{key} in ({})", values.join(","))),
            ("NotIn", [value]) => Some(format!("{key}!={value}")),
            ("NotIn", values) => Some(format!("{key} notin ({})", values.join(","))),
            ("Exists", _) => Some(key.to_owned()),
            ("DoesNotExist", _) => Some(format!("!{key}")),
            // A term that isn't understood only makes the question wider, and so the answer stricter.
            _ => None,
        }
    };
    items_at(selector, "requirements").iter().filter_map(term).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    impl Authorizer for Echo {
        fn authorize(&self, a: &Attributes<'_>) -> Decision {
            Decision::allow(format!(
                "{} {} {}/{} {} {} {} {}",
                a.user.name, a.verb, a.group, a.resource, a.namespace, a.name, a.path, a.field_selector
            ))
        }
    }

    #[test]
    fn questions_reach_the_authorizer_as_they_were_asked() {
        let review = json!({"spec": {"user": "u", "resourceAttributes": {"verb": "list", "group": "apps", "resource": "x", "namespace": "ns", "name": "n", "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["a"]}]}}}});
        assert_eq!(
            of_subject(&Echo, &review),
            Ok(json!({"allowed": true, "reason": "u list apps/x ns n  spec.nodeName=a"}))
        );
        let review = json!({"spec": {"nonResourceAttributes": {"verb": "get", "path": "/x"}}});
        assert_eq!(
            of_self(&Echo, &UserInfo::new("me", ["g"]), &review),
            Ok(json!({"allowed": true, "reason": "me get /   /x "}))
        );
    }

    #[test]
    fn wrong_questions_are_refused_in_upstreams_words() {
        let local = |review| of_local_subject(&Echo, &review, "ns").expect_err("refused").message;
        let any = |review| of_subject(&Echo, &review).expect_err("refused").message;
        let cases = [
            (
                any(json!({"spec": {"resourceAttributes": {"verb": "get"}}})),
                r#".authorization.k8s.io "" is invalid: spec.user: Invalid value: "": at least one of user or group must be specified"#,
            ),
            (
                any(json!({"metadata": {"name": "x"}, "spec": {"user": "u", "resourceAttributes": {}}})),
                r#".authorization.k8s.io "" is invalid: metadata: Invalid value: {"name":"x"}: must be empty"#,
            ),
            (
                any(json!({"spec": {"user": "u"}})),
                r#".authorization.k8s.io "" is invalid: spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified"#,
            ),
            (
                local(
                    json!({"metadata": {"namespace": "ns"}, "spec": {"user": "u", "resourceAttributes": {"namespace": "other"}}}),
                ),
                r#".authorization.k8s.io "" is invalid: spec.resourceAttributes.namespace: Invalid value: "other": must match metadata.namespace"#,
            ),
        ];
        for (seen, expect) in cases {
            assert_eq!(seen, expect);
        }
    }
}
