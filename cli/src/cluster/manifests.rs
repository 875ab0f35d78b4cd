//! Objects in files: YAML or JSON, several in one, folders, standard input, URLs.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::error::{CliError, CliResult};

/// Which files a command reads.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct FileFlags {
    /// The files that contain the configurations to use: paths, folders, URLs, or - for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE", value_delimiter = ',', value_hint = clap::ValueHint::AnyPath)]
    pub filenames: Vec<String>,
    /// Process the directory used in -f, --filename recursively
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// An object and where it came from, for messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The file.
    pub origin: String,
    /// The object.
    pub object: Value,
}

impl FileFlags {
    /// Whether any file was named.
    pub fn is_empty(&self) -> bool {
        self.filenames.is_empty()
    }

    /// All objects in order; lists are taken apart.
    pub async fn read(&self) -> CliResult<Vec<Manifest>> {
        let mut manifests = Vec::new();
        for name in &self.filenames {
            if name == "-" {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text)?;
                parse("STDIN", &text, &mut manifests)?;
            } else if name.starts_with("http://") || name.starts_with("https://") {
                parse(name, &download(name).await?, &mut manifests)?;
            } else {
                for path in self.files(Path::new(name))? {
                    let shown = path.display().to_string();
                    let text = std::fs::read_to_string(&path)
                        .map_err(|error| CliError::usage(format!("error reading {shown}: {error}")))?;
                    parse(&shown, &text, &mut manifests)?;
                }
            }
        }
        if manifests.is_empty() {
            return Err(CliError::usage("no objects passed to apply"));
        }
        Ok(manifests)
    }

    fn files(&self, path: &Path) -> CliResult<Vec<PathBuf>> {
        let missing = || CliError::usage(format!("the path \"{}\" does not exist", path.display()));
        let metadata = std::fs::metadata(path).map_err(|_| missing())?;
        if !metadata.is_dir() {
            return Ok(vec![path.to_path_buf()]);
        }
        let mut entries: Vec<PathBuf> =
            std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
        entries.sort();
        let mut files = Vec::new();
        for entry in entries {
            if entry.is_dir() {
                if self.recursive {
                    files.extend(self.files(&entry)?);
                }
            } else if entry
                .extension()
                .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|it| extension == *it))
            {
                files.push(entry);
            }
        }
        Ok(files)
    }
}

async fn download(url: &str) -> CliResult<String> {
    let failed = |error: reqwest::Error| CliError::usage(format!("unable to read URL \"{url}\": {error}"));
    let response = reqwest::get(url).await.map_err(failed)?;
    if !response.status().is_success() {
        return Err(CliError::usage(format!(
            "unable to read URL \"{url}\", server reported {}, status code={}",
            response.status(),
            response.status().as_u16()
        )));
    }
    response.text().await.map_err(failed)
}

/// Takes a text apart into objects.
pub fn parse(origin: &str, text: &str, manifests: &mut Vec<Manifest>) -> CliResult<()> {
    let failed = |error: &dyn std::fmt::Display| CliError::usage(format!("error parsing {origin}: {error}"));
    if text.trim_start().starts_with('{') {
        for document in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
            flatten(origin, document.map_err(|error| failed(&error))?, manifests)?;
        }
        return Ok(());
    }
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = Value::deserialize(document)
            .map_err(|error| failed(&format!("error converting YAML to JSON: yaml: {error}")))?;
        if !value.is_null() {
            flatten(origin, value, manifests)?;
        }
    }
    Ok(())
}

fn flatten(origin: &str, value: Value, manifests: &mut Vec<Manifest>) -> CliResult<()> {
    let kind = value["kind"].as_str().unwrap_or_default().to_owned();
    if kind.is_empty() {
        return Err(CliError::usage(format!(
            "error validating \"{origin}\": error validating data: kind not set; if you choose to ignore these errors, \
             turn validation off with --validate=false"
        )));
    }
    if value["apiVersion"].as_str().unwrap_or_default().is_empty() {
        return Err(CliError::usage(format!(
            "error validating \"{origin}\": error validating data: apiVersion not set; if you choose to ignore these \
             errors, turn validation off with --validate=false"
        )));
    }
    if kind.ends_with("List") && value["items"].is_array() {
        for item in value["items"].as_array().into_iter().flatten() {
            flatten(origin, item.clone(), manifests)?;
        }
        return Ok(());
    }
    manifests.push(Manifest { origin: origin.to_owned(), object: value });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_taken_apart() {
        let yaml = "---\n# nothing\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: b}}\n";
        let json = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}"#;
        let mut manifests = Vec::new();
        parse("f", yaml, &mut manifests).expect("yaml");
        parse("f", json, &mut manifests).expect("json");
        let names: Vec<&str> =
            manifests.iter().filter_map(|manifest| manifest.object["metadata"]["name"].as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        let error = parse("f", "metadata: {name: a}", &mut manifests).expect_err("no kind");
        assert!(error.to_string().contains("kind not set"), "{error}");
    }
}
