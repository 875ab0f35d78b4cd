//! The objects that exist from the start, as data, and how they are kept as they must be.
//!
//! - [`rbac`]: upstream's default roles and bindings, from `data/rbac-defaults.json`
//! - [`cluster`]: namespaces, the service `kubernetes`, priority classes, flow control; what a whole cluster adds
//! - [`reconcile`]: from what must be and what is to writes, and carrying them out
//!
//! The data files hold what upstream 1.36 was seen to create; a test compares them with the recorded objects.

pub mod cluster;
pub mod rbac;
pub mod reconcile;

use std::net::IpAddr;

use gantry_api::object::Object;
use gantry_api::resources::{Resource, ResourceTable, split_api_version};

pub use rbac::node_rules;
pub use reconcile::{Write, Writer, plan, run};

use crate::auth::UserInfo;
use crate::auth::user::MASTERS;

/// What the objects must say about this server.
#[derive(Clone, Debug)]
pub struct Options {
    /// The service network, `10.96.0.0/16`; one or, for both families, two.
    pub service_cidrs: Vec<String>,
    /// Its first address, that of the service `kubernetes`.
    pub service_address: IpAddr,
    /// Where the server can be reached.
    pub advertise_address: IpAddr,
    /// The port at which it listens.
    pub port: u16,
    /// The authority of client certificates, for extension servers.
    pub client_ca_pem: Option<String>,
    /// The authority of the front proxy, for extension servers.
    pub front_proxy_ca_pem: Option<String>,
    /// Set when a whole cluster runs, not an API server alone: then what an installer adds is there, too.
    pub cluster: Option<ClusterOptions>,
}

/// What an installer tells everyone about a cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// `https://host:port`.
    pub server: String,
    /// The authority that signed the server's certificate.
    pub ca_pem: String,
}

/// How an object is kept as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Made when missing; what users change stays.
    Exists,
    /// Rules, subjects, labels and annotations that are missing are added, unless the object opts out.
    Rbac,
    /// The spec is put back, unless the object opts out.
    FlowControl,
    /// These top-level fields are put back.
    Fields(&'static [&'static str]),
}

/// An object that must exist.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The resource.
    pub resource: &'static Resource,
    /// Where; empty for cluster scope.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The object.
    pub object: Object,
    /// How it is kept.
    pub policy: Policy,
}

impl Desired {
    /// An object of a built-in kind.
    fn new(object: Object, policy: Policy) -> Self {
        use gantry_api::object::str_at;
        let (group, version) = split_api_version(str_at(&object, "apiVersion"));
        let resource = ResourceTable::builtin()
            .by_kind(group, version, str_at(&object, "kind"))
            .expect("the kinds of the start are built in");
        let (namespace, name) =
            (str_at(&object, "metadata.namespace").to_owned(), str_at(&object, "metadata.name").to_owned());
        Self { resource, namespace, name, object, policy }
    }
}

/// As whom the server itself writes.
pub fn user() -> UserInfo {
    UserInfo::new("system:apiserver", [MASTERS])
}

/// All objects of the start in waves: those of a wave need those of the waves before it.
pub fn objects(options: &Options) -> Vec<Vec<Desired>> {
    let mut rest = rbac::defaults();
    rest.extend(cluster::priority_classes());
    rest.extend(cluster::flow_control());
    rest.extend(cluster::server(options));
    if let Some(installed) = &options.cluster {
        rest.extend(cluster::installed(installed));
    }
    vec![cluster::namespaces(), cluster::service_network(options), rest]
}
