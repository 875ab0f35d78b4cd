//! The data of config maps and secrets from flags.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::error::{CliError, CliResult};

/// Where data comes from.
#[derive(clap::Args)]
pub struct DataFlags {
    /// [KEY=]PATH of a file, or of a folder whose files are all taken
    #[arg(long)]
    from_file: Vec<String>,
    /// KEY=VALUE
    #[arg(long)]
    from_literal: Vec<String>,
    /// Path of a file of KEY=VALUE lines
    #[arg(long)]
    from_env_file: Vec<PathBuf>,
}

type Entries = Vec<(String, Vec<u8>)>;

fn read(path: &Path) -> CliResult<Vec<u8>> {
    std::fs::read(path).map_err(|error| CliError::usage(format!("error reading {}: {error}", path.display())))
}

impl DataFlags {
    /// Reads all; a key may come but once.
    pub fn read(&self) -> CliResult<Entries> {
        let mut entries = Entries::new();
        for source in &self.from_file {
            let (key, path) = match source.split_once('=') {
                Some(("", _)) => return Err(CliError::usage(format!("key name for file path {source} missing"))),
                Some((key, path)) => (Some(key.to_owned()), Path::new(path)),
                None => (None, Path::new(source)),
            };
            if path.is_dir() {
                if key.is_some() {
                    return Err(CliError::usage("cannot give a key name for a directory path"));
                }
                let mut files: Vec<PathBuf> =
                    std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
                files.sort();
                for file in files.into_iter().filter(|file| file.is_file()) {
                    add(&mut entries, file_name(&file), read(&file)?)?;
                }
            } else {
                add(&mut entries, key.unwrap_or_else(|| file_name(path)), read(path)?)?;
            }
        }
        for literal in &self.from_literal {
            let (key, value) = literal
                .split_once('=')
                .filter(|(key, _)| !key.is_empty())
                .ok_or_else(|| CliError::usage(format!("invalid literal source {literal}, expected key=value")))?;
            add(&mut entries, key.to_owned(), value.as_bytes().to_vec())?;
        }
        for path in &self.from_env_file {
            for (key, value) in env_lines(&String::from_utf8_lossy(&read(path)?)) {
                add(&mut entries, key, value.into_bytes())?;
            }
        }
        Ok(entries)
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn add(entries: &mut Entries, key: String, value: Vec<u8>) -> CliResult {
    if entries.iter().any(|(known, _)| *known == key) {
        return Err(CliError::usage(format!("cannot add key \"{key}\", another key by that name already exists")));
    }
    entries.push((key, value));
    Ok(())
}

/// Lines of `KEY=VALUE`; a key alone takes its value from the environment.
fn env_lines(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .filter_map(|line| match line.split_once('=') {
            Some((key, value)) => Some((key.to_owned(), value.to_owned())),
            None => std::env::var(line).ok().map(|value| (line.to_owned(), value)),
        })
        .collect()
}

/// `data`, and `binaryData` for what isn't text.
pub fn config_map(entries: &[(String, Vec<u8>)]) -> Value {
    let (mut data, mut binary) = (Map::new(), Map::new());
    for (key, value) in entries {
        match std::str::from_utf8(value) {
            Ok(text) => data.insert(key.clone(), text.into()),
            Err(_) => binary.insert(key.clone(), STANDARD.encode(value).into()),
        };
    }
    let mut object = json!({});
    if !data.is_empty() {
        object["data"] = data.into();
    }
    if !binary.is_empty() {
        object["binaryData"] = binary.into();
    }
    object
}

/// `data` in base64, and the type unless it is the default.
pub fn secret(entries: &[(String, Vec<u8>)], kind: Option<&str>) -> Value {
    let data: Map<String, Value> =
        entries.iter().map(|(key, value)| (key.clone(), STANDARD.encode(value).into())).collect();
    let mut object = json!({});
    if !data.is_empty() {
        object["data"] = data.into();
    }
    if let Some(kind) = kind {
        object["type"] = kind.into();
    }
    object
}

/// Credentials of a registry, as Docker's `config.json` has them.
pub fn docker_config(server: &str, user: &str, password: &str, email: Option<&str>) -> CliResult<Value> {
    let mut entry = json!({"username": user, "password": password,
        "auth": STANDARD.encode(format!("{user}:{password}"))});
    if let Some(email) = email {
        entry["email"] = email.into();
    }
    let config = serde_json::to_vec(&json!({"auths": {server: entry}}))?;
    Ok(secret(&[(".dockerconfigjson".to_owned(), config)], Some("kubernetes.io/dockerconfigjson")))
}

/// A certificate and its key.
pub fn tls_secret(certificate: &Path, key: &Path) -> CliResult<Value> {
    let entries = [("tls.crt".to_owned(), read(certificate)?), ("tls.key".to_owned(), read(key)?)];
    Ok(secret(&entries, Some("kubernetes.io/tls")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data() {
        let entries = vec![("a".to_owned(), b"text".to_vec()), ("b".to_owned(), vec![0xff])];
        assert_eq!(config_map(&entries), json!({"data": {"a": "text"}, "binaryData": {"b": "/w=="}}));
        assert_eq!(secret(&entries[..1], Some("t")), json!({"data": {"a": "dGV4dA=="}, "type": "t"}));
        assert_eq!(config_map(&[]), json!({}));
    }

    #[test]
    fn env_files() {
        let read = env_lines("# no\n\nA=1\n  B=x=y\n");
        assert_eq!(read, [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "x=y".to_owned())]);
    }
}
