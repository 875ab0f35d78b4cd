//! `env` and `envFrom` of a container.

use serde_json::Value;

use super::super::at::At;
use super::super::read::{is_set, items, quantity, quantity_text, text};
use super::super::report::Report;
use crate::names;

/// The parts of a pod that a variable may take its value from.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// The parts of a pod that a file of a downward API volume may hold.
pub(super) const FILE_FIELDS: [&str; 5] =
    ["metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid"];

const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
];
const HUGE_PAGES: [&str; 2] = ["requests.hugepages-", "limits.hugepages-"];
const BYTE_DIVISORS: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// `env`.
pub(super) fn variables(container: &Value, at: &At<'_>, report: &mut Report) {
    for (index, variable) in items(container, "env").iter().enumerate() {
        let at = at.index(index);
        let name = text(variable, "name");
        if name.is_empty() {
            report.required(&at.field("name"), "");
        } else {
            report.problems(&at.field("name"), name, names::relaxed_env_var_name(name));
        }
        if is_set(variable, "valueFrom") {
            value_from(variable, &at.field("valueFrom"), report);
        }
    }
}

fn value_from(variable: &Value, at: &At<'_>, report: &mut Report) {
    let source = &variable["valueFrom"];
    let mut sources = 0;
    if is_set(source, "fieldRef") {
        sources += 1;
        field_ref(&source["fieldRef"], &ENV_FIELDS, &at.field("fieldRef"), report);
    }
    if is_set(source, "resourceFieldRef") {
        sources += 1;
        resource_ref(&source["resourceFieldRef"], &at.field("resourceFieldRef"), false, report);
    }
    for field in ["configMapKeyRef", "secretKeyRef"] {
        if is_set(source, field) {
            sources += 1;
            key_ref(&source[field], &at.field(field), report);
        }
    }
    if is_set(source, "fileKeyRef") {
        sources += 1;
        file_ref(&source["fileKeyRef"], &at.field("fileKeyRef"), report);
    }
    if sources == 0 {
        let detail =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        report.invalid(at, "", detail);
    } else if !text(variable, "value").is_empty() {
        report.invalid(at, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        report.invalid(at, "", "may not have more than one field specified at a time");
    }
}

/// A reference to a field of the pod (upstream's `validateObjectFieldSelector`).
pub(super) fn field_ref(reference: &Value, fields: &[&str], at: &At<'_>, report: &mut Report) {
    let (version, path) = (text(reference, "apiVersion"), text(reference, "fieldPath"));
    if version.is_empty() {
        return report.required(&at.field("apiVersion"), "");
    }
    if path.is_empty() {
        return report.required(&at.field("fieldPath"), "");
    }
    let path = match internal_field(version, path) {
        Ok(internal) => internal,
        Err(problem) => {
            return report.invalid(&at.field("fieldPath"), path, format!("error converting fieldPath: {problem}"));
        }
    };
    match subscripted(path) {
        Some(("metadata.annotations", key)) => report.qualified_name(at, &key.to_lowercase()),
        Some(("metadata.labels", key)) => report.qualified_name(at, key),
        Some((path, _)) => report.invalid(at, path, "does not support subscript"),
        None if !fields.contains(&path) => report.not_supported(&at.field("fieldPath"), path, fields),
        None => {}
    }
}

/// `metadata.labels['key']` in its parts.
fn subscripted(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_suffix("']")?;
    let (path, key) = rest.split_once("['")?;
    (!path.is_empty()).then_some((path, key))
}

/// Upstream's `ConvertDownwardAPIFieldLabel`.
fn internal_field<'a>(version: &str, path: &'a str) -> Result<&'a str, String> {
    if version != "v1" {
        return Err(format!("unsupported pod version: {version}"));
    }
    if let Some((start, _)) = subscripted(path) {
        return match start {
            "metadata.annotations" | "metadata.labels" => Ok(path),
            _ => Err(format!("field label does not support subscript: {path}")),
        };
    }
    match path {
        "metadata.annotations"
        | "metadata.labels"
        | "metadata.name"
        | "metadata.namespace"
        | "metadata.uid"
        | "spec.nodeName"
        | "spec.restartPolicy"
        | "spec.serviceAccountName"
        | "spec.schedulerName"
        | "status.phase"
        | "status.hostIP"
        | "status.hostIPs"
        | "status.podIP"
        | "status.podIPs" => Ok(path),
        "spec.host" => Ok("spec.nodeName"),
        _ => Err(format!("field label not supported: {path}")),
    }
}

