//! `gantry logs`: what containers print.

use serde_json::Value;
use tokio::io::AsyncBufReadExt;

use crate::cluster::flags::{ClusterFlags, parse_duration};
use crate::cluster::{Cluster, with_query};
use crate::commands::get::print;
use crate::commands::pods::{containers, default_container, of_selector, of_target};
use crate::error::{CliError, CliResult};

/// Print the logs for a container in a pod or specified resource.
#[derive(clap::Args)]
pub struct Args {
    /// POD or TYPE/NAME
    #[arg(value_name = "POD|TYPE/NAME", required_unless_present = "selector", add = crate::complete::pods())]
    target: Option<String>,
    /// The container
    #[arg(value_name = "CONTAINER")]
    container_argument: Option<String>,
    /// Print the logs of this container
    #[arg(short, long)]
    container: Option<String>,
    /// Get all containers' logs in the pod(s)
    #[arg(long)]
    all_containers: bool,
    /// Specify if the logs should be streamed
    #[arg(short, long)]
    follow: bool,
    /// If true, print the logs for the previous instance of the container in a pod if it exists
    #[arg(short, long)]
    previous: bool,
    /// Only return logs newer than a relative duration like 5s, 2m, or 3h
    #[arg(long, conflicts_with = "since_time")]
    since: Option<String>,
    /// Only return logs after a specific date (RFC3339)
    #[arg(long)]
    since_time: Option<String>,
    /// Lines of recent log file to display; -1 shows all lines, and with a selector the default is 10
    #[arg(long, allow_negative_numbers = true)]
    tail: Option<i64>,
    /// Include timestamps on each line in the log output
    #[arg(long)]
    timestamps: bool,
    /// Selector (label query) to filter on
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Prefix each log line with the log source (pod name and container name)
    #[arg(long)]
    prefix: bool,
    /// Maximum bytes of logs to return; 0 means no limit
    #[arg(long, default_value_t = 0)]
    limit_bytes: u64,
    /// Specify maximum number of concurrent logs to follow when using by a selector
    #[arg(long, default_value_t = 5)]
    max_log_requests: usize,
    /// If watching / following pod logs, allow for any errors that occur to be non-fatal
    #[arg(long)]
    ignore_errors: bool,
}

/// Prints them.
pub async fn run(flags: &ClusterFlags, args: Args) -> CliResult {
    if args.container.is_some() && args.container_argument.is_some() {
        return Err(CliError::usage("only one of -c or an inline [CONTAINER] arg is allowed"));
    }
    if args.selector.is_some() && args.target.is_some() {
        return Err(CliError::usage("only a selector (-l) or a POD name is allowed"));
    }
    let query = query(&args)?;
    let cluster = flags.connect().await?;
    let pods = match (&args.selector, &args.target) {
        (Some(selector), _) => of_selector(&cluster, selector).await?,
        (_, Some(target)) => vec![of_target(&cluster, target).await?],
        _ => Vec::new(),
    };
    if pods.is_empty() {
        return print(&format!("No resources found in {} namespace.\n", cluster.namespace));
    }
    let mut sources = Vec::new();
    for pod in &pods {
        let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
        for container in chosen(pod, &args)? {
            sources.push((pod_name.to_owned(), container));
        }
    }
    if !args.follow {
        for (pod, container) in &sources {
            show(&cluster, &args, &query, pod, container).await?;
        }
        return Ok(());
    }
    if sources.len() > args.max_log_requests {
        return Err(CliError::usage(format!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {}, use --max-log-requests \
             to increase the limit",
            sources.len(),
            args.max_log_requests
        )));
    }
    let all = sources.iter().map(|(pod, container)| show(&cluster, &args, &query, pod, container));
    futures::future::try_join_all(all).await.map(drop)
}

/// The containers whose logs are printed.
fn chosen(pod: &Value, args: &Args) -> CliResult<Vec<String>> {
    if args.all_containers {
        return Ok(containers(pod));
    }
    let named = args.container.as_ref().or(args.container_argument.as_ref());
    default_container(pod, named.map(String::as_str)).map(|name| vec![name])
}

type Query = Vec<(&'static str, Option<String>)>;

fn query(args: &Args) -> CliResult<Query> {
    let flag = |set: bool| set.then(|| "true".to_owned());
    let since = match &args.since {
        Some(text) => Some(
            parse_duration(text)
                .ok_or_else(|| CliError::usage(format!("invalid argument \"{text}\" for \"--since\" flag")))?,
        ),
        None => None,
    };
    let tail = args.tail.or(args.selector.as_ref().filter(|_| !args.follow).map(|_| 10)).filter(|lines| *lines >= 0);
    Ok(vec![
        ("follow", flag(args.follow)),
        ("previous", flag(args.previous)),
        ("timestamps", flag(args.timestamps)),
        ("sinceSeconds", since.map(|since| since.as_secs_f64().ceil().to_string())),
        ("sinceTime", args.since_time.clone()),
        ("tailLines", tail.map(|lines| lines.to_string())),
        ("limitBytes", Some(args.limit_bytes).filter(|bytes| *bytes > 0).map(|bytes| bytes.to_string())),
    ])
}

async fn show(cluster: &Cluster, args: &Args, query: &Query, pod: &str, container: &str) -> CliResult {
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/log", cluster.namespace);
    let path = with_query(&path, query.iter().cloned().chain([("container", Some(container.to_owned()))]));
    let prefix = if args.prefix { format!("[pod/{pod}/{container}] ") } else { String::new() };
    match lines(cluster, &path, &prefix).await {
        Err(error) if args.ignore_errors && !matches!(error, CliError::Exit(_)) => {
            eprintln!("{prefix}{error}");
            Ok(())
        }
        other => other,
    }
}

/// Passes the log on line by line, bytes that aren't UTF-8 shown as such.
async fn lines(cluster: &Cluster, path: &str, prefix: &str) -> CliResult {
    let mut stream = cluster.stream(path, "text/plain,*/*").await?;
    let mut line = Vec::new();
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        print(&format!("{prefix}{}", String::from_utf8_lossy(&line)))?;
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn queries() {
        let cases = [
            ("web", ""),
            ("web -f --tail=5", "follow=true&tailLines=5"),
            ("web -p --since=1m --timestamps", "previous=true&timestamps=true&sinceSeconds=60"),
            ("-l app=web", "tailLines=10"),
            ("-l app=web --tail=-1 --limit-bytes=7", "limitBytes=7"),
        ];
        for (line, expected) in cases {
            let args = Line::try_parse_from(["logs"].into_iter().chain(line.split_whitespace()))
                .unwrap_or_else(|error| panic!("{line}: {error}"))
                .args;
            let path = with_query("", query(&args).expect("a query"));
            assert_eq!(path.trim_start_matches('?'), expected, "{line}");
        }
    }
}
