//! `Priority`: from a pod's priority class to its number and preemption policy; at most one default class.

use std::sync::Arc;

use gantry_api::error::ApiError;
use gantry_api::object::{Object, at, bool_at, i64_at, map_mut, str_at};
use serde_json::json;

use super::{AdmissionRequest, ObjectReader, Operation};

const GROUP: &str = "scheduling.k8s.io";
const CLASSES: &str = "priorityclasses";

pub(super) fn admit(
    request: &AdmissionRequest<'_>,
    pod: &mut Object,
    old: Option<&Object>,
    reader: &dyn ObjectReader,
) -> Result<(), ApiError> {
    if !request.is_for_object("", "pods") {
        return Ok(());
    }
    match (request.operation, old) {
        (Operation::Create, _) => resolve(request, pod, reader),
        (Operation::Update, Some(old)) => {
            // A client that leaves them out doesn't mean to take them back.
            for field in ["priority", "preemptionPolicy"] {
                let kept = &at(old, "spec")[field];
                if at(pod, "spec")[field].is_null() && !kept.is_null() {
                    map_mut(pod, "spec").insert(field.to_owned(), kept.clone());
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn resolve(request: &AdmissionRequest<'_>, pod: &mut Object, reader: &dyn ObjectReader) -> Result<(), ApiError> {
    let name = str_at(pod, "spec.priorityClassName");
    let class = if name.is_empty() {
        default_class(reader)
    } else {
        let class = reader.get(GROUP, CLASSES, "", name);
        Some(class.ok_or_else(|| request.forbidden(pod, format_args!("no PriorityClass with name {name} was found")))?)
    };
    let priority = class.as_ref().and_then(|class| i64_at(class, "value")).unwrap_or_default();
    if let Some(given) = i64_at(pod, "spec.priority").filter(|given| *given != priority) {
        let cause = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
        );
        return Err(request.forbidden(pod, cause));
    }
    let policy = class.as_ref().map_or("PreemptLowerPriority", |class| str_at(class, "preemptionPolicy"));
    let given = str_at(pod, "spec.preemptionPolicy");
    if !policy.is_empty() && !given.is_empty() && given != policy {
        let cause = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(request.forbidden(pod, cause));
    }
    let spec = map_mut(pod, "spec");
    if let Some(class) = &class {
        spec.insert("priorityClassName".to_owned(), json!(str_at(class, "metadata.name")));
    }
    spec.insert("priority".to_owned(), json!(priority));
    if !policy.is_empty() {
        spec.insert("preemptionPolicy".to_owned(), json!(policy));
    }
    Ok(())
}

pub(super) fn validate(
    request: &AdmissionRequest<'_>,
    class: &Object,
    reader: &dyn ObjectReader,
) -> Result<(), ApiError> {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if !writes || !request.is_for_object(GROUP, CLASSES) || !bool_at(class, "globalDefault") {
        return Ok(());
    }
    let Some(default) = default_class(reader) else { return Ok(()) };
    let name = str_at(&default, "metadata.name");
    if request.operation == Operation::Update && name == str_at(class, "metadata.name") {
        return Ok(());
    }
    let cause = format!("PriorityClass {name} is already marked as default. Only one default can exist");
    Err(request.forbidden(class, cause))
}

/// The class of pods that name none. Two writers may have made two: the lower one counts.
fn default_class(reader: &dyn ObjectReader) -> Option<Arc<Object>> {
    let classes = reader.list(GROUP, CLASSES, "").into_iter().filter(|class| bool_at(class, "globalDefault"));
    classes.min_by_key(|class| i64_at(class, "value").unwrap_or_default())
}
