//! The contracts' traits over components.

pub(crate) mod policy;
pub(crate) mod runtime;
pub(crate) mod volume;
