//! Values as upstream's messages print them: with the field names of its internal types, in their order.
//!
//! These types aren't published; where they differ from those of v1 (of which `data/encoding.txt` knows the order), the
//! difference is here.

mod diff;

pub(super) use self::diff::unified;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

const ENCODING: &str = include_str!("../../../../data/encoding.txt");

/// Internal types whose order is their own: type, then the JSON names of its fields.
const ORDERS: &[(&str, &str)] = &[
    (
        "PodSpec",
        "volumes initContainers containers ephemeralContainers restartPolicy terminationGracePeriodSeconds \
         activeDeadlineSeconds dnsPolicy nodeSelector serviceAccountName automountServiceAccountToken nodeName \
         securityContext imagePullSecrets hostname subdomain setHostnameAsFQDN affinity schedulerName tolerations \
         hostAliases priorityClassName priority preemptionPolicy dnsConfig readinessGates runtimeClassName overhead \
         enableServiceLinks topologySpreadConstraints os schedulingGates resourceClaims resources hostnameOverride \
         schedulingGroup",
    ),
    (
        "PodSecurityContext",
        "hostNetwork hostPID hostIPC shareProcessNamespace hostUsers seLinuxOptions windowsOptions runAsUser runAsGroup \
         runAsNonRoot supplementalGroups supplementalGroupsPolicy fsGroup fsGroupChangePolicy sysctls seccompProfile \
         appArmorProfile seLinuxChangePolicy",
    ),
];

/// Fields that v1 has in the pod's spec and the internal types in its security context.
const OF_HOST: [(&str, bool); 5] = [
    ("hostNetwork", false),
    ("hostPID", false),
    ("hostIPC", false),
    ("shareProcessNamespace", true),
    ("hostUsers", true),
];

/// Go names that aren't the JSON name with its first letter raised.
const NAMES: &[(&str, &str)] = &[
    ("apiVersion", "APIVersion"),
    ("awsElasticBlockStore", "AWSElasticBlockStore"),
    ("cephfs", "CephFS"),
    ("csi", "CSI"),
    ("dnsConfig", "DNSConfig"),
    ("dnsPolicy", "DNSPolicy"),
    ("fc", "FC"),
    ("fsGroup", "FSGroup"),
    ("fsGroupChangePolicy", "FSGroupChangePolicy"),
    ("fsType", "FSType"),
    ("gcePersistentDisk", "GCEPersistentDisk"),
    ("gmsaCredentialSpec", "GMSACredentialSpec"),
    ("gmsaCredentialSpecName", "GMSACredentialSpecName"),
    ("grpc", "GRPC"),
    ("httpGet", "HTTPGet"),
    ("httpHeaders", "HTTPHeaders"),
    ("ip", "IP"),
    ("iscsi", "ISCSI"),
    ("nfs", "NFS"),
    ("os", "OS"),
    ("pdID", "PdID"),
    ("pdName", "PDName"),
    ("rbd", "RBD"),
    ("seLinuxChangePolicy", "SELinuxChangePolicy"),
    ("seLinuxOptions", "SELinuxOptions"),
    ("storageos", "StorageOS"),
    ("tcpSocket", "TCPSocket"),
    ("tty", "TTY"),
    ("wwids", "WWIDs"),
];

struct Field {
    name: &'static str,
    go: Cow<'static, str>,
    pointer: bool,
    of: &'static str,
}

struct Types {
    core: HashMap<&'static str, Vec<Field>>,
    meta: HashMap<&'static str, Vec<Field>>,
}

static TYPES: LazyLock<Types> = LazyLock::new(|| {
    let mut core = of_package("io.k8s.api.core.v1.");
    for (name, order) in ORDERS {
        let mut fields = core.remove(name).unwrap_or_default();
        if *name == "PodSecurityContext" {
            fields.extend(OF_HOST.map(|(name, pointer)| Field { name, go: go_name(name), pointer, of: "bool" }));
        }
        let order: Vec<&str> = order.split_whitespace().collect();
        let place = |field: &Field| order.iter().position(|name| *name == field.name);
        fields.retain(|field| place(field).is_some());
        fields.sort_by_key(place);
        core.insert(name, fields);
    }
    Types { core, meta: of_package("io.k8s.apimachinery.pkg.apis.meta.v1.") }
});

fn of_package(package: &str) -> HashMap<&'static str, Vec<Field>> {
    ENCODING
        .lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix(package)?.split(' ');
            let name = words.next()?;
            Some((name, words.skip(1).filter_map(field).collect()))
        })
        .collect()
}

fn field(word: &'static str) -> Option<Field> {
    let mut parts = word.split(':');
    let (name, flags, of) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Field { name, go: go_name(name), pointer: flags.contains('p'), of })
}

