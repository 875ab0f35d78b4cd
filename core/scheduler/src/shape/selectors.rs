//! Label selectors of spread constraints and pod affinity terms.

use std::collections::BTreeMap;

use gantry_api::selectors::{LabelSelector, Operator, Requirement};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as ApiSelector;

/// Labels of an object, by key.
pub type Labels = Vec<(Box<str>, Box<str>)>;

/// Labels of an API object.
pub fn labels_of(labels: Option<&BTreeMap<String, String>>) -> Labels {
    labels.into_iter().flatten().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect()
}

/// A label's value.
pub fn label<'a>(labels: &'a Labels, key: &str) -> Option<&'a str> {
    labels.binary_search_by(|(known, _)| (**known).cmp(key)).ok().map(|at| &*labels[at].1)
}

/// Whether labels are selected.
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    selector.matches(|key| label(labels, key))
}

fn requirement(key: &str, operator: Operator, values: Vec<String>) -> Requirement {
    let mut values = values;
    values.sort_unstable();
    values.dedup();
    Requirement { key: key.to_owned(), operator, values }
}

fn requirements(selector: &ApiSelector) -> Option<Vec<Requirement>> {
    let mut all: Vec<Requirement> = selector
        .match_labels
        .iter()
        .flatten()
        .map(|(key, value)| requirement(key, Operator::Equals, vec![value.clone()]))
        .collect();
    for expression in selector.match_expressions.iter().flatten() {
        let operator = match expression.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            _ => return None,
        };
        all.push(requirement(&expression.key, operator, expression.values.clone().unwrap_or_default()));
    }
    Some(all)
}

/// Of an API object: none selects nothing, as does one with an operator that isn't known; an empty one selects all.
pub fn of_api(selector: Option<&ApiSelector>) -> LabelSelector {
    selector.and_then(requirements).map_or_else(LabelSelector::nothing, LabelSelector::of)
}

/// The same with the pod's own values of some labels (`matchLabelKeys`) and without those of others
/// (`mismatchLabelKeys`). Keys that the API server has merged already change nothing.
pub fn with_keys(
    selector: Option<&ApiSelector>,
    pod: &Labels,
    same: Option<&[String]>,
    different: Option<&[String]>,
) -> LabelSelector {
    let Some(mut all) = selector.and_then(requirements) else { return LabelSelector::nothing() };
    let keys = [(same, Operator::In), (different, Operator::NotIn)];
    for (keys, operator) in keys {
        for key in keys.into_iter().flatten() {
            if let Some(value) = label(pod, key) {
                let more = requirement(key, operator, vec![value.to_owned()]);
                if !all.contains(&more) {
                    all.push(more);
                }
            }
        }
    }
    LabelSelector::of(all)
}
