//! What a request wants to do, and what an authorizer says to it.

use gantry_api::error::ApiError;

use super::user::UserInfo;

/// The attributes of a request that authorizers look at, as upstream's `authorizer.Attributes`.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// `get`, `list`, … for resources; the HTTP method in lower case for other paths.
    pub verb: &'a str,
    /// API group, empty for the core group.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Plural name of the resource.
    pub resource: &'a str,
    /// Subresource, empty for none.
    pub subresource: &'a str,
    /// Name of the object, empty for collections (and creates).
    pub name: &'a str,
    /// Namespace, empty for cluster scope and for all namespaces.
    pub namespace: &'a str,
    /// Whether the request is for a resource; otherwise only `path` counts.
    pub resource_request: bool,
    /// The path of the URL.
    pub path: &'a str,
    /// The field selector of a list, watch or deletecollection as the client wrote it.
    pub field_selector: &'a str,
    /// The label selector likewise.
    pub label_selector: &'a str,
}

impl<'a> Attributes<'a> {
    /// A request for a path that is no resource.
    pub fn non_resource(user: &'a UserInfo, verb: &'a str, path: &'a str) -> Self {
        Self { path, resource_request: false, ..Self::empty(user, verb) }
    }

    /// A request for a resource; the remaining fields are set by struct update.
    pub fn resource(user: &'a UserInfo, verb: &'a str, group: &'a str, resource: &'a str) -> Self {
        Self { group, resource, ..Self::empty(user, verb) }
    }

    fn empty(user: &'a UserInfo, verb: &'a str) -> Self {
        Self {
            user,
            verb,
            group: "",
            version: "",
            resource: "",
            subresource: "",
            name: "",
            namespace: "",
            resource_request: true,
            path: "",
            field_selector: "",
            label_selector: "",
        }
    }

    /// The 403 for this request, with upstream's sentence.
    pub fn forbidden(&self, reason: &str) -> ApiError {
        let mut cause = self.sentence();
        if !reason.is_empty() {
            cause.push_str(": ");
            cause.push_str(reason);
        }
        ApiError::forbidden((self.group, self.resource), self.name, cause)
    }

    fn sentence(&self) -> String {
        let (user, verb) = (&self.user.name, self.verb);
        if !self.resource_request {
            return format!("User {user:?} cannot {verb} path {:?}", self.path);
        }
        let resource = match self.subresource {
            "" => self.resource.to_owned(),
            subresource => format!("{}/{subresource}", self.resource),
        };
        let scope = match self.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        format!("User {user:?} cannot {verb} resource {resource:?} in API group {:?} {scope}", self.group)
    }
}

/// An authorizer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go ahead; no other authorizer is asked.
    Allow {
        /// Why, for reviews; may be empty.
        reason: String,
    },
    /// Refused; no other authorizer is asked.
    Deny {
        /// Why; may be empty.
        reason: String,
    },
    /// Ask the next one; refused when there is none.
    NoOpinion {
        /// Why; may be empty.
        reason: String,
    },
}

impl Decision {
    /// Allowed for this reason.
    pub fn allow(reason: impl Into<String>) -> Self {
        Self::Allow { reason: reason.into() }
    }

    /// No opinion for this reason.
    pub fn no_opinion(reason: impl Into<String>) -> Self {
        Self::NoOpinion { reason: reason.into() }
    }

    /// Whether the request may go ahead.
    pub fn is_allow(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }

    /// Why, empty when nothing is to be said.
    pub fn reason(&self) -> &str {
        match self {
            Self::Allow { reason } | Self::Deny { reason } | Self::NoOpinion { reason } => reason,
        }
    }
}

/// Decides on requests. Never blocks and does no I/O: it is asked for every request.
pub trait Authorizer: Send + Sync {
    /// The decision on a request.
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision;

    /// The decision as a result: the 403 that the client gets.
    fn check(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        match self.authorize(attributes) {
            Decision::Allow { .. } => Ok(()),
            Decision::Deny { reason } | Decision::NoOpinion { reason } => Err(attributes.forbidden(&reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_upstream_writes_them() {
        let ann = UserInfo::new("ann", ["g"]);
        let pods = Attributes { namespace: "ns", ..Attributes::resource(&ann, "list", "", "pods") };
        let scale = Attributes {
            namespace: "ns",
            name: "d",
            subresource: "scale",
            ..Attributes::resource(&ann, "get", "apps", "deployments")
        };
        let node = Attributes { name: "x", ..Attributes::resource(&ann, "get", "", "nodes") };
        let cases = [
            (
                pods,
                "",
                r#"pods is forbidden: User "ann" cannot list resource "pods" in API group "" in the namespace "ns""#,
            ),
            (
                scale,
                "",
                r#"deployments.apps "d" is forbidden: User "ann" cannot get resource "deployments/scale" in API group "apps" in the namespace "ns""#,
            ),
            (
                node,
                "why",
                r#"nodes "x" is forbidden: User "ann" cannot get resource "nodes" in API group "" at the cluster scope: why"#,
            ),
            (
                Attributes::non_resource(&ann, "get", "/metrics"),
                "",
                r#"forbidden: User "ann" cannot get path "/metrics""#,
            ),
        ];
        for (attributes, reason, expect) in cases {
            let error = attributes.forbidden(reason);
            assert_eq!((error.code, error.message.as_str()), (403, expect));
        }
    }
}
