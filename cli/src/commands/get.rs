//! `gantry get`: one or many resources.

use std::io::Write;

use serde_json::{Value, json};
use tokio::io::AsyncBufReadExt;

use crate::cluster::flags::ClusterFlags;
use crate::cluster::manifests::FileFlags;
use crate::cluster::mapper::{Mapper, ResourceInfo};
use crate::cluster::objects::{CHUNK, Named, SelectFlags, list, parse};
use crate::cluster::{Cluster, TABLE, with_query};
use crate::error::{CliError, CliResult};
use crate::output::format::{list_of, name_of, strip_managed_fields};
use crate::output::jsonpath::Template;
use crate::output::table::ServerTable;
use crate::output::{OutputFlags, OutputFormat};

/// Display one or many resources.
#[derive(clap::Args)]
pub struct Args {
    /// TYPE[,TYPE…] [NAME…] or TYPE/NAME…
    #[arg(value_name = "TYPE[/NAME]", add = crate::complete::resources())]
    resources: Vec<String>,
    #[command(flatten)]
    select: SelectFlags,
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    output: OutputFlags,
    /// After listing/getting the requested object, watch for changes
    #[arg(short, long)]
    watch: bool,
    /// Watch for changes to the requested object(s), without listing/getting first
    #[arg(long)]
    watch_only: bool,
    /// Output watch event objects when --watch or --watch-only is used
    #[arg(long)]
    output_watch_events: bool,
    /// When using the default or custom-column output format, don't print headers
    #[arg(long)]
    no_headers: bool,
    /// When printing, show all labels as the last column
    #[arg(long)]
    show_labels: bool,
    /// If present, list the resource type for the requested object(s)
    #[arg(long)]
    show_kind: bool,
    /// Accepts a comma separated list of labels that are going to be presented as columns
    #[arg(short = 'L', long, value_delimiter = ',', value_name = "LABEL")]
    label_columns: Vec<String>,
    /// If set to true, suppresses NotFound error for specific objects that do not exist
    #[arg(long)]
    ignore_not_found: bool,
    /// If non-empty, sort list types using this field specification, a JSONPath expression
    #[arg(long, value_name = "JSONPATH")]
    sort_by: Option<String>,
    /// If specified, gets the subresource of the requested object
    #[arg(long, value_name = "NAME")]
    subresource: Option<String>,
    /// Raw URI to request from the server
    #[arg(long, value_name = "URI")]
    raw: Option<String>,
}

/// Prints what was asked for.
pub async fn run(flags: &ClusterFlags, args: Args) -> CliResult {
    let cluster = flags.connect().await?;
    if let Some(path) = &args.raw {
        print(&cluster.get_text(path).await?)?;
        return Ok(());
    }
    let format = args.output.format()?;
    let mapper = Mapper::discover(&cluster).await?;
    let named = named(&mapper, &args).await?;
    if args.watch || args.watch_only {
        return watch(&cluster, &named, &args, &format).await;
    }
    match &format {
        OutputFormat::Table { wide } => tables(&cluster, &named, &args, *wide).await,
        format => objects(&cluster, &named, &args, format).await,
    }
}

async fn named(mapper: &Mapper, args: &Args) -> CliResult<Vec<Named>> {
    if args.files.is_empty() {
        if args.resources.is_empty() {
            return Err(CliError::usage(
                "Required resource not specified.\nUse \"gantry explain <resource>\" for a detailed description of that \
                 resource (e.g. gantry explain pods).\nSee 'gantry get -h' for help and examples",
            ));
        }
        return parse(mapper, &args.resources);
    }
    args.files
        .read()
        .await?
        .iter()
        .map(|manifest| {
            let name = manifest.object["metadata"]["name"].as_str().unwrap_or_default();
            Ok(Named::One(mapper.of_object(&manifest.object)?.clone(), name.to_owned()))
        })
        .collect()
}

/// Writes to standard output; a reader that has gone away ends us quietly.
pub fn print(text: &str) -> CliResult {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(CliError::Exit(0)),
        other => Ok(other?),
    }
}

