//! Merge patch (RFC 7396).

use serde_json::Value;

use super::read_map;
use crate::error::ApiError;
use crate::object::Object;

/// Applies the body of a merge patch.
pub fn merge_patch(current: &Object, body: &[u8]) -> Result<Object, ApiError> {
    let patch = read_map(body).map_err(|problem| ApiError::bad_request(format!("error decoding patch: {problem}")))?;
    let mut object = current.clone();
    merge(&mut object, &patch);
    Ok(object)
}

/// Merges a patch into a value: objects field by field, null removes, anything else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                merge(target.entry(key.as_str()).or_insert(Value::Null), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_rfcs_examples_hold() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (mut target, patch, expect) in cases {
            merge(&mut target, &patch);
            assert_eq!(target, expect);
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(json!(1)), Just(json!("x")), Just(json!([1, null])), Just(json!(null))];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop::collection::btree_map("[a-c]", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect()))
        })
    }

    proptest! {
        #[test]
        fn a_patch_applied_twice_changes_nothing_more(mut target in value(), patch in value()) {
            merge(&mut target, &patch);
            let once = target.clone();
            merge(&mut target, &patch);
            prop_assert_eq!(once, target);
        }

        #[test]
        fn an_empty_patch_changes_nothing(fields in prop::collection::btree_map("[a-c]", value(), 0..4)) {
            let mut target = Value::Object(fields.into_iter().collect());
            let before = target.clone();
            merge(&mut target, &json!({}));
            prop_assert_eq!(before, target);
        }
    }
}
