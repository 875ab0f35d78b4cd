//! Loads, limits and runs plugins.
