//! Images from registries and files; needs root, Debian's `docker-registry` and `skopeo`.

mod fake;
mod layout;
mod pull;
mod stored;
