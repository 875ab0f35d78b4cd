//! The table of resources, a row each, read from `data/resources.toml`. Routing, discovery, storage and the printed
//! names of errors all come from these rows.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// What a client may do to a resource, in discovery's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// POST.
    Create,
    /// DELETE on an object.
    Delete,
    /// DELETE on a collection.
    DeleteCollection,
    /// GET on an object.
    Get,
    /// GET on a collection.
    List,
    /// PATCH.
    Patch,
    /// PUT.
    Update,
    /// GET with `watch=true`.
    Watch,
}

impl Verb {
    /// All of them, in discovery's order.
    pub const ALL: [Self; 8] = [
        Self::Create,
        Self::Delete,
        Self::DeleteCollection,
        Self::Get,
        Self::List,
        Self::Patch,
        Self::Update,
        Self::Watch,
    ];

    /// The word in discovery documents and RBAC rules.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Get => "get",
            Self::List => "list",
            Self::Patch => "patch",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }
}

/// A subresource such as `status` or `scale`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// The path segment after the object's name.
    pub name: String,
    /// Group of its kind; with an empty `version` it is the resource's own group and version.
    pub group: String,
    /// Version of its kind; empty when it is the resource's own.
    pub version: String,
    /// The kind of what is read from it or written to it.
    pub kind: String,
    /// What a client may do to it.
    pub verbs: Vec<Verb>,
}

/// Names the stored objects that a resource shows; two rows with the same key show the same objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StorageKey {
    /// API group of the version that is stored.
    pub group: String,
    /// The version that is stored.
    pub version: String,
    /// Plural name of the resource.
    pub plural: String,
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// The kind of its objects.
    pub kind: String,
    /// The kind of its lists.
    pub list_kind: String,
    /// The path segment, `pods`.
    pub plural: String,
    /// `pod`.
    pub singular: String,
    /// Other names for the command line.
    pub short_names: Vec<String>,
    /// Sets it belongs to, such as `all`.
    pub categories: Vec<String>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What a client may do to it.
    pub verbs: Vec<Verb>,
    /// What lies below its objects.
    pub subresources: Vec<Subresource>,
    /// The key of its kind in the schema; empty for custom resources, which bring their own.
    pub definition: String,
    /// Which stored objects it shows.
    pub storage: StorageKey,
    /// Stored and served, but nothing acts on its objects yet.
    pub inert: bool,
    /// What every request on it is warned with; empty for what isn't deprecated.
    pub deprecation: String,
}

impl Resource {
    /// `apps/v1`, or `v1` for the core group: the `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        group_version(&self.group, &self.version)
    }

    /// `deployments.apps`, or `pods` for the core group: how errors call it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// A subresource by name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    /// Whether discovery offers the verb.
    pub fn allows(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    /// Whether its objects are kept in the store: not so for reviews, bindings and component statuses.
    pub fn is_stored(&self) -> bool {
        self.allows(Verb::Watch)
    }

    /// Whether its objects are stored in another group or version than its own, so that they need a conversion.
    pub fn is_converted(&self) -> bool {
        self.storage.group != self.group || self.storage.version != self.version
    }
}

/// `group/version`, or the version alone for the core group.
pub fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Splits an `apiVersion` into group and version.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

#[derive(Debug, Default)]
struct Names {
    by_plural: HashMap<String, usize>,
    by_kind: HashMap<String, usize>,
}

/// All resources, with indices by group, version and name.
#[derive(Debug, Default)]
pub struct ResourceTable {
    rows: Vec<Resource>,
    groups: HashMap<String, HashMap<String, Names>>,
}

impl ResourceTable {
    /// The resources that every server has.
    pub fn builtin() -> &'static ResourceTable {
        static TABLE: LazyLock<ResourceTable> = LazyLock::new(|| {
            let file: File = toml::from_str(include_str!("../data/resources.toml"))
                .expect("data/resources.toml is checked by a test");
            ResourceTable::new(file.resource.into_iter().map(Row::resource).collect())
        });
        &TABLE
    }

    /// A table of these rows, in this order.
    pub fn new(rows: Vec<Resource>) -> Self {
        let mut groups: HashMap<String, HashMap<String, Names>> = HashMap::new();
        for (index, row) in rows.iter().enumerate() {
            let names = groups.entry(row.group.clone()).or_default().entry(row.version.clone()).or_default();
            names.by_plural.insert(row.plural.clone(), index);
            names.by_kind.insert(row.kind.clone(), index);
        }
        Self { rows, groups }
    }

    fn names(&self, group: &str, version: &str) -> Option<&Names> {
        self.groups.get(group)?.get(version)
    }

    /// The resource of this plural name.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Resource> {
        self.names(group, version)?.by_plural.get(plural).map(|&index| &self.rows[index])
    }

    /// The resource with objects of this kind.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Resource> {
        self.names(group, version)?.by_kind.get(kind).map(|&index| &self.rows[index])
    }

    /// The resource in whose group and version a resource's objects are stored: mostly itself.
    pub fn storage_of<'a>(&'a self, resource: &'a Resource) -> &'a Resource {
        let key = &resource.storage;
        self.get(&key.group, &key.version, &key.plural).unwrap_or(resource)
    }

    /// All rows, in discovery's order of groups.
    pub fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.rows.iter()
    }

    /// The groups in discovery's order, the core group (empty) first.
    pub fn groups(&self) -> Vec<&str> {
        let mut groups: Vec<&str> = Vec::new();
        for row in &self.rows {
            if groups.last() != Some(&row.group.as_str()) && !groups.contains(&row.group.as_str()) {
                groups.push(&row.group);
            }
        }
        groups
    }

    /// The versions of a group, the preferred one first; empty for an unknown group.
    pub fn versions(&self, group: &str) -> Vec<&str> {
        let mut versions: Vec<&str> = Vec::new();
        for row in self.rows.iter().filter(|row| row.group == group) {
            if !versions.contains(&row.version.as_str()) {
                versions.push(&row.version);
            }
        }
        versions
    }

    /// The rows of a group and version, in order; empty for an unknown one.
    pub fn of_version<'a>(&'a self, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Resource> {
        self.rows.iter().filter(move |row| row.group == group && row.version == version)
    }
}

