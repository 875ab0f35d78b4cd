//! The plugins in the box: compiled by the build script, part of the binary.

/// A plugin that is part of the binary.
pub(crate) struct InBox {
    /// Its `plugin.toml`.
    pub manifest: &'static str,
    /// The component.
    pub component: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/in_box.rs"));
