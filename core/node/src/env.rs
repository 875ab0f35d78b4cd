//! A container's environment: values with `$(NAME)`, ConfigMaps, Secrets, fields of the pod, resources, and the
//! variables that tell about services. Pure: what is referred to comes through [`Lookup`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, ResourceFieldSelector, Secret, Service};

use crate::pod;
use crate::resources::{ResourceList, amount_of};

/// Where values come from.
pub trait Lookup {
    /// A ConfigMap of the pod's namespace.
    fn config_map(&self, name: &str) -> Option<std::sync::Arc<ConfigMap>>;
    /// A Secret of the pod's namespace.
    fn secret(&self, name: &str) -> Option<std::sync::Arc<Secret>>;
    /// A key of an env file in one of the pod's volumes (KEP-3721).
    fn file_key(&self, volume: &str, path: &str, key: &str) -> Result<Option<String>, String>;
}

/// What else an environment depends on.
pub struct EnvInputs<'a> {
    /// The pod's addresses, of which the first counts.
    pub pod_ips: &'a [IpAddr],
    /// The node's addresses.
    pub host_ips: &'a [IpAddr],
    /// What the node has for pods; the limit of who has none.
    pub allocatable: &'a ResourceList,
    /// Variables about services, from [`service_variables`].
    pub services: &'a BTreeMap<String, String>,
}

