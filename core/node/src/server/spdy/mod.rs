//! SPDY/3.1, the part that Kubernetes' clients use: streams that the client opens, with data both ways.
//!
//! - [`dictionary`], [`headers`]: compressed header blocks
//! - [`frame`]: frames and their codec
//! - [`connection`]: streams of a connection
//!
//! Flow control is left to the transport: Kubernetes' clients neither send window updates nor heed them, so that
//! holding back at a window's end would stop for good.

mod connection;
mod dictionary;
mod frame;
mod headers;

pub use connection::{Connection, Incoming, Stream, StreamWriter};
#[cfg(test)]
pub use frame::{Codec, Frame};
