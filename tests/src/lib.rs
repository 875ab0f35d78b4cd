//! End-to-end suites over real processes.
//!
//! - [`binary`]: where the `gantry` under test is
//! - [`network`]: a network namespace of the test's own
//! - [`image`]: an image to run
//! - [`server`]: an API server in a process and a folder of its own
//!
//! Invariant: what a test started is gone when the test ends, however it ends.
#![forbid(unsafe_code)]

pub mod binary;
pub mod image;
pub mod network;
pub mod server;

pub use server::ServerProcess;
