//! Acting as someone else: the `Impersonate-*` headers, by upstream's modes. Constrained ones (KEP-5284: the verbs
//! `impersonate:MODE` and `impersonate-on:MODE:VERB`) come first, then the old verb `impersonate` that allows it all.

use std::collections::BTreeMap;

use gantry_api::error::ApiError;
use http::HeaderMap;
use percent_encoding::percent_decode_str;

use super::attributes::{Attributes, Authorizer};
use super::user::{
    ANONYMOUS, AUTHENTICATED, MASTERS, NODE_NAME, NODES, UNAUTHENTICATED, UserInfo, service_account_groups,
    split_node_user, split_service_account,
};

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA_PREFIX: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";
/// From so many groups on one question for all of them is tried first.
const MANY: usize = 4;

/// The user that a request is to be carried out as, if it has impersonation headers; they are taken off. `attributes`
/// are the request's own, with the user who sent it.
pub fn impersonate(
    headers: &mut HeaderMap,
    attributes: &Attributes<'_>,
    authorizer: &dyn Authorizer,
) -> Result<Option<UserInfo>, ApiError> {
    let Some(wanted) = wanted_user(headers)? else { return Ok(None) };
    let names: Vec<_> = headers
        .keys()
        .filter(|name| [USER, UID, GROUP].contains(&name.as_str()) || name.as_str().starts_with(EXTRA_PREFIX))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
    let mut first_refusal = None;
    for mode in Mode::ALL {
        if !mode.serves(&wanted, attributes.user) {
            continue;
        }
        match mode.check(&wanted, attributes, authorizer) {
            Ok(user) => return Ok(Some(user)),
            Err(refusal) => {
                first_refusal.get_or_insert(refusal);
            }
        }
    }
    Err(first_refusal.unwrap_or_else(|| ApiError::internal("all impersonation modes failed")))
}

fn wanted_user(headers: &HeaderMap) -> Result<Option<UserInfo>, ApiError> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let one = |name: &str| headers.get(name).map(text).unwrap_or_default();
    let mut wanted = UserInfo {
        name: one(USER),
        uid: one(UID),
        groups: headers.get_all(GROUP).iter().map(text).collect(),
        extra: BTreeMap::new(),
    };
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA_PREFIX) {
            wanted.extra.entry(unescape(key)).or_default().push(text(value));
        }
    }
    if wanted.name.is_empty() {
        if wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty() {
            return Ok(None);
        }
        return Err(ApiError::bad_request(format!(
            "requested {} without impersonating a user name",
            go_syntax(&wanted)
        )));
    }
    Ok(Some(wanted))
}

/// A key of `extra`, percent-decoded; one that isn't well encoded stays as it is.
fn unescape(key: &str) -> String {
    let malformed =
        key.split('%').skip(1).any(|part| !(part.len() >= 2 && part.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit)));
    if malformed { key.to_owned() } else { percent_decode_str(key).decode_utf8_lossy().into_owned() }
}

/// The user as Go's `%#v` prints it.
fn go_syntax(user: &UserInfo) -> String {
    let list = |items: &[String]| items.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(", ");
    let strings = |items: &[String]| {
        if items.is_empty() { "[]string(nil)".to_owned() } else { format!("[]string{{{}}}", list(items)) }
    };
    let extra = if user.extra.is_empty() {
        "map[string][]string(nil)".to_owned()
    } else {
        let entries: Vec<String> =
            user.extra.iter().map(|(key, values)| format!("{key:?}:{}", strings(values))).collect();
        format!("map[string][]string{{{}}}", entries.join(", "))
    };
    format!(
        "&user.DefaultInfo{{Name:{:?}, UID:{:?}, Groups:{}, Extra:{extra}}}",
        user.name,
        user.uid,
        strings(&user.groups)
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A service account as the node that its pod runs on.
    AssociatedNode,
    /// Any node.
    ArbitraryNode,
    /// Any service account.
    ServiceAccount,
    /// Anyone else.
    UserInfo,
    /// Anyone, as it always was.
    Legacy,
}

impl Mode {
    const ALL: [Self; 5] =
        [Self::AssociatedNode, Self::ArbitraryNode, Self::ServiceAccount, Self::UserInfo, Self::Legacy];

    fn word(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
            Self::Legacy => "",
        }
    }

    /// Whether the mode is made for this user at all.
    fn serves(self, wanted: &UserInfo, requestor: &UserInfo) -> bool {
        let only_name = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let (node, account) = (split_node_user(&wanted.name), split_service_account(&wanted.name));
        match self {
            Self::AssociatedNode => {
                only_name
                    && node.is_some()
                    && split_service_account(&requestor.name).is_some()
                    && requestor.extra_value(NODE_NAME) == node
            }
            Self::ArbitraryNode => only_name && node.is_some(),
            Self::ServiceAccount => only_name && account.is_some(),
            Self::UserInfo => node.is_none() && account.is_none(),
            Self::Legacy => true,
        }
    }

    fn check(
        self,
        wanted: &UserInfo,
        attributes: &Attributes<'_>,
        authorizer: &dyn Authorizer,
    ) -> Result<UserInfo, ApiError> {
        // A service account must be allowed this for any node of its pods, so its own node is kept out of the question.
        let requestor = if self == Self::AssociatedNode {
            let keys = attributes.user.extra.keys().cloned().collect();
            &UserInfo {
                extra: BTreeMap::from([("authentication.kubernetes.io/associated-node-keys".to_owned(), keys)]),
                ..attributes.user.clone()
            }
        } else {
            attributes.user
        };
        let constrained = self != Self::Legacy;
        let verb = if constrained { format!("impersonate:{}", self.word()) } else { "impersonate".to_owned() };
        if constrained {
            let on = format!("impersonate-on:{}:{}", self.word(), attributes.verb);
            authorizer.check(&Attributes { user: requestor, verb: &on, ..*attributes })?;
        }
        Question { requestor, verb: &verb, constrained, any_node: self == Self::AssociatedNode, authorizer }.ask(wanted)
    }
}