impl Args {
    fn path(&self, cluster: &Cluster, named: &Named) -> String {
        match named {
            Named::All(resource) => {
                let mut query = self.select.query();
                query.push(("limit", Some(CHUNK.to_string())));
                with_query(&resource.path(self.select.namespace(cluster), None), query)
            }
            Named::One(resource, name) => {
                let path = resource.path(Some(&cluster.namespace), Some(name));
                match &self.subresource {
                    Some(subresource) => format!("{path}/{subresource}"),
                    None => path,
                }
            }
        }
    }

    fn printer<'a>(&'a self, kind: Option<&'a str>, wide: bool, namespaced: bool) -> ServerTable<'a> {
        ServerTable {
            wide,
            with_namespace: self.select.all_namespaces && namespaced,
            with_kind: kind,
            show_labels: self.show_labels,
            label_columns: &self.label_columns,
        }
    }

    fn check(&self, named: &[Named]) -> CliResult {
        let one = named.iter().any(|named| matches!(named, Named::One(..)));
        if one && self.select.all_namespaces {
            return Err(CliError::usage("a resource cannot be retrieved by name across all namespaces"));
        }
        if one && self.select.selects() {
            return Err(CliError::usage("name cannot be provided when a selector is specified"));
        }
        Ok(())
    }
}

/// All pages of a table as one.
async fn table(cluster: &Cluster, path: &str) -> CliResult<Value> {
    let mut whole = cluster.get_table(path).await?;
    let next = |table: &Value| table["metadata"]["continue"].as_str().filter(|it| !it.is_empty()).map(str::to_owned);
    let mut token = next(&whole);
    while let Some(current) = token {
        let mut page = cluster.get_table(&with_query(path, [("continue", Some(current))])).await?;
        token = next(&page);
        let rows = page["rows"].as_array_mut().map(std::mem::take).unwrap_or_default();
        if let Some(all) = whole["rows"].as_array_mut() {
            all.extend(rows);
        }
    }
    Ok(whole)
}

