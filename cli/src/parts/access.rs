//! The clients of the parts, each as a user of its own: no part can do more than upstream's role for it says.

use std::sync::Arc;

use gantry_apiserver::{Running, UserInfo};
use gantry_client::{Client, in_process};

/// Makes clients.
#[derive(Clone)]
pub struct Access {
    make: Arc<dyn Fn(UserInfo) -> Client + Send + Sync>,
}

impl Access {
    /// Clients of a server in this process: no socket, no TLS.
    pub fn in_process(server: Arc<Running>) -> Self {
        Self { make: Arc::new(move |user| in_process(server.in_process(user))) }
    }

    /// A component with a name of its own, such as `system:kube-scheduler`.
    pub fn component(&self, name: &str) -> Client {
        (self.make)(UserInfo::new(name, ["system:authenticated"]))
    }

    /// A service account of `kube-system`, as controllers use them.
    pub fn service_account(&self, name: &str) -> Client {
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"];
        (self.make)(UserInfo::new(format!("system:serviceaccount:kube-system:{name}"), groups))
    }

    /// A node's agent: the node authorizer decides what it sees.
    pub fn node(&self, name: &str) -> Client {
        (self.make)(UserInfo::new(format!("system:node:{name}"), ["system:nodes", "system:authenticated"]))
    }

    /// The administrator, for what an installer does.
    pub fn administrator(&self) -> Client {
        (self.make)(UserInfo::new("kubernetes-admin", ["system:masters", "system:authenticated"]))
    }
}
