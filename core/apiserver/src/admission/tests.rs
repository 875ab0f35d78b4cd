//! The chain as a whole, as tables of requests.

use std::sync::Arc;

use gantry_api::object::{Object, at, items_at, map_mut, str_at};
use gantry_api::resources::ResourceTable;
use serde_json::{Value, json};

use super::testing::Objects;
use super::{Admission, AdmissionRequest, Operation};
use crate::auth::user::{MASTERS, NODES};
use crate::auth::{Authorization, UserInfo};

fn objects() -> Objects {
    let named = |name: &str, rest: Value| {
        let mut object = rest;
        map_mut(&mut object, "metadata").insert("name".to_owned(), json!(name));
        object
    };
    let default_class = json!({"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}, "creationTimestamp": "2026-01-01T00:00:00Z"});
    let older_class = json!({"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}, "creationTimestamp": "2025-01-01T00:00:00Z"});
    Objects::new(vec![
        ("", "namespaces", named("ns", json!({"status": {"phase": "Active"}}))),
        ("", "namespaces", named("going", json!({"status": {"phase": "Terminating"}}))),
        (
            "",
            "serviceaccounts",
            named("default", json!({"metadata": {"namespace": "ns"}, "imagePullSecrets": [{"name": "pull"}]})),
        ),
        (
            "",
            "serviceaccounts",
            named("shy", json!({"metadata": {"namespace": "ns"}, "automountServiceAccountToken": false})),
        ),
        (
            "",
            "serviceaccounts",
            named(
                "strict",
                json!({"metadata": {"namespace": "ns", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}, "secrets": [{"name": "mine"}]}),
            ),
        ),
        ("", "pods", named("p", json!({"metadata": {"namespace": "ns", "uid": "u-p"}, "spec": {"nodeName": "n1"}}))),
        (
            "",
            "nodes",
            named("n1", json!({"metadata": {"uid": "u-n1", "labels": {"topology.kubernetes.io/zone": "z"}}})),
        ),
        ("scheduling.k8s.io", "priorityclasses", named("high", json!({"value": 1000, "preemptionPolicy": "Never"}))),
        (
            "scheduling.k8s.io",
            "priorityclasses",
            named("usual", json!({"value": 7, "globalDefault": true, "preemptionPolicy": "PreemptLowerPriority"})),
        ),
        (
            "storage.k8s.io",
            "storageclasses",
            named("new", json!({"metadata": default_class, "allowVolumeExpansion": true})),
        ),
        ("storage.k8s.io", "storageclasses", named("old", json!({"metadata": older_class}))),
        (
            "node.k8s.io",
            "runtimeclasses",
            named(
                "vm",
                json!({"overhead": {"podFixed": {"cpu": "250m"}}, "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]}}),
            ),
        ),
        (
            "networking.k8s.io",
            "ingressclasses",
            named("web", json!({"metadata": {"annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}})),
        ),
    ])
}

struct Case<'a> {
    user: &'a UserInfo,
    operation: Operation,
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    namespace: &'static str,
    name: &'static str,
    old: Option<Value>,
}

/// Runs both halves of the chain.
async fn run(case: &Case<'_>, mut object: Object) -> Result<Object, String> {
    run_with(case, &mut object, &objects()).await.map(|()| object)
}

async fn run_with(case: &Case<'_>, object: &mut Object, objects: &Objects) -> Result<(), String> {
    let resource = ResourceTable::builtin().get(case.group, "v1", case.resource).expect(case.resource);
    let request = AdmissionRequest {
        operation: case.operation,
        resource,
        subresource: case.subresource,
        namespace: case.namespace,
        name: case.name,
        user: case.user,
        dry_run: false,
    };
    let admission = Admission::new(Arc::new(Authorization::new()));
    admission.admit(&request, object, case.old.as_ref(), objects).await.map_err(|error| error.message)?;
    admission.validate(&request, object, case.old.as_ref(), objects).await.map_err(|error| error.message)?;
    Ok(())
}

fn create<'a>(user: &'a UserInfo, group: &'static str, resource: &'static str, namespace: &'static str) -> Case<'a> {
    Case { user, operation: Operation::Create, group, resource, subresource: "", namespace, name: "", old: None }
}

#[tokio::test]
async fn a_pod_gets_what_upstream_was_seen_to_add() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/corpus/kind-pods.json");
    let corpus: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("the corpus")).expect("JSON");
    let step =
        items_at(&corpus, "steps").iter().find(|step| str_at(step, "note").contains("defaults")).expect("a step");
    let seen = at(step, "see.body.spec");
    let admin = UserInfo::new("admin", [MASTERS]);
    let case = create(&admin, "", "pods", "ns");
    // As recorded: an account without pull secrets, no default priority class.
    let objects = Objects::new(vec![
        ("", "namespaces", json!({"metadata": {"name": "ns"}})),
        ("", "serviceaccounts", json!({"metadata": {"namespace": "ns", "name": "default"}})),
    ]);
    let mut pod = at(step, "do.body").clone();
    run_with(&case, &mut pod, &objects).await.expect("admitted");
    let text = at(&pod, "spec").to_string();
    let name = str_at(&items_at(&pod, "spec.volumes")[0], "name").to_owned();
    assert_eq!((name.len(), name.starts_with("kube-api-access-")), (21, true), "{name}");
    let pod: Value = serde_json::from_str(&text.replace(&name, "kube-api-access-<any>")).expect("JSON");
    for (field, value) in pod.as_object().expect("a map") {
        match field.as_str() {
            "containers" => assert_eq!(value[0]["volumeMounts"], seen["containers"][0]["volumeMounts"]),
            field => assert_eq!(*value, seen[field], "{field}"),
        }
    }
    for field in ["priority", "preemptionPolicy", "tolerations", "serviceAccount", "serviceAccountName", "volumes"] {
        assert!(!pod[field].is_null(), "{field}");
    }
}

#[tokio::test]
async fn plugins_fill_in_what_was_left_out() {
    let admin = UserInfo::new("admin", [MASTERS]);
    let pod = |spec: Value| json!({"metadata": {"name": "x"}, "spec": spec});
    let pods = create(&admin, "", "pods", "ns");
    let claims = create(&admin, "", "persistentvolumeclaims", "ns");
    let ingresses = create(&admin, "networking.k8s.io", "ingresses", "ns");
    let nodes = create(&admin, "", "nodes", "");
    let volumes = create(&admin, "", "persistentvolumes", "");
    let binding = Case { subresource: "binding", name: "x", ..create(&admin, "", "pods", "ns") };
    let cases = [
        (&pods, pod(json!({})), "spec.priority", json!(7)),
        (&pods, pod(json!({})), "spec.priorityClassName", json!("usual")),
        (&pods, pod(json!({"priorityClassName": "high"})), "spec.preemptionPolicy", json!("Never")),
        (&pods, pod(json!({"serviceAccountName": "shy"})), "spec.volumes", Value::Null),
        (&pods, pod(json!({})), "spec.imagePullSecrets", json!([{"name": "pull"}])),
        (&pods, pod(json!({"imagePullSecrets": [{"name": "own"}]})), "spec.imagePullSecrets", json!([{"name": "own"}])),
        (
            &pods,
            pod(json!({"tolerations": [{"operator": "Exists"}]})),
            "spec.tolerations",
            json!([{"operator": "Exists"}]),
        ),
        (&pods, pod(json!({"runtimeClassName": "vm"})), "spec.overhead", json!({"cpu": "250m"})),
        (&pods, pod(json!({"runtimeClassName": "vm"})), "spec.nodeSelector", json!({"vm": "yes"})),
        (&pods, pod(json!({"nodeName": "n1"})), "metadata.labels", json!({"topology.kubernetes.io/zone": "z"})),
        (
            &binding,
            json!({"metadata": {"name": "x"}, "target": {"kind": "Node", "name": "n1"}}),
            "metadata.labels",
            json!({"topology.kubernetes.io/zone": "z"}),
        ),
        (&claims, json!({"spec": {}}), "spec.storageClassName", json!("new")),
        (&claims, json!({"spec": {"storageClassName": ""}}), "spec.storageClassName", json!("")),
        (&claims, json!({"spec": {}}), "metadata.finalizers", json!(["kubernetes.io/pvc-protection"])),
        (&volumes, json!({"spec": {}}), "metadata.finalizers", json!(["kubernetes.io/pv-protection"])),
        (&ingresses, json!({"spec": {}}), "spec.ingressClassName", json!("web")),
        (
            &nodes,
            json!({"metadata": {"name": "n"}}),
            "spec.taints",
            json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]),
        ),
    ];
    for (case, object, path, expect) in cases {
        let admitted = run(case, object.clone()).await.expect("admitted");
        assert_eq!(*at(&admitted, path), expect, "{object}: {path}");
    }
}

#[tokio::test]
async fn refusals_read_as_upstream_writes_them() {
    let admin = UserInfo::new("admin", [MASTERS]);
    let pod = |spec: Value| json!({"metadata": {"name": "x"}, "spec": spec});
    let pods = || create(&admin, "", "pods", "ns");
    let grown = json!({"metadata": {"name": "c"}, "spec": {"storageClassName": "old", "resources": {"requests": {"storage": "2Gi"}}}});
    let claim = |phase: &str| json!({"spec": {"storageClassName": "old", "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": phase}});
    let claims = |phase: &str| Case {
        operation: Operation::Update,
        name: "c",
        old: Some(claim(phase)),
        ..create(&admin, "", "persistentvolumeclaims", "ns")
    };
    let delete =
        |name: &'static str| Case { operation: Operation::Delete, name, ..create(&admin, "", "namespaces", "") };
    let csr = |organization: &str| {
        let mut request = signing_request(organization);
        request["metadata"] = json!({"name": "r"});
        request
    };
    let csrs = || create(&admin, "certificates.k8s.io", "certificatesigningrequests", "");
    let cases: Vec<(Case<'_>, Value, &str)> = vec![
        (create(&admin, "", "configmaps", "none"), json!({}), "namespaces \"none\" not found"),
        (
            create(&admin, "", "configmaps", "going"),
            json!({"metadata": {"name": "late"}}),
            "configmaps \"late\" is forbidden: unable to create new content in namespace going because it is being terminated",
        ),
        (
            create(&admin, "", "configmaps", "going"),
            json!({"metadata": {"generateName": "gen-"}}),
            "configmaps \"gen-\" is forbidden: unable to create new content in namespace going because it is being terminated",
        ),
        (
            delete("kube-system"),
            Value::Null,
            "namespaces \"kube-system\" is forbidden: this namespace may not be deleted",
        ),
        (delete("kube-node-lease"), Value::Null, ""),
        (
            pods(),
            pod(json!({"serviceAccountName": "none"})),
            "pods \"x\" is forbidden: error looking up service account ns/none: serviceaccount \"none\" not found",
        ),
        (
            pods(),
            pod(
                json!({"serviceAccountName": "strict", "volumes": [{"name": "v", "secret": {"secretName": "theirs"}}]}),
            ),
            "pods \"x\" is forbidden: volume with secret.secretName=\"theirs\" is not allowed because service account strict does not reference that secret",
        ),
        (
            pods(),
            pod(json!({"serviceAccountName": "strict", "volumes": [{"name": "v", "secret": {"secretName": "mine"}}]})),
            "",
        ),
        (
            pods(),
            pod(json!({"priorityClassName": "none"})),
            "pods \"x\" is forbidden: no PriorityClass with name none was found",
        ),
        (
            pods(),
            pod(json!({"priority": 9})),
            "pods \"x\" is forbidden: the integer value of priority (9) must not be provided in pod spec; priority admission controller computed 7 from the given PriorityClass name",
        ),
        (
            pods(),
            pod(json!({"priorityClassName": "high", "preemptionPolicy": "PreemptLowerPriority"})),
            "pods \"x\" is forbidden: the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in pod spec; priority admission controller computed Never from the given PriorityClass name",
        ),
        (
            create(&admin, "scheduling.k8s.io", "priorityclasses", ""),
            json!({"metadata": {"name": "b"}, "globalDefault": true}),
            "priorityclasses.scheduling.k8s.io \"b\" is forbidden: PriorityClass usual is already marked as default. Only one default can exist",
        ),
        (
            pods(),
            pod(json!({"runtimeClassName": "none"})),
            "pods \"x\" is forbidden: pod rejected: RuntimeClass \"none\" not found",
        ),
        (
            pods(),
            pod(json!({"overhead": {"cpu": "1"}})),
            "pods \"x\" is forbidden: pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
        (
            pods(),
            pod(json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}})),
            "pods \"x\" is forbidden: pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        ),
        (pods(), pod(json!({"runtimeClassName": "vm", "overhead": {"cpu": "0.25"}})), ""),
        (
            pods(),
            pod(json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}})),
            "pods \"x\" is forbidden: conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no",
        ),
        (
            claims("Pending"),
            grown.clone(),
            "persistentvolumeclaims \"c\" is forbidden: Only bound persistent volume claims can be expanded",
        ),
        (
            claims("Bound"),
            grown,
            "persistentvolumeclaims \"c\" is forbidden: only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ),
        (
            csrs(),
            csr(MASTERS),
            "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed",
        ),
        (csrs(), csr("dev"), ""),
    ];
    for (case, object, expect) in cases {
        let seen = run(&case, object.clone()).await.err().unwrap_or_default();
        assert_eq!(seen, expect, "{} {object}", case.resource);
    }
}

/// A request for a client's certificate of an organization.
fn signing_request(organization: &str) -> Value {
    use base64::Engine;
    let profile = gantry_pki::ClientProfile { common_name: "ann", organization: Some(organization) };
    let (pem, _) = gantry_pki::authority::client_request(&profile).expect("a request");
    let request = base64::engine::general_purpose::STANDARD.encode(pem);
    json!({"spec": {"signerName": "kubernetes.io/kube-apiserver-client", "request": request}})
}

#[tokio::test]
async fn signers_are_for_those_who_may() {
    let admin = UserInfo::new("admin", [MASTERS]);
    let ann = UserInfo::new("ann", ["dev"]);
    let old = json!({"spec": {"signerName": "example.org/x"}});
    let new =
        json!({"metadata": {"name": "r"}, "spec": {"signerName": "example.org/x"}, "status": {"certificate": "eA=="}});
    for (subresource, verb) in [("approval", "approve"), ("status", "sign")] {
        let case = |user| Case {
            operation: Operation::Update,
            subresource,
            name: "r",
            old: Some(old.clone()),
            ..create(user, "certificates.k8s.io", "certificatesigningrequests", "")
        };
        assert_eq!(run(&case(&admin), new.clone()).await.err(), None);
        let expect = format!(
            "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: user not permitted to {verb} requests with signerName \"example.org/x\""
        );
        assert_eq!(run(&case(&ann), new.clone()).await.err(), Some(expect));
    }
}

#[tokio::test]
async fn nodes_change_only_what_is_theirs() {
    let n1 = UserInfo::new("system:node:n1", [NODES]);
    let node =
        |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": []}});
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u-n1", "controller": true}]);
    let mirror = |owner: &Value, spec: Value| json!({"metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": owner}, "spec": spec});
    let nodes = || create(&n1, "", "nodes", "");
    let pods = || create(&n1, "", "pods", "ns");
    let status = |node: &str| Case {
        operation: Operation::Update,
        subresource: "status",
        name: "p",
        old: Some(json!({"metadata": {"labels": {"a": "1"}}, "spec": {"nodeName": node}})),
        ..create(&n1, "", "pods", "ns")
    };
    let token = || Case { subresource: "token", name: "default", ..create(&n1, "", "serviceaccounts", "ns") };
    let bound =
        |uid: &str| json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid}}});
    let lease = |namespace| create(&n1, "coordination.k8s.io", "leases", namespace);
    let cases: Vec<(Case<'_>, Value, &str)> = vec![
        (
            nodes(),
            node("n1", json!({"kubernetes.io/hostname": "n1", "own": "x", "node.kubernetes.io/instance-type": "s"})),
            "",
        ),
        (nodes(), node("n2", json!({})), "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\""),
        (
            nodes(),
            node("n1", json!({"node-role.kubernetes.io/master": "", "a.node-restriction.kubernetes.io/x": ""})),
            "nodes \"n1\" is forbidden: node \"n1\" is not allowed to set the following labels: a.node-restriction.kubernetes.io/x, node-role.kubernetes.io/master",
        ),
        (
            Case {
                operation: Operation::Update,
                name: "n1",
                old: Some(json!({"spec": {"taints": [{"key": "x"}]}})),
                ..nodes()
            },
            node("n1", json!({})),
            "nodes \"n1\" is forbidden: node \"n1\" is not allowed to modify taints",
        ),
        (
            pods(),
            json!({"metadata": {"name": "x"}, "spec": {"nodeName": "n1"}}),
            "pods \"x\" is forbidden: pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create mirror pods",
        ),
        (pods(), mirror(&owner, json!({"nodeName": "n1"})), ""),
        (
            pods(),
            mirror(&owner, json!({"nodeName": "n2"})),
            "pods \"m\" is forbidden: node \"n1\" can only create pods with spec.nodeName set to itself",
        ),
        (
            pods(),
            mirror(&json!([]), json!({"nodeName": "n1"})),
            "pods \"m\" is forbidden: node \"n1\" can only create pods with an owner reference set to itself",
        ),
        (
            pods(),
            mirror(&owner, json!({"nodeName": "n1", "volumes": [{"name": "v", "configMap": {"name": "c"}}]})),
            "pods \"m\" is forbidden: node \"n1\" can not create pods that reference configmaps",
        ),
        (status("n1"), json!({"metadata": {"labels": {"a": "1"}}}), ""),
        (
            status("n2"),
            json!({"metadata": {"labels": {"a": "1"}}}),
            "pods \"p\" is forbidden: node \"n1\" can only update pod status for pods with spec.nodeName set to itself",
        ),
        (
            status("n1"),
            json!({"metadata": {"labels": {"a": "2"}}}),
            "pods \"p\" is forbidden: node \"n1\" cannot update labels through pod status",
        ),
        (token(), bound("u-p"), ""),
        (
            token(),
            bound("old"),
            "serviceaccounts \"default\" is forbidden: the UID in the bound object reference (old) does not match the UID in record. The object might have been deleted and then recreated",
        ),
        (
            token(),
            json!({"spec": {}}),
            "serviceaccounts \"default\" is forbidden: node requested token not bound to a pod",
        ),
        (
            lease("ns"),
            json!({"metadata": {"name": "n1"}}),
            "leases.coordination.k8s.io \"n1\" is forbidden: can only access leases in the \"kube-node-lease\" system namespace",
        ),
        (Case { operation: Operation::Delete, name: "p", ..pods() }, Value::Null, ""),
        (Case { operation: Operation::Delete, name: "none", ..pods() }, Value::Null, "pods \"none\" not found"),
    ];
    for (case, object, expect) in cases {
        let seen = run(&case, object.clone()).await.err().unwrap_or_default();
        assert_eq!(seen, expect, "{} {object}", case.resource);
    }
}
