//! Where objects lie in the store: upstream's layout below `/registry/`.

use gantry_api::resources::Resource;

/// What all keys start with.
pub const ROOT: &str = "/registry/";

/// The prefix of a stored resource's keys, with the slash at its end.
///
/// Upstream leaves the group out for its own resources, and a few have historical names.
pub fn prefix(resource: &Resource) -> String {
    let key = &resource.storage;
    let place = match (key.group.as_str(), key.plural.as_str()) {
        ("", "nodes") => "minions".to_owned(),
        ("", "replicationcontrollers") => "controllers".to_owned(),
        ("", "services") => "services/specs".to_owned(),
        ("", "endpoints") => "services/endpoints".to_owned(),
        ("networking.k8s.io", "ingresses") => "ingress".to_owned(),
        (group @ ("apiextensions.k8s.io" | "apiregistration.k8s.io"), plural) => format!("{group}/{plural}"),
        (_, plural) => plural.to_owned(),
    };
    format!("{ROOT}{place}/")
}

/// The key of an object below its resource's prefix.
pub fn relative(namespaced: bool, namespace: &str, name: &str) -> String {
    if namespaced { format!("{namespace}/{name}") } else { name.to_owned() }
}

/// The prefix of the keys that hold the node ports of services.
pub const NODE_PORTS: &str = "/registry/ranges/nodeports/";

/// The key that holds a node port of a service.
pub fn node_port(port: u16) -> String {
    format!("{NODE_PORTS}{port}")
}

#[cfg(test)]
mod tests {
    use gantry_api::resources::ResourceTable;

    use super::*;

    #[test]
    fn keys_lie_where_upstream_puts_them() {
        let table = ResourceTable::builtin();
        let cases = [
            ("", "v1", "pods", "/registry/pods/"),
            ("", "v1", "nodes", "/registry/minions/"),
            ("", "v1", "services", "/registry/services/specs/"),
            ("events.k8s.io", "v1", "events", "/registry/events/"),
            ("apps", "v1", "deployments", "/registry/deployments/"),
        ];
        for (group, version, plural, expect) in cases {
            let resource = table.get(group, version, plural).expect("a built-in resource");
            assert_eq!(prefix(resource), expect);
        }
    }

    #[test]
    fn no_two_stored_resources_share_a_prefix() {
        let mut seen = std::collections::HashMap::new();
        for resource in ResourceTable::builtin().iter().filter(|resource| resource.is_stored()) {
            let other = seen.insert(prefix(resource), resource.storage.clone());
            assert!(other.is_none_or(|other| other == resource.storage), "{}", resource.qualified());
        }
    }
}
