//! Requests, limits and claims of containers and pods; the classes of names that they may hold.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::at::At;
use super::super::read::{entries, is_set, items, quantity, quantity_text, text};
use super::super::report::Report;
use super::options::Options;
use crate::field::FieldError;
use crate::names;
use crate::quantity::Quantity;

const HUGE_PAGES: &str = "hugepages-";

/// Whose resources are checked, which decides what names are allowed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Container,
    Pod,
}

/// Whether a resource is of Kubernetes itself: unprefixed, or in its domain (upstream's `IsNativeResource`).
pub(in super::super) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether a resource is pages of a size of their own.
pub(in super::super) fn is_huge_pages(name: &str) -> bool {
    name.starts_with(HUGE_PAGES)
}

/// Whether it is an extended resource, such as `example.org/gpu` (upstream's `IsExtendedResourceName`).
pub(in super::super) fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether requests may be lower than limits.
fn may_be_overcommitted(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

/// Whether a pod as a whole may ask for it.
pub(in super::super) fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_pages(name)
}

/// Why an amount of huge pages can't be, if so; none for any other resource.
pub(super) fn huge_pages_problem(name: &str, amount: &Quantity) -> Option<String> {
    let size = name.strip_prefix(HUGE_PAGES)?.parse::<Quantity>().ok();
    let divisible = size.is_some_and(|size| size.value() > 0 && amount.value() % size.value() == 0);
    (!divisible).then(|| format!("{amount} is not positive integer multiple of {name}"))
}

/// `resources` (upstream's `validateResourceRequirements`).
pub(super) fn requirements(
    resources: &Value,
    owner: Owner,
    claim_names: &[&str],
    at: &At<'_>,
    options: &Options,
    report: &mut Report,
) {
    let (limits_at, requests_at) = (at.field("limits"), at.field("requests"));
    let (mut computes, mut pages) = (false, false);
    for (name, value) in entries(resources, "limits") {
        amount(name, value, owner, &limits_at.key(name), options, report);
        computes |= matches!(name, "cpu" | "memory");
        pages |= is_huge_pages(name);
    }
    for (name, value) in entries(resources, "requests") {
        let item = requests_at.key(name);
        name_and_sign(name, value, owner, &item, report);
        let limit = &resources["limits"][name];
        if !limit.is_null() {
            let order = quantity(value).cmp(&quantity(limit));
            let relation = match (order.is_eq(), order.is_gt(), may_be_overcommitted(name)) {
                (false, _, false) => Some("equal to"),
                (_, true, _) => Some("less than or equal to"),
                _ => None,
            };
            if let Some(relation) = relation {
                let detail = format!("must be {relation} {name} limit of {}", quantity_text(limit));
                report.invalid(&requests_at, quantity_text(value), detail);
            }
        } else if !may_be_overcommitted(name) {
            report.required(&limits_at, "Limit must be set for non overcommitable resources");
        }
        huge_pages(name, value, &item, options, report);
        computes |= matches!(name, "cpu" | "memory");
        pages |= is_huge_pages(name);
    }
    if pages && !computes {
        report.forbidden(at, "HugePages require cpu or memory");
    }
    claims(resources, claim_names, &at.field("claims"), report);
}

fn amount(name: &str, value: &Value, owner: Owner, at: &At<'_>, options: &Options, report: &mut Report) {
    name_and_sign(name, value, owner, at, report);
    huge_pages(name, value, at, options, report);
}

fn name_and_sign(name: &str, value: &Value, owner: Owner, at: &At<'_>, report: &mut Report) {
    resource_name(name, owner, at, report);
    let amount = quantity(value);
    if amount.sign() < 0 {
        report.invalid(at, quantity_text(value), "must be greater than or equal to 0");
    }
    if is_extended(name) && amount.milli_value() % 1000 != 0 {
        report.invalid(at, quantity_text(value), "must be an integer");
    }
}

fn huge_pages(name: &str, value: &Value, at: &At<'_>, options: &Options, report: &mut Report) {
    if !options.indivisible_huge_pages
        && let Some(problem) = huge_pages_problem(name, &quantity(value))
    {
        report.invalid(at, quantity_text(value), problem);
    }
}

