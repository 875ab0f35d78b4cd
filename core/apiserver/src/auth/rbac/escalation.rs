//! Who may write which roles and bindings: nobody grants what they don't have, unless they hold the verbs `escalate`
//! (for roles) or `bind` (for bindings). Upstream checks this in the registry, after the changing half of admission.

use gantry_api::error::ApiError;
use gantry_api::object::{Object, items_at, str_at};

use super::cover::{compact, describe, go_list, missing};
use super::rule::{ALL, Rule};
use crate::admission::{AdmissionRequest, Operation};
use crate::auth::attributes::{Attributes, Authorizer};
use crate::auth::authorization::Authorization;
use crate::auth::user::{MASTERS, UserInfo};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Refuses a create or an update of a role or binding that grants more than its writer has.
pub fn check(
    authorization: &Authorization,
    request: &AdmissionRequest<'_>,
    object: &Object,
    old: Option<&Object>,
) -> Result<(), ApiError> {
    if request.resource.group != GROUP || !request.subresource.is_empty() || request.user.is_in(MASTERS) {
        return Ok(());
    }
    let old = match request.operation {
        Operation::Create => None,
        Operation::Update => old,
        Operation::Delete | Operation::Connect => return Ok(()),
    };
    if old.is_some_and(|old| changes_only_for_the_collector(object, old)) {
        return Ok(());
    }
    match request.resource.plural.as_str() {
        "roles" | "clusterroles" => role(authorization, request, object, old),
        "rolebindings" | "clusterrolebindings" => binding(authorization, request, object),
        _ => Ok(()),
    }
}

fn role(
    authorization: &Authorization,
    request: &AdmissionRequest<'_>,
    object: &Object,
    old: Option<&Object>,
) -> Result<(), ApiError> {
    let plural = request.resource.plural.as_str();
    let escalate = Attributes {
        version: ALL,
        name: request.name,
        namespace: request.namespace,
        ..Attributes::resource(request.user, "escalate", GROUP, plural)
    };
    if authorization.authorize(&escalate).is_allow() {
        return Ok(());
    }
    let name = str_at(object, "metadata.name");
    confirm(authorization, request.user, request.namespace, &Rule::of_role(object))
        .map_err(|text| ApiError::forbidden(request.resource, name, text))?;
    let aggregates = |role: &Object| !items_at(role, "aggregationRule.clusterRoleSelectors").is_empty();
    if aggregates(object) || old.is_some_and(aggregates) {
        // Such a role can gather anything.
        let list = |text: &str| vec![text.to_owned()];
        let everything = [
            Rule { verbs: list(ALL), groups: list(ALL), resources: list(ALL), ..Rule::default() },
            Rule { verbs: list(ALL), paths: list(ALL), ..Rule::default() },
        ];
        confirm(authorization, request.user, request.namespace, &everything).map_err(|_| {
            ApiError::forbidden(request.resource, name, "must have cluster-admin privileges to use an aggregationRule")
        })?;
    }
    Ok(())
}

fn binding(authorization: &Authorization, request: &AdmissionRequest<'_>, object: &Object) -> Result<(), ApiError> {
    let (kind, role) = (str_at(object, "roleRef.kind"), str_at(object, "roleRef.name"));
    let plural = match kind {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        // The validation of the binding will say what is wrong with it.
        _ => return Ok(()),
    };
    let group = str_at(object, "roleRef.apiGroup");
    let bind = Attributes {
        version: ALL,
        name: role,
        namespace: request.namespace,
        ..Attributes::resource(request.user, "bind", group, plural)
    };
    if authorization.authorize(&bind).is_allow() {
        return Ok(());
    }
    let rules = authorization
        .role_rules(kind, role, request.namespace)
        .map_err(|_| ApiError::not_found((GROUP, plural), role))?;
    confirm(authorization, request.user, request.namespace, &rules)
        .map_err(|text| ApiError::forbidden(request.resource, str_at(object, "metadata.name"), text))
}

/// Whether a user has all of these rights; upstream's text when not.
fn confirm(authorization: &Authorization, user: &UserInfo, namespace: &str, rules: &[Rule]) -> Result<(), String> {
    let own = authorization.rules_for(user, namespace);
    let missing = missing(&own.rules, rules);
    if missing.is_empty() {
        return Ok(());
    }
    let mut text = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        go_list(&user.groups),
        describe(&compact(missing))
    );
    if !own.errors.is_empty() {
        text.push_str(&format!("; resolution errors: [{}]", own.errors.join(" ")));
    }
    Err(text)
}

/// Whether nothing differs but what the garbage collector writes: owners and finalizers.
fn changes_only_for_the_collector(object: &Object, old: &Object) -> bool {
    let stripped = |object: &Object| {
        let mut copy = object.clone();
        if let Some(metadata) = copy.get_mut("metadata").and_then(Object::as_object_mut) {
            for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
                metadata.remove(field);
            }
        }
        copy
    };
    stripped(object) == stripped(old)
}

