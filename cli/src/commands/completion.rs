//! `gantry completion`: the script that a shell loads. Names complete live, out of the cluster: the script calls
//! `gantry` itself.

use std::io::Write;

use clap_complete::env::{Bash, Elvish, EnvCompleter, Fish, Powershell, Zsh};

use crate::error::{CliError, CliResult};

/// The variable through which a shell's script asks.
pub const VARIABLE: &str = "GANTRY_COMPLETE";

/// Output shell completion code for the specified shell.
#[derive(clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_parser = ["bash", "zsh", "fish", "powershell", "elvish"])]
    shell: String,
}

/// The script for a shell.
pub fn script(shell: &str) -> CliResult<Vec<u8>> {
    let mut script = Vec::new();
    let written = match shell {
        "bash" => Bash.write_registration(VARIABLE, "gantry", "gantry", "gantry", &mut script),
        "zsh" => Zsh.write_registration(VARIABLE, "gantry", "gantry", "gantry", &mut script),
        "fish" => Fish.write_registration(VARIABLE, "gantry", "gantry", "gantry", &mut script),
        "powershell" => Powershell.write_registration(VARIABLE, "gantry", "gantry", "gantry", &mut script),
        "elvish" => Elvish.write_registration(VARIABLE, "gantry", "gantry", "gantry", &mut script),
        other => return Err(CliError::usage(format!("Unsupported shell type \"{other}\"."))),
    };
    written?;
    Ok(script)
}

/// Prints the script.
pub fn run(args: &Args) -> CliResult {
    Ok(std::io::stdout().write_all(&script(&args.shell)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files in `completions/` are what `gantry completion SHELL` prints; `GANTRY_UPDATE=1 cargo test` renews them.
    #[test]
    fn the_scripts_in_the_tree_are_fresh() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../completions");
        for (shell, file) in [
            ("bash", "gantry.bash"),
            ("zsh", "_gantry"),
            ("fish", "gantry.fish"),
            ("powershell", "gantry.ps1"),
            ("elvish", "gantry.elv"),
        ] {
            let script = String::from_utf8(script(shell).expect(shell)).expect("text");
            let path = folder.join(file);
            if std::env::var_os("GANTRY_UPDATE").is_some() {
                std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, &script)).expect("written");
            }
            let there = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(there, script, "{} is stale: run GANTRY_UPDATE=1 cargo test -p gantry", path.display());
        }
    }
}
