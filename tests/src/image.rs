//! An image out of Debian's `busybox-static`, as an OCI layout.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

fn blob(layout: &Path, content: &[u8]) -> Result<String> {
    let digest = hex::encode(Sha256::digest(content));
    fs::write(layout.join("blobs/sha256").join(&digest), content).context("write a blob")?;
    Ok(format!("sha256:{digest}"))
}

/// Writes the layout, with one image tagged `1`: busybox with links for its applets.
pub fn busybox_layout(layout: &Path) -> Result<()> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let busybox = busybox.context("busybox is missing: install Debian's busybox-static")?;
    fs::create_dir_all(layout.join("blobs/sha256")).context("make the layout")?;
    let mut layer = tar::Builder::new(Vec::new());
    let header = |path: &str, kind: tar::EntryType, mode: u32, size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_path(path).map(|()| header)
    };
    for folder in ["bin", "etc", "tmp", "proc", "sys", "dev", "root"] {
        let mut entry = header(folder, tar::EntryType::Directory, 0o755, 0)?;
        entry.set_cksum();
        layer.append(&entry, &[][..])?;
    }
    let program = fs::read(busybox).context("read busybox")?;
    for (path, content) in [
        ("bin/busybox", program.as_slice()),
        ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n".as_slice()),
        ("etc/group", b"root:x:0:\n".as_slice()),
    ] {
        let mut entry = header(path, tar::EntryType::Regular, 0o755, content.len())?;
        entry.set_cksum();
        layer.append(&entry, content)?;
    }
    let applets = Command::new(busybox).arg("--list").output().context("list busybox's applets")?;
    for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|applet| *applet != "busybox") {
        let mut entry = header(&format!("bin/{applet}"), tar::EntryType::Symlink, 0o777, 0)?;
        layer.append_link(&mut entry, format!("bin/{applet}"), "busybox")?;
    }
    let layer = layer.into_inner().context("end the layer")?;
    let layer_digest = blob(layout, &layer)?;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::to_vec(&json!({"architecture": architecture, "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]}}))?;
    let manifest = serde_json::to_vec(&json!({"schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": blob(layout, &config)?, "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": layer.len()}]}))?;
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": blob(layout, &manifest)?, "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": "1"}}]});
    fs::write(layout.join("index.json"), index.to_string()).context("write the index")?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).context("write the layout's version")
}
