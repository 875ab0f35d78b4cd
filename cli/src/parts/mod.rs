//! The parts of a cluster, put together: the same for `gantry up`, where all share a process, and for the commands that
//! run one of them.
//!
//! - [`access`]: the clients of the parts, each as a user of its own
//! - [`settings`]: the TOML file of `gantry up` and of the parts
//! - [`control_plane`]: controllers and scheduler
//! - [`addons`]: objects that a new cluster gets
//! - [`node`]: agent, runtime, images, network, proxy and DNS of a machine
//! - [`preflight`]: what a machine must have

pub mod access;
pub mod addons;
pub mod control_plane;
pub mod node;
pub mod preflight;
pub mod settings;