/// A reference to a container's resource (upstream's `validateContainerResourceFieldSelector`).
pub(super) fn resource_ref(reference: &Value, at: &At<'_>, in_volume: bool, report: &mut Report) {
    let resource = text(reference, "resource");
    if in_volume && text(reference, "containerName").is_empty() {
        report.required(&at.field("containerName"), "");
    } else if resource.is_empty() {
        report.required(&at.field("resource"), "");
    } else if !RESOURCES.contains(&resource) && !HUGE_PAGES.iter().any(|prefix| resource.starts_with(prefix)) {
        report.not_supported(&at.field("resource"), resource, &RESOURCES);
    }
    let divisor = &reference["divisor"];
    if quantity(divisor).is_zero() {
        return;
    }
    let divisor = quantity_text(divisor);
    let supported = |divisors: &[&str]| divisors.contains(&divisor.as_str());
    let what = match resource {
        "limits.cpu" | "requests.cpu" if !supported(&["1m", "1"]) => {
            let detail = "only divisor's values 1m and 1 are supported with the cpu resource";
            return report.invalid(&at.field("divisor"), resource, detail);
        }
        "limits.memory" | "requests.memory" => "memory",
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => "local ephemeral storage",
        resource if HUGE_PAGES.iter().any(|prefix| resource.starts_with(prefix)) => "hugepages",
        _ => return,
    };
    if !supported(&BYTE_DIVISORS) {
        let detail =
            format!("only divisor's values {} are supported with the {what} resource", BYTE_DIVISORS.join(", "));
        report.invalid(&at.field("divisor"), resource, detail);
    }
}

/// A key of a ConfigMap or Secret.
fn key_ref(reference: &Value, at: &At<'_>, report: &mut Report) {
    report.dns_subdomain(&at.field("name"), text(reference, "name"));
    let key = text(reference, "key");
    if key.is_empty() {
        report.required(&at.field("key"), "");
    } else {
        report.problems(&at.field("key"), key, names::config_map_key(key));
    }
}

/// A variable of a file that a container wrote (KEP-3721).
fn file_ref(reference: &Value, at: &At<'_>, report: &mut Report) {
    let (key, volume, path) = (text(reference, "key"), text(reference, "volumeName"), text(reference, "path"));
    if key.is_empty() {
        report.required(&at.field("key"), "");
    } else {
        report.problems(&at.field("key"), key, names::relaxed_env_var_name(key));
    }
    if volume.is_empty() {
        report.required(&at.field("volumeName"), "");
    } else {
        report.dns_label(&at.field("volumeName"), volume);
    }
    if path.is_empty() {
        report.required(&at.field("path"), "");
    } else {
        report.no_backsteps(&at.field("path"), path);
    }
}

/// `envFrom`.
pub(super) fn sources(container: &Value, at: &At<'_>, report: &mut Report) {
    for (index, source) in items(container, "envFrom").iter().enumerate() {
        let item = at.index(index);
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            report.problems(&item.field("prefix"), prefix, names::relaxed_env_var_name(prefix));
        }
        let mut kinds = 0;
        for field in ["configMapRef", "secretRef"] {
            if is_set(source, field) {
                kinds += 1;
                let item = item.field(field);
                let (at, name) = (item.field("name"), text(&source[field], "name"));
                if name.is_empty() {
                    report.required(&at, "");
                } else {
                    let masked = names::masked_prefix(name);
                    report.problems(&at, name, names::dns1123_subdomain(&masked));
                }
            }
        }
        // Upstream names the list, not the item.
        match kinds {
            0 => report.invalid(at, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => report.invalid(at, "", "may not have more than one field specified at a time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(container: Value, expect: &[&str]) {
        let at = At::root("c");
        let mut report = Report::default();
        variables(&container, &at.field("env"), &mut report);
        sources(&container, &at.field("envFrom"), &mut report);
        let texts: Vec<String> = report.into_errors().iter().map(ToString::to_string).collect();
        assert_eq!(texts, expect);
    }

    fn from(source: Value) -> Value {
        json!({"env": [{"name": "A", "valueFrom": source}]})
    }

    #[test]
    fn variables_are_checked() {
        check(from(json!({"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}})), &[]);
        check(from(json!({"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels['a']"}})), &[]);
        check(
            from(json!({"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.x"}})),
            &[
                "c.env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x\": error converting fieldPath: field label not supported: spec.x",
            ],
        );
        check(
            from(json!({"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels"}})),
            &[
                "c.env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            ],
        );
        check(
            from(json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1k"}})),
            &[
                "c.env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource",
            ],
        );
        check(from(json!({"resourceFieldRef": {"resource": "limits.hugepages-2Mi", "divisor": "1Mi"}})), &[]);
        check(
            from(json!({"fileKeyRef": {"key": "K", "volumeName": "v", "path": "../x"}})),
            &["c.env[0].valueFrom.fileKeyRef.path: Invalid value: \"../x\": must not contain '..'"],
        );
    }

    #[test]
    fn sources_are_checked() {
        check(json!({"envFrom": [{"configMapRef": {"name": "a"}, "prefix": "P_"}]}), &[]);
        check(
            json!({"envFrom": [{}, {"secretRef": {"name": ""}, "prefix": "="}]}),
            &[
                "c.envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
                "c.envFrom[1].prefix: Invalid value: \"=\": a valid environment variable name must consist only of printable ASCII characters other than '='",
                "c.envFrom[1].secretRef.name: Required value",
            ],
        );
    }
}
