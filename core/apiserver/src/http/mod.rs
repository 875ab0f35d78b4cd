//! HTTP: from a request to the registry and back.
//!
//! - [`request_info`]: what a request asks for; [`negotiate`]: in which encoding and shape
//! - [`dispatch`]: the one way in: authentication, impersonation, authorization, then routing
//! - [`resources`]: verbs on resources; [`subresources`]: what lies below objects
//! - [`body`], [`response`], [`listing`], [`watching`]: what goes back
//! - [`documents`]: discovery, OpenAPI, version; [`health`]: probes; [`metrics`]: counters
//! - [`connection`]: TLS and connections; [`kubelet`]: requests handed on to a node

pub mod body;
pub mod connection;
pub mod dispatch;
pub mod documents;
pub mod health;
pub mod kubelet;
pub mod listing;
pub mod metrics;
pub mod negotiate;
pub mod request_info;
pub mod resources;
pub mod response;
pub mod subresources;
pub mod tables;
pub mod watching;
