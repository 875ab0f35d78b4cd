//! `/scale`: the replicas of a workload as `autoscaling/v1` `Scale`.

use gantry_api::error::ApiError;
use gantry_api::field::{FieldError, FieldPath};
use gantry_api::object::{Object, i64_at, map_mut, str_at};
use gantry_api::selectors::LabelSelector;
use serde_json::{Value, json};

use super::update::{Door, without_version};
use super::{Call, Registry};

/// The `Scale` of an object.
pub fn scale_of(object: &Object) -> Object {
    let metadata = &object["metadata"];
    let mut shown = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !metadata[field].is_null() {
            shown[field] = metadata[field].clone();
        }
    }
    let mut status = json!({"replicas": i64_at(object, "status.replicas").unwrap_or_default()});
    let selector = &object["spec"]["selector"];
    let text = if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() {
        LabelSelector::from_object(selector).map(|selector| selector.to_string()).unwrap_or_default()
    } else {
        // A replication controller's selector is a plain map.
        let pairs = selector.as_object().into_iter().flatten();
        pairs.filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect::<Vec<_>>().join(",")
    };
    if !text.is_empty() {
        status["selector"] = json!(text);
    }
    let mut spec = json!({});
    if let Some(replicas) = i64_at(object, "spec.replicas").filter(|replicas| *replicas != 0) {
        spec["replicas"] = json!(replicas);
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": shown, "spec": spec, "status": status})
}

fn check(scale: &Object, call: &Call<'_>) -> Result<i64, ApiError> {
    let name = str_at(scale, "metadata.name");
    if !name.is_empty() && name != call.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.name
        )));
    }
    let replicas = i64_at(scale, "spec.replicas").unwrap_or_default();
    if replicas < 0 {
        let error =
            FieldError::invalid(&FieldPath::new("spec.replicas"), replicas, "must be greater than or equal to 0");
        return Err(ApiError::invalid(("autoscaling", "Scale"), call.name, &[error]));
    }
    Ok(replicas)
}

impl Registry {
    /// The `Scale` of a call's object.
    pub async fn scale(&self, call: &Call<'_>) -> Result<Object, ApiError> {
        let entry = self.entry(call).await?;
        let current = self.current_of(call.resource, &entry.value, entry.revision)?;
        Ok(scale_of(&current.object))
    }

    /// Sets the replicas to what a function makes of the current `Scale`.
    pub async fn rescale(
        &self,
        call: &Call<'_>,
        change: &(dyn Fn(Object) -> Result<Object, ApiError> + Send + Sync),
    ) -> Result<Object, ApiError> {
        let written = self
            .update(call, Door::Main, &|object| {
                let before = scale_of(object);
                let scale = change(before.clone())?;
                let replicas = check(&scale, call)?;
                let mut next = without_version(object.clone());
                let version = &scale["metadata"]["resourceVersion"];
                if !version.is_null() && version != &before["metadata"]["resourceVersion"] {
                    return Err(ApiError::modified(call.resource, call.name));
                }
                let uid = str_at(&scale, "metadata.uid");
                if !uid.is_empty() && uid != super::metadata::uid(object) {
                    let text = format!(
                        "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                        super::metadata::uid(object)
                    );
                    return Err(ApiError::conflict(call.resource, call.name, &text));
                }
                map_mut(&mut next, "spec").insert("replicas".to_owned(), Value::from(replicas));
                Ok(next)
            })
            .await?;
        let current = self.current_of(call.resource, &written.entry.value, written.entry.revision)?;
        Ok(scale_of(&current.object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_shows_replicas_and_selector() {
        let object = json!({
            "metadata": {"name": "d", "namespace": "n", "labels": {"x": "y"}},
            "spec": {"replicas": 2, "selector": {"app": "a"}},
            "status": {"replicas": 1},
        });
        assert_eq!(
            scale_of(&object),
            json!({
                "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "d", "namespace": "n"},
                "spec": {"replicas": 2}, "status": {"replicas": 1, "selector": "app=a"},
            })
        );
    }
}
