//! How many pods a rolling update may take away or add: numbers or shares.

use serde_json::Value;

use super::super::at::At;
use super::super::report::Report;
use crate::names;

/// A number that isn't negative, or a share; absent counts as 0.
pub(super) fn check_amount(value: &Value, at: &At<'_>, report: &mut Report) {
    match value {
        Value::String(text) => {
            for problem in names::percent(text) {
                report.invalid(at, text.clone(), problem);
            }
        }
        value => report.non_negative(at, value.as_i64().unwrap_or_default()),
    }
}

/// No more than all.
pub(super) fn check_not_above_all(value: &Value, at: &At<'_>, report: &mut Report) {
    if share(value).is_some_and(|share| share > 100) {
        report.invalid(at, value.clone(), "must not be greater than 100%");
    }
}

/// The number of a share or a number; a text that is neither is 0.
pub(super) fn amount(value: &Value) -> i64 {
    share(value).or_else(|| value.as_i64()).unwrap_or_default()
}

fn share(value: &Value) -> Option<i64> {
    value.as_str().filter(|text| names::percent(text).is_empty())?.strip_suffix('%')?.parse().ok()
}
