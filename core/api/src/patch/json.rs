//! JSON patch (RFC 6902) as `evanphx/json-patch` applies it for upstream: negative indices count from the end, and a path
//! must exist but for the place that an `add` makes.

use serde_json::Value;

use super::not_applicable;
use crate::decode::syntax_error;
use crate::error::{ApiError, quoted};
use crate::object::Object;

/// Operations in one patch.
pub const OPERATIONS_MAX: usize = 10_000;
/// What all `copy` operations of a patch may copy together: upstream's limit of a request's body, in bytes.
pub const COPY_BYTES_MAX: usize = 3 << 20;

const FIELDS: [&str; 4] = ["op", "path", "from", "value"];

/// Fields that an operation doesn't have; an error when the body isn't a list of operations.
pub(super) fn strict_errors(body: &[u8]) -> Result<Vec<String>, ApiError> {
    let operations = read(body).map_err(|problem| ApiError::bad_request(format!("error decoding patch: {problem}")))?;
    let mut errors = Vec::new();
    for (index, operation) in operations.iter().enumerate() {
        let fields = operation.as_object().into_iter().flat_map(|map| map.keys());
        for field in fields.filter(|field| !FIELDS.contains(&field.as_str())) {
            errors.push(format!("json patch unknown field {}", quoted(&format!("[{index}].{field}"))));
        }
    }
    Ok(errors)
}

fn read(body: &[u8]) -> Result<Vec<Value>, String> {
    let value: Value =
        serde_json::from_slice(body).map_err(|error| syntax_error(body).unwrap_or_else(|| error.to_string()))?;
    let word = |value: &Value| match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        _ => "string",
    };
    let operations = match value {
        Value::Array(operations) => operations,
        Value::Null => return Ok(Vec::new()),
        other => {
            return Err(format!(
                "json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
                word(&other)
            ));
        }
    };
    for operation in &operations {
        let Value::Object(map) = operation else {
            return Err(format!(
                "json: cannot unmarshal {} into Go value of type handlers.jsonPatchOp",
                word(operation)
            ));
        };
        for field in ["op", "path", "from"] {
            if let Some(value) = map.get(field).filter(|value| !value.is_string() && !value.is_null()) {
                return Err(format!(
                    "json: cannot unmarshal {} into Go struct field jsonPatchOp.{field} of type string",
                    word(value)
                ));
            }
        }
    }
    Ok(operations)
}

/// Applies the body of a JSON patch.
pub fn json_patch(current: &Object, body: &[u8]) -> Result<Object, ApiError> {
    let operations = read(body).map_err(|problem| ApiError::bad_request(format!("error decoding patch: {problem}")))?;
    if operations.len() > OPERATIONS_MAX {
        let text =
            format!("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}", operations.len());
        return Err(ApiError::request_entity_too_large(text));
    }
    let mut object = current.clone();
    let mut copied_bytes = 0;
    for operation in &operations {
        apply(&mut object, operation, &mut copied_bytes).ok_or_else(not_applicable)?;
    }
    Ok(object)
}

/// Applies one operation; `None` when it can't be applied.
fn apply(object: &mut Value, operation: &Value, copied_bytes: &mut usize) -> Option<()> {
    let text = |field: &str| operation.get(field).and_then(Value::as_str);
    let path = Pointer::parse(text("path")?)?;
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    match text("op")? {
        "add" => add(object, &path, value()),
        "remove" => remove(object, &path).map(drop),
        "replace" => {
            *find_mut(object, &path)? = value();
            Some(())
        }
        "move" => {
            let moved = remove(object, &Pointer::parse(text("from")?)?)?;
            add(object, &path, moved)
        }
        "copy" => {
            let copied = find(object, &Pointer::parse(text("from")?)?)?.clone();
            *copied_bytes += serde_json::to_vec(&copied).map_or(0, |bytes| bytes.len());
            if *copied_bytes > COPY_BYTES_MAX {
                return None;
            }
            add(object, &path, copied)
        }
        // What is absent equals null.
        "test" => {
            let found = find(object, &path).unwrap_or(&Value::Null);
            (*found == value()).then_some(())
        }
        _ => None,
    }
}

/// The parts of a JSON pointer (RFC 6901).
struct Pointer(Vec<String>);

impl Pointer {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(Vec::new()));
        }
        let parts = text.strip_prefix('/')?.split('/');
        Some(Self(parts.map(|part| part.replace("~1", "/").replace("~0", "~")).collect()))
    }
}

