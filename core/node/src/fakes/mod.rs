//! Stand-ins for what the agent works with, for its tests: a cluster, a runtime, images and a network in memory.

mod cluster;
mod node;

pub use cluster::FakeCluster;
pub use node::{FakeDriver, FakeImages, FakeNetwork, FakeRuntime};