/// The questions to the authorizer for each part of the wanted user.
struct Question<'a> {
    requestor: &'a UserInfo,
    verb: &'a str,
    constrained: bool,
    any_node: bool,
    authorizer: &'a dyn Authorizer,
}

impl Question<'_> {
    fn ask(&self, wanted: &UserInfo) -> Result<UserInfo, ApiError> {
        let mut user = wanted.clone();
        self.ask_name(wanted, &mut user)?;
        if !wanted.uid.is_empty() {
            self.authorizer.check(&self.about(AUTHENTICATION, "uids", &wanted.uid))?;
        }
        self.ask_groups(&wanted.groups)?;
        self.ask_extra(&wanted.extra)?;
        if user.name == ANONYMOUS {
            user.join(UNAUTHENTICATED);
        } else if !user.is_in(UNAUTHENTICATED) {
            user.join(AUTHENTICATED);
        }
        Ok(user)
    }

    fn about<'b>(&'b self, group: &'b str, resource: &'b str, name: &'b str) -> Attributes<'b> {
        Attributes { version: "v1", name, ..Attributes::resource(self.requestor, self.verb, group, resource) }
    }

    /// Users and groups were in the core group before there were modes.
    fn group_of_names(&self) -> &'static str {
        if self.constrained { AUTHENTICATION } else { "" }
    }

    fn ask_name(&self, wanted: &UserInfo, user: &mut UserInfo) -> Result<(), ApiError> {
        let group = self.group_of_names();
        if let Some((namespace, name)) = split_service_account(&wanted.name) {
            if wanted.groups.is_empty() {
                user.groups = service_account_groups(namespace);
            }
            return self.authorizer.check(&Attributes { namespace, ..self.about(group, "serviceaccounts", name) });
        }
        if let Some(node) = split_node_user(&wanted.name).filter(|_| self.constrained) {
            user.groups = vec![NODES.to_owned()];
            return self.authorizer.check(&self.about(group, "nodes", if self.any_node { "*" } else { node }));
        }
        self.authorizer.check(&self.about(group, "users", &wanted.name))
    }

    fn ask_groups(&self, groups: &[String]) -> Result<(), ApiError> {
        let about = |name| self.about(self.group_of_names(), "groups", name);
        if self.constrained {
            if groups.iter().any(String::is_empty) {
                return Err(about("").forbidden("impersonating the empty string group is not allowed"));
            }
            if groups.iter().any(|group| group == MASTERS) {
                return Err(about(MASTERS).forbidden("impersonating the system:masters group is not allowed"));
            }
            if groups.len() >= MANY && self.authorizer.authorize(&about("*")).is_allow() {
                return Ok(());
            }
        }
        groups.iter().try_for_each(|group| self.authorizer.check(&about(group)))
    }

    fn ask_extra(&self, extra: &BTreeMap<String, Vec<String>>) -> Result<(), ApiError> {
        let about = |key, value| Attributes { subresource: key, ..self.about(AUTHENTICATION, "userextras", value) };
        if self.constrained && !extra.is_empty() {
            check_extra(extra).map_err(|reason| about("", "").forbidden(&reason))?;
            let values: usize = extra.values().map(Vec::len).sum();
            if (extra.len() >= MANY || values >= MANY) && self.authorizer.authorize(&about("*", "*")).is_allow() {
                return Ok(());
            }
        }
        extra
            .iter()
            .flat_map(|(key, values)| values.iter().map(move |value| (key, value)))
            .try_for_each(|(key, value)| self.authorizer.check(&about(key, value)))
    }
}

