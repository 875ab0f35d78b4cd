//! Names of resources as users type them: plural, singular, short, with or without version and group.

use std::collections::HashMap;

use serde_json::Value;

use super::Cluster;
use crate::error::{CliError, CliResult};

/// A resource as discovery tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceInfo {
    /// Empty for the core group.
    pub group: String,
    /// `v1`.
    pub version: String,
    /// `Pod`.
    pub kind: String,
    /// `pods`.
    pub plural: String,
    /// `pod`.
    pub singular: String,
    /// `po`.
    pub short_names: Vec<String>,
    /// `all`.
    pub categories: Vec<String>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// `get`, `list`, …
    pub verbs: Vec<String>,
    /// `status`, `scale`, …
    pub subresources: Vec<String>,
    /// Whether the version is the group's preferred one.
    pub preferred: bool,
}

impl ResourceInfo {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pods` or `deployments.apps`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `pod` or `deployment.apps`: as commands show it before a name.
    pub fn shown(&self) -> String {
        let singular = if self.singular.is_empty() { self.kind.to_lowercase() } else { self.singular.clone() };
        if self.group.is_empty() { singular } else { format!("{singular}.{}", self.group) }
    }

    /// The path of all its objects, of a namespace's (where it has any), or of one of them.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if let Some(namespace) = namespace.filter(|_| self.namespaced) {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(&self.plural);
        if let Some(name) = name {
            path.push('/');
            path.push_str(name);
        }
        path
    }

    /// Whether it has a verb.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|there| there == verb)
    }
}

/// All resources of a cluster.
pub struct Mapper {
    resources: Vec<ResourceInfo>,
    by_name: HashMap<String, Vec<usize>>,
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

impl Mapper {
    /// Asks the cluster which resources it has.
    pub async fn discover(cluster: &Cluster) -> CliResult<Self> {
        let (core, groups) =
            futures::try_join!(cluster.get_as("/api", AGGREGATED), cluster.get_as("/apis", AGGREGATED))?;
        let mut resources = Vec::new();
        for list in [&core, &groups] {
            if list["kind"] == "APIGroupDiscoveryList" {
                resources.extend(list["items"].as_array().into_iter().flatten().flat_map(aggregated));
            } else {
                resources.extend(unaggregated(cluster, list).await?);
            }
        }
        Ok(Self::new(resources))
    }

    /// A mapper of these, in discovery's order.
    pub fn new(resources: Vec<ResourceInfo>) -> Self {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, resource) in resources.iter().enumerate() {
            let kind = resource.kind.to_lowercase();
            let mut names: Vec<&str> = vec![&resource.plural, &resource.singular, &kind];
            names.extend(resource.short_names.iter().map(String::as_str));
            names.sort_unstable();
            names.dedup();
            for name in names.into_iter().filter(|name| !name.is_empty()) {
                by_name.entry(name.to_owned()).or_default().push(index);
            }
        }
        Self { resources, by_name }
    }

    /// All resources.
    pub fn resources(&self) -> &[ResourceInfo] {
        &self.resources
    }

    /// A resource by what a user typed: `po`, `deployments.apps`, `deploy.v1.apps`, `Deployment`.
    pub fn resolve(&self, typed: &str) -> CliResult<&ResourceInfo> {
        let lower = typed.to_lowercase();
        let mut parts = lower.splitn(2, '.');
        let name = parts.next().unwrap_or_default();
        let rest = parts.next().unwrap_or_default();
        let candidates = self.by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        let found = candidates.iter().map(|index| &self.resources[*index]).filter(|resource| {
            rest.is_empty()
                || resource.group == rest
                || rest == resource.version && resource.group.is_empty()
                || rest == format!("{}.{}", resource.version, resource.group)
                || !resource.group.is_empty() && resource.group.starts_with(rest)
        });
        // The group's preferred version, unless one is named; among groups discovery's order decides.
        let mut best: Option<&ResourceInfo> = None;
        for resource in found {
            let names_version = rest.starts_with(&resource.version);
            let better = match best {
                None => true,
                Some(best) => best.group == resource.group && !best.preferred && (resource.preferred || names_version),
            };
            if better {
                best = Some(resource);
            }
        }
        best.ok_or_else(|| CliError::usage(format!("the server doesn't have a resource type \"{typed}\"")))
    }

    /// The resources of a category such as `all`; none when it isn't one.
    pub fn category(&self, name: &str) -> Vec<&ResourceInfo> {
        let in_it = |resource: &&ResourceInfo| resource.preferred && resource.categories.iter().any(|it| it == name);
        self.resources.iter().filter(in_it).collect()
    }

    /// The resource of an object.
    pub fn of_object(&self, object: &Value) -> CliResult<&ResourceInfo> {
        let api_version = object["apiVersion"].as_str().unwrap_or_default();
        let kind = object["kind"].as_str().unwrap_or_default();
        let found =
            self.resources.iter().find(|resource| resource.kind == kind && resource.api_version() == api_version);
        found.ok_or_else(|| {
            CliError::usage(format!(
                "resource mapping not found for name: \"{}\" namespace: \"{}\" from \"\": no matches for kind \"{kind}\" \
                 in version \"{api_version}\"\nensure CRDs are installed first",
                object["metadata"]["name"].as_str().unwrap_or_default(),
                object["metadata"]["namespace"].as_str().unwrap_or_default(),
            ))
        })
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// The resources of one group of an `APIGroupDiscoveryList`.
fn aggregated(group: &Value) -> Vec<ResourceInfo> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for (index, version) in group["versions"].as_array().into_iter().flatten().enumerate() {
        for resource in version["resources"].as_array().into_iter().flatten() {
            let subresources = resource["subresources"].as_array().into_iter().flatten();
            found.push(ResourceInfo {
                group: text(&group["metadata"]["name"]),
                version: text(&version["version"]),
                kind: text(&resource["responseKind"]["kind"]),
                plural: text(&resource["resource"]),
                singular: text(&resource["singularResource"]),
                short_names: texts(&resource["shortNames"]),
                categories: texts(&resource["categories"]),
                namespaced: resource["scope"] == "Namespaced",
                verbs: texts(&resource["verbs"]),
                subresources: subresources.map(|sub| text(&sub["subresource"])).collect(),
                preferred: index == 0,
            });
        }
    }
    found
}

/// The same from a server that can't aggregate: `/api` and `/apis` name versions, each of which is asked.
async fn unaggregated(cluster: &Cluster, list: &Value) -> CliResult<Vec<ResourceInfo>> {
    let mut versions: Vec<(String, String, String, bool)> = Vec::new();
    for version in texts(&list["versions"]) {
        versions.push((String::new(), version.clone(), format!("/api/{version}"), true));
    }
    for group in list["groups"].as_array().into_iter().flatten() {
        for version in group["versions"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let full = text(&version["groupVersion"]);
            let preferred = version["groupVersion"] == group["preferredVersion"]["groupVersion"];
            versions.push((text(&group["name"]), text(&version["version"]), format!("/apis/{full}"), preferred));
        }
    }
    let mut found: Vec<ResourceInfo> = Vec::new();
    for (group, version, path, preferred) in versions {
        let list = cluster.get(&path).await?;
        for resource in list["resources"].as_array().into_iter().flatten() {
            let name = resource["name"].as_str().unwrap_or_default();
            if let Some((parent, sub)) = name.split_once('/') {
                let of =
                    |info: &&mut ResourceInfo| info.plural == parent && info.group == group && info.version == version;
                if let Some(info) = found.iter_mut().find(of) {
                    info.subresources.push(sub.to_owned());
                }
                continue;
            }
            found.push(ResourceInfo {
                group: group.clone(),
                version: version.clone(),
                kind: resource["kind"].as_str().unwrap_or_default().to_owned(),
                plural: name.to_owned(),
                singular: resource["singularName"].as_str().unwrap_or_default().to_owned(),
                short_names: texts(&resource["shortNames"]),
                categories: texts(&resource["categories"]),
                namespaced: resource["namespaced"] == true,
                verbs: texts(&resource["verbs"]),
                subresources: Vec::new(),
                preferred,
            });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapper() -> Mapper {
        let info =
            |group: &str, version: &str, plural: &str, kind: &str, short: &[&str], preferred: bool| ResourceInfo {
                group: group.to_owned(),
                version: version.to_owned(),
                kind: kind.to_owned(),
                plural: plural.to_owned(),
                singular: kind.to_lowercase(),
                short_names: short.iter().map(|name| (*name).to_owned()).collect(),
                namespaced: true,
                preferred,
                ..ResourceInfo::default()
            };
        Mapper::new(vec![
            info("", "v1", "events", "Event", &["ev"], true),
            info("", "v1", "pods", "Pod", &["po"], true),
            info("apps", "v1", "deployments", "Deployment", &["deploy"], true),
            info("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", &["hpa"], true),
            info("autoscaling", "v1", "horizontalpodautoscalers", "HorizontalPodAutoscaler", &["hpa"], false),
            info("events.k8s.io", "v1", "events", "Event", &["ev"], true),
        ])
    }

    #[test]
    fn names_as_users_type_them() {
        let mapper = mapper();
        let cases = [
            ("po", "v1 pods"),
            ("Pod", "v1 pods"),
            ("deploy", "apps/v1 deployments"),
            ("deployments.apps", "apps/v1 deployments"),
            ("deployments.v1.apps", "apps/v1 deployments"),
            ("hpa", "autoscaling/v2 horizontalpodautoscalers"),
            ("hpa.v1.autoscaling", "autoscaling/v1 horizontalpodautoscalers"),
            ("ev", "v1 events"),
            ("events.events.k8s.io", "events.k8s.io/v1 events"),
        ];
        for (typed, expected) in cases {
            let found = mapper.resolve(typed).expect(typed);
            assert_eq!(format!("{} {}", found.api_version(), found.plural), expected, "{typed}");
        }
        let error = mapper.resolve("foos").expect_err("no such type");
        assert_eq!(error.to_string(), "error: the server doesn't have a resource type \"foos\"");
    }

    #[test]
    fn paths() {
        let mapper = mapper();
        let pods = mapper.resolve("pods").expect("pods");
        assert_eq!(pods.path(Some("ns"), Some("p")), "/api/v1/namespaces/ns/pods/p");
        assert_eq!(pods.path(None, None), "/api/v1/pods");
        let deployments = mapper.resolve("deploy").expect("deployments");
        assert_eq!(deployments.path(Some("ns"), None), "/apis/apps/v1/namespaces/ns/deployments");
    }
}
