//! The Kubernetes API as data and pure functions: nothing in here does I/O, reads a clock or rolls dice.
//!
//! - [`resources`]: the table of resources, a row each
//! - [`schema`]: the definitions of all kinds, their defaults and the form in which they are served
//! - [`decode`]: from a request's body to an object
//! - [`patch`]: JSON, merge and strategic merge patches
//! - [`selectors`]: label and field selectors
//! - [`discovery`]: which groups, versions and resources there are
//! - [`openapi`]: OpenAPI v3 documents
//! - [`object`]: reading and writing fields of an API object
//! - [`field`]: paths to fields and what validation says of them
//! - [`error`]: what the API says when it refuses
//! - [`metadata`]: what holds for the metadata of every kind
//! - [`names`], [`addresses`]: rules for short texts, with upstream's words
//! - [`quantity`], [`timestamp`]: scalars with a canonical form
//! - [`kinds`]: what a schema can't say of a kind, one file each
//! - [`table`]: objects as printed tables
#![forbid(unsafe_code)]

pub mod addresses;
pub mod decode;
pub mod discovery;
pub mod error;
pub mod field;
pub mod kinds;
pub mod metadata;
pub mod names;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod resources;
pub mod schema;
pub mod selectors;
pub mod table;
pub mod timestamp;
