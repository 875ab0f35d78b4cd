//! Selectors: which labels or fields an object must have. Parsed, printed and refused as upstream does.

mod field;
mod label;
mod validate;

pub use field::{FieldSelector, FieldTerm};
pub use label::{LabelSelector, Operator, Requirement};
pub use validate::{has_invalid_values, validate_label_selector};

/// Why a selector can't be read, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub(crate) String);
