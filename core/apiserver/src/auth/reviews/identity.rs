//! `TokenReview`: whose token is this.

use gantry_api::error::ApiError;
use gantry_api::object::{Object, items_at, str_at};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::auth::authenticate::Authenticator;

/// The API group of identity reviews.
pub const GROUP: &str = "authentication.k8s.io";

/// The status of a token review.
pub fn token(authenticator: &Authenticator, review: &Object, now: Timestamp) -> Result<Value, ApiError> {
    let token = str_at(review, "spec.token");
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let mut audiences: Vec<String> =
        items_at(review, "spec.audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences = authenticator.audiences().to_vec();
    }
    Ok(match authenticator.review_token(token, &audiences, now.as_second()) {
        Ok(authenticated) => {
            json!({"authenticated": true, "user": authenticated.user.to_value(), "audiences": authenticated.audiences})
        }
        Err(error) => json!({"user": {}, "error": error}),
    })
}
