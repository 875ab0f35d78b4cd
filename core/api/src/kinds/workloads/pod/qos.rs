//! How well a pod is served when its node runs short (upstream's `ComputePodQOS`).

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::read::{entries, is_set, items, quantity};
use crate::quantity::Quantity;

const SUPPORTED: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(in super::super) fn class(spec: &Value) -> &'static str {
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    let mut all_limited = true;
    let owners: Vec<&Value> = if is_set(spec, "resources") {
        vec![spec]
    } else {
        items(spec, "containers").iter().chain(items(spec, "initContainers")).collect()
    };
    for owner in owners {
        add(&mut requests, &owner["resources"], "requests");
        let limited = add(&mut limits, &owner["resources"], "limits");
        all_limited &= limited == SUPPORTED.len();
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if all_limited && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Adds the positive amounts of a list, and says of how many resources it had one.
fn add(sums: &mut BTreeMap<String, Quantity>, resources: &Value, list: &str) -> usize {
    let mut found = 0;
    for (name, value) in entries(resources, list) {
        let amount = quantity(value);
        if SUPPORTED.contains(&name) && amount.sign() > 0 {
            found += 1;
            sums.entry(name.to_owned()).and_modify(|sum| *sum = sum.plus(&amount)).or_insert(amount);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_that_equal_requests_are_guaranteed() {
        let all = json!({"cpu": "1", "memory": "1Gi"});
        let cases = [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "0"}}), "BestEffort"),
            (json!({"requests": {"example.org/gpu": "1"}}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (json!({"requests": all, "limits": all}), "Guaranteed"),
            (json!({"requests": {"cpu": "1", "memory": "1Mi"}, "limits": all}), "Burstable"),
            (json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}), "Burstable"),
        ];
        for (resources, expect) in cases {
            assert_eq!(class(&json!({"containers": [{"resources": resources}]})), expect, "{resources}");
        }
        let spec = json!({"resources": {"requests": all, "limits": all}, "containers": [{}]});
        assert_eq!(class(&spec), "Guaranteed");
    }
}