/// Upstream's `validateContainerResourceName` and `validatePodResourceName`.
fn resource_name(name: &str, owner: Owner, at: &At<'_>, report: &mut Report) {
    let before = report.len();
    report.problems(at, name, names::qualified_name(name));
    if report.len() == before && !name.contains('/') && !is_standard(name) {
        report.invalid(at, name, "must be a standard resource type or fully qualified");
    }
    if owner == Owner::Pod {
        if report.len() == before && !is_pod_level(name) {
            report.not_supported_in_order(at, name, &["cpu", "hugepages-", "memory"]);
        }
    } else if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_pages(name) {
            report.invalid(at, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        report.invalid(at, name, "doesn't follow extended resource name standard");
    }
}

/// Whether an unprefixed name means something, if only to quotas (upstream's `IsStandardResourceName`).
fn is_standard(name: &str) -> bool {
    let counted = [
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "storage",
        "requests.storage",
        "services.nodeports",
        "services.loadbalancers",
    ];
    let computed = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    counted.contains(&name)
        || matches!(computed, "cpu" | "memory" | "ephemeral-storage")
        || is_huge_pages(name)
        || name.starts_with("requests.hugepages-")
}

fn claims(resources: &Value, claim_names: &[&str], at: &At<'_>, report: &mut Report) {
    let mut seen: Vec<String> = Vec::new();
    for (index, claim) in items(resources, "claims").iter().enumerate() {
        let at = at.index(index);
        let (name, request) = (text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            report.required(&at, "");
            continue;
        }
        if seen.iter().any(|key| key == name) {
            report.duplicate(&at, name);
        } else {
            let mut key = name.to_owned();
            if !request.is_empty() {
                report.dns_label(&at.field("request"), request);
                key = format!("{name}/{request}");
            }
            if seen.contains(&key) {
                report.duplicate(&at, key.as_str());
            } else if request.is_empty() {
                for _ in seen.iter().filter(|key| key.split_once('/').is_some_and(|(claim, _)| claim == name)) {
                    report.duplicate(&at, name);
                }
            }
            seen.push(key);
        }
        if !claim_names.contains(&name) {
            let mut sorted = claim_names.to_vec();
            sorted.sort_unstable();
            let mut detail = "must be one of the names in pod.spec.resourceClaims".to_owned();
            if sorted.is_empty() {
                detail.push_str(" which is empty");
            } else {
                detail.push_str(": ");
                detail.push_str(&sorted.join(", "));
            }
            report.push(FieldError::not_found(&at.path(), name).with_detail(detail));
        }
    }
}

/// `spec.resources`: what the pod as a whole asks for (KEP-2837).
pub(super) fn of_pod(spec: &Value, claim_names: &[&str], at: &At<'_>, options: &Options, report: &mut Report) {
    let resources = &spec["resources"];
    if resources.is_null() {
        return;
    }
    let at = at.field("resources");
    if text(&spec["os"], "name") == "windows" {
        return report.forbidden(&at, "may not be set for a windows pod");
    }
    if is_set(resources, "claims") {
        report.forbidden(&at.field("claims"), "claims may not be set for Resources at pod-level");
    }
    requirements(resources, Owner::Pod, claim_names, &at, options, report);
    let requests_at = at.field("requests");
    for (name, sum) in aggregate(spec, "requests") {
        let own = &resources["requests"][&name];
        if !own.is_null() && sum > quantity(own) {
            let detail = format!("must be greater than or equal to aggregate container requests of {sum}");
            report.invalid(&requests_at.key(&name), quantity_text(own), detail);
        }
    }
    let limits_at = at.field("limits");
    for (name, sum) in aggregate(spec, "limits").into_iter().filter(|(name, _)| is_huge_pages(name)) {
        let own = &resources["limits"][&name];
        if !own.is_null() && sum > quantity(own) {
            let detail = format!("must be greater than or equal to aggregate container limits of {sum}");
            report.invalid(&limits_at.key(&name), quantity_text(own), detail);
        }
    }
    let containers_at = at.field("containers");
    for (index, container) in items(spec, "containers").iter().enumerate() {
        for (name, limit) in entries(&container["resources"], "limits") {
            let own = &resources["limits"][name];
            if !own.is_null() && quantity(limit) > quantity(own) {
                let detail = format!("must be less than or equal to pod limits of {}", quantity_text(own));
                let item = containers_at.index(index);
                report.invalid(&item.key(name).field("limits"), quantity_text(limit), detail);
            }
        }
    }
}

/// What the containers of a pod ask for together: the sum of those that run, or what an init container needs beside the
/// sidecars before it if that is more (upstream's `AggregateContainerRequests`).
pub(in super::super) fn aggregate(spec: &Value, list: &str) -> BTreeMap<String, Quantity> {
    let mut running = BTreeMap::new();
    for container in items(spec, "containers") {
        add(&mut running, &container["resources"][list]);
    }
    let (mut sidecars, mut starting) = (BTreeMap::new(), BTreeMap::new());
    for container in items(spec, "initContainers") {
        let own = &container["resources"][list];
        let needed = if text(container, "restartPolicy") == "Always" {
            add(&mut running, own);
            add(&mut sidecars, own);
            sidecars.clone()
        } else {
            let mut sum = sidecars.clone();
            add(&mut sum, own);
            sum
        };
        raise(&mut starting, needed);
    }
    raise(&mut running, starting);
    running
}

fn add(sums: &mut BTreeMap<String, Quantity>, list: &Value) {
    for (name, value) in list.as_object().into_iter().flatten() {
        let amount = quantity(value);
        sums.entry(name.clone()).and_modify(|sum: &mut Quantity| *sum = sum.plus(&amount)).or_insert(amount);
    }
}

fn raise(sums: &mut BTreeMap<String, Quantity>, to: BTreeMap<String, Quantity>) {
    for (name, amount) in to {
        sums.entry(name).and_modify(|sum| *sum = (*sum).max(amount)).or_insert(amount);
    }
}

/// `resizePolicy`.
pub(super) fn resize_policies(container: &Value, spec: &Value, at: &At<'_>, report: &mut Report) {
    let policies = items(container, "resizePolicy");
    for (index, policy) in policies.iter().enumerate() {
        let (resource, restart) = (text(policy, "resourceName"), text(policy, "restartPolicy"));
        if policies[..index].iter().any(|other| text(other, "resourceName") == resource) {
            report.duplicate(&at.index(index), resource);
        }
        report.required_one_of(at, resource, &["cpu", "memory"]);
        report.required_one_of(at, restart, &["NotRequired", "RestartContainer"]);
        if text(spec, "restartPolicy") == "Never" && restart != "NotRequired" {
            report.invalid(at, restart, "must be 'NotRequired' when pod `restartPolicy` is 'Never'");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(resources: Value, expect: &[&str]) {
        let mut report = Report::default();
        requirements(&resources, Owner::Container, &["c"], &At::root("r"), &Options::default(), &mut report);
        let texts: Vec<String> = report.into_errors().iter().map(ToString::to_string).collect();
        assert_eq!(texts, expect);
    }

    #[test]
    fn amounts_are_checked() {
        check(
            json!({"limits": {"cpu": "1", "example.org/gpu": "1"}, "requests": {"cpu": "500m", "example.org/gpu": "1"}}),
            &[],
        );
        check(
            json!({"requests": {"example.org/gpu": "500m", "foo": "1", "cpu": "-1"}}),
            &[
                "r.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                "r.requests[example.org/gpu]: Invalid value: \"500m\": must be an integer",
                "r.limits: Required value: Limit must be set for non overcommitable resources",
                "r.requests[foo]: Invalid value: \"foo\": must be a standard resource type or fully qualified",
                "r.requests[foo]: Invalid value: \"foo\": must be a standard resource for containers",
            ],
        );
        check(
            json!({"limits": {"hugepages-2Mi": "3Mi"}, "requests": {"hugepages-2Mi": "2Mi"}}),
            &[
                "r.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
                "r.requests: Invalid value: \"2Mi\": must be equal to hugepages-2Mi limit of 3Mi",
                "r: Forbidden: HugePages require cpu or memory",
            ],
        );
    }

    #[test]
    fn claims_are_checked() {
        check(
            json!({"claims": [{"name": "c"}, {"name": "c"}, {"name": ""}, {"name": "d", "request": "x"}]}),
            &[
                "r.claims[1]: Duplicate value: \"c\"",
                "r.claims[2]: Required value",
                "r.claims[3]: Not found: \"d\": must be one of the names in pod.spec.resourceClaims: c",
            ],
        );
    }

    #[test]
    fn sidecars_count_with_what_starts_after_them() {
        let spec = json!({
            "containers": [{"resources": {"requests": {"cpu": "1"}}}],
            "initContainers": [
                {"resources": {"requests": {"cpu": "1"}}, "restartPolicy": "Always"},
                {"resources": {"requests": {"cpu": "3"}}},
            ],
        });
        assert_eq!(aggregate(&spec, "requests")["cpu"].to_string(), "4");
    }
}
