//! The API server.
pub mod admission;
pub mod auth;
pub mod bootstrap;
