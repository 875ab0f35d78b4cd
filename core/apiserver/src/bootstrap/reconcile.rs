//! From what must be and what is to writes, and carrying them out.

use async_trait::async_trait;
use futures::StreamExt;
use gantry_api::error::{ApiError, Reason};
use gantry_api::object::{Object, at, items_at, map_mut, str_at};
use gantry_api::resources::Resource;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::cluster::{aggregated_rules, flow_schema_status};
use super::{Desired, Options, Policy, objects};
use crate::admission::ObjectReader;

const RBAC: &str = "rbac.authorization.k8s.io";
const FLOW_CONTROL: &str = "flowcontrol.apiserver.k8s.io";
/// So many writes are under way at once: they share the store's syncs.
const CONCURRENT_WRITES_MAX: usize = 64;

/// A write that brings an object to what it must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// The object is missing.
    Create(Object),
    /// The object differs; with the resourceVersion of what was seen.
    Update(Object),
    /// The object can't be changed into what it must be: a binding to another role.
    Replace(Object),
}

/// What carries out the writes: the registry, as the server's own user ([`super::user`]).
#[async_trait]
pub trait Writer: Send + Sync {
    /// POST.
    async fn create(&self, resource: &'static Resource, namespace: &str, object: Object) -> Result<Object, ApiError>;
    /// PUT of the object, or of a subresource.
    async fn update(
        &self,
        resource: &'static Resource,
        subresource: &str,
        namespace: &str,
        name: &str,
        object: Object,
    ) -> Result<Object, ApiError>;
    /// DELETE.
    async fn delete(&self, resource: &'static Resource, namespace: &str, name: &str) -> Result<(), ApiError>;
}

/// What must be written for an object to be as it must be; `None` when it is.
pub fn plan(desired: &Desired, existing: Option<&Object>) -> Option<Write> {
    let Some(existing) = existing else { return Some(Write::Create(desired.object.clone())) };
    let opted_out = |annotation: &str| at(existing, "metadata.annotations")[annotation] == "false";
    let mut object = existing.clone();
    match desired.policy {
        Policy::Exists => return None,
        Policy::Rbac if opted_out("rbac.authorization.kubernetes.io/autoupdate") => return None,
        Policy::Rbac => {
            if existing.get("roleRef") != desired.object.get("roleRef") {
                return Some(Write::Replace(desired.object.clone()));
            }
            add_missing_rbac(&mut object, &desired.object);
        }
        Policy::FlowControl if opted_out("apf.kubernetes.io/autoupdate-spec") => return None,
        Policy::FlowControl => put_back(&mut object, &desired.object, &["spec"]),
        Policy::Fields(fields) => put_back(&mut object, &desired.object, fields),
    }
    (object != *existing).then_some(Write::Update(object))
}

/// Takes over fields, unless what is there only says more (defaults).
fn put_back(object: &mut Object, desired: &Object, fields: &[&str]) {
    for field in fields {
        if !says_all(&object[*field], &desired[*field]) {
            object[*field] = desired[*field].clone();
        }
    }
}

/// Whether a value says all that another one does.
fn says_all(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::Object(value), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| value.get(key).is_some_and(|value| says_all(value, wanted)))
        }
        (Value::Array(value), Value::Array(wanted)) => {
            value.len() == wanted.len() && value.iter().zip(wanted).all(|(value, wanted)| says_all(value, wanted))
        }
        (value, wanted) => value == wanted,
    }
}

