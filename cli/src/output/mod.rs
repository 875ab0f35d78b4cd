//! What commands print.
//!
//! - [`format`]: `-o` and its values
//! - [`table`]: kubectl's tables
//! - [`yaml`]: YAML as Go's encoder writes it
//! - [`jsonpath`]: kubectl's JSONPath templates
//! - [`custom_columns`]: tables of one's own

pub mod custom_columns;
pub mod format;
pub mod jsonpath;
pub mod table;
pub mod yaml;

pub use format::{OutputFlags, OutputFormat};
