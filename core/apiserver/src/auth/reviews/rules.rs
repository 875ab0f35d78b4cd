//! `SelfSubjectRulesReview`: what may I do in a namespace.

use gantry_api::error::ApiError;
use gantry_api::object::{Object, str_at};
use serde_json::{Map, Value, json};

use crate::auth::authorization::Authorization;
use crate::auth::rbac::Rule;
use crate::auth::user::UserInfo;

/// The status of a rules review.
pub fn of_self(authorization: &Authorization, user: &UserInfo, review: &Object) -> Result<Value, ApiError> {
    let namespace = str_at(review, "spec.namespace");
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let resolved = authorization.rules_for(user, namespace);
    let list = |wanted: fn(&Rule) -> bool, fields: &[&str]| -> Vec<Value> {
        resolved.rules.iter().filter(|rule| wanted(rule)).map(|rule| pick(rule.to_value(), fields)).collect()
    };
    let mut errors = resolved.errors.clone();
    let node = user.node_identity().is_some();
    if node {
        errors.insert(0, "node authorizer does not support user rule resolution".to_owned());
    }
    let mut status = json!({
        "resourceRules": list(|rule| !rule.resources.is_empty(), &["verbs", "apiGroups", "resources", "resourceNames"]),
        "nonResourceRules": list(|rule| !rule.paths.is_empty(), &["verbs", "nonResourceURLs"]),
        "incomplete": !errors.is_empty(),
    });
    if !errors.is_empty() {
        status["evaluationError"] =
            json!(if let [error] = errors.as_slice() { error.clone() } else { format!("[{}]", errors.join(", ")) });
    }
    Ok(status)
}

fn pick(rule: Value, fields: &[&str]) -> Value {
    let mut picked = Map::new();
    for field in fields {
        if let Some(value) = rule.get(*field) {
            picked.insert((*field).to_owned(), value.clone());
        }
    }
    Value::Object(picked)
}
