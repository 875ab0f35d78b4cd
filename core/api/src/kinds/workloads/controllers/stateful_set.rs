//! Stateful sets.

use serde_json::{Value, json};

use super::super::at::At;
use super::super::equality::equal;
use super::super::read::{is_set, items_mut, number, optional_number, remove, replace, set, text};
use super::super::report::Report;
use super::super::spec::options::Options;
use super::super::spec::{annotations, defaults};
use super::super::{raise_generation, start};
use super::deployment::keep_all_but_status_and_metadata;
use super::{non_negative, not_above, not_decremented, template};
use crate::field::FieldErrors;
use crate::kinds::{Kind, NameRule, keep_status};
use crate::object::{Object, map_mut, set_default};
use crate::selectors::LabelSelector;

/// What may change.
const MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

/// A stateful set.
pub(in super::super) struct StatefulSet;

impl Kind for StatefulSet {
    fn default(&self, object: &mut Object) {
        let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
        if let Some(template) = spec.get_mut("template") {
            defaults::of_template(template);
        }
        let strategy = map_mut(spec, "updateStrategy");
        if strategy.get("type").and_then(Value::as_str).unwrap_or_default().is_empty() {
            strategy.insert("type".to_owned(), "RollingUpdate".into());
            set_default(strategy, "rollingUpdate", json!({}));
        }
        if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate")
            && let Some(rolling) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut)
        {
            set_default(rolling, "partition", 0);
        }
        for claim in items_mut(spec, "volumeClaimTemplates").iter_mut().filter(|claim| claim.is_object()) {
            for (field, value) in [("kind", "PersistentVolumeClaim"), ("apiVersion", "v1")] {
                if text(claim, field).is_empty() {
                    set(claim, field, value);
                }
            }
        }
    }

    fn prepare_for_create(&self, object: &mut Object) {
        start(object);
        map_mut(object, "status").insert("replicas".to_owned(), 0.into());
        drop_disabled(object, &Value::Null);
    }

    fn prepare_for_update(&self, object: &mut Object, old: &Object) {
        keep_status(object, old);
        drop_disabled(object, old);
        raise_generation(object, old, &["spec"]);
    }

    fn prepare_for_status_update(&self, object: &mut Object, old: &Object) {
        keep_all_but_status_and_metadata(object, old);
    }

    fn validate_create(&self, object: &Object) -> FieldErrors {
        let mut report = Report::default();
        check(&object["spec"], &Options::for_template(None), &mut report);
        report.into_errors()
    }

    fn validate_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut report = Report::default();
        check(&object["spec"], &Options::for_template(Some(&old["spec"]["template"])), &mut report);
        let mut kept = object["spec"].clone();
        MUTABLE.iter().for_each(|field| replace(&mut kept, &old["spec"], field));
        if !equal(&kept, &old["spec"]) {
            report.forbidden(
                &At::root("spec"),
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
                 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            );
        }
        report.into_errors()
    }

    fn validate_status_update(&self, object: &Object, old: &Object) -> FieldErrors {
        let mut report = Report::default();
        let (status, at) = (&object["status"], At::root("status"));
        let counts = [
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "observedGeneration",
            "collisionCount",
        ];
        non_negative(status, &counts, &at, &mut report);
        for field in ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"] {
            not_above(status, field, "replicas", "cannot be greater than status.replicas", &at, &mut report);
        }
        let detail = "cannot be greater than status.readyReplicas";
        not_above(status, "availableReplicas", "readyReplicas", detail, &at, &mut report);
        not_decremented(status, &old["status"], "collisionCount", &at, &mut report);
        report.into_errors()
    }

    fn name_rule(&self) -> NameRule {
        NameRule::DnsLabel
    }

    fn warnings(&self, object: &Object, old: Option<&Object>) -> Vec<String> {
        let mut found = Vec::new();
        template::template_warnings(object, old, "spec.template", &mut found);
        let changed = old.is_none_or(|old| old["metadata"]["generation"] != object["metadata"]["generation"]);
        if changed && optional_number(&object["spec"], "revisionHistoryLimit").is_some_and(|limit| limit < 0) {
            found.push(
                "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"
                    .to_owned(),
            );
        }
        found
    }
}

