//! Objects whose owners are gone (upstream's `pkg/controller/garbagecollector`).
//!
//! - [`graph`]: who depends on whom
//! - [`decision`]: what to do about one object
//! - [`collector`]: watches of all resources, queue and writes

pub mod collector;
pub mod decision;
pub mod graph;

pub use collector::run;
