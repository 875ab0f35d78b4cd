//! Upstream's `apiequality.Semantic.DeepEqual`: empty and absent lists and maps are the same, quantities are compared by
//! value.

use serde_json::{Map, Value};

use crate::quantity::Quantity;

/// Whether two values mean the same.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    compare(a, b, Meaning::Plain)
}

/// What the texts below a field are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Plain,
    /// The field is a quantity, or a map of quantities.
    Quantities,
}

fn meaning_of(field: &str) -> Meaning {
    match field {
        "limits" | "requests" | "overhead" | "sizeLimit" | "divisor" => Meaning::Quantities,
        _ => Meaning::Plain,
    }
}

fn compare(a: &Value, b: &Value, meaning: Meaning) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => maps(a, b, meaning),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::String(x), Value::String(y)) => x == y || (meaning == Meaning::Quantities && same_quantity(x, y)),
        (Value::Array(list), Value::Null) | (Value::Null, Value::Array(list)) => list.is_empty(),
        (Value::Object(map), Value::Null) | (Value::Null, Value::Object(map)) => {
            // An empty map of quantities is a nil one; any other empty object is a struct behind a pointer.
            meaning == Meaning::Quantities && map.is_empty()
        }
        (a, b) => a == b,
    }
}

fn maps(a: &Map<String, Value>, b: &Map<String, Value>, meaning: Meaning) -> bool {
    let below = |key: &str| if meaning == Meaning::Quantities { meaning } else { meaning_of(key) };
    a.iter().all(|(key, value)| compare(value, b.get(key).unwrap_or(&Value::Null), below(key)))
        && b.iter().all(|(key, value)| a.contains_key(key) || compare(&Value::Null, value, below(key)))
}

fn same_quantity(a: &str, b: &str) -> bool {
    matches!((a.parse::<Quantity>(), b.parse::<Quantity>()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_means_the_same_is_equal() {
        let cases = [
            (json!({"a": null}), json!({}), true),
            (json!({"a": []}), json!({}), true),
            (json!({"a": {}}), json!({}), false),
            (json!({"limits": {"memory": "1Gi"}}), json!({"limits": {"memory": "1073741824"}}), true),
            (json!({"limits": {"memory": "1Gi"}}), json!({"limits": {"memory": "2Gi"}}), false),
            (json!({"limits": {}}), json!({}), true),
            (json!({"value": "1Gi"}), json!({"value": "1073741824"}), false),
            (json!([1, 2]), json!([2, 1]), false),
        ];
        for (a, b, expect) in cases {
            assert_eq!((equal(&a, &b), equal(&b, &a)), (expect, expect), "{a} {b}");
        }
    }
}
