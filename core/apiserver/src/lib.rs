//! The API server: HTTP, authentication, authorization, admission, registry, watch cache.
//!
//! - [`running`]: a server with all it needs out of one folder; [`listen`]: its socket
//! - [`server`]: the server itself; [`config`], [`error`]
//! - [`compaction`]: forgetting old revisions
//! - [`http`]: from a request to the registry and back; the one point where permission is checked
//! - [`registry`]: what verbs do to objects
//! - [`cache`]: the watch cache, which all reads come from
//! - [`auth`]: who asks, and whether they may
//! - [`admission`]: what is added and refused between authorization and the registry
//! - [`bootstrap`]: the objects that exist from the start
//! - [`tls`]: certificates at work
//!
//! Invariants: nothing but the registry writes the store, and nothing but the cache's feed fills the cache; the read
//! path neither decodes nor encodes an object.
#![forbid(unsafe_code)]

pub mod admission;
pub mod auth;
pub mod bootstrap;
pub mod cache;
pub mod compaction;
pub mod config;
pub mod error;
pub mod http;
pub mod listen;
pub mod registry;
pub mod running;
pub mod server;
pub mod tls;

pub use auth::UserInfo;
pub use config::Config;
pub use error::Error;
pub use running::{RunOptions, Running};
pub use server::{ApiServer, InProcess};
