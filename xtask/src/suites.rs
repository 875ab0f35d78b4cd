//! Format, lint, tidy and every test.

use anyhow::{Result, bail};

use crate::{cargo, root, run_to_end};

/// Files over this many lines hold two ideas.
const FILE_LINES_MAX: usize = 1000;
/// Names that say nothing of what is inside.
const VAGUE_NAMES: &[&str] = &["utils", "util", "common", "misc", "helpers"];

/// Format, lints, and the tidiness of the tree.
pub fn check() -> Result<()> {
    run_to_end(cargo().args(["fmt", "--all", "--check"]))?;
    tidy()?;
    map_is_true()?;
    run_to_end(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))
}

/// Every suite. The end-to-end ones need the binary.
pub fn test() -> Result<()> {
    // The same selection as the tests': another one would compile the dependencies again with other features.
    run_to_end(cargo().args(["build", "--workspace", "--all-targets"]))?;
    run_to_end(cargo().args(["test", "--workspace", "--no-fail-fast"]))?;
    // The guests' own logic, on this machine's processor: a workspace of its own. Their libraries link only as WebAssembly.
    run_to_end(cargo().args(["test", "--manifest-path", "plugins/Cargo.toml", "--workspace", "--lib"]))
}

/// Names and sizes of source files.
fn tidy() -> Result<()> {
    let mut folders = vec![root().to_path_buf()];
    let mut complaints = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let shown = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" {
                    folders.push(path);
                }
                continue;
            }
            let Some(stem) = name.strip_suffix(".rs") else { continue };
            if VAGUE_NAMES.contains(&stem) {
                complaints.push(format!("{shown}: the name doesn't say what is inside"));
            }
            let lines = std::fs::read_to_string(&path)?.lines().count();
            if lines > FILE_LINES_MAX {
                complaints.push(format!("{shown}: {lines} lines, more than {FILE_LINES_MAX}: split it by idea"));
            }
        }
    }
    if complaints.is_empty() {
        return Ok(());
    }
    bail!("the tree is untidy:\n  {}", complaints.join("\n  "))
}

/// `docs/architecture.md` has a section for each folder with code, and none for others.
fn map_is_true() -> Result<()> {
    let map = std::fs::read_to_string(root().join("docs/architecture.md"))?;
    let sections: Vec<&str> = map.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let mut folders: Vec<String> =
        ["cli", "plugins", "completions", "tests", "xtask"].iter().map(|name| (*name).to_owned()).collect();
    for entry in std::fs::read_dir(root().join("core"))? {
        folders.push(format!("core/{}", entry?.file_name().to_string_lossy()));
    }
    let missing = folders.iter().filter(|folder| !sections.contains(&folder.as_str()));
    let gone = sections.iter().filter(|section| !folders.iter().any(|folder| folder == *section));
    let wrong: Vec<String> = missing
        .map(|folder| format!("{folder} has no section"))
        .chain(gone.map(|section| format!("there is no folder {section}")))
        .collect();
    if wrong.is_empty() { Ok(()) } else { bail!("docs/architecture.md: {}", wrong.join("; ")) }
}
