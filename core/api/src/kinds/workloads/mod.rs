//! Pods and everything with a pod template.

use super::Kind;

/// The hooks of a workload's kind.
pub(super) fn kind_of(_group: &str, _kind: &str) -> Option<&'static dyn Kind> {
    None
}
