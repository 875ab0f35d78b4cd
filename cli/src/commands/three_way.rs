//! The patch that `apply` sends: what the last applied configuration had and the new one hasn't is deleted, what the
//! live object has otherwise is changed, all else stays. Source: upstream's "Declarative Management of Kubernetes
//! Objects", and its `strategicpatch` for the directives.

use gantry_api::schema::Shape;
use gantry_api::schema::{DefinitionId, Field, Schema};
use serde_json::{Map, Value, json};

type Fields = Map<String, Value>;

/// The patch from what was applied last, what is applied now and what there is. With a definition it is a strategic
/// merge patch, without one a JSON merge patch.
pub fn three_way(definition: Option<DefinitionId>, original: &Value, modified: &Value, current: &Value) -> Value {
    let shape = definition.map(Shape::Struct);
    Value::Object(fields_patch(shape.as_ref(), &fields(original), &fields(modified), &fields(current)))
}

fn fields(value: &Value) -> Fields {
    value.as_object().cloned().unwrap_or_default()
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The field of a struct, or the shape of a map's values.
fn below<'a>(shape: Option<&'a Shape>, name: &str) -> (Option<&'static Field>, Option<&'a Shape>) {
    match shape {
        Some(Shape::Struct(id)) => {
            let field = Schema::builtin().definition(*id).field(name);
            (field, field.map(|field| &field.shape))
        }
        Some(Shape::Map(values)) => (None, Some(values)),
        _ => (None, None),
    }
}

fn fields_patch(shape: Option<&Shape>, original: &Fields, modified: &Fields, current: &Fields) -> Fields {
    let mut patch = Fields::new();
    for (name, new) in modified {
        let (field, inner) = below(shape, name);
        match (new, current.get(name)) {
            (Value::Null, None) => {}
            (Value::Object(new), Some(Value::Object(old))) => {
                let before = original.get(name).map(fields).unwrap_or_default();
                let mut change = fields_patch(inner, &before, new, old);
                if !change.is_empty() {
                    if field.is_some_and(|field| field.retain_keys) {
                        change.insert("$retainKeys".to_owned(), new.keys().cloned().collect());
                    }
                    patch.insert(name.clone(), Value::Object(change));
                }
            }
            (Value::Array(new), Some(Value::Array(old))) if field.is_some_and(|field| field.patch_merge) => {
                let before = items(original.get(name));
                match field.and_then(|field| field.merge_key) {
                    Some(key) => keyed_patch(name, key, inner, (before, new, old), &mut patch),
                    None => set_patch(name, (before, new, old), &mut patch),
                }
            }
            (new, old) if old != Some(new) => {
                patch.insert(name.clone(), new.clone());
            }
            _ => {}
        }
    }
    for name in original.keys().filter(|name| !modified.contains_key(*name) && current.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    patch
}

/// A list whose items are merged by the value of one of their fields.
fn keyed_patch(
    name: &str,
    key: &str,
    shape: Option<&Shape>,
    (original, modified, current): (&[Value], &[Value], &[Value]),
    patch: &mut Fields,
) {
    let item_shape = match shape {
        Some(Shape::List(inner)) => Some(inner.as_ref()),
        _ => None,
    };
    let find = |list: &[Value], wanted: &Value| list.iter().find(|item| item[key] == *wanted).cloned();
    let mut changes = Vec::new();
    for new in modified {
        match find(current, &new[key]) {
            None => changes.push(new.clone()),
            Some(old) => {
                let before = find(original, &new[key]).unwrap_or_default();
                let mut change = fields_patch(item_shape, &fields(&before), &fields(new), &fields(&old));
                if !change.is_empty() {
                    change.insert(key.to_owned(), new[key].clone());
                    changes.push(Value::Object(change));
                }
            }
        }
    }
    for gone in original.iter().filter(|item| find(modified, &item[key]).is_none()) {
        if find(current, &gone[key]).is_some() {
            changes.push(json!({"$patch": "delete", key: gone[key].clone()}));
        }
    }
    if !changes.is_empty() {
        let order = modified.iter().map(|item| json!({key: item[key].clone()})).collect();
        patch.insert(format!("$setElementOrder/{name}"), order);
        patch.insert(name.to_owned(), Value::Array(changes));
    }
}

/// A list of plain values that is a set.
fn set_patch(name: &str, (original, modified, current): (&[Value], &[Value], &[Value]), patch: &mut Fields) {
    let added: Vec<Value> = modified.iter().filter(|item| !current.contains(item)).cloned().collect();
    let gone = original.iter().filter(|item| !modified.contains(item) && current.contains(item));
    let gone: Vec<Value> = gone.cloned().collect();
    if added.is_empty() && gone.is_empty() {
        return;
    }
    patch.insert(format!("$setElementOrder/{name}"), modified.to_vec().into());
    if !gone.is_empty() {
        patch.insert(format!("$deleteFromPrimitiveList/{name}"), gone.into());
    }
    if !added.is_empty() {
        patch.insert(name.to_owned(), added.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: Value) -> Value {
        json!({"spec": spec})
    }

    #[test]
    fn patches() {
        let container = |name: &str, image: &str| json!({"name": name, "image": image});
        let cases = [
            (
                "nothing new, defaults of the server stay",
                pod(json!({"containers": [container("a", "x")]})),
                pod(json!({"containers": [container("a", "x")]})),
                pod(json!({"dnsPolicy": "Default", "containers": [{"name": "a", "image": "x", "tty": false}]})),
                json!({}),
            ),
            (
                "an image",
                pod(json!({"containers": [container("a", "x"), container("b", "x")]})),
                pod(json!({"containers": [container("a", "x"), container("b", "y")]})),
                pod(json!({"containers": [container("a", "x"), container("b", "x")]})),
                pod(json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
                    "containers": [container("b", "y")]})),
            ),
            (
                "a container that is gone, a field that is gone",
                pod(json!({"hostname": "h", "containers": [container("a", "x"), container("b", "x")]})),
                pod(json!({"containers": [container("a", "x")]})),
                pod(json!({"hostname": "h", "containers": [container("a", "x"), container("b", "x")]})),
                pod(json!({"hostname": null, "$setElementOrder/containers": [{"name": "a"}],
                    "containers": [{"$patch": "delete", "name": "b"}]})),
            ),
        ];
        let definition = Schema::builtin().by_kind("", "v1", "Pod");
        assert!(definition.is_some());
        for (what, original, modified, current, expected) in cases {
            assert_eq!(three_way(definition, &original, &modified, &current), expected, "{what}");
        }
    }

    #[test]
    fn lists_of_unknown_kinds_are_replaced() {
        let object = |list: Value| json!({"spec": {"list": list, "same": 1}});
        let patch = three_way(None, &object(json!([1])), &object(json!([1, 2])), &object(json!([1])));
        assert_eq!(patch, json!({"spec": {"list": [1, 2]}}));
    }
}
