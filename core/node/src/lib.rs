//! The node agent: pods on one machine.
//!
//! - [`images`]: pulling, unpacking and keeping images
//! - [`mechanism`]: containers, root filesystems, namespaces and mounts of this host
//! - [`container_io`]: the standard streams and exits of containers

pub mod container_io;
pub mod images;
pub mod mechanism;
