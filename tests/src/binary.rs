//! Where the `gantry` under test is: beside the tests in the target folder, where `cargo build -p gantry` puts it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The path of the binary.
pub fn gantry() -> Result<PathBuf> {
    // target/debug/deps/corpus-0123 → target/debug/gantry
    let test = std::env::current_exe().context("find the test's own executable")?;
    let folder = test.parent().and_then(|deps| deps.parent()).context("the test lies in no target folder")?;
    let path = folder.join("gantry");
    if !path.is_file() {
        bail!("{} is missing: build it first, `cargo build -p gantry`, or run `cargo xtask test`", path.display());
    }
    Ok(path)
}
