//! `matchLabelKeys` of affinity terms and spread constraints: the pod's own values, merged into the selector.

use serde_json::{Value, json};

use super::super::read::{items, items_mut};

/// Merges the keys of every term of a new pod (upstream's `mutatePodAffinity` and `mutateTopologySpreadConstraints`).
pub(super) fn merge(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].clone();
    let Some(spec) = pod.get_mut("spec") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.get_mut("affinity").and_then(|affinity| affinity.get_mut(kind)) else { continue };
        for weighted in items_mut(affinity, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = weighted.get_mut("podAffinityTerm") {
                merge_into(term, &labels);
            }
        }
        items_mut(affinity, "requiredDuringSchedulingIgnoredDuringExecution")
            .iter_mut()
            .for_each(|term| merge_into(term, &labels));
    }
    items_mut(spec, "topologySpreadConstraints").iter_mut().for_each(|constraint| merge_into(constraint, &labels));
}

fn merge_into(term: &mut Value, labels: &Value) {
    let mut expressions = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in items(term, field) {
            if let Some(value) = key.as_str().and_then(|key| labels[key].as_str()) {
                expressions.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    if let Some(selector) =
        term.get_mut("labelSelector").and_then(Value::as_object_mut).filter(|_| !expressions.is_empty())
    {
        match selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
            Some(list) => list.extend(expressions),
            None => {
                selector.insert("matchExpressions".to_owned(), expressions.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_expressions() {
        let mut term = json!({"labelSelector": {}, "matchLabelKeys": ["a", "absent"], "mismatchLabelKeys": ["b"]});
        merge_into(&mut term, &json!({"a": "1", "b": "2"}));
        let expressions = json!([
            {"key": "a", "operator": "In", "values": ["1"]},
            {"key": "b", "operator": "NotIn", "values": ["2"]},
        ]);
        assert_eq!(term["labelSelector"]["matchExpressions"], expressions);
    }
}
