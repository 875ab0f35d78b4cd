//! The cluster as its components see it.
//!
//! Every component - controller, scheduler, node agent, proxy, CLI - reaches the cluster through a [`Client`] and
//! through nothing else. In one process the client is an in-process service, elsewhere it is HTTPS; the component
//! can't tell.
//!
//! - [`connect`]: making a client, in process or from a kubeconfig
//! - [`informer`]: one cached, watched view of a kind, shared by all who need it
//! - [`work_queue`]: keys waiting to be reconciled, with back-off
//! - [`events`]: recording events without waiting, aggregated as upstream does
//! - [`leader_election`]: one holder at a time, by a Lease
#![forbid(unsafe_code)]

pub mod connect;
pub mod events;
pub mod informer;
pub mod leader_election;
pub mod work_queue;

pub use connect::{ConnectError, from_kubeconfig, in_process};
pub use events::EventRecorder;
pub use informer::{Change, Informer, Informers, ObjectKey};
pub use kube::Client;
pub use leader_election::{LeaderElection, LeaderElector};
pub use work_queue::WorkQueue;
