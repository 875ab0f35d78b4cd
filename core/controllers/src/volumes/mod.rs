//! Binding claims to volumes, and protecting both while they are used.
//!
//! - [`matching`]: which volume fits a claim
//! - [`binder`]: what to do about a claim or a volume
//! - [`controller`]: informers, queue and writes of the binder
//! - [`protection`]: the finalizers that keep claims and volumes in use

pub mod binder;
pub mod controller;
pub mod matching;
pub mod protection;