#[derive(Deserialize)]
struct File {
    resource: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    group: String,
    version: String,
    plural: String,
    kind: String,
    #[serde(default)]
    namespaced: bool,
    #[serde(default)]
    short: Vec<String>,
    #[serde(default)]
    categories: Vec<String>,
    verbs: Option<Vec<Verb>>,
    #[serde(default)]
    inert: bool,
    storage: Option<String>,
    #[serde(default)]
    deprecation: String,
    #[serde(default)]
    sub: Vec<SubRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SubRow {
    name: String,
    verbs: Vec<Verb>,
    kind: Option<String>,
}

impl Row {
    fn resource(self) -> Resource {
        let subresources = self
            .sub
            .into_iter()
            .map(|sub| {
                let full = sub.kind.unwrap_or_else(|| self.kind.clone());
                let mut parts = full.rsplitn(3, '/');
                let kind = parts.next().unwrap_or_default().to_owned();
                let version = parts.next().unwrap_or_default().to_owned();
                let group = parts.next().unwrap_or_default().to_owned();
                Subresource { name: sub.name, group, version, kind, verbs: sub.verbs }
            })
            .collect();
        let storage = match self.storage {
            Some(path) => {
                let mut parts = path.splitn(3, '/').map(str::to_owned);
                let mut next = || parts.next().unwrap_or_default();
                StorageKey { group: next(), version: next(), plural: next() }
            }
            None => {
                StorageKey { group: self.group.clone(), version: self.version.clone(), plural: self.plural.clone() }
            }
        };
        Resource {
            definition: crate::schema::definition_of(&self.group, &self.version, &self.kind)
                .unwrap_or_default()
                .to_owned(),
            list_kind: format!("{}List", self.kind),
            singular: self.kind.to_lowercase(),
            group: self.group,
            version: self.version,
            plural: self.plural,
            kind: self.kind,
            short_names: self.short,
            categories: self.categories,
            namespaced: self.namespaced,
            verbs: self.verbs.unwrap_or_else(|| Verb::ALL.to_vec()),
            subresources,
            storage,
            inert: self.inert,
            deprecation: self.deprecation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_plural_and_by_kind() {
        let table = ResourceTable::builtin();
        let cases = [
            ("", "v1", "pods", "Pod", "pods", "v1"),
            ("apps", "v1", "deployments", "Deployment", "deployments.apps", "apps/v1"),
            (
                "rbac.authorization.k8s.io",
                "v1",
                "roles",
                "Role",
                "roles.rbac.authorization.k8s.io",
                "rbac.authorization.k8s.io/v1",
            ),
        ];
        for (group, version, plural, kind, qualified, api_version) in cases {
            let row = table.get(group, version, plural).expect(plural);
            assert_eq!(
                (row.kind.as_str(), row.qualified().as_str(), row.api_version().as_str()),
                (kind, qualified, api_version)
            );
            assert_eq!(table.by_kind(group, version, kind), Some(row));
        }
        assert_eq!(table.get("apps", "v9", "deployments"), None);
        assert_eq!(table.versions("autoscaling"), ["v2", "v1"]);
        assert_eq!(table.groups()[..3], ["", "apiregistration.k8s.io", "apps"]);
    }

    #[test]
    fn every_row_has_a_definition() {
        for row in ResourceTable::builtin().iter() {
            assert!(!row.definition.is_empty(), "{} has no definition", row.qualified());
        }
    }

    #[test]
    fn events_and_autoscalers_share_their_storage() {
        let table = ResourceTable::builtin();
        let events = table.get("events.k8s.io", "v1", "events").expect("a row");
        assert_eq!(table.storage_of(events).group, "");
        assert!(events.is_converted());
        let old = table.get("autoscaling", "v1", "horizontalpodautoscalers").expect("a row");
        assert_eq!(table.storage_of(old).version, "v2");
        let token =
            table.get("", "v1", "serviceaccounts").and_then(|row| row.subresource("token")).expect("a subresource");
        assert_eq!(
            (token.group.as_str(), token.version.as_str(), token.kind.as_str()),
            ("authentication.k8s.io", "v1", "TokenRequest")
        );
    }
}
