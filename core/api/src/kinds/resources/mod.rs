//! All kinds without a pod template.

use super::Kind;

/// The hooks of a kind without a pod template.
pub(super) fn kind_of(_group: &str, _kind: &str) -> Option<&'static dyn Kind> {
    None
}