async fn tables(cluster: &Cluster, named: &[Named], args: &Args, wide: bool) -> CliResult {
    args.check(named)?;
    let several =
        named.iter().map(|named| named.resource().qualified()).collect::<std::collections::HashSet<_>>().len() > 1;
    let mut failures = Vec::new();
    // Objects of one resource that were asked for one by one make one table.
    let mut printed: Vec<(ResourceInfo, Value)> = Vec::new();
    for named in named {
        match table(cluster, &args.path(cluster, named)).await {
            Ok(mut found) => match printed.last_mut() {
                Some((resource, table)) if matches!(named, Named::One(..)) && resource == named.resource() => {
                    let rows = found["rows"].as_array_mut().map(std::mem::take).unwrap_or_default();
                    if let Some(all) = table["rows"].as_array_mut() {
                        all.extend(rows);
                    }
                }
                _ => printed.push((named.resource().clone(), found)),
            },
            Err(error) if error.is_not_found() && args.ignore_not_found => {}
            Err(error) => failures.push(error),
        }
    }
    let mut text = String::new();
    for (resource, mut table) in printed {
        if table["rows"].as_array().is_none_or(Vec::is_empty) {
            continue;
        }
        if let Some(expression) = &args.sort_by {
            sort_rows(&mut table, expression)?;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        let shown = resource.shown();
        let kind = (several || args.show_kind).then_some(shown.as_str());
        text.push_str(&args.printer(kind, wide, resource.namespaced).convert(&table).render(!args.no_headers));
    }
    if text.is_empty() && failures.is_empty() && !args.ignore_not_found {
        eprintln!("{}", nothing_found(cluster, named, args));
    }
    print(&text)?;
    CliError::gather(failures)
}

fn nothing_found(cluster: &Cluster, named: &[Named], args: &Args) -> String {
    if args.select.all_namespaces || named.iter().all(|named| !named.resource().namespaced) {
        "No resources found".to_owned()
    } else {
        format!("No resources found in {} namespace.", cluster.namespace)
    }
}

/// Sorts by what an expression finds: numbers, quantities and times by value, the rest by text.
fn sort_rows(table: &mut Value, expression: &str) -> CliResult {
    let template = sort_template(expression)?;
    if let Some(rows) = table["rows"].as_array_mut() {
        rows.sort_by(|a, b| compare(template.find(&a["object"]).first(), template.find(&b["object"]).first()));
    }
    Ok(())
}

fn sort_template(expression: &str) -> CliResult<Template> {
    let inner = expression.trim_start_matches('{').trim_end_matches('}');
    Template::parse(&format!("{{{}{inner}}}", if inner.starts_with('.') { "" } else { "." }))
}

fn compare(a: Option<&&Value>, b: Option<&&Value>) -> std::cmp::Ordering {
    let (Some(a), Some(b)) = (a, b) else { return a.is_some().cmp(&b.is_some()) };
    if let (Some(a), Some(b)) = (a.as_f64(), b.as_f64()) {
        return a.total_cmp(&b);
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let quantity = |value: &Value| value.as_str().and_then(|text| text.parse::<gantry_api::quantity::Quantity>().ok());
    match (quantity(a), quantity(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => text(a).cmp(&text(b)),
    }
}

async fn objects(cluster: &Cluster, named: &[Named], args: &Args, format: &OutputFormat) -> CliResult {
    args.check(named)?;
    let mut failures = Vec::new();
    let mut items: Vec<(ResourceInfo, Value)> = Vec::new();
    let mut single: Option<Value> = None;
    for one in named {
        match one {
            Named::All(resource) => {
                let mut found = list(cluster, resource, args.select.namespace(cluster), args.select.query()).await?;
                if let Some(expression) = &args.sort_by {
                    let template = sort_template(expression)?;
                    if let Some(items) = found["items"].as_array_mut() {
                        items.sort_by(|a, b| compare(template.find(a).first(), template.find(b).first()));
                    }
                }
                let found = found["items"].as_array().cloned().unwrap_or_default();
                items.extend(found.into_iter().map(|item| (resource.clone(), item)));
            }
            Named::One(resource, _) => match cluster.get(&args.path(cluster, one)).await {
                Ok(object) => {
                    if named.len() == 1 {
                        single = Some(object.clone());
                    }
                    items.push((resource.clone(), object));
                }
                Err(error) if error.is_not_found() && args.ignore_not_found => {}
                Err(error) => failures.push(error),
            },
        }
    }
    if matches!(format, OutputFormat::Name) {
        let names: String =
            items.iter().map(|(resource, item)| format!("{}\n", name_of(Some(resource), item))).collect();
        print(&names)?;
        return CliError::gather(failures);
    }
    let nothing = items.is_empty();
    let mut object = match single {
        Some(object) => object,
        None if nothing && (args.ignore_not_found || !failures.is_empty()) => return CliError::gather(failures),
        None => list_of(items.into_iter().map(|(_, item)| item).collect()),
    };
    if !args.output.show_managed_fields {
        strip_managed_fields(&mut object);
    }
    if nothing && matches!(format, OutputFormat::CustomColumns(_)) {
        eprintln!("{}", nothing_found(cluster, named, args));
        return CliError::gather(failures);
    }
    let text = format.render(None, &object)?;
    let cut = args.no_headers && matches!(format, OutputFormat::CustomColumns(_));
    print(if cut { text.split_once('\n').map_or("", |(_, rest)| rest) } else { &text })?;
    CliError::gather(failures)
}

/// Prints changes as they come, until the stream or the user ends it.
async fn watch(cluster: &Cluster, named: &[Named], args: &Args, format: &OutputFormat) -> CliResult {
    args.check(named)?;
    let [one] = named else {
        return Err(CliError::usage("you may only specify a single resource type"));
    };
    let resource = one.resource();
    let mut query = args.select.query();
    if let Named::One(_, name) = one {
        query.push(("fieldSelector", Some(format!("metadata.name={name}"))));
    }
    let namespace = args.select.namespace(cluster);
    let path = with_query(&resource.path(namespace, None), query);
    let accept = if format.is_table() { TABLE } else { "application/json" };
    let first = if format.is_table() { cluster.get_table(&path).await? } else { cluster.get(&path).await? };
    if let Named::One(resource, name) = one
        && first["rows"].as_array().or(first["items"].as_array()).is_none_or(Vec::is_empty)
    {
        // The same refusal as without a watch.
        cluster.get(&resource.path(Some(&cluster.namespace), Some(name))).await?;
    }
    let mut printer =
        WatchPrinter { args, format, resource, columns: Value::Null, widths: Vec::new(), headed: args.no_headers };
    if !args.watch_only {
        if format.is_table() {
            printer.rows("ADDED", &first)?;
        } else {
            for item in first["items"].as_array().into_iter().flatten() {
                let mut item = item.clone();
                item["kind"] = resource.kind.clone().into();
                item["apiVersion"] = resource.api_version().into();
                printer.object("ADDED", item)?;
            }
        }
    } else {
        printer.columns = first["columnDefinitions"].clone();
    }
    let mut version = first["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    loop {
        let from = [("watch", Some("true".to_owned())), ("resourceVersion", Some(version.clone()))];
        let stream = cluster.stream(&with_query(&path, from), accept).await?;
        let mut lines = stream.lines();
        let mut events = 0;
        while let Some(line) = lines.next_line().await? {
            let event: Value = serde_json::from_str(&line)?;
            let kind = event["type"].as_str().unwrap_or_default();
            let object = &event["object"];
            if kind == "ERROR" {
                return Err(CliError::from_status(
                    object["code"].as_u64().unwrap_or(500) as u16,
                    object.to_string().as_bytes(),
                ));
            }
            events += 1;
            let seen = object["metadata"]["resourceVersion"]
                .as_str()
                .or(object["rows"][0]["object"]["metadata"]["resourceVersion"].as_str());
            if let Some(seen) = seen.filter(|seen| !seen.is_empty()) {
                version = seen.to_owned();
            }
            match kind {
                "BOOKMARK" => {}
                _ if format.is_table() => printer.rows(kind, object)?,
                _ => printer.object(kind, object.clone())?,
            }
        }
        // A server ends watches after a while; one that ends them at once is in trouble.
        if events == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    }
}

struct WatchPrinter<'a> {
    args: &'a Args,
    format: &'a OutputFormat,
    resource: &'a ResourceInfo,
    /// A watch's tables name their columns only once.
    columns: Value,
    widths: Vec<usize>,
    headed: bool,
}

impl WatchPrinter<'_> {
    fn rows(&mut self, kind: &str, table: &Value) -> CliResult {
        if table["columnDefinitions"].as_array().is_some_and(|columns| !columns.is_empty()) {
            self.columns = table["columnDefinitions"].clone();
        }
        if table["rows"].as_array().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        let whole = json!({"columnDefinitions": self.columns, "rows": table["rows"]});
        let wide = matches!(self.format, OutputFormat::Table { wide: true });
        let shown = self.resource.shown();
        let kind_column = self.args.show_kind.then_some(shown.as_str());
        let converted = self.args.printer(kind_column, wide, self.resource.namespaced).convert(&whole);
        let converted =
            if self.args.output_watch_events { converted.with_first_column("EVENT", kind) } else { converted };
        let text = converted.render_widths(!self.headed, &mut self.widths);
        self.headed = true;
        print(&text)
    }

    fn object(&mut self, kind: &str, mut object: Value) -> CliResult {
        if !self.args.output.show_managed_fields {
            strip_managed_fields(&mut object);
        }
        let printed = if self.args.output_watch_events { json!({"type": kind, "object": object}) } else { object };
        let text = match self.format {
            OutputFormat::Name => format!("{}\n", name_of(Some(self.resource), &printed)),
            OutputFormat::Yaml => format!("{}---\n", self.format.render(Some(self.resource), &printed)?),
            OutputFormat::CustomColumns(_) => {
                let text = self.format.render(Some(self.resource), &printed)?;
                let cut = std::mem::replace(&mut self.headed, true);
                if cut { text.split_once('\n').map_or(String::new(), |(_, rest)| rest.to_owned()) } else { text }
            }
            _ => self.format.render(Some(self.resource), &printed)?,
        };
        print(&text)
    }
}
