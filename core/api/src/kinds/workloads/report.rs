//! What validation has found so far.

use serde_json::{Map, Value};

use super::at::At;
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::names::{self, Problems};
use crate::{addresses, metadata};

/// Collects errors in upstream's order.
#[derive(Default)]
pub(super) struct Report {
    errors: FieldErrors,
}

impl Report {
    /// All that was found.
    pub fn into_errors(self) -> FieldErrors {
        self.errors
    }

    /// How much was found.
    pub fn len(&self) -> usize {
        self.errors.len()
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// Adds an error.
    pub fn push(&mut self, error: FieldError) {
        self.errors.push(error);
    }

    /// It must be set.
    pub fn required(&mut self, at: &At<'_>, detail: impl Into<String>) {
        self.errors.push(FieldError::required(&at.path(), detail));
    }

    /// It can't have this value.
    pub fn invalid(&mut self, at: &At<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.errors.push(FieldError::invalid(&at.path(), value, detail));
    }

    /// The same for a nil pointer, which upstream prints as a text.
    pub fn invalid_nil(&mut self, at: &At<'_>, detail: impl Into<String>) {
        self.invalid(at, "null", detail);
    }

    /// The same, the value printed as this text.
    pub fn invalid_shown(&mut self, at: &At<'_>, shown: String, detail: impl Into<String>) {
        self.errors.push(FieldError::invalid_shown(&at.path(), shown, detail));
    }

    /// The same, the value not printed.
    pub fn invalid_omitted(&mut self, at: &At<'_>, detail: impl Into<String>) {
        self.errors.push(FieldError::invalid_omitted(&at.path(), detail));
    }

    /// It must not be set or changed here.
    pub fn forbidden(&mut self, at: &At<'_>, detail: impl Into<String>) {
        self.errors.push(FieldError::forbidden(&at.path(), detail));
    }

    /// It stands twice.
    pub fn duplicate(&mut self, at: &At<'_>, value: impl Into<Value>) {
        self.errors.push(FieldError::duplicate(&at.path(), value));
    }

    /// What it refers to isn't there.
    pub fn not_found(&mut self, at: &At<'_>, value: impl Into<Value>) {
        self.errors.push(FieldError::not_found(&at.path(), value));
    }

    /// It is too long.
    pub fn too_long(&mut self, at: &At<'_>, bytes_max: usize) {
        self.errors.push(FieldError::too_long(&at.path(), bytes_max));
    }

    /// It has too many items.
    pub fn too_many(&mut self, at: &At<'_>, actual: usize, max: usize) {
        self.errors.push(FieldError::too_many(&at.path(), actual, max));
    }

    /// It is none of a set, which is printed sorted.
    pub fn not_supported(&mut self, at: &At<'_>, value: impl Into<Value>, supported: &[&str]) {
        self.errors.push(FieldError::not_supported(&at.path(), value, supported));
    }

    /// It is none of a list, which is printed as it is.
    pub fn not_supported_in_order(&mut self, at: &At<'_>, value: impl Into<Value>, supported: &[&str]) {
        self.errors.push(FieldError::not_supported_in_order(&at.path(), value, supported));
    }

    /// Each of these is wrong with a text.
    pub fn problems(&mut self, at: &At<'_>, value: &str, problems: Problems) {
        for problem in problems {
            self.invalid(at, value, problem);
        }
    }

    /// It must be one of a set, which is printed sorted.
    pub fn one_of(&mut self, at: &At<'_>, value: &str, supported: &[&str]) {
        if !supported.contains(&value) {
            self.not_supported(at, value, supported);
        }
    }

    /// It must be one of a list and not empty (upstream's switch with a case for "").
    pub fn required_one_of(&mut self, at: &At<'_>, value: &str, supported: &[&str]) {
        if value.is_empty() {
            self.required(at, "");
        } else if !supported.contains(&value) {
            self.not_supported_in_order(at, value, supported);
        }
    }

    /// A text that must not be empty.
    pub fn required_text(&mut self, at: &At<'_>, value: &str) {
        if value.is_empty() {
            self.required(at, "");
        }
    }

    /// It must not be negative.
    pub fn non_negative(&mut self, at: &At<'_>, value: i64) {
        if value < 0 {
            self.invalid(at, value, "must be greater than or equal to 0");
        }
    }

    /// A user's or group's number.
    pub fn user_or_group_id(&mut self, at: &At<'_>, value: Option<i64>) {
        if let Some(id) = value {
            for problem in names::user_or_group_id(id) {
                self.invalid(at, id, problem);
            }
        }
    }

    /// RFC 1123 label.
    pub fn dns_label(&mut self, at: &At<'_>, value: &str) {
        self.problems(at, value, names::dns1123_label(value));
    }

    /// RFC 1123 subdomain.
    pub fn dns_subdomain(&mut self, at: &At<'_>, value: &str) {
        self.problems(at, value, names::dns1123_subdomain(value));
    }

    /// A key of a label.
    pub fn qualified_name(&mut self, at: &At<'_>, value: &str) {
        self.problems(at, value, names::qualified_name(value));
    }

    /// An address of a field that once was lenient; old values stay valid.
    pub fn legacy_ip(&mut self, at: &At<'_>, value: &str, old_values: &[&str]) {
        let errors = addresses::legacy_ip(&FieldPath::default(), value, old_values);
        if !errors.is_empty() {
            self.errors.extend(addresses::legacy_ip(&at.path(), value, old_values));
        }
    }

    /// A set of labels.
    pub fn labels(&mut self, at: &At<'_>, labels: Option<&Map<String, Value>>) {
        if labels.is_some_and(|labels| !labels.is_empty()) {
            self.errors.extend(metadata::validate_labels(labels, &at.path()));
        }
    }

    /// A set of annotations.
    pub fn annotations(&mut self, at: &At<'_>, annotations: Option<&Map<String, Value>>) {
        if annotations.is_some_and(|annotations| !annotations.is_empty()) {
            self.errors.extend(metadata::validate_annotations(annotations, &at.path()));
        }
    }

    /// A label selector; null is fine.
    pub fn label_selector(&mut self, at: &At<'_>, selector: &Value, allow_invalid_values: bool) {
        if !selector.is_null() {
            self.errors.extend(crate::selectors::validate_label_selector(selector, &at.path(), allow_invalid_values));
        }
    }

    /// A file's permissions.
    pub fn file_mode(&mut self, at: &At<'_>, mode: Option<i64>) {
        if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
            self.invalid(at, mode, "must be a number between 0 and 0777 (octal), both inclusive");
        }
    }