/// Adds labels, annotations, rules, subjects and selectors that are missing; takes nothing away.
fn add_missing_rbac(object: &mut Object, desired: &Object) {
    for field in ["labels", "annotations"] {
        for (key, value) in at(desired, "metadata")[field].as_object().into_iter().flatten() {
            map_mut(object, &format!("metadata.{field}")).insert(key.clone(), value.clone());
        }
    }
    if let Some(wanted) = desired.get("rules").and_then(Value::as_array) {
        let rules = |role: &Object| crate::auth::rbac::Rule::of_role(role);
        let missing = crate::auth::rbac::cover::missing(&rules(object), &rules(&json!({"rules": wanted})));
        let missing = crate::auth::rbac::cover::compact(missing);
        extend(object, "rules", missing.iter().map(crate::auth::rbac::Rule::to_value).collect());
    }
    for (parent, field) in [("", "subjects"), ("aggregationRule", "clusterRoleSelectors")] {
        let path = if parent.is_empty() { field.to_owned() } else { format!("{parent}.{field}") };
        let missing: Vec<Value> =
            items_at(desired, &path).iter().filter(|item| !items_at(object, &path).contains(item)).cloned().collect();
        if !missing.is_empty() {
            let mut holder = Value::Object(std::mem::take(map_mut(object, parent)));
            extend(&mut holder, field, missing);
            if let Value::Object(map) = holder {
                *map_mut(object, parent) = map;
            }
        }
    }
}

fn extend(object: &mut Object, field: &str, items: Vec<Value>) {
    if items.is_empty() {
        return;
    }
    match object.get_mut(field).and_then(Value::as_array_mut) {
        Some(list) => list.extend(items),
        None => object[field] = Value::Array(items),
    }
}

/// Brings all objects of the start to what they must be. Another server that starts at the same time may be faster:
/// its writes count as ours.
pub async fn run(options: &Options, reader: &dyn ObjectReader, writer: &dyn Writer) -> Result<(), ApiError> {
    for wave in objects(options) {
        let mut writes = futures::stream::iter(wave.into_iter().filter_map(|desired| {
            let existing =
                reader.get(&desired.resource.group, &desired.resource.plural, &desired.namespace, &desired.name);
            let write = plan(&desired, existing.as_deref())?;
            Some(carry_out(desired, write, writer))
        }))
        .buffer_unordered(CONCURRENT_WRITES_MAX);
        while let Some(result) = writes.next().await {
            result?;
        }
    }
    if options.cluster.is_some() {
        aggregate(reader, writer).await?;
    }
    Ok(())
}

async fn carry_out(desired: Desired, write: Write, writer: &dyn Writer) -> Result<(), ApiError> {
    let Desired { resource, namespace, name, .. } = &desired;
    let written = match write {
        Write::Create(object) => writer.create(resource, namespace, object).await,
        Write::Update(object) => writer.update(resource, "", namespace, name, object).await,
        Write::Replace(object) => match writer.delete(resource, namespace, name).await {
            Ok(()) => writer.create(resource, namespace, object).await,
            Err(error) if error.reason == Reason::NotFound => writer.create(resource, namespace, object).await,
            Err(error) => Err(error),
        },
    };
    let Some(mut object) = unless_other_was_faster(written)? else { return Ok(()) };
    if resource.group == FLOW_CONTROL
        && resource.kind == "FlowSchema"
        && items_at(&object, "status.conditions").is_empty()
    {
        let now = gantry_api::timestamp::format(Timestamp::now());
        object["status"] = flow_schema_status(&object, &now);
        unless_other_was_faster(writer.update(resource, "status", namespace, name, object).await)?;
    }
    Ok(())
}

