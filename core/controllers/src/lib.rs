//! Controllers: one file (or folder) a controller, each a reconcile function over shared informers.
//!
//! - [`manager`]: starts them all
//! - [`runner`]: work queues, workers, retries; [`error`]: what can go wrong
//! - [`ownership`]: who controls what, and changing it
//! - [`expectations`]: what a controller did that its informers haven't shown yet
//! - [`pods`]: questions about a pod's state
//! - [`deployment`], [`replica_set`]: workloads
//! - [`namespace`]: emptying namespaces that are being deleted
//! - [`service_account`], [`root_ca`]: what every namespace holds
//! - [`cluster_role_aggregation`]: cluster roles that are the sum of others
//! - [`endpoints`]: endpoint slices and endpoints of services
//! - [`garbage_collector`]: objects whose owners are gone
//! - [`pod_gc`]: pods that nobody will clean up otherwise
//! - [`node`]: leases, taints, evictions and pod ranges of nodes
//! - [`volumes`]: binding claims to volumes, and protecting both
//!
//! Invariants: a decision is a function of objects and a time; only runners read clocks and write.
#![forbid(unsafe_code)]

pub mod cluster_role_aggregation;
pub mod deployment;
pub mod endpoints;
pub mod error;
pub mod expectations;
pub mod garbage_collector;
pub mod manager;
pub mod namespace;
pub mod node;
pub mod ownership;
pub mod pod_gc;
pub mod pods;
pub mod replica_set;
pub mod root_ca;
pub mod runner;
pub mod service_account;
pub mod volumes;

pub use error::ControllerError;
pub use manager::{ControllerManager, ManagerConfig};