    /// A path without `..` (upstream's `validatePathNoBacksteps`).
    pub fn no_backsteps(&mut self, at: &At<'_>, path: &str) {
        if path.split('/').any(|part| part == "..") {
            self.invalid(at, path, "must not contain '..'");
        }
    }

    /// A relative path without `..` (upstream's `validateLocalDescendingPath`).
    pub fn descending_path(&mut self, at: &At<'_>, path: &str) {
        if path.starts_with('/') {
            self.invalid(at, path, "must be a relative path");
        }
        self.no_backsteps(at, path);
    }

    /// The same that doesn't start with `..` (upstream's `ValidateLocalNonReservedPath`).
    pub fn non_reserved_path(&mut self, at: &At<'_>, path: &str) {
        self.descending_path(at, path);
        if path.starts_with("..") && !path.starts_with("../") {
            self.invalid(at, path, "must not start with '..'");
        }
    }

    /// A field that may not change (upstream's `ValidateImmutableField`); absent values print as null.
    pub fn immutable(&mut self, at: &At<'_>, new: &Value, old: &Value) {
        if !super::equality::equal(new, old) {
            match new {
                Value::Null => self.invalid_nil(at, "field is immutable"),
                value => self.invalid(at, value.clone(), "field is immutable"),
            }
        }
    }
}