fn unless_other_was_faster(written: Result<Object, ApiError>) -> Result<Option<Object>, ApiError> {
    match written {
        Ok(object) => Ok(Some(object)),
        Err(error) if matches!(error.reason, Reason::AlreadyExists | Reason::Conflict) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fills in the rules of roles that gather those of others, so that `admin`, `edit` and `view` are good from the start.
async fn aggregate(reader: &dyn ObjectReader, writer: &dyn Writer) -> Result<(), ApiError> {
    // `edit` gathers from `view`'s parts and `admin` from both: three rounds reach the end of the chain.
    for _ in 0..3 {
        let roles = reader.list(RBAC, "clusterroles", "");
        let mut changed = false;
        for role in &roles {
            let Some(rules) = aggregated_rules(role, &roles).filter(|rules| role.get("rules") != Some(&json!(rules)))
            else {
                continue;
            };
            let mut object = Object::clone(role);
            object["rules"] = json!(rules);
            let resource = gantry_api::resources::ResourceTable::builtin()
                .get(RBAC, "v1", "clusterroles")
                .ok_or_else(ApiError::no_such_resource)?;
            unless_other_was_faster(writer.update(resource, "", "", str_at(role, "metadata.name"), object).await)?;
            changed = true;
        }
        if !changed {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn options(cluster: bool) -> Options {
        Options {
            service_cidrs: vec!["10.96.0.0/16".to_owned()],
            service_address: [10, 96, 0, 1].into(),
            advertise_address: [10, 0, 0, 5].into(),
            port: 6443,
            client_ca_pem: Some("ca".to_owned()),
            front_proxy_ca_pem: Some("front".to_owned()),
            cluster: cluster.then(|| super::super::ClusterOptions {
                server: "https://10.0.0.5:6443".to_owned(),
                ca_pem: "ca".to_owned(),
            }),
        }
    }

    fn all(cluster: bool) -> Vec<Desired> {
        objects(&options(cluster)).into_iter().flatten().collect()
    }

    /// The recorded objects by path and name, without what the registry fills in.
    fn recorded() -> BTreeMap<String, Object> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/corpus/bootstrap-objects.json");
        let text = std::fs::read_to_string(path).expect("the corpus");
        let corpus: Value = serde_json::from_str(&text).expect("JSON");
        let mut objects = BTreeMap::new();
        for step in
            items_at(&corpus, "steps").iter().filter(|step| step["do"]["method"] == "GET" && step.get("pick").is_none())
        {
            let body = at(step, "see.body");
            let kind = str_at(body, "kind").trim_end_matches("List").to_owned();
            for item in body.get("items").map_or(vec![body], |items| items.as_array().into_iter().flatten().collect()) {
                let mut item = item.clone();
                item["kind"] = json!(kind);
                objects.insert(
                    format!("{kind} {}/{}", str_at(&item, "metadata.namespace"), str_at(&item, "metadata.name")),
                    item,
                );
            }
        }
        objects
    }

    #[test]
    fn the_objects_are_the_recorded_ones() {
        let recorded = recorded();
        assert!(recorded.len() > 150, "{}", recorded.len());
        let mut missing: BTreeMap<_, _> = recorded.iter().collect();
        for desired in all(false) {
            let key = format!("{} {}/{}", desired.resource.kind, desired.namespace, desired.name);
            let Some(seen) = missing.remove(&key) else { continue };
            for (field, value) in desired.object.as_object().expect("an object") {
                match field.as_str() {
                    "apiVersion" | "kind" => {}
                    "metadata" => {
                        for field in ["labels", "annotations"] {
                            if desired.resource.kind != "Namespace" {
                                assert_eq!(value[field], at(seen, "metadata")[field], "{key}: {field}");
                            }
                        }
                    }
                    // The port is the recording server's; the rest is there among defaults.
                    "spec" if desired.resource.kind == "Service" => {
                        let mut value = value.clone();
                        value["ports"][0]["targetPort"] = at(seen, "spec.ports")[0]["targetPort"].clone();
                        assert!(says_all(&seen[field], &value), "{key}: {value}");
                    }
                    _ => assert_eq!(*value, seen[field], "{key}: {field}"),
                }
            }
        }
        assert_eq!(missing.keys().collect::<Vec<_>>(), Vec::<&&String>::new(), "recorded, but not made");
    }

    #[test]
    fn flow_schemas_say_that_their_levels_are_there() {
        for (key, object) in recorded().iter().filter(|(key, _)| key.starts_with("FlowSchema")) {
            assert_eq!(flow_schema_status(object, "<time>"), object["status"], "{key}");
        }
    }

    #[test]
    fn an_api_server_alone_adds_nothing_of_an_installers() {
        let names = |cluster| {
            all(cluster)
                .into_iter()
                .map(|desired| format!("{} {}", desired.resource.kind, desired.name))
                .collect::<Vec<_>>()
        };
        let (alone, whole) = (names(false), names(true));
        let added: Vec<&String> = whole.iter().filter(|name| !alone.contains(name)).collect();
        assert_eq!(
            added,
            [
                "ClusterRoleBinding kubeadm:cluster-admins",
                "ConfigMap cluster-info",
                "Role kubeadm:bootstrap-signer-clusterinfo",
                "RoleBinding kubeadm:bootstrap-signer-clusterinfo"
            ]
        );
    }

    #[test]
    fn what_is_as_it_must_be_is_left_alone() {
        for desired in all(true) {
            assert_eq!(plan(&desired, None), Some(Write::Create(desired.object.clone())));
            assert_eq!(plan(&desired, Some(&desired.object)), None, "{}", desired.name);
        }
    }

    #[test]
    fn what_was_taken_away_comes_back_and_what_was_added_stays() {
        let find = |kind: &str, name: &str| {
            all(false).into_iter().find(|desired| desired.resource.kind == kind && desired.name == name).expect(name)
        };
        let discovery = find("ClusterRole", "system:discovery");
        let mut changed = discovery.object.clone();
        changed["rules"] = json!([{"verbs": ["get"], "nonResourceURLs": ["/own", "/api", "/api/*"]}]);
        let Some(Write::Update(update)) = plan(&discovery, Some(&changed)) else { panic!("an update") };
        let rules = crate::auth::rbac::Rule::of_role(&update);
        let wanted = crate::auth::rbac::Rule::of_role(&discovery.object);
        assert!(crate::auth::rbac::cover::missing(&rules, &wanted).is_empty());
        assert_eq!(items_at(&update, "rules")[0], items_at(&changed, "rules")[0]);
        changed["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = json!("false");
        assert_eq!(plan(&discovery, Some(&changed)), None);

        let binding = find("ClusterRoleBinding", "system:discovery");
        let mut changed = binding.object.clone();
        changed["subjects"] = json!([{"kind": "User", "name": "ann", "apiGroup": RBAC}]);
        let Some(Write::Update(update)) = plan(&binding, Some(&changed)) else { panic!("an update") };
        assert_eq!(items_at(&update, "subjects").len(), 2);
        changed["roleRef"]["name"] = json!("other");
        assert_eq!(plan(&binding, Some(&changed)), Some(Write::Replace(binding.object.clone())));

        let schema = find("FlowSchema", "probes");
        let mut changed = schema.object.clone();
        changed["spec"]["matchingPrecedence"] = json!(7);
        assert_eq!(plan(&schema, Some(&changed)), Some(Write::Update(schema.object.clone())));
        let service = find("Service", "kubernetes");
        assert_eq!(plan(&service, Some(&json!({"metadata": {"labels": {"own": "x"}}}))), None);
    }

    #[test]
    fn the_default_roles_gather_their_parts() {
        let roles: Vec<_> = all(false)
            .into_iter()
            .filter(|desired| desired.resource.kind == "ClusterRole")
            .map(|desired| std::sync::Arc::new(desired.object))
            .collect();
        let rules_of = |name: &str| {
            roles
                .iter()
                .find(|role| str_at(role, "metadata.name") == name)
                .and_then(|role| aggregated_rules(role, &roles))
                .expect(name)
        };
        let view = rules_of("view");
        assert!(!view.is_empty());
        assert!(
            rules_of("edit").len()
                >= items_at(
                    roles
                        .iter()
                        .find(|role| str_at(role, "metadata.name") == "system:aggregate-to-edit")
                        .expect("a role"),
                    "rules"
                )
                .len()
        );
        assert_eq!(aggregated_rules(&roles[1], &roles), None, "cluster-admin has its own");
    }
}
