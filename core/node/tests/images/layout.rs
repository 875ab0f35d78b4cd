//! Images written by hand, as OCI layouts.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// How a layer is stored.
#[derive(Clone, Copy)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// `sha256:…` of bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// An archive of files.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// An image's blobs: its manifest is the last one.
pub struct Blobs {
    pub list: Vec<Vec<u8>>,
    pub id: String,
}

impl Blobs {
    pub fn manifest(&self) -> &[u8] {
        self.list.last().unwrap()
    }
}

/// An image of these layers.
pub fn image(layers: &[(Vec<u8>, Compression)], docker: bool) -> Blobs {
    let mut list = Vec::new();
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    let kind = |oci: &str, of_docker: &str| if docker { of_docker.to_owned() } else { oci.to_owned() };
    for (plain, compression) in layers {
        diff_ids.push(digest(plain));
        let (blob, media_type) = match compression {
            Compression::None => (
                plain.clone(),
                kind("application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"),
            ),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(plain).unwrap();
                let media_type = kind(
                    "application/vnd.oci.image.layer.v1.tar+gzip",
                    "application/vnd.docker.image.rootfs.diff.tar.gzip",
                );
                (encoder.finish().unwrap(), media_type)
            }
            Compression::Zstd => (
                zstd::encode_all(plain.as_slice(), 1).unwrap(),
                "application/vnd.oci.image.layer.v1.tar+zstd".to_owned(),
            ),
        };
        descriptors.push(json!({"mediaType": media_type, "digest": digest(&blob), "size": blob.len()}));
        list.push(blob);
    }
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": ["/entry"], "Cmd": ["argument"], "Env": ["PATH=/bin"], "User": "7", "WorkingDir": "/w",
            "StopSignal": "SIGINT"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}
    })
    .to_string()
    .into_bytes();
    let id = digest(&config);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": kind("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"),
        "config": {
            "mediaType": kind("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"),
            "digest": id, "size": config.len()
        },
        "layers": descriptors
    });
    list.push(config);
    list.push(manifest.to_string().into_bytes());
    Blobs { list, id }
}

/// Writes an image as a layout into a folder.
pub fn write(folder: &Path, image: &Blobs, annotations: Value) -> PathBuf {
    let blobs = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    for blob in &image.list {
        std::fs::write(blobs.join(digest(blob).trim_start_matches("sha256:")), blob).unwrap();
    }
    let manifest = image.manifest();
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(manifest), "size": manifest.len(),
        "annotations": annotations}]});
    std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
    std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    folder.to_owned()
}
