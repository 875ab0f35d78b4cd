//! Endpoint slices and endpoints of services.
//!
//! - [`membership`]: which pods are behind a service, at which ports
//! - [`slices`]: what the slices of a service shall be, with as few changes as possible
//! - [`legacy`]: what the Endpoints object of a service shall be
//! - [`controller`]: informers, queue and writes of both

pub mod controller;
pub mod legacy;
pub mod membership;
pub mod slices;

pub use controller::run;
