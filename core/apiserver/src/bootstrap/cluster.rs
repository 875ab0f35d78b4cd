//! Namespaces, the service `kubernetes`, priority classes, flow control, and what an installer adds to a cluster.

use std::net::IpAddr;
use std::sync::Arc;

use gantry_api::object::{Object, at, items_at, map_at, str_at};
use serde_json::{Value, json};

use super::rbac::subject_of;
use super::{ClusterOptions, Desired, Options, Policy};
use crate::auth::user::ANONYMOUS;

const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// The namespaces that are always there.
pub fn namespaces() -> Vec<Desired> {
    ["kube-system", "kube-public", "kube-node-lease", "default"]
        .map(|name| {
            Desired::new(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}), Policy::Exists)
        })
        .to_vec()
}

/// The network that service addresses come from.
pub fn service_network(options: &Options) -> Vec<Desired> {
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": options.service_cidrs},
    });
    vec![Desired::new(object, Policy::Exists)]
}

/// The priorities that only the system may use.
pub fn priority_classes() -> Vec<Desired> {
    read(include_str!("../../data/priority-classes.json"))
        .into_iter()
        .map(|object| Desired::new(object, Policy::Exists))
        .collect()
}

/// Flow schemas and priority levels.
pub fn flow_control() -> Vec<Desired> {
    read(include_str!("../../data/flow-control.json"))
        .into_iter()
        .map(|object| Desired::new(object, Policy::FlowControl))
        .collect()
}

fn read(file: &str) -> Vec<Object> {
    serde_json::from_str(file).expect("the data files are checked by a test")
}

/// What the flow controller says of a flow schema whose priority level is there, as all of these are.
pub fn flow_schema_status(schema: &Object, now: &str) -> Value {
    let level = str_at(schema, "spec.priorityLevelConfiguration.name");
    json!({"conditions": [{
        "type": "Dangling",
        "status": "False",
        "lastTransitionTime": now,
        "reason": "Found",
        "message": format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} and it exists"),
    }]})
}

/// How this server is found from within the cluster.
pub fn server(options: &Options) -> Vec<Desired> {
    let port = options.port;
    let address = options.advertise_address;
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "clusterIP": options.service_address,
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}],
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
    });
    let endpoints = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": address}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": match address { IpAddr::V4(_) => "IPv4", IpAddr::V6(_) => "IPv6" },
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    let mut objects = vec![Desired::new(service, Policy::Exists)];
    if !address.is_loopback() && !address.is_unspecified() {
        // Nobody else can reach a loopback address, and no endpoint may have one.
        objects.push(Desired::new(endpoints, Policy::Fields(&["subsets"])));
        objects.push(Desired::new(slice, Policy::Fields(&["endpoints", "ports"])));
    }
    let mut data = serde_json::Map::new();
    if let Some(pem) = &options.client_ca_pem {
        data.insert("client-ca-file".to_owned(), json!(pem));
    }
    if let Some(pem) = &options.front_proxy_ca_pem {
        for (key, value) in [
            ("requestheader-allowed-names", r#"["front-proxy-client"]"#),
            ("requestheader-client-ca-file", pem.as_str()),
            ("requestheader-extra-headers-prefix", r#"["X-Remote-Extra-"]"#),
            ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
            ("requestheader-uid-headers", r#"["X-Remote-Uid"]"#),
            ("requestheader-username-headers", r#"["X-Remote-User"]"#),
        ] {
            data.insert(key.to_owned(), json!(value));
        }
    }
    if !data.is_empty() {
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
            "data": data,
        });
        objects.push(Desired::new(object, Policy::Fields(&["data"])));
    }
    objects
}

/// What kubeadm adds: the rights of administrators, and how a newcomer finds and trusts the cluster.
pub fn installed(options: &ClusterOptions) -> Vec<Desired> {
    let admins = json!({
        "apiVersion": RBAC,
        "kind": "ClusterRoleBinding",
        "metadata": {"name": gantry_pki::layout::CLUSTER_ADMINS},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [subject_of(&format!("Group/{}", gantry_pki::layout::CLUSTER_ADMINS))],
    });
    let kubeconfig = gantry_pki::Kubeconfig::for_anyone(&options.server, &options.ca_pem);
    let info = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "cluster-info", "namespace": "kube-public"},
        "data": {"kubeconfig": kubeconfig.to_yaml().unwrap_or_default()},
    });
    let role_name = "kubeadm:bootstrap-signer-clusterinfo";
    let role = json!({
        "apiVersion": RBAC,
        "kind": "Role",
        "metadata": {"name": role_name, "namespace": "kube-public"},
        "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"]}],
    });
    let binding = json!({
        "apiVersion": RBAC,
        "kind": "RoleBinding",
        "metadata": {"name": role_name, "namespace": "kube-public"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role_name},
        "subjects": [subject_of(&format!("User/{ANONYMOUS}"))],
    });
    vec![
        Desired::new(admins, Policy::Rbac),
        Desired::new(info, Policy::Fields(&["data"])),
        Desired::new(role, Policy::Rbac),
        Desired::new(binding, Policy::Rbac),
    ]
}

/// The rules that a role gathers from other roles by their labels (the controller of aggregated roles, as a function):
/// each rule once, roles in order of their names; `None` for a role that doesn't gather. Only labels that must be
/// equal are understood: the default roles use nothing else.
pub fn aggregated_rules(role: &Object, roles: &[Arc<Object>]) -> Option<Vec<Value>> {
    let selectors = items_at(role, "aggregationRule.clusterRoleSelectors");
    if selectors.is_empty() {
        return None;
    }
    let selected = |other: &Object| {
        let labels = at(other, "metadata.labels");
        let one = |selector: &Value| {
            selector["matchExpressions"].is_null()
                && map_at(selector, "matchLabels")
                    .is_some_and(|wanted| wanted.iter().all(|(key, value)| labels[key.as_str()] == *value))
        };
        selectors.iter().any(one)
    };
    let name = |role: &Object| str_at(role, "metadata.name").to_owned();
    let mut sorted: Vec<_> = roles.iter().filter(|other| name(other) != name(role) && selected(other)).collect();
    sorted.sort_by_key(|other| name(other));
    let mut rules: Vec<Value> = Vec::new();
    for rule in sorted.into_iter().flat_map(|other| items_at(other, "rules")) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    Some(rules)
}