#[cfg(test)]
mod tests {
    use gantry_api::resources::ResourceTable;
    use serde_json::{Value, json};

    use super::*;

    fn authorization() -> Authorization {
        let authorization = Authorization::new();
        let observe = |resource: &str, namespace: &str, name: &str, object: Value| {
            authorization.observe(GROUP, resource, namespace, name, Some(&object))
        };
        let subject = |name: &str| json!([{"kind": "User", "name": name}]);
        observe(
            "clusterroles",
            "",
            "pods",
            json!({"rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]}),
        );
        observe(
            "clusterroles",
            "",
            "all",
            json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]}),
        );
        observe(
            "clusterroles",
            "",
            "escalator",
            json!({"rules": [{"verbs": ["escalate"], "apiGroups": [GROUP], "resources": ["roles"]}, {"verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["all"]}]}),
        );
        observe(
            "rolebindings",
            "ns",
            "ann",
            json!({"roleRef": {"kind": "ClusterRole", "name": "pods"}, "subjects": subject("ann")}),
        );
        observe(
            "rolebindings",
            "ns",
            "eve",
            json!({"roleRef": {"kind": "ClusterRole", "name": "escalator"}, "subjects": subject("eve")}),
        );
        observe(
            "clusterrolebindings",
            "",
            "root",
            json!({"roleRef": {"kind": "ClusterRole", "name": "all"}, "subjects": subject("root")}),
        );
        authorization
    }

    fn verdict(
        user: &UserInfo,
        plural: &str,
        namespace: &str,
        object: Value,
        old: Option<Value>,
    ) -> Result<(), String> {
        let resource = ResourceTable::builtin().get(GROUP, "v1", plural).expect("a row");
        let operation = if old.is_some() { Operation::Update } else { Operation::Create };
        let request =
            AdmissionRequest { operation, resource, subresource: "", namespace, name: "", user, dry_run: false };
        check(&authorization(), &request, &object, old.as_ref()).map_err(|error| error.message)
    }

    #[test]
    fn nobody_grants_what_they_do_not_have() {
        let (ann, eve, root) =
            (UserInfo::new("ann", ["g", "h"]), UserInfo::new("eve", ["g"]), UserInfo::new("root", ["g"]));
        let masters = UserInfo::new("x", [MASTERS]);
        let role = |verbs: Value| json!({"metadata": {"name": "r"}, "rules": [{"verbs": verbs, "apiGroups": [""], "resources": ["pods"]}]});
        let bind = |kind: &str, name: &str| json!({"metadata": {"name": "b"}, "roleRef": {"apiGroup": GROUP, "kind": kind, "name": name}, "subjects": []});
        let ok: Result<(), &str> = Ok(());
        let cases = [
            (&ann, "roles", "ns", role(json!(["get"])), ok),
            (
                &ann,
                "roles",
                "other",
                role(json!(["get"])),
                Err(
                    "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"ann\" (groups=[\"g\" \"h\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\"]}",
                ),
            ),
            (
                &ann,
                "roles",
                "ns",
                role(json!(["get", "delete", "watch"])),
                Err(
                    "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"ann\" (groups=[\"g\" \"h\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"watch\"]}",
                ),
            ),
            (&eve, "roles", "ns", role(json!(["*"])), ok),
            (&masters, "roles", "ns", role(json!(["*"])), ok),
            (&ann, "rolebindings", "ns", bind("ClusterRole", "pods"), ok),
            (
                &ann,
                "rolebindings",
                "ns",
                bind("ClusterRole", "all"),
                Err(
                    "rolebindings.rbac.authorization.k8s.io \"b\" is forbidden: user \"ann\" (groups=[\"g\" \"h\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}",
                ),
            ),
            (&eve, "rolebindings", "ns", bind("ClusterRole", "all"), ok),
            (
                &ann,
                "rolebindings",
                "ns",
                bind("Role", "none"),
                Err("roles.rbac.authorization.k8s.io \"none\" not found"),
            ),
            (&root, "clusterrolebindings", "", bind("ClusterRole", "all"), ok),
        ];
        for (user, plural, namespace, object, expect) in cases {
            let seen = verdict(user, plural, namespace, object.clone(), None);
            assert_eq!(seen.as_ref().copied().map_err(String::as_str), expect, "{} {plural} {object}", user.name);
        }
    }

    #[test]
    fn the_collector_may_write_any_role() {
        let ann = UserInfo::new("ann", ["g"]);
        let old = json!({"metadata": {"name": "r", "finalizers": ["x/y"]}, "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!([]);
        assert_eq!(verdict(&ann, "roles", "ns", new.clone(), Some(old.clone())), Ok(()));
        new["rules"][0]["verbs"] = json!(["get"]);
        assert!(verdict(&ann, "roles", "ns", new, Some(old)).is_err());
    }
}
