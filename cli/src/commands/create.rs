//! `gantry create`: objects from files, or of a few kinds from flags.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cluster::flags::{ClusterFlags, parse_duration};
use crate::cluster::manifests::FileFlags;
use crate::cluster::mapper::{Mapper, ResourceInfo};
use crate::cluster::{Cluster, with_query};
use crate::commands::change::{ChangeFlags, DryRun, place};
use crate::commands::create_data::{DataFlags, config_map, docker_config, secret, tls_secret};
use crate::commands::create_role::{BindingFlags, RoleFlags, binding, rules};
use crate::commands::get::print;
use crate::error::{CliError, CliResult};

const MANAGER: &str = "kubectl-create";

/// Create a resource from a file or from stdin.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(flatten)]
    files: FileFlags,
    #[command(flatten)]
    change: ChangeFlags,
    #[command(subcommand)]
    kind: Option<Kind>,
}

/// A name and the flags that all kinds have.
#[derive(clap::Args)]
struct Basic {
    /// The object's name
    name: String,
    #[command(flatten)]
    change: ChangeFlags,
}

#[derive(clap::Subcommand)]
enum Kind {
    /// Create a namespace with the specified name
    #[command(visible_alias = "ns")]
    Namespace(Basic),
    /// Create a service account with the specified name
    #[command(visible_alias = "sa", name = "serviceaccount")]
    ServiceAccount(Basic),
    /// Create a deployment with the specified name
    #[command(visible_alias = "deploy")]
    Deployment {
        #[command(flatten)]
        basic: Basic,
        /// Image names to run; a deployment can have multiple images set for multiple containers
        #[arg(long, required = true)]
        image: Vec<String>,
        /// The containerPort that this deployment exposes
        #[arg(long)]
        port: Option<u16>,
        /// Number of replicas to create
        #[arg(short, long, default_value_t = 1)]
        replicas: u32,
        /// The containers' command
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Create a config map from a local file, directory or literal value
    #[command(visible_alias = "cm", name = "configmap")]
    ConfigMap {
        #[command(flatten)]
        basic: Basic,
        #[command(flatten)]
        data: DataFlags,
    },
    /// Create a secret using a specified subcommand
    #[command(subcommand)]
    Secret(Secret),
    /// Create a service using a specified subcommand
    #[command(visible_alias = "svc", subcommand)]
    Service(Service),
    /// Create a role with single rule
    Role {
        #[command(flatten)]
        basic: Basic,
        #[command(flatten)]
        role: RoleFlags,
    },
    /// Create a cluster role
    #[command(name = "clusterrole")]
    ClusterRole {
        #[command(flatten)]
        basic: Basic,
        #[command(flatten)]
        role: RoleFlags,
        /// A partial url that user should have access to
        #[arg(long = "non-resource-url", value_delimiter = ',')]
        non_resource_urls: Vec<String>,
    },
    /// Create a role binding for a particular role or cluster role
    #[command(name = "rolebinding")]
    RoleBinding {
        #[command(flatten)]
        basic: Basic,
        #[command(flatten)]
        binding: BindingFlags,
        /// Role this RoleBinding should reference
        #[arg(long)]
        role: Option<String>,
    },
    /// Create a cluster role binding for a particular cluster role
    #[command(name = "clusterrolebinding")]
    ClusterRoleBinding {
        #[command(flatten)]
        basic: Basic,
        #[command(flatten)]
        binding: BindingFlags,
    },
    /// Request a service account token
    Token {
        /// The service account's name
        name: String,
        /// Requested lifetime of the issued token
        #[arg(long)]
        duration: Option<String>,
        /// Audience of the requested token
        #[arg(long)]
        audience: Vec<String>,
    },
}

#[derive(clap::Subcommand)]
enum Secret {
    /// Create a secret from a local file, directory, or literal value
    Generic {
        #[command(flatten)]
        basic: Basic,
        #[command(flatten)]
        data: DataFlags,
        /// The type of secret to create
        #[arg(long = "type", default_value = "Opaque")]
        kind: String,
    },
    /// Create a secret for use with a Docker registry
    DockerRegistry {
        #[command(flatten)]
        basic: Basic,
        /// Server location for Docker registry
        #[arg(long, default_value = "https://index.docker.io/v1/")]
        docker_server: String,
        /// Username for Docker registry authentication
        #[arg(long)]
        docker_username: String,
        /// Password for Docker registry authentication
        #[arg(long)]
        docker_password: String,
        /// Email for Docker registry
        #[arg(long)]
        docker_email: Option<String>,
    },
    /// Create a TLS secret
    Tls {
        #[command(flatten)]
        basic: Basic,
        /// Path to PEM encoded public key certificate
        #[arg(long)]
        cert: PathBuf,
        /// Path to private key associated with given certificate
        #[arg(long)]
        key: PathBuf,
    },
}

#[derive(clap::Args)]
struct Ports {
    /// Port pairs can be specified as '<port>:<targetPort>'
    #[arg(long, value_delimiter = ',')]
    tcp: Vec<String>,
}

#[derive(clap::Subcommand)]
enum Service {
    /// Create a ClusterIP service
    #[command(name = "clusterip")]
    ClusterIp {
        #[command(flatten)]
        basic: Basic,
        #[command(flatten)]
        ports: Ports,
        /// Assign your own ClusterIP or set to 'None' for a 'headless' service
        #[arg(long)]
        clusterip: Option<String>,
    },
    /// Create a NodePort service
    #[command(name = "nodeport")]
    NodePort {
        #[command(flatten)]
        basic: Basic,
        #[command(flatten)]
        ports: Ports,
        /// Port used to expose the service on each node in a cluster
        #[arg(long)]
        node_port: Option<u16>,
    },
    /// Create a LoadBalancer service
    #[command(name = "loadbalancer")]
    LoadBalancer {
        #[command(flatten)]
        basic: Basic,
        #[command(flatten)]
        ports: Ports,
    },
    /// Create an ExternalName service
    #[command(name = "externalname")]
    ExternalName {
        #[command(flatten)]
        basic: Basic,
        #[command(flatten)]
        ports: Ports,
        /// External name of service
        #[arg(long)]
        external_name: String,
    },
}

/// Creates what was asked for.
pub async fn run(flags: &ClusterFlags, args: Args) -> CliResult {
    let mut flags = flags.clone();
    // For bindings `--user` names a subject, as in kubectl.
    let bound = match &args.kind {
        Some(Kind::RoleBinding { .. } | Kind::ClusterRoleBinding { .. }) => flags.user.take(),
        _ => None,
    };
    let cluster = flags.connect().await?;
    let Some(kind) = args.kind else {
        return from_files(&cluster, &args.files, &args.change).await;
    };
    let (resource, object, change) = match kind {
        Kind::Token { name, duration, audience } => {
            return token(&cluster, &name, duration.as_deref(), &audience).await;
        }
        Kind::Namespace(basic) => {
            let object = object("v1", "Namespace", &basic.name, json!({"spec": {}, "status": {}}));
            (builtin("", "Namespace", "namespaces", false), object, basic.change)
        }
        Kind::ServiceAccount(basic) => {
            let object = object("v1", "ServiceAccount", &basic.name, json!({}));
            (builtin("", "ServiceAccount", "serviceaccounts", true), object, basic.change)
        }
        Kind::Deployment { basic, image, port, replicas, command } => {
            let object = deployment(&basic.name, &image, port, replicas, &command)?;
            (builtin("apps", "Deployment", "deployments", true), object, basic.change)
        }
        Kind::ConfigMap { basic, data } => {
            let object = object("v1", "ConfigMap", &basic.name, config_map(&data.read()?));
            (builtin("", "ConfigMap", "configmaps", true), object, basic.change)
        }
        Kind::Secret(kind) => {
            let (basic, rest) = match kind {
                Secret::Generic { basic, data, kind } => {
                    let rest = secret(&data.read()?, (kind != "Opaque").then_some(kind.as_str()));
                    (basic, rest)
                }
                Secret::DockerRegistry { basic, docker_server, docker_username, docker_password, docker_email } => {
                    let email = docker_email.as_deref();
                    (basic, docker_config(&docker_server, &docker_username, &docker_password, email)?)
                }
                Secret::Tls { basic, cert, key } => (basic, tls_secret(&cert, &key)?),
            };
            (builtin("", "Secret", "secrets", true), object("v1", "Secret", &basic.name, rest), basic.change)
        }
        Kind::Service(service) => {
            let (object, change) = service_object(service)?;
            (builtin("", "Service", "services", true), object, change)
        }
        Kind::Role { basic, role } => {
            let rules = rules(&Mapper::discover(&cluster).await?, &role, &[])?;
            let object = object("rbac.authorization.k8s.io/v1", "Role", &basic.name, json!({"rules": rules}));
            (builtin("rbac.authorization.k8s.io", "Role", "roles", true), object, basic.change)
        }
        Kind::ClusterRole { basic, role, non_resource_urls } => {
            let rules = rules(&Mapper::discover(&cluster).await?, &role, &non_resource_urls)?;
            let object = object("rbac.authorization.k8s.io/v1", "ClusterRole", &basic.name, json!({"rules": rules}));
            (builtin("rbac.authorization.k8s.io", "ClusterRole", "clusterroles", false), object, basic.change)
        }
        Kind::RoleBinding { basic, binding: flags, role } => {
            let rest = binding(&flags, role.as_deref(), bound.as_ref())?;
            let object = object("rbac.authorization.k8s.io/v1", "RoleBinding", &basic.name, rest);
            (builtin("rbac.authorization.k8s.io", "RoleBinding", "rolebindings", true), object, basic.change)
        }
        Kind::ClusterRoleBinding { basic, binding: flags } => {
            let rest = binding(&flags, None, bound.as_ref())?;
            let object = object("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", &basic.name, rest);
            (
                builtin("rbac.authorization.k8s.io", "ClusterRoleBinding", "clusterrolebindings", false),
                object,
                basic.change,
            )
        }
    };
    create(&cluster, &resource, object, &change).await
}

fn builtin(group: &str, kind: &str, plural: &str, namespaced: bool) -> ResourceInfo {
    ResourceInfo {
        group: group.to_owned(),
        version: "v1".to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        namespaced,
        ..ResourceInfo::default()
    }
}

fn object(api_version: &str, kind: &str, name: &str, rest: Value) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
    for (field, value) in rest.as_object().into_iter().flatten() {
        object[field] = value.clone();
    }
    object
}

