//! `gantry api-resources` and `gantry api-versions`.

use crate::cluster::flags::ClusterFlags;
use crate::cluster::mapper::Mapper;
use crate::commands::get::print;
use crate::error::{CliError, CliResult};
use crate::output::table::Table;

/// Print the supported API resources on the server.
#[derive(clap::Args)]
pub struct Args {
    /// Limit to resources in the specified API group
    #[arg(long, value_name = "GROUP")]
    api_group: Option<String>,
    /// If false, non-namespaced resources will be returned, otherwise returning namespaced resources by default
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    namespaced: Option<bool>,
    /// Limit to resources that support the specified verbs
    #[arg(long, value_delimiter = ',', value_name = "VERB")]
    verbs: Vec<String>,
    /// Limit to resources that belong to the specified categories
    #[arg(long, value_delimiter = ',', value_name = "CATEGORY")]
    categories: Vec<String>,
    /// Output format: wide or name
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<String>,
    /// When using the default output format, don't print headers
    #[arg(long)]
    no_headers: bool,
    /// If non-empty, sort list of resources using specified field: name or kind
    #[arg(long, value_name = "FIELD")]
    sort_by: Option<String>,
}

/// Prints the resources.
pub async fn run(flags: &ClusterFlags, args: Args) -> CliResult {
    let cluster = flags.connect().await?;
    let mapper = Mapper::discover(&cluster).await?;
    let mut resources: Vec<_> = mapper
        .resources()
        .iter()
        .filter(|resource| resource.preferred && !resource.verbs.is_empty())
        .filter(|resource| args.api_group.as_ref().is_none_or(|group| *group == resource.group))
        .filter(|resource| args.namespaced.is_none_or(|namespaced| namespaced == resource.namespaced))
        .filter(|resource| args.verbs.iter().all(|verb| resource.can(verb)))
        .filter(|resource| args.categories.iter().all(|category| resource.categories.contains(category)))
        .collect();
    match args.sort_by.as_deref() {
        None | Some("") => {
            resources.sort_by(|a, b| (&a.group, &a.plural).cmp(&(&b.group, &b.plural)));
        }
        Some("name") => resources.sort_by(|a, b| a.plural.cmp(&b.plural)),
        Some("kind") => resources.sort_by(|a, b| a.kind.cmp(&b.kind)),
        Some(_) => return Err(CliError::usage("--sort-by accepts only name or kind")),
    }
    match args.output.as_deref() {
        Some("name") => {
            let names: String = resources.iter().map(|resource| format!("{}\n", resource.qualified())).collect();
            print(&names)
        }
        None | Some("" | "wide") => {
            let wide = args.output.as_deref() == Some("wide");
            let mut headers = vec!["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"];
            if wide {
                headers.extend(["VERBS", "CATEGORIES"]);
            }
            let mut table = Table::new(headers);
            for resource in resources {
                let mut cells = vec![
                    resource.plural.clone(),
                    resource.short_names.join(","),
                    resource.api_version(),
                    resource.namespaced.to_string(),
                    resource.kind.clone(),
                ];
                if wide {
                    cells.extend([resource.verbs.join(","), resource.categories.join(",")]);
                }
                table.row(cells);
            }
            print(&table.render(!args.no_headers))
        }
        Some(other) => Err(CliError::usage(format!("--output {other} is not available"))),
    }
}
