//! The node agent: pods on one machine.
//!
//! - [`images`]: pulling, unpacking and keeping images
//! - [`container_io`]: the standard streams and exits of containers

pub mod container_io;
pub mod images;
