//! Manifests, indexes and configurations: Docker schema 2 and OCI.

use serde::{Deserialize, Serialize};

/// What a registry may answer with.
pub const ACCEPTED: [&str; 4] = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
];

/// A blob.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// `sha256:…`.
    pub digest: String,
    /// In bytes.
    #[serde(default)]
    pub size: u64,
    /// Kind of content.
    #[serde(default)]
    pub media_type: String,
    /// What it runs on, in an index.
    pub platform: Option<Platform>,
    /// Names, in an archive's index.
    #[serde(default)]
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// What an image runs on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// As Go names it.
    pub architecture: String,
    /// As Go names it.
    pub os: String,
    /// `v8`, `v7`, …
    #[serde(default)]
    pub variant: String,
}

/// An image's parts, or the images to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// One image.
    Image {
        /// Its configuration.
        config: Descriptor,
        /// Its layers, the lowest first.
        layers: Vec<Descriptor>,
    },
    /// One for each platform.
    Index(Vec<Descriptor>),
}

/// Reads either; the error is for people.
pub fn parse(text: &[u8]) -> Result<Manifest, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Any {
        #[serde(default)]
        schema_version: u32,
        config: Option<Descriptor>,
        layers: Option<Vec<Descriptor>>,
        manifests: Option<Vec<Descriptor>>,
    }
    let any: Any = serde_json::from_slice(text).map_err(|error| format!("the manifest is malformed: {error}"))?;
    match any {
        Any { schema_version: 2, manifests: Some(manifests), .. } => Ok(Manifest::Index(manifests)),
        Any { schema_version: 2, config: Some(config), layers, .. } => {
            Ok(Manifest::Image { config, layers: layers.unwrap_or_default() })
        }
        Any { schema_version: 1, .. } => {
            Err("media type application/vnd.docker.distribution.manifest.v1+prettyjws is no longer supported"
                .to_owned())
        }
        _ => Err("it is neither an image's manifest nor an index".to_owned()),
    }
}

/// Go's name of this machine's architecture.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The image of an index for Linux on an architecture; what names no platform is last.
pub fn choose<'a>(index: &'a [Descriptor], architecture: &str) -> Option<&'a Descriptor> {
    let fits = |descriptor: &&Descriptor| {
        descriptor.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == architecture)
    };
    index.iter().find(fits).or_else(|| index.iter().find(|descriptor| descriptor.platform.is_none()))
}

/// What a configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Run {
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments, or the command.
    pub command: Vec<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// `user[:group]`.
    pub user: String,
    /// Absolute, or empty.
    pub working_directory: String,
    /// `SIGTERM`, or empty.
    pub stop_signal: String,
}

/// A configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How to run the image.
    pub run: Run,
    /// Digests of the unpacked layers, the lowest first.
    pub diff_ids: Vec<String>,
}

/// Reads a configuration; the error is for people.
pub fn parse_config(text: &[u8]) -> Result<Config, String> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Inner {
        entrypoint: Option<Vec<String>>,
        cmd: Option<Vec<String>>,
        env: Option<Vec<String>>,
        user: Option<String>,
        working_dir: Option<String>,
        stop_signal: Option<String>,
    }
    #[derive(Deserialize)]
    struct Rootfs {
        diff_ids: Option<Vec<String>>,
    }
    #[derive(Deserialize)]
    struct Outer {
        config: Option<Inner>,
        rootfs: Option<Rootfs>,
    }
    let outer: Outer =
        serde_json::from_slice(text).map_err(|error| format!("its configuration is malformed: {error}"))?;
    let inner = outer.config.unwrap_or_default();
    Ok(Config {
        run: Run {
            entrypoint: inner.entrypoint.unwrap_or_default(),
            command: inner.cmd.unwrap_or_default(),
            environment: inner.env.unwrap_or_default(),
            user: inner.user.unwrap_or_default(),
            working_directory: inner.working_dir.unwrap_or_default(),
            stop_signal: inner.stop_signal.unwrap_or_default(),
        },
        diff_ids: outer.rootfs.and_then(|rootfs| rootfs.diff_ids).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests() {
        let image = r#"{"schemaVersion":2,"config":{"digest":"c","size":1},"layers":[{"digest":"l","size":2}]}"#;
        let Ok(Manifest::Image { config, layers }) = parse(image.as_bytes()) else { panic!("{image}") };
        assert_eq!((config.digest.as_str(), layers[0].size), ("c", 2));
        let index = r#"{"schemaVersion":2,"manifests":[
            {"digest":"w","platform":{"os":"windows","architecture":"amd64"}},
            {"digest":"a","platform":{"os":"linux","architecture":"arm64","variant":"v8"}},
            {"digest":"x","platform":{"os":"linux","architecture":"amd64"}},
            {"digest":"n"}]}"#;
        let Ok(Manifest::Index(list)) = parse(index.as_bytes()) else { panic!("{index}") };
        let chosen = |architecture| choose(&list, architecture).map(|d| d.digest.as_str());
        assert_eq!((chosen("amd64"), chosen("arm64"), chosen("riscv64")), (Some("x"), Some("a"), Some("n")));
        assert!(choose(&list[..1], "amd64").is_none());
        for bad in ["{}", "[]", r#"{"schemaVersion":1}"#, r#"{"schemaVersion":2}"#] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn configurations() {
        let text = r#"{"config":{"Entrypoint":["/a"],"Cmd":null,"Env":["A=b"],"User":"7","WorkingDir":"/w"},
            "rootfs":{"type":"layers","diff_ids":["sha256:1"]}}"#;
        let config = parse_config(text.as_bytes()).unwrap();
        assert_eq!(config.diff_ids, ["sha256:1"]);
        assert_eq!(config.run.entrypoint, ["/a"]);
        assert_eq!((config.run.user.as_str(), config.run.working_directory.as_str()), ("7", "/w"));
        assert_eq!(parse_config(b"{}").unwrap().diff_ids, Vec::<String>::new());
    }
}
