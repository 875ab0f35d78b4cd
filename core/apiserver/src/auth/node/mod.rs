//! The node authorizer: a node reads only what its pods need, and writes only what is its own.
//!
//! [`graph`] knows which objects the pods of a node refer to. What the graph can't decide (creates, whose objects aren't
//! known yet) is allowed here and checked by the admission plugin `NodeRestriction`.

pub mod graph;

use gantry_api::object::Object;

use graph::{Graph, Kind};

use super::attributes::{Attributes, Decision};
use super::rbac::Rule;
use super::rbac::rule::{RuleSet, combined};

/// Decides on requests of nodes; no opinion on those of others.
pub struct NodeAuthorizer {
    graph: Graph,
    rules: RuleSet,
}

impl NodeAuthorizer {
    /// An authorizer with the rules that all nodes have (the cluster role `system:node`).
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { graph: Graph::default(), rules: RuleSet::new(rules) }
    }

    /// Takes note of a pod, volume, attachment or slice.
    pub fn observe(&mut self, resource: &str, namespace: &str, name: &str, object: Option<&Object>) {
        self.graph.observe(resource, namespace, name, object);
    }

    /// The decision on a request.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let Some(node) = attributes.user.node_identity() else { return Decision::no_opinion("") };
        if node.is_empty() {
            return Decision::no_opinion(format!("unknown node for user {:?}", attributes.user.name));
        }
        if attributes.resource_request {
            let decided = match (attributes.group, attributes.resource) {
                ("", "secrets") => Some(self.read_namespaced(node, Kind::Secret, attributes)),
                ("", "configmaps") => Some(self.read_namespaced(node, Kind::ConfigMap, attributes)),
                ("", "persistentvolumeclaims") if attributes.subresource == "status" => {
                    Some(self.claim_status(node, attributes))
                }
                ("", "persistentvolumeclaims") => Some(self.get(node, Kind::Claim, attributes)),
                ("", "persistentvolumes") => Some(self.get(node, Kind::Volume, attributes)),
                ("resource.k8s.io", "resourceclaims") => Some(self.get(node, Kind::ResourceClaim, attributes)),
                ("storage.k8s.io", "volumeattachments") => Some(self.get(node, Kind::Attachment, attributes)),
                ("", "serviceaccounts") => Some(self.token(node, attributes)),
                ("coordination.k8s.io", "leases") => Some(lease(node, attributes)),
                ("storage.k8s.io", "csinodes") => Some(csi_node(node, attributes)),
                ("resource.k8s.io", "resourceslices") => Some(self.slice(node, attributes)),
                ("", "nodes") => Some(node_object(node, attributes)),
                ("", "pods") => Some(self.pod(node, attributes)),
                _ => None,
            };
            if let Some(decided) = decided {
                return decided.map_or_else(Decision::no_opinion, |()| Decision::allow(""));
            }
        }
        if self.rules.allows(attributes, &combined(attributes)) {
            Decision::allow("")
        } else {
            Decision::no_opinion("")
        }
    }

    fn read_namespaced(&self, node: &str, kind: Kind, attributes: &Attributes<'_>) -> Verdict {
        refuse_unless(matches!(attributes.verb, "get" | "list" | "watch"), "can only read resources of this type")?;
        refuse_unless(attributes.subresource.is_empty(), "cannot read subresource")?;
        refuse_unless(!attributes.namespace.is_empty(), "can only read namespaced object of this type")?;
        self.related(node, kind, attributes)
    }

    fn get(&self, node: &str, kind: Kind, attributes: &Attributes<'_>) -> Verdict {
        refuse_unless(attributes.verb == "get", "can only get individual resources of this type")?;
        refuse_unless(attributes.subresource.is_empty(), "cannot get subresource")?;
        self.related(node, kind, attributes)
    }

    fn claim_status(&self, node: &str, attributes: &Attributes<'_>) -> Verdict {
        refuse_unless(matches!(attributes.verb, "update" | "patch"), "can only get/update/patch this type")?;
        self.related(node, Kind::Claim, attributes)
    }

    fn token(&self, node: &str, attributes: &Attributes<'_>) -> Verdict {
        refuse_unless(
            attributes.verb == "create" && !attributes.name.is_empty(),
            "can only create tokens for individual service accounts",
        )?;
        refuse_unless(attributes.subresource == "token", "can only create token subresource of serviceaccount")?;
        self.related(node, Kind::ServiceAccount, attributes)
    }

    fn slice(&self, node: &str, attributes: &Attributes<'_>) -> Verdict {
        refuse_unless(attributes.subresource.is_empty(), "cannot authorize ResourceSlice subresources")?;
        match attributes.verb {
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => self.related(node, Kind::Slice, attributes),
            "watch" | "list" | "deletecollection" => refuse_unless(
                selects(attributes.field_selector, "spec.nodeName", node),
                "can only list/watch/deletecollection resourceslices with nodeName field selector",
            ),
            _ => refuse(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    fn pod(&self, node: &str, attributes: &Attributes<'_>) -> Verdict {
        match (attributes.subresource, attributes.verb) {
            ("", "get") => self.get(node, Kind::Pod, attributes),
            ("", "list" | "watch") if selects(attributes.field_selector, "spec.nodeName", node) => Ok(()),
            ("", "list" | "watch") if !attributes.name.is_empty() => self.related(node, Kind::Pod, attributes),
            ("", "list" | "watch") => refuse("can only list/watch pods with spec.nodeName field selector"),
            // NodeRestriction limits these to the node's own pods.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => refuse(""),
        }
    }

    fn related(&self, node: &str, kind: Kind, attributes: &Attributes<'_>) -> Verdict {
        refuse_unless(!attributes.name.is_empty(), "No Object name found")?;
        if self.graph.relates(kind, attributes.namespace, attributes.name, node) {
            return Ok(());
        }
        Err(format!("no relationship found between node '{node}' and this object"))
    }
}

/// Allowed, or the reason why not.
type Verdict = Result<(), String>;

fn refuse(reason: &str) -> Verdict {
    Err(reason.to_owned())
}

fn refuse_unless(good: bool, reason: &str) -> Verdict {
    if good { Ok(()) } else { refuse(reason) }
}

fn lease(node: &str, attributes: &Attributes<'_>) -> Verdict {
    let good = matches!(attributes.verb, "get" | "create" | "update" | "patch" | "delete");
    refuse_unless(good, "can only get, create, update, patch, or delete a node lease")?;
    refuse_unless(
        attributes.namespace == "kube-node-lease",
        "can only access leases in the \"kube-node-lease\" system namespace",
    )?;
    // The name of a new lease isn't known yet.
    let own = attributes.verb == "create" || attributes.name == node;
    refuse_unless(own, "can only access node lease with the same name as the requesting node")
}

fn csi_node(node: &str, attributes: &Attributes<'_>) -> Verdict {
    let good = matches!(attributes.verb, "get" | "create" | "update" | "patch" | "delete");
    refuse_unless(good, "can only get, create, update, patch, or delete a CSINode")?;
    refuse_unless(attributes.subresource.is_empty(), "cannot authorize CSINode subresources")?;
    let own = attributes.verb == "create" || attributes.name == node;
    refuse_unless(own, "can only access CSINode with the same name as the requesting node")
}

fn node_object(node: &str, attributes: &Attributes<'_>) -> Verdict {
    match (attributes.subresource, attributes.verb) {
        // NodeRestriction limits these to the node's own object.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        // By name, as the node reads its object before it exists.
        ("", "get" | "list" | "watch") => match attributes.name {
            name if name == node => Ok(()),
            "" => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
            name => Err(format!("node '{node}' cannot read '{name}', only its own Node object")),
        },
        _ => refuse(""),
    }
}

/// Whether a field selector demands that a field have a value.
fn selects(selector: &str, field: &str, value: &str) -> bool {
    selector
        .split(',')
        .filter_map(|term| term.split_once('='))
        .any(|(name, wanted)| name.trim() == field && wanted.strip_prefix('=').unwrap_or(wanted).trim() == value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::user::{NODES, UserInfo};

    fn authorizer() -> NodeAuthorizer {
        let rule = |verb: &str, resource: &str| Rule {
            verbs: vec![verb.to_owned()],
            groups: vec![String::new()],
            resources: vec![resource.to_owned()],
            ..Rule::default()
        };
        let mut nodes = NodeAuthorizer::new(vec![rule("list", "services"), rule("list", "pods")]);
        let pod = json!({
            "spec": {
                "nodeName": "n1", "serviceAccountName": "sa", "imagePullSecrets": [{"name": "pull"}],
                "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "env"}}], "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "key"}}}]}],
                "volumes": [
                    {"name": "a", "secret": {"secretName": "vol"}},
                    {"name": "b", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}, {"secret": {"name": "proj"}}]}},
                    {"name": "c", "persistentVolumeClaim": {"claimName": "data"}},
                    {"name": "d", "ephemeral": {}},
                ],
            },
        });
        nodes.observe("pods", "ns", "p", Some(&pod));
        nodes.observe("persistentvolumes", "", "pv", Some(&json!({"spec": {"claimRef": {"namespace": "ns", "name": "data"}, "csi": {"nodeStageSecretRef": {"namespace": "store", "name": "login"}}}})));
        nodes.observe("volumeattachments", "", "va", Some(&json!({"spec": {"nodeName": "n1"}})));
        nodes
    }

    #[test]
    fn nodes_read_what_their_pods_need() {
        let nodes = authorizer();
        let (n1, n2) = (UserInfo::new("system:node:n1", [NODES]), UserInfo::new("system:node:n2", [NODES]));
        let ask = |verb: &'static str,
                   group: &'static str,
                   resource: &'static str,
                   namespace: &'static str,
                   name: &'static str| (verb, group, resource, namespace, name);
        let related = [
            ask("get", "", "secrets", "ns", "pull"),
            ask("get", "", "secrets", "ns", "key"),
            ask("watch", "", "secrets", "ns", "vol"),
            ask("list", "", "secrets", "ns", "proj"),
            ask("get", "", "secrets", "store", "login"),
            ask("get", "", "configmaps", "ns", "env"),
            ask("get", "", "configmaps", "ns", "kube-root-ca.crt"),
            ask("get", "", "persistentvolumeclaims", "ns", "data"),
            ask("get", "", "persistentvolumeclaims", "ns", "p-d"),
            ask("get", "", "persistentvolumes", "", "pv"),
            ask("get", "", "pods", "ns", "p"),
            ask("get", "storage.k8s.io", "volumeattachments", "", "va"),
        ];
        for (verb, group, resource, namespace, name) in related {
            let of = |user| {
                nodes.authorize(&Attributes { namespace, name, ..Attributes::resource(user, verb, group, resource) })
            };
            assert!(of(&n1).is_allow(), "n1 {verb} {resource} {name}");
            let refused = of(&n2);
            assert_eq!(
                (refused.is_allow(), refused.reason()),
                (false, "no relationship found between node 'n2' and this object"),
                "n2 {verb} {resource} {name}"
            );
        }
    }

    #[test]
    fn nodes_write_what_is_theirs() {
        let nodes = authorizer();
        let n1 = UserInfo::new("system:node:n1", [NODES]);
        let cases = [
            ("list", "", "secrets", "", "ns", "", "", "No Object name found"),
            ("create", "", "secrets", "", "ns", "x", "", "can only read resources of this type"),
            ("get", "", "secrets", "", "ns", "other", "", "no relationship found between node 'n1' and this object"),
            ("list", "", "pods", "", "", "", "", "can only list/watch pods with spec.nodeName field selector"),
            (
                "list",
                "",
                "pods",
                "",
                "",
                "",
                "spec.nodeName=n2",
                "can only list/watch pods with spec.nodeName field selector",
            ),
            ("list", "", "pods", "", "", "", "status.phase!=Failed,spec.nodeName==n1", "ok"),
            ("create", "", "serviceaccounts", "token", "ns", "sa", "", "ok"),
            (
                "create",
                "",
                "serviceaccounts",
                "token",
                "ns",
                "other",
                "",
                "no relationship found between node 'n1' and this object",
            ),
            ("get", "", "nodes", "", "", "n1", "", "ok"),
            ("get", "", "nodes", "", "", "n2", "", "node 'n1' cannot read 'n2', only its own Node object"),
            ("list", "", "nodes", "", "", "", "", "node 'n1' cannot read all nodes, only its own Node object"),
            ("delete", "", "nodes", "", "", "n1", "", ""),
            ("update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n1", "", "ok"),
            (
                "update",
                "coordination.k8s.io",
                "leases",
                "",
                "kube-node-lease",
                "n2",
                "",
                "can only access node lease with the same name as the requesting node",
            ),
            (
                "get",
                "coordination.k8s.io",
                "leases",
                "",
                "kube-system",
                "n1",
                "",
                "can only access leases in the \"kube-node-lease\" system namespace",
            ),
            ("list", "", "services", "", "", "", "", "ok"),
            ("delete", "", "services", "", "ns", "x", "", ""),
        ];
        for (verb, group, resource, subresource, namespace, name, field_selector, expect) in cases {
            let decision = nodes.authorize(&Attributes {
                subresource,
                namespace,
                name,
                field_selector,
                ..Attributes::resource(&n1, verb, group, resource)
            });
            let seen = if decision.is_allow() { "ok" } else { decision.reason() };
            assert_eq!(seen, expect, "{verb} {resource} {name}");
        }
        let ann = UserInfo::new("ann", [NODES]);
        assert_eq!(nodes.authorize(&Attributes::resource(&ann, "list", "", "services")), Decision::no_opinion(""));
    }

    #[test]
    fn a_pod_that_is_gone_gives_no_rights() {
        let mut nodes = authorizer();
        let n1 = UserInfo::new("system:node:n1", [NODES]);
        nodes.observe("pods", "ns", "p", None);
        nodes.observe("persistentvolumes", "", "pv", None);
        for (resource, namespace, name) in [
            ("secrets", "ns", "key"),
            ("secrets", "store", "login"),
            ("persistentvolumes", "", "pv"),
            ("pods", "ns", "p"),
        ] {
            assert!(
                !nodes
                    .authorize(&Attributes { namespace, name, ..Attributes::resource(&n1, "get", "", resource) })
                    .is_allow(),
                "{resource} {name}"
            );
        }
    }

    #[test]
    fn a_mirror_pod_gives_no_rights() {
        let mut nodes = authorizer();
        let n2 = UserInfo::new("system:node:n2", [NODES]);
        let mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}, "spec": {"nodeName": "n2", "volumes": [{"name": "a", "secret": {"secretName": "loot"}}]}});
        nodes.observe("pods", "ns", "mirror", Some(&mirror));
        assert!(
            nodes
                .authorize(&Attributes {
                    namespace: "ns",
                    name: "mirror",
                    ..Attributes::resource(&n2, "get", "", "pods")
                })
                .is_allow()
        );
        assert!(
            !nodes
                .authorize(&Attributes {
                    namespace: "ns",
                    name: "loot",
                    ..Attributes::resource(&n2, "get", "", "secrets")
                })
                .is_allow()
        );
    }
}
