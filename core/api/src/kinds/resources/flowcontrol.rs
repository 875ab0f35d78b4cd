//! Flow schemas and priority levels.

use serde_json::{Value, json};

use super::super::{Kind, keep_status};
use super::checks::{first_generation, invalid, keep, known_only, next_generation, path, present, texts_at};
use crate::field::{FieldError, FieldErrors, FieldPath};
use crate::names;
use crate::object::{Object, bool_at, i64_at, is_empty, items_at, map_mut, str_at};

const PRECEDENCE_MAX: i64 = 10_000;
const QUEUES_MAX: i64 = 10_000_000;
/// Bits of the hash that deals out hands of queues.
const HASH_BITS: u32 = 60;
const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

pub(super) struct FlowSchema;

impl Kind for FlowSchema {
    fn prepare_for_create(&self, object: &mut Object) {
        map_mut(object, "").insert("status".to_owned(), json!({}));
        first_generation(object);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_status(object, old);
        next_generation(object, old, &["spec"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let at = path("spec");
        let spec = &object["spec"];
        let precedence = i64_at(spec, "matchingPrecedence").unwrap_or_default();
        let precedence_at = at.child("matchingPrecedence");
        let mut errors = FieldErrors::new();
        if precedence <= 0 {
            errors.push(FieldError::invalid(&precedence_at, precedence, "must be a positive value"));
        }
        if precedence > PRECEDENCE_MAX {
            let detail = format!("must not be greater than {PRECEDENCE_MAX}");
            errors.push(FieldError::invalid(&precedence_at, precedence, detail));
        }
        if precedence == 1 && str_at(object, "metadata.name") != "exempt" {
            let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
            errors.push(FieldError::invalid(&precedence_at, precedence, detail));
        }
        let method = &spec["distinguisherMethod"];
        if !method.is_null() {
            let at = at.child("distinguisherMethod.type");
            errors.extend(known_only(&at, str_at(method, "type"), &["ByNamespace", "ByUser"]));
        }
        let level = str_at(spec, "priorityLevelConfiguration.name");
        let level_at = at.child("priorityLevelConfiguration.name");
        if level.is_empty() {
            errors.push(FieldError::required(&level_at, "must reference a priority level"));
        } else {
            errors.extend(invalid(&level_at, level, names::dns1123_subdomain(level)));
        }
        for (index, rule) in items_at(spec, "rules").iter().enumerate() {
            errors.extend(flow_rule(rule, &at.child("rules").index(index)));
        }
        errors.extend(conditions(object));
        errors
    }

    fn validate_status_update(&self, object: &Object, _old: &Object) -> FieldErrors {
        conditions(object)
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        super::super::keep_all_but_status(object, old);
    }
}

fn conditions(object: &Object) -> FieldErrors {
    let at = path("status.conditions");
    let list = items_at(object, "status.conditions");
    let mut errors = FieldErrors::new();
    for (index, condition) in list.iter().enumerate() {
        let kind = str_at(condition, "type");
        let at = at.index(index).child("type");
        if list[..index].iter().any(|other| str_at(other, "type") == kind) {
            errors.push(FieldError::duplicate(&at, kind));
        }
        errors.extend(present(&at, kind));
    }
    errors
}

fn flow_rule(rule: &Value, at: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let subjects = items_at(rule, "subjects");
    if subjects.is_empty() {
        errors.push(FieldError::required(&at.child("subjects"), "subjects must contain at least one value"));
    }
    for (index, subject) in subjects.iter().enumerate() {
        errors.extend(flow_subject(subject, &at.child("subjects").index(index)));
    }
    let (resources, others) = (items_at(rule, "resourceRules"), items_at(rule, "nonResourceRules"));
    if resources.is_empty() && others.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(FieldError::required(at, detail));
    }
    for (index, rule) in resources.iter().enumerate() {
        errors.extend(resource_rule(rule, &at.child("resourceRules").index(index)));
    }
    for (index, rule) in others.iter().enumerate() {
        errors.extend(url_rule(rule, &at.child("nonResourceRules").index(index)));
    }
    errors
}

fn flow_subject(subject: &Value, at: &FieldPath) -> FieldErrors {
    let kind = str_at(subject, "kind");
    let all = [("serviceAccount", "ServiceAccount"), ("user", "User"), ("group", "Group")];
    let Some((field, _)) = all.iter().find(|(_, known)| *known == kind) else {
        return known_only(&at.child("kind"), kind, &["Group", "ServiceAccount", "User"]);
    };
    let value = &subject[*field];
    let own = at.child(field);
    let mut errors = FieldErrors::new();
    if value.is_null() {
        errors.push(FieldError::required(&own, format!("{field} is required when subject kind is '{kind}'")));
    } else {
        let name = str_at(value, "name");
        errors.extend(present(&own.child("name"), name));
        if kind == "ServiceAccount" {
            if !matches!(name, "" | "*") {
                errors.extend(invalid(&own.child("name"), name, names::dns1123_subdomain(name)));
            }
            let namespace = str_at(value, "namespace");
            let at = own.child("namespace");
            if namespace.is_empty() {
                errors.push(FieldError::required(&at, "must specify namespace for service account"));
            } else {
                errors.extend(invalid(&at, namespace, names::dns1123_label(namespace)));
            }
        }
    }
    for (other, other_kind) in all.iter().filter(|(other, _)| other != field) {
        if !subject[*other].is_null() {
            let detail = format!("{other} is forbidden when subject kind is not '{other_kind}'");
            errors.push(FieldError::forbidden(&at.child(other), detail));
        }
    }
    errors
}

/// A list in which `*` stands alone.
fn alone(values: &[&str], what: &str, at: &FieldPath) -> Option<FieldError> {
    (values.len() > 1 && values.contains(&"*"))
        .then(|| FieldError::invalid(at, json!(values), format!("if '*' is present, must not specify other {what}")))
}

fn verbs(rule: &Value, at: &FieldPath) -> FieldErrors {
    let at = at.child("verbs");
    let verbs = texts_at(rule, "verbs");
    if verbs.is_empty() {
        return vec![FieldError::required(&at, "verbs must contain at least one value")];
    }
    if verbs.contains(&"*") {
        return alone(&verbs, "verbs", &at).into_iter().collect();
    }
    if verbs.iter().any(|verb| !VERBS.contains(verb)) {
        return vec![FieldError::not_supported(&at, json!(verbs), &VERBS)];
    }
    FieldErrors::new()
}

fn resource_rule(rule: &Value, at: &FieldPath) -> FieldErrors {
    let mut errors = verbs(rule, at);
    let lists = [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")];
    for (field, one, many) in lists {
        let values = texts_at(rule, field);
        if values.is_empty() {
            let detail = format!("resource rules must supply at least one {one}");
            errors.push(FieldError::required(&at.child(field), detail));
        }
        errors.extend(alone(&values, many, &at.child(field)));
    }
    let at = at.child("namespaces");
    let namespaces = texts_at(rule, "namespaces");
    if namespaces.is_empty() && !bool_at(rule, "clusterScope") {
        let detail = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.push(FieldError::required(&at, detail));
    } else if namespaces.contains(&"*") {
        errors.extend(alone(&namespaces, "namespaces", &at));
    } else {
        for (index, namespace) in namespaces.iter().enumerate() {
            for problem in names::dns1123_label(namespace) {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {problem}");
                errors.push(FieldError::invalid(&at.index(index), *namespace, detail));
            }
        }
    }
    errors
}

fn url_rule(rule: &Value, at: &FieldPath) -> FieldErrors {
    let mut errors = verbs(rule, at);
    let at = at.child("nonResourceURLs");
    let urls = texts_at(rule, "nonResourceURLs");
    if urls.is_empty() {
        errors.push(FieldError::required(&at, "nonResourceURLs must contain at least one value"));
    } else if urls.contains(&"*") {
        errors.extend(alone(&urls, "non-resource URLs", &at));
    } else {
        for (index, url) in urls.iter().enumerate() {
            errors.extend(url_problem(url).map(|problem| FieldError::invalid(&at.index(index), *url, problem)));
        }
    }
    errors
}

fn url_problem(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || stars == 1 && !url.ends_with("/*") => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

pub(super) struct PriorityLevelConfiguration;

impl Kind for PriorityLevelConfiguration {
    fn prepare_for_create(&self, object: &mut Object) {
        map_mut(object, "").insert("status".to_owned(), json!({}));
        first_generation(object);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_status(object, old);
        next_generation(object, old, &["spec"]);
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        keep(object, old, &["spec"]);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let at = path("spec");
        let spec = &object["spec"];
        let kind = str_at(spec, "type");
        let mut errors = FieldErrors::new();
        if (str_at(object, "metadata.name") == "exempt") != (kind == "Exempt") {
            let detail = "must be 'Exempt' if and only if `name` is 'exempt'";
            errors.push(FieldError::invalid(&at.child("type"), kind, detail));
        }
        let (limited, exempt) = (&spec["limited"], &spec["exempt"]);
        match kind {
            "Exempt" => {
                if !limited.is_null() {
                    let detail = "must be nil if the type is not Limited";
                    errors.push(FieldError::forbidden(&at.child("limited"), detail));
                }
                errors.extend(shares(exempt, &at.child("exempt")));
            }
            "Limited" => {
                if !exempt.is_null() {
                    let detail = "must be nil if the type is Limited";
                    errors.push(FieldError::forbidden(&at.child("exempt"), detail));
                }
                if limited.is_null() {
                    let detail = "must not be empty when type is Limited";
                    errors.push(FieldError::required(&at.child("limited"), detail));
                } else {
                    errors.extend(limits(limited, &at.child("limited")));
                }
            }
            kind => errors.extend(known_only(&at.child("type"), kind, &["Exempt", "Limited"])),
        }
        errors.extend(conditions(object));
        errors
    }

    fn validate_status_update(&self, object: &Object, _old: &Object) -> FieldErrors {
        conditions(object)
    }
}

fn shares(level: &Value, at: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    if let Some(shares) = i64_at(level, "nominalConcurrencyShares").filter(|shares| *shares < 0) {
        let detail = "must be a non-negative integer";
        errors.push(FieldError::invalid(&at.child("nominalConcurrencyShares"), shares, detail));
    }
    if let Some(percent) = i64_at(level, "lendablePercent").filter(|percent| !(0..=100).contains(percent)) {
        let detail = names::range_error(0, 100);
        errors.push(FieldError::invalid(&at.child("lendablePercent"), percent, detail));
    }
    errors
}

fn limits(level: &Value, at: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let mut own = shares(level, at);
    let split = own.iter().position(|error| error.field == at.child("lendablePercent")).unwrap_or(own.len());
    let lendable = own.split_off(split);
    errors.extend(own);
    let response = &level["limitResponse"];
    let response_at = at.child("limitResponse");
    let queuing = &response["queuing"];
    match str_at(response, "type") {
        "Reject" if !queuing.is_null() => {
            let detail = "must be nil if limited.limitResponse.type is not Limited";
            errors.push(FieldError::forbidden(&response_at.child("queuing"), detail));
        }
        "Reject" => {}
        "Queue" if is_empty(queuing) && queuing.is_null() => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            errors.push(FieldError::required(&response_at.child("queuing"), detail));
        }
        "Queue" => errors.extend(queues(queuing, &response_at.child("queuing"))),
        kind => errors.extend(known_only(&response_at.child("type"), kind, &["Queue", "Reject"])),
    }
    errors.extend(lendable);
    if let Some(percent) = i64_at(level, "borrowingLimitPercent").filter(|percent| *percent < 0) {
        let detail = "if specified, must be a non-negative integer";
        errors.push(FieldError::invalid(&at.child("borrowingLimitPercent"), percent, detail));
    }
    errors
}

fn queues(queuing: &Value, at: &FieldPath) -> FieldErrors {
    let number = |field: &str| i64_at(queuing, field).unwrap_or_default();
    let (length, queues, hand) = (number("queueLengthLimit"), number("queues"), number("handSize"));
    let mut errors = FieldErrors::new();
    if length <= 0 {
        errors.push(FieldError::invalid(&at.child("queueLengthLimit"), length, "must be positive"));
    }
    if queues <= 0 {
        errors.push(FieldError::invalid(&at.child("queues"), queues, "must be positive"));
    } else if queues > QUEUES_MAX {
        let detail = format!("must not be greater than {QUEUES_MAX}");
        errors.push(FieldError::invalid(&at.child("queues"), queues, detail));
    }
    let hand_at = at.child("handSize");
    if hand <= 0 {
        errors.push(FieldError::invalid(&hand_at, hand, "must be positive"));
    } else if hand > queues {
        let detail = format!("should not be greater than queues ({queues})");
        errors.push(FieldError::invalid(&hand_at, hand, detail));
    } else if entropy_bits(queues, hand) > HASH_BITS {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        errors.push(FieldError::invalid(&hand_at, hand, detail));
    }
    errors
}

/// How many bits of a hash it takes to deal a hand from a deck.
fn entropy_bits(deck: i64, hand: i64) -> u32 {
    (0..hand).map(|card| ((deck - card) as f64).log2()).sum::<f64>().ceil() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(errors: FieldErrors, expect: &[&str]) {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, expect);
    }

    #[test]
    fn rules_say_who_and_what() {
        check(
            flow_rule(
                &json!({"subjects": [{"kind": "User", "group": {"name": "g"}}], "nonResourceRules": [{"verbs": ["GET"], "nonResourceURLs": ["x", "/a*"]}]}),
                &path("r"),
            ),
            &[
                "r.subjects[0].user: Required value: user is required when subject kind is 'User'",
                "r.subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                "r.nonResourceRules[0].verbs: Unsupported value: [\"GET\"]: supported values: \"create\", \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\"",
                "r.nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"x\": must start with slash",
                "r.nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/a*\": wildcard can only do suffix matching",
            ],
        );
    }

    #[test]
    fn hands_fit_the_hash() {
        assert_eq!(entropy_bits(128, 6), 42);
        check(
            queues(&json!({"queues": 1_000_000, "handSize": 8, "queueLengthLimit": 1}), &path("q")),
            &[
                "q.handSize: Invalid value: 8: required entropy bits of deckSize 1000000 and handSize 8 should not be greater than 60",
            ],
        );
    }

    #[test]
    fn levels_are_limited_or_exempt() {
        check(
            PriorityLevelConfiguration.validate_create(&json!({"metadata": {"name": "a"}, "spec": {"type": "Limited", "exempt": {}, "limited": {"lendablePercent": 101, "limitResponse": {"type": "Reject", "queuing": {}}}}})),
            &[
                "spec.exempt: Forbidden: must be nil if the type is Limited",
                "spec.limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited",
                "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
            ],
        );
    }
}
