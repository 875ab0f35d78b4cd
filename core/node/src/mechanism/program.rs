//! Finding and running a container's program, from inside of the container.

use std::collections::HashMap;
use std::ffi::CString;
use std::path::Path;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::unistd::AccessFlags;

use super::launcher::reset_signals;

/// Where a program is that has no slash in its name, or what is wrong, in the words of runc (`exec: "x": executable
/// file not found in $PATH`), which people search for.
pub fn find(name: &str, search_path: &str) -> Result<String, String> {
    if name.contains('/') {
        return check(name).map(|()| name.to_owned()).map_err(|reason| format!("exec: {name:?}: {reason}"));
    }
    let mut refused = None;
    for folder in search_path.split(':').filter(|_| !name.is_empty()) {
        let candidate = format!("{}/{name}", if folder.is_empty() { "." } else { folder });
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(reason) if reason == "permission denied" => refused = Some(reason),
            Err(_) => {}
        }
    }
    let reason = refused.as_deref().unwrap_or("executable file not found in $PATH");
    Err(format!("exec: {name:?}: {reason}"))
}

fn check(path: &str) -> Result<(), String> {
    let metadata = std::fs::metadata(path).map_err(|error| format!("stat {path}: {}", lower(&error)))?;
    if metadata.is_dir() {
        return Err("is a directory".to_owned());
    }
    match nix::unistd::eaccess(Path::new(path), AccessFlags::X_OK) {
        Ok(()) => Ok(()),
        Err(error) => Err(error.desc().to_lowercase()),
    }
}

/// An I/O error as C words it, in lower case and without its number, as Go prints it.
pub fn lower(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}

/// Replaces this process by the program; returns why it couldn't.
pub fn run(arguments: &[String], environment: &[String]) -> String {
    let search_path = environment.iter().rev().find_map(|v| v.strip_prefix("PATH=")).unwrap_or("");
    let Some(name) = arguments.first() else { return "the command is empty".to_owned() };
    let path = match find(name, search_path) {
        Ok(path) => path,
        Err(reason) => return reason,
    };
    let strings = |list: &[String]| list.iter().map(|s| CString::new(s.as_bytes())).collect::<Result<Vec<_>, _>>();
    let (Ok(program), Ok(arguments), Ok(environment)) =
        (CString::new(path.as_bytes()), strings(arguments), strings(environment))
    else {
        return format!("exec: {name:?}: the command or its environment holds a zero byte");
    };
    reset_signals();
    match nix::unistd::execve(&program, &arguments, &environment) {
        Ok(never) => match never {},
        Err(error) => format!("exec {path}: {}", error.desc().to_lowercase()),
    }
}

/// Runs the program of a container's init.
#[derive(Clone)]
pub struct Program;

impl Executor for Program {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let process = spec.process().as_ref().ok_or(ExecutorError::InvalidArg)?;
        let reason = run(process.args().as_deref().unwrap_or_default(), process.env().as_deref().unwrap_or_default());
        // Nobody listens any more but the container's log: there runc writes it, too.
        eprintln!("{reason}");
        std::process::exit(255);
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let process = spec.process().as_ref();
        let arguments = process.and_then(|p| p.args().as_ref());
        let environment = process.and_then(|p| p.env().as_deref()).unwrap_or_default();
        let search_path = environment.iter().rev().find_map(|v| v.strip_prefix("PATH=")).unwrap_or("");
        let name = arguments
            .and_then(|a| a.first())
            .ok_or_else(|| ExecutorValidationError::ArgValidationError("the command is empty".to_owned()))?;
        find(name, search_path).map(drop).map_err(ExecutorValidationError::ArgValidationError)
    }

    fn setup_envs(&self, _environment: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // `exec` hands the environment over as the specification has it.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn what_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().to_str().unwrap();
        std::fs::create_dir(folder.path().join("folder")).unwrap();
        std::fs::write(folder.path().join("text"), "").unwrap();
        std::fs::write(folder.path().join("tool"), "").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path().join("tool"), mode).unwrap();
        let cases = [
            ("tool".to_owned(), Ok(format!("{at}/tool"))),
            (format!("{at}/tool"), Ok(format!("{at}/tool"))),
            ("none".to_owned(), Err("exec: \"none\": executable file not found in $PATH".to_owned())),
            (String::new(), Err("exec: \"\": executable file not found in $PATH".to_owned())),
            ("text".to_owned(), Err("exec: \"text\": permission denied".to_owned())),
            ("/none".to_owned(), Err("exec: \"/none\": stat /none: no such file or directory".to_owned())),
            (format!("{at}/folder"), Err(format!("exec: \"{at}/folder\": is a directory"))),
            (format!("{at}/text"), Err(format!("exec: \"{at}/text\": permission denied"))),
        ];
        for (name, expect) in cases {
            assert_eq!(find(&name, &format!("/nowhere:{at}")), expect, "{name}");
        }
    }
}
