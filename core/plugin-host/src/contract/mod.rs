//! The contracts as Rust traits, one a kind of plugin. The host's components call these; behind
//! them is a component in a sandbox, a native library, or a fake in a test.

pub mod runtime;
pub mod scheduler;
pub mod volume;