/// `maxUnavailable` is off in 1.36.
fn drop_disabled(object: &mut Object, old: &Value) {
    template::drop_disabled(object, old, "/spec/template");
    if !is_set(&old["spec"]["updateStrategy"]["rollingUpdate"], "maxUnavailable")
        && let Some(rolling) = object.pointer_mut("/spec/updateStrategy/rollingUpdate")
    {
        remove(rolling, "maxUnavailable");
    }
}

fn check(spec: &Value, options: &Options, report: &mut Report) {
    let at = At::root("spec");
    let policy = text(spec, "podManagementPolicy");
    let policy_at = at.field("podManagementPolicy");
    match policy {
        "" => report.required(&policy_at, ""),
        "OrderedReady" | "Parallel" => {}
        other => report.invalid(&policy_at, other, "must be 'OrderedReady' or 'Parallel'"),
    }
    strategy(&spec["updateStrategy"], &at.field("updateStrategy"), report);
    let (retention, retention_at) =
        (&spec["persistentVolumeClaimRetentionPolicy"], at.field("persistentVolumeClaimRetentionPolicy"));
    if retention.is_object() {
        for field in ["whenDeleted", "whenScaled"] {
            let policy = text(retention, field);
            if !matches!(policy, "Retain" | "Delete") {
                report.not_supported_in_order(&retention_at.field(field), policy, &["Retain", "Delete"]);
            }
        }
    }
    report.non_negative(&at.field("replicas"), number(spec, "replicas"));
    report.non_negative(&at.field("minReadySeconds"), number(spec, "minReadySeconds"));
    if is_set(spec, "ordinals") {
        report.non_negative(&at.field("ordinals.start"), number(&spec["ordinals"], "start"));
    }
    let service = text(spec, "serviceName");
    if !service.is_empty() {
        report.dns_label(&at.field("serviceName"), service);
    }
    let (selector, selector_at) = (&spec["selector"], at.field("selector"));
    template::check_selector(selector, "statefulset", &selector_at, report);
    if !selector.is_null() && LabelSelector::from_object(selector).is_err() {
        report.invalid(&selector_at, selector.clone(), "");
    } else {
        template_of(&spec["template"], selector, &at.field("template"), options, report);
    }
    template::check_endless(&spec["template"], "StatefulSet", &at.field("template"), report);
}

/// Upstream looks at a stateful set's template only from outside.
fn template_of(template: &Value, selector: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    template::check_match(selector, template, at, report);
    let metadata = &template["metadata"];
    report.labels(&at.field("labels"), metadata["labels"].as_object());
    report.annotations(&at.field("annotations"), metadata["annotations"].as_object());
    annotations::check(metadata, &template["spec"], &at.field("annotations"), options, report);
}

fn strategy(strategy: &Value, at: &At<'_>, report: &mut Report) {
    let (rolling, rolling_at) = (&strategy["rollingUpdate"], at.field("rollingUpdate"));
    match text(strategy, "type") {
        "" => report.required(at, ""),
        "OnDelete" => {
            if !rolling.is_null() {
                let shown = rolling_shown(rolling);
                report.invalid_shown(&rolling_at, shown, "only allowed for updateStrategy 'RollingUpdate'");
            }
        }
        "RollingUpdate" => {
            if !rolling.is_null() {
                report.non_negative(&rolling_at.field("partition"), number(rolling, "partition"));
            }
        }
        kind => {
            let shown = format!(r#"{{"Type":{},"RollingUpdate":{}}}"#, Value::from(kind), rolling_shown(rolling));
            report.invalid_shown(at, shown, "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
}

fn rolling_shown(rolling: &Value) -> String {
    match rolling {
        Value::Null => "null".to_owned(),
        rolling => format!(
            r#"{{"Partition":{},"MaxUnavailable":{}}}"#,
            number(rolling, "partition"),
            rolling["maxUnavailable"]
        ),
    }
}