/// Expands `$(NAME)`; `$$` is a `$`, and what is unknown stays as it is.
pub fn expand(text: &str, value_of: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(tail) = rest.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix('(') {
            match tail.find(')') {
                Some(end) => {
                    let name = &tail[..end];
                    match value_of(name) {
                        Some(value) => out.push_str(&value),
                        None => {
                            out.push_str("$(");
                            out.push_str(name);
                            out.push(')');
                        }
                    }
                    rest = &tail[end + 1..];
                }
                None => {
                    out.push_str("$(");
                    rest = tail;
                }
            }
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The environment in order, later names having replaced earlier ones.
///
/// # Errors
/// Upstream's message for what is missing (`configmap "x" not found`, `couldn't find key k in ConfigMap ns/x`).
pub fn environment(
    pod: &Pod,
    container: &Container,
    lookup: &dyn Lookup,
    inputs: &EnvInputs<'_>,
) -> Result<Vec<(String, String)>, String> {
    let namespace = pod::namespace(pod);
    let mut list = List::default();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match lookup.config_map(&reference.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        list.set(format!("{prefix}{key}"), value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", reference.name)),
            }
        } else if let Some(reference) = &source.secret_ref {
            match lookup.secret(&reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        list.set(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", reference.name)),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = env_value(pod, container, namespace, variable, lookup, inputs, &list)? {
            list.set(variable.name.clone(), value);
        }
    }
    // What the pod sets comes before what is known of services.
    for (name, value) in inputs.services {
        if list.get(name).is_none() {
            list.set(name.clone(), value.clone());
        }
    }
    Ok(list.entries)
}

#[derive(Default)]
struct List {
    entries: Vec<(String, String)>,
}

impl List {
    fn get(&self, name: &str) -> Option<&str> {
        self.entries.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn set(&mut self, name: String, value: String) {
        match self.entries.iter_mut().find(|(known, _)| *known == name) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((name, value)),
        }
    }
}

fn env_value(
    pod: &Pod,
    container: &Container,
    namespace: &str,
    variable: &EnvVar,
    lookup: &dyn Lookup,
    inputs: &EnvInputs<'_>,
    list: &List,
) -> Result<Option<String>, String> {
    let Some(from) = &variable.value_from else {
        let text = variable.value.as_deref().unwrap_or_default();
        return Ok(Some(expand(text, |name| {
            list.get(name).map(str::to_owned).or_else(|| inputs.services.get(name).cloned())
        })));
    };
    if let Some(field) = &from.field_ref {
        return field_value(pod, &field.field_path, inputs.pod_ips, inputs.host_ips).map(Some);
    }
    if let Some(selector) = &from.resource_field_ref {
        let owner = selector.container_name.as_deref().unwrap_or(&container.name);
        let found = pod::find_container(pod, owner);
        let Some((_, of)) = found else { return Err(format!("container {owner} not found")) };
        return resource_value(&of, selector, inputs.allocatable).map(Some);
    }
    if let Some(key) = &from.config_map_key_ref {
        let Some(map) = lookup.config_map(&key.name) else {
            return optional(key.optional, || format!("configmap {:?} not found", key.name));
        };
        return match map.data.as_ref().and_then(|data| data.get(&key.key)) {
            Some(value) => Ok(Some(value.clone())),
            None => optional(key.optional, || {
                format!("couldn't find key {} in ConfigMap {namespace}/{}", key.key, key.name)
            }),
        };
    }
    if let Some(key) = &from.secret_key_ref {
        let Some(secret) = lookup.secret(&key.name) else {
            return optional(key.optional, || format!("secret {:?} not found", key.name));
        };
        return match secret.data.as_ref().and_then(|data| data.get(&key.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None => {
                optional(key.optional, || format!("couldn't find key {} in Secret {namespace}/{}", key.key, key.name))
            }
        };
    }
    if let Some(file) = &from.file_key_ref {
        return match lookup.file_key(&file.volume_name, &file.path, &file.key) {
            Ok(Some(value)) => Ok(Some(value)),
            Ok(None) => optional(file.optional, || {
                format!("environment variable key {:?} not found in file {:?}", file.key, file.path)
            }),
            Err(reason) => optional(file.optional, || reason),
        };
    }
    Ok(Some(String::new()))
}

fn optional(is_optional: Option<bool>, message: impl FnOnce() -> String) -> Result<Option<String>, String> {
    if is_optional == Some(true) { Ok(None) } else { Err(message()) }
}

/// The value of a field of the pod, for variables and files.
pub fn field_value(pod: &Pod, path: &str, pod_ips: &[IpAddr], host_ips: &[IpAddr]) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod::spec(pod);
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string).unwrap_or_default();
    let all = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    if let Some((field, key)) = path.strip_suffix("']").and_then(|rest| rest.split_once("['")) {
        let map = match field {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let lines = |map: &Option<BTreeMap<String, String>>| {
        let lines: Vec<String> = map.iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
        lines.join("\n")
    };
    Ok(match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "metadata.labels" => lines(&meta.labels),
        "metadata.annotations" => lines(&meta.annotations),
        "spec.nodeName" => text(&spec.node_name),
        "spec.serviceAccountName" => text(&spec.service_account_name),
        "status.hostIP" => first(host_ips),
        "status.hostIPs" => all(host_ips),
        "status.podIP" => first(pod_ips),
        "status.podIPs" => all(pod_ips),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// The value of a container's resource, divided and rounded up.
pub fn resource_value(
    container: &Container,
    selector: &ResourceFieldSelector,
    allocatable: &ResourceList,
) -> Result<String, String> {
    let (list, name) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let resources = container.resources.as_ref();
    let given = match list {
        "limits" => amount_of(resources.and_then(|r| r.limits.as_ref()), name)
            .filter(|value| !value.is_zero())
            .or_else(|| amount_of(Some(allocatable), name)),
        "requests" => amount_of(resources.and_then(|r| r.requests.as_ref()), name),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let divisor = selector.divisor.as_ref().map(crate::resources::amount).filter(|divisor| !divisor.is_zero());
    let up = |value: i64, by: i64| {
        let (value, by) = (i128::from(value), i128::from(by.max(1)));
        ((value + by - 1) / by).to_string()
    };
    let given = given.unwrap_or_else(|| gantry_api::quantity::Quantity::from_i64(0));
    Ok(match divisor {
        Some(divisor) if name == "cpu" => up(given.milli_value(), divisor.milli_value()),
        Some(divisor) => up(given.value(), divisor.value()),
        None if name == "cpu" => up(given.milli_value(), 1000),
        None => given.value().to_string(),
    })
}

/// The variables about the services that a pod sees: those of its namespace when it wants them, and always the API
/// server's (upstream's `getServiceEnvVarMap`).
pub fn service_variables<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let of = service.metadata.namespace.as_deref().unwrap_or_default();
        let master = of == "default" && name == "kubernetes";
        if !(master || links && of == namespace) {
            continue;
        }
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { continue };
        let ports = spec.ports.as_deref().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        let prefix = name.to_uppercase().replace('-', "_");
        out.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
        out.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
        let address = |port: i32| if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
        for (index, port) in ports.iter().enumerate() {
            if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                let upper = port_name.to_uppercase().replace('-', "_");
                out.insert(format!("{prefix}_SERVICE_PORT_{upper}"), port.port.to_string());
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{}", protocol.to_lowercase(), address(port.port));
            if index == 0 {
                out.insert(format!("{prefix}_PORT"), url.clone());
            }
            let port_prefix = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
            out.insert(port_prefix.clone(), url);
            out.insert(format!("{port_prefix}_PROTO"), protocol.to_lowercase());
            out.insert(format!("{port_prefix}_PORT"), port.port.to_string());
            out.insert(format!("{port_prefix}_ADDR"), ip.to_owned());
        }
    }
    out
}

/// A key of an env file (KEP-3721): lines `NAME=value`, comments and empty lines aside.
pub fn env_file_key(content: &str, key: &str) -> Option<String> {
    content.lines().rev().find_map(|line| {
        let line = line.trim_start();
        if line.starts_with('#') {
            return None;
        }
        let (name, value) = line.split_once('=')?;
        if name.trim() != key {
            return None;
        }
        let value = value.trim();
        let unquoted = ['\'', '"'].iter().find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q));
        Some(unquoted.unwrap_or(value).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn references_are_expanded_as_upstream_does() {
        let value = |name: &str| match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let cases = [
            ("x$(A)y", "xay"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$(B)", "$(B)"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("$(EMPTY)-", "-"),
            ("$", "$"),
            ("$(A)$(A)", "aa"),
            ("$()", "$()"),
        ];
        for (text, expect) in cases {
            assert_eq!(expand(text, value), expect, "{text}");
        }
    }

    struct Objects;
    impl Lookup for Objects {
        fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
            let map = json!({"metadata": {"name": name}, "data": {"k": "v", "l": "w"}});
            (name == "cm").then(|| Arc::new(serde_json::from_value(map).expect("a map")))
        }
        fn secret(&self, name: &str) -> Option<Arc<Secret>> {
            let secret = json!({"metadata": {"name": name}, "data": {"s": "aGlkZGVu"}});
            (name == "s").then(|| Arc::new(serde_json::from_value(secret).expect("a secret")))
        }
        fn file_key(&self, _: &str, path: &str, key: &str) -> Result<Option<String>, String> {
            if path == "env" { Ok(env_file_key("# c\nK=1\nQ='a b'\n", key)) } else { Err("no such file".to_owned()) }
        }
    }

    fn run(env: serde_json::Value, env_from: serde_json::Value) -> Result<String, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}},
            "spec": {"nodeName": "n1", "containers": [{
                "name": "c", "env": env, "envFrom": env_from,
                "resources": {"requests": {"cpu": "250m"}, "limits": {"memory": "10Mi"}},
            }]},
        }))
        .expect("a pod");
        let allocatable = ResourceList::from([(
            "cpu".to_owned(),
            k8s_openapi::apimachinery::pkg::api::resource::Quantity("2".to_owned()),
        )]);
        let services = BTreeMap::from([("S_SERVICE_HOST".to_owned(), "10.0.0.9".to_owned())]);
        let inputs = EnvInputs {
            pod_ips: &["10.1.0.2".parse().expect("an address")],
            host_ips: &["192.0.2.1".parse().expect("an address")],
            allocatable: &allocatable,
            services: &services,
        };
        let list = environment(&pod, &pod::containers(&pod)[0], &Objects, &inputs)?;
        Ok(list.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn values_come_from_everywhere() {
        let from = |what: serde_json::Value| json!([{"name": "X", "valueFrom": what}]);
        let field = |path: &str| from(json!({"fieldRef": {"fieldPath": path}}));
        let resource = |resource: &str, divisor: &str| {
            from(json!({"resourceFieldRef": {"resource": resource, "divisor": divisor}}))
        };
        let cases = [
            (
                json!([{"name": "A", "value": "1"}, {"name": "X", "value": "$(A)$(S_SERVICE_HOST)"}]),
                Ok("A=1 X=110.0.0.9"),
            ),
            (field("metadata.labels['a']"), Ok("X=b")),
            (field("status.podIP"), Ok("X=10.1.0.2")),
            (field("status.hostIP"), Ok("X=192.0.2.1")),
            (field("spec.nodeName"), Ok("X=n1")),
            (field("spec.x"), Err("unsupported fieldPath: spec.x")),
            (resource("requests.cpu", "1m"), Ok("X=250")),
            (resource("requests.cpu", "0"), Ok("X=1")),
            (resource("limits.cpu", "1"), Ok("X=2")),
            (resource("limits.memory", "1Mi"), Ok("X=10")),
            (from(json!({"configMapKeyRef": {"name": "cm", "key": "k"}})), Ok("X=v")),
            (from(json!({"configMapKeyRef": {"name": "no", "key": "k"}})), Err("configmap \"no\" not found")),
            (
                from(json!({"configMapKeyRef": {"name": "cm", "key": "z"}})),
                Err("couldn't find key z in ConfigMap n/cm"),
            ),
            (from(json!({"configMapKeyRef": {"name": "no", "key": "k", "optional": true}})), Ok("")),
            (from(json!({"secretKeyRef": {"name": "s", "key": "s"}})), Ok("X=hidden")),
            (from(json!({"secretKeyRef": {"name": "s", "key": "z"}})), Err("couldn't find key z in Secret n/s")),
            (from(json!({"fileKeyRef": {"volumeName": "v", "path": "env", "key": "Q"}})), Ok("X=a b")),
        ];
        for (env, expect) in cases {
            let expect = expect.map(|text| format!("{text} S_SERVICE_HOST=10.0.0.9").trim_start().to_owned());
            assert_eq!(run(env.clone(), json!([])), expect.map_err(str::to_owned), "{env}");
        }
        let from = json!([{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "s"}}]);
        assert_eq!(run(json!([]), from), Ok("P_k=v P_l=w s=hidden S_SERVICE_HOST=10.0.0.9".to_owned()));
        let missing = json!([{"secretRef": {"name": "no"}}]);
        assert_eq!(run(json!([]), missing), Err("secret \"no\" not found".to_owned()));
    }

    #[test]
    fn services_are_told_as_docker_links_were() {
        let service = |namespace: &str, name: &str| -> Service {
            serde_json::from_value(json!({
                "metadata": {"namespace": namespace, "name": name},
                "spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]},
            }))
            .expect("a service")
        };
        let all = [service("default", "kubernetes"), service("n", "my-db"), service("m", "other")];
        let names: Vec<String> = service_variables(&all, "n", true).into_keys().collect();
        assert_eq!(
            names,
            [
                "KUBERNETES_PORT",
                "KUBERNETES_PORT_443_TCP",
                "KUBERNETES_PORT_443_TCP_ADDR",
                "KUBERNETES_PORT_443_TCP_PORT",
                "KUBERNETES_PORT_443_TCP_PROTO",
                "KUBERNETES_SERVICE_HOST",
                "KUBERNETES_SERVICE_PORT",
                "KUBERNETES_SERVICE_PORT_HTTPS",
                "MY_DB_PORT",
                "MY_DB_PORT_443_TCP",
                "MY_DB_PORT_443_TCP_ADDR",
                "MY_DB_PORT_443_TCP_PORT",
                "MY_DB_PORT_443_TCP_PROTO",
                "MY_DB_SERVICE_HOST",
                "MY_DB_SERVICE_PORT",
                "MY_DB_SERVICE_PORT_HTTPS",
            ]
        );
        assert_eq!(service_variables(&all, "n", false).len(), 8);
    }
}