fn go_name(name: &'static str) -> Cow<'static, str> {
    if let Some((_, go)) = NAMES.iter().find(|(json, _)| *json == name) {
        return Cow::Borrowed(go);
    }
    let mut letters = name.chars();
    Cow::Owned(letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect())
}

/// A value in the order in which it is printed.
enum Node {
    Leaf(String),
    List(Vec<Node>),
    Struct(Vec<(Cow<'static, str>, Node)>),
}

/// One line, as `Invalid value` shows it.
pub(super) fn shown(name: &'static str, value: &Value) -> String {
    let mut out = String::new();
    write(&of_struct(name, value), None, 0, &mut out);
    out
}

/// Many lines, as differences are shown.
pub(super) fn indented(name: &'static str, value: &Value) -> String {
    let mut out = String::new();
    write(&of_struct(name, value), Some(" "), 0, &mut out);
    out
}

fn of_struct(name: &str, value: &Value) -> Node {
    let Some(fields) = TYPES.core.get(name) else { return of_meta(name, value) };
    Node::Struct(
        fields
            .iter()
            .map(|field| {
                let node = match (name, field.name) {
                    ("PodSpec", "securityContext") => with_host(value),
                    (_, name) => of_type(field.of, field.pointer, &value[name]),
                };
                (field.go.clone(), node)
            })
            .collect(),
    )
}

fn with_host(spec: &Value) -> Node {
    let mut context = spec["securityContext"].clone();
    for (name, _) in OF_HOST {
        if spec[name].is_boolean() {
            crate::object::map_mut(&mut context, "").insert(name.to_owned(), spec[name].clone());
        }
    }
    if context.is_null() { leaf(&Value::Null) } else { of_struct("PodSecurityContext", &context) }
}

/// Types of meta/v1 have tags: they print as they are written, without what is absent.
fn of_meta(name: &str, value: &Value) -> Node {
    let Some(fields) = TYPES.meta.get(name) else { return plain(value) };
    let shown = fields.iter().filter(|field| !value[field.name].is_null());
    Node::Struct(
        shown.map(|field| (Cow::Borrowed(field.name), of_type(field.of, field.pointer, &value[field.name]))).collect(),
    )
}

fn of_type(of: &'static str, pointer: bool, value: &Value) -> Node {
    if let Some(item) = of.strip_prefix("[]") {
        return match value {
            Value::Array(items) => {
                Node::List(items.iter().map(|item_value| of_type(item, false, item_value)).collect())
            }
            _ => leaf(&Value::Null),
        };
    }
    let name = of.rsplit('.').next().unwrap_or(of);
    let known = of.starts_with("v1.") && (TYPES.core.contains_key(name) || TYPES.meta.contains_key(name));
    match value {
        Value::Null if pointer || of.starts_with("map[") || name == "ResourceList" => leaf(value),
        Value::Null if known => of_struct(name, value),
        Value::Null if of == "bool" => leaf(&Value::Bool(false)),
        Value::Null if of.starts_with("int") || of == "intstr.IntOrString" => leaf(&Value::from(0)),
        Value::Null => leaf(&Value::from("")),
        value if known => of_struct(name, value),
        value => plain(value),
    }
}

fn plain(value: &Value) -> Node {
    match value {
        Value::Object(map) => {
            Node::Struct(map.iter().map(|(key, value)| (Cow::Owned(key.clone()), plain(value))).collect())
        }
        Value::Array(items) => Node::List(items.iter().map(plain).collect()),
        value => leaf(value),
    }
}

/// Go escapes what could end a script in HTML.
fn leaf(value: &Value) -> Node {
    Node::Leaf(value.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"))
}

fn write(node: &Node, indent: Option<&str>, depth: usize, out: &mut String) {
    let line = |depth: usize, out: &mut String| {
        if let Some(indent) = indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    };
    match node {
        Node::Leaf(text) => out.push_str(text),
        Node::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                line(depth + 1, out);
                write(item, indent, depth + 1, out);
            }
            if !items.is_empty() {
                line(depth, out);
            }
            out.push(']');
        }
        Node::Struct(fields) => {
            out.push('{');
            for (index, (name, value)) in fields.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                line(depth + 1, out);
                out.push_str(&Value::from(name.as_ref()).to_string());
                out.push_str(if indent.is_some() { ": " } else { ":" });
                write(value, indent, depth + 1, out);
            }
            if !fields.is_empty() {
                line(depth, out);
            }
            out.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_prints_with_go_names() {
        assert_eq!(
            shown("SeccompProfile", &json!({"type": "RuntimeDefault", "localhostProfile": "a<b"})),
            r#"{"Type":"RuntimeDefault","LocalhostProfile":"a\u003cb"}"#
        );
        assert_eq!(
            shown("PodResourceClaim", &json!({"name": "a"})),
            r#"{"Name":"a","ResourceClaimName":null,"ResourceClaimTemplateName":null}"#
        );
    }

    #[test]
    fn the_internal_spec_has_the_host_in_the_security_context() {
        let text = indented("PodSpec", &json!({"hostNetwork": true, "securityContext": {}}));
        assert!(text.contains(" \"SecurityContext\": {\n  \"HostNetwork\": true,\n  \"HostPID\": false,"), "{text}");
        assert!(text.starts_with("{\n \"Volumes\": null,\n"), "{text}");
    }
}
