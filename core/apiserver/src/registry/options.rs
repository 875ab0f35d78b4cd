//! The options of verbs: from the query, and for deletes from the body.

use gantry_api::error::ApiError;
use gantry_api::field::{FieldError, FieldErrors, FieldPath};
use gantry_api::object::Object;
use gantry_api::resources::Resource;
use serde_json::{Value, json};

use crate::http::request_info::{query_flag, query_value, query_values};

const META_GROUP: &str = "meta.k8s.io";

/// Which revision a list must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionMatch {
    /// Unset.
    Unset,
    /// `NotOlderThan`.
    NotOlderThan,
    /// `Exact`.
    Exact,
}

/// The options of list, watch and deletecollection.
#[derive(Clone, Debug)]
pub struct ListOptions {
    /// As the client wrote it.
    pub label_selector: String,
    /// As the client wrote it.
    pub field_selector: String,
    /// As the client wrote it; empty for unset.
    pub resource_version: String,
    /// How to take the resourceVersion.
    pub version_match: VersionMatch,
    /// At most so many items; 0 for all.
    pub limit: usize,
    /// A token from an earlier page; empty for none.
    pub continue_token: String,
    /// Whether a watch wants bookmarks.
    pub bookmarks: bool,
    /// Whether a watch starts with what is there and says when that is done.
    pub send_initial_events: Option<bool>,
    /// After so many seconds a watch ends.
    pub timeout_seconds: Option<u64>,
}

fn integer(query: Option<&str>, name: &str) -> Result<Option<i64>, ApiError> {
    match query_value(query, name) {
        None => Ok(None),
        Some(text) if text.is_empty() => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
    }
}