/// The place in a list that a part names.
fn index(part: &str, length: usize) -> Option<usize> {
    let number: i64 = part.parse().ok()?;
    let number = if number < 0 { number.checked_add(i64::try_from(length).ok()?)? } else { number };
    usize::try_from(number).ok()
}

fn find<'a>(object: &'a Value, path: &Pointer) -> Option<&'a Value> {
    path.0.iter().try_fold(object, |value, part| match value {
        Value::Object(map) => map.get(part),
        Value::Array(items) => items.get(index(part, items.len())?),
        _ => None,
    })
}

fn find_mut<'a>(object: &'a mut Value, path: &Pointer) -> Option<&'a mut Value> {
    descend(object, &path.0)
}

fn descend<'a>(object: &'a mut Value, parts: &[String]) -> Option<&'a mut Value> {
    parts.iter().try_fold(object, |value, part| match value {
        Value::Object(map) => map.get_mut(part),
        Value::Array(items) => {
            let index = index(part, items.len())?;
            items.get_mut(index)
        }
        _ => None,
    })
}

fn add(object: &mut Value, path: &Pointer, value: Value) -> Option<()> {
    let Some((last, parents)) = path.0.split_last() else {
        *object = value;
        return Some(());
    };
    match descend(object, parents)? {
        Value::Object(map) => {
            map.insert(last.clone(), value);
        }
        Value::Array(items) => {
            // One more than there are: a negative index counts from behind the end.
            let index = if last == "-" { items.len() } else { index(last, items.len() + 1)? };
            if index > items.len() {
                return None;
            }
            items.insert(index, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(object: &mut Value, path: &Pointer) -> Option<Value> {
    let (last, parents) = path.0.split_last()?;
    match descend(object, parents)? {
        Value::Object(map) => map.remove(last),
        Value::Array(items) => {
            let index = index(last, items.len())?;
            (index < items.len()).then(|| items.remove(index))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_are_applied_in_order() {
        let object = json!({"a": {"b~c/d": 1}, "list": [1, 2, 3]});
        let cases = [
            (
                json!([{"op": "add", "path": "/x", "value": 1}]),
                Some(json!({"a": {"b~c/d": 1}, "list": [1, 2, 3], "x": 1})),
            ),
            (
                json!([{"op": "replace", "path": "/a/b~0c~1d", "value": 2}, {"op": "remove", "path": "/list"}]),
                Some(json!({"a": {"b~c/d": 2}})),
            ),
            (
                json!([{"op": "add", "path": "/list/-", "value": 4}, {"op": "add", "path": "/list/0", "value": 0}, {"op": "remove", "path": "/a"}]),
                Some(json!({"list": [0, 1, 2, 3, 4]})),
            ),
            (
                json!([{"op": "remove", "path": "/list/-1"}, {"op": "remove", "path": "/a"}]),
                Some(json!({"list": [1, 2]})),
            ),
            (
                json!([{"op": "move", "from": "/a", "path": "/b"}, {"op": "copy", "from": "/list/0", "path": "/c"}]),
                Some(json!({"b": {"b~c/d": 1}, "c": 1, "list": [1, 2, 3]})),
            ),
            (
                json!([{"op": "test", "path": "/list/0", "value": 1}, {"op": "test", "path": "/none", "value": null}]),
                Some(object.clone()),
            ),
            (json!([{"op": "test", "path": "/list/0", "value": 2}]), None),
            (json!([{"op": "remove", "path": "/none"}]), None),
            (json!([{"op": "replace", "path": "/none", "value": 1}]), None),
            (json!([{"op": "add", "path": "/none/x", "value": 1}]), None),
            (json!([{"op": "add", "path": "/list/9", "value": 1}]), None),
            (json!([{"op": "jump", "path": "/a"}]), None),
            (json!([]), Some(object.clone())),
        ];
        for (patch, expect) in cases {
            let found = json_patch(&object, patch.to_string().as_bytes());
            match expect {
                Some(expect) => assert_eq!(found, Ok(expect), "{patch}"),
                None => assert_eq!(found.map_err(|error| error.code), Err(422), "{patch}"),
            }
        }
    }

    #[test]
    fn what_is_no_patch_is_refused() {
        let refusal = |body: &str| json_patch(&json!({}), body.as_bytes()).expect_err(body).message;
        assert_eq!(
            refusal("{}"),
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        );
        assert_eq!(
            refusal("[{\"op\":1}]"),
            "error decoding patch: json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string"
        );
        assert_eq!(
            strict_errors(b"[{\"op\":\"add\",\"foo\":1}]"),
            Ok(vec!["json patch unknown field \"[0].foo\"".to_owned()])
        );
    }
}
