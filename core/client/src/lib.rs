//! The cluster as its components see it.