async fn from_files(cluster: &Cluster, files: &FileFlags, change: &ChangeFlags) -> CliResult {
    if files.is_empty() {
        return Err(CliError::usage("must specify one of -f and -k"));
    }
    let manifests = files.read().await?;
    let mut mapper = Mapper::discover(cluster).await?;
    let mut failures = Vec::new();
    for manifest in manifests {
        // A definition that was created just before may have brought the kind.
        if mapper.of_object(&manifest.object).is_err() {
            mapper = Mapper::discover(cluster).await?;
        }
        let created = match mapper.of_object(&manifest.object) {
            Ok(resource) => create(cluster, resource, manifest.object.clone(), change).await,
            Err(error) => Err(error),
        };
        failures.extend(created.err());
    }
    CliError::gather(failures)
}

async fn create(cluster: &Cluster, resource: &ResourceInfo, mut object: Value, change: &ChangeFlags) -> CliResult {
    if change.dry_run == DryRun::Client {
        // As it will be sent: the namespace only where it was named.
        if cluster.namespace_given {
            place(cluster, resource, &mut object)?;
        }
        return change.report(resource, &object, "created");
    }
    let namespace = place(cluster, resource, &mut object)?;
    let mut query = change.query(MANAGER);
    query.push(("fieldValidation", Some("Strict".to_owned())));
    let created = cluster.post(&with_query(&resource.path(namespace.as_deref(), None), query), &object).await?;
    change.report(resource, &created, "created")
}

