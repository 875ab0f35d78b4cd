//! Who asks, and whether they may.
//!
//! - [`user`]: the user of a request; [`attributes`]: what it wants to do, and an authorizer's answer
//! - [`authenticate`]: from a connection and its headers to a user, by [`certificates`], [`static_tokens`] and
//!   [`service_accounts`]
//! - [`impersonate`]: acting as someone else
//! - [`authorization`]: all authorizers in their order: [`rbac`] and [`node`]
//! - [`reviews`]: the review APIs; [`token_request`]: tokens for service accounts
//!
//! Invariant: nothing in here does I/O or waits; live objects come through an
//! [`ObjectReader`](crate::admission::ObjectReader), and roles, bindings and pods through
//! [`Authorization::observe`](authorization::Authorization::observe).

pub mod attributes;
pub mod authenticate;
pub mod authorization;
pub mod certificates;
pub mod impersonate;
pub mod node;
pub mod rbac;
pub mod reviews;
pub mod service_accounts;
pub mod static_tokens;
pub mod token_request;
pub mod user;

pub use attributes::{Attributes, Authorizer, Decision};
pub use authenticate::{Authenticator, AuthenticatorConfig};
pub use authorization::Authorization;
pub use static_tokens::StaticTokens;
pub use token_request::TokenIssuer;
pub use user::UserInfo;

/// An authenticator or an authorizer can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The token file makes no sense.
    #[error("token file {path}, line {line}: {reason}")]
    TokenFile {
        /// Which file.
        path: String,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The token file can't be read.
    #[error("can't read token file {path}")]
    ReadTokenFile {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The authority of client certificates makes no sense.
    #[error("the authority of client certificates is not valid: {0}")]
    ClientAuthority(String),
}
