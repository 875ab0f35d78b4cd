//! The Kubernetes API as data and pure functions: nothing in here does I/O, reads a clock or rolls dice.
//!
//! - [`object`]: reading and writing fields of an API object
//! - [`field`]: paths to fields and what validation says of them
//! - [`kinds`]: what a schema can't say of a kind, one file each
#![forbid(unsafe_code)]

pub mod field;
pub mod kinds;
pub mod object;
