//! `RuntimeClass`: what a pod's runtime costs beside its containers, and on which nodes it is there.

use std::sync::Arc;

use gantry_api::error::ApiError;
use gantry_api::object::{Object, at, items_at, map_at, map_mut, str_at};
use gantry_api::quantity::Quantity;
use serde_json::{Value, json};

use super::{AdmissionRequest, ObjectReader, Operation};

fn concerns(request: &AdmissionRequest<'_>) -> bool {
    request.operation == Operation::Create && request.is_for_object("", "pods")
}

fn class_of(
    request: &AdmissionRequest<'_>,
    pod: &Object,
    reader: &dyn ObjectReader,
) -> Result<Option<Arc<Object>>, ApiError> {
    let Some(name) = at(pod, "spec.runtimeClassName").as_str() else { return Ok(None) };
    match reader.get("node.k8s.io", "runtimeclasses", "", name) {
        Some(class) => Ok(Some(class)),
        None => Err(request.forbidden(pod, format_args!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

pub(super) fn admit(
    request: &AdmissionRequest<'_>,
    pod: &mut Object,
    reader: &dyn ObjectReader,
) -> Result<(), ApiError> {
    if !concerns(request) {
        return Ok(());
    }
    let Some(class) = class_of(request, pod, reader)? else { return Ok(()) };
    let overhead = at(&class, "overhead.podFixed");
    if !at(&class, "overhead").is_null() {
        let own = at(pod, "spec.overhead");
        if !own.is_null() && !same_quantities(own, overhead) {
            return Err(mismatch(request, pod));
        }
        map_mut(pod, "spec").insert("overhead".to_owned(), overhead.clone());
    }
    for (key, value) in map_at(&class, "scheduling.nodeSelector").into_iter().flatten() {
        let own = &at(pod, "spec.nodeSelector")[key.as_str()];
        if !own.is_null() && own != value {
            let (value, own) = (value.as_str().unwrap_or_default(), own.as_str().unwrap_or_default());
            let cause = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
            );
            return Err(request.forbidden(pod, cause));
        }
        map_mut(pod, "spec.nodeSelector").insert(key.clone(), value.clone());
    }
    let tolerations = items_at(&class, "scheduling.tolerations");
    if !tolerations.is_empty() {
        let merged = merge_tolerations(items_at(pod, "spec.tolerations"), tolerations);
        map_mut(pod, "spec").insert("tolerations".to_owned(), json!(merged));
    }
    Ok(())
}

pub(super) fn validate(
    request: &AdmissionRequest<'_>,
    pod: &Object,
    reader: &dyn ObjectReader,
) -> Result<(), ApiError> {
    if !concerns(request) {
        return Ok(());
    }
    let class = class_of(request, pod, reader)?;
    let own = at(pod, "spec.overhead");
    match class.filter(|class| !at(class, "overhead").is_null()) {
        Some(class) if !same_quantities(own, at(&class, "overhead.podFixed")) => Err(mismatch(request, pod)),
        Some(_) => Ok(()),
        None if own.is_null() => Ok(()),
        None => Err(request
            .forbidden(pod, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")),
    }
}

fn mismatch(request: &AdmissionRequest<'_>, pod: &Object) -> ApiError {
    request.forbidden(pod, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
}

/// Whether two resource lists are the same, however their quantities are written.
fn same_quantities(a: &Value, b: &Value) -> bool {
    let read = |value: &Value| -> Option<Vec<(String, Quantity)>> {
        let entries = value.as_object().into_iter().flatten();
        entries.map(|(key, value)| Some((key.clone(), value.as_str()?.parse().ok()?))).collect()
    };
    read(a).zip(read(b)).is_some_and(|(a, b)| a == b)
}

/// Both lists in order, without what others make superfluous.
fn merge_tolerations(first: &[Value], second: &[Value]) -> Vec<Value> {
    let all: Vec<&Value> = first.iter().chain(second).collect();
    let mut merged: Vec<Value> = Vec::new();
    for (index, toleration) in all.iter().enumerate() {
        let superfluous = merged.iter().any(|other| is_superset(other, toleration))
            || all[index + 1..].iter().any(|other| other != toleration && is_superset(other, toleration));
        if !superfluous {
            merged.push((*toleration).clone());
        }
    }
    merged
}

/// Whether a toleration tolerates all that another one does.
fn is_superset(toleration: &Value, other: &Value) -> bool {
    if toleration == other {
        return true;
    }
    let (key, operator, effect) =
        (str_at(toleration, "key"), str_at(toleration, "operator"), str_at(toleration, "effect"));
    let any_key = key.is_empty() && operator == "Exists";
    if (key != str_at(other, "key") && !any_key) || (!effect.is_empty() && effect != str_at(other, "effect")) {
        return false;
    }
    let seconds = |toleration: &Value| at(toleration, "tolerationSeconds").as_i64();
    if effect == "NoExecute"
        && let Some(limit) = seconds(toleration)
        && seconds(other).is_none_or(|seconds| seconds > limit)
    {
        return false;
    }
    match operator {
        "Equal" | "" => str_at(other, "operator") == "Equal" && str_at(other, "value") == str_at(toleration, "value"),
        "Exists" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_are_merged_without_the_superfluous() {
        let equal = json!({"key": "a", "operator": "Equal", "value": "1", "effect": "NoSchedule"});
        let exists = json!({"key": "a", "operator": "Exists"});
        let all = json!({"operator": "Exists"});
        let brief = json!({"key": "b", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
        let long = json!({"key": "b", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 9});
        let cases = [
            (vec![&equal], vec![&exists], vec![&exists]),
            (vec![&exists], vec![&equal], vec![&exists]),
            (vec![&equal, &brief], vec![&all], vec![&all]),
            (vec![&brief], vec![&long], vec![&long]),
            (vec![&equal], vec![&brief], vec![&equal, &brief]),
            (vec![&equal], vec![&equal], vec![&equal]),
        ];
        for (first, second, expect) in cases {
            let own = |list: Vec<&Value>| list.into_iter().cloned().collect::<Vec<_>>();
            assert_eq!(merge_tolerations(&own(first), &own(second)), own(expect));
        }
    }
}
