//! Leases, taints, evictions and pod ranges of nodes.
//!
//! - [`health`]: what a node's silence means for its conditions and taints
//! - [`lifecycle`]: watches leases and writes conditions, taints and pods' readiness
//! - [`taint_eviction`]: pods leave nodes whose `NoExecute` taints they don't tolerate
//! - [`ipam`]: a pod range for each node

pub mod health;
pub mod ipam;
pub mod lifecycle;
pub mod taint_eviction;