async fn token(cluster: &Cluster, name: &str, duration: Option<&str>, audiences: &[String]) -> CliResult {
    let mut spec = json!({"audiences": if audiences.is_empty() { Value::Null } else { audiences.into() }});
    if let Some(text) = duration {
        let duration = parse_duration(text)
            .ok_or_else(|| CliError::usage(format!("invalid argument \"{text}\" for \"--duration\" flag")))?;
        spec["expirationSeconds"] = duration.as_secs().into();
    }
    let accounts = builtin("", "ServiceAccount", "serviceaccounts", true);
    let path = format!("{}/token", accounts.path(Some(&cluster.namespace), Some(name)));
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let answer = cluster.post(&path, &request).await?;
    match answer["status"]["token"].as_str().filter(|token| !token.is_empty()) {
        Some(token) => print(&format!("{token}\n")),
        None => Err(CliError::usage("failed to create token: no token in server response")),
    }
}

/// A container's name from its image: the last part, without tag and digest, as a DNS label.
fn container_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or_default();
    let name = last.split([':', '@']).next().unwrap_or_default();
    name.to_lowercase().replace(['_', '.'], "-")
}

fn deployment(name: &str, images: &[String], port: Option<u16>, replicas: u32, command: &[String]) -> CliResult<Value> {
    if images.len() > 1 && !command.is_empty() {
        return Err(CliError::usage("cannot specify multiple --image options and command"));
    }
    let mut containers: Vec<Value> = Vec::new();
    for image in images {
        let mut own = container_name(image);
        let same = containers.iter().filter(|other| other["image"] != **image && other["name"] == *own).count();
        if same > 0 {
            own = format!("{own}-{same}");
        }
        let mut container = json!({"image": image, "name": own, "resources": {}});
        if !command.is_empty() {
            container["command"] = command.into();
        }
        containers.push(container);
    }
    if let (Some(port), Some(first)) = (port, containers.first_mut()) {
        first["ports"] = json!([{"containerPort": port}]);
    }
    let labels = json!({"app": name});
    Ok(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": labels}, "strategy": {},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
        },
        "status": {},
    }))
}

