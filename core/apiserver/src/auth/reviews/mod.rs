//! The review APIs: objects that are asked and answered, never stored.
//!
//! - [`access`]: may someone do something (`SubjectAccessReview` and its kin)
//! - [`rules`]: what may I do (`SelfSubjectRulesReview`)
//! - [`identity`]: who is this (`TokenReview`, `SelfSubjectReview`)

pub mod access;
pub mod identity;
pub mod rules;

use std::sync::Arc;

use gantry_api::error::ApiError;
use gantry_api::object::Object;
use gantry_api::resources::Resource;
use jiff::Timestamp;

use super::authenticate::Authenticator;
use super::authorization::Authorization;
use super::user::UserInfo;

/// Answers reviews.
pub struct Reviewer {
    authenticator: Arc<Authenticator>,
    authorization: Arc<Authorization>,
}

impl Reviewer {
    /// A reviewer that asks these.
    pub fn new(authenticator: Arc<Authenticator>, authorization: Arc<Authorization>) -> Self {
        Self { authenticator, authorization }
    }

    /// The answer to a review that a user has posted: the decoded object with its `status` filled in.
    pub fn review(
        &self,
        resource: &Resource,
        namespace: &str,
        user: &UserInfo,
        mut object: Object,
    ) -> Result<Object, ApiError> {
        let now = Timestamp::now();
        let authorization = self.authorization.as_ref();
        object["status"] = match (resource.group.as_str(), resource.plural.as_str()) {
            (identity::GROUP, "tokenreviews") => identity::token(&self.authenticator, &object, now)?,
            (identity::GROUP, "selfsubjectreviews") => {
                object["metadata"] = serde_json::json!({"creationTimestamp": gantry_api::timestamp::format(now)});
                serde_json::json!({"userInfo": user.to_value()})
            }
            (access::GROUP, "subjectaccessreviews") => access::of_subject(authorization, &object)?,
            (access::GROUP, "localsubjectaccessreviews") => {
                access::of_local_subject(authorization, &object, namespace)?
            }
            (access::GROUP, "selfsubjectaccessreviews") => access::of_self(authorization, user, &object)?,
            (access::GROUP, "selfsubjectrulesreviews") => rules::of_self(authorization, user, &object)?,
            _ => return Err(ApiError::no_such_resource()),
        };
        if object.get("metadata").is_none_or(Object::is_null) {
            object["metadata"] = serde_json::json!({});
        }
        object["kind"] = Object::from(resource.kind.as_str());
        object["apiVersion"] = Object::from(resource.api_version());
        Ok(object)
    }
}
