//! Role-based access control: roles and bindings, indexed by subject, so that a decision looks only at the bindings of
//! the user and its groups, and in each role only at the rules for the resource.
//!
//! - [`rule`]: a rule and what it allows; [`index`]: roles and bindings by name and by subject
//! - [`cover`]: whether rules grant more than other rules; [`escalation`]: who may write which roles and bindings

pub mod cover;
pub mod escalation;
pub mod index;
pub mod rule;

pub use index::{Rbac, Resolved};
pub use rule::Rule;
