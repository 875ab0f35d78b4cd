//! The target of the plugins: `wasm32-unknown-unknown`, from rustup, or else from Debian's `rustc-web`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{packages, run_to_end};

const GUEST_TARGET: &str = "wasm32-unknown-unknown";

/// Makes sure that the plugins can be compiled.
pub fn ensure_guest_target() -> Result<()> {
    if has_guest_target()? {
        return Ok(());
    }
    if run_to_end(Command::new("rustup").args(["target", "add", GUEST_TARGET])).is_ok() {
        return Ok(());
    }
    // No rustup, or one that can't download: the build script of core/plugin-host knows how to use these.
    packages::install(packages::GUEST)
}

fn has_guest_target() -> Result<bool> {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", GUEST_TARGET])
        .output()
        .context("ask rustc where the libraries of the plugins' target are")?;
    let folder = String::from_utf8_lossy(&output.stdout);
    Ok(output.status.success() && Path::new(folder.trim()).exists())
}