fn check_extra(extra: &BTreeMap<String, Vec<String>>) -> Result<(), String> {
    for (key, values) in extra {
        let refusal = if key.is_empty() {
            "impersonating the empty string key in extra is not allowed".to_owned()
        } else if !key.split_once('/').is_some_and(|(domain, path)| !domain.is_empty() && !path.is_empty()) {
            format!(
                "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: {key:?}: must be a domain-prefixed path (such as \"acme.io/foo\")"
            )
        } else if key.to_lowercase() != *key {
            format!("impersonating a non-lowercase key in extra is not allowed: {key:?}")
        } else if values.is_empty() {
            "impersonating empty values in extra is not allowed".to_owned()
        } else if values.iter().any(String::is_empty) {
            "impersonating the empty string value in extra is not allowed".to_owned()
        } else {
            continue;
        };
        return Err(refusal);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::attributes::Decision;

    /// Allows what its lines say: `verb group/resource/subresource namespace name`.
    struct Allows(&'static [&'static str]);

    impl Authorizer for Allows {
        fn authorize(&self, a: &Attributes<'_>) -> Decision {
            let line = format!("{} {}/{}/{} {} {}", a.verb, a.group, a.resource, a.subresource, a.namespace, a.name);
            if self.0.contains(&line.as_str()) { Decision::allow("") } else { Decision::no_opinion("") }
        }
    }

    fn run(allows: &'static [&'static str], headers: &[(&str, &str)]) -> Result<Option<UserInfo>, String> {
        let admin = UserInfo::new("admin", ["g"]);
        let mut map = HeaderMap::new();
        map.insert("accept", http::HeaderValue::from_static("x"));
        for (name, value) in headers {
            map.append(http::HeaderName::from_bytes(name.as_bytes()).expect("a name"), value.parse().expect("a value"));
        }
        let attributes = Attributes { namespace: "ns", ..Attributes::resource(&admin, "list", "", "pods") };
        let user = impersonate(&mut map, &attributes, &Allows(allows)).map_err(|error| error.message)?;
        assert_eq!(map.len(), 1, "the headers are taken off");
        Ok(user)
    }

    fn user(name: &str, groups: &[&str]) -> Option<UserInfo> {
        Some(UserInfo::new(name, groups.iter().copied()))
    }

    #[test]
    fn the_old_verb_allows_each_part_for_itself() {
        type Case<'c> = (&'static [&'static str], &'c [(&'c str, &'c str)], Result<Option<UserInfo>, &'c str>);
        let cases: [Case<'_>; 7] = [
            (&[], &[], Ok(None)),
            (&["impersonate /users/  ann"], &[("Impersonate-User", "ann")], Ok(user("ann", &["system:authenticated"]))),
            (
                &["impersonate /users/  system:anonymous"],
                &[("Impersonate-User", "system:anonymous")],
                Ok(user("system:anonymous", &["system:unauthenticated"])),
            ),
            (
                &["impersonate /users/  ann", "impersonate /groups/  dev"],
                &[("Impersonate-User", "ann"), ("Impersonate-Group", "dev")],
                Ok(user("ann", &["dev", "system:authenticated"])),
            ),
            (
                &["impersonate /serviceaccounts/ ns bot"],
                &[("Impersonate-User", "system:serviceaccount:ns:bot")],
                Ok(user(
                    "system:serviceaccount:ns:bot",
                    &["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"],
                )),
            ),
            (
                &[],
                &[("Impersonate-Group", "g")],
                Err(
                    "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"g\"}, Extra:map[string][]string(nil)} without impersonating a user name",
                ),
            ),
            (
                &[],
                &[("Impersonate-Uid", "1"), ("Impersonate-Extra-Example.org%2fx", "v")],
                Err(
                    "requested &user.DefaultInfo{Name:\"\", UID:\"1\", Groups:[]string(nil), Extra:map[string][]string{\"example.org/x\":[]string{\"v\"}}} without impersonating a user name",
                ),
            ),
        ];
        for (allows, headers, expect) in cases {
            assert_eq!(run(allows, headers), expect.map_err(str::to_owned), "{headers:?}");
        }
        let refused = run(&["impersonate /users/  ann"], &[("Impersonate-User", "ann"), ("Impersonate-Group", "dev")])
            .expect_err("refused");
        assert_eq!(
            refused,
            r#"pods is forbidden: User "admin" cannot impersonate-on:user-info:list resource "pods" in API group "" in the namespace "ns""#
        );
    }

    #[test]
    fn constrained_modes_ask_for_the_mode_and_for_the_deed() {
        let ann: &'static [&'static str] =
            &["impersonate-on:user-info:list /pods/ ns ", "impersonate:user-info authentication.k8s.io/users/  ann"];
        assert_eq!(run(ann, &[("Impersonate-User", "ann")]), Ok(user("ann", &["system:authenticated"])));
        let refused = run(ann, &[("Impersonate-User", "ann"), ("Impersonate-Group", MASTERS)]).expect_err("refused");
        assert_eq!(
            refused,
            r#"groups.authentication.k8s.io "system:masters" is forbidden: User "admin" cannot impersonate:user-info resource "groups" in API group "authentication.k8s.io" at the cluster scope: impersonating the system:masters group is not allowed"#
        );
        let node: &'static [&'static str] = &[
            "impersonate-on:arbitrary-node:list /pods/ ns ",
            "impersonate:arbitrary-node authentication.k8s.io/nodes/  n1",
        ];
        assert_eq!(
            run(node, &[("Impersonate-User", "system:node:n1")]),
            Ok(user("system:node:n1", &["system:nodes", "system:authenticated"]))
        );
    }
}
