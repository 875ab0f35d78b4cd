//! Finding the objects that a command line names: `TYPE`, `TYPE NAME…`, `TYPE/NAME…`, `TYPE,TYPE -l …`, `-f FILE`.

use serde_json::Value;

use super::mapper::{Mapper, ResourceInfo};
use super::{Cluster, with_query};
use crate::error::{CliError, CliResult};

/// How many objects one request of a list asks for; kubectl's default.
pub const CHUNK: usize = 500;

/// What a command line names.
#[derive(Clone, Debug, PartialEq)]
pub enum Named {
    /// All objects of a resource (that the selectors pick).
    All(ResourceInfo),
    /// One object.
    One(ResourceInfo, String),
}

impl Named {
    /// The resource.
    pub fn resource(&self) -> &ResourceInfo {
        match self {
            Self::All(resource) | Self::One(resource, _) => resource,
        }
    }
}

/// Reads the arguments after a command's name. Source: kubectl's resource builder.
pub fn parse(mapper: &Mapper, arguments: &[String]) -> CliResult<Vec<Named>> {
    let Some(first) = arguments.first() else {
        return Err(CliError::usage("You must specify the type of resource to get"));
    };
    if arguments.iter().any(|argument| argument.contains('/')) {
        return arguments
            .iter()
            .map(|argument| {
                let (kind, name) = argument.split_once('/').ok_or_else(|| {
                    CliError::usage(
                        "there is no need to specify a resource type as a separate argument when passing arguments in \
                         resource/name form (e.g. 'kubectl get resource/<resource_name>' instead of 'kubectl get \
                         resource resource/<resource_name>'",
                    )
                })?;
                if name.is_empty() || name.contains('/') {
                    return Err(CliError::usage("arguments in resource/name form may not have more than one slash"));
                }
                Ok(Named::One(mapper.resolve(kind)?.clone(), name.to_owned()))
            })
            .collect();
    }
    let mut resources = Vec::new();
    for name in first.split(',').filter(|name| !name.is_empty()) {
        let category = mapper.category(name);
        if category.is_empty() {
            resources.push(mapper.resolve(name)?.clone());
        } else {
            resources.extend(category.into_iter().cloned());
        }
    }
    let names = &arguments[1..];
    if names.is_empty() {
        return Ok(resources.into_iter().map(Named::All).collect());
    }
    let one = |resource: &ResourceInfo| {
        let resource = resource.clone();
        names.iter().map(move |name| Named::One(resource.clone(), name.clone())).collect::<Vec<_>>()
    };
    Ok(resources.iter().flat_map(one).collect())
}

/// Which objects of a resource.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct SelectFlags {
    /// Selector (label query) to filter on, supports '=', '==', '!=', 'in', 'notin' (e.g. -l key1=value1,key2=value2)
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Selector (field query) to filter on, supports '=', '==', and '!=' (e.g. --field-selector key1=value1)
    #[arg(long, value_name = "SELECTOR")]
    pub field_selector: Option<String>,
    /// If present, list the requested object(s) across all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

impl SelectFlags {
    /// Whether any selector was given.
    pub fn selects(&self) -> bool {
        self.selector.is_some() || self.field_selector.is_some()
    }

    /// The namespace to look in; none for all of them.
    pub fn namespace<'a>(&self, cluster: &'a Cluster) -> Option<&'a str> {
        (!self.all_namespaces).then_some(cluster.namespace.as_str())
    }

    /// The query of a list.
    pub fn query(&self) -> Vec<(&'static str, Option<String>)> {
        vec![("labelSelector", self.selector.clone()), ("fieldSelector", self.field_selector.clone())]
    }
}

/// All objects of a resource, in chunks; `items` of a list and the list's own metadata.
pub async fn list(
    cluster: &Cluster,
    resource: &ResourceInfo,
    namespace: Option<&str>,
    query: Vec<(&'static str, Option<String>)>,
) -> CliResult<Value> {
    let path = with_query(&resource.path(namespace, None), query);
    let mut whole: Option<Value> = None;
    let mut token: Option<String> = None;
    loop {
        let page = with_query(&path, [("limit", Some(CHUNK.to_string())), ("continue", token.take())]);
        let mut list = cluster.get(&page).await?;
        for item in list["items"].as_array_mut().into_iter().flatten() {
            // Items of a list don't say what they are.
            if item["kind"].is_null() {
                item["kind"] = resource.kind.clone().into();
                item["apiVersion"] = resource.api_version().into();
            }
        }
        let next = list["metadata"]["continue"].as_str().filter(|next| !next.is_empty()).map(str::to_owned);
        match &mut whole {
            None => whole = Some(list),
            Some(whole) => {
                let items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
                if let Some(all) = whole["items"].as_array_mut() {
                    all.extend(items);
                }
            }
        }
        match next {
            Some(next) => token = Some(next),
            None => break,
        }
    }
    let mut whole = whole.unwrap_or_default();
    if let Some(metadata) = whole["metadata"].as_object_mut() {
        metadata.remove("continue");
        metadata.remove("remainingItemCount");
    }
    Ok(whole)
}

/// The objects that a command line names, each with its resource.
pub async fn fetch(cluster: &Cluster, named: &[Named], select: &SelectFlags) -> CliResult<Vec<(ResourceInfo, Value)>> {
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for one in named {
        match one {
            Named::All(resource) => {
                let list = list(cluster, resource, select.namespace(cluster), select.query()).await?;
                let items = list["items"].as_array().cloned().unwrap_or_default();
                found.extend(items.into_iter().map(|item| (resource.clone(), item)));
            }
            Named::One(resource, name) => {
                match cluster.get(&resource.path(Some(&cluster.namespace), Some(name))).await {
                    Ok(object) => found.push((resource.clone(), object)),
                    Err(error) => failures.push(error),
                }
            }
        }
    }
    if failures.is_empty() || !found.is_empty() {
        for failure in failures {
            eprintln!("{failure}");
        }
        return Ok(found);
    }
    CliError::gather(failures).map(|()| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        let info = |plural: &str, kind: &str, category: &str| ResourceInfo {
            version: "v1".to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            singular: kind.to_lowercase(),
            categories: vec![category.to_owned()],
            preferred: true,
            ..ResourceInfo::default()
        };
        let mapper = Mapper::new(vec![
            info("pods", "Pod", "all"),
            info("services", "Service", "all"),
            info("nodes", "Node", ""),
        ]);
        let cases = [
            ("pods", Ok("pods/*")),
            ("pods a b", Ok("pods/a pods/b")),
            ("pod/a node/b", Ok("pods/a nodes/b")),
            ("pods,nodes", Ok("pods/* nodes/*")),
            ("all", Ok("pods/* services/*")),
            ("pod/a b", Err("there is no need")),
            ("", Err("You must specify the type")),
            ("x", Err("doesn't have a resource type \"x\"")),
        ];
        for (line, expected) in cases {
            let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let shown = parse(&mapper, &arguments).map(|named| {
                let show = |named: &Named| match named {
                    Named::All(resource) => format!("{}/*", resource.plural),
                    Named::One(resource, name) => format!("{}/{name}", resource.plural),
                };
                named.iter().map(show).collect::<Vec<_>>().join(" ")
            });
            match (shown, expected) {
                (Ok(shown), Ok(expected)) => assert_eq!(shown, expected, "{line}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{line}: {error}"),
                (shown, expected) => panic!("{line}: {shown:?} instead of {expected:?}"),
            }
        }
    }
}