fn service_object(service: Service) -> CliResult<(Value, ChangeFlags)> {
    let (basic, ports, rest, required) = match service {
        Service::ClusterIp { basic, ports, clusterip } => {
            let headless = clusterip.as_deref() == Some("None");
            let mut rest = json!({"type": "ClusterIP"});
            if let Some(address) = clusterip {
                rest["clusterIP"] = address.into();
            }
            (basic, port_list(&ports.tcp, None)?, rest, !headless)
        }
        Service::NodePort { basic, ports, node_port } => {
            (basic, port_list(&ports.tcp, node_port)?, json!({"type": "NodePort"}), true)
        }
        Service::LoadBalancer { basic, ports } => {
            (basic, port_list(&ports.tcp, None)?, json!({"type": "LoadBalancer"}), true)
        }
        Service::ExternalName { basic, ports, external_name } => {
            let rest = json!({"type": "ExternalName", "externalName": external_name});
            (basic, port_list(&ports.tcp, None)?, rest, false)
        }
    };
    if required && ports.is_empty() {
        return Err(CliError::usage("at least one tcp port specifier must be provided"));
    }
    let labels = json!({"app": basic.name});
    let mut spec = rest;
    spec["selector"] = labels.clone();
    if !ports.is_empty() {
        spec["ports"] = ports.into();
    }
    let object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": basic.name, "labels": labels},
        "spec": spec, "status": {"loadBalancer": {}},
    });
    Ok((object, basic.change))
}

/// `80`, `80:8080`, `80:http`.
fn port_list(pairs: &[String], node_port: Option<u16>) -> CliResult<Vec<Value>> {
    let mut ports = Vec::new();
    for pair in pairs {
        let (port, target) = pair.split_once(':').unwrap_or((pair, pair));
        let number: u16 = port.parse().map_err(|_| {
            CliError::usage(format!("{port} is not a valid port number: it must be between 0 and 65535"))
        })?;
        let target = target.parse::<u16>().map_or_else(|_| json!(target), |number| json!(number));
        let mut entry =
            json!({"name": pair.replace(':', "-"), "port": number, "protocol": "TCP", "targetPort": target});
        if let Some(node_port) = node_port {
            entry["nodePort"] = node_port.into();
        }
        ports.push(entry);
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::yaml;

    #[test]
    fn a_deployment() {
        let object = deployment("web", &["registry.example/team/nginx:1.27".into()], Some(80), 2, &[]).expect("object");
        insta::assert_snapshot!(yaml::render(&object), @r"
        apiVersion: apps/v1
        kind: Deployment
        metadata:
          labels:
            app: web
          name: web
        spec:
          replicas: 2
          selector:
            matchLabels:
              app: web
          strategy: {}
          template:
            metadata:
              labels:
                app: web
            spec:
              containers:
              - image: registry.example/team/nginx:1.27
                name: nginx
                ports:
                - containerPort: 80
                resources: {}
        status: {}
        ");
    }

    #[test]
    fn flags_dont_clash_with_the_clusters() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            cluster: ClusterFlags,
            #[command(subcommand)]
            command: crate::commands::Command,
        }
        <Line as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn ports() {
        let ports = port_list(&["80:http".into(), "443".into()], None).expect("ports");
        assert_eq!(
            Value::from(ports),
            json!([
                {"name": "80-http", "port": 80, "protocol": "TCP", "targetPort": "http"},
                {"name": "443", "port": 443, "protocol": "TCP", "targetPort": 443},
            ])
        );
        assert!(port_list(&["x".into()], None).is_err());
    }
}
