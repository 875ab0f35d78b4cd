//! Completion of names as they are typed, out of the cluster itself. A cluster that doesn't answer at once completes
//! nothing.

use std::ffi::OsStr;
use std::time::Duration;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};

use crate::cluster::flags::ClusterFlags;
use crate::cluster::mapper::Mapper;
use crate::error::CliResult;

/// How long a cluster may take: a person waits.
const ANSWER_MAX: Duration = Duration::from_millis(800);

/// Completes `TYPE`, `TYPE/NAME`, and `NAME` after a type.
pub fn resources() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let current = current.to_string_lossy().into_owned();
        let words: Vec<String> = std::env::args().collect();
        ask(async move { resource_words(&current, &words).await })
    })
}

/// Completes names of namespaces.
pub fn namespaces() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let current = current.to_string_lossy().into_owned();
        ask(async move { names("namespaces", None, &current).await })
    })
}

/// Completes names of pods, and `TYPE/NAME` of what has pods.
pub fn pods() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let current = current.to_string_lossy().into_owned();
        let words: Vec<String> = std::env::args().collect();
        ask(async move {
            if current.contains('/') {
                resource_words(&current, &words).await
            } else {
                names("pods", namespace_of(&words), &current).await
            }
        })
    })
}

fn ask(question: impl Future<Output = CliResult<Vec<String>>>) -> Vec<CompletionCandidate> {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let answer = runtime.block_on(async { tokio::time::timeout(ANSWER_MAX, question).await });
    match answer {
        Ok(Ok(words)) => words.into_iter().map(CompletionCandidate::new).collect(),
        _ => Vec::new(),
    }
}

/// The namespace among words that aren't parsed yet.
fn namespace_of(words: &[String]) -> Option<String> {
    let after = |flag: &str| words.iter().position(|word| word == flag).and_then(|index| words.get(index + 1)).cloned();
    let joined = words.iter().find_map(|word| word.strip_prefix("--namespace=").map(str::to_owned));
    after("-n").or_else(|| after("--namespace")).or(joined)
}

async fn names(plural: &str, namespace: Option<String>, prefix: &str) -> CliResult<Vec<String>> {
    let flags = ClusterFlags { namespace, request_timeout: "1s".to_owned(), ..ClusterFlags::default() };
    let cluster = flags.connect().await?;
    let mapper = Mapper::discover(&cluster).await?;
    let resource = mapper.resolve(plural)?;
    let list = cluster.get(&resource.path(Some(&cluster.namespace), None)).await?;
    let names = list["items"].as_array().into_iter().flatten().filter_map(|item| item["metadata"]["name"].as_str());
    Ok(names.filter(|name| name.starts_with(prefix)).map(str::to_owned).collect())
}

async fn resource_words(current: &str, words: &[String]) -> CliResult<Vec<String>> {
    if let Some((kind, prefix)) = current.split_once('/') {
        let found = names(kind, namespace_of(words), prefix).await?;
        return Ok(found.into_iter().map(|name| format!("{kind}/{name}")).collect());
    }
    let flags = ClusterFlags { request_timeout: "1s".to_owned(), ..ClusterFlags::default() };
    let cluster = flags.connect().await?;
    let mapper = Mapper::discover(&cluster).await?;
    // After a type come names of that type.
    if let Some(kind) = words.iter().rev().skip(1).find(|word| mapper.resolve(word).is_ok()) {
        return names(kind, namespace_of(words), current).await;
    }
    let mut found: Vec<String> = mapper
        .resources()
        .iter()
        .filter(|resource| resource.preferred && resource.can("list"))
        .flat_map(|resource| std::iter::once(&resource.plural).chain(&resource.short_names))
        .filter(|name| name.starts_with(current))
        .cloned()
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}