impl ListOptions {
    /// Reads and checks the query of a list (or, with `watch`, of a watch).
    pub fn parse(query: Option<&str>, watch: bool) -> Result<Self, ApiError> {
        let text = |name: &str| query_value(query, name).map(|value| value.into_owned()).unwrap_or_default();
        let matching = text("resourceVersionMatch");
        let options = Self {
            label_selector: text("labelSelector"),
            field_selector: text("fieldSelector"),
            resource_version: text("resourceVersion"),
            version_match: match matching.as_str() {
                "Exact" => VersionMatch::Exact,
                "NotOlderThan" => VersionMatch::NotOlderThan,
                _ => VersionMatch::Unset,
            },
            limit: integer(query, "limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or_default(),
            continue_token: text("continue"),
            bookmarks: query_flag(query, "allowWatchBookmarks"),
            send_initial_events: query_value(query, "sendInitialEvents").map(|value| !matches!(&*value, "false" | "0")),
            timeout_seconds: integer(query, "timeoutSeconds")?
                .and_then(|seconds| u64::try_from(seconds).ok())
                .filter(|seconds| *seconds > 0),
        };
        let errors = options.check(&matching, watch);
        if errors.is_empty() { Ok(options) } else { Err(ApiError::invalid((META_GROUP, "ListOptions"), "", &errors)) }
    }

    /// Upstream's `ValidateListOptions`.
    fn check(&self, matching: &str, watch: bool) -> FieldErrors {
        let path = FieldPath::new("resourceVersionMatch");
        if watch {
            return self.check_watch(matching, &path);
        }
        let mut errors = FieldErrors::new();
        if self.send_initial_events.is_some() {
            errors.push(FieldError::forbidden(
                &FieldPath::new("sendInitialEvents"),
                "sendInitialEvents is forbidden for list",
            ));
        }
        if matching.is_empty() {
            return errors;
        }
        let version = self.resource_version.as_str();
        if version.is_empty() {
            errors.push(FieldError::forbidden(
                &path,
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        if !self.continue_token.is_empty() {
            errors.push(FieldError::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
        }
        match matching {
            "Exact" if version == "0" => errors.push(FieldError::forbidden(
                &path,
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            )),
            "Exact" | "NotOlderThan" => {}
            other => errors.push(FieldError::not_supported(&path, other, &["Exact", "NotOlderThan", ""])),
        }
        errors
    }

    fn check_watch(&self, matching: &str, path: &FieldPath) -> FieldErrors {
        let mut errors = FieldErrors::new();
        if self.send_initial_events.is_some() {
            if matching != "NotOlderThan" {
                errors.push(FieldError::forbidden(
                    path,
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
        } else if !matching.is_empty() {
            errors.push(FieldError::forbidden(
                path,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        if !self.continue_token.is_empty() {
            errors.push(FieldError::forbidden(&FieldPath::new("continue"), "continue is forbidden for watch"));
        }
        errors
    }
}

/// A resourceVersion as a number; unset is 0.
pub fn parse_version(text: &str) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse::<u64>().ok().and_then(|version| i64::try_from(version).ok()).ok_or_else(|| {
        format!("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax")
    })
}

/// Whether a write is a dry run; `kind` is the options' kind in upstream's refusal.
pub fn dry_run(query: Option<&str>, kind: &str) -> Result<bool, ApiError> {
    check_dry_run(&query_values(query, "dryRun"), kind)
}

fn check_dry_run(values: &[String], kind: &str) -> Result<bool, ApiError> {
    let values: Vec<&String> = values.iter().filter(|value| !value.is_empty()).collect();
    if values.iter().any(|value| *value != "All") {
        let error = FieldError::not_supported(&FieldPath::new("dryRun"), json!(values), &["All"]);
        return Err(ApiError::invalid((META_GROUP, kind), "", &[error]));
    }
    Ok(!values.is_empty())
}

/// What happens to an object's dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They stay.
    Orphan,
    /// They go afterwards.
    Background,
    /// They go first.
    Foreground,
}

/// The options of a delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds until it must be gone.
    pub grace_period_seconds: Option<i64>,
    /// The uid it must have.
    pub uid: Option<String>,
    /// The resourceVersion it must have.
    pub resource_version: Option<String>,
    /// What happens to its dependents.
    pub propagation: Option<Propagation>,
    /// The old way to say so.
    pub orphan_dependents: Option<bool>,
    /// Whether nothing is to be deleted.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// What a client should know that deletes objects of a resource with these options.
    pub fn warnings(&self, resource: &Resource) -> Vec<String> {
        const JOBS: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background \
            to remove them or set propagationPolicy=Orphan to suppress this warning";
        let unsaid = self.propagation.is_none() && self.orphan_dependents.is_none();
        if unsaid && resource.group == "batch" && resource.plural == "jobs" {
            vec![JOBS.to_owned()]
        } else {
            Vec::new()
        }
    }

    /// Reads the options from the body, or from the query when there is none, and checks them.
    pub fn parse(query: Option<&str>, body: Option<&Object>) -> Result<Self, ApiError> {
        let from_query = query_options(query)?;
        let body = body.unwrap_or(&from_query);
        let text = |path: &str| body.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let policy = text("/propagationPolicy");
        let mut errors = FieldErrors::new();
        let orphan_dependents = body["orphanDependents"].as_bool();
        if policy.is_some() && orphan_dependents.is_some() {
            errors.push(FieldError::invalid(
                &FieldPath::new("propagationPolicy"),
                policy.clone().unwrap_or_default(),
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        let propagation = match policy.as_deref() {
            None => None,
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                // Upstream lists them in its own order.
                let mut error = FieldError::not_supported(&FieldPath::new("propagationPolicy"), other, &[]);
                error.detail = "supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"".to_owned();
                errors.push(error);
                None
            }
        };
        if !errors.is_empty() {
            return Err(ApiError::invalid((META_GROUP, "DeleteOptions"), "", &errors));
        }
        let dry: Vec<String> =
            body["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        let in_query = dry_run(query, "DeleteOptions")?;
        Ok(Self {
            grace_period_seconds: body["gracePeriodSeconds"].as_i64(),
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            propagation,
            orphan_dependents,
            dry_run: check_dry_run(&dry, "DeleteOptions")? || in_query,
        })
    }
}

fn query_options(query: Option<&str>) -> Result<Object, ApiError> {
    let mut options = json!({});
    if let Some(seconds) = integer(query, "gracePeriodSeconds")? {
        options["gracePeriodSeconds"] = json!(seconds);
    }
    if let Some(policy) = query_value(query, "propagationPolicy").filter(|policy| !policy.is_empty()) {
        options["propagationPolicy"] = json!(policy);
    }
    if query_value(query, "orphanDependents").is_some() {
        options["orphanDependents"] = json!(query_flag(query, "orphanDependents"));
    }
    Ok(options)
}
